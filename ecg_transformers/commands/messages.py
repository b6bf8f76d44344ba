"""What the command `ecg-transformers` tells on stderr beside its results."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

# Names of a sample that are shown
_SHOWN = 5

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


class Sample:
    """A number of names, of which the first few are kept."""

    def __init__(self, names: Iterable[str] = ()):
        self.count = 0
        self.first: list[str] = []
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        """Count a name."""
        self.count += 1
        if self.count <= _SHOWN:
            self.first.append(name)

    def __str__(self) -> str:
        rest = f" and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
        return ", ".join(self.first) + rest


def tell_left_out(folder: str | Path, others: Sample) -> None:
    """Tell which files of a folder are no ECGs."""
    print(f"left out of {folder}, no ECG: {_counted(others.count, 'file')} ({others})", file=sys.stderr)


def tell_leads_without_signal(lacking: Sample, count: int) -> None:
    """Tell which of several records lack leads: the extractor's warnings for many records name none."""
    if count < 2 or not lacking.count:
        return
    print(
        f"leads without signal (missing, flat or void) in {lacking.count} of {count} records (number of leads): "
        f"{lacking}",
        file=sys.stderr,
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
