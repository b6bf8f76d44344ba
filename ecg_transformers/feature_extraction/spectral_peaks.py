"""Power-line and other narrow spectral peaks: finding them on one lead, flattening them on all.

After the pre-processing published with DeepECG (medRxiv 10.1101/2025.03.02.25322575), in three stages:

1. `find_peak_ranges`: bins of lead I's magnitude spectrum that stand out of a sliding window, joined to ranges;
2. `find_crossings`: on each lead, where the spectrum around a range falls to its smooth course;
3. `flatten_magnitudes`: there the magnitudes become a straight line, phases stay.

`flatten_spectral_peaks` does the three. The original takes the mean spectrum of all records of a batch, so that a
record's result depends on its company; here each record is judged by its own spectrum, and the mean is an option.
"""

import functools

import numpy as np
import torch

from .local_regression import smooth_lowess

# Records whose spectra are in work at a time.
_RECORDS_PER_CHUNK = 64


@functools.lru_cache(maxsize=16)
def _positive_frequencies(num_samples: int, sampling_rate: float, device: torch.device) -> torch.Tensor:
    """Return the frequencies in Hz from 0 to below the Nyquist frequency, float64."""
    frequencies = np.fft.fftfreq(num_samples, 1 / sampling_rate)
    return torch.as_tensor(frequencies[frequencies >= 0], device=device)


def _band(
    num_samples: int, sampling_rate: float, low: float, high: float | None, device: torch.device
) -> tuple[slice, torch.Tensor]:
    """Return which of the positive frequencies lie from `low` to below `high`, as a slice, and themselves."""
    frequencies = _positive_frequencies(num_samples, sampling_rate, device)
    limits = [low, float("inf") if high is None else high]
    start, end = torch.searchsorted(frequencies, torch.tensor(limits, dtype=torch.float64, device=device)).tolist()
    return slice(start, end), frequencies[start:end]


@functools.lru_cache(maxsize=8)
def _harmonic_bins(
    num_samples: int,
    sampling_rate: float,
    low: float,
    high: float | None,
    tolerance: float,
    device: torch.device,
) -> torch.Tensor:
    """Mark `(bin, other bin)` where the other lies within the tolerance of 2, 3 or 4 times the first's frequency."""
    _, frequencies = _band(num_samples, sampling_rate, low, high, device)
    marked = torch.zeros(len(frequencies), len(frequencies), dtype=torch.bool, device=device)
    for multiple in (2, 3, 4):
        harmonic = multiple * frequencies[:, None]
        marked |= (frequencies[None, :] - harmonic).abs() <= tolerance * harmonic
    return marked.to(torch.float32)


def find_peak_ranges(
    spectra: torch.Tensor,
    num_samples: int,
    sampling_rate: float,
    *,
    window_hz: float = 5.0,
    deviations: float = 5.0,
    min_frequency: float = 20.0,
    max_frequency: float | None = None,
    harmonic_factor: float = 0.65,
    harmonic_tolerance: float = 0.05,
    join_hz: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find narrow peaks in magnitude spectra and join them to ranges.

    A window of `window_hz` slides bin by bin over the frequencies from `min_frequency` on. A bin is a peak if in some
    window it exceeds the mean by `deviations` standard deviations (of the population), or by `harmonic_factor` times
    as many if it lies within `harmonic_tolerance` of 2, 3 or 4 times a peak's frequency. The peaks of all windows, one
    window after the other, are joined as long as the frequency rises by at most `join_hz` or falls; a range reaches
    from the first to the last of a run. So a range may begin above its end, where two peaks that are seen in the same
    windows lie more than `join_hz` apart.

    Args:
        spectra (`torch.Tensor` of shape `(records, bins)`): magnitudes at the frequencies from 0 to below the Nyquist
            frequency.
        num_samples (`int`): samples that were transformed.
        sampling_rate (`float`): Hz.
        max_frequency (`float`, *optional*): Hz, from where on the recordings hold nothing, such as half the rate at
            which they were sampled before they were brought to a higher one.
        window_hz, deviations, min_frequency, harmonic_factor, harmonic_tolerance, join_hz (`float`): see above.

    Returns:
        `tuple`: the record of each range `(ranges,)`, and first and last frequency in Hz `(ranges, 2)`, float64, in
        ascending order per record, without repeats.
    """
    device = spectra.device
    kept, frequencies = _band(num_samples, sampling_rate, min_frequency, max_frequency, device)
    spectra = spectra[:, kept].to(torch.float64)
    window = int(window_hz * num_samples / sampling_rate + 1e-9)
    none = torch.zeros(0, dtype=torch.int64, device=device), torch.zeros(0, 2, dtype=torch.float64, device=device)
    if window < 2 or spectra.shape[-1] < window or spectra.shape[0] == 0:
        return none
    seen = spectra.unfold(-1, window, 1)
    mean = seen.mean(-1)
    # Several times faster than `std` on overlapping windows.
    deviation = (seen - mean[..., None]).square_().mean(-1).sqrt_()
    highest = torch.nn.functional.max_pool1d(spectra, window, stride=1)
    rows = (highest > mean + deviations * deviation).any(-1).nonzero().flatten()
    if len(rows) == 0:
        return none
    seen, mean, deviation = seen[rows], mean[rows, :, None], deviation[rows, :, None]
    hits = seen > mean + deviations * deviation
    lower = seen > mean + deviations * harmonic_factor * deviation
    harmonics = _harmonic_bins(num_samples, sampling_rate, min_frequency, max_frequency, harmonic_tolerance, device)
    # A harmonic is found after its base, which is why the original looks back; and a harmonic has harmonics too.
    bins = torch.arange(window, device=device) + torch.arange(seen.shape[1], device=device)[:, None]
    found = 0
    while int(hits.sum()) > found:
        found = int(hits.sum())
        peaks = torch.zeros(len(rows), len(frequencies), dtype=torch.float32, device=device)
        record, start, offset = hits.nonzero(as_tuple=True)
        peaks[record, start + offset] = 1
        related = (peaks @ harmonics) > 0
        hits = hits | (lower & related[:, bins])

    record, start, offset = hits.nonzero(as_tuple=True)
    frequency = frequencies[start + offset]
    breaks = (record[1:] != record[:-1]) | (frequency[1:] - frequency[:-1] > join_hz)
    edge = torch.ones(1, dtype=torch.bool, device=device)
    first, last = torch.cat([edge, breaks]), torch.cat([breaks, edge])
    ranges = torch.stack([rows[record[first]].to(torch.float64), frequency[first], frequency[last]], dim=-1)
    ranges = ranges.unique(dim=0)
    return ranges[:, 0].to(torch.int64), ranges[:, 1:]


def find_crossings(
    spectra: torch.Tensor,
    ranges: torch.Tensor,
    num_samples: int,
    sampling_rate: float,
    *,
    min_frequency: float = 30.0,
    max_frequency: float | None = None,
    median_bins: int = 5,
    smooth_fraction: float = 0.1,
) -> torch.Tensor:
    """Find where the spectrum around the middle of a range crosses its smooth course, below and above.

    The smooth course is `smooth_lowess` of the running median, over the frequencies from `min_frequency` on. Going
    away from the middle bin, a crossing is a strict change of sign between two bins; the bin nearer to the middle is
    taken. Where there is none, and where the middle lies below `min_frequency`, the range's own end stays.

    Args:
        spectra (`torch.Tensor` of shape `(records, leads, bins)`): as for `find_peak_ranges`.
        ranges (`tuple`): what `find_peak_ranges` returned for these records.
        num_samples, sampling_rate: as for `find_peak_ranges`.
        min_frequency (`float`, *optional*, defaults to 30): Hz.
        max_frequency (`float`, *optional*): as for `find_peak_ranges`.
        median_bins (`int`, *optional*, defaults to 5): odd length of the running median; zeros beyond the ends.
        smooth_fraction (`float`, *optional*, defaults to 0.1): share of the bins in a neighbourhood.

    Returns:
        `torch.Tensor` of shape `(ranges, leads, 2)`: frequencies in Hz, float64.
    """
    record, ends = ranges
    kept, frequencies = _band(num_samples, sampling_rate, min_frequency, max_frequency, spectra.device)
    spectra = spectra[..., kept].to(torch.float64)
    crossings = ends[:, None, :].repeat(1, spectra.shape[1], 1)
    middle = ends.mean(-1)
    if len(frequencies) < 3:
        return crossings
    used, position = record.unique(return_inverse=True)
    spectra = spectra[used]
    padded = torch.nn.functional.pad(spectra, (median_bins // 2, median_bins // 2))
    median = padded.unfold(-1, median_bins, 1).median(-1).values
    above = spectra - smooth_lowess(median, smooth_fraction)

    bins = torch.arange(len(frequencies), device=spectra.device)
    changes = torch.nn.functional.pad(above[..., 1:] * above[..., :-1] < 0, (1, 1))
    # changes[b]: between bin b - 1 and bin b. From the middle down, bin b is the last before it; up, bin b - 1.
    below = torch.where(changes[..., :-1], bins, -1).cummax(-1).values
    beyond = torch.where(changes[..., 1:], bins, len(bins)).flip(-1).cummin(-1).values.flip(-1)
    nearest = (frequencies[None, :] - middle[:, None]).abs().argmin(-1)
    nearest = nearest[:, None, None].expand(-1, spectra.shape[1], 1)
    found = [bound[position].gather(-1, nearest).squeeze(-1) for bound in (below, beyond)]
    inside = (middle >= min_frequency)[:, None]
    for end, bound in enumerate(found):
        exists = inside & (bound >= 0) & (bound < len(bins))
        crossings[..., end] = torch.where(exists, frequencies[bound.clamp(0, len(bins) - 1)], crossings[..., end])
    return crossings


def flatten_magnitudes(
    signal: torch.Tensor, record: torch.Tensor, bounds: torch.Tensor, sampling_rate: float
) -> torch.Tensor:
    """Replace the magnitudes between two frequencies by the straight line between those at the ends; phases stay.

    Where ranges overlap, each line joins original magnitudes, and the later range of a record wins. A range that does
    not end above its start is skipped.

    Args:
        signal (`torch.Tensor` of shape `(records, leads, samples)`): without NaN.
        record (`torch.Tensor` of shape `(ranges,)`): the record of each range, ascending.
        bounds (`torch.Tensor` of shape `(ranges, leads, 2)`): lowest and highest frequency in Hz, float64.
        sampling_rate (`float`): Hz.

    Returns:
        `torch.Tensor` of the shape and dtype of `signal`.
    """
    num_samples = signal.shape[-1]
    frequencies = _positive_frequencies(num_samples, sampling_rate, signal.device)
    low = torch.searchsorted(frequencies, bounds[..., 0].contiguous(), side="left")
    high = torch.searchsorted(frequencies, bounds[..., 1].contiguous(), side="right") - 1
    spectrum = torch.fft.rfft(signal)
    magnitude = spectrum.abs()[..., : len(frequencies)]
    target = magnitude.clone()
    bins = torch.arange(len(frequencies), device=signal.device)
    # One pass for the first range of every record, one for the second, ...
    rank = torch.arange(len(record), device=record.device) - torch.searchsorted(record, record)
    for turn in range(int(rank.max()) + 1 if len(rank) else 0):
        chosen = rank == turn
        rows, start, end = record[chosen], low[chosen], high[chosen]
        valid = (start < end) & (start < len(bins))
        start, end = torch.where(valid, start, 0), torch.where(valid, end, 0)
        heights = magnitude[rows]
        at_start, at_end = heights.gather(-1, start[..., None]), heights.gather(-1, end[..., None])
        slope = (at_end - at_start) / (end - start).clamp(min=1)[..., None]
        line = at_start + slope * (bins - start[..., None])
        covered = valid[..., None] & (bins >= start[..., None]) & (bins <= end[..., None])
        target[rows] = torch.where(covered, line, target[rows])
    # A bin without a magnitude has no phase; its angle counts as 0.
    scale = torch.where(magnitude > 0, target / magnitude, 1.0)
    kept = spectrum[..., : len(frequencies)]
    spectrum[..., : len(frequencies)] = torch.where(magnitude > 0, kept * scale, target.to(kept.dtype))
    return torch.fft.irfft(spectrum, n=num_samples)


def flatten_spectral_peaks(
    signal: torch.Tensor,
    sampling_rate: float,
    *,
    lead: int = 0,
    statistics: str = "record",
    window_hz: float = 5.0,
    deviations: float = 5.0,
    min_frequency: float = 20.0,
    max_frequency: float | None = None,
    harmonic_factor: float = 0.65,
    join_hz: float = 1.0,
    widen_hz: float = 1.0,
) -> torch.Tensor:
    """Flatten the narrow spectral peaks, such as power-line interference, of recordings of equal length.

    Args:
        signal (`torch.Tensor` of shape `(records, leads, samples)`): any unit: nothing depends on the scale. NaN
            count as 0.
        sampling_rate (`float`): Hz.
        lead (`int`, *optional*, defaults to 0): row of the lead on which peaks are looked for.
        statistics (`"record"` or `"batch"`, *optional*): whose spectrum tells what is a peak and where it ends: each
            record's own, or the mean over all records, as in the original.
        window_hz, deviations, min_frequency, max_frequency, harmonic_factor, join_hz (`float`, *optional*): see
            `find_peak_ranges`.
        widen_hz (`float`, *optional*, defaults to 1): Hz added to both sides of the crossings.

    Returns:
        `torch.Tensor` of the same shape and dtype. Records without a peak are returned as they are; so are those
        below 5.4 s with the default `deviations`, since among 26 bins none can stand out by 5.

    Raises:
        ValueError: if `statistics` or `lead` is none of the possible.
    """
    if statistics not in ("record", "batch"):
        raise ValueError(f"statistics must be 'record' or 'batch'; got {statistics!r}.")
    if not 0 <= lead < signal.shape[1]:
        raise ValueError(f"lead {lead} is no row of a signal with {signal.shape[1]} leads.")
    if signal.shape[-1] < 4:
        return signal
    num_samples, num_bins = signal.shape[-1], (signal.shape[-1] + 1) // 2
    search = {
        "window_hz": window_hz,
        "deviations": deviations,
        "min_frequency": min_frequency,
        "max_frequency": max_frequency,
        "harmonic_factor": harmonic_factor,
        "join_hz": join_hz,
    }

    if signal.device.type == "mps":
        # Apple's GPUs have no double precision.
        options = {"lead": lead, "statistics": statistics, "widen_hz": widen_hz, **search}
        return flatten_spectral_peaks(signal.cpu(), sampling_rate, **options).to(signal.device)

    def magnitudes(piece: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(piece.nan_to_num(nan=0.0)).abs()[..., :num_bins]

    bounds = None
    if statistics == "batch":
        total = sum(magnitudes(piece).sum(0, dtype=torch.float64) for piece in signal.split(_RECORDS_PER_CHUNK))
        spectra = total[None] / len(signal)
        shared = find_peak_ranges(spectra[:, lead], num_samples, sampling_rate, **search)
        if len(shared[0]) == 0:
            return signal
        bounds = find_crossings(spectra, shared, num_samples, sampling_rate, max_frequency=max_frequency)

    result = signal
    for start in range(0, len(signal), _RECORDS_PER_CHUNK):
        piece = signal[start : start + _RECORDS_PER_CHUNK]
        if bounds is not None:
            rows = torch.arange(len(piece), device=signal.device)
            position, limits = rows.repeat_interleave(len(bounds)), bounds.repeat(len(piece), 1, 1)
        else:
            record, ends = find_peak_ranges(magnitudes(piece[:, lead]), num_samples, sampling_rate, **search)
            if len(record) == 0:
                continue
            rows, position = record.unique(return_inverse=True)
            piece = piece[rows]
            limits = find_crossings(
                magnitudes(piece), (position, ends), num_samples, sampling_rate, max_frequency=max_frequency
            )
        limits = torch.stack([limits[..., 0] - widen_hz, limits[..., 1] + widen_hz], dim=-1)
        if result is signal:
            result = signal.clone()
        result[start + rows] = flatten_magnitudes(piece.nan_to_num(nan=0.0), position, limits, sampling_rate)
    return result
