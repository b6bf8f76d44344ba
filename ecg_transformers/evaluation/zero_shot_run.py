"""A zero-shot evaluation from arguments to files: what `training_scripts/evaluate_zero_shot.py` does."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils import logging

from ..corpora import label_names, problem_type
from ..files import written_atomically
from ..pipelines.loading import load_zero_shot_model
from ..training.arguments import CorpusArguments
from ..training.data import CorpusSplit, ECGCollator, label_matrix
from ..training.run_arguments import parse_arguments
from ..training.run_control import Clock
from ..training.run_record import METRICS_FILE, describe_arguments, describe_environment, write_json
from ..training.task import SPLITS, column_of, corpus_name, load_splits, patient_numbers
from .descriptions import label_descriptions, list_label_descriptions
from .report import format_report
from .score_inputs import one_hot
from .trainer_metrics import logits_to_probabilities
from .zero_shot import AREAS, embed_labels, fill_template, score_zero_shot, zero_shot_logits

logger = logging.get_logger(__name__)


@dataclass
class ZeroShotCorpusArguments(CorpusArguments):
    """Which recordings."""

    train_windows: str = field(default="first", init=False)
    split: str = field(
        default="test",
        metadata={
            "help": "Records that are scored; 'all' joins the three splits, for a corpus that the model has never "
            "seen.",
            "choices": [*SPLITS, "all"],
        },
    )


@dataclass
class ZeroShotArguments:
    """Which model, which words, and how it is judged."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a model with a text encoder (dbeta) and its tokenizer, as `ecg-transformers "
            "convert` or training_scripts/pretrain_dbeta.py write it. Required."
        },
    )
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for metrics.json and the table of predictions. Required."}
    )
    descriptions: str | None = field(
        default=None,
        metadata={
            "help": "What the labels look like in words: the name of descriptions that the package brings "
            f"({', '.join(list_label_descriptions())}), or a JSON file of your own that maps each label to a text, or "
            "to a list of texts whose embeddings are averaged; labels that it leaves out are not scored. Default: "
            "those of the corpus."
        },
    )
    prompt: str | None = field(
        default=None,
        metadata={"help": "Text around each description, with {} where it goes: 'the ecg shows {}'. Default: none."},
    )
    eval_windows: str = field(
        default="all",
        metadata={
            "help": "Windows of a record longer than the model's that are scored and combined: 'all' or the 'first'.",
            "choices": ["first", "all"],
        },
    )
    window_aggregation: str = field(
        default="mean",
        metadata={
            "help": "How the probabilities of a record's windows become one: 'mean' or 'max'.",
            "choices": ["mean", "max"],
        },
    )
    bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples (of patients) behind the confidence intervals; 0 leaves them out."}
    )
    confidence_level: float = field(default=0.95, metadata={"help": "Coverage of the confidence intervals."})
    seed: int = field(default=0, metadata={"help": "Of the resamples."})
    batch_size: int = field(default=32, metadata={"help": "Records in one batch."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read and prepare records."})
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps. Default: cuda if there is one, else cpu."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bar."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the results of an earlier evaluation in the folder."}
    )

    def __post_init__(self):
        for name in ("model", "output_dir"):
            if getattr(self, name) is None:
                raise ValueError(f"--{name} is required; see --help.")
        if self.bootstrap_resamples < 0:
            raise ValueError(f"--bootstrap_resamples must be 0 or more; got {self.bootstrap_resamples}.")
        if not 0 < self.confidence_level < 1:
            raise ValueError(f"--confidence_level lies between 0 and 1; got {self.confidence_level}.")
        for name, least in (("batch_size", 1), ("num_workers", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}; got {getattr(self, name)}.")
        fill_template(self.prompt, "")


def parse_zero_shot_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[ZeroShotCorpusArguments, ZeroShotArguments]:
    """Read the arguments of a zero-shot evaluation.

    Args:
        arguments (sequence of `str`, *optional*): the command line without the program's name; `sys.argv` by default.
            The first one may be a `.json` or `.yaml` file with the same names.

    Returns:
        `tuple` of `ZeroShotCorpusArguments` and `ZeroShotArguments`.

    Raises:
        ValueError: if the file cannot be read, names unknown arguments, or a value is out of range.
    """
    description = (
        "Score a model with a text encoder on a labelled corpus without training it: every record is compared with "
        "the description of every label in words, and the dot products are judged by their ranks (AUROC, AUPRC with "
        "bootstrap intervals over patients). Example: --model dbeta --corpus ptbxl --data_dir ptb-xl --task "
        "superclass --output_dir zero-shot"
    )
    return parse_arguments(
        (ZeroShotCorpusArguments, ZeroShotArguments),
        arguments,
        description,
        usage="%(prog)s [run.yaml] --model FOLDER --output_dir FOLDER [options]",
    )


def evaluate_zero_shot(corpus_args: ZeroShotCorpusArguments, arguments: ZeroShotArguments) -> dict[str, Any]:
    """Evaluate a model on a corpus by the descriptions of its labels, and write the results.

    Args:
        corpus_args (`ZeroShotCorpusArguments`): which recordings.
        arguments (`ZeroShotArguments`): model, words, output folder.

    Returns:
        `dict`: what `score_zero_shot` returns. The folder receives `<split>_predictions.csv` (truth, dot product and
        its sigmoid per label) and `metrics.json` (the scores, and what they were computed with), each whole or not at
        all; `metrics.json` comes last.

    Raises:
        ValueError: for arguments, files or a model that cannot be used, before anything is computed.
    """
    clock = Clock()
    folder = _check_folder(arguments, corpus_args.split)
    source = _descriptions_source(arguments, corpus_args)
    label_descriptions(source)
    with clock.measure("loading"):
        options = {"revision": arguments.revision} if arguments.revision else {}
        model, processor = load_zero_shot_model(arguments.model, arguments.device, **options)
    corpus = load_splits(corpus_args)
    dataset = _choose_split(corpus, corpus_args)
    names, kind = label_names(dataset), problem_type(dataset)
    if kind == "regression":
        raise ValueError(
            f"The corpus {corpus_args.corpus!r} holds values ({', '.join(names[:5])}); zero-shot classification needs "
            "labels or classes."
        )
    descriptions = label_descriptions(source, names, partial=True)
    targets = label_matrix(dataset, names, kind)
    if kind == "single_label_classification":
        targets = one_hot(np.where(targets < 0, np.nan, targets), len(names))
    scored = list(descriptions)
    targets = targets[:, [names.index(name) for name in scored]]
    folder.mkdir(parents=True, exist_ok=True)
    print(
        f"Corpus {corpus_name(corpus_args)}, {corpus_args.split}: {len(dataset)} records, {len(names)} labels. Model "
        f"{model.config.model_type} on {model.device}, descriptions {Path(source).name}.",
        flush=True,
    )
    if len(scored) < len(names):
        print(
            f"{len(scored)} of the {len(names)} labels are described and scored, {len(names) - len(scored)} are left "
            "out.",
            flush=True,
        )

    with clock.measure("texts"):
        label_embeds = embed_labels(model, processor, descriptions, arguments.prompt, arguments.batch_size)
    with clock.measure("records"):
        logits = _predict(model, processor.feature_extractor, dataset, names, kind, label_embeds, arguments)
    with clock.measure("scores"):
        scores = score_zero_shot(
            targets,
            logits,
            scored,
            groups=patient_numbers(dataset),
            num_resamples=arguments.bootstrap_resamples,
            level=arguments.confidence_level,
            seed=arguments.seed,
        )
    if scores["num_missing_labels"] == len(scored):
        logger.warning(f"No label has both classes among the {len(dataset)} records, so there are no scores.")

    predictions = folder / _predictions_file(corpus_args.split)
    # The table of one evaluation never lies beside the scores of another.
    (folder / METRICS_FILE).unlink(missing_ok=True)
    _write_predictions(predictions, dataset, scored, targets, logits)
    seconds = clock.finish()
    write_json(
        folder / METRICS_FILE,
        {
            "format_version": 1,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "arguments": describe_arguments(corpus_args, arguments),
            "environment": describe_environment(),
            "corpus": {"name": corpus_name(corpus_args), "task": corpus_args.task, "split": corpus_args.split},
            "model": {
                "name": Path(arguments.model).name if Path(arguments.model).is_dir() else arguments.model,
                "model_type": model.config.model_type,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            },
            "texts": {
                name: [fill_template(arguments.prompt, text) for text in texts] for name, texts in descriptions.items()
            },
            "metrics": scores,
            "seconds": seconds,
        },
    )
    intervals = scores["intervals"] or None
    print(format_report(scores, intervals, metrics=AREAS, level=arguments.confidence_level))
    print(f"Saved {predictions} and {folder / METRICS_FILE} after {seconds['total']:.0f} s.", flush=True)
    return scores


def _predictions_file(split: str) -> str:
    return f"{split}_predictions.csv"


def _check_folder(arguments: ZeroShotArguments, split: str) -> Path:
    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give a folder.")
    remains = [folder / name for name in (METRICS_FILE, _predictions_file(split)) if (folder / name).exists()]
    if remains and not arguments.overwrite_output_dir:
        raise ValueError(
            f"{folder} holds results already ({', '.join(path.name for path in remains)}). Choose another "
            "--output_dir, or replace them with --overwrite_output_dir."
        )
    return folder


def _choose_split(corpus: Any, arguments: ZeroShotCorpusArguments) -> Any:
    if arguments.split == "all":
        from datasets import concatenate_datasets

        parts = [corpus[split] for split in SPLITS if split in corpus and len(corpus[split])]
        dataset = concatenate_datasets(parts) if parts else None
    else:
        dataset = corpus[arguments.split] if arguments.split in corpus else None
    if dataset is None or len(dataset) == 0:
        sizes = {split: len(part) for split, part in corpus.items()}
        raise ValueError(
            f"The corpus {arguments.corpus!r} has no records in --split {arguments.split}; its splits: {sizes}."
        )
    return dataset


def _descriptions_source(arguments: ZeroShotArguments, corpus_args: ZeroShotCorpusArguments) -> str:
    if arguments.descriptions is not None:
        return arguments.descriptions
    if corpus_args.corpus not in list_label_descriptions():
        raise ValueError(
            f"The package has no descriptions for the corpus {corpus_args.corpus!r}; pass --descriptions with one of "
            f"{', '.join(list_label_descriptions())}, or with the path of a JSON file from label to text."
        )
    return corpus_args.corpus


def _predict(
    model: Any,
    extractor: Any,
    dataset: Any,
    names: list[str],
    kind: str,
    label_embeds: torch.Tensor,
    arguments: ZeroShotArguments,
) -> np.ndarray:
    collator = ECGCollator(
        extractor, names, kind, arguments.eval_windows, model_inputs=("input_values", "attention_mask")
    )
    loader = DataLoader(
        CorpusSplit(dataset),
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        collate_fn=collator,
    )
    rows = []
    with tqdm(
        total=len(dataset), unit="record", disable=arguments.disable_tqdm, file=sys.stderr, desc="Zero-shot"
    ) as progress:
        for batch in loader:
            logits = zero_shot_logits(
                model, batch, label_embeds, arguments.window_aggregation, batch_size=arguments.batch_size
            )
            rows.append(logits.double().cpu().numpy())
            progress.update(len(logits))
    return np.concatenate(rows)


def _write_predictions(path: Path, dataset: Any, names: list[str], targets: np.ndarray, logits: np.ndarray) -> None:
    """Write one row per record: identity, and per label truth, dot product and its sigmoid."""
    probabilities = logits_to_probabilities(logits, "multi_label_classification")
    parts = ("true", "logit", "probability")
    with written_atomically(path, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["record_id", "patient_id", *(f"{name}_{part}" for name in names for part in parts)])
        identities = zip(column_of(dataset, "record_id"), column_of(dataset, "patient_id"), strict=True)
        for (record, patient), known, logit, probability in zip(
            identities, targets, logits, probabilities, strict=True
        ):
            cells: list[Any] = [record or "", patient or ""]
            for column in range(len(names)):
                truth = "" if np.isnan(known[column]) else f"{known[column]:g}"
                cells += [truth, f"{logit[column]:.9g}", f"{probability[column]:.6g}"]
            writer.writerow(cells)
