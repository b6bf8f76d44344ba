"""What several commands share: options for files that do not describe themselves, and errors."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


class CommandError(Exception):
    """Something that the user can mend; shown without a traceback."""


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add what `read_ecg` has to be told of bare arrays."""
    group = parser.add_argument_group("files without rate, leads or unit (CSV, .npy)")
    group.add_argument("--sampling_rate", type=float, help="samples per second (Hz) of files that do not say")
    group.add_argument(
        "--lead_names",
        nargs="+",
        metavar="LEAD",
        help="names of the rows or columns, e.g. I II V1, or 'standard' for I II III aVR aVL aVF V1-V6",
    )
    group.add_argument("--units", choices=["mV", "uV", "V", "nV"], help="unit of files that do not say")


def read_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return those of these options that are given, as arguments of `read_ecg`."""
    from ..feature_extraction.ecg_leads import STANDARD_LEADS

    names = ("sampling_rate", "lead_names", "units")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if options.get("lead_names") == ["standard"]:
        options["lead_names"] = list(STANDARD_LEADS)
    return options


def option_names(parser: argparse.ArgumentParser) -> frozenset[str]:
    """Return the options of a command without their dashes."""
    return frozenset(option[2:] for action in parser._actions for option in action.option_strings if option[1] == "-")


def check_ending(path: str, endings: tuple[str, ...]) -> None:
    """Make sure that `--output` has an ending that can be written, in a folder where it can be.

    Raises:
        CommandError: otherwise.
    """
    if Path(path).suffix not in endings:
        raise CommandError(f"--output {path}: expected a name that ends in {' or '.join(endings)}.")
    if Path(path).is_dir():
        raise CommandError(f"--output {path} is a folder; name a file, for example one in it.")
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise CommandError(f"--output {path}: the folder {folder} does not exist; create it first.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CommandError(f"--output {path}: nothing can be written in the folder {folder}; name another one.")
