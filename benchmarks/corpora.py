"""Loading a large corpus: 345,779 simulated exams in the layout of CODE-15 %, up to the first record.

Run `python benchmarks/corpora.py`. It writes the exams (0.3 GB, unless `--folder` names a folder that has them) and
measures in fresh processes: `load_corpus` and the first record by index, the same as a stream, and, to compare with,
nothing but reading the same tables with pandas and h5py. Seconds are of wall time (in brackets: CPU time). Memory is
the growth of the process' peak after all imports, which take about 470 MB themselves (PyTorch, transformers,
datasets).
"""

import argparse
import importlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "corpora"))


class Clock:
    """Seconds since the last lap, of wall and of CPU time."""

    def __init__(self):
        self.lap()

    def lap(self) -> tuple[float, float]:
        """Return the seconds and start again."""
        now = time.perf_counter(), time.process_time()
        passed = tuple(new - old for new, old in zip(now, getattr(self, "last", now), strict=True))
        self.last = now
        return passed


def peak_megabytes() -> float:
    """Return the largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_plainly(folder: str) -> None:
    """Read the tables of the corpus, as anybody must."""
    import h5py
    import pandas as pd

    pd.read_csv(Path(folder) / "exams.csv")
    for part in Path(folder).glob("*.hdf5"):
        with h5py.File(part) as file:
            file["exam_id"][:]


def measure(folder: str, how: str) -> dict:
    """Load the corpus in this process in one of three ways and return what it cost."""
    from ecg_transformers import load_corpus

    # Imports are not what is measured.
    for module in ("h5py", "pandas", "pyarrow.csv", "pyarrow.compute", "scipy.signal"):
        importlib.import_module(module)
    for module in ("corpora.code15", "corpora.streaming", "readers.hdf5_files"):
        importlib.import_module(f"ecg_transformers.{module}")
    before, clock = peak_megabytes(), Clock()
    if how == "plain":
        read_plainly(folder)
        return {"load": clock.lap(), "megabytes": peak_megabytes() - before}
    corpus = load_corpus("code15", folder, streaming=how == "stream")
    found = {"load": clock.lap()}
    record = (next(iter(corpus["train"])) if how == "stream" else corpus["train"][0])["ecg"]
    found |= {"first_record": clock.lap(), "megabytes": peak_megabytes() - before}
    if how == "index":
        found["records"] = sum(corpus.num_rows.values())
    return found | {"samples": record.num_samples}


def measure_afresh(folder: str, how: str) -> dict:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--folder", str(folder), "--measure", how]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="with the exams; written to a temporary folder if not given")
    parser.add_argument("--exams", type=int, default=345_779)
    parser.add_argument("--parts", type=int, default=18)
    parser.add_argument("--measure", choices=["index", "stream", "plain"], help="measure one way in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.folder, arguments.measure)))
        return

    with tempfile.TemporaryDirectory(prefix="code15-") as temporary:
        folder = arguments.folder or temporary
        if not (Path(folder) / "exams.csv").is_file():
            from code_writer import write_code15

            write_code15(folder, arguments.exams, arguments.parts)
        found = {how: measure_afresh(folder, how) for how in ("plain", "index", "stream")}
    print(f"{found['index']['records']} exams")
    for how, name in (("index", "by index"), ("stream", "streaming")):
        one = found[how]
        total = [sum(both) for both in zip(one["load"], one["first_record"], strict=True)]
        print(
            f"{name}: load {one['load'][0]:.2f} s ({one['load'][1]:.2f} s), first record "
            f"{one['first_record'][0] * 1000:.0f} ms later, together {total[0]:.2f} s ({total[1]:.2f} s); "
            f"{one['megabytes']:.0f} MB"
        )
    plain = found["plain"]
    print(f"plain reading of the tables: {plain['load'][0]:.2f} s ({plain['load'][1]:.2f} s), ", end="")
    print(f"{plain['megabytes']:.0f} MB")
    ratio = found["index"]["load"][0] / plain["load"][0]
    print(f"load_corpus takes {ratio:.1f} times as long as reading its tables")


if __name__ == "__main__":
    main()
