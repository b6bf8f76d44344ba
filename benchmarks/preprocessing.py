"""Preprocessing speed: the batched recipes against the per-record NumPy and SciPy formulation of the same steps.

Run `python benchmarks/preprocessing.py` for HuBERT-ECG's, with `--recipe deepecg_ssl` for DeepECG's; prints
milliseconds a record, the ratio, and the largest difference. DeepECG's depends on how many records carry interference:
those without are hardly touched.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import scipy.signal
import threadpoolctl
import torch

from ecg_transformers import ECGFeatureExtractor

# DeepECG's steps as they are described, which the tests compare with too
sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "feature_extraction"))
from deepecg_reference import flatten_peaks


def scipy_model_input(signal: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Filter, scale, crop and decimate one (leads, samples) recording at 500 Hz, lead by lead formulas of SciPy."""
    num_taps = int(0.3 * sampling_rate) + (int(0.3 * sampling_rate) % 2 == 0)
    taps = scipy.signal.firwin(num_taps, [0.05, 47], pass_zero=False, fs=sampling_rate)
    filtered = scipy.signal.filtfilt(taps, [1.0], signal, axis=-1, padlen=3 * num_taps)
    low, high = filtered.min(-1, keepdims=True), filtered.max(-1, keepdims=True)
    scaled = 2 * (filtered - low) / (high - low + 1e-8) - 1
    return scipy.signal.decimate(scaled[:, : 5 * sampling_rate].reshape(-1), 5).astype(np.float32)


def numpy_deepecg_input(signal: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Resample one (leads, samples) recording to 250 Hz and flatten its spectral peaks, lead by lead."""
    resampled = scipy.signal.resample(signal, signal.shape[-1] * 250 // sampling_rate, axis=-1)
    return flatten_peaks(resampled[None, :, :2500], 250)[0].astype(np.float32)


REFERENCES = {"hubert_ecg": scipy_model_input, "deepecg_ssl": numpy_deepecg_input}


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
    parser.add_argument("--recipe", choices=list(REFERENCES), default="hubert_ecg")
    parser.add_argument(
        "--interference", type=float, default=0.4, help="share of the records with 60 Hz, 0.05 mV (default: 0.4)"
    )
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
    disturbed = round(arguments.interference * arguments.records)
    signals[:disturbed] += 0.05 * np.sin(2 * np.pi * 60 * np.arange(5000) / 500)
    signals = signals.astype(np.float32)
    extractor = ECGFeatureExtractor.for_model_type(arguments.recipe)
    one = REFERENCES[arguments.recipe]

    def batched():
        result = extractor(list(signals), sampling_rate=500, device=arguments.device, return_tensors="pt")
        return result.input_values.cpu().numpy()

    double = signals.astype(np.float64)
    ours = median_seconds(batched, arguments.repeats) / arguments.records
    reference = median_seconds(lambda: [one(signal, 500) for signal in double], 3) / len(double)
    difference = np.abs(batched() - np.stack([one(signal, 500) for signal in double])).max()
    setting = f"{arguments.threads} thread(s), {arguments.device}"
    span = batched()
    print(f"{arguments.recipe}: {arguments.records} records of 12 leads x 10 s at 500 Hz, {disturbed} with 60 Hz")
    print(setting)
    print(f"NumPy and SciPy, record by record: {1e3 * reference:8.3f} ms a record")
    print(f"ECGFeatureExtractor:               {1e3 * ours:8.3f} ms a record")
    print(f"ratio:                             {reference / ours:8.1f} x")
    print(f"largest difference:                {difference:8.1e} (input spans {span.min():.2g} to {span.max():.2g})")


if __name__ == "__main__":
    main()
