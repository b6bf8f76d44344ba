"""What the command `ecg-transformers` tells on stderr beside its results."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
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


def in_options(message: str, names: Collection[str], within: str | None = None) -> str:
    """Name the arguments of the package's functions as options of a command.

    Args:
        message (`str`): written for callers of the functions: `` `lead_names` ``, `units="mV"`, `overwrite=True`.
        names (collection of `str`): the options that the command has, without dashes. Other arguments stay as they
            are. What the feature `ECG` calls `file_units` is `units` to those who read files.
        within (`str`, *optional*): the option that takes these as KEY=VALUE, such as `"--one_options"`.

    Returns:
        `str`: for example `--lead_names`, `--units "mV"`, `--overwrite`; with `within` `--one_options units="mV"`.
    """
    for advice, other in _ADVICE.items():
        message = message.replace(advice, other)
    if "encoding" in names:
        message = message.replace("say its encoding", "use --encoding")

    def known(name: str) -> str | None:
        return next((one for one in (name, name.removeprefix("file_")) if one in names), None)

    def given(match: re.Match) -> str:
        name, value = match.groups(default="")
        if value == "False" and f"no_{name}" in names:
            return f"--no_{name}"
        option = known(name)
        if option is None:
            return match[0]
        no_value = not value and message[match.end() : match.end() + 1] in ("", " ", ".", ",", ";", ")")
        if within is not None:
            return f"{within} {option}={'…' if no_value else value.lower()}"
        # With a value: of a flag, or a list without entries
        return f"--{option}" if value or no_value else f"--{option} "

    message = re.sub(r"(?<![\w.-])(\w+)=(True\b|False\b|\[\])?", given, message)
    if within is not None:
        return message
    return re.sub(r"(?<=`)(\w+)(?=`)", lambda match: f"--{name}" if (name := known(match[1])) else match[0], message)


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
