"""The named steps of a recipe: functions `SignalBatch -> SignalBatch`, registered with `signal_step`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .missing_samples import bridge_gaps
from .signal_operations import (
    bandpass_fir_taps,
    decimate_zero_phase,
    filter_fir_zero_phase,
    resample_fourier,
    rows_with_nan,
    scale_minmax,
)


@dataclass
class SignalBatch:
    """What the steps of a recipe hand on: recordings of equal rate and length, and what is known about them.

    Args:
        signal (`torch.Tensor` of shape `(rows, leads, samples)`, or `(rows, samples)` once leads are concatenated).
        sampling_rate (`float`): Hz; after `concatenate_leads` that of each lead's piece.
        valid (`torch.Tensor` of shape `(rows, samples)`): `False` where a sample is padding; the same for all leads.
        record_index (`torch.Tensor` of shape `(rows,)`): which recording of the batch a row is cut from.
        windows (`str`): what `crop` cuts: `"first"`, `"random"` or `"all"`.
        generator (`torch.Generator`, *optional*): of the random window starts, on the CPU.
    """

    signal: torch.Tensor
    sampling_rate: float
    valid: torch.Tensor
    record_index: torch.Tensor
    windows: str = "first"
    generator: torch.Generator | None = None


SIGNAL_STEPS: dict[str, Callable[..., SignalBatch]] = {}


def signal_step(name: str) -> Callable:
    """Register a function `(batch, **parameters) -> batch` as a step that recipes can name."""

    def register(function: Callable[..., SignalBatch]) -> Callable[..., SignalBatch]:
        SIGNAL_STEPS[name] = function
        return function

    return register


def apply_recipe(batch: SignalBatch, recipe: list[dict]) -> SignalBatch:
    """Run the steps of a recipe in order."""
    for entry in recipe:
        batch = SIGNAL_STEPS[entry["step"]](batch, **{key: value for key, value in entry.items() if key != "step"})
    return batch


@signal_step("resample")
def resample_step(batch: SignalBatch, sampling_rate: float) -> SignalBatch:
    """Fourier resampling to `sampling_rate` Hz: `int(samples * (sampling_rate / rate))` samples, in floating point."""
    num_samples = int(batch.signal.shape[-1] * (sampling_rate / batch.sampling_rate))
    if num_samples < 1:
        raise ValueError(
            f"{batch.signal.shape[-1]} samples at {batch.sampling_rate} Hz leave none at {sampling_rate} Hz; the "
            "recording is too short."
        )
    return replace(
        batch,
        signal=resample_fourier(batch.signal, num_samples),
        sampling_rate=sampling_rate,
        valid=_resize_mask(batch.valid, num_samples),
    )


def _resize_mask(valid: torch.Tensor, num_samples: int) -> torch.Tensor:
    if valid.shape[-1] == num_samples:
        return valid
    position = torch.arange(num_samples, device=valid.device) * valid.shape[-1] // num_samples
    return valid[:, position]


@signal_step("bandpass_fir")
def bandpass_fir_step(batch: SignalBatch, low: float, high: float, seconds: float) -> SignalBatch:
    """Zero-phase FIR band-pass (`bandpass_fir_taps`) from `low` to `high` Hz, impulse response of `seconds`."""
    taps = bandpass_fir_taps(low, high, batch.sampling_rate, seconds)
    return replace(batch, signal=filter_fir_zero_phase(batch.signal, taps))


@signal_step("scale_minmax")
def scale_minmax_step(batch: SignalBatch, per: str = "lead", epsilon: float = 1e-8) -> SignalBatch:
    """Scale to [-1, 1] by the extremes of each lead of the whole recording."""
    if per != "lead":
        raise ValueError(f"scale_minmax knows per='lead'; got {per!r}.")
    return replace(batch, signal=scale_minmax(batch.signal, epsilon))


@signal_step("crop")
def crop_step(batch: SignalBatch, seconds: float) -> SignalBatch:
    """Cut windows of `seconds`; pad the end of shorter recordings with zeros that `valid` marks as padding.

    Which windows is the caller's choice (`batch.windows`): the first; one at a random start; or all, side by side from
    the start, where a remainder moves the last window back so that it ends with the recording.
    """
    size = round(seconds * batch.sampling_rate)
    signal, valid, length = batch.signal, batch.valid, batch.signal.shape[-1]
    if length <= size:
        padding = (0, size - length)
        return replace(
            batch,
            signal=torch.nn.functional.pad(signal, padding),
            valid=torch.nn.functional.pad(valid, padding, value=False),
        )
    if batch.windows == "first":
        return replace(batch, signal=signal[..., :size], valid=valid[:, :size])
    if batch.windows == "random":
        starts = torch.randint(length - size + 1, (signal.shape[0], 1), generator=batch.generator)
        row = torch.arange(signal.shape[0])[:, None]
    else:
        starts = torch.arange(0, length, size).clamp(max=length - size)
        row = torch.arange(signal.shape[0]).repeat_interleave(len(starts))[:, None]
        starts = starts.repeat(signal.shape[0])[:, None]
    row = row.to(signal.device)
    column = (starts + torch.arange(size)).to(signal.device)
    lead = torch.arange(signal.shape[1], device=signal.device)[None, :, None]
    return replace(
        batch,
        signal=signal[row[:, :, None], lead, column[:, None, :]],
        valid=valid[row, column],
        record_index=batch.record_index[row[:, 0].to(batch.record_index.device)],
    )


@signal_step("fill_nan")
def fill_nan_step(batch: SignalBatch, value: float | str) -> SignalBatch:
    """Replace NaN by a number, by the `"mean"` of the other samples of the window, or along a line (`"interpolate"`).

    The mean is over all leads, padding left out. The line connects the samples beside a gap (`bridge_gaps`); a lead of
    nothing but NaN becomes zero.
    """
    signal = batch.signal
    if not bool(rows_with_nan(signal).any()):
        return batch
    nan = signal.isnan()
    if value == "interpolate":
        signal = bridge_gaps(signal)
        nan, fill = signal.isnan(), torch.zeros_like(signal[:1, :1, :1])
    elif value == "mean":
        counted = ~nan & batch.valid[:, None, :]
        total = torch.where(counted, signal, 0.0).sum(dim=(1, 2), keepdim=True)
        fill = total / counted.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    elif isinstance(value, int | float):
        fill = torch.full_like(signal[:1, :1, :1], value)
    else:
        raise ValueError(f"fill_nan takes a number, 'mean' or 'interpolate'; got {value!r}.")
    return replace(batch, signal=torch.where(nan, fill, signal))


@signal_step("mask_zero_padding")
def mask_zero_padding_step(batch: SignalBatch) -> SignalBatch:
    """Mark as padding what lies before the first and after the last sample at which any lead differs from exact zero.

    For corpora that fill recordings up with zeros (CODE-15 %). HuBERT-ECG looks for its padding by this rule, but
    after decimation has made the zeros ring, where it finds none; so the step is not part of the model's recipe. As
    the first step of a recipe it does what was meant.
    """
    sounding = (batch.signal != 0).any(dim=1)
    begun = sounding.cummax(dim=-1).values
    unfinished = sounding.flip(-1).cummax(dim=-1).values.flip(-1)
    return replace(batch, valid=batch.valid & begun & unfinished)


@signal_step("concatenate_leads")
def concatenate_leads_step(batch: SignalBatch) -> SignalBatch:
    """Lay the leads end to end in one row: `(rows, leads, samples)` becomes `(rows, leads * samples)`."""
    num_leads = batch.signal.shape[1]
    return replace(batch, signal=batch.signal.flatten(1), valid=batch.valid.repeat(1, num_leads))


@signal_step("decimate")
def decimate_step(batch: SignalBatch, factor: int) -> SignalBatch:
    """Low-pass and keep every `factor`-th sample (`decimate_zero_phase`), over the row as it stands.

    After `concatenate_leads` the filter runs across the joints of the leads, as HuBERT-ECG's does.
    """
    return replace(
        batch,
        signal=decimate_zero_phase(batch.signal, factor),
        sampling_rate=batch.sampling_rate / factor,
        valid=batch.valid[:, ::factor],
    )
