"""A fine-tuning run from arguments to a saved, evaluated model."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, enable_full_determinism, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging

from ..publishing import write_card
from ..publishing.licences import licence_of_folder
from .arguments import DataArguments, EvaluationArguments, FinetuningArguments, ModelArguments
from .building import BuiltModel, build_model, build_untrained, default_learning_rate, input_names
from .callbacks import (
    CropEpochCallback,
    DynamicRegularizerCallback,
    GracefulStopCallback,
    ReadableProgressCallback,
)
from .data import CorpusSplit, ECGCollator, positive_weights
from .layer_groups import freeze_layers
from .output_folder import check_continuation, find_checkpoint, prepare_output_dir, save_model_folder
from .run_control import Clock, TrainingInterrupted, without_bars_of_saving
from .run_record import (
    METRICS_FILE,
    PREDICTIONS_FILE,
    RUN_FILE,
    describe_arguments,
    describe_environment,
    learning_curve,
    write_json,
    write_predictions,
)
from .run_report import closing_report, opening_report
from .scoring import (
    ChallengeScoring,
    Scores,
    check_fairness,
    choose_thresholds,
    load_challenge_scoring,
    predict_split,
    score_split,
)
from .task import ClassificationTask, load_task
from .trainer import ECGTrainer

logger = logging.get_logger(__name__)

_SMALLER_IS_BETTER = ("loss", "mae", "rmse", "num_missing_labels")


@dataclass
class FineTuneResult:
    """What `finetune` returns; on processes other than the first, only what they know.

    Args:
        output_dir (`Path`): model, extractor, card, `run.json`, `metrics.json`, `test_predictions.csv`.
        label_names (`list[str]`): order of the outputs.
        problem_type (`str`): as in `config.problem_type`.
        test (`dict`, *optional*): scores on the test split, with `intervals`.
        validation (`dict`, *optional*): scores on the validation split.
        untrained (`dict`, *optional*): scores of a randomly initialised model on the test split.
        thresholds (`dict[str, float]`, *optional*): chosen on validation.
        learning_curve (`list[dict]`): one entry per evaluation.
        seconds (`dict[str, float]`): duration of the parts of the run.
    """

    output_dir: Path
    label_names: list[str]
    problem_type: str
    test: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    untrained: dict[str, Any] | None = None
    thresholds: dict[str, float] | None = None
    learning_curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def finetune(
    model_args: ModelArguments,
    data_args: DataArguments,
    eval_args: EvaluationArguments,
    training_args: FinetuningArguments,
) -> FineTuneResult:
    """Fine-tune a model on a corpus, evaluate it on held-out records, and save it.

    Args:
        model_args (`ModelArguments`): which model, and what of it learns.
        data_args (`DataArguments`): which corpus.
        eval_args (`EvaluationArguments`): windows, thresholds, intervals.
        training_args (`FinetuningArguments`): optimisation and output folder. Settings that depend on the model or
            corpus (learning rate, metric) are filled in.

    Returns:
        `FineTuneResult`.

    Raises:
        ValueError: for arguments or files that cannot be used, before training starts.
        TrainingInterrupted: if SIGTERM or Ctrl-C ended training; a checkpoint has been written.
    """
    threads = torch.get_num_threads()
    try:
        with without_bars_of_saving():
            return _finetune(model_args, data_args, eval_args, training_args)
    finally:
        torch.set_num_threads(threads)


def _finetune(
    model_args: ModelArguments,
    data_args: DataArguments,
    eval_args: EvaluationArguments,
    training_args: FinetuningArguments,
) -> FineTuneResult:
    clock = Clock()
    if training_args.cpu_threads is not None:
        torch.set_num_threads(training_args.cpu_threads)
    output_dir = Path(training_args.output_dir)
    checkpoint = prepare_output_dir(training_args)
    with clock.measure("loading"):
        with training_args.main_process_first(desc="loading the corpus"):
            task = load_task(data_args)
    challenge = None
    if task.problem_type == "multi_label_classification":
        challenge = load_challenge_scoring(eval_args, task.label_names, data_args.data_dir)
    check_fairness(eval_args, task)
    check_continuation(checkpoint, model_args, data_args, training_args, task)
    _resolve(training_args, model_args, task)

    # The seed comes after the corpus, which may draw random numbers of its own.
    (enable_full_determinism if training_args.full_determinism else set_seed)(training_args.seed)
    built, pos_weight = _build(model_args, data_args, task)
    frozen = freeze_layers(
        built.model,
        model_args.freeze_encoder,
        model_args.unfreeze_last,
        model_args.from_scratch if model_args.train_convolution is None else model_args.train_convolution,
    )
    trainer, stopper, splits = make_trainer(built, task, model_args, data_args, eval_args, training_args, challenge)
    is_main = trainer.is_world_process_zero()
    if is_main:
        print(opening_report(task, built, frozen, training_args), flush=True)

    with clock.measure("training"):
        if training_args.num_train_epochs > 0 or training_args.max_steps > 0:
            trainer.train(resume_from_checkpoint=checkpoint)
    stopper.restore_handlers()
    if stopper.received is not None:
        raise TrainingInterrupted(stopper.received, find_checkpoint(output_dir))

    # Saved before the evaluation too: a test record that cannot be used must not cost the trained model.
    save_model_folder(trainer, output_dir)
    result = FineTuneResult(output_dir, task.label_names, task.problem_type)
    result.learning_curve = learning_curve(trainer.state.log_history)
    with clock.measure("evaluation"):
        scores = _evaluate(trainer, task, eval_args, challenge, splits, training_args.seed)
    untrained: dict[str, Scores] = {}
    if eval_args.evaluate_untrained:
        with clock.measure("evaluation_of_untrained"):
            untrained = _evaluate_untrained(trainer, task, eval_args, challenge, splits, training_args.seed)
    result.thresholds = scores.get("thresholds")
    config = trainer.accelerator.unwrap_model(trainer.model).config
    _describe_in_config(config, eval_args, result.thresholds)
    save_model_folder(trainer, output_dir)
    if is_main:
        for name in ("test", "validation"):
            if name in scores:
                setattr(result, name, scores[name].to_json())
        if "test" in untrained:
            result.untrained = untrained["test"].to_json()
        if "test" in scores:
            _write_predictions(output_dir, task, scores["test"])
        result.seconds = clock.finish()
        _write_records(
            result, task, built, pos_weight, frozen, trainer, (model_args, data_args, eval_args, training_args)
        )
        write_card(output_dir)
        print(closing_report(result, scores, untrained, eval_args), flush=True)
    trainer.accelerator.wait_for_everyone()
    return result


def _resolve(arguments: FinetuningArguments, model_args: ModelArguments, task: ClassificationTask) -> None:
    """Fill in what depends on the model and the corpus."""
    if arguments.learning_rate is None:
        arguments.learning_rate = default_learning_rate(model_args)
    if not task.has_records("validation") and arguments.eval_strategy != "no":
        logger.warning(
            "Without validation records there is no early stopping, no best checkpoint, and thresholds are 0.5."
        )
        arguments.eval_strategy = type(arguments.eval_strategy)("no")
        arguments.load_best_model_at_end = False
    metric = arguments.metric_for_best_model if arguments.metric_was_given else None
    if metric is None:
        metric = "mae" if task.problem_type == "regression" else "macro_auroc"
    metric = metric.removeprefix("eval_")
    known = _metric_names(task.problem_type)
    if metric not in known:
        raise ValueError(f"--metric_for_best_model {metric}: a {task.problem_type} run has {', '.join(known)}.")
    if metric != "loss" and task.has_records("validation") and not task.can_rank("validation"):
        logger.warning(
            f"No label has both classes among the validation records, so the loss is used instead of {metric}."
        )
        metric = "loss"
    arguments.metric_for_best_model = metric
    arguments.greater_is_better = metric not in _SMALLER_IS_BETTER


def _metric_names(problem_type: str) -> list[str]:
    if problem_type == "regression":
        return ["loss", "mae", "rmse", "r2", "pearson"]
    names = [f"macro_{name}" for name in ("auroc", "auprc", "f1", "recall", "precision", "specificity")]
    if problem_type == "single_label_classification":
        return ["loss", *names, "accuracy", "balanced_accuracy"]
    return ["loss", *names, "challenge_score"]


def _build(
    model_args: ModelArguments, data_args: DataArguments, task: ClassificationTask
) -> tuple[BuiltModel, list[float] | None]:
    weights = None
    if task.problem_type == "multi_label_classification" and data_args.pos_weight == "auto":
        weights = positive_weights(task.targets["train"], data_args.max_pos_weight).tolist()
    return build_model(model_args, task.label_names, task.problem_type, weights), weights


def make_trainer(
    built: BuiltModel,
    task: ClassificationTask,
    model_args: ModelArguments,
    data_args: DataArguments,
    eval_args: EvaluationArguments,
    training_args: FinetuningArguments,
    challenge: ChallengeScoring | None = None,
) -> tuple[ECGTrainer, GracefulStopCallback, dict[str, CorpusSplit]]:
    """Put model, data and callbacks together.

    Returns:
        The trainer, the callback that knows whether a signal has come, and the splits as the trainer takes them.
    """
    from ..evaluation import make_compute_metrics

    splits = {split: CorpusSplit(task.corpus[split], training_args.seed) for split in task.targets}
    inputs = input_names(built.model)

    def collator(windows: str) -> ECGCollator:
        return ECGCollator(built.extractor, task.label_names, task.problem_type, windows, inputs)

    stopper = GracefulStopCallback()
    callbacks: list[Any] = [CropEpochCallback(splits["train"]), stopper]
    if training_args.early_stopping_patience and training_args.load_best_model_at_end:
        callbacks.append(
            EarlyStoppingCallback(training_args.early_stopping_patience, training_args.early_stopping_threshold)
        )
    if training_args.dynamic_regularizer:
        callbacks.append(DynamicRegularizerCallback())
    trainer = ECGTrainer(
        model=built.model,
        args=training_args,
        data_collator=collator(data_args.train_windows),
        eval_collator=collator(eval_args.eval_windows),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"] if task.has_records("validation") else None,
        processing_class=built.extractor,
        compute_metrics=make_compute_metrics(
            task.label_names,
            task.problem_type,
            challenge_weights=challenge.weights if challenge else None,
            aliases=challenge.aliases if challenge else None,
        ),
        callbacks=callbacks,
        window_aggregation=eval_args.window_aggregation,
        layerwise_lr_decay=model_args.layerwise_lr_decay,
    )
    for default in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(default)
    trainer.add_callback(ReadableProgressCallback(training_args.metric_for_best_model))
    return trainer, stopper, splits


def _evaluate(
    trainer: ECGTrainer,
    task: ClassificationTask,
    arguments: EvaluationArguments,
    challenge: ChallengeScoring | None,
    splits: dict[str, CorpusSplit],
    seed: int,
) -> dict[str, Any]:
    """Predict on all processes, choose thresholds, and score on the first process."""
    predictions = {
        split: predict_split(trainer, task, split, splits[split])
        for split in ("validation", "test")
        if task.has_records(split)
    }
    found: dict[str, Any] = {}
    if task.problem_type == "multi_label_classification" and "validation" in predictions:
        found["thresholds"] = choose_thresholds(arguments, task, predictions["validation"], challenge)
    if trainer.is_world_process_zero():
        for split, values in predictions.items():
            if task.can_rank(split):
                found[split] = score_split(arguments, task, split, values, found.get("thresholds"), challenge, seed)
            else:
                logger.warning(
                    f"No label has both classes among the {split} records, so there are no scores for them."
                )
    return found


def _evaluate_untrained(
    trainer: ECGTrainer,
    task: ClassificationTask,
    arguments: EvaluationArguments,
    challenge: ChallengeScoring | None,
    splits: dict[str, CorpusSplit],
    seed: int,
) -> dict[str, Any]:
    config = trainer.accelerator.unwrap_model(trainer.model).config
    other = ECGTrainer(
        model=build_untrained(config, seed),
        args=trainer.args,
        data_collator=trainer.data_collator,
        eval_collator=trainer.eval_collator,
        eval_dataset=trainer.eval_dataset,
        window_aggregation=trainer.window_aggregation,
    )
    for default in (ProgressCallback, PrinterCallback):
        other.remove_callback(default)
    return _evaluate(other, task, replace(arguments, fairness=False), challenge, splits, seed)


def _describe_in_config(config: Any, arguments: EvaluationArguments, thresholds: dict[str, float] | None) -> None:
    """Store with the model what turns its output into decisions."""
    config.window_aggregation = arguments.window_aggregation
    config.eval_windows = arguments.eval_windows
    if thresholds is not None:
        config.thresholds = thresholds
        config.threshold_criterion = arguments.threshold_criterion


def _write_predictions(folder: Path, task: ClassificationTask, scores: Scores) -> None:
    write_predictions(
        folder / PREDICTIONS_FILE,
        task.column("test", "record_id"),
        task.column("test", "patient_id"),
        task.label_names,
        task.targets["test"],
        scores.predictions,
        scores.decisions,
        task.problem_type,
    )


def _write_records(
    result: FineTuneResult,
    task: ClassificationTask,
    built: BuiltModel,
    pos_weight: list[float] | None,
    frozen: list[str],
    trainer: ECGTrainer,
    arguments: tuple[Any, ...],
) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    metrics = {"test": result.test, "validation": result.validation, "untrained_test": result.untrained}
    base_model = built.base_model
    if base_model is not None and os.path.isdir(base_model):
        base_model = getattr(model.config, "base_model", None) or Path(base_model).resolve().name
    state = trainer.state
    write_json(result.output_dir / METRICS_FILE, metrics)
    write_json(
        result.output_dir / RUN_FILE,
        {
            "format_version": 1,
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "arguments": describe_arguments(*arguments),
            "environment": {**describe_environment(), "processes": trainer.args.world_size},
            "corpus": task.facts,
            "model": {
                "model_type": model.config.model_type,
                "base_model": base_model,
                "base_model_is_local": built.base_model is not None and os.path.isdir(built.base_model),
                "base_model_licence": licence_of_folder(built.base_model),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "frozen_layers": frozen,
                "head_is_new": built.head_is_new,
                "sampling_rate": built.extractor.sampling_rate,
                "window_seconds": built.extractor.window_seconds,
                "recipe": built.extractor.recipe,
            },
            "training": {
                "learning_rate": trainer.args.learning_rate,
                "weight_decay": trainer.args.weight_decay,
                "optimizer": trainer.args.optim,
                "warmup": trainer.args.warmup_steps,
                "schedule": trainer.args.lr_scheduler_type,
                "batch_size": trainer.args.train_batch_size
                * trainer.args.world_size
                * trainer.args.gradient_accumulation_steps,
                "seed": trainer.args.seed,
                "steps": state.global_step,
                "epochs": state.epoch,
                "best_step": state.best_global_step,
                "best_metric": state.best_metric,
                "metric_for_best_model": trainer.args.metric_for_best_model,
                "pos_weight": None if pos_weight is None else dict(zip(task.label_names, pos_weight, strict=True)),
            },
            "learning_curve": result.learning_curve,
            "thresholds": result.thresholds,
            "metrics": metrics,
            "seconds": result.seconds,
        },
    )
