"""What the synthetic electrodes pick up besides the heart."""

from __future__ import annotations

import numpy as np


def electrode_noise(
    rng: np.random.Generator,
    num_electrodes: int,
    num_samples: int,
    sampling_rate: float,
    *,
    level: float = 1.0,
    line_frequency: float = 50.0,
) -> np.ndarray:
    """Return disturbances of electrode potentials: muscle, baseline wander, mains hum, now and then a movement.

    Amplitudes are those of an ordinary resting recording: muscle noise of 4-16 uV, wander of some 0.1 mV at 0.05-0.5
    Hz, hum of up to 10 uV in a third of the recordings, a movement of one electrode in one of twenty.

    Args:
        rng (`np.random.Generator`): source of chance.
        num_electrodes (`int`): rows.
        num_samples (`int`): columns.
        sampling_rate (`float`): Hz.
        level (`float`, *optional*, defaults to 1): factor on all amplitudes.
        line_frequency (`float`, *optional*, defaults to 50): mains frequency, Hz.

    Returns:
        `np.ndarray` of shape `(num_electrodes, num_samples)`, float32, mV.
    """
    # All parameters are drawn before the samples, so they do not depend on rate and length.
    muscle = np.exp(rng.normal(np.log(0.007), 0.4)).clip(0.003, 0.018)
    muscle_of_electrode = muscle * rng.uniform(0.6, 1.4, (num_electrodes, 1))
    frequencies = np.array([rng.uniform(0.15, 0.35), rng.uniform(0.05, 0.15), rng.uniform(0.3, 0.5)])
    wander = rng.uniform(0.01, 0.05) * np.array([1.0, 1.2, 0.4])
    mix = rng.standard_normal((num_electrodes, 3, 2)) * wander[:, None]
    hum = rng.uniform(0.001, 0.008) if rng.random() < 0.35 else 0.0
    hum_of_electrode = hum * rng.uniform(0.2, 1.0, num_electrodes)
    hum_phase = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.3, num_electrodes)
    moves = rng.random() < 0.05
    moved, place, width, size = (
        int(rng.integers(num_electrodes)),
        rng.random(),
        rng.uniform(0.10, 0.30),
        rng.choice([-1, 1]) * rng.uniform(0.2, 0.6),
    )

    times = np.arange(num_samples, dtype=np.float32) / np.float32(sampling_rate)
    angles = np.float32(2 * np.pi) * frequencies.astype(np.float32)[:, None] * times
    basis = np.concatenate([np.sin(angles), np.cos(angles)])
    weights = np.concatenate([mix[:, :, 0], mix[:, :, 1]], axis=1)
    if hum and line_frequency < sampling_rate / 2:
        angle = np.float32(2 * np.pi * line_frequency) * times
        basis = np.concatenate([basis, np.sin(angle)[None], np.cos(angle)[None]])
        parts = hum_of_electrode * np.stack([np.cos(hum_phase), np.sin(hum_phase)])
        weights = np.concatenate([weights, parts.T], axis=1)
    noise = weights.astype(np.float32) @ basis

    # White noise less half of its predecessor: little below 20 Hz, as surface electromyograms have.
    white = rng.standard_normal((num_electrodes, num_samples + 1), dtype=np.float32)
    white *= (muscle_of_electrode / np.sqrt(1.25)).astype(np.float32)
    noise += white[:, 1:]
    noise -= np.float32(0.5) * white[:, :-1]

    if moves:
        # A jolt that swings back: the derivative of a Gaussian, scaled to its peak.
        distance = (times - np.float32(place * num_samples / sampling_rate)) / np.float32(width)
        noise[moved] += np.float32(size * np.exp(0.5)) * distance * np.exp(-0.5 * distance**2)
    return noise * np.float32(level)
