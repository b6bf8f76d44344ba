"""Tables of linear probes for terminals and model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.report import MISSING, lay_out


def format_probe(report: Mapping[str, Any], style: str = "text", digits: int = 3) -> str:
    """Lay a report out: one encoder by label, or several one per row; below it what the figures are.

    Args:
        report (mapping): of `LinearProbe.report`.
        style (`str`, *optional*, defaults to `"text"`): `"text"` or `"markdown"`.
        digits (`int`, *optional*, defaults to 3): decimals.
    """
    models = report["models"]
    level = f"[{report['level']:.0%} CI]"
    notes = [_notes(report)]
    if len(models) == 1:
        header, rows = _table_by_label(*next(iter(models.items())), level, digits)
    else:
        header, rows = _table_by_model(models, level, digits)
    tables = [lay_out(header, rows, () if "dropped_leads" in report else notes, style)]
    if "dropped_leads" in report:
        tables.append(lay_out(*_table_of_costs(report, level, digits), notes, style))
    return "\n\n".join(tables)


def _table_by_label(name: str, entry: Mapping[str, Any], level: str, digits: int) -> tuple[list[str], list[list[str]]]:
    has_untrained = "untrained" in entry
    header = ["Label", f"AUROC, {name}", *(["untrained", "difference"] if has_untrained else [])]
    rows = []
    for label, value in entry["per_label"].items():
        cells = [value]
        if has_untrained:
            other = entry["untrained_per_label"][label]
            cells += [other, None if value is None or other is None else value - other]
        rows.append([label, *(MISSING if cell is None else f"{cell:.{digits}f}" for cell in cells)])
    macro = [entry["macro_auroc"], *([entry["untrained"], entry["above_untrained"]] if has_untrained else [])]
    rows.append(["Macro mean", *(_cell(value, digits) for value in macro)])
    return [header[0], *(f"{title} {level}" for title in header[1:])], rows


def _table_by_model(
    models: Mapping[str, Mapping[str, Any]], level: str, digits: int
) -> tuple[list[str], list[list[str]]]:
    first = next(iter(models))
    titles = {"macro_auroc": "Macro AUROC", "untrained": "untrained", "above_untrained": "above untrained"}
    titles = {key: title for key, title in titles.items() if key in models[first]}
    titles["above_first"] = f"above {first}"
    rows = [[name, *(_cell(entry.get(key), digits) for key in titles)] for name, entry in models.items()]
    return ["Model", *(f"{title} {level}" for title in titles.values())], rows


def _table_of_costs(report: Mapping[str, Any], level: str, digits: int) -> tuple[list[str], list[list[str]]]:
    models = report["models"]
    first = next(iter(models))
    titles = {"macro_auroc": "all leads", "macro_auroc_dropped": "without them", "cost": "cost"}
    if "untrained_dropped" in models[first]:
        titles["untrained_dropped"] = "untrained without them"
    if len(models) > 1:
        titles["cost_above_first"] = f"cost above {first}'s"
    rows = [[name, *(_cell(entry.get(key), digits) for key in titles)] for name, entry in models.items()]
    return ["Macro AUROC", *(f"{title} {level}" for title in titles.values())], rows


def _notes(report: Mapping[str, Any]) -> str:
    counts = ", ".join(
        f"{count} {split} ({report['patients'][split]} patients)" for split, count in report["records"].items()
    )
    text = f"Linear probe of frozen features: {report['fit']} Records: {counts}. Intervals are drawn over patients"
    compares = len(report["models"]) > 1 or any("untrained" in entry for entry in report["models"].values())
    text += ", differences on the same draws." if compares or "dropped_leads" in report else "."
    if "dropped_leads" in report:
        where = "test records only" if report["dropped_in"] == "test" else "all records, and the classifier refitted"
        text += f" Dropped: {' '.join(report['dropped_leads'])}, in {where}."
    return text


def _cell(interval: Mapping[str, Any] | None, digits: int) -> str:
    if interval is None or interval["value"] is None:
        return MISSING
    value = f"{interval['value']:.{digits}f}"
    if interval["lower"] is None:
        return value
    return f"{value} [{interval['lower']:.{digits}f}, {interval['upper']:.{digits}f}]"
