"""What the command `ecg-transformers` tells on stderr beside its results."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Advice for callers of the functions that the command has no option for, and what helps at a prompt instead
_ADVICE = {
    "If the content is one of these, name it with format=.": "If the content is one of these, rename the file.",
    ", or name its format with format=.": ", or rename it to the ending of its format.",
    "Name its format with format=.": "Rename it to the ending of its format.",
    "List its records with find_ecg_files(folder) and read each one.": "Give one of the files in it.",
    "with drop_nan_leads=True": "with ecg_transformers.read_ecg(path, drop_nan_leads=True) in Python",
}


def in_options(message: str) -> str:
    """Name the arguments of the package's functions as options of the command."""
    for advice, other in _ADVICE.items():
        message = message.replace(advice, other)
    message = message.replace("`label_names`", "`--label_names`")
    return re.sub(r"\b(sampling_rate|lead_names|units)= ?", r"--\1 ", message)


def tell_left_out(folder: Path, others: Sequence[Path]) -> None:
    """Tell which files of a folder are no ECGs."""
    names = _some([str(path.relative_to(folder)) for path in others])
    print(f"left out of {folder}, no ECG: {_counted(len(others), 'file')} ({names})", file=sys.stderr)


def tell_leads_without_signal(results: Sequence[Any]) -> None:
    """Tell which of several records lack leads: the extractor's warnings for many records name none."""
    lacking = [result for result in results if result.leads_without_signal]
    if len(results) < 2 or not lacking:
        return
    names = _some([f"{Path(result.path).name} ({len(result.leads_without_signal)})" for result in lacking])
    print(
        f"leads without signal (missing, flat or void) in {len(lacking)} of {len(results)} records (number of "
        f"leads): {names}",
        file=sys.stderr,
    )


def _some(names: Sequence[str], count: int = 5) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
