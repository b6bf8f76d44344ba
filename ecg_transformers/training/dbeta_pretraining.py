"""A D-BETA pretraining run from arguments to a saved model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.dbeta.processing_dbeta import DBetaProcessor
from .arguments import CorpusArguments
from .augmentation_settings import (
    AugmentationArguments,
    AugmentationSettings,
    augmentation_report,
    describe_augmentations,
)
from .callbacks import CropEpochCallback, GracefulStopCallback
from .data import CorpusSplit
from .dbeta_building import BuiltDBeta, build_dbeta, build_tokenizer, load_dbeta_config
from .dbeta_collator import DBetaPretrainingCollator
from .linear_probe import load_probe_task
from .negative_sampling import NegativeReports, embed_with_cache, make_embedder, unique_texts
from .output_folder import check_start, prepare_output_dir
from .pretraining_arguments import PretrainingArguments, PretrainingModelArguments, ReportArguments
from .pretraining_run import (
    PretrainingResult,
    RunFacts,
    describe_model,
    describe_splits,
    local_name,
    model_settings,
    process_of_run,
    run_pretraining,
    seed_run,
    show_readable_progress,
    skip_evaluation_without_records,
)
from .pretraining_trainer import PretrainingTrainer
from .report_corpus import ReportCorpus, load_report_corpus
from .run_control import Clock
from .run_record import to_plain

EMBEDDINGS_FILE = "report_embeddings.safetensors"
PARTS = ("mlm_loss", "mem_loss", "etm_loss", "ets_loss", "etm_accuracy", "retrieval_accuracy")


def pretrain_dbeta(
    model_args: PretrainingModelArguments,
    data_args: CorpusArguments,
    report_args: ReportArguments,
    training_args: PretrainingArguments,
    augmentation_args: AugmentationArguments | None = None,
) -> PretrainingResult:
    """Pretrain D-BETA on the records of a corpus and their reports, and save it with its processor.

    Args:
        model_args (`PretrainingModelArguments`): which model.
        data_args (`CorpusArguments`): which corpus.
        report_args (`ReportArguments`): tokenizer, mismatched reports, what is hidden.
        training_args (`PretrainingArguments`): optimisation and output folder.
        augmentation_args (`AugmentationArguments`, *optional*): how training records are disturbed; not at all by
            default.

    Returns:
        `PretrainingResult`.

    Raises:
        ValueError: for arguments or files that cannot be used, before training starts.
        TrainingInterrupted: if SIGTERM or Ctrl-C ended training; a checkpoint has been written.
    """
    with process_of_run(training_args):
        return _pretrain(
            model_args, data_args, report_args, training_args, augmentation_args or AugmentationArguments()
        )


def _pretrain(
    model_args: PretrainingModelArguments,
    data_args: CorpusArguments,
    report_args: ReportArguments,
    training_args: PretrainingArguments,
    augmentation_args: AugmentationArguments,
) -> PretrainingResult:
    clock = Clock()
    output_dir = Path(training_args.output_dir)
    if not model_args.from_scratch:
        # Before the tokenizer, which a model of another kind does not have.
        load_dbeta_config(model_args)
    checkpoint = prepare_output_dir(training_args)
    with clock.measure("loading"):
        with training_args.main_process_first(desc="loading the corpus"):
            corpus = load_report_corpus(data_args)
            probe_task = load_probe_task(training_args, data_args)
        tokenizer = build_tokenizer(model_args, report_args, unique_texts(corpus.reports["train"]))
    skip_evaluation_without_records(corpus.has_records("validation"), training_args)
    augmentations = AugmentationSettings.from_arguments(augmentation_args)
    start = _start(model_args, data_args, report_args, training_args, corpus, tokenizer, augmentations)
    check_start(checkpoint, training_args, start)

    seed_run(training_args)
    built = build_dbeta(model_args, report_args, tokenizer)
    with clock.measure("embedding_of_reports"):
        with training_args.main_process_first(desc="embedding the reports"):
            banks = build_banks(corpus, report_args, output_dir)
    trainer, stopper = make_trainer(built, corpus, banks, data_args, report_args, training_args, augmentations)
    if trainer.is_world_process_zero():
        print(_opening_report(corpus, built, banks, training_args, augmentations), flush=True)
    facts = RunFacts(
        corpus.facts,
        {
            "text_encoder": local_name(report_args.text_encoder),
            "new_parts": built.new_parts,
            "text_tokens": len(built.tokenizer),
        },
        built.base_model,
        built.extractor,
        (model_args, data_args, report_args, training_args, augmentation_args),
        PARTS,
        probe_task=probe_task,
        training=describe_augmentations(augmentations),
    )
    result = run_pretraining(trainer, stopper, checkpoint, clock, facts)
    if trainer.is_world_process_zero():
        (output_dir / EMBEDDINGS_FILE).unlink(missing_ok=True)
    return result


def build_banks(corpus: ReportCorpus, arguments: ReportArguments, folder: Path) -> dict[str, NegativeReports]:
    """Build the bank of mismatched reports of each split.

    Args:
        corpus (`ReportCorpus`): the records.
        arguments (`ReportArguments`): embedder, number and kind of candidates.
        folder (`Path`): where embeddings of a T5 encoder are kept until the run is over.

    Returns:
        `dict[str, NegativeReports]`: by split; empty if no report is to be swapped. A validation split in which all
        reports are the same has none.

    Raises:
        ValueError: if all training reports are the same, or the embedder cannot be loaded.
    """
    if not arguments.negative_share:
        return {}
    texts = {split: unique_texts(reports) for split, reports in corpus.reports.items()}
    if len(texts["train"]) < 2:
        raise ValueError(
            f"All {len(corpus.reports['train'])} training reports are the same, so there is none to swap them with; "
            "--negative_share 0 swaps none."
        )
    embed = make_embedder(arguments.negative_embedder, texts["train"])
    banks = {}
    for split in texts:
        if len(texts[split]) < 2:
            continue
        embeddings = None
        if split == "train" and arguments.negative_embedder != "tfidf":
            embeddings = embed_with_cache(embed, texts[split], folder / EMBEDDINGS_FILE)
        banks[split] = NegativeReports(
            texts[split], embed, arguments.negative_candidates, arguments.negatives, embeddings
        )
    return banks


def make_trainer(
    built: BuiltDBeta,
    corpus: ReportCorpus,
    banks: dict[str, NegativeReports],
    data_args: CorpusArguments,
    report_args: ReportArguments,
    training_args: PretrainingArguments,
    augmentations: AugmentationSettings | None = None,
) -> tuple[PretrainingTrainer, GracefulStopCallback]:
    """Put model, data and callbacks together.

    Returns:
        The trainer, and the callback that knows whether a signal has come.
    """
    splits = {
        split: CorpusSplit(dataset, training_args.seed, ("ecg", "report")) for split, dataset in corpus.splits.items()
    }

    def collator(
        split: str,
        windows: str,
        lead_mask_probability: float,
        augmentations: AugmentationSettings | None = None,
    ) -> DBetaPretrainingCollator:
        return DBetaPretrainingCollator(
            built.extractor,
            built.tokenizer,
            banks.get(split),
            report_args.negative_share,
            report_args.mlm_probability,
            report_args.mask_token,
            lead_mask_probability,
            report_args.keep_one_lead,
            windows,
            report_args.statements,
            report_args.max_text_size,
            built.model.config.ecg_config.count_tokens,
            augmentations,
        )

    stopper = GracefulStopCallback()
    trainer = PretrainingTrainer(
        model=built.model,
        args=training_args,
        data_collator=collator("train", data_args.train_windows, report_args.lead_mask_probability, augmentations),
        # Tokens are hidden and reports swapped in validation too, or there would be no tasks; leads are not.
        eval_collator=collator("validation", "first", 0.0),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"] if corpus.has_records("validation") else None,
        processing_class=DBetaProcessor(built.extractor, built.tokenizer),
        callbacks=[CropEpochCallback(splits["train"]), stopper],
        measure=measure_dbeta,
        tri_stage=training_args.schedule == "tri_stage",
    )
    show_readable_progress(trainer, PARTS)
    return trainer, stopper


@torch.no_grad()
def measure_dbeta(outputs: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Count how often matching and retrieval are right.

    Args:
        outputs (`DBetaForPreTrainingOutput`): of a batch.
        inputs (mapping): the batch.

    Returns:
        `dict`: name -> (right, asked). `etm_accuracy`: whether the report belongs to the record. `retrieval_accuracy`:
        for records with their own report, whether it has the largest dot product among the batch's reports; a report
        of the same words counts as right.
    """
    aligned = inputs["is_aligned"].bool()
    matched = (outputs["etm_logits"].argmax(-1) == aligned.long()).float()
    best = (outputs["ecg_embeds"] @ outputs["text_embeds"].T).argmax(-1)
    original = torch.where(inputs["labels"] >= 0, inputs["labels"], inputs["input_ids"])
    found = (original == original[best]).all(-1) & aligned
    return {
        "etm_accuracy": (matched.sum(), torch.tensor(float(len(matched)), device=matched.device)),
        "retrieval_accuracy": (found.sum(), aligned.sum()),
    }


def _start(
    model_args: PretrainingModelArguments,
    data_args: CorpusArguments,
    report_args: ReportArguments,
    training_args: PretrainingArguments,
    corpus: ReportCorpus,
    tokenizer: Any,
    augmentations: AugmentationSettings,
) -> dict[str, Any]:
    """Return what a resumed run has to have in common with its start."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    texts = dataclasses.asdict(report_args)
    for name in ("tokenizer", "text_encoder", "negative_embedder"):
        texts[name] = local_name(texts[name])
    return to_plain(
        {
            **model_settings(model_args),
            **texts,
            **describe_augmentations(augmentations),
            "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest()[:16],
            "train_windows": data_args.train_windows,
            "schedule": training_args.schedule,
            "seed": training_args.seed,
            **{f"records of {split}": corpus.digest(split) for split in corpus.splits},
        }
    )


def _opening_report(
    corpus: ReportCorpus,
    built: BuiltDBeta,
    banks: dict[str, NegativeReports],
    arguments: PretrainingArguments,
    augmentations: AugmentationSettings,
) -> str:
    different = corpus.facts["splits"]["train"]["different_reports"]
    bank = banks.get("train")
    negatives = f"mismatched ones from the {bank.k} most {bank.kind}" if bank else "none swapped"
    return "\n".join(
        [
            f"Corpus {corpus.facts['name']}: {describe_splits(corpus.facts)} records with a report; {different} "
            f"different reports in training, {negatives}.",
            f"{describe_model(built.model, built.base_model)}; {len(built.tokenizer)} text tokens.",
            f"Learning rate {arguments.learning_rate:g} ({arguments.schedule}), batch "
            f"{arguments.train_batch_size * arguments.world_size}, device {arguments.device}.",
            *augmentation_report(augmentations),
        ]
    )
