"""What each step of an input recipe makes of a recording: the stages as arrays, and as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import written_atomically
from .visualization import _checked_path, _write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
    from .record import ECGRecord

# What the values are in after these steps
_UNIT_AFTER = {"scale_minmax": "−1 to 1", "scale_zscore": "deviations", "convert_to_counts": "counts"}
_BEFORE, _AFTER, _FAINT = "#f0a878", "#10304a", "#8a8a8a"
# Seconds of the close-up, and where in the recording it is looked for (ours)
_CLOSE_UP = 0.7
_CLOSE_UP_OF_SAMPLES = 0.16
_LOOKED_AT = 4.0
# Where in the close-up the steepest flank lies, as a share of it
_FLANK_AT = 0.55


@dataclass(frozen=True)
class RecipeStage:
    """A recording between two steps of a recipe.

    Args:
        step (`dict`, *optional*): the step that led here; `None` for the recording as the recipe takes it.
        signal (`np.ndarray` of shape `(leads, samples)`, or `(samples,)` once leads are end to end): in `unit`.
        sampling_rate (`float`): Hz; of leads end to end that of each lead's piece.
        valid (`np.ndarray` of shape `(samples,)`): `False` where a sample is padding.
        unit (`str`): `"mV"` until a step scales.
    """

    step: dict[str, Any] | None
    signal: np.ndarray
    sampling_rate: float
    valid: np.ndarray
    unit: str


def trace_recipe(record: ECGRecord, extractor: ECGFeatureExtractor) -> list[RecipeStage]:
    """Run a recipe step by step on one recording.

    Args:
        record (`ECGRecord`): the recording.
        extractor (`ECGFeatureExtractor`): holds the recipe; its checks of the input come first, as in its call.

    Returns:
        `list[RecipeStage]`: the recording with the model's leads in the model's order, then what each step made of it.
            The last stage is the model's input: the first window.

    Raises:
        ValueError: for a recording that the extractor refuses.
    """
    import torch

    from .feature_extraction.signal_steps import SignalBatch, apply_recipe

    groups, _ = extractor._group(record, None, None, "mV", None)
    (((rate, *_), (_, names, signal, present)),) = groups.items()
    signal, _ = extractor._check(signal, present, names, 1, rate)
    valid = torch.ones(1, signal.shape[-1], dtype=torch.bool)
    batch = SignalBatch(signal, rate, valid, torch.zeros(1, dtype=torch.long))
    unit = "mV"
    stages = [_stage(None, batch, unit)]
    for entry in extractor.recipe:
        batch = apply_recipe(batch, [entry])
        unit = _UNIT_AFTER.get(entry["step"], unit)
        stages.append(_stage(entry, batch, unit))
    return stages


def _stage(entry: dict[str, Any] | None, batch: Any, unit: str) -> RecipeStage:
    return RecipeStage(entry, batch.signal[0].numpy(), float(batch.sampling_rate), batch.valid[0].numpy(), unit)


def describe_step(entry: dict[str, Any]) -> str:
    """Return a step on one line, as `"crop: seconds 5"`."""
    parameters = ", ".join(f"{name} {value}" for name, value in entry.items() if name != "step")
    return f"{entry['step']}: {parameters}" if parameters else entry["step"]


def plot_recipe(
    record: ECGRecord,
    extractor: ECGFeatureExtractor,
    path: str | os.PathLike | None = None,
    *,
    lead: str = "II",
    title: str | None = None,
    dpi: int = 80,
) -> Figure:
    """Draw one lead of a recording before and after every step of a recipe and, if a path is given, write the picture.

    A row is a step: on the left all of the lead, on the right a close-up around its steepest flank, before the step
    (orange) and after it (blue); where the rate changes, the dots are samples. Where a step changes the unit, the two
    have scales of their own. Behind `concatenate_leads` the row of all leads is shown, and the close-up is of the
    joint of two leads where the values jump most.

    Args:
        record (`ECGRecord`): the recording.
        extractor (`ECGFeatureExtractor`): holds the recipe.
        path (`str` or path, *optional*): file to write; `.png`, `.pdf` or `.svg`.
        lead (`str`, *optional*, defaults to `"II"`): one of the extractor's `lead_names`.
        title (`str`, *optional*): headline.
        dpi (`int`, *optional*, defaults to 80): resolution of a PNG.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: for a lead that the model does not take, a file extension that cannot be written, or a recording
            that the extractor refuses.
        FileNotFoundError: if the folder of `path` does not exist.

    Example:
        ```python
        plot_recipe(read_ecg("JS00001.hea"), ECGFeatureExtractor.for_model_type("hubert_ecg"), "steps.png")
        ```
    """
    if lead not in extractor.lead_names:
        raise ValueError(f"`lead` is one of {', '.join(extractor.lead_names)}; got {lead!r}.")
    target = None if path is None else _checked_path(path)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing ECGs needs matplotlib: pip install 'ecg-transformers[plot]'") from error

    stages = trace_recipe(record, extractor)
    row = extractor.lead_names.index(lead)
    steps = len(stages) - 1
    height = 1.12 * steps + 0.55
    figure = Figure(figsize=(9, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        steps,
        2,
        width_ratios=(2.6, 1),
        hspace=0.85,
        wspace=0.12,
        left=0.055,
        right=0.985,
        top=1 - 0.62 / height,
        bottom=0.3 / height,
    )
    headline = title if title is not None else f"lead {lead} over seconds, before (orange) and after (blue) each step"
    figure.text(0.055, 1 - 0.2 / height, headline, fontsize=9, fontweight="bold", va="center", parse_math=False)
    start = _steepest(stages[0].signal[row], stages[0].sampling_rate)
    for number, (before, after) in enumerate(zip(stages[:-1], stages[1:], strict=True)):
        whole, close = (figure.add_subplot(grid[number, column]) for column in (0, 1))
        _draw_step(whole, close, before, after, row, start, len(extractor.lead_names))
        shape = " × ".join(map(str, after.signal.shape))
        told = f"{number + 1}. {describe_step(after.step)}"
        if after.signal.shape == before.signal.shape and np.array_equal(after.signal, before.signal, equal_nan=True):
            told += "  (changes nothing here)"
        whole.set_title(told, fontsize=8, loc="left", pad=3, parse_math=False)
        close.set_title(f"{shape}, {after.sampling_rate:g} Hz, {after.unit}", fontsize=7, loc="right", pad=3)
    if target is not None:
        _write_picture(figure, target, dpi)
    return figure


def _steepest(signal: np.ndarray, rate: float) -> float:
    """Return where the close-up begins, in seconds: around the steepest flank of the first seconds."""
    span = max(1, round(0.02 * rate))
    part = np.nan_to_num(signal[: round(_LOOKED_AT * rate)])
    if len(part) <= span:
        return 0.0
    flank = np.abs(part[span:] - part[:-span]).argmax() / rate
    return max(0.0, float(flank) - _FLANK_AT * _CLOSE_UP)


def _highest_joint(row: np.ndarray, num_leads: int) -> int:
    """Return after how many leads, laid end to end, the row makes its highest jump."""
    joints = np.arange(1, num_leads) * (len(row) // num_leads)
    jumps = np.abs(np.nan_to_num(row[joints]) - np.nan_to_num(row[joints - 1]))
    return 1 + int(jumps.argmax()) if len(jumps) else 1


def _draw_step(
    whole: Any, close: Any, before: RecipeStage, after: RecipeStage, row: int, start: float, num_leads: int
) -> None:
    """Draw a step into its two panels."""
    new_rate = before.sampling_rate != after.sampling_rate
    seconds = _CLOSE_UP_OF_SAMPLES if new_rate else _CLOSE_UP
    if after.signal.ndim == 1:
        # Times run on from lead to lead
        length = after.signal.shape[-1] / num_leads / after.sampling_rate
        joint = _highest_joint(before.signal if before.signal.ndim == 1 else after.signal, num_leads) * length
        start = joint - seconds / 2
        for lead in range(1, num_leads):
            whole.axvline(lead * length, color=_FAINT, linewidth=0.5, zorder=0)
        close.axvline(joint, color=_FAINT, linewidth=0.5, zorder=0)
    elif new_rate:
        start += _FLANK_AT * (_CLOSE_UP - _CLOSE_UP_OF_SAMPLES)
    traces = [(before, _BEFORE), (after, _AFTER)]
    if after.signal.ndim != before.signal.ndim:
        traces = traces[1:]
    for panel, is_close in ((whole, False), (close, True)):
        end = 0.0
        for stage, color in traces:
            values = stage.signal if stage.signal.ndim == 1 else stage.signal[row]
            axes = panel if before.unit == after.unit or stage is after else panel.twinx()
            if axes is not panel:
                # Behind the other, and without a scale
                axes.set_axis_off()
                panel.set_zorder(axes.get_zorder() + 1)
                panel.set_frame_on(False)
            times = np.arange(len(values)) / stage.sampling_rate
            end = max(end, len(values) / stage.sampling_rate)
            wide = 1.6 if stage is before else 0.0
            if is_close:
                shown = (times >= start) & (times <= start + seconds)
                dots = {"marker": ".", "markersize": 5 if stage is before else 3} if new_rate else {}
                axes.plot(times[shown], values[shown], color=color, linewidth=0.9 + (0 if new_rate else wide), **dots)
            else:
                axes.plot(times, values, color=color, linewidth=0.6 + wide)
        panel.set_xlim(*((start, start + seconds) if is_close else (-0.005 * end, 1.005 * end)))
        panel.tick_params(labelsize=6.5, length=2, pad=1.5)
        panel.locator_params(axis="y", nbins=3)
        panel.locator_params(axis="x", nbins=5 if is_close else 9)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    if not after.valid.all() and after.signal.ndim == 2:
        padded = np.flatnonzero(~after.valid) / after.sampling_rate
        whole.axvspan(padded[0], padded[-1], color="#eeeeee", zorder=0)


def _write_picture(figure: Figure, target: Path, dpi: int) -> None:
    """Write beside the target, then put it in place. A PNG gets a palette, which makes it a third as large."""
    if target.suffix.lower() != ".png":
        _write(figure, target, dpi)
        return
    from PIL import Image

    canvas = figure.canvas
    canvas.draw()
    image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    with written_atomically(target, "wb") as file:
        image.quantize(32, dither=Image.Dither.NONE).save(file, format="PNG", optimize=True)
