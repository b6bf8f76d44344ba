"""Tables of results for terminals and model cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .regression import REGRESSION_METRICS

MISSING = "–"
_TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "recall": "Sensitivity",
    "precision": "Precision",
    "specificity": "Specificity",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "pearson": "Pearson r",
}


def format_report(
    results: Mapping[str, Any],
    intervals: Mapping[str, Mapping[str, Any]] | None = None,
    style: Literal["text", "markdown"] = "text",
    *,
    metrics: Sequence[str] = ("auroc", "auprc", "f1", "recall", "specificity"),
    level: float = 0.95,
    digits: int = 3,
) -> str:
    """Lay results out as a table: one row per label, the macro mean last, and a line on what is missing.

    Args:
        results (mapping): what `multilabel_metrics`, `singlelabel_metrics`, `regression_metrics` or `score_zero_shot`
            returned.
        intervals (mapping, *optional*): what `bootstrap_intervals` returned; its limits follow the values in brackets.
        style (`"text"` or `"markdown"`, *optional*, defaults to `"text"`): aligned columns, or a table for a model
            card.
        metrics (sequence of `str`, *optional*): scores to show of a classifier, in order.
        level (`float`, *optional*, defaults to 0.95): coverage of `intervals`, for the heading.
        digits (`int`, *optional*, defaults to 3): decimals.

    Returns:
        `str`: the table, ending without a line break. Missing values are shown as "–".

    Raises:
        ValueError: if `style` or a metric is unknown, or `results` are not such results.

    Example:
        >>> print(format_report(multilabel_metrics(targets, probabilities, names), intervals))
    """
    if "per_target" in results:
        header, rows, notes = _regression_table(results, digits)
    elif "per_label" in results:
        header, rows, notes = _classification_table(results, intervals or {}, metrics, level, digits)
    else:
        raise ValueError(
            f"`results` have the keys {list(results)[:8]}; pass what `multilabel_metrics`, `singlelabel_metrics` or "
            "`regression_metrics` returned."
        )
    return lay_out(header, rows, notes, style)


def lay_out(header: list[str], rows: list[list[str]], notes: Sequence[str], style: str) -> str:
    """Return a table as aligned text or Markdown, and below it the notes.

    Raises:
        ValueError: if `style` is unknown.
    """
    if style not in ("text", "markdown"):
        raise ValueError(f"`style` is {style!r}; it must be 'text' or 'markdown'.")
    lines = _markdown_lines(header, rows) if style == "markdown" else _text_lines(header, rows)
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _classification_table(
    results: Mapping[str, Any],
    intervals: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str],
    level: float,
    digits: int,
) -> tuple[list[str], list[list[str]], list[str]]:
    unknown = [name for name in metrics if f"macro_{name}" not in results]
    if unknown:
        raise ValueError(
            f"The results hold no {unknown}; show some of {[key for key in _TITLES if key != 'mae'][:6]}."
        )
    per_label = results["per_label"]
    for name, interval in intervals.items():
        if list(interval["per_label"]) != list(per_label):
            raise ValueError(
                f"The intervals of {name!r} are for the labels {list(interval['per_label'])[:5]} ..., the results for "
                f"{list(per_label)[:5]} ...; pass the same `label_names` to both functions."
            )
    shows_unknown = any(row["num_unknown"] for row in per_label.values())
    shows_threshold = any(row.get("threshold") is not None for row in per_label.values())
    header = ["Label", "Positive", "Negative", *(["Unknown"] if shows_unknown else [])]
    header += [f"{_TITLES[name]} [{level:.0%} CI]" if name in intervals else _TITLES[name] for name in metrics]
    header += ["Threshold"] if shows_threshold else []
    rows = []
    for name, row in per_label.items():
        counts = [str(row["num_positives"]), str(row["num_negatives"])]
        counts += [str(row["num_unknown"])] if shows_unknown else []
        limits = [intervals.get(metric, {}).get("per_label", {}).get(name) for metric in metrics]
        cells = [_cell(row[metric], limit, digits) for metric, limit in zip(metrics, limits, strict=True)]
        rows.append([name, *counts, *cells, *([_number(row["threshold"], digits)] if shows_threshold else [])])
    macro = [_cell(results[f"macro_{name}"], intervals.get(name, {}).get("macro"), digits) for name in metrics]
    blanks = [""] * (len(header) - 1 - len(metrics) - shows_threshold)
    rows.append(["Macro mean", *blanks, *macro, *([""] if shows_threshold else [])])

    notes = []
    if "accuracy" in results:
        notes.append(
            f"Accuracy {_number(results['accuracy'], digits)}, balanced accuracy "
            f"{_number(results['balanced_accuracy'], digits)}, {results['num_records']} records."
        )
    missing = results["missing_labels"]
    if missing:
        notes.append(
            f"Labels with one class only in these data, without scores: {len(missing)} of {results['num_labels']} "
            f"({', '.join(missing)})."
        )
    return header, rows, notes


def _regression_table(results: Mapping[str, Any], digits: int) -> tuple[list[str], list[list[str]], list[str]]:
    header = ["Target", "Records", *(_TITLES[name] for name in REGRESSION_METRICS)]
    rows = [
        [name, str(row["num_known"]), *(_number(row[metric], digits) for metric in REGRESSION_METRICS)]
        for name, row in results["per_target"].items()
    ]
    if len(rows) > 1:
        rows.append(["Mean", "", *(_number(results[metric], digits) for metric in REGRESSION_METRICS)])
    return header, rows, []


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def _cell(value: float | None, interval: Mapping[str, Any] | None, digits: int) -> str:
    if interval is None or value is None or interval["lower"] is None:
        return _number(value, digits)
    return f"{value:.{digits}f} [{interval['lower']:.{digits}f}, {interval['upper']:.{digits}f}]"


def _text_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *others = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join([first, *(cell.strip().rjust(len(cell)) for cell in others)]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [line(row) for row in rows]
    has_summary = len(rows) > 1 and rows[-1][0] in ("Macro mean", "Mean")
    return [line(header), rule, *(body[:-1] if has_summary else body), *([rule, body[-1]] if has_summary else [])]


def _markdown_lines(header: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        # Merged Challenge codes such as 713427006|59118001 would otherwise open a column.
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    ruler = "| " + " | ".join(["---", *["---:"] * (len(header) - 1)]) + " |"
    return [line(header), ruler, *(line(row) for row in rows)]
