"""The demonstration: from nothing to a fine-tuned, evaluated, saved, reloaded model and a drawn prediction."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# What the embedded corpus must allow a small model to learn; below it the demonstration has failed.
REQUIRED_MACRO_AUROC = 0.95

# Changes for a run that checks the way and not the learning.
SHORT = {
    "corpus_options": ["num_patients=60", "records_per_patient=1"],
    "num_train_epochs": 2,
    "bootstrap_resamples": 100,
}


def run(output_dir: Path, short: bool = False) -> int:
    """Run the demonstration.

    Args:
        output_dir (`Path`): receives `model/` (with its card), `record.npz` and `sheet.png`.

    Returns:
        `int`: 0, or 1 if the trained model does not reach `REQUIRED_MACRO_AUROC` on held-out patients.
    """
    start = time.monotonic()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from .readers.numpy_files import save_npz
    from .training import demo_arguments, finetune
    from .training.output_folder import START_FILE

    output_dir.mkdir(parents=True, exist_ok=True)
    folder, record_path, sheet = output_dir / "model", output_dir / "record.npz", output_dir / "sheet.png"
    _announce(1, "Build the synthetic corpus and train a small HuBERT-ECG from scratch")
    model_args, data_args, eval_args, training_args = demo_arguments(
        folder, overwrite_output_dir=True, **(SHORT if short else {})
    )
    result = finetune(model_args, data_args, eval_args, training_args)
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    (folder / START_FILE).unlink(missing_ok=True)

    _announce(2, "Compare with the same model without training, on the same held-out patients")
    trained, untrained = result.test["macro_auroc"], result.untrained["macro_auroc"]
    interval = result.test.get("intervals", {}).get("auroc", {}).get("macro")
    spread = f" [{interval['lower']:.3f}, {interval['upper']:.3f}]" if interval else ""
    print(f"macro AUROC: trained {trained:.3f}{spread}, untrained {untrained:.3f}")
    print(f"model folder {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")

    _announce(3, "Take a record of a held-out patient")
    record, findings = _held_out_record(data_args)
    save_npz(record, record_path)
    print(f"{record_path}: {record}")
    print(f"true findings: {', '.join(findings)}")

    _announce(4, "Load the folder in a new process and predict the record")
    prediction = json.loads(_command("predict", record_path, "--model", folder, "--json").splitlines()[-1])
    thresholds = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("thresholds") or {}
    for name, value in sorted(prediction["probabilities"].items(), key=lambda item: -item[1]):
        mark = "  <- predicted" if name in prediction["labels"] else ""
        limit = thresholds.get(name)
        against = "no threshold" if limit is None else f"threshold {limit:.3f}"
        print(f"  {name:<30} {value:.3f}  ({against}){mark}")

    _announce(5, "Draw it as a 12-lead sheet with the prediction")
    print(_command("plot", record_path, "--model", folder, "--output", sheet).strip())
    print(f"\nDone in {time.monotonic() - start:.0f} s.")
    if not short and trained < REQUIRED_MACRO_AUROC:
        print(f"The model stays below a macro AUROC of {REQUIRED_MACRO_AUROC}: {trained:.3f}.", file=sys.stderr)
        return 1
    return 0


def _announce(step: int, text: str) -> None:
    print(f"\n=== {step}/5 {text}", flush=True)


def _command(*arguments: object) -> str:
    """Run a command of the package in a process of its own and return what it printed."""
    process = subprocess.run(
        [sys.executable, "-m", "ecg_transformers.cli", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    if process.returncode:
        raise OSError(f"ecg-transformers {' '.join(map(str, arguments))} ended with exit code {process.returncode}.")
    return process.stdout


def _held_out_record(data_args):
    """Return the test record with the most findings, and their names."""
    from datasets import disable_progress_bars

    from .corpora import load_corpus

    disable_progress_bars()
    test = load_corpus(data_args.corpus, **data_args.options())["test"]
    findings = [[name for name, value in labels.items() if value] for labels in test["labels"]]
    index = max(range(len(findings)), key=lambda row: len(findings[row]))
    return test[index]["ecg"], findings[index]
