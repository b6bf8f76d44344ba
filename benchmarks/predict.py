"""`ecg-transformers predict` over a folder against a plain loop of `read_ecg`, extractor and model, file by file.

Run `python benchmarks/predict.py --data FOLDER`, with a folder of real ECG files (those of up to 60 s that need no
options are copied until there are enough; without it WFDB records of the synthetic corpus are written). Everything
runs in fresh processes, in alternation: the command with its worker processes, the plain loop with the threads that
torch takes by itself, and with one thread. Each does the same work, the first window of each file. Seconds are from
the loading of the model to the end, without imports; `total` is with them. Then memory at a quarter of the files, and
a run that is killed and started again.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LONGEST_SECONDS = 60


def make_model(folder: Path, model_type: str) -> None:
    """Write an untrained classifier in its tiny size, with its recipe."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from ecg_transformers import ECGFeatureExtractor
    from ecg_transformers.training.building import config_from_size

    torch.manual_seed(0)
    config = config_from_size(model_type, "tiny")
    config.num_labels, config.problem_type = 9, "multi_label_classification"
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    ECGFeatureExtractor.for_model_type(model_type, config=config).save_pretrained(folder)


def make_files(folder: Path, count: int, data: str | None) -> None:
    """Fill a folder with copies of the ECG files of another one, or with synthetic WFDB records."""
    import warnings

    from ecg_transformers import ECGReadError, find_ecg_files, read_ecg

    warnings.simplefilter("ignore")
    originals = []
    for path in find_ecg_files(data) if data else ():
        try:
            if read_ecg(path).duration_seconds <= LONGEST_SECONDS:
                originals.append(path)
        except ECGReadError:
            continue
    if not originals:
        from ecg_transformers import load_corpus

        source = folder.parent / "synthetic"
        source.mkdir(exist_ok=True)
        for row in load_corpus("synthetic", num_patients=100)["train"]:
            originals.append(row["ecg"].save(source / f"{row['record_id']}.hea"))
    for number in range(count):
        original = originals[number % len(originals)]
        place = folder / f"{number // 100:04d}" / f"{number:06d}"
        place.mkdir(parents=True)
        for file in original.parent.glob(f"{original.stem}.*") if original.suffix == ".hea" else [original]:
            shutil.copy(file, place)


class Clock:
    """Seconds since it was made, of wall time and of CPU time, workers that have ended included."""

    def __init__(self):
        self.begin = time.perf_counter(), self._cpu()

    @staticmethod
    def _cpu() -> float:
        return sum(os.times()[:4])

    def read(self) -> dict[str, float]:
        """Return the seconds."""
        return {"seconds": time.perf_counter() - self.begin[0], "cpu": self._cpu() - self.begin[1]}


def run_plainly(model_folder: str, folder: str, threads: int) -> dict:
    """Do what a user would write first, and say what it took."""
    import torch
    from transformers import AutoModelForSequenceClassification

    import ecg_transformers as et

    if threads:
        torch.set_num_threads(threads)
    files = et.find_ecg_files(folder)
    clock = Clock()
    model = AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    extractor = et.ECGFeatureExtractor.from_pretrained(model_folder)
    scores = []
    for file in files:
        inputs = extractor(et.read_ecg(file), return_tensors="pt")
        with torch.no_grad():
            scores.append(model(inputs.input_values, inputs.attention_mask).logits.sigmoid()[0])
    torch.stack(scores)
    return clock.read()


def run_command(arguments: list[str]) -> dict:
    """Run the command in this process, and say what it took."""
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import ecg_transformers.inference  # noqa: F401
    from ecg_transformers.cli import main

    clock = Clock()
    main(arguments)
    return clock.read()


def in_child(*arguments: str) -> dict:
    """Run one of the above in a fresh process; adds its CPU time, its memory and that of its largest worker."""
    begin = time.perf_counter()
    process = subprocess.run([sys.executable, __file__, "--child", *arguments], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(process.stderr)
    found = json.loads(process.stdout.splitlines()[-1])
    return {**found, "total": time.perf_counter() - begin}


def child(kind: str, *arguments: str) -> None:
    """Be such a process."""
    import warnings

    warnings.simplefilter("ignore")
    if kind == "plain":
        model, folder, threads = arguments
        found = run_plainly(model, folder, int(threads))
    else:
        found = run_command(list(arguments))
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found["megabytes"] = own.ru_maxrss / 1024, workers.ru_maxrss / 1024
    print(json.dumps(found))


def kill_and_go_on(command: list[str], output: Path, count: int) -> tuple[int, int]:
    """Kill a run at half its files and start it again; returns what was done by then, twice."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    program = [sys.executable, "-m", "ecg_transformers.cli", *command]
    process = subprocess.Popen(program, stderr=subprocess.DEVNULL, env=environment)
    parts = output.with_name(f"{output.name}.parts")
    while process.poll() is None and len(list(parts.glob("part-*"))) * 100 < count // 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = max(int(part.stem.split("-")[2]) for part in parts.glob("part-*"))
    process = subprocess.run(program, stderr=subprocess.PIPE, text=True, env=environment)
    told = next(line for line in process.stderr.splitlines() if line.startswith("going on"))
    return kept, int(told.split()[3])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of real ECG files to copy (default: synthetic WFDB records)")
    parser.add_argument("--model_type", default="hubert_ecg", help="of the tiny model (default: hubert_ecg)")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--batch_size", default="64")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="predict-") as temporary:
        place = Path(temporary)
        make_model(place / "model", arguments.model_type)
        make_files(place / "files", arguments.files, arguments.data)
        model, folder, output = str(place / "model"), str(place / "files"), place / "predictions.parquet"
        options = ["--model", model, "--windows", "first", "--batch_size", arguments.batch_size]

        def command(folder: str, output: Path, workers: str = arguments.workers) -> list[str]:
            return ["predict", folder, *options, "--workers", workers, "--output", str(output)]

        kinds = {
            f"predict --workers {arguments.workers}": ("command", *command(folder, output)),
            "predict --workers 0": ("command", *command(folder, output, "0")),
            "plain loop": ("plain", model, folder, "0"),
            "plain loop, 1 thread": ("plain", model, folder, "1"),
        }
        print(f"{arguments.files} files, {arguments.model_type} tiny, {os.cpu_count()} cores, seconds")
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        cpu: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(arguments.rounds):
            for name, what in kinds.items():
                found = in_child(*what)
                seconds[name].append(found["seconds"])
                cpu[name].append(found["cpu"])
                print(
                    f"round {number + 1}  {name:24} {found['seconds']:7.1f}  CPU {found['cpu']:7.1f}  "
                    f"total {found['total']:7.1f}",
                    flush=True,
                )
        first, *others = seconds
        for name in others:
            ratio, ratio_of_cpu = (
                statistics.median(other / own for own, other in zip(kind[first], kind[name], strict=True))
                for kind in (seconds, cpu)
            )
            print(
                f"{first}: {arguments.files / statistics.median(seconds[first]):.0f} files a second, {ratio:.2f} x "
                f"{name} ({arguments.files / statistics.median(seconds[name]):.0f}); CPU time 1 / {ratio_of_cpu:.2f}"
            )

        quarter = place / "quarter"
        make_files(quarter, arguments.files // 4, arguments.data)
        whole = in_child("command", *command(folder, output))
        part = in_child("command", *command(str(quarter), place / "quarter.parquet"))
        for name, found in ((f"{arguments.files // 4} files", part), (f"{arguments.files} files", whole)):
            print(f"peak memory, {name}: {found['megabytes'][0]:.0f} MB, workers {found['megabytes'][1]:.0f} MB")

        expected = output.read_bytes()
        output.unlink()
        again = [*command(folder, output), "--files_per_part", "100"]
        kept, resumed = kill_and_go_on(again, output, arguments.files)
        same = output.read_bytes() == expected
        print(f"killed after {kept} files, gone on after {resumed}: {'the same bytes' if same else 'ANOTHER TABLE'}")


if __name__ == "__main__":
    if "--child" in sys.argv[1:2]:
        child(*sys.argv[2:])
    else:
        main()
