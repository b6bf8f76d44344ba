"""The command `label-reports`: labels from the texts of a table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .messages import in_options

DESCRIPTION = """Run a classifier of texts, such as DeepECG's BERT for English and French reports, over
the reports of a table.

The output has the rows of the table in their order: its other columns, `error`, and a
column per label with 1 or 0. A label is 1 where its probability lies above its threshold.
Rows without a usable report are reported, the others go on; the exit code is then 1.

An interrupted run goes on where it stopped when the same command is given again.

examples:
  ecg-transformers label-reports reports.csv --model bert-ecg-77 --output labels.csv
  ecg-transformers label-reports comptes_rendus.csv --text_column texte --model bert-ecg-77 \\
    --thresholds thresholds.json --output labels.csv
"""


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    parser = commands.add_parser(
        "label-reports",
        help="label the reports of a table with a text classifier",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    parser.add_argument("table", help="CSV or TSV file with a header, separated by comma, semicolon or tab")
    parser.add_argument("--model", required=True, help="folder or Hub id with a sequence classifier and its tokenizer")
    parser.add_argument("--output", "-o", required=True, help="CSV file to write")
    parser.add_argument("--text_column", default="report", help="column of the reports (default: report)")
    parser.add_argument(
        "--columns", nargs="*", metavar="COLUMN", help="columns to copy to the output (default: all but the report)"
    )
    parser.add_argument(
        "--thresholds",
        help="stored (those in config.json), a number for all labels, a JSON file of label: value, or deepecg (those "
        "published with DeepECG's classifier of reports) (default: stored if there are any, else 0.5)",
    )
    parser.add_argument(
        "--values", choices=["labels", "probabilities"], default="labels", help="what to write (default: labels)"
    )
    parser.add_argument("--label_names", help="text file with one label per line, if the model does not name its own")
    parser.add_argument(
        "--single_label",
        action="store_true",
        default=None,
        help="classes exclude each other (default: what config.json says, else labels are independent)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="reports in a forward pass (default: 32)")
    parser.add_argument(
        "--part_size", type=int, default=2000, help="rows done between two safe points (default: 2000)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    parser.add_argument("--delimiter", help="separator of the table (default: found by its header)")
    parser.add_argument("--encoding", default="utf-8", help="of the table (default: utf-8)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output, start over with other settings")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers label-reports`."""
    from ..report_labelling import ReportLabeller, label_reports
    from ..report_tables import ReportTable

    thresholds, names = arguments.thresholds, None
    if thresholds == "deepecg":
        from ..labels import report_thresholds

        thresholds = report_thresholds()
    if arguments.label_names:
        try:
            lines = Path(arguments.label_names).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--label_names {arguments.label_names} cannot be read: {error}.") from error
        names = [line.strip() for line in lines if line.strip()]
    try:
        table = ReportTable(arguments.table, arguments.text_column, arguments.delimiter, arguments.encoding)
        labeller = ReportLabeller.from_pretrained(
            arguments.model,
            arguments.device,
            thresholds=thresholds,
            label_names=names,
            single_label=arguments.single_label,
            batch_size=arguments.batch_size,
        )
        if labeller.model.config.problem_type is None and arguments.single_label is None:
            print(
                "config.json does not say whether classes exclude each other; taken as independent labels "
                "(--single_label if they do)",
                file=sys.stderr,
            )
        result = label_reports(
            labeller,
            table,
            arguments.output,
            columns=arguments.columns,
            values=arguments.values,
            part_size=arguments.part_size,
            overwrite=arguments.overwrite,
        )
    except KeyboardInterrupt:
        print("the same command goes on from here", file=sys.stderr)
        raise
    for reason in result.bad_rows:
        print(f"not labelled: {in_options(reason, arguments.option_names)}", file=sys.stderr)
    if result.num_bad > len(result.bad_rows):
        print(f"not labelled: {result.num_bad - len(result.bad_rows)} rows more, see `error`", file=sys.stderr)
    if labeller.undecided_labels and arguments.values == "labels":
        print(f"without a threshold, so left empty: {', '.join(labeller.undecided_labels)}", file=sys.stderr)
    if result.num_cut:
        print(f"longer than {labeller.max_length} tokens, so cut: {result.num_cut} reports", file=sys.stderr)
    resumed = f", {result.num_resumed} of them by the interrupted run" if result.num_resumed else ""
    print(f"{result.num_rows - result.num_bad} of {result.num_rows} reports labelled{resumed}: {result.output}")
    return 1 if result.num_bad else 0
