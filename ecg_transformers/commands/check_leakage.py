"""The command `check-leakage`: what two corpora, or the splits of one, share."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from .messages import in_options
from .options import CommandError, check_ending

DESCRIPTION = """Find records, patients and ECGs that two corpora share, or that are in several splits
of one: by the names under which an ECG was published, by patient numbers where both sides
number alike, and by signal, in whatever format, rate, unit or lead order.

A corpus is given as NAME=FOLDER (the names that load_corpus knows), or as a folder: a
saved data set, or ECG files of any format.

The exit code is 0 if nothing is shared, 1 if anything is, 2 if the check itself failed.

examples:
  ecg-transformers check-leakage challenge=challenge-2021 ptbxl=ptb-xl --other_split test
  ecg-transformers check-leakage ptbxl=ptb-xl --one_options sampling_rate=100
  ecg-transformers check-leakage exports/ code15=code-15 --output shared.csv
"""


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    parser = commands.add_parser(
        "check-leakage",
        help="find what two corpora, or the splits of one, share",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    parser.add_argument("one", help="a corpus, as NAME=FOLDER or a folder")
    parser.add_argument("other", nargs="?", help="another; without it the splits of the first are compared")
    parser.add_argument("--one_split", help="compare only this split of the first corpus: train, validation or test")
    parser.add_argument("--other_split", help="the same for the other")
    for side, which in (("one", "first corpus"), ("other", "other")):
        parser.add_argument(
            f"--{side}_options",
            nargs="*",
            action="extend",
            default=[],
            metavar="KEY=VALUE",
            help=f"options of the {which}, as load_corpus takes them",
        )
    parser.add_argument("--no_signals", action="store_true", help="compare names and patients only; reads no signals")
    parser.add_argument("--output", "-o", help="CSV file to write, with a row for each shared record or patient")
    parser.add_argument("--json", action="store_true", help="print the numbers of what is shared as JSON")
    parser.set_defaults(run=run, error_code=2)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers check-leakage`."""
    from ..corpora import check_leakage
    from ..files import written_atomically

    if arguments.output:
        check_ending(arguments.output, (".csv",))
    if arguments.other is None and (arguments.one_split or arguments.other_split or arguments.other_options):
        raise CommandError("--one_split, --other_split and --other_options need a second corpus to compare with.")
    one = _load(arguments.one, arguments.one_split, arguments.one_options, "one")
    other = (
        None
        if arguments.other is None
        else _load(arguments.other, arguments.other_split, arguments.other_options, "other")
    )
    report = check_leakage(one, other, signals=not arguments.no_signals)
    if arguments.output:
        with written_atomically(arguments.output, newline="") as file:
            report.table().to_csv(file, index=False)
    if arguments.json:
        counts = {"records": len(report.records), "patients": len(report.patients)}
        print(json.dumps(counts | {"not_compared": len(report.not_compared), "compared": list(report.compared)}))
    else:
        print(report)
    return 1 if report.found else 0


def _load(entry: str, split: str | None, options: list[str], side: str) -> Any:
    from ..corpora import corpus_function, list_corpora, load_corpus
    from ..training.run_arguments import parse_value

    name, separator, folder = entry.partition("=")
    if not separator or name not in list_corpora():
        name, folder = "folder", entry
    given = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise CommandError(f"--{side}_options takes key=value; got {option!r}.")
        if key in ("name", "data_dir"):
            raise CommandError(f"--{side}_options {option}: a corpus is given as NAME=FOLDER, or as a folder.")
        given[key] = parse_value(value)
    names = inspect.signature(corpus_function(name)).parameters
    if "keep_unlabelled" in names:
        # A record can leak whatever its labels
        given.setdefault("keep_unlabelled", True)
    try:
        corpus = load_corpus(name, data_dir=folder, **given)
    except ValueError as error:
        raise ValueError(f"{entry}: {in_options(str(error), names, f'--{side}_options')}") from error
    if split is None:
        return corpus
    if split not in corpus:
        raise CommandError(f"--{side}_split {split}: {entry} has the splits {', '.join(corpus)}.")
    return corpus[split]
