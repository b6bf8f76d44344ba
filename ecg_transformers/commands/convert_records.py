"""The command `convert-records`: a folder of ECG files into Parquet shards, or into files of one format."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from .messages import in_options
from .options import add_file_options, read_options

DESCRIPTION = """Convert all ECG files below a folder, of any mix of formats.

--to parquet writes shards with the recordings, their metadata and labels inside, which
load_corpus(folder) and the training scripts (--corpus folder) open. --to npz and --to wfdb
write a file for each recording and records.csv, a table of them.

Files that cannot be read are listed in errors.csv with reason and remedy, the others go
on; the exit code is then 1. An interrupted conversion goes on where it stopped when the
same command is given again.

examples:
  ecg-transformers convert-records exports/ --to parquet -o packed/
  ecg-transformers convert-records exports/ --labels_csv labels.csv --quality -o packed/
  ecg-transformers convert-records arrays/ --sampling_rate 500 --lead_names standard -o packed/
"""


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    parser = commands.add_parser(
        "convert-records",
        help="pack a folder of ECG files into Parquet, or into files of one format",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    parser.add_argument("folder", help="the files; subfolders are searched")
    parser.add_argument("--output", "-o", required=True, help="folder to write, outside of the folder with the files")
    parser.add_argument("--to", choices=["parquet", "npz", "wfdb"], default="parquet", help="(default: parquet)")
    parser.add_argument("--workers", type=int, help="processes (default: the number of cores, at most 8)")
    parser.add_argument(
        "--shard_mb", type=float, default=500, help="size of a Parquet file in 10^6 bytes (default: 500)"
    )
    parser.add_argument("--quality", action="store_true", help="add a column with the quality of each recording")
    parser.add_argument(
        "--overwrite", action="store_true", help="start over where the output holds another conversion"
    )
    table = parser.add_argument_group("table of labels")
    table.add_argument(
        "--labels_csv",
        help="CSV or TSV with a column file, any of patient_id, age, sex, record_id, fold, report, split, and labels",
    )
    table.add_argument("--label_columns", nargs="*", metavar="COLUMN", help="the labels (default: all other columns)")
    table.add_argument(
        "--label_separator", help="what stands between the labels in the cells of the only label column"
    )
    table.add_argument(
        "--problem_type", help="multi_label_classification, single_label_classification or regression (default: found)"
    )
    table.add_argument("--patient_column", help="column with the patient (default: patient_id)")
    table.add_argument("--skip_missing", action="store_true", help="leave out rows whose file is not there")
    add_file_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers convert-records`."""
    from ..corpora.record_packing import pack_records

    options = read_options(arguments)
    names = ("labels_csv", "label_columns", "label_separator", "problem_type", "patient_column", "skip_missing")
    names += ("to", "workers", "shard_mb", "quality", "overwrite")
    options |= {name: getattr(arguments, name) for name in names}
    try:
        report = pack_records(arguments.folder, arguments.output, **options)
    except KeyboardInterrupt:
        print("the same command goes on from here", file=sys.stderr)
        raise
    for reason, count in report.reasons.most_common(5):
        print(f"not readable, {count}: {in_options(reason, arguments.option_names)}", file=sys.stderr)
    if report.errors is not None:
        print(f"{report.num_errors} files could not be read; all are listed in {report.errors}", file=sys.stderr)
    resumed = f", {report.num_resumed} files of them by an earlier run" if report.num_resumed else ""
    print(f"{report.num_records} records, {report.num_bytes / 1e6:,.1f} MB in {report.output}{resumed}")
    new = report.num_records + report.num_errors - report.num_resumed
    print(f"  {new} files in {report.seconds:.1f} s, {new / max(report.seconds, 1e-9):.0f} a second")
    for kind, count in report.kinds.most_common():
        print(f"  {count:>8} x {kind}")
    return 1 if report.num_errors else 0
