"""What every pretraining run does once its trainer is there: train, save, evaluate, write its records."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, enable_full_determinism, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from ..publishing import write_card
from ..publishing.licences import licence_of_folder
from .callbacks import GracefulStopCallback, ReadableProgressCallback
from .linear_probe import probe_pretrained
from .linear_probe_report import format_probe
from .output_folder import find_checkpoint, save_model_folder
from .pretraining_arguments import PretrainingArguments, PretrainingModelArguments
from .pretraining_trainer import PretrainingTrainer
from .run_control import Clock, TrainingInterrupted, without_bars_of_saving
from .run_record import (
    METRICS_FILE,
    RUN_FILE,
    describe_arguments,
    describe_environment,
    learning_curve,
    write_json,
)
from .task import ClassificationTask, column_of

logger = logging.get_logger(__name__)


@dataclass
class PretrainingResult:
    """What a pretraining run returns; on processes other than the first, only what they know.

    Args:
        output_dir (`Path`): model, processor or feature extractor, card, `run.json`, `metrics.json`.
        validation (`dict[str, float]`, *optional*): losses and accuracies on the validation records.
        probe (`dict`, *optional*): with `--probe`, what `LinearProbe.report` returns.
        learning_curve (`list[dict]`): one entry per evaluation.
        seconds (`dict[str, float]`): duration of the parts of the run.
    """

    output_dir: Path
    validation: dict[str, float] | None = None
    probe: dict[str, Any] | None = None
    learning_curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class RunFacts:
    """What the record of a run tells of its parts.

    Args:
        corpus (`dict`): JSON: name, and per split how many records and patients there are.
        model (`dict`): JSON: what is particular to the model.
        base_model (`str`, *optional*): the checkpoint that the run went on from.
        extractor (`ECGFeatureExtractor`): the model's preprocessing.
        arguments (sequence): the dataclasses of arguments.
        parts (sequence of `str`): measures besides `loss`.
        records_per_row (`int`, *optional*, defaults to 1): recordings in what the trainer counts as one row.
        probe_task (`ClassificationTask`, *optional*): labelled records for the linear probe of `--probe`, see
            `load_probe_task`.
        training (`dict`, *optional*): JSON: what is particular to the training.
    """

    corpus: dict[str, Any]
    model: dict[str, Any]
    base_model: str | None
    extractor: Any
    arguments: Sequence[Any]
    parts: Sequence[str]
    records_per_row: int = 1
    probe_task: ClassificationTask | None = None
    training: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def process_of_run(arguments: PretrainingArguments) -> Iterator[None]:
    """Give the process the threads that the arguments ask for, without bars of saving, until the run is over."""
    threads = torch.get_num_threads()
    try:
        with without_bars_of_saving():
            if arguments.cpu_threads is not None:
                torch.set_num_threads(arguments.cpu_threads)
            yield
    finally:
        torch.set_num_threads(threads)


def seed_run(arguments: PretrainingArguments) -> None:
    """Seed everything; after loading the corpus, which may draw random numbers of its own."""
    (enable_full_determinism if arguments.full_determinism else set_seed)(arguments.seed)


def model_settings(arguments: PretrainingModelArguments) -> dict[str, Any]:
    """Return the arguments of the model that a resumed run has to share with its start; of a path the last part."""
    return {**dataclasses.asdict(arguments), "model_name_or_path": local_name(arguments.model_name_or_path)}


def skip_evaluation_without_records(has_validation: bool, arguments: PretrainingArguments) -> None:
    """Turn evaluation off where the corpus has no validation records, and say so."""
    if not has_validation and arguments.eval_strategy != "no":
        logger.warning(
            "The corpus has no validation records, so there are no validation losses and no best checkpoint."
        )
        arguments.eval_strategy = type(arguments.eval_strategy)("no")
        arguments.load_best_model_at_end = False


def show_readable_progress(trainer: PretrainingTrainer, parts: Sequence[str]) -> None:
    """Replace the trainer's output by lines with the figures that matter."""
    for default in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(default)
    trainer.add_callback(ReadableProgressCallback(trainer.args.metric_for_best_model, also=parts))


def run_pretraining(
    trainer: PretrainingTrainer,
    stopper: GracefulStopCallback,
    checkpoint: str | None,
    clock: Clock,
    facts: RunFacts,
) -> PretrainingResult:
    """Train, save the model folder, evaluate, and write `run.json`, `metrics.json` and the card.

    Args:
        trainer (`PretrainingTrainer`): with its data.
        stopper (`GracefulStopCallback`): one of its callbacks.
        checkpoint (`str`, *optional*): the checkpoint to go on from.
        clock (`Clock`): of the run.
        facts (`RunFacts`): for the record.

    Raises:
        TrainingInterrupted: if SIGTERM or Ctrl-C ended training; a checkpoint has been written.
    """
    arguments = trainer.args
    output_dir = Path(arguments.output_dir)
    with clock.measure("training"):
        if arguments.num_train_epochs > 0 or arguments.max_steps > 0:
            trainer.train(resume_from_checkpoint=checkpoint)
    stopper.restore_handlers()
    if stopper.received is not None:
        raise TrainingInterrupted(stopper.received, find_checkpoint(output_dir))

    save_model_folder(trainer, output_dir)
    result = PretrainingResult(output_dir, learning_curve=learning_curve(trainer.state.log_history))
    if trainer.eval_dataset is not None:
        # The closing report tells the figures.
        trainer.remove_callback(ReadableProgressCallback)
        with clock.measure("evaluation"):
            metrics = trainer.evaluate()
        names = ("loss", *facts.parts)
        result.validation = {name: metrics[f"eval_{name}"] for name in names if f"eval_{name}" in metrics}
    if facts.probe_task is not None:
        model = trainer.accelerator.unwrap_model(trainer.model)
        with clock.measure("probing"):
            result.probe = probe_pretrained(model, facts.extractor, facts.probe_task, arguments)
    if trainer.is_world_process_zero():
        result.seconds = clock.finish()
        _write_records(result, trainer, facts)
        write_card(output_dir)
        print(_closing_report(result), flush=True)
    trainer.accelerator.wait_for_everyone()
    return result


def local_name(source: str | None) -> str | None:
    """Return what a source is called in records: of a folder the last part."""
    return os.path.basename(os.path.abspath(source)) if source is not None and os.path.isdir(source) else source


def digest_records(dataset: Any, *more: Any) -> str:
    """Return a fingerprint of a split's records and of more JSON."""
    names = [str(name) for name in column_of(dataset, "record_id")]
    return hashlib.sha256(json.dumps([names, *more]).encode()).hexdigest()[:16]


def describe_splits(corpus_facts: dict[str, Any]) -> str:
    """Return how many records and patients the splits have, in words."""
    return ", ".join(
        f"{facts['records']} {split}" + (f" ({facts['patients']} patients)" if "patients" in facts else "")
        for split, facts in corpus_facts["splits"].items()
    )


def describe_model(model: PreTrainedModel, base_model: str | None) -> str:
    """Return model type, size and origin, in words."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    origin = f"from {base_model}" if base_model else "from scratch"
    return f"Model {model.config.model_type}, {parameters / 1e6:.2f} M parameters, {origin}"


def _closing_report(result: PretrainingResult) -> str:
    lines = []
    if result.validation:
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in result.validation.items())
        lines.append(f"Validation records: {shown}.")
    if result.probe:
        lines += ["", format_probe(result.probe), ""]
    lines.append(f"Saved in {result.output_dir} after {result.seconds['total']:.0f} s.")
    return "\n".join(lines)


def _write_records(result: PretrainingResult, trainer: PretrainingTrainer, facts: RunFacts) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    arguments, state = trainer.args, trainer.state
    metrics = {"validation": result.validation, **({"probe": result.probe} if result.probe else {})}
    tri_stage = arguments.schedule == "tri_stage"
    write_json(result.output_dir / METRICS_FILE, metrics)
    write_json(
        result.output_dir / RUN_FILE,
        {
            "format_version": 1,
            "kind": "pretraining",
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "arguments": describe_arguments(*facts.arguments),
            "environment": {**describe_environment(), "processes": arguments.world_size},
            "corpus": facts.corpus,
            "model": {
                "model_type": model.config.model_type,
                "base_model": local_name(facts.base_model),
                "base_model_is_local": facts.base_model is not None and os.path.isdir(facts.base_model),
                "base_model_licence": licence_of_folder(facts.base_model),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                **facts.model,
                "sampling_rate": facts.extractor.sampling_rate,
                "window_seconds": facts.extractor.window_seconds,
                "recipe": facts.extractor.recipe,
            },
            "training": {
                "learning_rate": arguments.learning_rate,
                "weight_decay": arguments.weight_decay,
                "optimizer": arguments.optim,
                "warmup": 0.1 if tri_stage else arguments.warmup_steps,
                "schedule": "tri_stage" if tri_stage else arguments.lr_scheduler_type,
                "batch_size": arguments.train_batch_size
                * arguments.world_size
                * arguments.gradient_accumulation_steps
                * facts.records_per_row,
                "seed": arguments.seed,
                "steps": state.global_step,
                "epochs": state.epoch,
                "best_step": state.best_global_step,
                "best_metric": state.best_metric,
                "metric_for_best_model": arguments.metric_for_best_model,
                **facts.training,
            },
            "learning_curve": result.learning_curve,
            "metrics": metrics,
            "seconds": result.seconds,
        },
    )
