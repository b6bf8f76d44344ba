"""The picture of a run's learning curve on its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import written_atomically

PICTURE = "learning_curve.png"

_TRAINING, _VALIDATION, _METRIC, _BEST = "#8a8a8a", "#b8330a", "#2f6db5", "#101010"


def draw_learning_curve(run: dict[str, Any], path: Path) -> bool:
    """Draw the losses of a run and, of a fine-tuning run, the measure that chose the best step.

    Args:
        run (`dict`): `run.json`.
        path (`Path`): of the PNG.

    Returns:
        `bool`: whether there is a picture: not of fewer than two points, and not without matplotlib.
    """
    entries = run["learning_curve"]
    axis = "epoch" if all(entry.get("epoch") for entry in entries) else "step"
    lines = {
        name: [(entry[axis], entry[name]) for entry in entries if entry.get(name) is not None]
        for name in ("training_loss", "validation_loss", run["training"].get("metric_for_best_model"))
        if name is not None
    }
    if max(map(len, lines.values()), default=0) < 2:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    metric = next((name for name in lines if not name.endswith("loss") and lines[name]), None)
    figure = Figure(figsize=(9.5 if metric else 5.5, 3.4), dpi=110, facecolor="white", layout="constrained")
    panels = figure.subplots(1, 2 if metric else 1, squeeze=False)[0]
    _draw(panels[0], lines["training_loss"], "training", _TRAINING)
    _draw(panels[0], lines["validation_loss"], "validation", _VALIDATION)
    panels[0].set(xlabel=axis, ylabel="loss")
    if metric:
        _draw(panels[1], lines[metric], "validation", _METRIC)
        panels[1].set(xlabel=axis, ylabel=metric.replace("_", " "))
    best = next((entry[axis] for entry in entries if entry.get("step") == run["training"].get("best_step")), None)
    for axes in panels:
        if best is not None:
            axes.axvline(best, color=_BEST, linewidth=0.8, linestyle=":", label="best, saved")
        axes.grid(color="#e6e6e6", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    with written_atomically(path, "wb") as file:
        # Without the name of the program, the same run gives the same file
        figure.savefig(file, format="png", metadata={"Software": None})
    return True


def _draw(axes: Any, points: list[tuple[float, float]], label: str, color: str) -> None:
    if points:
        marker = "o" if len(points) <= 40 else None
        axes.plot(*zip(*points, strict=True), color=color, label=label, marker=marker, markersize=3, linewidth=1.4)
