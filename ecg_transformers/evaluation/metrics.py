"""`evaluate.Metric` classes over the plain array functions; instantiate them, nothing is downloaded.

They collect predictions with `add` and `add_batch`, and combine with `evaluate.combine([...])`. Data are kept in
memory unless several processes share a metric (`num_process > 1`), which `evaluate` does through files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from .challenge import SINUS_RHYTHM, ChallengeWeights, challenge_score_details
from .classification import multilabel_metrics, singlelabel_metrics
from .regression import regression_metrics
from .score_inputs import (
    ArrayLike,
    as_float64,
    check_binary_targets,
    check_label_names,
    check_probabilities,
    check_thresholds,
)

_INPUTS = """
Args:
    predictions ({predictions}).
    references ({references}).
"""


class _ECGMetric(evaluate.Metric):
    """What the metrics share: features, and data in memory where one process evaluates."""

    _description = ""
    _predictions = ""
    _references = ""
    _citation = ""

    def __init__(self, *args, num_process: int = 1, keep_in_memory: bool | None = None, **kwargs):
        if keep_in_memory is None:
            keep_in_memory = num_process == 1
        super().__init__(*args, num_process=num_process, keep_in_memory=keep_in_memory, **kwargs)

    def _features(self) -> datasets.Features | list[datasets.Features]:
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self._description,
            citation=self._citation,
            inputs_description=_INPUTS.format(predictions=self._predictions, references=self._references),
            features=self._features(),
        )


def _row() -> Any:
    return datasets.Sequence(datasets.Value("float64"))


class ECGMultilabelMetrics(_ECGMetric):
    """AUROC, AUPRC, F1, recall, precision and specificity of a multi-label classifier; see `multilabel_metrics`.

    Args:
        label_names (sequence of `str`, *optional*): names of the labels; `label_0`, ... if absent.
        thresholds (`float`, array or mapping by name, *optional*, defaults to 0.5): decision thresholds.
        undefined (`"missing"` or `"zero"`, *optional*): how labels with one class only are scored.
        kwargs: passed to `evaluate.Metric`.

    Example:
        >>> metric = ECGMultilabelMetrics(["AF", "LBBB"])
        >>> metric.compute(predictions=[[0.9, 0.2], [0.3, 0.1]], references=[[1, 0], [0, 0]])["macro_auroc"]
        1.0
    """

    _description = (
        "Per-label and macro scores of a multi-label ECG classifier. Labels with one class are missing, not 0."
    )
    _predictions = "list of lists of float: probabilities in 0..1, one row per record, one column per label"
    _references = "list of lists: 0, 1, or NaN or None where the label is unknown"

    def __init__(
        self,
        label_names: Sequence[str] | None = None,
        thresholds: ArrayLike | Mapping[str, float] | None = 0.5,
        undefined: str = "missing",
        **kwargs,
    ):
        self.label_names, self.thresholds, self.undefined = label_names, thresholds, undefined
        super().__init__(**kwargs)

    def _features(self) -> datasets.Features:
        return datasets.Features({"predictions": _row(), "references": _row()})

    def _compute(self, predictions, references, thresholds=None, label_names=None) -> dict[str, Any]:
        return multilabel_metrics(
            references,
            predictions,
            label_names or self.label_names,
            self.thresholds if thresholds is None else thresholds,
            undefined=self.undefined,
        )


class ECGSinglelabelMetrics(_ECGMetric):
    """Accuracy, confusion matrix and one-against-rest scores of a single-label classifier; see `singlelabel_metrics`.

    Args:
        label_names (sequence of `str`, *optional*): names of the classes; `label_0`, ... if absent.
        undefined (`"missing"` or `"zero"`, *optional*): how classes that do not occur are scored.
        kwargs: passed to `evaluate.Metric`.

    Example:
        >>> metric = ECGSinglelabelMetrics(["normal", "abnormal"])
        >>> metric.compute(predictions=[[0.8, 0.2], [0.4, 0.6]], references=[0, 1])["accuracy"]
        1.0
    """

    _description = "Accuracy, confusion matrix and per-class scores of a single-label ECG classifier."
    _predictions = "list of lists of float: class probabilities, each row summing to 1"
    _references = "list: class indices; NaN or -100 where unknown"

    def __init__(self, label_names: Sequence[str] | None = None, undefined: str = "missing", **kwargs):
        self.label_names, self.undefined = label_names, undefined
        super().__init__(**kwargs)

    def _features(self) -> datasets.Features:
        return datasets.Features({"predictions": _row(), "references": datasets.Value("float64")})

    def _compute(self, predictions, references, label_names=None) -> dict[str, Any]:
        return singlelabel_metrics(references, predictions, label_names or self.label_names, undefined=self.undefined)


class ECGRegressionMetrics(_ECGMetric):
    """Mean absolute error, root mean square error, R² and Pearson correlation; see `regression_metrics`.

    Args:
        target_names (sequence of `str`, *optional*): names of the quantities; `target_0`, ... if absent.
        kwargs: passed to `evaluate.Metric`.

    Example:
        >>> ECGRegressionMetrics(["age"]).compute(predictions=[59.0, 50.0], references=[61.0, 47.0])["mae"]
        2.5
    """

    _description = "Errors and correlation of numbers predicted from ECGs."
    _predictions = "list of float, or of lists of float with one value per quantity"
    _references = "the same; NaN or None where unknown"

    def __init__(self, target_names: Sequence[str] | None = None, **kwargs):
        self.target_names = target_names
        super().__init__(**kwargs)

    def _features(self) -> list[datasets.Features]:
        number = datasets.Value("float64")
        return [
            datasets.Features({"predictions": number, "references": number}),
            datasets.Features({"predictions": _row(), "references": _row()}),
        ]

    def _compute(self, predictions, references) -> dict[str, Any]:
        return regression_metrics(references, predictions, self.target_names)


class ECGChallengeScore(_ECGMetric):
    """The score of the CinC Challenges 2020 and 2021; see `challenge_score`.

    Args:
        weights (`ChallengeWeights`): from `load_challenge_weights`.
        label_names (sequence of `str`): names of the labels.
        thresholds (`float`, array or mapping by name, *optional*, defaults to 0.5): a label is predicted where its
            probability is strictly above; decisions of 0 and 1 may be given as they are.
        normal_class, aliases (*optional*): as in `challenge_score`.
        kwargs: passed to `evaluate.Metric`.

    Example:
        >>> metric = ECGChallengeScore(load_challenge_weights("weights.csv"), label_names)
        >>> metric.compute(predictions=probabilities, references=targets)["challenge_score"]
        0.53
    """

    _description = "CinC Challenge 2020/2021 score: 1 for perfect decisions, 0 for always predicting sinus rhythm."
    _predictions = "list of lists of float: probabilities or decisions in 0..1, one column per label"
    _references = "list of lists: 0, 1, or NaN or None where the label is unknown"
    _citation = "Reyna et al., Will Two Do? Varying Dimensions in Electrocardiography, Computing in Cardiology 2021"

    def __init__(
        self,
        weights: ChallengeWeights,
        label_names: Sequence[str],
        thresholds: ArrayLike | Mapping[str, float] | None = 0.5,
        normal_class: str | None = SINUS_RHYTHM,
        aliases: Mapping[str, str] | None = None,
        **kwargs,
    ):
        self.weights, self.label_names, self.thresholds = weights, label_names, thresholds
        self.normal_class, self.aliases = normal_class, aliases
        super().__init__(**kwargs)

    def _features(self) -> datasets.Features:
        return datasets.Features({"predictions": _row(), "references": _row()})

    def _compute(self, predictions, references, thresholds=None) -> dict[str, Any]:
        targets = check_binary_targets(references, "references")
        probabilities = check_probabilities(as_float64(predictions, "predictions"), targets.shape, "predictions")
        names = check_label_names(self.label_names, targets.shape[1])
        limits = check_thresholds(self.thresholds if thresholds is None else thresholds, names)
        details = challenge_score_details(
            targets, probabilities > limits, self.weights, names, self.normal_class, self.aliases
        )
        score = details["score"]
        return {
            "challenge_score": None if score != score else score,
            "num_scored_classes": len(details["scored_classes"]),
            "unscored_labels": details["unscored_labels"],
        }
