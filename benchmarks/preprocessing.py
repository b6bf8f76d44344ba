"""Preprocessing speed: the batched recipe of HuBERT-ECG against the per-record SciPy formulation of the same steps.

Run `python benchmarks/preprocessing.py`; prints milliseconds a record, the ratio, and the largest difference.
"""

import argparse
import statistics
import time

import numpy as np
import scipy.signal
import threadpoolctl
import torch

from ecg_transformers import ECGFeatureExtractor


def scipy_model_input(signal: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Filter, scale, crop and decimate one (leads, samples) recording at 500 Hz, lead by lead formulas of SciPy."""
    num_taps = int(0.3 * sampling_rate) + (int(0.3 * sampling_rate) % 2 == 0)
    taps = scipy.signal.firwin(num_taps, [0.05, 47], pass_zero=False, fs=sampling_rate)
    filtered = scipy.signal.filtfilt(taps, [1.0], signal, axis=-1, padlen=3 * num_taps)
    low, high = filtered.min(-1, keepdims=True), filtered.max(-1, keepdims=True)
    scaled = 2 * (filtered - low) / (high - low + 1e-8) - 1
    return scipy.signal.decimate(scaled[:, : 5 * sampling_rate].reshape(-1), 5).astype(np.float32)


def median_seconds(function, repeats: int) -> float:
    """Return the median duration of a call, after one call to warm up."""
    function()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # NumPy's linear algebra has threads of its own; the reference gets as many as we do, and does not wait for more.
    threadpoolctl.threadpool_limits(arguments.threads)
    random = np.random.default_rng(0)
    shape = (arguments.records, 12, 5000)
    signals = 0.02 * random.standard_normal(shape).cumsum(-1) + 0.05 * random.standard_normal(shape)
    signals = signals.astype(np.float32)
    extractor = ECGFeatureExtractor.for_model_type("hubert_ecg")

    def batched():
        result = extractor(list(signals), sampling_rate=500, device=arguments.device, return_tensors="pt")
        return result.input_values.cpu().numpy()

    double = signals.astype(np.float64)
    ours = median_seconds(batched, arguments.repeats) / arguments.records
    reference = median_seconds(lambda: [scipy_model_input(signal, 500) for signal in double], 3) / len(double)
    difference = np.abs(batched() - np.stack([scipy_model_input(signal, 500) for signal in double])).max()
    setting = f"{arguments.threads} thread(s), {arguments.device}"
    print(f"{arguments.records} records of 12 leads x 10 s at 500 Hz, {setting}")
    print(f"SciPy, record by record: {1e3 * reference:8.3f} ms a record")
    print(f"ECGFeatureExtractor:     {1e3 * ours:8.3f} ms a record")
    print(f"ratio:                   {reference / ours:8.1f} x")
    print(f"largest difference:      {difference:8.1e} (model input spans -1 to 1)")


if __name__ == "__main__":
    main()
