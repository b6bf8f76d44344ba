"""Augmentation speed: batched, against the same disturbances written with NumPy and applied record by record.

Run `python benchmarks/augmentations.py`; prints milliseconds a record of each and of all in a row, and the ratio. Both
sides draw for electrodes and compute in float32; their random numbers differ, so results are compared by strength. On
the CPU processor time counts, of all threads together, so that other work on the machine does not.
"""

import argparse
import statistics
import time
from functools import partial

import numpy as np
import threadpoolctl
import torch

from ecg_transformers import STANDARD_LEADS
from ecg_transformers.training import (
    AugmentationSettings,
    add_baseline_shift,
    add_baseline_wander,
    add_emg,
    add_powerline,
    augment,
    mask_time,
    scale_amplitude,
)
from ecg_transformers.training.electrodes import lead_matrix

ELECTRODES, MATRIX = lead_matrix(STANDARD_LEADS)
MATRIX = MATRIX.numpy()


def median_seconds(function, repeats: int, clock) -> float:
    """Return the median duration of a call, after one call to warm up."""
    function()
    durations = []
    for _ in range(repeats):
        start = clock()
        function()
        durations.append(clock() - start)
    return statistics.median(durations)


def numpy_powerline(signal: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    times = np.arange(signal.shape[1], dtype=np.float32) / np.float32(rate)
    amplitude, frequency = random.uniform(0, 0.05), random.choice([50, 60])
    wave = sum(
        np.sin(np.float32(2 * np.pi * order * frequency) * times + np.float32(random.uniform(0, 2 * np.pi))) / order
        for order in (1, 2, 3)
        if order * frequency < rate / 2
    )
    shares = amplitude * random.uniform(-1, 1, len(ELECTRODES))
    return signal + (MATRIX @ shares).astype(np.float32)[:, None] * wave


def numpy_emg(signal: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    samples = signal.shape[1]
    spectrum = np.fft.rfft(random.standard_normal((len(ELECTRODES), samples), dtype=np.float32))
    frequencies = np.fft.rfftfreq(samples, 1 / rate)
    spectrum[:, (frequencies < 20) | (frequencies > 150)] = 0
    noise = np.fft.irfft(spectrum, samples)
    noise *= random.uniform(0, 0.05) / np.sqrt(130 / (rate / 2))
    return signal + MATRIX @ noise.astype(np.float32)


def numpy_wander(signal: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    times = np.arange(signal.shape[1], dtype=np.float32) / np.float32(rate)
    angles = (2 * np.pi * random.uniform(0.05, 0.5, 3)).astype(np.float32)[:, None] * times
    height = random.uniform(0, 0.3) / 3 * random.random((len(ELECTRODES), 3))
    turn = random.uniform(0, 2 * np.pi, (len(ELECTRODES), 3))
    weights = np.concatenate([height * np.cos(turn), height * np.sin(turn)], axis=1)
    return signal + (MATRIX @ weights).astype(np.float32) @ np.concatenate([np.sin(angles), np.cos(angles)])


def numpy_shift(signal: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    noise = np.zeros((len(ELECTRODES), signal.shape[1]), dtype=np.float32)
    for electrode in np.flatnonzero(random.random(len(ELECTRODES)) < 0.3):
        start = random.integers(signal.shape[1])
        end = start + round(random.uniform(0.5, 5) * rate)
        noise[electrode, start:end] = random.choice([-1, 1]) * random.uniform(0, 0.5)
    return signal + MATRIX @ noise


def numpy_amplitude(signal: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    return signal * np.float32(np.exp(random.uniform(np.log(0.8), np.log(1.25))))


def numpy_time_mask(signal: np.ndarray, rate: float, random: np.random.Generator) -> np.ndarray:
    length = round(random.uniform(0.1, 1) * rate)
    start = random.integers(signal.shape[1] - length + 1)
    masked = signal.copy()
    masked[:, start : start + length] = signal.mean(-1, keepdims=True)
    return masked


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--rate", type=int, default=500, help="Hz (default: 500)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    threadpoolctl.threadpool_limits(arguments.threads)
    rate, rows = arguments.rate, arguments.records
    electrodes = torch.randn(rows, len(ELECTRODES), 10 * rate, generator=torch.Generator().manual_seed(0))
    signals = (torch.from_numpy(MATRIX) @ electrodes).to(arguments.device)
    plain = list(signals.cpu().numpy())
    leads, seeds = list(STANDARD_LEADS), list(range(rows))
    pairs = {
        "amplitude": (lambda x: scale_amplitude(x, seeds), numpy_amplitude),
        "powerline": (lambda x: add_powerline(x, rate, leads, seeds), numpy_powerline),
        "emg": (lambda x: add_emg(x, rate, leads, seeds), numpy_emg),
        "baseline_wander": (lambda x: add_baseline_wander(x, rate, leads, seeds), numpy_wander),
        "baseline_shift": (lambda x: add_baseline_shift(x, rate, leads, seeds), numpy_shift),
        "time_mask": (lambda x: mask_time(x, rate, seeds), numpy_time_mask),
    }

    settings = AugmentationSettings(tuple(pairs), augmentation_probability=1.0)
    pairs["all by augment()"] = (lambda x: augment(x, rate, leads, settings, seeds), None)

    def ours(function):
        disturbed = function(signals)
        if disturbed.is_cuda:
            torch.cuda.synchronize()
        return disturbed

    def one_by_one(functions):
        results = []
        for seed, signal in zip(seeds, plain, strict=True):
            random = np.random.default_rng(seed)
            for function in functions:
                signal = function(signal, rate, random)
            results.append(signal)
        return results

    print(f"{rows} records of 12 leads x 10 s at {rate} Hz; {arguments.threads} thread(s), {arguments.device}")
    print(f"{'':16}{'NumPy, ms a record':>20}{'batched, ms a record':>22}{'ratio':>8}{'strength, mV':>16}")
    clock = time.process_time if arguments.device == "cpu" else time.perf_counter
    everything = [numpy_function for _, numpy_function in pairs.values() if numpy_function]
    for name, (batched, numpy_function) in pairs.items():
        functions = [numpy_function] if numpy_function else everything
        slow = median_seconds(partial(one_by_one, functions), max(arguments.repeats // 2, 3), time.process_time) / rows
        fast = median_seconds(partial(ours, batched), arguments.repeats, clock) / rows
        strengths = [
            np.sqrt(np.mean((found - np.stack(plain)) ** 2))
            for found in (np.stack(one_by_one(functions)), ours(batched).cpu().numpy())
        ]
        print(
            f"{name:16}{1e3 * slow:20.3f}{1e3 * fast:22.3f}{slow / fast:7.1f}x{strengths[0]:8.3f}{strengths[1]:8.3f}"
        )


if __name__ == "__main__":
    main()
