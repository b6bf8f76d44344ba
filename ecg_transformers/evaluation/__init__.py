"""Scores for ECG models: plain array functions, bootstrap intervals, `evaluate.Metric` classes and printable reports.

Every function takes arrays and returns plain Python or NumPy values; nothing needs a network. Names are loaded on
first use, so importing the package stays cheap.
"""

from ..lazy_names import lazy_names

# public name -> module that defines it
_PUBLIC_NAMES = {
    "auroc": ".classification",
    "average_precision": ".classification",
    "confusion_counts": ".classification",
    "per_label_metrics": ".classification",
    "multilabel_metrics": ".classification",
    "singlelabel_metrics": ".classification",
    "regression_metrics": ".regression",
    "bootstrap_intervals": ".bootstrap",
    "bootstrap_statistic": ".bootstrap",
    "PairedAUROC": ".comparison",
    "fairness_gaps": ".fairness",
    "age_groups": ".fairness",
    "format_fairness": ".fairness",
    "select_thresholds": ".thresholds",
    "ChallengeWeights": ".challenge",
    "load_challenge_weights": ".challenge",
    "challenge_score": ".challenge",
    "challenge_score_details": ".challenge",
    "aggregate_windows": ".windows",
    "format_report": ".report",
    "label_descriptions": ".descriptions",
    "list_label_descriptions": ".descriptions",
    "embed_texts": ".zero_shot",
    "embed_labels": ".zero_shot",
    "zero_shot_logits": ".zero_shot",
    "score_zero_shot": ".zero_shot",
    "evaluate_zero_shot": ".zero_shot_run",
    "parse_zero_shot_arguments": ".zero_shot_run",
    "make_compute_metrics": ".trainer_metrics",
    "ECGMultilabelMetrics": ".metrics",
    "ECGSinglelabelMetrics": ".metrics",
    "ECGRegressionMetrics": ".metrics",
    "ECGChallengeScore": ".metrics",
}

__all__ = sorted(_PUBLIC_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
