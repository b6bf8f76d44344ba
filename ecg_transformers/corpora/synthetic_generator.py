"""A parametric 12-lead ECG: a rhythm, a patient and a moving dipole give a recording whose diagnosis is known.

Each label makes the recording meet the label's textbook criterion, see `SYNTHETIC_LABELS`; what is not labelled stays
within normal limits. See `synthetic_waves` for the model of the heart and its sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from ..record import ECGRecord
from .corpus_files import check_number
from .synthetic_labels import ST_ELEVATIONS, SYNTHETIC_LABELS, check_labels
from .synthetic_noise import electrode_noise
from .synthetic_patients import SyntheticPatient, draw_patient, random_generator
from .synthetic_rhythms import RHYTHMS, Rhythm, draw_rhythm
from .synthetic_waves import (
    ELECTRODE_VECTORS,
    ELECTRODES,
    LEADS_OF_ELECTRODES,
    P_WAVES,
    PACING_SPIKE,
    QRS,
    T_VECTORS,
    Waves,
    add_beats,
    join,
    rotation,
    sample_waves,
    waves,
)

__all__ = ["SYNTHETIC_LABELS", "SyntheticPatient", "check_labels", "draw_patient", "generate_record"]


@dataclass
class _Complex:
    """One kind of ventricular complex: activation, repolarisation and their durations in seconds."""

    qrs: Waves
    st_t: Waves
    qrs_seconds: float
    qt_seconds: float


def _conduction(labels: Sequence[str], patient: SyntheticPatient) -> tuple[str, float]:
    """Return how the ordinary beats are conducted, and their QRS duration."""
    wide = patient.traits[0]
    if "left_bundle_branch_block" in labels:
        return "left_bundle_branch_block", 0.134 + 0.026 * wide
    if "right_bundle_branch_block" in labels:
        return "right_bundle_branch_block", 0.130 + 0.024 * wide
    if "ventricular_pacing" in labels:
        return "ventricular_pacing", 0.150 + 0.030 * wide
    if "complete_av_block" in labels and patient.traits[5] < 0.5:
        return "left_bundle_branch_block", 0.130 + 0.030 * wide
    return "normal", patient.qrs_seconds


def _repolarisation(vector: np.ndarray, qrs_seconds: float, qt_seconds: float, rr_seconds: float) -> Waves:
    """Return T (slow rise, faster fall) and U; its end is where the fall has come down to 5 %."""
    fall = 0.036 * (qt_seconds / 0.40)
    rise = min(0.062 * (qt_seconds / 0.40), (qt_seconds - 2.4 * fall - qrs_seconds) / 2.4)
    peak = qt_seconds - 2.4 * fall
    # The U wave is seen at slow rates only.
    u_wave = 0.09 * np.clip((rr_seconds - 0.75) / 0.4, 0, 1) * np.abs(vector) * [1, 1, -1]
    return waves((peak, rise, fall, *vector), (qt_seconds + 0.075, 0.030, 0.040, *u_wave))


def _st_elevation(
    labels: Sequence[str],
    patient: SyntheticPatient,
    electrode_vectors: np.ndarray,
    qrs_seconds: float,
    qt_seconds: float,
) -> Waves:
    """Return the injury current: it sets in with the end of the QRS and runs into the T wave."""
    size = patient.traits[2]
    if "anterior_st_elevation" in labels:
        direction, leads, target = np.array([0.06, -0.10, -0.22]), slice(6, 10), 0.23 + 0.12 * size
    else:
        direction, leads, target = np.array([-0.02, 0.25, 0.06]), [1, 2, 5], 0.14 + 0.14 * size
    seen = LEADS_OF_ELECTRODES @ electrode_vectors @ direction
    vector = direction * target / seen[leads].min()
    plateau = (qrs_seconds + 0.030, 0.016, 0.30 * qt_seconds, *vector)
    broad_t = (qt_seconds - 0.105, 0.070, 0.040, *(0.75 * vector))
    return waves(plateau, broad_t)


def _limit_voltage(labels: Sequence[str], complex_: _Complex, electrode_vectors: np.ndarray) -> float:
    """Return the factor on the QRS that meets the voltage criteria, or keeps clear of those not labelled."""
    times = np.linspace(-0.02, complex_.qrs_seconds + 0.02, 80)
    leads = LEADS_OF_ELECTRODES @ electrode_vectors @ sample_waves(complex_.qrs, times).T
    span = leads.max(axis=1) - leads.min(axis=1)
    limbs, chest = span[:6].max(), span[6:].max()
    sokolow = max(-leads[6].min(), 0.05) + leads[10:].max()
    if "left_ventricular_hypertrophy" in labels:
        return 4.1 / sokolow
    if "low_voltage" in labels:
        return min(0.42 / limbs, 0.82 / chest)
    gain = max(1.0, 0.75 / limbs)
    return min(gain, 3.2 / sokolow) if complex_.qrs_seconds < 0.12 else gain


def _ventricular_complexes(
    labels: Sequence[str], patient: SyntheticPatient, electrode_vectors: np.ndarray, angles: np.ndarray, rhythm: Rhythm
) -> tuple[_Complex, _Complex]:
    """Return the ordinary complex of a recording and its ectopic one."""
    kind, qrs_seconds = _conduction(labels, patient)
    origin = "left_ventricular_ectopic" if patient.traits[4] < 0.5 else "right_ventricular_ectopic"
    # Fridericia: QT grows with the cube root of the cycle.
    qt_normal = patient.qtc_seconds * min(rhythm.rr_seconds, 1.5) ** (1 / 3)
    complexes = []
    # Activation that starts in the septum spreads leftwards whatever the heart's position: half the turn.
    from_septum = kind in ("left_bundle_branch_block", "ventricular_pacing")
    for name, width in ((kind, qrs_seconds), (origin, 0.145 + 0.025 * patient.traits[0])):
        turn = rotation(*(0.5 * angles if from_septum and name == kind else angles))
        activation = QRS[name].scaled(width, patient.qrs_gain)
        # Slow activation is told by the balance of its humps, so individuals differ less in it.
        shifts = patient.wave_shifts[: len(activation.centers)] * (1.0 if name == "normal" else 0.5)
        activation = activation._replace(vectors=activation.vectors * (1 + shifts))
        vector = T_VECTORS[name] * patient.t_gain
        if name == "normal":
            # In tachycardia T becomes smaller, and so the rising limb does not swallow the ST segment.
            vector = vector * min(1.0, 0.6 + 0.5 * rhythm.rr_seconds)
        if "left_ventricular_hypertrophy" in labels and name == kind:
            vector = np.array([-0.30, -0.02, -0.26]) * patient.t_gain
        qt = qt_normal + (width - patient.qrs_seconds)
        if name == origin:
            # The next beat is not far, and the T of an early beat is early too.
            qt = min(qt, 0.42)
        complexes.append(
            _Complex(activation.turned(turn), _repolarisation(turn @ vector, width, qt, rhythm.rr_seconds), width, qt)
        )
    ordinary, ectopic = complexes
    if from_septum or "left_ventricular_hypertrophy" in labels:
        # Secondary ST change: from the J point on, in the direction of T.
        peak = ordinary.st_t.vectors[0]
        secondary = (ordinary.qrs_seconds + 0.055, 0.035, 0.110, *(0.28 * peak))
        ordinary.st_t = join(ordinary.st_t, waves(secondary))

    elevation = [label for label in ST_ELEVATIONS if label in labels]
    if elevation == ["anterior_st_elevation"]:
        # The infarcted front wall loses the forces that point to it.
        lost = 0.15 + 0.85 * patient.traits[3]
        vectors = ordinary.qrs.vectors.copy()
        early = ordinary.qrs.centers < 0.45 * ordinary.qrs_seconds
        vectors[:, 2] = np.where(early & (vectors[:, 2] < 0), vectors[:, 2] * (1 - 0.85 * lost), vectors[:, 2])
        ordinary.qrs = ordinary.qrs._replace(vectors=vectors)
    gain = _limit_voltage(labels, ordinary, electrode_vectors)
    ordinary.qrs = ordinary.qrs._replace(vectors=ordinary.qrs.vectors * gain)
    if "left_ventricular_hypertrophy" not in labels:
        weaker = min(gain, 1.0)
        ordinary.st_t = ordinary.st_t._replace(vectors=ordinary.st_t.vectors * weaker)
        if "low_voltage" in labels:
            ectopic.qrs = ectopic.qrs._replace(
                vectors=ectopic.qrs.vectors * _limit_voltage(labels, ectopic, electrode_vectors)
            )
            ectopic.st_t = ectopic.st_t._replace(vectors=ectopic.st_t.vectors * weaker)
    if elevation:
        injury = _st_elevation(labels, patient, electrode_vectors, ordinary.qrs_seconds, ordinary.qt_seconds)
        ordinary.st_t = join(ordinary.st_t, injury)
    if kind == "ventricular_pacing":
        ordinary.qrs = join(ordinary.qrs, PACING_SPIKE)
    return ordinary, ectopic


def _atrial_waves(rng: np.random.Generator, rhythm: Rhythm, times: np.ndarray, flutter: bool) -> np.ndarray:
    """Return the dipole of fibrillation or flutter, shape `(3, times)`."""
    phase = 2 * np.pi * (np.float32(rhythm.atrial_rate) * times + np.float32(rng.random()))
    if flutter:
        # A smoothed saw tooth, slow fall and steep rise in II, III and aVF, the reverse in V1: typical flutter.
        wave = np.sin(phase) + np.float32(0.42) * np.sin(2 * phase) + np.float32(0.18) * np.sin(3 * phase)
        vector = np.array([-0.005, 0.120, 0.065]) * rng.uniform(0.8, 1.2)
        return np.outer(vector, wave).astype(np.float32)
    # Fibrillation: frequency and amplitude drift, and each axis has its own share.
    drift, swell = rng.uniform(0.3, 0.9, 3), rng.uniform(0.2, 0.7, 3)
    size = rng.uniform(0.05, 0.10) * np.array([-0.35, 0.65, -0.80])
    dipole = np.empty((3, len(times)), dtype=np.float32)
    for axis in range(3):
        slow = 2 * np.pi * (np.float32(drift[axis]) * times + np.float32(rng.random()))
        wander = phase + np.float32(1.6) * np.sin(slow) + np.float32(0.7 * axis)
        wave = np.sin(wander) + np.float32(0.35) * np.sin(2 * wander + np.float32(rng.uniform(0, 6)))
        swelling = 1 + np.float32(0.45) * np.sin(2 * np.pi * np.float32(swell[axis]) * times + np.float32(axis))
        dipole[axis] = np.float32(size[axis]) * wave * swelling
    return dipole


def generate_record(
    labels: str | Sequence[str],
    seed: int | np.random.SeedSequence,
    *,
    sampling_rate: float = 500,
    seconds: float = 10.0,
    patient: SyntheticPatient | None = None,
    noise: float = 1.0,
    line_frequency: float = 50.0,
    adc_step_mv: float | None = None,
) -> ECGRecord:
    """Generate a 12-lead recording that meets the criteria of its labels.

    Args:
        labels (`str` or sequence of `str`): names from `SYNTHETIC_LABELS`. `sinus_rhythm` is added if no rhythm is
            named.
        seed (`int` or `np.random.SeedSequence`): the same arguments and seed give the same recording. At another rate
            the heart beats the same, only the noise is another.
        sampling_rate (`float`, *optional*, defaults to 500): Hz.
        seconds (`float`, *optional*, defaults to 10): length.
        patient (`SyntheticPatient`, *optional*): whose heart and chest it is; drawn from the seed by default.
        noise (`float`, *optional*, defaults to 1): factor on muscle noise, wander, hum and movements; 0 for a clean
            signal.
        line_frequency (`float`, *optional*, defaults to 50): mains frequency, Hz.
        adc_step_mv (`float`, *optional*): resolution in mV to which I, II and V1-V6 are rounded; the other limb leads
            are computed from these, as recorders do.

    Returns:
        `ECGRecord`: the twelve standard leads. `metadata` has `age`, `sex`, `labels`, `source` and `annotations`: the
        times (s) of the onsets of P waves and QRS complexes within the recording, which of the latter are ectopic,
        the durations of QRS and QT, PR where it is constant, and the mean heart rate.

    Raises:
        ValueError: for labels that are unknown or exclude one another, and for numbers out of range.

    Example:
        ```python
        record = generate_record(["atrial_fibrillation", "right_bundle_branch_block"], seed=7)
        ```
    """
    labels = check_labels(labels)
    check_signal_options(sampling_rate, seconds, noise)
    num_samples = round(seconds * sampling_rate)
    if num_samples < 1:
        raise ValueError(f"{seconds} s at {sampling_rate} Hz are no sample; ask for a longer recording.")
    if patient is None:
        patient = draw_patient(seed, labels)
    rng = random_generator(seed, 1)
    rhythm_name = next(label for label in labels if label in RHYTHMS)
    rhythm = draw_rhythm(
        rng,
        rhythm_name,
        seconds,
        pr_seconds=patient.pr_seconds,
        sinus_arrhythmia=patient.sinus_arrhythmia,
        first_degree_block=patient.traits[1] if "first_degree_av_block" in labels else None,
        ventricular_beats="premature_ventricular_beats" in labels,
    )
    # From one recording to the next: posture and electrodes.
    angles = np.array([patient.frontal_degrees, patient.horizontal_degrees]) + 2.5 * rng.standard_normal(2).clip(-2, 2)
    electrode_vectors = patient.electrode_vectors * np.exp(0.03 * rng.standard_normal((9, 1)).clip(-2, 2))
    electrode_vectors[:3] = ELECTRODE_VECTORS[:3]
    ordinary, ectopic = _ventricular_complexes(labels, patient, electrode_vectors, angles, rhythm)

    breath = 1 + rng.uniform(0.01, 0.04) * np.sin(
        2 * np.pi * rng.uniform(0.15, 0.35) * rhythm.qrs_onsets + rng.uniform(0, 6)
    )
    gains = breath + 0.012 * rng.standard_normal(len(breath))
    dipole = np.zeros((3, num_samples), dtype=np.float32)
    for complex_, chosen in ((ordinary, ~rhythm.ectopic), (ectopic, rhythm.ectopic)):
        onsets, beat_gains = rhythm.qrs_onsets[chosen], gains[chosen]
        add_beats(
            dipole,
            sampling_rate,
            onsets,
            complex_.qrs,
            before=0.05,
            after=complex_.qrs_seconds + 0.06,
            gains=beat_gains,
        )
        peaks = np.broadcast_to(complex_.st_t.centers, (len(onsets), len(complex_.st_t.centers)))
        if rhythm_name == "atrial_fibrillation" and len(onsets):
            # QT follows the preceding interval, sluggishly.
            intervals = np.diff(rhythm.qrs_onsets, prepend=rhythm.qrs_onsets[0] - rhythm.rr_seconds)[chosen]
            follow = 0.12 * complex_.qt_seconds * (intervals / rhythm.rr_seconds - 1)
            peaks = peaks + follow.clip(-0.04, 0.04)[:, None] * (complex_.st_t.centers > 0.5 * complex_.qt_seconds)
        add_beats(
            dipole,
            sampling_rate,
            onsets,
            complex_.st_t,
            before=0.0,
            after=complex_.qt_seconds + 0.30,
            gains=beat_gains,
            centers=peaks,
        )
    p_waves = P_WAVES.scaled(1.0, patient.p_gain).turned(rotation(*angles))
    add_beats(dipole, sampling_rate, rhythm.p_onsets, p_waves, before=0.02, after=0.16)
    if rhythm.atrial_rate is not None:
        times = np.arange(num_samples, dtype=np.float32) / np.float32(sampling_rate)
        dipole += _atrial_waves(rng, rhythm, times, flutter=rhythm_name == "atrial_flutter")

    potentials = electrode_vectors.astype(np.float32) @ dipole
    if noise > 0:
        potentials += electrode_noise(
            random_generator(seed, 2),
            len(ELECTRODES),
            num_samples,
            sampling_rate,
            level=noise,
            line_frequency=line_frequency,
        )
    signal = LEADS_OF_ELECTRODES.astype(np.float32) @ potentials
    if adc_step_mv is not None:
        signal = _quantised(signal, adc_step_mv)
    return ECGRecord(
        signal,
        sampling_rate,
        STANDARD_LEADS,
        {
            "age": patient.age,
            "sex": patient.sex,
            "labels": list(labels),
            "source": "synthetic",
            "annotations": _annotations(rhythm, ordinary, seconds),
        },
    )


def _quantised(signal: np.ndarray, step: float) -> np.ndarray:
    """Round I, II and V1-V6 to multiples of `step` and compute the other leads from them."""
    if not np.isfinite(step) or step <= 0:
        raise ValueError(f"`adc_step_mv` is a positive number of mV, for example 0.005; got {step!r}.")
    signal = np.round(signal / step) * step
    lead_one, lead_two = signal[0], signal[1]
    signal[2] = lead_two - lead_one
    signal[3] = -(lead_one + lead_two) / 2
    signal[4] = lead_one - lead_two / 2
    signal[5] = lead_two - lead_one / 2
    return signal


def _annotations(rhythm: Rhythm, ordinary: _Complex, seconds: float) -> dict:
    """Return the truth about a recording as JSON-like values."""
    inside = (rhythm.qrs_onsets >= 0) & (rhythm.qrs_onsets < seconds)
    onsets = rhythm.qrs_onsets[inside]
    p_onsets = rhythm.p_onsets[(rhythm.p_onsets >= 0) & (rhythm.p_onsets < seconds)]
    return {
        "qrs_onsets": [round(float(onset), 4) for onset in onsets],
        "ectopic": [bool(value) for value in rhythm.ectopic[inside]],
        "p_onsets": [round(float(onset), 4) for onset in p_onsets],
        "qrs_seconds": round(ordinary.qrs_seconds, 4),
        "qt_seconds": round(ordinary.qt_seconds, 4),
        "pr_seconds": None if rhythm.pr_seconds is None else round(rhythm.pr_seconds, 4),
        "heart_rate": round(60 / float(np.diff(onsets).mean()), 1) if len(onsets) > 1 else None,
    }


def check_signal_options(sampling_rate: float, seconds: float, noise: float) -> None:
    """Make sure that rate, length and noise are usable.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in (("sampling_rate", sampling_rate), ("seconds", seconds)):
        check_number(name, value, "a positive number", lambda number: number > 0)
    check_number("noise", noise, "a factor of at least 0", lambda number: number >= 0)
