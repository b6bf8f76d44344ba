"""The command `ecg-transformers`; what it does is in `commands`, one file for each of them."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from .commands import check_leakage, convert, convert_records, demo, embed, export, info, label_reports, plot, predict
from .commands.messages import in_options
from .commands.options import CommandError, option_names

# In the order of the help
COMMANDS = (predict, embed, plot, convert, export, convert_records, label_reports, check_leakage, info, demo)

DESCRIPTION = """Electrocardiogram foundation models on the command line.

examples:
  ecg-transformers info record.hea
  ecg-transformers plot record.hea -o sheet.png
  ecg-transformers predict records/ --model my-model --output predictions.csv
  ecg-transformers embed records/ --model hubert-ecg-base --output embeddings.npz
  ecg-transformers convert hubert_ecg_small.pt hubert-ecg-small
  ecg-transformers export my-model --onnx model.onnx
  ecg-transformers convert-records exports/ --to parquet -o packed/
  ecg-transformers label-reports reports.csv --model bert --output labels.csv
  ecg-transformers check-leakage challenge=challenge-2021 ptbxl=ptb-xl
  ecg-transformers demo
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command, with all its subcommands."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("ecg-transformers", description=DESCRIPTION, formatter_class=formatter)
    parser.add_argument("--version", action="store_true", help="print versions and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    for subparser in commands.choices.values():
        subparser.set_defaults(option_names=option_names(subparser))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        _print_versions()
        return 0
    if not arguments.command:
        parser.print_help()
        return 2
    error_code = getattr(arguments, "error_code", 1)
    # Where in the package a warning comes from helps nobody at a prompt.
    previous, warnings.formatwarning = warnings.formatwarning, lambda message, *_, **__: f"warning: {message}\n"
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (CommandError, ValueError, OSError, ImportError) as error:
        # The errors of the package name the value, what was expected and the remedy.
        told = in_options(str(error), arguments.option_names)
        print(f"ecg-transformers {arguments.command}: {told}", file=sys.stderr)
        return error_code
    except Exception:
        # Python itself would end with 1, which says something else where errors have a code of their own.
        traceback.print_exc()
        return error_code
    finally:
        warnings.formatwarning = previous


def _print_versions() -> None:
    from importlib.metadata import version

    for package in ("ecg-transformers", "transformers", "torch", "datasets", "wfdb", "numpy"):
        print(f"{package} {version(package)}")


if __name__ == "__main__":
    sys.exit(main())
