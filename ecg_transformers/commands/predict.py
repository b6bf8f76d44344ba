"""The command `predict`: findings of a fine-tuned model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from .inference_options import AT_SCALE, add_inference_options, check_output, load_inference, run_inference
from .options import CommandError

if TYPE_CHECKING:
    from ..inference import InferenceResult
    from ..result_tables import PredictionColumns


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    predict = commands.add_parser(
        "predict",
        help="diagnose ECG files with a fine-tuned model",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Run a fine-tuned model over ECG files. Probabilities above the thresholds stored with the
model (else 0.5) become labels; labels whose threshold is unknown are listed as undecided.
Of a regression model the values are given.

The columns of a table (.csv, .parquet; .jsonl and .json say the same in objects):
  path, record_id        the file as it was given, and the record's own name
  num_windows            windows that were combined
  leads_without_signal   leads that are missing, flat or void (a list; in CSV with ; between)
  labels, undecided      labels found, labels without a threshold (not of regression models);
                         names that hold a ; themselves are told apart by the other formats only
  group: NAME            with --groups: the largest probability of the group
  NAME                   the probability of each label, or the value; a label that is called
                         as a column above has the column "label: NAME"
"""
        + AT_SCALE,
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
    if arguments.output:
        check_output(arguments, (".csv", ".json", ".jsonl", ".parquet"))
    from ..result_tables import PredictionColumns

    inference = load_inference(arguments, embeddings=False)
    columns = PredictionColumns(inference, arguments.groups)
    if columns.groups and not columns.decides:
        raise CommandError("--groups is of probabilities, and the model gives values (regression). Leave it out.")
    code = run_inference(arguments, inference, lambda _: columns, _print_prediction, "prediction")
    if inference.undecided_labels:
        undecided = ", ".join(inference.undecided_labels)
        print(f"without a threshold, so neither found nor excluded: {undecided}", file=sys.stderr)
    return code


def _print_prediction(columns: PredictionColumns, result: InferenceResult) -> None:
    inference, row = columns.inference, columns.row(result)
    thresholds = dict(zip(columns.names, inference.thresholds, strict=True)) if inference.has_thresholds else {}
    decides, values = columns.decides, row[columns.key]
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
