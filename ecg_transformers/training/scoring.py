"""Judging a model at the end of a run: thresholds from validation, scores with intervals on test."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import EvaluationArguments
from .task import ClassificationTask
from .trainer import ECGTrainer


@dataclass
class Scores:
    """The scores of one model on one split.

    Args:
        results (`dict`): what `multilabel_metrics`, `singlelabel_metrics` or `regression_metrics` returned, plus
            `challenge_score` and `fairness` where asked for.
        intervals (`dict`): metric → interval(s), as `bootstrap_intervals` returns them.
        predictions (`np.ndarray` of shape `(records, labels)`): probabilities, or values of a regression.
        decisions (`np.ndarray` of shape `(records, labels)`, *optional*): with multi-label problems.
    """

    results: dict[str, Any]
    intervals: dict[str, Any]
    predictions: np.ndarray
    decisions: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Return results and intervals in one dictionary."""
        return {**self.results, "intervals": self.intervals}


def predict_split(trainer: ECGTrainer, task: ClassificationTask, split: str, dataset: Any) -> np.ndarray:
    """Return probabilities (or values of a regression) of a split, one row per record, in its order."""
    from ..evaluation.trainer_metrics import logits_to_probabilities

    # The scores are computed once, below, and not by the Trainer as well.
    compute_metrics, trainer.compute_metrics = trainer.compute_metrics, None
    try:
        logits = trainer.predict(dataset, metric_key_prefix=split).predictions
    finally:
        trainer.compute_metrics = compute_metrics
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    if len(logits) != len(task.corpus[split]):
        raise RuntimeError(f"{len(task.corpus[split])} records gave {len(logits)} predictions.")
    if task.problem_type == "regression":
        return np.asarray(logits, dtype=np.float64)
    return logits_to_probabilities(logits, task.problem_type)


@dataclass(frozen=True)
class ChallengeScoring:
    """What the CinC Challenge score needs.

    Args:
        weights (`ChallengeWeights`): scored classes and their weights.
        aliases (`dict[str, str]`): label of the corpus → class of the weights.
    """

    weights: Any
    aliases: dict[str, str]


def load_challenge_scoring(
    arguments: EvaluationArguments, label_names: Sequence[str], data_dir: str | None = None
) -> ChallengeScoring | None:
    """Return what the Challenge score needs, if it is asked for.

    Args:
        arguments (`EvaluationArguments`): `challenge_weights`.
        label_names (sequence of `str`): labels of the corpus: abbreviations of the Challenge or SNOMED CT codes.
        data_dir (`str`, *optional*): folder of the corpus, where the Challenge's lists of abbreviations may be.

    Raises:
        ValueError: if there is no such file, or no label of the corpus is scored.
    """
    if arguments.challenge_weights is None:
        return None
    from ..corpora.challenge_labels import challenge_codes
    from ..evaluation import load_challenge_weights
    from ..evaluation.challenge import match_classes

    try:
        weights = load_challenge_weights(arguments.challenge_weights)
    except FileNotFoundError as error:
        raise ValueError(f"--challenge_weights: {error}") from error
    folders = [Path(arguments.challenge_weights).parent] + ([Path(data_dir)] if data_dir else [])
    aliases = challenge_codes(label_names, folders)
    try:
        match_classes(label_names, weights, aliases)
    except ValueError as error:
        raise ValueError(
            f"--challenge_weights {arguments.challenge_weights} scores none of the labels {list(label_names)[:6]} of "
            "the "
            "corpus; leave it out."
        ) from error
    return ChallengeScoring(weights, aliases)


def choose_thresholds(
    arguments: EvaluationArguments,
    task: ClassificationTask,
    probabilities: np.ndarray,
    challenge: ChallengeScoring | None = None,
) -> dict[str, float]:
    """Choose thresholds on validation probabilities; 0.5 without both classes there, 1 if never learnt."""
    from ..evaluation import select_thresholds

    with warnings.catch_warnings():
        # The report names the labels without both classes.
        warnings.simplefilter("ignore", UserWarning)
        thresholds = select_thresholds(
            task.targets["validation"],
            probabilities,
            arguments.threshold_criterion,
            label_names=task.label_names,
            challenge_weights=challenge.weights if challenge else None,
            aliases=challenge.aliases if challenge else None,
        )
    # A label without positives in training was not learnt: its probability means nothing, so it is never predicted.
    learnt = (task.targets["train"] == 1).any(axis=0)
    return {
        name: float(threshold) if known else 1.0
        for name, threshold, known in zip(task.label_names, thresholds, learnt, strict=True)
    }


def patient_attributes(task: ClassificationTask, split: str) -> dict[str, list[str | None]]:
    """Return sex and age group of each record of a split, `None` where unknown."""
    from ..evaluation import age_groups

    return {"sex": task.column(split, "sex"), "age": age_groups(task.column(split, "age"))}


def check_fairness(arguments: EvaluationArguments, task: ClassificationTask) -> None:
    """Check, before training, that `--fairness` can be answered.

    Raises:
        ValueError: for a regression, without test records, or if neither sex nor age is known of any.
    """
    if not arguments.fairness:
        return
    if task.problem_type == "regression":
        raise ValueError("--fairness compares error rates of decisions, which a regression does not have.")
    if not task.has_records("test"):
        raise ValueError("--fairness needs test records; the corpus has none.")
    if all(group is None for groups in patient_attributes(task, "test").values() for group in groups):
        raise ValueError(
            "--fairness needs the columns `sex` or `age`; the corpus knows neither for any test record. Leave it out."
        )


def _score_fairness(
    arguments: EvaluationArguments,
    task: ClassificationTask,
    split: str,
    predictions: np.ndarray,
    thresholds: np.ndarray | float,
    seed: int,
) -> dict[str, Any]:
    from ..evaluation import fairness_gaps

    return fairness_gaps(
        task.targets[split],
        predictions,
        patient_attributes(task, split),
        thresholds,
        label_names=task.label_names,
        patients=task.patient_groups(split),
        min_patients=arguments.fairness_min_patients,
        num_resamples=arguments.bootstrap_resamples,
        level=arguments.confidence_level,
        seed=seed,
    )


def score_split(
    arguments: EvaluationArguments,
    task: ClassificationTask,
    split: str,
    predictions: np.ndarray,
    thresholds: Mapping[str, float] | None,
    challenge: ChallengeScoring | None = None,
    seed: int = 0,
) -> Scores:
    """Score predictions against a split's targets, with bootstrap intervals over patients.

    Args:
        arguments (`EvaluationArguments`): resamples and coverage.
        task (`ClassificationTask`): targets and patients.
        split (`str`): `"validation"` or `"test"`.
        predictions (`np.ndarray` of shape `(records, labels)`): probabilities or values.
        thresholds (mapping of `str` to `float`, *optional*): decision thresholds of multi-label problems.
        challenge (`ChallengeScoring`, *optional*): adds the Challenge score.
        seed (`int`, *optional*, defaults to 0): of the bootstrap.

    Returns:
        `Scores`.
    """
    from ..evaluation import (
        bootstrap_intervals,
        bootstrap_statistic,
        challenge_score,
        multilabel_metrics,
        regression_metrics,
        singlelabel_metrics,
    )

    targets, names = task.targets[split], task.label_names
    resampling = {
        "num_resamples": arguments.bootstrap_resamples,
        "level": arguments.confidence_level,
        "seed": seed,
        "groups": task.patient_groups(split),
    }
    with_intervals = arguments.bootstrap_resamples > 0
    if task.problem_type == "regression":
        results = regression_metrics(targets, predictions, names)
        intervals = {}
        for metric in ("mae", "r2") if with_intervals else ():
            intervals[metric] = bootstrap_statistic(
                lambda known, predicted, metric=metric: regression_metrics(known, predicted, names)[metric],
                targets,
                predictions,
                **resampling,
            )
        return Scores(results, intervals, predictions)
    if task.problem_type == "single_label_classification":
        results = singlelabel_metrics(targets, predictions, names)
        intervals = (
            bootstrap_intervals(targets, predictions, label_names=names, **resampling) if with_intervals else {}
        )
        if arguments.fairness and split == "test":
            results["fairness"] = _score_fairness(arguments, task, split, predictions, 0.5, seed)
        return Scores(results, intervals, predictions)

    limits = np.array([0.5 if thresholds is None else thresholds[name] for name in names])
    decisions = predictions > limits
    results = multilabel_metrics(targets, predictions, names, limits)
    intervals = {}
    if with_intervals:
        intervals = bootstrap_intervals(targets, predictions, thresholds=limits, label_names=names, **resampling)
    if challenge is not None:

        def score(known: np.ndarray, decided: np.ndarray) -> float:
            return challenge_score(known, decided, challenge.weights, names, aliases=challenge.aliases)

        results["challenge_score"] = score(targets, decisions)
        if with_intervals:
            intervals["challenge_score"] = bootstrap_statistic(score, targets, decisions, **resampling)
    if arguments.fairness and split == "test":
        results["fairness"] = _score_fairness(arguments, task, split, predictions, limits, seed)
    return Scores(results, intervals, predictions, decisions)


def report(scores: Scores, arguments: EvaluationArguments) -> str:
    """Return a table of the scores for the terminal."""
    from ..evaluation import format_fairness, format_report

    intervals = {"auroc": scores.intervals["auroc"]} if "auroc" in scores.intervals else None
    text = format_report(scores.results, intervals, level=arguments.confidence_level)
    if "challenge_score" in scores.results:
        text += f"\nChallenge score {scores.results['challenge_score']:.3f}."
    if "fairness" in scores.results:
        text += "\n\nDifferences between groups of patients:\n" + format_fairness(scores.results["fairness"])
    return text
