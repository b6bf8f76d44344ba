"""How good a recording is: missing, flat and clipped leads, wander, noise, power line, padding, swapped electrodes.

Every index is a plain number with its definition and source beside it; whether a recording is good enough depends on
the use, so the limits behind `issues` are those of `QualityLimits` and can be changed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .record import ECGRecord

# Runs of equal samples shorter than this are the steps of the converter, not a disconnected lead.
FLAT_SECONDS = 0.2

# Samples that stay at the extreme of a lead this long are cut off; a peak stays there for a sample or two.
CLIPPED_SECONDS = 0.012

# Below this length spectra and wander mean little.
MIN_SECONDS = 2.0


@dataclass(frozen=True)
class QualityLimits:
    """From where on an index is an issue. The values are ours, set so that most clinical recordings have none.

    Args:
        missing_fraction, flat_fraction, clipped_fraction (`float`): shares of a lead's samples.
        low_span_mv (`float`): a limb lead that moves less has no signal; 0.1 mV after the table of electrode mistakes
            in PMC10902517 (table 5, "very low voltage").
        wander_mv (`float`): peak to peak.
        noise_mv (`float`): root mean square above 40 Hz, between the beats.
        power_line_mv (`float`): amplitude.
        baseline_power (`float`): basSQI. Below 0.9 is "unqualified" for Zhao and Zhang (Front Physiol 9:727, 2018);
            many leads of recordings that were not filtered are.
        limb_error_mv (`float`): disagreement of the limb leads; up to 0.012 in public data sets but LUDB (0.2).
        padding_seconds (`float`): at either end.
    """

    missing_fraction: float = 0.0
    flat_fraction: float = 0.2
    clipped_fraction: float = 0.005
    low_span_mv: float = 0.1
    wander_mv: float = 1.0
    noise_mv: float = 0.05
    power_line_mv: float = 0.05
    baseline_power: float = 0.3
    limb_error_mv: float = 0.05
    padding_seconds: float = 0.2


@dataclass(frozen=True)
class LeadQuality:
    """The indices of one lead, over the time that is not padding; `None` where they cannot be computed.

    Args:
        missing_fraction (`float`): samples that are NaN.
        flat_fraction (`float`): samples within runs of at least 0.2 s of one value (fSQI of Behar et al., IEEE Trans
            Biomed Eng 60:1660, 2013, counts all equal neighbours, of which coarse converters have many).
        clipped_fraction (`float`): samples in runs of at least 12 ms at the lead's highest or lowest value (ours).
        span_mv (`float`): from the 0.1th to the 99.9th percentile.
        wander_mv (`float`): peak to peak of what is below 0.5 Hz, the usual cut-off against wander (Kligfield et al.,
            Circulation 115:1306, 2007).
        noise_mv (`float`): root mean square above 40 Hz, without the power line, in the quieter half of windows of
            0.1 s, so that QRS complexes do not count (ours).
        power_line_mv (`float`): amplitude at the power line's frequency above its surroundings (ours).
        baseline_power (`float`): basSQI, 1 - power from 0 to 1 Hz / power from 0 to 40 Hz; 0.95 and more is excellent
            (Behar et al. 2013; Zhao and Zhang 2018). The mean is taken off first.
        qrs_power (`float`): pSQI, power from 5 to 15 Hz / power from 5 to 40 Hz; 0.5 to 0.8 in good recordings at 60
            to 130 beats a minute (Li, Mark and Clifford, Physiol Meas 29:15, 2008; Zhao and Zhang 2018).
        kurtosis (`float`): kSQI, above 5 in good recordings (Li, Mark and Clifford 2008).
    """

    missing_fraction: float
    flat_fraction: float
    clipped_fraction: float
    span_mv: float | None = None
    wander_mv: float | None = None
    noise_mv: float | None = None
    power_line_mv: float | None = None
    baseline_power: float | None = None
    qrs_power: float | None = None
    kurtosis: float | None = None


@dataclass(frozen=True)
class ECGQuality:
    """What `assess_quality` returns.

    Args:
        leads (`dict[str, LeadQuality]`): per lead.
        missing_leads (`list[str]`): of the twelve standard leads those that are neither there nor derivable.
        padding_seconds (`tuple[float, float]`): time at the beginning and at the end in which every lead stays at one
            value or is NaN, or of which the file tells that it holds a calibration pulse (ours).
        power_line_hz (`int`, *optional*): 50 or 60, whichever stands out of the spectrum; `None` if neither does.
        limb_error_mv (`float`, *optional*): the 95th percentile of the disagreement of III, aVR, aVL and aVF with what
            follows from I and II (Einthoven's law, Goldberger's leads), in the worst of them.
        limb_electrodes (`str`, *optional*): which limb electrodes may be swapped, see `assess_quality`.
        issues (`list[str]`): sentences on what is beyond the limits; empty for a good recording.
    """

    leads: dict[str, LeadQuality]
    missing_leads: list[str]
    padding_seconds: tuple[float, float]
    power_line_hz: int | None = None
    limb_error_mv: float | None = None
    limb_electrodes: str | None = None
    issues: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return all indices as JSON-like values."""
        values = asdict(self)
        values["padding_seconds"] = list(self.padding_seconds)
        return values


def assess_quality(record: ECGRecord, limits: QualityLimits | None = None) -> ECGQuality:
    """Measure the quality of a recording.

    Swapped limb electrodes are suspected from three signs (Kligfield et al., Circulation 115:1306, 2007; PMC10902517,
    table 5), all of which disease can imitate. *Arms*: in the band of QRS complexes, lead I runs against V6, and aVR,
    which normally runs against V6, does not; dextrocardia looks alike. *Right leg and right arm*: lead II is almost
    flat, its electrodes both being on legs. *Right leg and left arm*: lead III is almost flat. Of 288 recordings of
    public data sets 2 are suspected of swapped arms; with lead I inverted, II and III, aVR and aVL exchanged, 233 are.

    Args:
        record ([`ECGRecord`]): the recording. Any leads; what needs leads that are not there is `None`.
        limits ([`QualityLimits`], *optional*): from where on something is an issue.

    Returns:
        [`ECGQuality`]: the indices and the issues.

    Example:
        ```python
        quality = assess_quality(read_ecg("export.xml"))
        quality.issues  # ["lead V3: wander of 2.35 mV"]
        ```
    """
    from .feature_extraction.ecg_leads import DERIVED_LEADS, STANDARD_LEADS

    limits = limits or QualityLimits()
    rate = float(record.sampling_rate)
    begin, end = _padding(record.signal)
    told = record.metadata.get("no_ecg_after_seconds")
    if isinstance(told, (int, float)) and begin < round(told * rate):
        # The calibration pulse at the end of Philips files is no ECG either.
        end = min(end, round(told * rate))
    signal = record.signal[:, begin:end].astype(np.float64)
    known = np.isnan(signal).mean(axis=1) < 1 if signal.shape[1] else np.zeros(len(signal), dtype=bool)
    filled = _bridge(signal)
    line = _power_line(filled[known], rate)
    leads = dict(zip(record.lead_names, _assess_leads(signal, filled, rate, line), strict=True))
    present = set(record.lead_names)
    derivable = set(DERIVED_LEADS) if {"I", "II"} <= present else set()
    missing = [name for name in STANDARD_LEADS if name not in present | derivable]
    rows = dict(zip(record.lead_names, filled, strict=True))
    quality = ECGQuality(
        leads,
        missing,
        (round(begin / rate, 4), round((record.num_samples - end) / rate, 4)),
        line,
        _limb_error(rows),
        _limb_electrodes(rows, leads, rate, limits),
    )
    quality.issues.extend(_issues(quality, limits))
    return quality


def _padding(signal: np.ndarray) -> tuple[int, int]:
    """Return the first sample that is no padding, and the one after the last."""
    known = np.flatnonzero(~np.isnan(signal).all(axis=0))
    if known.size == 0:
        return 0, signal.shape[1]
    first, last = int(known[0]), int(known[-1]) + 1
    inner = signal[:, first:last]
    same = (inner[:, 1:] == inner[:, :-1]) | (np.isnan(inner[:, 1:]) & np.isnan(inner[:, :-1]))
    moving = np.flatnonzero(~same.all(axis=0))
    if moving.size == 0:
        return first, last
    # A value that lasts for one sample is no padding.
    begin = first + (int(moving[0]) + 1 if moving[0] > 0 else 0)
    end = first + int(moving[-1]) + 1 if moving[-1] < inner.shape[1] - 2 else last
    return begin, end


def _bridge(signal: np.ndarray) -> np.ndarray:
    """Bridge missing samples by lines; a lead without samples becomes zero."""
    filled = signal.copy()
    for row in filled:
        missing = np.isnan(row)
        if missing.all():
            row[:] = 0.0
        elif missing.any():
            row[missing] = np.interp(np.flatnonzero(missing), np.flatnonzero(~missing), row[~missing])
    return filled


def _runs(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths of the runs of equal values."""
    edges = np.flatnonzero(np.diff(row) != 0) + 1
    starts = np.concatenate([[0], edges])
    return starts, np.diff(np.concatenate([starts, [len(row)]]))


def _assess_leads(signal: np.ndarray, filled: np.ndarray, rate: float, line: int | None) -> list[LeadQuality]:
    from scipy.signal import butter, sosfiltfilt, welch

    shares = [_shares(row, rate) for row in signal]
    if signal.shape[1] < MIN_SECONDS * rate:
        return [LeadQuality(*one) for one in shares]
    low, high = np.percentile(filled, [0.1, 99.9], axis=1)
    wander = np.ptp(sosfiltfilt(butter(2, 0.5, "lowpass", fs=rate, output="sos"), filled, axis=1), axis=1)
    deviation = filled - filled.mean(axis=1, keepdims=True)
    frequency, power = welch(deviation, rate, nperseg=min(filled.shape[1], int(4 * rate)), axis=1)

    def share(part: tuple[float, float], whole: tuple[float, float]) -> np.ndarray:
        inner, outer = (power[:, (frequency >= a) & (frequency <= b)].sum(axis=1) for a, b in (part, whole))
        return inner / outer

    with np.errstate(all="ignore"):
        baseline, qrs = 1 - share((0, 1), (0, 40)), share((5, 15), (5, 40))
        kurtosis = np.mean(deviation**4, axis=1) / np.mean(deviation**2, axis=1) ** 2
    nothing = np.full(len(signal), np.nan)
    noise = _noise(filled, rate, line) if rate >= 100 else nothing
    hum = _line_amplitudes(filled, rate, line) if line is not None else nothing
    columns = (high - low, wander, noise, hum, baseline, qrs, kurtosis)
    return [
        LeadQuality(*one, *((round(float(value), 4) if np.isfinite(value) else None) for value in values))
        if one[0] < 1
        else LeadQuality(*one)
        for one, values in zip(shares, zip(*columns, strict=True), strict=True)
    ]


def _shares(row: np.ndarray, rate: float) -> tuple[float, float, float]:
    """Return the shares of samples that are missing, in a flat run, and clipped."""
    if row.size == 0:
        return 1.0, 0.0, 0.0
    starts, lengths = _runs(row)
    flat = lengths[lengths >= FLAT_SECONDS * rate].sum() / len(row)
    clipped, missing = 0.0, np.isnan(row)
    if not missing.all() and (low := np.nanmin(row)) < (high := np.nanmax(row)):
        at_edge = (row[starts] == low) | (row[starts] == high)
        long = (lengths >= max(3, CLIPPED_SECONDS * rate)) & (lengths < FLAT_SECONDS * rate)
        clipped = lengths[at_edge & long].sum() / len(row)
    return round(float(missing.mean()), 4), round(float(flat), 4), round(float(clipped), 4)


def _noise(signal: np.ndarray, rate: float, line: int | None) -> np.ndarray:
    """Return the root mean square above 40 Hz in the quieter half of windows of 0.1 s."""
    from scipy.signal import butter, filtfilt, iirnotch, sosfiltfilt

    high = sosfiltfilt(butter(4, 40, "highpass", fs=rate, output="sos"), signal, axis=1)
    if line is not None and line < 0.45 * rate:
        high = filtfilt(*iirnotch(line, 25, fs=rate), high, axis=1)
    size = max(2, int(0.1 * rate))
    windows = high[:, : high.shape[1] // size * size].reshape(len(high), -1, size)
    levels = np.sort(np.mean(windows**2, axis=2), axis=1)
    return np.sqrt(levels[:, : max(1, levels.shape[1] // 2)].mean(axis=1))


def _around(signal: np.ndarray, rate: float, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Return per lead the amplitudes within 0.5 Hz of a frequency and those 2 to 5 Hz beside it."""
    window = np.hanning(signal.shape[1])
    spectrum = np.abs(np.fft.rfft((signal - signal.mean(axis=1, keepdims=True)) * window, axis=1)) * 2 / window.sum()
    frequency = np.fft.rfftfreq(signal.shape[1], 1 / rate)
    near = np.abs(frequency - line) <= 0.5
    beside = (np.abs(frequency - line) >= 2) & (np.abs(frequency - line) <= 5)
    return spectrum[:, near], spectrum[:, beside]


def _line_amplitudes(signal: np.ndarray, rate: float, line: int) -> np.ndarray:
    peak, surroundings = _around(signal, rate, line)
    return np.sqrt(np.maximum(0.0, peak.max(axis=1) ** 2 - np.median(surroundings, axis=1) ** 2))


def _power_line(signal: np.ndarray, rate: float) -> int | None:
    """Return 50 or 60 if that frequency stands out of its surroundings in most leads (ours)."""
    if not len(signal) or signal.shape[1] < MIN_SECONDS * rate:
        return None
    ratios = {}
    for line in (50, 60):
        if line + 5 <= rate / 2:
            peak, surroundings = _around(signal, rate, line)
            # The largest beside it, as the harmonics of a regular rhythm stand out, too.
            ratios[line] = float(np.median(peak.max(axis=1) / np.maximum(surroundings.max(axis=1), 1e-12)))
    best = max(ratios, key=ratios.get, default=None)
    return best if best is not None and ratios[best] > 2 else None


def _limb_error(rows: dict[str, np.ndarray]) -> float | None:
    from .feature_extraction.ecg_leads import DERIVED_LEADS

    if not {"I", "II"} <= set(rows) or rows["I"].size == 0:
        return None
    errors = [
        float(np.percentile(np.abs(rows[name] - one * rows["I"] - two * rows["II"]), 95))
        for name, (one, two) in DERIVED_LEADS.items()
        if name in rows
    ]
    return round(max(errors), 4) if errors else None


def _limb_electrodes(
    rows: dict[str, np.ndarray], leads: dict[str, LeadQuality], rate: float, limits: QualityLimits
) -> str | None:
    from scipy.signal import butter, sosfiltfilt

    if not {"I", "II", "V6"} <= set(rows) or len(rows["I"]) < MIN_SECONDS * rate or rate < 70:
        return None
    limb = {name: rows[name] for name in ("I", "II")}
    limb["III"] = rows["II"] - rows["I"]
    spans = {name: float(np.ptp(np.percentile(row, [0.1, 99.9]))) for name, row in limb.items()}
    for name, electrodes in (("II", "right leg and right arm"), ("III", "right leg and left arm")):
        others = [span for other, span in spans.items() if other != name]
        if 0 < spans[name] < limits.low_span_mv and min(others) > 3 * limits.low_span_mv:
            return electrodes
    band = butter(3, [1, 30], "bandpass", fs=rate, output="sos")
    one, right, six = (sosfiltfilt(band, row) for row in (rows["I"], -(rows["I"] + rows["II"]) / 2, rows["V6"]))
    strength = float(np.sqrt((six**2).sum()))
    if strength == 0 or not one.any() or not right.any():
        return None
    against_one = float((one * six).sum() / (np.sqrt((one**2).sum()) * strength))
    against_right = float((right * six).sum() / (np.sqrt((right**2).sum()) * strength))
    return "right arm and left arm" if against_one < -0.4 and against_right > -0.3 else None


def _issues(quality: ECGQuality, limits: QualityLimits) -> list[str]:
    issues = []
    if quality.missing_leads and len(quality.leads) >= 8:
        issues.append(f"leads missing: {', '.join(quality.missing_leads)}")
    if max(quality.padding_seconds) > limits.padding_seconds:
        begin, end = quality.padding_seconds
        issues.append(f"padding: {begin:g} s at the beginning, {end:g} s at the end")
    for name, lead in quality.leads.items():
        if lead.missing_fraction > limits.missing_fraction:
            issues.append(f"lead {name}: {lead.missing_fraction:.1%} of the samples missing")
        if lead.flat_fraction > limits.flat_fraction:
            issues.append(f"lead {name}: flat for {lead.flat_fraction:.0%} of the time")
        elif lead.span_mv is not None and lead.span_mv < limits.low_span_mv:
            issues.append(f"lead {name}: moves by {lead.span_mv:g} mV only")
        if lead.clipped_fraction > limits.clipped_fraction:
            issues.append(f"lead {name}: {lead.clipped_fraction:.1%} of the samples clipped")
        if lead.wander_mv is not None and lead.wander_mv > limits.wander_mv:
            issues.append(f"lead {name}: wander of {lead.wander_mv:.2f} mV")
        elif lead.baseline_power is not None and lead.baseline_power < limits.baseline_power:
            issues.append(f"lead {name}: {1 - lead.baseline_power:.0%} of its power is wander")
        if lead.noise_mv is not None and lead.noise_mv > limits.noise_mv:
            issues.append(f"lead {name}: noise of {lead.noise_mv:.3f} mV")
        if lead.power_line_mv is not None and lead.power_line_mv > limits.power_line_mv:
            issues.append(f"lead {name}: {lead.power_line_mv:.3f} mV at {quality.power_line_hz} Hz")
    if quality.limb_error_mv is not None and quality.limb_error_mv > limits.limb_error_mv:
        issues.append(f"the limb leads disagree by {quality.limb_error_mv:.3f} mV")
    if quality.limb_electrodes:
        issues.append(f"electrodes of {quality.limb_electrodes} may be swapped")
    return issues
