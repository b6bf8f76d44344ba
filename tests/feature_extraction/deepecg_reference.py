"""DeepECG's pre-processing as it is described, in plain NumPy and SciPy: one step after the other, nothing batched."""

import numpy as np
import scipy.signal


def lowess(values: np.ndarray, fraction: float = 0.1, num_robust: int = 3) -> np.ndarray:
    """Robust local linear regression of an evenly spaced series (Cleveland 1979)."""
    count = len(values)
    size = max(int(fraction * count + 1e-10), 2)
    start = np.clip(np.arange(count) - size // 2, 0, count - size)
    index = start[:, None] + np.arange(size)
    distance = np.abs(index - np.arange(count)[:, None])
    tricube = (1 - (distance / distance.max(axis=1, keepdims=True)) ** 3) ** 3
    robust = np.ones(count)
    for _ in range(num_robust + 1):
        weight = tricube * robust[index]
        enough = (weight > 1e-12).sum(axis=1) >= 2
        weight = weight / np.where(enough, weight.sum(axis=1), 1)[:, None]
        x, y = index.astype(float), values[index]
        centre = (weight * x).sum(axis=1, keepdims=True)
        spread = np.maximum((weight * (x - centre) ** 2).sum(axis=1), 1e-10)
        slope = (weight * (x - centre) * y).sum(axis=1) / spread
        fit = (weight * y).sum(axis=1) + slope * (np.arange(count) - centre[:, 0])
        fit = np.where(enough, fit, values)
        residual = np.abs(values - fit)
        median = np.median(residual)
        scaled = residual / (6 * median) if median > 0 else (residual > 0).astype(float)
        robust = (1 - np.minimum(scaled, 1) ** 2) ** 2
    return fit


def amplitude_factor(leads_one: np.ndarray) -> float:
    """Return 3.003154 / mean magnitude of lead I of all records, `(records, samples)`."""
    return 3.003154 / np.abs(np.fft.fft(leads_one, axis=-1)).mean()


def peak_ranges(spectrum: np.ndarray, frequencies: np.ndarray) -> list[tuple[float, float]]:
    """Slide a window of 5 Hz over the spectrum from 20 Hz on; join the hits."""
    kept = frequencies >= 20
    spectrum, frequencies = spectrum[kept], frequencies[kept]
    if len(frequencies) < 2:
        return []
    window = int(5 / (frequencies[1] - frequencies[0]) + 1e-9)
    hits: list[float] = []
    for start in range(len(spectrum) - window + 1):
        piece = spectrum[start : start + window]
        mean, deviation = piece.mean(), piece.std()
        for offset in np.flatnonzero(piece > mean + 3.25 * deviation):
            frequency = frequencies[start + offset]
            related = any(
                abs(frequency - multiple * found) <= 0.05 * multiple * found
                for found in set(hits)
                for multiple in (2, 3, 4)
            )
            if piece[offset] > mean + (3.25 if related else 5) * deviation:
                hits.append(frequency)
    ranges = []
    for position, hit in enumerate(hits):
        if position == 0 or hit - hits[position - 1] > 1:
            ranges.append([hit, hit])
        ranges[-1][1] = hit
    return sorted({(first, last) for first, last in ranges})


def crossings(
    spectrum: np.ndarray, frequencies: np.ndarray, ranges: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Walk from the middle of each range down and up to where the spectrum crosses its smooth course."""
    kept = frequencies >= 30
    spectrum, frequencies = spectrum[kept], frequencies[kept]
    above = spectrum - lowess(scipy.signal.medfilt(spectrum, 5))
    result = []
    for first, last in ranges:
        low, high, middle = first, last, (first + last) / 2
        if middle >= 30:
            nearest = int(np.abs(frequencies - middle).argmin())
            for place in range(nearest, 0, -1):
                if above[place] * above[place - 1] < 0:
                    low = frequencies[place]
                    break
            for place in range(nearest, len(above) - 1):
                if above[place] * above[place + 1] < 0:
                    high = frequencies[place]
                    break
        result.append((low, high))
    return result


def flatten(lead: np.ndarray, ranges: list[tuple[float, float]], sampling_rate: float) -> np.ndarray:
    """Replace the magnitudes of one lead in the ranges by straight lines."""
    count = len(lead)
    spectrum = np.fft.fft(np.nan_to_num(lead))
    positive = np.fft.fftfreq(count, 1 / sampling_rate)
    positive = positive[positive >= 0]
    magnitude, phase = np.abs(spectrum), np.angle(spectrum)
    changed = magnitude.copy()
    for low, high in ranges:
        first = np.searchsorted(positive, low, side="left")
        last = np.searchsorted(positive, high, side="right") - 1
        if first >= last:
            continue
        bins = np.arange(first, last + 1)
        line = np.interp(bins, [first, last], [magnitude[first], magnitude[last]])
        changed[bins] = line
        changed[-bins] = line
    return np.fft.ifft(changed * np.exp(1j * phase)).real


def flatten_peaks(records: np.ndarray, sampling_rate: float, bandwidth: float = np.inf) -> np.ndarray:
    """Flatten the peaks below `bandwidth` (Hz) of a batch `(records, leads, samples)` by the batch's mean spectra."""
    count = records.shape[-1]
    frequencies = np.fft.fftfreq(count, 1 / sampling_rate)
    positive = (frequencies >= 0) & (frequencies < bandwidth)
    frequencies = frequencies[positive]
    spectra = np.abs(np.fft.fft(np.nan_to_num(records), axis=-1))[..., positive].mean(axis=0)
    ranges = peak_ranges(spectra[0], frequencies)
    if not ranges:
        return records
    result = np.empty_like(records)
    for lead in range(records.shape[1]):
        bounds = [(low - 1, high + 1) for low, high in crossings(spectra[lead], frequencies, ranges)]
        for record in range(len(records)):
            result[record, lead] = flatten(records[record, lead], bounds, sampling_rate)
    return result
