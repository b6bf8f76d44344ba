"""From a folder of records to batches for HuBERT-ECG's pretraining: what each part takes; see `--help`.

    OMP_NUM_THREADS=1 python benchmarks/pretraining_input.py

Codes that are computed as batches pass are set against the way of the published code: descriptors of every record in
a file of its own, read back in training. Both run in this process on the same records.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from ecg_transformers import ECGFeatureExtractor, HubertECGConfig, load_corpus
from ecg_transformers.corpora import pack_records
from ecg_transformers.training import Codebook, CodebookSet, HubertECGCollator, describe_shards
from ecg_transformers.training.hubert_ecg_targets import LeadsAndRows, NamedStream

BATCH = 64
ROUNDS = 3


def timed(function):
    """CPU seconds of this process that a call takes, the least of some rounds, and what it returns."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        result = function()
        times.append(time.process_time() - begin)
    return min(times), result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=512, help="Records, of 12 leads, 10 s, 500 Hz.")
    parser.add_argument("--codes", type=int, default=500, help="Codes of the codebook.")
    parser.add_argument("--threads", type=int, default=1, help="Threads of torch.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count = arguments.records
    corpus = load_corpus("synthetic", num_patients=count, records_per_patient=1, seed=0)
    config = HubertECGConfig(vocab_sizes=[arguments.codes])
    extractor = ECGFeatureExtractor.for_model_type("hubert_ecg")
    centers = torch.randn(arguments.codes, 39, generator=torch.Generator().manual_seed(0))
    codebooks = CodebookSet([Codebook(centers)], {"kind": "mfcc", "sampling_rate": 100})
    print(f"{count} records of 12 x 5000 samples, batches of {BATCH}, {arguments.threads} thread(s); CPU time")
    with tempfile.TemporaryDirectory() as folder:
        records, packed, dumped = (Path(folder) / name for name in ("records", "packed", "descriptors"))
        records.mkdir()
        dumped.mkdir()
        for split in corpus.values():
            for row in split:
                row["ecg"].save(records / f"{row['record_id']}.hea")
        begin = time.perf_counter()
        report = pack_records(records, packed, workers=1)
        seconds = time.perf_counter() - begin
        print(
            f"packing WFDB files into Parquet, 1 worker: {count / seconds:.0f} records/s (wall clock), "
            f"{report.num_bytes / count / 1000:.0f} kB a record"
        )
        stream = load_corpus(packed, streaming=True)["train"]
        seconds, rows = timed(lambda: list(NamedStream(stream)))
        seen = len(rows)
        print(f"reading them as a stream: {1e3 * seconds / seen:.2f} ms a record")
        batches = [rows[start : start + BATCH] for start in range(0, seen, BATCH)]
        plain, coded = HubertECGCollator(extractor, config), HubertECGCollator(extractor, config, codebooks)
        plain(batches[0])
        without, _ = timed(lambda: [plain(batch) for batch in batches])
        with_codes, made = timed(lambda: [coded(batch) for batch in batches])
        print(f"preprocessing and masks: {1e3 * without / seen:.2f} ms a record")
        print(f"the same with codes of {arguments.codes} clusters: {1e3 * with_codes / seen:.2f} ms a record")

        preprocess, names = LeadsAndRows(extractor), [f"{number}.npy" for number in range(seen)]

        def dump():
            for start, batch in zip(range(0, seen, BATCH), batches, strict=True):
                described = describe_shards(preprocess([row["ecg"] for row in batch])[0], "mfcc")
                for name, one in zip(names[start : start + BATCH], described, strict=True):
                    np.save(dumped / name, one.numpy())

        def read_back():
            return [codebooks.assign(torch.from_numpy(np.load(dumped / name))[None]) for name in names]

        dumping, _ = timed(dump)
        reading, _ = timed(read_back)
        ours = with_codes - without
        size = sum((dumped / name).stat().st_size for name in names) / seen
        print(
            f"a file of descriptors for each record: {1e3 * dumping / seen:.2f} ms to write once, "
            f"{1e3 * reading / seen:.2f} ms to read and code in every epoch, {size / 1000:.1f} kB a record"
        )
        print(
            f"codes as batches pass cost {1e3 * ours / seen:.2f} ms a record and epoch and nothing on disk: "
            f"{ours / reading:.2f}x of reading files (from a warm cache)"
        )
        assert sum(len(batch["labels"]) for batch in made) == seen


if __name__ == "__main__":
    main()
