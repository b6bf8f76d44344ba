"""A Hybrid ECG pretraining run from arguments to a saved model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..models.hybrid_ecg.modeling_hybrid_ecg import HybridECGForPreTraining
from .alignment_uniformity import FINISH_MEASURES, measure_views
from .arguments import CorpusArguments
from .augmentation_settings import AugmentationSettings
from .callbacks import CropEpochCallback, GracefulStopCallback
from .data import CorpusSplit
from .hybrid_ecg_arguments import (
    HybridModelArguments,
    HybridPretrainingArguments,
    ViewArguments,
    ViewAugmentationArguments,
)
from .hybrid_ecg_collator import HybridECGCollator
from .linear_probe import load_probe_task
from .output_folder import check_start, prepare_output_dir
from .pretraining_building import BuiltPretraining, build_for_pretraining
from .pretraining_run import (
    PretrainingResult,
    RunFacts,
    describe_model,
    describe_splits,
    digest_records,
    model_settings,
    process_of_run,
    run_pretraining,
    seed_run,
    show_readable_progress,
    skip_evaluation_without_records,
)
from .pretraining_trainer import PretrainingTrainer
from .reconstruction_pictures import ReconstructionPictures, unit_of_recipe
from .run_control import Clock
from .run_record import to_plain
from .task import SPLITS, corpus_facts, load_splits, without_labels

PARTS = ("reconstruction_loss", "contrastive_loss", "alignment", "uniformity")


def pretrain_hybrid_ecg(
    model_args: HybridModelArguments,
    data_args: CorpusArguments,
    view_args: ViewArguments,
    training_args: HybridPretrainingArguments,
    augmentation_args: ViewAugmentationArguments,
) -> PretrainingResult:
    """Pretrain Hybrid ECG on the recordings of a corpus, without labels, and save it with its preprocessing.

    Args:
        model_args (`HybridModelArguments`): which model, masking, weights of the losses.
        data_args (`CorpusArguments`): which corpus.
        view_args (`ViewArguments`): length and alignment of the views.
        training_args (`HybridPretrainingArguments`): optimisation, pictures and output folder.
        augmentation_args (`ViewAugmentationArguments`): how views are disturbed.

    Returns:
        `PretrainingResult`.

    Raises:
        ValueError: for arguments or files that cannot be used, before training starts.
        TrainingInterrupted: if SIGTERM or Ctrl-C ended training; a checkpoint has been written.
    """
    with process_of_run(training_args):
        return _pretrain(model_args, data_args, view_args, training_args, augmentation_args)


def _pretrain(
    model_args: HybridModelArguments,
    data_args: CorpusArguments,
    view_args: ViewArguments,
    training_args: HybridPretrainingArguments,
    augmentation_args: ViewAugmentationArguments,
) -> PretrainingResult:
    clock = Clock()
    checkpoint = prepare_output_dir(training_args)
    with clock.measure("loading"):
        with training_args.main_process_first(desc="loading the corpus"):
            corpus = load_splits(without_labels(data_args))
            probe_task = load_probe_task(training_args, data_args, corpus)
    splits = {split: corpus[split] for split in SPLITS[:2] if split in corpus and len(corpus[split])}
    if "train" not in splits:
        sizes = {split: len(dataset) for split, dataset in corpus.items()}
        raise ValueError(f"The corpus has no training records; its splits: {sizes}.")
    facts = corpus_facts(data_args, splits)
    skip_evaluation_without_records("validation" in splits, training_args)
    augmentations = AugmentationSettings.from_arguments(augmentation_args)
    start = _start(model_args, data_args, view_args, augmentations, training_args, splits)
    check_start(checkpoint, training_args, start)

    seed_run(training_args)
    built = build_for_pretraining(model_args, HybridECGForPreTraining, model_args.settings())
    trainer, stopper, pictures = make_trainer(built, splits, data_args, view_args, augmentations, training_args)
    # As long as they are: a view is not longer than the window
    views = dataclasses.replace(view_args, view_seconds=trainer.data_collator.view_seconds)
    if trainer.is_world_process_zero():
        print(_opening_report(facts, built, views, augmentations, training_args), flush=True)
    run_facts = RunFacts(
        facts,
        {
            "new_parts": built.new_parts,
            "objective": _objective(built, views, augmentations),
            # Filled while the run goes on
            "pictures": [] if pictures is None else pictures.drawn,
        },
        built.base_model,
        built.extractor,
        (model_args, data_args, view_args, training_args, augmentation_args),
        PARTS,
        probe_task=probe_task,
    )
    return run_pretraining(trainer, stopper, checkpoint, clock, run_facts)


def make_trainer(
    built: BuiltPretraining,
    splits: Mapping[str, Any],
    data_args: CorpusArguments,
    view_args: ViewArguments,
    augmentations: AugmentationSettings,
    training_args: HybridPretrainingArguments,
) -> tuple[PretrainingTrainer, GracefulStopCallback, ReconstructionPictures | None]:
    """Put model, data and callbacks together.

    Returns:
        The trainer, the callback that knows whether a signal has come, and the one that draws, where pictures are
        asked for and something is rebuilt.
    """
    rows = {split: CorpusSplit(dataset, training_args.seed, ("ecg",)) for split, dataset in splits.items()}
    # In validation too tokens are hidden and views disturbed, always in the same way, or there would be no tasks.
    collators = {
        windows: HybridECGCollator(
            built.extractor, built.model.config, view_args.view_seconds, view_args.align, augmentations, windows
        )
        for windows in {data_args.train_windows, "first"}
    }
    stopper = GracefulStopCallback()
    callbacks = [CropEpochCallback(rows["train"]), stopper]
    pictures = None
    if training_args.picture_steps and built.model.config.reconstruction_loss_weight:
        shown = "validation" if "validation" in rows else "train"
        record = collators["first"]([rows[shown][0]])
        pictures = ReconstructionPictures(
            Path(training_args.output_dir),
            record,
            training_args.picture_steps,
            built.extractor.sampling_rate,
            built.extractor.lead_names,
            unit_of_recipe(built.extractor.recipe),
            # Without its identifier, which some corpora forbid to publish
            f"First {'training' if shown == 'train' else shown} record",
            stopper,
        )
        callbacks.append(pictures)
    trainer = PretrainingTrainer(
        model=built.model,
        args=training_args,
        data_collator=collators[data_args.train_windows],
        eval_collator=collators["first"],
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        processing_class=built.extractor,
        callbacks=callbacks,
        measure=measure_hybrid,
        finish=FINISH_MEASURES,
        tri_stage=training_args.schedule == "tri_stage",
    )
    # Not labels, but what has to be there for a loss in evaluation.
    trainer.label_names = ["input_values"]
    show_readable_progress(trainer, PARTS)
    return trainer, stopper, pictures


def measure_hybrid(outputs: Any, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, tuple[torch.Tensor, int]]:
    """Return what is logged besides the losses; nothing without views. See `measure_views`."""
    view_embeds = outputs.get("view_embeds")
    return {} if view_embeds is None else measure_views(view_embeds)


def _objective(built: BuiltPretraining, views: ViewArguments, augmentations: AugmentationSettings) -> dict[str, Any]:
    """Return what the record of the run and the card tell of the losses."""
    config = built.model.config
    names = ["reconstruction_loss_weight", "contrastive_loss_weight", "patch_layout", "patch_size", "pooling"]
    if config.reconstruction_loss_weight:
        names += ["mask_ratio", "mask_strategy", "normalize_targets"]
        if config.mask_strategy in ("span", "multi_scale"):
            names.append("mask_span_length")
        if config.mask_strategy == "multi_scale":
            names += ["mask_short_span_length", "mask_long_span_share"]
    objective = {name: getattr(config, name) for name in names}
    if config.contrastive_loss_weight:
        objective |= {"temperature": config.temperature, "projection_size": config.projection_size}
        objective |= {**dataclasses.asdict(views), "view_augmentations": augmentations.to_dict()}
    return objective


def _start(
    model_args: HybridModelArguments,
    data_args: CorpusArguments,
    view_args: ViewArguments,
    augmentations: AugmentationSettings,
    training_args: HybridPretrainingArguments,
    splits: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a resumed run has to have in common with its start."""
    return to_plain(
        {
            **model_settings(model_args),
            **dataclasses.asdict(view_args),
            **augmentations.to_dict(),
            "train_windows": data_args.train_windows,
            "schedule": training_args.schedule,
            "seed": training_args.seed,
            **{f"records of {split}": digest_records(dataset) for split, dataset in splits.items()},
        }
    )


def _opening_report(
    facts: dict[str, Any],
    built: BuiltPretraining,
    views: ViewArguments,
    augmentations: AugmentationSettings,
    arguments: HybridPretrainingArguments,
) -> str:
    config = built.model.config
    parts = []
    if config.reconstruction_loss_weight:
        parts.append(
            f"{config.reconstruction_loss_weight:g} x reconstruction of {100 * config.mask_ratio:g} % hidden tokens "
            f"({config.mask_strategy})"
        )
    if config.contrastive_loss_weight:
        disturbed = ", ".join(augmentations.augmentations) or "undisturbed"
        start = "at R peaks" if views.align == "r_peak" else "anywhere"
        parts.append(
            f"{config.contrastive_loss_weight:g} x contrast of views of {views.view_seconds:g} s that start "
            f"{start} ({disturbed})"
        )
    schedule = "tri_stage" if arguments.schedule == "tri_stage" else to_plain(arguments.lr_scheduler_type)
    return "\n".join(
        [
            f"Corpus {facts['name']}: {describe_splits(facts)} records.",
            f"{describe_model(built.model, built.base_model)}.",
            f"Loss: {' + '.join(parts)}.",
            f"Learning rate {arguments.learning_rate:g} ({schedule}), batch "
            f"{arguments.train_batch_size * arguments.world_size}, device {arguments.device}.",
        ]
    )
