"""The synthetic heart's waves as moving dipoles, and the leads that see them.

A wave is an asymmetric Gaussian in time along one direction in space, after the dynamical model of McSharry et al.
(IEEE Trans Biomed Eng 50:289, 2003) and its three-dimensional form by Sameni et al. (EURASIP J Adv Signal Process
2007:043407). Directions are Frank's: X to the left, Y to the feet, Z to the back; lengths are millivolts.

The leads are projections of that dipole by the coefficients of Dower, Machado and Osborne, "On deriving the
electrocardiogram from vectorcardiographic leads" (Clin Cardiol 3:87, 1980). They are turned into potentials of the
nine electrodes, so disturbances can enter where they do in life and the limb leads keep Einthoven's law with them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ELECTRODES = ("RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6")

# Dower et al. 1980: rows I, II, V1..V6; columns X, Y, Z.
_DOWER = np.array(
    [
        [0.632, -0.235, 0.059],
        [0.235, 1.066, -0.132],
        [-0.515, 0.157, -0.917],
        [0.044, 0.164, -1.387],
        [0.882, 0.098, -1.277],
        [1.213, 0.127, -0.601],
        [1.125, 0.127, -0.086],
        [0.831, 0.076, 0.230],
    ]
)


def _electrode_vectors() -> np.ndarray:
    """Return the lead vectors of the nine electrodes, with Wilson's terminal as zero."""
    lead_one, lead_two = _DOWER[:2]
    right_arm = -(lead_one + lead_two) / 3
    return np.vstack([right_arm, right_arm + lead_one, right_arm + lead_two, _DOWER[2:]])


def _leads_of_electrodes() -> np.ndarray:
    """Return the matrix of shape (12, 9) that makes the standard leads of electrode potentials."""
    right_arm, left_arm, left_leg = np.eye(9)[:3]
    wilson = (right_arm + left_arm + left_leg) / 3
    limbs = [
        left_arm - right_arm,
        left_leg - right_arm,
        left_leg - left_arm,
        right_arm - (left_arm + left_leg) / 2,
        left_arm - (right_arm + left_leg) / 2,
        left_leg - (right_arm + left_arm) / 2,
    ]
    return np.vstack([*limbs, *(np.eye(9)[3:] - wilson)])


ELECTRODE_VECTORS = _electrode_vectors()
LEADS_OF_ELECTRODES = _leads_of_electrodes()


class Waves(NamedTuple):
    """A group of waves.

    Args:
        centers (`np.ndarray` of shape `(waves,)`): times of the peaks.
        rise (`np.ndarray` of shape `(waves,)`): standard deviations before the peaks.
        fall (`np.ndarray` of shape `(waves,)`): standard deviations after the peaks.
        vectors (`np.ndarray` of shape `(waves, 3)`): X, Y, Z at the peaks, mV.
    """

    centers: np.ndarray
    rise: np.ndarray
    fall: np.ndarray
    vectors: np.ndarray

    def scaled(self, seconds: float, gain: float = 1.0) -> Waves:
        """Stretch in time by `seconds` and multiply the vectors by `gain`."""
        return Waves(self.centers * seconds, self.rise * seconds, self.fall * seconds, self.vectors * gain)

    def turned(self, rotation: np.ndarray) -> Waves:
        """Turn all vectors by a rotation matrix."""
        return self._replace(vectors=self.vectors @ rotation.T)


def waves(*rows: tuple[float, float, float, float, float, float]) -> Waves:
    """Build waves from rows of center, rise, fall, X, Y, Z."""
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 6)
    return Waves(table[:, 0], table[:, 1], table[:, 2], table[:, 3:])


def join(*groups: Waves) -> Waves:
    """Join groups of waves into one."""
    return Waves(*(np.concatenate(parts) for parts in zip(*groups, strict=True)))


# Ventricular activation; times in fractions of the QRS duration. The sequence of vectors follows the textbook account:
# septum from left to right, apex, free wall of the left ventricle, base.
QRS = {
    "normal": waves(
        (0.19, 0.075, 0.075, -0.15, -0.02, -0.26),
        (0.38, 0.085, 0.085, 0.50, 0.30, -0.38),
        (0.53, 0.100, 0.100, 0.95, 0.72, 0.42),
        (0.75, 0.085, 0.085, 0.02, -0.12, 0.46),
    ),
    # The septum is crossed from right to left, then the left ventricle muscle by muscle: two late humps, no septal q.
    "left_bundle_branch_block": waves(
        (0.12, 0.055, 0.060, 0.20, 0.08, -0.20),
        (0.36, 0.125, 0.105, 0.84, 0.42, 0.72),
        (0.53, 0.080, 0.080, 0.14, 0.12, 0.22),
        (0.70, 0.110, 0.125, 0.90, 0.30, 0.62),
    ),
    # The left ventricle as usual in the first half, then the right ventricle alone: to the right and front, slowly.
    "right_bundle_branch_block": waves(
        (0.12, 0.045, 0.045, -0.15, -0.02, -0.26),
        (0.24, 0.052, 0.052, 0.48, 0.30, -0.16),
        (0.35, 0.065, 0.070, 0.95, 0.70, 0.50),
        (0.70, 0.110, 0.110, -0.50, -0.05, -0.60),
        (0.87, 0.060, 0.060, -0.16, 0.00, -0.16),
    ),
    # Ectopic beats begin in muscle: slow from the first moment on, one sided.
    "left_ventricular_ectopic": waves(
        (0.30, 0.130, 0.130, -0.45, -0.70, -0.95),
        (0.62, 0.150, 0.140, -0.95, -0.85, -0.75),
    ),
    "right_ventricular_ectopic": waves(
        (0.31, 0.130, 0.130, 0.30, 1.05, 0.55),
        (0.63, 0.150, 0.140, 0.55, 1.10, 1.05),
    ),
    # From the apex of the right ventricle, after a stimulus of about 1 ms.
    "ventricular_pacing": waves(
        (0.34, 0.130, 0.130, 0.08, -0.85, 0.65),
        (0.66, 0.140, 0.135, 0.02, -1.05, 0.95),
    ),
}

# Direction of the T wave (mV). Where activation is abnormal, repolarisation opposes it (secondary changes).
T_VECTORS = {
    "normal": np.array([0.31, 0.21, -0.15]),
    "left_bundle_branch_block": np.array([-0.34, -0.10, -0.36]),
    "right_bundle_branch_block": np.array([0.30, 0.17, 0.26]),
    "left_ventricular_ectopic": np.array([0.48, 0.46, 0.52]),
    "right_ventricular_ectopic": np.array([-0.30, -0.58, -0.55]),
    "ventricular_pacing": np.array([0.06, 0.52, -0.50]),
}

# Right atrium, then left atrium; times in seconds after the onset of the P wave.
P_WAVES = waves((0.040, 0.016, 0.016, 0.030, 0.085, -0.055), (0.068, 0.018, 0.018, 0.055, 0.050, 0.040))

PACING_SPIKE = waves((-0.004, 0.001, 0.001, 0.25, -0.75, 0.30))


def rotation(frontal_degrees: float, horizontal_degrees: float) -> np.ndarray:
    """Return the rotation of the heart in the chest: clockwise in the frontal plane (X to Y), then X to Z."""
    frontal, horizontal = np.radians([frontal_degrees, horizontal_degrees])
    in_front = np.array(
        [[np.cos(frontal), -np.sin(frontal), 0], [np.sin(frontal), np.cos(frontal), 0], [0, 0, 1]], dtype=np.float64
    )
    from_above = np.array(
        [[np.cos(horizontal), 0, -np.sin(horizontal)], [0, 1, 0], [np.sin(horizontal), 0, np.cos(horizontal)]]
    )
    return from_above @ in_front


def sample_waves(group: Waves, times: np.ndarray) -> np.ndarray:
    """Return the dipole of a group at the given times, shape `(times, 3)`."""
    distance = times[:, None] - group.centers
    spread = np.where(distance < 0, group.rise, group.fall)
    return np.exp(-0.5 * (distance / spread) ** 2) @ group.vectors


def add_beats(
    dipole: np.ndarray,
    sampling_rate: float,
    onsets: np.ndarray,
    group: Waves,
    *,
    before: float,
    after: float,
    gains: np.ndarray | None = None,
    centers: np.ndarray | None = None,
) -> None:
    """Add the same waves at many onsets to a dipole, in place.

    Args:
        dipole (`np.ndarray` of shape `(3, samples)`, float32): the heart vector, changed in place.
        sampling_rate (`float`): Hz.
        onsets (`np.ndarray` of shape `(beats,)`): seconds from the first sample; parts outside are dropped.
        group (`Waves`): times relative to an onset, in seconds.
        before (`float`): seconds before the onset at which the waves have died away.
        after (`float`): seconds after the onset at which they have.
        gains (`np.ndarray` of shape `(beats,)`, *optional*): amplitude of each beat.
        centers (`np.ndarray` of shape `(beats, waves)`, *optional*): peaks that differ from beat to beat.
    """
    if len(onsets) == 0:
        return
    first = np.floor(onsets * sampling_rate).astype(np.int64) - round(before * sampling_rate)
    length = round((before + after) * sampling_rate) + 2
    inside = (first + length > 0) & (first < dipole.shape[1])
    first, onsets = first[inside], onsets[inside]
    peaks = np.broadcast_to(group.centers, (len(inside), len(group.centers))) if centers is None else centers
    start = (first / sampling_rate - onsets)[:, None] - peaks[inside]
    distance = start[:, :, None].astype(np.float32) + np.arange(length, dtype=np.float32) / np.float32(sampling_rate)
    rise, fall = (spread.astype(np.float32)[:, None] for spread in (group.rise, group.fall))
    bells = np.exp(-0.5 * np.square(distance / np.where(distance < 0, rise, fall)))
    beats = group.vectors.T.astype(np.float32) @ bells
    if gains is not None:
        beats *= gains[inside].astype(np.float32)[:, None, None]
    for position, beat in zip(first, beats, strict=True):
        low, high = max(position, 0), min(position + length, dipole.shape[1])
        dipole[:, low:high] += beat[:, low - position : high - position]
