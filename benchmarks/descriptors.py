"""Shard descriptors of HuBERT-ECG's first codebooks against one record at a time with SciPy; see `--help`.

    OMP_NUM_THREADS=1 python benchmarks/descriptors.py

The alternative describes shard after shard, as the published code does (which was measured at 59 ms a record for the
time-frequency numbers and 51 ms for the MFCC, without reading files). Both run in this process on the same records,
and their numbers are compared.
"""

import argparse
import time

import numpy as np
import scipy.fft
import scipy.signal
import scipy.stats
import torch

from ecg_transformers.training import describe_shards


def join_leads(record):
    """Decimate each lead to 100 Hz and join them, `(12, 2500)` to `(93, 64)`."""
    return np.concatenate([scipy.signal.decimate(lead, 5)[2:-2] for lead in record]).reshape(93, 64)


def describe_time_frequency(shard):
    spectrum = np.abs(np.fft.fft(shard)) ** 2 / len(shard)
    rms = np.sqrt(np.mean(shard**2))
    peak = np.max(np.abs(shard))
    return [
        *(shard.min(), shard.max(), shard.mean(), rms, shard.var(), shard.std(), np.mean(shard**2), peak),
        *(np.ptp(shard), peak / rms, scipy.stats.skew(shard), scipy.stats.kurtosis(shard)),
        *(spectrum.max(), spectrum.sum(), spectrum.mean(), spectrum.var()),
    ]


def describe_mfcc(shard):
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 50 / 700), 25)
    mel = 1127 * np.log(1 + np.arange(32) * 100 / 64 / 700)
    shard = shard - shard.mean()
    shard = shard - 0.97 * np.concatenate([shard[:1], shard[:-1]])
    power = np.abs(np.fft.rfft(shard * np.hanning(64) ** 0.85)[:32]) ** 2
    energies = [(power * np.interp(mel, edges[band : band + 3], [0, 1, 0])).sum() for band in range(23)]
    cepstra = scipy.fft.dct(np.log(np.maximum(energies, 2.0**-23)), norm="ortho")[:13]
    return [*(cepstra * (1 + 11 * np.sin(np.pi * np.arange(13) / 22))), *np.zeros(26)]


ALTERNATIVES = {"time_frequency": describe_time_frequency, "mfcc": describe_mfcc}
# What the published code took for a record, in ms, on another machine.
PUBLISHED = {"time_frequency": 59.0, "mfcc": 51.0}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=64, help="Records in a batch.")
    parser.add_argument("--rounds", type=int, default=5, help="Repetitions; the fastest counts.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    random = np.random.default_rng(0)
    records = np.cumsum(random.normal(size=(arguments.records, 12, 2500)), axis=-1)
    low, high = records.min(-1, keepdims=True), records.max(-1, keepdims=True)
    records = 2 * (records - low) / (high - low) - 1
    few = records[: max(1, arguments.records // 16)]
    print(f"{arguments.records} records of 12 x 2500 samples, {arguments.threads} thread(s)")
    for kind, describe in ALTERNATIVES.items():
        times = []
        for _ in range(arguments.rounds):
            begin = time.process_time()
            found = describe_shards(torch.from_numpy(records), kind)
            times.append((time.process_time() - begin) / len(records))
        times_alone = []
        for _ in range(arguments.rounds):
            begin = time.process_time()
            expected = np.array([[describe(shard) for shard in join_leads(record)] for record in few])
            times_alone.append((time.process_time() - begin) / len(few))
        difference = np.abs(found[: len(few)].numpy() - expected).max()
        ours, theirs = 1e3 * min(times), 1e3 * min(times_alone)
        print(
            f"{kind:15} {ours:6.2f} ms a record, shard by shard with SciPy {theirs:6.1f} ms: {theirs / ours:5.1f}x; "
            f"the published code's {PUBLISHED[kind]:.0f} ms: {PUBLISHED[kind] / ours:.0f}x; "
            f"largest difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
