"""Descriptors of shards: what HuBERT-ECG's first codebooks are made of, for a batch of records at once.

A record of 5 s is decimated lead by lead, a few samples are cut off at the ends of each lead, the leads are joined,
and the row is cut into 93 shards, one for each token of the model; shards straddle leads. Geometry, descriptors and
their order are those of HuBERT-ECG (Coppola et al., medRxiv 10.1101/2024.11.14.24317328, and the code published with
it). That code describes one record at a time and writes a file for each; here it is a batch of tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..feature_extraction.signal_operations import decimate_zero_phase, rows_with_nan

# Hz of the preprocessed records, and how long they are.
INPUT_RATE = 500
INPUT_SAMPLES = 2500
NUM_SHARDS = 93

TIME_FREQUENCY_NAMES = (
    "minimum",
    "maximum",
    "mean",
    "root mean square",
    "variance",
    "standard deviation",
    "power",
    "peak",
    "peak to peak",
    "crest factor",
    "skewness",
    "excess kurtosis",
    "spectrum maximum",
    "spectrum sum",
    "spectrum mean",
    "spectrum variance",
)

# Kaldi's defaults, as torchaudio's `compliance.kaldi.mfcc` has them; the floor is the epsilon of float32.
_NUM_MELS, _NUM_CEPSTRA, _LOWEST_HZ, _PREEMPHASIS, _LIFTER = 23, 13, 20.0, 0.97, 22.0
_ENERGY_FLOOR = 1.1920928955078125e-07


@dataclass(frozen=True)
class _Geometry:
    factor: int
    # Samples cut off before a lead, after one of even index, after one of odd index.
    cut: tuple[int, int, int]
    shard: int


_GEOMETRIES = {100: _Geometry(5, (2, 2, 2), 64), 50: _Geometry(10, (1, 1, 1), 32), 500: _Geometry(1, (2, 2, 3), 322)}


def cut_shards(leads: torch.Tensor, sampling_rate: int = 100) -> torch.Tensor:
    """Decimate the leads of records and cut the joined leads into shards.

    The decimation runs over each lead on its own, unlike that of the model's input, which runs over the joined leads.
    It filters at 500 Hz too, where it keeps every sample. A lead with NaN becomes the mean of all other samples.

    Args:
        leads (`torch.Tensor` of shape `(records, 12, 2500)`): preprocessed records at 500 Hz, in the order of the
            model's leads: HuBERT-ECG's recipe up to and without `concatenate_leads`.
        sampling_rate (`int`, *optional*, defaults to 100): Hz of the shards: 100, 50 or 500.

    Returns:
        `torch.Tensor` of shape `(records, 93, samples)`, float64: 64 samples at 100 Hz, 32 at 50 Hz, 322 at 500 Hz.

    Raises:
        ValueError: for another shape or rate.
    """
    if sampling_rate not in _GEOMETRIES:
        raise ValueError(f"Shards have {', '.join(map(str, _GEOMETRIES))} Hz; got {sampling_rate!r}.")
    if leads.ndim != 3 or leads.shape[1:] != (12, INPUT_SAMPLES):
        raise ValueError(
            f"Shards are cut from (records, 12 leads, {INPUT_SAMPLES} samples), 5 s at {INPUT_RATE} Hz; got "
            f"{tuple(leads.shape)}. HuBERT-ECG's recipe makes them, up to `concatenate_leads`."
        )
    geometry = _GEOMETRIES[sampling_rate]
    leads = leads.to(torch.float64)
    void = rows_with_nan(leads)
    some_void = bool(void.any())
    if some_void:
        leads = leads.masked_fill(void[..., None], 0.0)
    shards = _join(decimate_zero_phase(leads, geometry.factor), geometry)
    if some_void:
        nan = join_shards(void[..., None].expand_as(leads), sampling_rate)
        known = (~nan).sum((1, 2), keepdim=True).clamp(min=1)
        shards = torch.where(nan, shards.masked_fill(nan, 0.0).sum((1, 2), keepdim=True) / known, shards)
    return shards


def _join(decimated: torch.Tensor, geometry: _Geometry) -> torch.Tensor:
    """Cut the ends off `(records, 12, samples)`, join the leads and cut them in `(records, 93, samples)`."""
    front, *back = geometry.cut
    length = decimated.shape[-1]
    pieces = [decimated[:, lead, front : length - back[lead % 2]] for lead in range(12)]
    return torch.cat(pieces, dim=-1).unflatten(-1, (NUM_SHARDS, geometry.shard))


def join_shards(leads: torch.Tensor, sampling_rate: int = 100) -> torch.Tensor:
    """Cut something that belongs to the samples of the leads, such as marks, as `cut_shards` cuts the leads.

    Args:
        leads (`torch.Tensor` of shape `(records, 12, 2500)`): of any type, at 500 Hz; samples between those of the
            shards are dropped, nothing is filtered.
        sampling_rate (`int`, *optional*, defaults to 100): Hz of the shards: 100, 50 or 500.

    Returns:
        `torch.Tensor` of shape `(records, 93, samples)`.
    """
    geometry = _GEOMETRIES[sampling_rate]
    return _join(leads[..., :: geometry.factor], geometry)


def real_shards(real: torch.Tensor, sampling_rate: int = 100) -> torch.Tensor:
    """Tell which shards hold no padding.

    Args:
        real (`torch.BoolTensor` of shape `(records, 2500)`): which samples of the leads are real, at 500 Hz.
        sampling_rate (`int`, *optional*, defaults to 100): Hz of the shards: 100, 50 or 500.

    Returns:
        `torch.BoolTensor` of shape `(records, 93)`.
    """
    return join_shards(real[:, None].expand(-1, 12, -1), sampling_rate).all(-1)


def time_frequency_descriptors(shards: torch.Tensor) -> torch.Tensor:
    """Return 16 numbers on the samples and the spectrum of each shard, see `TIME_FREQUENCY_NAMES`.

    Variance and standard deviation divide by the number of samples, skewness and kurtosis are the biased ones and NaN
    for a shard that is constant to the precision of its mean, as SciPy's. The spectrum is |FFT|^2 by the number of
    samples, over all (positive and negative) frequencies.

    Args:
        shards (`torch.Tensor` of shape `(..., samples)`): float64 for the original's numbers.

    Returns:
        `torch.Tensor` of shape `(..., 16)`.
    """
    size = shards.shape[-1]
    low, high = shards.amin(-1), shards.amax(-1)
    mean = shards.mean(-1)
    power = shards.square().mean(-1)
    rms = power.sqrt()
    centred = shards - mean[..., None]
    squares = centred.square()
    variance = squares.mean(-1)
    # SciPy's bound on what counts as constant, with the resolution that NumPy gives the type.
    resolution = 10.0 ** -int(-math.log10(torch.finfo(shards.dtype).eps))
    moments = variance.masked_fill(variance <= (resolution * mean).square(), torch.nan)
    skewness = (squares * centred).mean(-1) / moments**1.5
    kurtosis = squares.square().mean(-1) / moments.square() - 3
    peak = torch.maximum(high.abs(), low.abs())

    spectrum = torch.fft.rfft(shards)
    spectrum = (spectrum.real.square() + spectrum.imag.square()) / size
    # Of a real signal half of the spectrum is the other half; 0 Hz and the Nyquist frequency are there once.
    weights = torch.full_like(spectrum[(0,) * (spectrum.ndim - 1)], 2.0)
    weights[0] = 1.0
    if size % 2 == 0:
        weights[-1] = 1.0
    total = (spectrum * weights).sum(-1)
    average = total / size
    spread = ((spectrum - average[..., None]).square() * weights).sum(-1) / size
    return torch.stack(
        [
            low,
            high,
            mean,
            rms,
            variance,
            variance.sqrt(),
            power,
            peak,
            high - low,
            peak / rms,
            skewness,
            kurtosis,
            spectrum.amax(-1),
            total,
            average,
            spread,
        ],
        dim=-1,
    )


def mfcc_descriptors(shards: torch.Tensor, sampling_rate: int = 100) -> torch.Tensor:
    """Return 13 mel-frequency cepstral coefficients of each shard and their first and second differences.

    Kaldi's routine with one frame per shard: offset removed, pre-emphasis 0.97, Povey window, FFT padded to a power
    of two, 23 mel bands from 20 Hz to half the rate, discrete cosine transform, lifter 22. A shard is a single frame,
    so the differences are 0; the original stores them, and so the codebooks know 39 values.

    Args:
        shards (`torch.Tensor` of shape `(..., samples)`): float64 for the original's numbers.
        sampling_rate (`int`, *optional*, defaults to 100): of the shards, Hz.

    Returns:
        `torch.Tensor` of shape `(..., 39)`.

    Raises:
        ValueError: if half the rate is not above 20 Hz, where the bands begin.
    """
    window, bands, transform = (
        table.to(device=shards.device, dtype=shards.dtype) for table in _mfcc_tables(shards.shape[-1], sampling_rate)
    )
    frames = shards - shards.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    frames = (frames - _PREEMPHASIS * before) * window
    spectrum = torch.fft.rfft(frames, n=2 * (bands.shape[0] - 1))
    energies = (spectrum.real.square() + spectrum.imag.square()) @ bands
    cepstra = energies.clamp(min=_ENERGY_FLOOR).log() @ transform
    return torch.cat([cepstra, torch.zeros_like(cepstra), torch.zeros_like(cepstra)], dim=-1)


@functools.lru_cache(maxsize=8)
def _mfcc_tables(size: int, sampling_rate: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the window `(size,)`, the mel bands `(frequencies, 23)` and the cosine transform `(23, 13)`."""
    if sampling_rate / 2 <= _LOWEST_HZ:
        raise ValueError(
            f"MFCC have mel bands from {_LOWEST_HZ:g} Hz to half the rate; at {sampling_rate} Hz there are none."
        )
    window = torch.hann_window(size, periodic=False, dtype=torch.float64) ** 0.85
    padded = 1 << (size - 1).bit_length()

    # Bands and transform in single precision, step by step as torchaudio has them: rounding otherwise changes the
    # coefficients by up to 1e-3.
    lowest, highest = (1127.0 * math.log(1 + hertz / 700.0) for hertz in (_LOWEST_HZ, sampling_rate / 2))
    step = (highest - lowest) / (_NUM_MELS + 1)
    band = torch.arange(_NUM_MELS, dtype=torch.float32)
    left, centre, right = lowest + band * step, lowest + (band + 1) * step, lowest + (band + 2) * step
    hertz = sampling_rate / padded * torch.arange(padded // 2, dtype=torch.float32)
    places = (1127.0 * torch.log(1 + hertz / 700.0))[:, None]
    bands = torch.minimum((places - left) / (centre - left), (right - places) / (right - centre)).clamp(min=0)
    # Kaldi's bands do not reach the Nyquist frequency.
    bands = torch.nn.functional.pad(bands, (0, 0, 0, 1))

    index = torch.arange(_NUM_CEPSTRA, dtype=torch.float32)
    transform = torch.cos(math.pi / _NUM_MELS * (band[:, None] + 0.5) * index) * math.sqrt(2 / _NUM_MELS)
    transform[:, 0] = math.sqrt(1 / _NUM_MELS)
    transform *= 1 + 0.5 * _LIFTER * torch.sin(math.pi * index / _LIFTER)
    return window, bands, transform


def _mixed_descriptors(shards: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    return torch.cat(
        [time_frequency_descriptors(shards), mfcc_descriptors(shards, sampling_rate)[..., :_NUM_CEPSTRA]], dim=-1
    )


# name -> (how many values, function of the shards and their rate)
DESCRIPTORS: dict[str, tuple[int, Callable[[torch.Tensor, int], torch.Tensor]]] = {
    "time_frequency": (16, lambda shards, sampling_rate: time_frequency_descriptors(shards)),
    "mfcc": (39, mfcc_descriptors),
    "mixed": (29, _mixed_descriptors),
}


def describe_shards(leads: torch.Tensor, kind: str = "mfcc", sampling_rate: int = 100) -> torch.Tensor:
    """Return the descriptors of the shards of records.

    Args:
        leads (`torch.Tensor` of shape `(records, 12, 2500)`): see `cut_shards`; the device is where it is computed.
        kind (`str`, *optional*, defaults to `"mfcc"`): `"time_frequency"` (16 values), `"mfcc"` (39), or `"mixed"`
            (29: the 16, then 13 MFCC).
        sampling_rate (`int`, *optional*, defaults to 100): Hz of the shards: 100, 50 or 500.

    Returns:
        `torch.Tensor` of shape `(records, 93, values)`, float32, computed in float64. Skewness and kurtosis of
        constant shards are NaN, as the original's.

    Raises:
        ValueError: for an unknown kind, another shape or rate.

    Example:
        >>> describe_shards(leads, "mixed").shape
        torch.Size([8, 93, 29])
    """
    if kind not in DESCRIPTORS:
        raise ValueError(f"Descriptors are {', '.join(DESCRIPTORS)}; got {kind!r}.")
    shards = cut_shards(leads, sampling_rate)
    return DESCRIPTORS[kind][1](shards, sampling_rate).to(torch.float32)
