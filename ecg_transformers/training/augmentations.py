"""Disturbances as they occur in recordings, for records in mV: batched, on any device, each row from its own seed.

Every function takes `(rows, leads, samples)` with the sampling rate, and strengths in mV, Hz and seconds. What is
common to all:

- **Seeds.** A row's result follows from its seed alone: not from the other rows, their order, the device (to float
  tolerance) or the other leads that are there.
- **Electrodes.** Disturbances are drawn for electrodes and reach the leads as potentials do (see `electrodes`), so
  limb leads keep to Einthoven's law and Goldberger's definitions, whichever leads there are and in whatever order.
  Strengths are those at an electrode. Of independent noise of the same strength, I, II and III, differences of two
  electrodes, carry 1.41 times as much, aVR, aVL and aVF 1.22 times and chest leads 1.15 times. `mask_leads` takes
  leads away one by one and so leaves the others alone.
- **Padding and gaps.** Samples that `mask` calls padding stay as they are, missing samples (NaN) stay missing, and no
  disturbance reaches a lead that is constant, which is one that was not recorded.
- **Rates.** What a recorder of this rate could not have seen, at half the rate and above, is left out.

Polarity is never flipped: the deviation of an ST segment has a sign. Of the CREMA paper (arXiv 2407.07110) we know
the abstracts, which name no disturbances; these are those of fairseq-signals (`w2v_cmsc_augs.yaml`) and, ours, time
masking. Strengths are ours, those of poor but readable recordings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .electrodes import lead_matrix
from .row_randomness import hashed_uniforms

Range = tuple[float, float]

# Samples between two points at which the phase of a sine is computed anew
_PHASE_BLOCK = 64


def add_powerline(
    signals: torch.Tensor,
    sampling_rate: float,
    lead_names: Sequence[str],
    seeds: Sequence[int],
    amplitude_mv: Range = (0.0, 0.05),
    frequencies_hz: Sequence[float] = (50.0, 60.0),
    harmonics: int = 3,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add mains hum: 50 or 60 Hz with harmonics, one waveform that electrodes pick up more or less, in either sign.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        sampling_rate (`float`): Hz.
        lead_names (sequence of `str`): of the rows' leads.
        seeds (sequence of `int`): one for each row.
        amplitude_mv (`tuple`, *optional*, defaults to `(0, 0.05)`): least and largest peak of the fundamental, of
            which each electrode picks up a share between -1 and 1.
        frequencies_hz (sequence of `float`, *optional*, defaults to `(50, 60)`): frequencies of which a row gets one.
        harmonics (`int`, *optional*, defaults to 3): components, the fundamental included; the k-th has 1 / k of the
            fundamental's amplitude and a phase of its own.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor`: a disturbed copy.

    Raises:
        ValueError: for shapes that do not fit together, or strengths out of range.
    """
    _check(signals, sampling_rate, seeds, mask, lead_names)
    _check_range("amplitude_mv", amplitude_mv)
    if not frequencies_hz or min(frequencies_hz) <= 0 or harmonics < 1:
        raise ValueError(
            f"Mains hum needs frequencies above 0 Hz and at least 1 component; got {list(frequencies_hz)} Hz and "
            f"{harmonics} components."
        )
    electrodes, matrix = lead_matrix(lead_names)
    drawn = hashed_uniforms(seeds, ["powerline"], 2 + harmonics)[:, 0]
    amplitude = _within(drawn[:, 0], amplitude_mv)
    choice = (drawn[:, 1] * len(frequencies_hz)).long()
    order = torch.arange(1, harmonics + 1)
    frequencies = torch.tensor(list(frequencies_hz), dtype=torch.float64)[choice][:, None] * order
    weights = (frequencies < sampling_rate / 2) * amplitude[:, None] / order
    sines, _ = _sines(frequencies, drawn[:, 2:], sampling_rate, signals.shape[-1], signals.device)
    waveform = weights.to(sines)[:, None] @ sines
    shares = 2 * hashed_uniforms(seeds, [f"powerline {name}" for name in electrodes], 1)[..., 0] - 1
    return _add(signals, (shares @ matrix.T)[..., None], waveform, mask)


def add_emg(
    signals: torch.Tensor,
    sampling_rate: float,
    lead_names: Sequence[str],
    seeds: Sequence[int],
    rms_mv: Range = (0.0, 0.05),
    band_hz: Range = (20.0, 150.0),
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add muscle noise: independent at each electrode, of even power within a band and none outside.

    Surface electromyograms lie at 20 Hz and above; 150 Hz is where diagnostic recorders end.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        sampling_rate (`float`): Hz. Of a band that reaches beyond half of it only the lower part is there, with its
            share of the power: the same muscle, recorded at a lower rate.
        lead_names (sequence of `str`): of the rows' leads.
        seeds (sequence of `int`): one for each row.
        rms_mv (`tuple`, *optional*, defaults to `(0, 0.05)`): least and largest root mean square of the whole band.
        band_hz (`tuple`, *optional*, defaults to `(20, 150)`): edges of the band.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor`: a disturbed copy.

    Raises:
        ValueError: for shapes that do not fit together, or strengths out of range.
    """
    _check(signals, sampling_rate, seeds, mask, lead_names)
    _check_range("rms_mv", rms_mv)
    _check_range("band_hz", band_hz)
    electrodes, matrix = lead_matrix(lead_names)
    rms = _within(hashed_uniforms(seeds, ["emg"], 1)[:, 0, 0], rms_mv)
    noise = torch.zeros(len(signals), len(electrodes), signals.shape[-1], device=signals.device)
    height = torch.zeros(len(signals))
    # A spectrum spans the row's own samples, not the padding that its company brings.
    lengths = _extents(signals, mask)
    for length in sorted(set(lengths)):
        rows = [row for row, other in enumerate(lengths) if other == length]
        seconds = length / sampling_rate
        first, last = math.ceil(band_hz[0] * seconds), math.floor(band_hz[1] * seconds)
        seen = min(last, (length - 1) // 2) - max(first, 1) + 1
        if seen < 1:
            continue
        turns = hashed_uniforms(
            [seeds[row] for row in rows], [f"emg {name}" for name in electrodes], seen, signals.device
        )
        # Lines of equal height and random phase: the power of the band divided among all its lines
        height[rows] = math.sqrt(0.5 / (last - first + 1))
        turns *= 2 * math.pi
        spectrum = torch.zeros(*turns.shape[:2], length // 2 + 1, dtype=torch.complex64, device=signals.device)
        spectrum[..., max(first, 1) : max(first, 1) + seen] = torch.complex(turns.cos(), turns.sin())
        found = torch.fft.irfft(spectrum, length, norm="forward")
        if len(rows) == len(signals) and length == signals.shape[-1]:
            noise = found
        else:
            noise[torch.tensor(rows, device=signals.device), :, :length] = found
    return _add(signals, matrix * (rms * height)[:, None, None], noise, mask)


def add_baseline_wander(
    signals: torch.Tensor,
    sampling_rate: float,
    lead_names: Sequence[str],
    seeds: Sequence[int],
    amplitude_mv: Range = (0.0, 0.3),
    band_hz: Range = (0.05, 0.5),
    components: int = 3,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Add a wandering baseline: slow sines, as breathing and drying electrodes cause.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        sampling_rate (`float`): Hz.
        lead_names (sequence of `str`): of the rows' leads.
        seeds (sequence of `int`): one for each row.
        amplitude_mv (`tuple`, *optional*, defaults to `(0, 0.3)`): least and largest bound on an electrode's
            excursion. Each component has up to an equal part of it.
        band_hz (`tuple`, *optional*, defaults to `(0.05, 0.5)`): where the frequencies of a row lie.
        components (`int`, *optional*, defaults to 3): sines. Electrodes have the frequencies in common, and share and
            phase of their own.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor`: a disturbed copy.

    Raises:
        ValueError: for shapes that do not fit together, or strengths out of range.
    """
    _check(signals, sampling_rate, seeds, mask, lead_names)
    _check_range("amplitude_mv", amplitude_mv)
    _check_range("band_hz", band_hz)
    if components < 1:
        raise ValueError(f"A wandering baseline needs at least 1 component; got {components}.")
    electrodes, matrix = lead_matrix(lead_names)
    drawn = hashed_uniforms(seeds, ["wander"], 1 + components)[:, 0]
    frequencies = _within(drawn[:, 1:], band_hz).double()
    share, turn = hashed_uniforms(seeds, [f"wander {name}" for name in electrodes], 2 * components).chunk(2, dim=-1)
    height = share * _within(drawn[:, 0], amplitude_mv)[:, None, None] / components
    height = height * (frequencies < sampling_rate / 2)[:, None]
    angle = 2 * math.pi * turn
    # h sin(p + a) = h cos(a) sin(p) + h sin(a) cos(p): sines and cosines are computed once for all electrodes.
    weights = matrix @ torch.cat([height * angle.cos(), height * angle.sin()], dim=-1)
    waves = _sines(frequencies, torch.zeros_like(frequencies), sampling_rate, signals.shape[-1], signals.device)
    return _add(signals, weights, torch.cat(waves, dim=1), mask)


def add_baseline_shift(
    signals: torch.Tensor,
    sampling_rate: float,
    lead_names: Sequence[str],
    seeds: Sequence[int],
    amplitude_mv: Range = (0.0, 0.5),
    seconds: Range = (0.5, 5.0),
    electrode_probability: float = 0.3,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Shift the baseline in steps: an electrode that moves has another offset for a while.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        sampling_rate (`float`): Hz.
        lead_names (sequence of `str`): of the rows' leads.
        seeds (sequence of `int`): one for each row.
        amplitude_mv (`tuple`, *optional*, defaults to `(0, 0.5)`): least and largest step, up or down.
        seconds (`tuple`, *optional*, defaults to `(0.5, 5)`): shortest and longest duration. A shift begins anywhere
            in the row, and may outlast it.
        electrode_probability (`float`, *optional*, defaults to 0.3): of each electrode to move.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor`: a disturbed copy.

    Raises:
        ValueError: for shapes that do not fit together, or strengths out of range.
    """
    _check(signals, sampling_rate, seeds, mask, lead_names)
    _check_range("amplitude_mv", amplitude_mv)
    _check_range("seconds", seconds)
    _check_probability("electrode_probability", electrode_probability)
    electrodes, matrix = lead_matrix(lead_names)
    moves, sign, size, place, duration = hashed_uniforms(seeds, [f"shift {name}" for name in electrodes], 5).unbind(-1)
    step = torch.where(sign < 0.5, -1.0, 1.0) * _within(size, amplitude_mv) * (moves < electrode_probability)
    start = torch.floor(place * torch.tensor(_extents(signals, mask))[:, None])
    end = start + torch.round(_within(duration, seconds) * sampling_rate)
    start, end, step = (part.to(signals.device)[..., None] for part in (start, end, step))
    sample = torch.arange(signals.shape[-1], dtype=start.dtype, device=signals.device)
    shifts = torch.where((sample >= start) & (sample < end), step, 0.0)
    return _add(signals, matrix, shifts, mask)


def scale_amplitude(
    signals: torch.Tensor,
    seeds: Sequence[int],
    factors: Range = (0.8, 1.25),
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Multiply a row, all leads alike, by a factor: the gain, and how far the heart is from the electrodes.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        seeds (sequence of `int`): one for each row.
        factors (`tuple`, *optional*, defaults to `(0.8, 1.25)`): least and largest factor; its logarithm is drawn
            evenly, so that with these halves of the rows shrink and grow.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor`: a scaled copy.

    Raises:
        ValueError: for shapes that do not fit together, or factors out of range. Negative ones would turn ST
            elevations into depressions.
    """
    _check(signals, 1.0, seeds, mask)
    _check_range("factors", factors)
    if not factors[0] > 0:
        raise ValueError(f"Factors on the amplitude must be positive; got {tuple(factors)}.")
    drawn = hashed_uniforms(seeds, ["amplitude"], 1)
    scaled = signals * _within(drawn, (math.log(factors[0]), math.log(factors[1]))).exp().to(signals)
    return scaled if mask is None else torch.where(mask[:, None] != 0, scaled, signals)


def mask_time(
    signals: torch.Tensor,
    sampling_rate: float,
    seeds: Sequence[int],
    seconds: Range = (0.1, 1.0),
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hide a span of time in all leads: the samples become the lead's mean, so that an offset makes no step.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        sampling_rate (`float`): Hz.
        seeds (sequence of `int`): one for each row.
        seconds (`tuple`, *optional*, defaults to `(0.1, 1)`): shortest and longest span, which lies wholly within the
            row; at most all of it goes.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `torch.Tensor`: a masked copy. Missing samples stay missing.

    Raises:
        ValueError: for shapes that do not fit together, or durations out of range.
    """
    _check(signals, sampling_rate, seeds, mask)
    _check_range("seconds", seconds)
    length, place = hashed_uniforms(seeds, ["time mask"], 2)[:, 0].unbind(-1)
    extents = torch.tensor(_extents(signals, mask))
    length = torch.minimum(torch.round(_within(length, seconds) * sampling_rate).long(), extents)
    start = torch.minimum((place * (extents - length + 1)).long(), extents - length)
    # Spans are of different lengths: shorter ones repeat their last sample.
    step = torch.arange(max([1, *length.tolist()]))
    places = start[:, None] + torch.minimum(step, (length[:, None] - 1).clamp(min=0))
    places = places.clamp(max=signals.shape[-1] - 1).to(signals.device)
    hidden = (length > 0)[:, None].to(signals.device)
    if mask is not None:
        hidden = hidden & (mask.gather(1, places) != 0)
    places = places[:, None].expand(-1, signals.shape[1], -1)
    before = signals.gather(2, places)
    changes = hidden[:, None] & ~before.isnan() & carries_signal(signals, mask)[..., None]
    return signals.scatter(2, places, torch.where(changes, _mean(signals, mask), before))


def crop_time(
    signals: torch.Tensor,
    sampling_rate: float,
    seeds: Sequence[int],
    seconds: float,
    mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a piece out of each row at a random start.

    Args:
        signals (`torch.Tensor` of shape `(rows, leads, samples)`): mV.
        sampling_rate (`float`): Hz.
        seeds (sequence of `int`): one for each row.
        seconds (`float`): length of the piece. Rows that are not longer start at their beginning.
        mask (`torch.Tensor` of shape `(rows, samples)`, *optional*): zero where a sample is padding.

    Returns:
        `tuple`: the pieces, `(rows, leads, pieces' samples)`, and their mask, `(rows, pieces' samples)` (bool), `True`
        where a sample is real.

    Raises:
        ValueError: for shapes that do not fit together, or a piece without a sample.
    """
    _check(signals, sampling_rate, seeds, mask)
    length = min(round(seconds * sampling_rate), signals.shape[-1])
    if length < 1:
        raise ValueError(f"A piece of {seconds} s at {sampling_rate:g} Hz has no sample; cut longer ones.")
    starts = random_starts(seeds, "time crop", _extents(signals, mask), length)
    places = torch.tensor(starts, device=signals.device)[:, None] + torch.arange(length, device=signals.device)
    pieces = signals.gather(2, places[:, None].expand(-1, signals.shape[1], -1))
    real = torch.ones_like(places, dtype=torch.bool) if mask is None else (mask != 0).gather(1, places)
    return pieces, real


def random_starts(
    seeds: Sequence[int], purpose: str, lengths: Sequence[int], pieces: int | Sequence[int]
) -> list[int]:
    """Draw where pieces of rows start.

    Args:
        seeds (sequence of `int`): one for each row.
        purpose (`str`): what the pieces are for.
        lengths (sequence of `int`): of the rows, in samples.
        pieces (`int` or sequence of `int`): lengths of the pieces; 0 is the start of one that is no shorter than its
            row.
    """
    drawn = hashed_uniforms(seeds, [purpose], 1)[:, 0, 0].double()
    room = (torch.tensor(lengths) - torch.tensor(pieces)).clamp(min=0) + 1
    return (drawn * room).long().tolist()


def _check(
    signals: torch.Tensor,
    sampling_rate: float,
    seeds: Sequence[int],
    mask: torch.Tensor | None,
    lead_names: Sequence[str] | None = None,
) -> None:
    if signals.ndim != 3 or not signals.is_floating_point():
        raise ValueError(
            f"Augmentations take floating-point tensors (rows, leads, samples) in mV; got {signals.dtype} of shape "
            f"{tuple(signals.shape)}."
        )
    if not sampling_rate > 0:
        raise ValueError(f"The sampling rate must be a positive number of Hz; got {sampling_rate}.")
    if lead_names is not None and len(lead_names) != signals.shape[1]:
        raise ValueError(f"{signals.shape[1]} leads need {signals.shape[1]} names; got {list(lead_names)}.")
    if len(seeds) != signals.shape[0]:
        raise ValueError(f"Each of the {signals.shape[0]} rows needs a seed; got {len(seeds)} seeds.")
    if mask is not None and mask.shape != (signals.shape[0], signals.shape[2]):
        raise ValueError(
            f"`mask` needs the shape (rows, samples) = {(signals.shape[0], signals.shape[2])}; got "
            f"{tuple(mask.shape)}."
        )


def _check_range(name: str, limits: Range) -> None:
    if len(limits) != 2 or not 0 <= limits[0] <= limits[1] < math.inf:
        raise ValueError(f"{name} is a pair (least, largest) of numbers from 0 on; got {tuple(limits)}.")


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability in [0, 1]; got {value}.")


def _within(uniforms: torch.Tensor, limits: Range) -> torch.Tensor:
    return limits[0] + (limits[1] - limits[0]) * uniforms


def _extents(signals: torch.Tensor, mask: torch.Tensor | None) -> list[int]:
    """Return for each row where its last real sample ends."""
    if mask is None:
        return [signals.shape[-1]] * len(signals)
    places = torch.arange(1, mask.shape[-1] + 1, device=mask.device)
    return ((mask != 0) * places).amax(-1).tolist()


def _sines(
    frequencies: torch.Tensor, turns: torch.Tensor, sampling_rate: float, samples: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sines and cosines, each (rows, waves, samples) float32, of frequencies in Hz that begin at `turns`.

    Float32 cannot hold the phase of a long record to the thousandth of a turn, not every device has float64, and most
    of the sines are not needed: sin(a + b) and cos(a + b) follow from those of a, where a block of samples begins,
    and of b, the way from there. These few are computed in float64.
    """
    blocks = math.ceil(samples / _PHASE_BLOCK)
    frequencies = frequencies.double()
    starts = torch.arange(blocks, dtype=torch.float64) * (_PHASE_BLOCK / sampling_rate)
    starts = 2 * math.pi * ((frequencies[..., None] * starts + turns[..., None]) % 1)
    steps = torch.arange(_PHASE_BLOCK, dtype=torch.float64) * (2 * math.pi / sampling_rate)
    steps = frequencies[..., None] * steps
    ways = torch.stack([steps.cos(), steps.sin()], dim=-2).float().to(device)
    of_sine = torch.stack([starts.sin(), starts.cos()], dim=-1).float().to(device)
    of_cosine = torch.stack([starts.cos(), -starts.sin()], dim=-1).float().to(device)
    return tuple((begin @ ways).flatten(-2)[..., :samples] for begin in (of_sine, of_cosine))


def _mean(signals: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of each lead over the samples that are there, (rows, leads, 1)."""
    if mask is None:
        mean = signals.mean(-1, keepdim=True)
        if not bool(mean.isnan().any()):
            return mean
    known = ~signals.isnan() if mask is None else ~signals.isnan() & (mask[:, None] != 0)
    return torch.where(known, signals, 0.0).sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp(min=1)


def carries_signal(signals: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Tell which leads are not constant over their real samples, (rows, leads) bool."""
    # A few samples show that a lead varies; only leads in which these are equal are looked at in full.
    step = max(signals.shape[-1] // 16, 1)
    varies = _differ(signals[..., ::step], None if mask is None else mask[:, None, ::step])
    if not bool(varies.all()):
        row, lead = (~varies).nonzero(as_tuple=True)
        varies[row, lead] = _differ(signals[row, lead], None if mask is None else mask[row])
    return varies


def _differ(samples: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None:
        return (samples != samples[..., :1]).any(-1)
    real = (mask != 0).expand(samples.shape)
    low = samples.masked_fill(~real, math.inf).amin(-1)
    high = samples.masked_fill(~real, -math.inf).amax(-1)
    return real.any(-1) & (low != high)


def _add(signals: torch.Tensor, weights: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Add sources of noise (rows, sources, samples), as weights ((rows,) leads, sources) distribute them over leads.

    Weights are zero for leads without signal, and the noise for padding, so both stay as they are.
    """
    weights = weights.to(noise) * carries_signal(signals, mask)[..., None]
    if mask is not None:
        noise = noise * (mask[:, None] != 0)
    if signals.dtype == noise.dtype:
        return torch.baddbmm(signals, weights, noise)
    return signals + (weights @ noise).to(signals.dtype)
