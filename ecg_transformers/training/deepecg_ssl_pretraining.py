"""A DeepECG-SSL pretraining run from arguments to a saved model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from ..models.deepecg_ssl.configuration_deepecg_ssl import DeepECGSSLConfig
from ..models.deepecg_ssl.modeling_deepecg_ssl import DeepECGSSLForPreTraining
from .arguments import CorpusArguments
from .augmentation_settings import (
    AugmentationArguments,
    AugmentationSettings,
    augmentation_report,
    describe_augmentations,
)
from .callbacks import CropEpochCallback, GracefulStopCallback
from .linear_probe import load_probe_task
from .output_folder import check_start, prepare_output_dir
from .pretraining_arguments import SegmentArguments, SSLModelArguments, SSLPretrainingArguments
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
from .run_control import Clock
from .run_record import to_plain
from .segment_pairs import SegmentPairCollator, SegmentPairs
from .task import SPLITS, corpus_facts, load_splits, without_labels

logger = logging.get_logger(__name__)

PARTS = (
    "contrastive_loss",
    "diversity_loss",
    "feature_penalty",
    "cmsc_loss",
    "contrastive_accuracy",
    "code_perplexity",
    "prob_perplexity",
)


class GumbelTemperatureCallback(TrainerCallback):
    """Lower the temperature of the quantizer's Gumbel softmax with every optimizer step.

    It follows from the number of the step alone, `max * decay ** step` but at least `min`, so a resumed run goes on
    where it was.

    Args:
        config (`DeepECGSSLConfig`): `max_gumbel_temperature`, `min_gumbel_temperature`, `gumbel_temperature_decay`.
    """

    def __init__(self, config: DeepECGSSLConfig):
        self.config = config

    def temperature(self, step: int) -> float:
        """Return the temperature after a number of steps."""
        config = self.config
        lowered = config.max_gumbel_temperature * config.gumbel_temperature_decay**step
        return max(lowered, config.min_gumbel_temperature)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Set the temperature of the coming step."""
        model.set_gumbel_temperature(self.temperature(state.global_step))


def pretrain_deepecg_ssl(
    model_args: SSLModelArguments,
    data_args: CorpusArguments,
    segment_args: SegmentArguments,
    training_args: SSLPretrainingArguments,
    augmentation_args: AugmentationArguments | None = None,
) -> PretrainingResult:
    """Pretrain DeepECG-SSL on the recordings of a corpus, without labels, and save it with its preprocessing.

    Args:
        model_args (`SSLModelArguments`): which model.
        data_args (`CorpusArguments`): which corpus.
        segment_args (`SegmentArguments`): pairs of segments, hidden leads.
        training_args (`SSLPretrainingArguments`): optimisation and output folder.
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
            model_args, data_args, segment_args, training_args, augmentation_args or AugmentationArguments()
        )


def _pretrain(
    model_args: SSLModelArguments,
    data_args: CorpusArguments,
    segment_args: SegmentArguments,
    training_args: SSLPretrainingArguments,
    augmentation_args: AugmentationArguments,
) -> PretrainingResult:
    clock = Clock()
    checkpoint = prepare_output_dir(training_args)
    with clock.measure("loading"):
        with training_args.main_process_first(desc="loading the corpus"):
            corpus = load_splits(without_labels(data_args))
            probe_task = load_probe_task(training_args, data_args, corpus)
        splits = pair_segments(corpus, segment_args.pairs, training_args.seed)
    facts = _corpus_facts(data_args, splits)
    skip_evaluation_without_records("validation" in splits, training_args)
    augmentations = AugmentationSettings.from_arguments(augmentation_args)
    start = _start(model_args, data_args, segment_args, training_args, splits, augmentations)
    check_start(checkpoint, training_args, start)

    seed_run(training_args)
    built = build_deepecg_ssl(model_args)
    trainer, stopper = make_trainer(built, splits, data_args, segment_args, training_args, augmentations)
    if trainer.is_world_process_zero():
        print(_opening_report(facts, built, segment_args, training_args, augmentations), flush=True)
    run_facts = RunFacts(
        facts,
        {"new_parts": built.new_parts, "pairs": segment_args.pairs},
        built.base_model,
        built.extractor,
        (model_args, data_args, segment_args, training_args, augmentation_args),
        PARTS,
        2 if segment_args.pairs == "records" else 1,
        probe_task,
        describe_augmentations(augmentations),
    )
    return run_pretraining(trainer, stopper, checkpoint, clock, run_facts)


def pair_segments(corpus: Any, kind: str, seed: int) -> dict[str, SegmentPairs]:
    """Make the pairs of the splits train and validation.

    Args:
        corpus (`datasets.DatasetDict`): its splits.
        kind (`str`): see `SegmentPairs`.
        seed (`int`): of the run.

    Returns:
        `dict[str, SegmentPairs]`: by split; a validation split without pairs is left out.

    Raises:
        ValueError: if there are no training records, or no pairs among them.
    """
    splits = {}
    for split in SPLITS[:2]:
        if split not in corpus or not len(corpus[split]):
            continue
        try:
            splits[split] = SegmentPairs(corpus[split], seed, kind)
        except ValueError as error:
            if split == "train":
                raise ValueError(f"--pairs {kind}: {error}") from error
            logger.warning(f"Of the {split} records: {error}")
            continue
        if splits[split].num_left_out:
            logger.warning(
                f"{splits[split].num_left_out} of {len(corpus[split])} {split} records are the only one of their "
                "patient and are left out; --pairs halves takes all."
            )
    if "train" not in splits:
        sizes = {split: len(dataset) for split, dataset in corpus.items()}
        raise ValueError(f"The corpus has no training records; its splits: {sizes}.")
    return splits


def build_deepecg_ssl(model_args: SSLModelArguments) -> BuiltPretraining:
    """Build the model of a run.

    Args:
        model_args (`SSLModelArguments`): checkpoint or size.

    Raises:
        ValueError: if there is no such checkpoint, size or configuration field, or weights do not fit.
    """

    def check(config: DeepECGSSLConfig) -> None:
        if not config.mask_time_prob:
            raise ValueError(
                f"{model_args.model_name_or_path or 'The configuration'} has `mask_time_prob` 0 and no mask vector, "
                "as fine-tuned models have; pretraining goes on from a pretrained one."
            )

    return build_for_pretraining(model_args, DeepECGSSLForPreTraining, check=check)


def make_trainer(
    built: BuiltPretraining,
    splits: Mapping[str, SegmentPairs],
    data_args: CorpusArguments,
    segment_args: SegmentArguments,
    training_args: SSLPretrainingArguments,
    augmentations: AugmentationSettings | None = None,
) -> tuple[PretrainingTrainer, GracefulStopCallback]:
    """Put model, data and callbacks together.

    Returns:
        The trainer, and the callback that knows whether a signal has come.
    """
    stopper = GracefulStopCallback()
    trainer = PretrainingTrainer(
        model=built.model,
        args=training_args,
        data_collator=SegmentPairCollator(
            built.extractor,
            segment_args.segment_seconds,
            segment_args.lead_mask_probability,
            segment_args.keep_one_lead,
            data_args.train_windows,
            augmentations=augmentations,
        ),
        # Tokens are hidden in validation too, always the same ones, or there would be no task; leads are not.
        eval_collator=SegmentPairCollator(
            built.extractor, segment_args.segment_seconds, 0.0, windows="first", masks_for=built.model.config
        ),
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        processing_class=built.extractor,
        callbacks=[CropEpochCallback(splits["train"]), GumbelTemperatureCallback(built.model.config), stopper],
        measure=lambda outputs, inputs: measure_ssl(built.model, outputs, inputs),
        tri_stage=training_args.schedule == "tri_stage",
    )
    # Not labels, but what has to be there for a loss in evaluation.
    trainer.label_names = ["mask_time_indices"]
    show_readable_progress(trainer, PARTS)
    return trainer, stopper


@torch.no_grad()
def measure_ssl(
    model: DeepECGSSLForPreTraining, outputs: Any, inputs: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor | float, int]]:
    """Return what is logged besides the losses: name -> (sum, count), each batch by its number of records."""
    records = len(inputs["input_values"])
    names = ("feature_penalty", "contrastive_accuracy", "code_perplexity", "prob_perplexity")
    measured = {name: (outputs[name].detach() * records, records) for name in names}
    if model.training:
        measured["gumbel_temperature"] = (model.quantizer.temperature * records, records)
    return measured


def _corpus_facts(data_args: CorpusArguments, splits: Mapping[str, SegmentPairs]) -> dict[str, Any]:
    facts = corpus_facts(data_args, {split: pairs.source for split, pairs in splits.items()})
    for split, pairs in splits.items():
        counts = facts["splits"][split]
        if "patients" in counts:
            # Those that take part
            counts["patients"] = pairs.num_patients
        counts["pairs"] = len(pairs)
        if pairs.kind == "records":
            counts["left_out"] = pairs.num_left_out
    return facts


def _start(
    model_args: SSLModelArguments,
    data_args: CorpusArguments,
    segment_args: SegmentArguments,
    training_args: SSLPretrainingArguments,
    splits: Mapping[str, SegmentPairs],
    augmentations: AugmentationSettings,
) -> dict[str, Any]:
    """Return what a resumed run has to have in common with its start."""
    return to_plain(
        {
            **model_settings(model_args),
            **dataclasses.asdict(segment_args),
            **describe_augmentations(augmentations),
            "train_windows": data_args.train_windows,
            "schedule": training_args.schedule,
            "seed": training_args.seed,
            **{
                f"records of {split}": digest_records(pairs.source, pairs.patients.tolist())
                for split, pairs in splits.items()
            },
        }
    )


def _opening_report(
    facts: dict[str, Any],
    built: BuiltPretraining,
    segment_args: SegmentArguments,
    arguments: SSLPretrainingArguments,
    augmentations: AugmentationSettings,
) -> str:
    pairs = (
        f"two halves of {segment_args.segment_seconds:g} s" if segment_args.pairs == "halves" else "two of a patient"
    )
    schedule = "tri_stage" if arguments.schedule == "tri_stage" else to_plain(arguments.lr_scheduler_type)
    return "\n".join(
        [
            f"Corpus {facts['name']}: {describe_splits(facts)} records; pairs are {pairs}.",
            f"{describe_model(built.model, built.base_model)}.",
            f"Learning rate {arguments.learning_rate:g} ({schedule}), batch "
            f"{arguments.train_batch_size * arguments.world_size} pairs, device {arguments.device}.",
            *augmentation_report(augmentations),
        ]
    )
