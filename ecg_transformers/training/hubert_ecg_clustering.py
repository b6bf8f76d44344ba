"""From a corpus to codebooks: what `pretrain_hubert_ecg.py cluster` does."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from .codebook_fitting import fit_codebooks
from .codebook_quality import classes_of_corpus, draw_codebooks, measure_clusters, measure_purity, shard_classes
from .codebooks import CODEBOOKS_FILE, CodebookSet, import_codebook
from .hubert_ecg_arguments import ClusterArguments, StreamCorpusArguments
from .hubert_ecg_caches import corpus_of_cache, digest_weights
from .hubert_ecg_targets import TEACHER_FOLDER, LeadsAndRows, Teacher
from .pretraining_run import local_name
from .row_cache import RowCache
from .run_control import Clock
from .run_record import describe_arguments, describe_environment, write_json
from .shard_descriptors import DESCRIPTORS, NUM_SHARDS, describe_shards, real_shards
from .task import corpus_name, load_splits, without_labels

logger = logging.getLogger(__name__)

REPORT_FILE, PICTURE_FILE = "report.json", "codebooks.png"

# Records whose marked waves or beats tell how pure the codes are.
_MARKED_RECORDS = 500


@dataclass
class ClusteringResult:
    """What clustering returns.

    Args:
        output_dir (`Path`): `codebooks.json`, `codebooks.safetensors`, with a model as descriptor `teacher/`, and with
            a report `report.json` and `codebooks.png`.
        codebooks (`CodebookSet`): what was written.
        report (`dict`): JSON: quality of each codebook; empty without a report.
        seconds (`dict[str, float]`): duration of the parts.
    """

    output_dir: Path
    codebooks: CodebookSet
    report: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Describer:
    """Records to descriptors: of shards, or hidden states of a teacher.

    Args:
        arguments (`ClusterArguments`): `descriptors`, `layer`, `recipe`, `device`.

    Raises:
        ValueError: if there is no such model, layer or recipe.
    """

    def __init__(self, arguments: ClusterArguments):
        self.teacher: Teacher | None = None
        if arguments.descriptors in DESCRIPTORS:
            self.kind = arguments.descriptors
            self.extractor = (
                ECGFeatureExtractor.from_pretrained(arguments.like)
                if arguments.like
                else ECGFeatureExtractor.for_model_type("hubert_ecg", recipe=arguments.recipe)
            )
            self.description = {"kind": self.kind}
        else:
            self.kind = "hidden_states"
            try:
                self.teacher = Teacher.load(arguments.descriptors, arguments.layer, arguments.revision)
            except ValueError as error:
                raise ValueError(
                    f"--descriptors {arguments.descriptors} is none of {', '.join(DESCRIPTORS)}, and no model: {error}"
                ) from error
            self.extractor = ECGFeatureExtractor.from_pretrained(arguments.descriptors, revision=arguments.revision)
            self.description = {
                "kind": self.kind,
                "layer": arguments.layer,
                "model": local_name(arguments.descriptors),
            }
        self.description |= {
            "sampling_rate": int(self.extractor.sampling_rate),
            "recipe": self.extractor.recipe,
        }
        self.device = torch.device(
            arguments.device
            or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None)
            or "cpu"
        )
        if self.teacher is not None:
            self.teacher.to(self.device)
        self.preprocess = LeadsAndRows(self.extractor)

    def collate(
        self, rows: Sequence[Mapping[str, Any]], windows: str = "first"
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Read and preprocess records, in a worker: shards are described, rows of a teacher are left to `finish`.

        Returns:
            `tuple`: descriptors `(rows, 93, values)` and which shards are real `(rows, 93)`; or rows `(rows, samples)`
            and which of their samples are real. Last the number of records.
        """
        leads, real, values, valid = self.preprocess([row["ecg"] for row in rows], windows)
        if self.teacher is not None:
            return values, valid, len(rows)
        rate = self.description["sampling_rate"]
        return describe_shards(leads, self.kind, rate), real_shards(real, rate), len(rows)

    def finish(self, values: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the descriptors of a batch `(rows, tokens, values)`, and which tokens are real `(rows, tokens)`."""
        if self.teacher is None:
            return values, valid
        values, mask = values.to(self.device), valid.to(self.device).long()
        described = self.teacher(values, None if valid.all() else mask)
        return described, self.teacher.model.get_token_mask(mask)


def cluster_descriptors(arguments: ClusterArguments, data_args: StreamCorpusArguments) -> ClusteringResult:
    """Fit codebooks to the descriptors of a corpus' training records, or import them, and save them with a report.

    Args:
        arguments (`ClusterArguments`): descriptors and numbers of codes.
        data_args (`StreamCorpusArguments`): which corpus; its labels are not looked at.

    Returns:
        `ClusteringResult`.

    Raises:
        ValueError: for arguments, corpora or models that cannot be used.
    """
    clock = Clock()
    folder = Path(arguments.output_dir)
    if (folder / CODEBOOKS_FILE).exists() and not arguments.overwrite_output_dir:
        raise ValueError(f"{folder} holds codebooks; --overwrite_output_dir replaces them.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output {folder} is a file; name a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with clock.measure("loading"):
        describer = Describer(arguments)
        dataset = None if arguments.import_kmeans else _training_records(arguments, data_args)
    sample = None
    if dataset is None:
        books = [import_codebook(path, arguments.normalize_targets) for path in arguments.import_kmeans]
        facts: dict[str, Any] = {"imported": [Path(path).name for path in arguments.import_kmeans]}
        _check_widths(books, describer)
    else:
        print(
            f"Corpus {corpus_name(data_args)}: {_size(dataset)} training records. Descriptors: {describer.kind}. "
            f"Codes: {', '.join(map(str, arguments.clusters))}.",
            flush=True,
        )
        with clock.measure("clustering"):
            books, sample = _fit(arguments, describer, dataset, _cache(arguments, data_args, describer, dataset))
        facts = {
            "corpus": corpus_name(data_args),
            "records": _size(dataset),
            "arguments": describe_arguments(arguments, data_args),
        }
    facts |= {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": describe_environment(),
    }
    codebooks = CodebookSet(books, describer.description, facts)
    # First the file without which a folder holds no codebooks
    for name in (CODEBOOKS_FILE, REPORT_FILE, PICTURE_FILE):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TEACHER_FOLDER, ignore_errors=True)
    if describer.teacher is not None:
        describer.teacher.model.save_pretrained(folder / TEACHER_FOLDER)
        describer.extractor.save_pretrained(folder / TEACHER_FOLDER)
    result = ClusteringResult(folder, codebooks)
    if arguments.report and sample is not None:
        with clock.measure("report"):
            result.report = _report(codebooks, sample, describer, dataset, arguments)
        write_json(folder / REPORT_FILE, result.report)
        _draw(codebooks, sample, result.report, folder / PICTURE_FILE)
    # Last: a folder with this file is whole.
    codebooks.save(folder)
    result.seconds = clock.finish()
    print(_closing_report(result), flush=True)
    return result


def _training_records(arguments: ClusterArguments, data_args: StreamCorpusArguments) -> Any:
    dataset = training_split(load_splits(without_labels(data_args)))
    if data_args.streaming:
        return dataset if arguments.max_records is None else dataset.take(arguments.max_records)
    # In random order: the first records place the centres, and neighbours come from one hospital
    order = np.random.default_rng(arguments.seed).permutation(len(dataset))[: arguments.max_records]
    return dataset.select(order.tolist())


def training_split(corpus: Any) -> Any:
    """Return the training split of a corpus.

    Raises:
        ValueError: if it has no records.
    """
    if "train" not in corpus or next(iter(corpus["train"].select_columns(["record_id"])), None) is None:
        raise ValueError(f"The corpus has no training records; its splits: {', '.join(corpus)}.")
    return corpus["train"]


def _size(dataset: Any) -> int | str:
    return len(dataset) if hasattr(dataset, "__len__") else "streamed"


def _fit(
    arguments: ClusterArguments, describer: Describer, dataset: Any, cache: RowCache | None = None
) -> tuple[list[Any], np.ndarray]:
    size = _size(dataset)
    total = arguments.epochs * size if isinstance(size, int) else None
    bar = tqdm(total=total, desc="Clustering", unit=" records")

    def describe(skip: int = 0) -> Iterator[torch.Tensor]:
        """Describe the batches after some."""
        rest = dataset.select_columns(["ecg"])
        loader = DataLoader(
            rest.skip(skip * arguments.batch_size) if skip else rest,
            batch_size=arguments.batch_size,
            collate_fn=functools.partial(describer.collate, windows=arguments.windows),
            num_workers=arguments.num_workers,
        )
        for values, valid, _ in loader:
            described, real = describer.finish(values, valid)
            yield described[real]

    def batches() -> Iterator[torch.Tensor]:
        if cache is None:
            found = describe()
        else:
            # A copy: what is mapped from a file cannot be written to, of which torch warns
            found = map(torch.tensor, cache.fill(lambda skip: (rows.cpu().numpy() for rows in describe(skip))))
        for rows in found:
            yield rows
            bar.update(arguments.batch_size if total is None else min(arguments.batch_size, total - bar.n))

    with bar:
        return fit_codebooks(
            batches,
            arguments.clusters,
            normalize=arguments.normalize_targets,
            seed=arguments.seed,
            epochs=arguments.epochs,
            batch_rows=NUM_SHARDS * arguments.batch_size,
        )


def _cache(
    arguments: ClusterArguments, data_args: StreamCorpusArguments, describer: Describer, dataset: Any
) -> RowCache | None:
    """Return where the descriptors are kept, if they are."""
    if arguments.descriptor_cache is None:
        return None
    recipe = {
        "rows": "descriptors",
        **describer.description,
        **({} if describer.teacher is None else {"weights": digest_weights(describer.teacher)}),
        **corpus_of_cache(data_args, dataset),
        "windows": arguments.windows,
        "batch_size": arguments.batch_size,
        "max_records": arguments.max_records,
    }
    cache = RowCache(arguments.descriptor_cache, recipe)
    print(f"Descriptors are {'read from' if cache.complete else 'kept in'} {cache.folder}.", flush=True)
    return cache


def _check_widths(books: Sequence[Any], describer: Describer) -> None:
    width = describer.teacher.model.config.hidden_size if describer.teacher else DESCRIPTORS[describer.kind][0]
    wrong = {book.centers.shape[1] for book in books} - {width}
    if wrong:
        raise ValueError(
            f"The k-means files are over {', '.join(map(str, sorted(wrong)))} values, {describer.kind} descriptors "
            f"have {width}; --descriptors says what the files were made for."
        )


def _report(
    codebooks: CodebookSet, sample: np.ndarray, describer: Describer, dataset: Any, arguments: ClusterArguments
) -> dict[str, Any]:
    """Return the quality of each codebook, and how pure their codes are where the corpus is marked."""
    entries = [measure_clusters(book, sample, arguments.seed) for book in codebooks.codebooks]
    marked = classes_of_corpus(dataset)
    if marked is not None:
        column, names = marked
        some = dataset.take(_MARKED_RECORDS)
        codes: list[np.ndarray] = []
        classes: list[np.ndarray] = []
        for columns in tqdm(some.iter(32), desc="Comparing with marks", unit=" batches"):
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            described, real = describer.finish(*describer.collate(rows)[:2])
            codes.append(codebooks.assign(described).cpu().numpy())
            found = np.stack([shard_classes(row, column, codebooks.descriptors["sampling_rate"]) for row in rows])
            classes.append(np.where(real.cpu().numpy(), found, -1))
        all_codes, all_classes = np.concatenate(codes), np.concatenate(classes).ravel()
        for place, (entry, book) in enumerate(zip(entries, codebooks.codebooks, strict=True)):
            entry["purity"] = measure_purity(all_codes[:, place].ravel(), all_classes, names, len(book))
    return {"format_version": 1, "codebooks": entries}


def _draw(codebooks: CodebookSet, sample: np.ndarray, report: dict[str, Any], path: Path) -> None:
    try:
        draw_codebooks(codebooks, sample, report["codebooks"][0].get("purity"), path)
    except ImportError:
        logger.warning("No picture of the codebooks: matplotlib is missing; pip install 'ecg-transformers[plot]'.")


def _closing_report(result: ClusteringResult) -> str:
    lines = []
    for entry in result.report.get("codebooks", ()):
        text = (
            f"{entry['codes']} codes: inertia {entry['inertia']:.4f} a row, {entry['effective_codes']:.1f} effective, "
            f"{entry['unused_codes']} unused"
        )
        if entry["silhouette"] is not None:
            text += (
                f"; silhouette {entry['silhouette']:.3f}, Davies-Bouldin {entry['davies_bouldin']:.2f}, "
                f"Calinski-Harabasz {entry['calinski_harabasz']:.0f}"
            )
        if entry.get("purity"):
            purity = entry["purity"]
            text += (
                f"; purity {purity['purity']:.3f} over {purity['shards']} marked shards (one cluster: "
                f"{purity['most_frequent_class']:.3f})"
            )
        lines.append(text + ".")
    sizes = ", ".join(map(str, result.codebooks.sizes))
    lines.append(f"Codebooks of {sizes} codes saved in {result.output_dir} after {result.seconds['total']:.0f} s.")
    return "\n".join(lines)
