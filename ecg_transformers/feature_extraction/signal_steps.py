"""The named steps of a recipe: functions `SignalBatch -> SignalBatch`, registered with `signal_step`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .missing_samples import bridge_gaps
from .signal_operations import (
    bandpass_fir_taps,
    decimate_zero_phase,
    filter_butterworth_zero_phase,
    filter_fir_zero_phase,
    resample_fourier,
    rows_with_nan,
    scale_minmax,
    scale_zscore,
)
from .spectral_peaks import flatten_spectral_peaks


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
        bandwidth (`float`, *optional*): Hz, from where on the recordings hold nothing, since they were sampled at a
            lower rate; `None` means half the sampling rate.
    """

    signal: torch.Tensor
    sampling_rate: float
    valid: torch.Tensor
    record_index: torch.Tensor
    windows: str = "first"
    generator: torch.Generator | None = None
    bandwidth: float | None = None


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
        bandwidth=min(batch.bandwidth or batch.sampling_rate / 2, sampling_rate / 2),
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


@signal_step("bandpass_butterworth")
def bandpass_butterworth_step(batch: SignalBatch, low: float, high: float, order: int) -> SignalBatch:
    """Zero-phase Butterworth high-pass at `low` Hz, then low-pass at `high` Hz, each of `order`."""
    signal = filter_butterworth_zero_phase(batch.signal, low, batch.sampling_rate, order, "highpass")
    signal = filter_butterworth_zero_phase(signal, high, batch.sampling_rate, order, "lowpass")
    return replace(batch, signal=signal)


@signal_step("scale_minmax")
def scale_minmax_step(batch: SignalBatch, per: str = "lead", epsilon: float = 1e-8) -> SignalBatch:
    """Scale to [-1, 1] by the extremes of each lead of the whole recording."""
    if per != "lead":
        raise ValueError(f"scale_minmax knows per='lead'; got {per!r}.")
    return replace(batch, signal=scale_minmax(batch.signal, epsilon))


@signal_step("scale_zscore")
def scale_zscore_step(batch: SignalBatch, per: str = "record") -> SignalBatch:
    """Bring the whole recording to mean 0 and standard deviation 1, all leads together or `per` `"lead"`.

    The leads of a record keep their proportions. Leads without signal do not count and become 0 (`scale_zscore`).
    """
    if per not in ("record", "lead"):
        raise ValueError(f"scale_zscore knows per='record' and per='lead'; got {per!r}.")
    return replace(batch, signal=scale_zscore(batch.signal, per_lead=per == "lead"))


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


@signal_step("slice_stride")
def slice_stride_step(batch: SignalBatch, num_samples: int, sampling_rate: float) -> SignalBatch:
    """Keep every `floor(samples / num_samples)`-th sample, without a filter and without a cut.

    DeepECG's way to bring recordings of 10 s to 2500 samples. The rate of a recording does not enter, `sampling_rate`
    is what the model takes the result to be: 4096 samples stay 4096, at whatever rate; a warning tells where the
    true rate differs. What lies above half the new rate is folded down; the `resample` step avoids both.
    """
    length = batch.signal.shape[-1]
    if length < num_samples:
        raise ValueError(
            f"slicing by stride takes recordings of {num_samples} samples or more; this one has {length}. Take a "
            "recipe that resamples and pads instead."
        )
    stride = length // num_samples
    true_rate = batch.sampling_rate / stride
    if abs(true_rate - sampling_rate) > 0.01 * sampling_rate:
        warnings.warn(
            f"Slicing by stride leaves {length} samples at {batch.sampling_rate:g} Hz with {true_rate:g} Hz, but the "
            f"model takes them to be {sampling_rate:g} Hz. A recipe that resamples does not do this.",
            stacklevel=2,
        )
    return replace(
        batch,
        signal=batch.signal[..., ::stride],
        sampling_rate=sampling_rate,
        bandwidth=None,
        valid=batch.valid[:, ::stride],
    )


@signal_step("scale_amplitude")
def scale_amplitude_step(batch: SignalBatch, factor: float) -> SignalBatch:
    """Multiply by a fixed number, such as `estimate_amplitude_factor` finds for a corpus."""
    if not 0 < factor < float("inf"):
        raise ValueError(f"scale_amplitude takes a positive finite factor; got {factor!r}.")
    return batch if factor == 1 else replace(batch, signal=batch.signal * factor)


@signal_step("convert_to_counts")
def convert_to_counts_step(batch: SignalBatch, millivolts_per_count: float) -> SignalBatch:
    """Turn mV into the counts of a converter, without rounding."""
    if not 0 < millivolts_per_count < float("inf"):
        raise ValueError(f"convert_to_counts takes a positive number of mV per count; got {millivolts_per_count!r}.")
    return replace(batch, signal=batch.signal * (1 / millivolts_per_count))


@signal_step("flatten_spectral_peaks")
def flatten_spectral_peaks_step(
    batch: SignalBatch,
    lead: int = 0,
    statistics: str = "record",
    window_hz: float = 5.0,
    deviations: float = 5.0,
    min_frequency: float = 20.0,
    harmonic_factor: float = 0.65,
    join_hz: float = 1.0,
    widen_hz: float = 1.0,
) -> SignalBatch:
    """Flatten power-line and other narrow spectral peaks (`flatten_spectral_peaks`); padding at the end stays zero.

    Peaks are looked for on one lead, the row `lead`; where that is missing, nothing is flattened. With `statistics`
    `"record"` each row is judged by its own spectrum. `"batch"` is the original's mean over the batch: there a
    recording's result depends on the others.
    """
    options = {
        "lead": lead,
        "statistics": statistics,
        "window_hz": window_hz,
        "deviations": deviations,
        "min_frequency": min_frequency,
        "max_frequency": batch.bandwidth,
        "harmonic_factor": harmonic_factor,
        "join_hz": join_hz,
        "widen_hz": widen_hz,
    }
    # The spectrum of a padded row would be that of its edge.
    length = batch.signal.shape[-1]
    padded = batch.valid.cummin(-1).values.sum(-1)
    padded = torch.where(padded == batch.valid.sum(-1), padded, length)
    lengths = padded.unique().tolist()
    if lengths == [length]:
        return replace(batch, signal=flatten_spectral_peaks(batch.signal, batch.sampling_rate, **options))
    signal = batch.signal.clone()
    for real in lengths:
        rows = (padded == real).nonzero().flatten()
        signal[rows, :, :real] = flatten_spectral_peaks(batch.signal[rows, :, :real], batch.sampling_rate, **options)
    return replace(batch, signal=signal)
