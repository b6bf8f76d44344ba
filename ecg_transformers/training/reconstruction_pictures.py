"""Pictures of how a masked autoencoder rebuilds a record: what it saw, what it made of the rest, and the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback
from transformers.utils import logging

from ..files import written_atomically
from .callbacks import GracefulStopCallback
from .output_folder import LAST_PICTURE, PICTURES_FOLDER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.get_logger(__name__)

_SEEN, _TRUTH, _REBUILT, _SHADE = "#101010", "#69a5dd", "#b8330a", "#eeeeee"
_INCHES_PER_LEAD = 0.8


@dataclass
class Reconstruction:
    """A record and what a model made of it.

    Args:
        truth (`np.ndarray` of shape `(leads, samples)`): model input, without padding.
        rebuilt (`np.ndarray` of shape `(leads, samples)`): in the same scale.
        hidden (`np.ndarray` of shape `(leads, samples)`): whether the model did not see a sample.
    """

    truth: np.ndarray
    rebuilt: np.ndarray
    hidden: np.ndarray


@torch.no_grad()
def reconstruct_record(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Reconstruction:
    """Let a model rebuild the first record of a batch; its mode and random numbers stay as they are.

    Args:
        model (`HybridECGForPreTraining`): the model, on any device.
        batch (mapping): what `HybridECGCollator` makes.
    """
    was_training = model.training
    model.eval()
    try:
        batch = {name: value[:1].to(model.device) for name, value in batch.items()}
        outputs = model(**batch)
        record = {name: batch.get(name) for name in ("input_values", "attention_mask", "lead_mask")}
        rebuilt = model.reconstruct(outputs, **record)[0]
        hidden = model.expand_mask(outputs["mask"], rebuilt.shape[-1])[0]
    finally:
        model.train(was_training)
    real = batch["attention_mask"][0].bool() if "attention_mask" in batch else slice(None)
    truth, rebuilt, hidden = (
        value[:, real].float().cpu().numpy() for value in (batch["input_values"][0], rebuilt, hidden)
    )
    return Reconstruction(truth, rebuilt, hidden.astype(bool))


def plot_reconstruction(
    shown: Reconstruction,
    sampling_rate: float,
    lead_names: Sequence[str],
    unit: str,
    title: str,
    note: str | None = None,
) -> Figure:
    """Draw a row for each lead: black what the model saw, red what it made of the rest, blue the truth behind it.

    Args:
        shown (`Reconstruction`): the record.
        sampling_rate (`float`): Hz.
        lead_names (sequence of `str`): of its leads.
        unit (`str`): of its values, such as `"mV"`.
        title (`str`): first line.
        note (`str`, *optional*): second line, smaller.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    leads, samples = shown.truth.shape
    height = _INCHES_PER_LEAD * leads + 1.5
    figure = Figure(figsize=(13, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.subplots(leads, 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.08, right=0.985, top=1 - 0.95 / height, bottom=0.55 / height, hspace=0.12)
    seconds = np.arange(samples) / sampling_rate
    for axes, name, truth, rebuilt, hidden in zip(
        rows, lead_names, shown.truth, shown.rebuilt, shown.hidden, strict=True
    ):
        for start, stop in _stretches(hidden):
            axes.axvspan(start / sampling_rate, stop / sampling_rate, color=_SHADE, linewidth=0, zorder=0)
        # Broken lines join where hidden meets seen, so that nothing is missing between them.
        axes.plot(seconds, _where(_widened(hidden), truth), color=_TRUTH, linewidth=2.0, zorder=1)
        axes.plot(seconds, _where(hidden, rebuilt), color=_REBUILT, linewidth=0.9, zorder=3)
        axes.plot(seconds, _where(~hidden, truth), color=_SEEN, linewidth=0.9, zorder=2)
        axes.set_ylim(*_limits(truth, rebuilt[hidden]))
        if not np.ptp(truth):
            axes.text(0.005, 0.6, "no signal", transform=axes.transAxes, fontsize=8, color="#444444", va="bottom")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11, fontweight="bold")
        axes.locator_params(axis="y", nbins=3)
        axes.tick_params(axis="y", labelsize=7)
        axes.tick_params(axis="x", length=0 if axes is not rows[-1] else 3, labelsize=9)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    rows[-1].set_xlim(0, samples / sampling_rate)
    rows[-1].set_xlabel("time (s)", fontsize=10)
    figure.text(0.012, 0.5, unit, rotation=90, va="center", ha="center", fontsize=10)
    figure.text(0.08, 1 - 0.30 / height, title, fontsize=12, fontweight="bold", va="center")
    if note:
        figure.text(0.08, 1 - 0.55 / height, note, fontsize=8.5, va="center", color="#444444")
    figure.legend(
        handles=[
            Line2D([], [], color=_SEEN, label="seen by the model"),
            Patch(facecolor=_SHADE, label="hidden from it"),
            Line2D([], [], color=_REBUILT, label="rebuilt"),
            Line2D([], [], color=_TRUTH, linewidth=2, label="truth"),
        ],
        loc="center left",
        bbox_to_anchor=(0.075, 1 - 0.78 / height),
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    return figure


def _stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """Return start and end of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _widened(flags: np.ndarray) -> np.ndarray:
    wide = flags.copy()
    wide[1:] |= flags[:-1]
    wide[:-1] |= flags[1:]
    return wide


def _where(flags: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(flags, values, np.nan)


def _limits(truth: np.ndarray, rebuilt: np.ndarray) -> tuple[float, float]:
    """Return limits with room for the truth, and for what is rebuilt unless it goes far beyond."""
    low, high = float(truth.min()), float(truth.max())
    span = high - low or 1.0
    if len(rebuilt):
        low = min(low, max(float(rebuilt.min()), low - 0.5 * span))
        high = max(high, min(float(rebuilt.max()), high + 0.5 * span))
    return low - 0.1 * span, high + 0.1 * span


def unit_of_recipe(recipe: Sequence[Mapping[str, Any]]) -> str:
    """Return what to call the values that a recipe ends with."""
    steps = {entry["step"]: entry for entry in recipe}
    if "scale_zscore" in steps:
        return f"z-score of the {steps['scale_zscore'].get('per', 'record')}"
    return "model input" if any("scale" in name or "counts" in name for name in steps) else "mV"


class ReconstructionPictures(TrainerCallback):
    """Draw every so many steps, and at the end, how one record is rebuilt.

    Pictures are written into a folder of the run, `reconstructions/step-000500.png` and `reconstructions/final.png`
    (the model that is saved), each in one piece. Without matplotlib a warning says once that there are none.

    Args:
        output_dir (`Path`): of the run.
        batch (mapping): one record, collated as for validation.
        every (`int`): steps between pictures, at least 1.
        sampling_rate (`float`): of the model input, Hz.
        lead_names (sequence of `str`): its rows.
        unit (`str`): of its values.
        name (`str`): what to call the record.
        stopper (`GracefulStopCallback`): tells that a run was interrupted and has no end.

    Attributes:
        drawn (`list[str]`): the pictures, relative to `output_dir`.
    """

    def __init__(
        self,
        output_dir: Path,
        batch: Mapping[str, torch.Tensor],
        every: int,
        sampling_rate: float,
        lead_names: Sequence[str],
        unit: str,
        name: str,
        stopper: GracefulStopCallback,
    ):
        self.output_dir = Path(output_dir)
        self.batch = dict(batch)
        self.every = every
        self.can_draw = _has_matplotlib()
        self.sampling_rate = sampling_rate
        self.lead_names = list(lead_names)
        self.unit = unit
        self.name = name
        self.stopper = stopper
        # Those that a resumed run drew before
        self.drawn = sorted(
            f"{PICTURES_FOLDER}/{path.name}" for path in (self.output_dir / PICTURES_FOLDER).glob("step-*.png")
        )

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Draw, if it is time."""
        if self.can_draw and state.is_world_process_zero and state.global_step % self.every == 0:
            self.draw(model, f"step-{state.global_step:06d}.png", f"step {state.global_step}")

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Draw what the model that is saved makes of the record."""
        if self.can_draw and state.is_world_process_zero and self.stopper.received is None:
            best = args.load_best_model_at_end and state.best_global_step
            when = f"best model, step {best}" if best else f"end, step {state.global_step}"
            self.draw(model, LAST_PICTURE, when)

    def draw(self, model: PreTrainedModel, file_name: str, when: str) -> None:
        """Write one picture."""
        config = model.config
        shown = reconstruct_record(model, self.batch)
        note = f"{100 * config.mask_ratio:g} % of the tokens hidden ({config.mask_strategy.replace('_', ' ')})."
        if config.normalize_targets:
            note += (
                " The model learns the form of each patch: what is rebuilt is drawn with the true mean and scale of "
                "the patch."
            )
        figure = plot_reconstruction(
            shown, self.sampling_rate, self.lead_names, self.unit, f"{self.name}, {when}", note
        )
        folder = self.output_dir / PICTURES_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        with written_atomically(folder / file_name, "wb") as file:
            figure.savefig(file, format="png")
        name = f"{PICTURES_FOLDER}/{file_name}"
        if name not in self.drawn:
            self.drawn.append(name)


def _has_matplotlib() -> bool:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        logger.warning(
            "There will be no pictures of reconstructions: they need matplotlib, pip install 'ecg-transformers[plot]' "
            "(--picture_steps 0 asks for none)."
        )
        return False
    return True
