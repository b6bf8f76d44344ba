"""A HuBERT-ECG pretraining run from arguments to a saved model: what `pretrain_hubert_ecg.py train` does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback
from transformers.utils import logging

from ..models.hubert_ecg.configuration_hubert_ecg import HubertECGConfig
from ..models.hubert_ecg.modeling_hubert_ecg import HubertECGForPreTraining
from .augmentation_settings import (
    AugmentationArguments,
    AugmentationSettings,
    augmentation_report,
    describe_augmentations,
)
from .building import reinitialize_head
from .callbacks import CropEpochCallback, DynamicRegularizerCallback, GracefulStopCallback
from .codebook_quality import effective_codes
from .codebooks import CENTERS_FILE, CodebookSet
from .hubert_ecg_arguments import (
    HubertECGModelArguments,
    HubertECGPretrainingArguments,
    StreamCorpusArguments,
    TargetArguments,
)
from .hubert_ecg_caches import keep_targets
from .hubert_ecg_clustering import training_split
from .hubert_ecg_targets import HubertECGCollator, NamedSplit, NamedStream, Teacher, check_recipe, open_targets
from .linear_probe import load_probe_task
from .output_folder import check_start, prepare_output_dir
from .pretraining_building import BuiltPretraining, build_for_pretraining
from .pretraining_run import (
    PretrainingResult,
    RunFacts,
    describe_model,
    describe_splits,
    digest_records,
    local_name,
    model_settings,
    process_of_run,
    run_pretraining,
    seed_run,
    show_readable_progress,
    skip_evaluation_without_records,
)
from .pretraining_trainer import PretrainingTrainer
from .run_control import Clock
from .run_record import to_plain
from .task import corpus_facts, load_splits, without_labels

logger = logging.get_logger(__name__)

PARTS = ("masked_loss", "unmasked_loss")

# Fine-tuned models have none of these; pretraining wants them back.
_FIELDS_OF_PRETRAINING = (
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "final_dropout",
    "layerdrop",
    "mask_time_prob",
    "mask_time_length",
    "apply_spec_augment",
)


class HubertECGPretrainingTrainer(PretrainingTrainer):
    """`PretrainingTrainer` that asks a teacher for the targets, and counts hits and codes.

    Beside the losses it logs for each codebook the share of masked and of other tokens whose code has the highest
    logit (`masked_accuracy`, `unmasked_accuracy`), the effective number of codes among targets and among predictions
    (`target_codes`, `predicted_codes`: perplexities), and how many codes no target had (`unused_codes`), since the
    last log or over all validation records. With several codebooks the names end in `_1`, `_2` and so on.

    Args:
        codebooks (`CodebookSet`): of the targets.
        teacher (`Teacher`, *optional*): computes the targets where batches do not bring them.
    """

    def __init__(self, *args: Any, codebooks: CodebookSet, teacher: Teacher | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.codebooks = codebooks
        self.teacher = None if teacher is None else teacher.to(self.args.device)
        self._counts: dict[str, torch.Tensor | None] = {"train": None, "eval": None}

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the training records; of a stream every process reads a part of its own."""
        if not isinstance(self.train_dataset, NamedStream) or self.args.world_size == 1:
            return super().get_train_dataloader()
        # Prepared by accelerate, one process would read for all of them
        return DataLoader(
            self.train_dataset.share(self.args.process_index, self.args.world_size),
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def _prepare_inputs(self, inputs):
        inputs = super()._prepare_inputs(inputs)
        if self.teacher is not None and "labels" not in inputs:
            inputs = {**inputs, "labels": self.teacher.labels(inputs, self.codebooks)}
            inputs.pop("undisturbed_values", None)
        return inputs

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return the loader of the validation records; streams are read by one worker at most.

        Several end with a batch each that is not full, and evaluation would count each as a full one.
        """
        workers = self.args.dataloader_num_workers
        if isinstance(self.eval_dataset, NamedStream):
            self.args.dataloader_num_workers = min(workers, 1)
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_num_workers = workers

    @torch.no_grad()
    def _note(self, phase: str, outputs: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        super()._note(phase, outputs, inputs)
        counts = self._counts[phase]
        if counts is None:
            # targets, predictions, hits and tokens among masked ones, hits and tokens among others
            shape = (len(self.codebooks.codebooks), 2 * max(self.codebooks.sizes) + 4)
            counts = self._counts[phase] = torch.zeros(shape, dtype=torch.int64, device=self.args.device)
        most = max(self.codebooks.sizes)
        masked = inputs["mask_time_indices"].bool()
        for place, logits in enumerate(outputs["logits"]):
            labels = inputs["labels"][:, place]
            known, found = labels >= 0, logits.argmax(-1)
            counts[place, :most] += torch.bincount(labels[known], minlength=most)
            counts[place, most : 2 * most] += torch.bincount(found[known], minlength=most)
            for start, where in ((2 * most, known & masked), (2 * most + 2, known & ~masked)):
                counts[place, start] += (found == labels)[where].sum()
                counts[place, start + 1] += where.sum()

    def _take_means(self, phase: str) -> dict[str, float]:
        means = super()._take_means(phase)
        counts, self._counts[phase] = self._counts[phase], None
        if counts is None:
            return means
        table = self.accelerator.reduce(counts, "sum").cpu().numpy()
        most = max(self.codebooks.sizes)
        for place, row in enumerate(table):
            end = f"_{place + 1}" if len(table) > 1 else ""
            targets, predictions = row[:most], row[most : 2 * most]
            for name, (hits, tokens) in (("masked", row[2 * most : 2 * most + 2]), ("unmasked", row[2 * most + 2 :])):
                if tokens:
                    means[f"{name}_accuracy{end}"] = float(hits / tokens)
            means[f"target_codes{end}"] = effective_codes(targets)
            means[f"predicted_codes{end}"] = effective_codes(predictions)
            means[f"unused_codes{end}"] = float((targets[: self.codebooks.sizes[place]] == 0).sum())
        return means

    def evaluation_loop(self, *args: Any, **kwargs: Any):
        """Evaluate; what is counted starts anew."""
        self._counts["eval"] = None
        return super().evaluation_loop(*args, **kwargs)


def measure_names(codebooks: CodebookSet) -> tuple[str, ...]:
    """Return what a run with these codebooks measures besides `loss`."""
    names = ("masked_accuracy", "unmasked_accuracy", "target_codes", "predicted_codes", "unused_codes")
    count = len(codebooks.codebooks)
    return (*PARTS, *(f"{name}{f'_{place + 1}' if count > 1 else ''}" for place in range(count) for name in names))


def pretrain_hubert_ecg(
    model_args: HubertECGModelArguments,
    data_args: StreamCorpusArguments,
    target_args: TargetArguments,
    training_args: HubertECGPretrainingArguments,
    augmentation_args: AugmentationArguments | None = None,
) -> PretrainingResult:
    """Pretrain HuBERT-ECG on the codes of a corpus' recordings, without labels, and save it with its preprocessing.

    Args:
        model_args (`HubertECGModelArguments`): which model.
        data_args (`StreamCorpusArguments`): which corpus.
        target_args (`TargetArguments`): which codebooks.
        training_args (`HubertECGPretrainingArguments`): optimisation and output folder.
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
            model_args, data_args, target_args, training_args, augmentation_args or AugmentationArguments()
        )


def _pretrain(
    model_args: HubertECGModelArguments,
    data_args: StreamCorpusArguments,
    target_args: TargetArguments,
    training_args: HubertECGPretrainingArguments,
    augmentation_args: AugmentationArguments,
) -> PretrainingResult:
    clock = Clock()
    if data_args.streaming and training_args.max_steps <= 0:
        raise ValueError("--streaming has no end: say how long to train with --max_steps.")
    if data_args.streaming and training_args.probe:
        raise ValueError(
            "--probe reads labelled records by index and does not go with --streaming; run "
            "training_scripts/linear_probe.py on the finished model."
        )
    if target_args.target_cache is not None:
        _check_cacheable(data_args)
    checkpoint = prepare_output_dir(training_args)
    with clock.measure("loading"):
        codebooks, teacher = open_targets(target_args.codebooks)
        with training_args.main_process_first(desc="loading the corpus"):
            corpus = load_splits(without_labels(data_args))
            probe_task = load_probe_task(training_args, data_args, corpus)
        corpus = {"train": training_split(corpus), **({"validation": held} if (held := _validation(corpus)) else {})}
    splits = _splits(corpus, data_args, training_args)
    facts = corpus_facts(data_args, corpus)
    skip_evaluation_without_records("validation" in splits, training_args)
    augmentations = AugmentationSettings.from_arguments(augmentation_args)
    start = _start(model_args, data_args, target_args, training_args, corpus)
    check_start(checkpoint, training_args, {**start, **describe_augmentations(augmentations)})

    seed_run(training_args)
    built = build_hubert_ecg(model_args, codebooks, target_args.keep_heads)
    check_recipe(codebooks, built.extractor)
    if target_args.target_cache is not None:
        collator = HubertECGCollator(
            built.extractor, built.model.config, codebooks if teacher is None else None, "first"
        )
        with training_args.main_process_first(desc="computing codes"), clock.measure("targets"):
            splits = keep_targets(
                splits,
                target_args.target_cache,
                data_args,
                collator,
                codebooks,
                teacher,
                training_args.device,
                quiet=training_args.process_index > 0,
            )
    trainer, stopper = make_trainer(built, splits, codebooks, teacher, data_args, training_args, augmentations)
    if trainer.is_world_process_zero():
        report = [_opening_report(facts, built, codebooks, training_args), *augmentation_report(augmentations)]
        print("\n".join(report), flush=True)
    described = {
        "new_parts": built.new_parts,
        "codebooks": local_name(target_args.codebooks),
        "codes": codebooks.sizes,
        "descriptors": dict(codebooks.descriptors),
    }
    run_facts = RunFacts(
        facts,
        described,
        built.base_model,
        built.extractor,
        (model_args, data_args, target_args, training_args, augmentation_args),
        measure_names(codebooks),
        probe_task=probe_task,
        training=describe_augmentations(augmentations),
    )
    return run_pretraining(trainer, stopper, checkpoint, clock, run_facts)


def build_hubert_ecg(
    model_args: HubertECGModelArguments, codebooks: CodebookSet, keep_heads: bool = False
) -> BuiltPretraining:
    """Build the model of a run: with a head for each codebook, and the dropout of pretraining.

    Args:
        model_args (`HubertECGModelArguments`): checkpoint or size.
        codebooks (`CodebookSet`): of the targets.
        keep_heads (`bool`, *optional*, defaults to `False`): keep a checkpoint's codebook heads.

    Raises:
        ValueError: if there is no such checkpoint, size or configuration field, or weights or heads do not fit.
    """
    settings: dict[str, Any] = {"vocab_sizes": codebooks.sizes, "ensemble_length": len(codebooks.sizes)}
    if not model_args.from_scratch:
        usual = HubertECGConfig()
        settings |= {name: getattr(usual, name) for name in _FIELDS_OF_PRETRAINING}

    def check(config: HubertECGConfig) -> None:
        if list(config.vocab_sizes) != codebooks.sizes:
            raise ValueError(
                f"--config_overrides vocab_sizes={list(config.vocab_sizes)}: the codebooks have {codebooks.sizes} "
                "codes, and the model follows them; leave it out."
            )

    built = build_for_pretraining(model_args, HubertECGForPreTraining, settings, check)
    heads = {"final_proj", "label_embedding"}
    if keep_heads:
        missing = sorted(heads & set(built.new_parts))
        if model_args.from_scratch or missing:
            raise ValueError(
                "--keep_heads needs a checkpoint, in --init, that was trained on codebooks of these sizes, "
                f"{codebooks.sizes}; {model_args.model_name_or_path or 'none is given'}"
                + (f" lacks {', '.join(missing)}." if missing else ".")
            )
    elif not model_args.from_scratch:
        reinitialize_head(built.model)
        built.new_parts = sorted({*built.new_parts, *heads})
    return built


def make_trainer(
    built: BuiltPretraining,
    splits: Mapping[str, Any],
    codebooks: CodebookSet,
    teacher: Teacher | None,
    data_args: StreamCorpusArguments,
    training_args: HubertECGPretrainingArguments,
    augmentations: AugmentationSettings | None = None,
) -> tuple[HubertECGPretrainingTrainer, GracefulStopCallback]:
    """Put model, targets, data and callbacks together.

    Returns:
        The trainer, and the callback that knows whether a signal has come.
    """
    shards = codebooks if teacher is None else None
    stopper = GracefulStopCallback()
    callbacks: list[Any] = [stopper]
    if isinstance(splits["train"], NamedSplit):
        callbacks.append(CropEpochCallback(splits["train"]))
    if training_args.early_stopping_patience:
        callbacks.append(
            EarlyStoppingCallback(training_args.early_stopping_patience, training_args.early_stopping_threshold)
        )
    if training_args.dynamic_regularizer:
        callbacks.append(DynamicRegularizerCallback())
    trainer = HubertECGPretrainingTrainer(
        model=built.model,
        args=training_args,
        data_collator=HubertECGCollator(
            built.extractor, built.model.config, shards, data_args.train_windows, augmentations
        ),
        # Tokens are hidden in validation too, always the same ones, or there would be no task.
        eval_collator=HubertECGCollator(built.extractor, built.model.config, shards, "first"),
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=built.extractor,
        callbacks=callbacks,
        tri_stage=training_args.schedule == "tri_stage",
        codebooks=codebooks,
        teacher=teacher,
    )
    # Not labels, which a teacher gives later, but what has to be there for a loss in evaluation.
    trainer.label_names = ["mask_time_indices"]
    shown = [name for name in measure_names(codebooks) if name.startswith(("masked", "predicted"))]
    show_readable_progress(trainer, shown)
    return trainer, stopper


def _check_cacheable(data_args: StreamCorpusArguments) -> None:
    """Make sure that a record always has the same codes, and its place.

    Raises:
        ValueError: otherwise.
    """
    if data_args.train_windows != "first":
        raise ValueError(
            "--target_cache keeps one row of codes for a record, but --train_windows random shows another window each "
            "epoch. Give --train_windows first (records of 5 s have one window anyway), or leave the cache out."
        )
    if data_args.streaming:
        raise ValueError("--target_cache finds codes by the record's place, and a --streaming corpus has none.")


def _validation(corpus: Any) -> Any:
    """Return the validation split, or `None` if there are no records in it."""
    held = corpus.get("validation")
    return held if held is not None and next(iter(held.select_columns(["record_id"])), None) is not None else None


def _splits(
    corpus: Mapping[str, Any], data_args: StreamCorpusArguments, training_args: HubertECGPretrainingArguments
) -> dict[str, NamedSplit | NamedStream]:
    seed = training_args.seed
    if not data_args.streaming:
        return {split: NamedSplit(dataset, seed) for split, dataset in corpus.items()}
    splits: dict[str, NamedSplit | NamedStream] = {
        "train": NamedStream(corpus["train"], seed, data_args.shuffle_buffer, repeat=True)
    }
    if "validation" in corpus:
        splits["validation"] = NamedStream(corpus["validation"], seed)
    return splits


def _start(
    model_args: HubertECGModelArguments,
    data_args: StreamCorpusArguments,
    target_args: TargetArguments,
    training_args: HubertECGPretrainingArguments,
    datasets: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a resumed run has to have in common with its start."""
    centers = (Path(target_args.codebooks) / CENTERS_FILE).read_bytes()
    return to_plain(
        {
            **model_settings(model_args),
            "keep_heads": target_args.keep_heads,
            "codebooks": hashlib.sha256(centers).hexdigest()[:16],
            "train_windows": data_args.train_windows,
            "schedule": training_args.schedule,
            "seed": training_args.seed,
            **({"shuffle_buffer": data_args.shuffle_buffer} if data_args.streaming else {}),
            **{f"records of {split}": _digest(dataset) for split, dataset in datasets.items()},
        }
    )


def _digest(dataset: Any) -> str:
    """Return a fingerprint of a split's records, of a stream that of the first ones."""
    if hasattr(dataset, "__len__"):
        return digest_records(dataset)
    names = [str(row["record_id"]) for row in dataset.select_columns(["record_id"]).take(100)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _opening_report(
    facts: dict[str, Any],
    built: BuiltPretraining,
    codebooks: CodebookSet,
    arguments: HubertECGPretrainingArguments,
) -> str:
    descriptors = codebooks.descriptors
    source = descriptors["kind"]
    if source == "hidden_states":
        source = f"layer {descriptors['layer']} of {descriptors['model']}"
    schedule = "tri_stage" if arguments.schedule == "tri_stage" else to_plain(arguments.lr_scheduler_type)
    return "\n".join(
        [
            f"Corpus {facts['name']}: {describe_splits(facts)} records; targets are codebooks of "
            f"{', '.join(map(str, codebooks.sizes))} codes over {source}.",
            f"{describe_model(built.model, built.base_model)}.",
            f"Learning rate {arguments.learning_rate:g} ({schedule}), batch "
            f"{arguments.train_batch_size * arguments.world_size} records, device {arguments.device}.",
        ]
    )
