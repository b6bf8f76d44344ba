"""The people behind synthetic recordings: what one recording of a person shares with the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .synthetic_waves import ELECTRODE_VECTORS

# Mean age (years) of patients with a finding; others are drawn around 48.
_AGES = {
    "atrial_fibrillation": 72,
    "left_bundle_branch_block": 70,
    "right_bundle_branch_block": 64,
    "complete_av_block": 75,
    "ventricular_pacing": 76,
    "second_degree_av_block": 68,
    "first_degree_av_block": 65,
    "anterior_st_elevation": 62,
    "inferior_st_elevation": 62,
    "left_ventricular_hypertrophy": 63,
}


@dataclass(frozen=True)
class SyntheticPatient:
    """What stays the same from one recording of a patient to the next.

    Args:
        age (`float`): years.
        sex (`str`): `"female"` or `"male"`.
        frontal_degrees (`float`): turn of the heart's electrical axis in the frontal plane; positive is to the right.
        horizontal_degrees (`float`): turn about the body's long axis; positive is towards the back.
        qrs_gain, t_gain, p_gain (`float`): amplitudes relative to the model.
        qrs_seconds (`float`): QRS duration with normal conduction.
        pr_seconds (`float`): PR interval at 60 beats a minute.
        qtc_seconds (`float`): QT interval at 60 beats a minute.
        sinus_arrhythmia (`float`): relative respiratory variation of the sinus cycle.
        traits (`tuple` of `float`): uniform numbers in [0, 1): width of a block, length of a prolonged PR, size of an
            ST elevation, loss of the R wave in infarction, origin of ectopic beats, width of escape beats.
        electrode_vectors (`np.ndarray` of shape `(9, 3)`): lead vectors of this chest's electrodes.
        wave_shifts (`np.ndarray` of shape `(5, 3)`): relative deviation of the vectors of the QRS waves.
    """

    age: float
    sex: str
    frontal_degrees: float
    horizontal_degrees: float
    qrs_gain: float
    t_gain: float
    p_gain: float
    qrs_seconds: float
    pr_seconds: float
    qtc_seconds: float
    sinus_arrhythmia: float
    traits: tuple[float, ...]
    electrode_vectors: np.ndarray
    wave_shifts: np.ndarray


def random_generator(seed: int | np.random.SeedSequence, *key: int) -> np.random.Generator:
    """Return a generator whose stream depends on the seed and the key only, however many others were made."""
    if not isinstance(seed, np.random.SeedSequence):
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"`seed` is an integer of at least 0 or a numpy SeedSequence; got {seed!r}.")
        seed = np.random.SeedSequence(int(seed))
    return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *key)))


def draw_patient(seed: int | np.random.SeedSequence, labels: Sequence[str] = ()) -> SyntheticPatient:
    """Draw a patient.

    Args:
        seed (`int` or `np.random.SeedSequence`): the same seed gives the same patient.
        labels (sequence of `str`, *optional*): findings; they set the mean age only.

    Returns:
        `SyntheticPatient`
    """
    rng = random_generator(seed, 0)
    mean_age = max((_AGES.get(label, 48) for label in labels), default=48)
    age = float(np.clip(mean_age + 13 * rng.standard_normal(), 18, 96))
    female = bool(rng.random() < 0.5)
    frontal, horizontal = 11 * rng.standard_normal(2).clip(-2, 2)
    gains = np.exp(rng.standard_normal(3).clip(-2, 2) * [0.15, 0.20, 0.18])
    vectors = ELECTRODE_VECTORS.copy()
    # Chest electrodes are misplaced by a centimetre or two; limb electrodes hardly matter.
    vectors[3:] *= np.exp(0.07 * rng.standard_normal((6, 1)).clip(-2, 2))
    vectors[3:] += 0.05 * rng.standard_normal((6, 3)).clip(-2, 2)
    return SyntheticPatient(
        age=round(age, 1),
        sex="female" if female else "male",
        # The axis turns left with age.
        frontal_degrees=float(frontal - 0.25 * (age - 48)),
        horizontal_degrees=float(0.8 * horizontal),
        qrs_gain=float(gains[0] * (0.92 if female else 1.05)),
        t_gain=float(gains[1]),
        p_gain=float(gains[2]),
        qrs_seconds=float(rng.uniform(0.080, 0.098) - (0.004 if female else 0)),
        pr_seconds=float(rng.uniform(0.135, 0.185)),
        qtc_seconds=float(rng.uniform(0.380, 0.425) + (0.010 if female else 0)),
        sinus_arrhythmia=float(rng.uniform(0.02, 0.07) * np.clip((100 - age) / 60, 0.2, 1.2)),
        traits=tuple(float(value) for value in rng.random(6)),
        electrode_vectors=vectors,
        wave_shifts=0.12 * rng.standard_normal((5, 3)).clip(-2, 2),
    )
