"""The command `predict`: findings of a fine-tuned model."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from .inference_options import add_inference_options, load_inference, run_over_files
from .options import CommandError, check_ending


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    predict = commands.add_parser(
        "predict",
        help="diagnose ECG files with a fine-tuned model",
        description="Run a fine-tuned model over ECG files. Probabilities above the thresholds stored with the model "
        "(else 0.5) become labels; labels whose threshold is unknown are listed as undecided. Unreadable files are "
        "reported, the others go on; the exit code is then 1. Of a regression model the values are given.",
    )
    add_inference_options(predict)
    predict.add_argument(
        "--aggregation", choices=["mean", "max"], help="over windows (default: the model's, else mean)"
    )
    predict.add_argument(
        "--thresholds",
        help="'stored', the criterion by which the stored ones were chosen (e.g. youden), one number for all labels, "
        "or a JSON file of label: value (default: the stored ones, else 0.5)",
    )
    predict.add_argument(
        "--groups", action="store_true", help="also the model's groups of labels: the largest probability in each"
    )
    predict.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers predict`."""
    from ..decisions import summarize_groups

    if arguments.output:
        check_ending(arguments.output, (".csv", ".json", ".jsonl"))
    inference = load_inference(arguments, embeddings=False)
    names = inference.label_names
    groups = inference.label_groups if arguments.groups else {}
    if groups and inference.model.config.problem_type == "regression":
        raise CommandError("--groups is of probabilities, and the model gives values (regression). Leave it out.")
    results, num_failed = run_over_files(arguments, inference)
    decides = inference.model.config.problem_type != "regression"
    key = "probabilities" if decides else "values"
    rows = []
    for result in results:
        row = {
            "path": result.path,
            "record_id": result.record_id,
            "num_windows": result.num_windows,
            "leads_without_signal": result.leads_without_signal,
        }
        if decides:
            row |= {"labels": inference.decide(result.values), "undecided": inference.undecided_labels}
        row[key] = {name: round(float(value), 6) for name, value in zip(names, result.values, strict=True)}
        if groups:
            row["groups"] = summarize_groups(groups, row[key], row["labels"])
        rows.append(row)
    if inference.undecided_labels:
        undecided = ", ".join(inference.undecided_labels)
        print(f"without a threshold, so neither found nor excluded: {undecided}", file=sys.stderr)
    if arguments.output:
        _write_predictions(Path(arguments.output), rows, key, names, list(groups))
        print(f"{len(rows)} prediction{'' if len(rows) == 1 else 's'} written to {arguments.output}", file=sys.stderr)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    elif not arguments.output:
        thresholds = dict(zip(names, inference.thresholds, strict=True)) if inference.has_thresholds else {}
        for row in rows:
            _print_prediction(row, row[key], thresholds)
    return 1 if num_failed else 0


def _print_prediction(row: dict, values: dict[str, float], thresholds: dict[str, float]) -> None:
    decides = "labels" in row
    if decides:
        found = ", ".join(row["labels"]) or ("no label above its threshold" if thresholds else "")
    else:
        found = ", ".join(f"{name} {value:g}" for name, value in values.items())
    print(f"{row['path']}: {found}")
    if row["leads_without_signal"]:
        print(f"  without signal: {' '.join(row['leads_without_signal'])}")
    if not decides:
        return
    width = max(map(len, values))
    for group, summary in row.get("groups", {}).items():
        print(f"  {group}: {summary['probability']:.4f}{', '.join(['', *summary['labels']])}")
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        note = "  *" if name in row["labels"] else ""
        if name in row["undecided"]:
            note = "  (no threshold)"
        elif thresholds:
            note = f"  (threshold {thresholds[name]:.3f}){note}"
        print(f"  {name:<{width}}  {value:8.4f}{note}")


def _write_predictions(path: Path, rows: list[dict], key: str, names: list[str], groups: list[str]) -> None:
    from ..files import written_atomically

    # Values are no decisions; their names may be those of the columns of decisions.
    listed = ("leads_without_signal", *(("labels", "undecided") if key == "probabilities" else ()))
    with written_atomically(path, newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            columns = [f"group: {group}" for group in groups]
            writer.writerow(["path", "record_id", "num_windows", *listed, *columns, *names])
            for row in rows:
                head = [row["path"], row["record_id"], row["num_windows"], *(";".join(row[name]) for name in listed)]
                summary = [row["groups"][group]["probability"] for group in groups]
                writer.writerow([*head, *summary, *row[key].values()])
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            json.dump(rows, file, indent=1)
