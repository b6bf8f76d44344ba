"""Which ECG a record's name stands for: the same ECG has several names in the published corpora."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Names that tell their collection, with or without a folder and an ending. What they rest on:
# - PTB-XL numbers its records (`ecg_id`); the files are nnnnn_hr and nnnnn_lr, and the PhysioNet/CinC Challenges of
#   2020 and 2021 call record nnnnn HRnnnnn.
# - The Challenges keep the names of CPSC 2018 (Annnn) and number the other sources: Qnnnn CPSC-Extra, Ennnnn Georgia,
#   Snnnn PTB, Innnn INCART.
# - JSnnnnn are the names of the Challenge of 2021 and of ecg-arrhythmia on PhysioNet, which is Chapman-Shaoxing and
#   Ningbo together (10,247 + 34,905 = 45,152 records).
# - The records of SPH are Annnnn.
# How Snnnn and Innnn relate to the names of PTB (s0010_re) and INCART (I01) is not documented, so they are no names of
# one ECG here.
_PATTERNS = (
    (re.compile(r"HR(\d{5})"), "ptbxl"),
    (re.compile(r"(\d{5})_[hl]r"), "ptbxl"),
    (re.compile(r"JS(\d{5})"), "ecg-arrhythmia"),
    (re.compile(r"E(\d{5})"), "georgia"),
    (re.compile(r"Q(\d{4})"), "cpsc_extra"),
    (re.compile(r"A(\d{4})"), "cpsc2018"),
    (re.compile(r"A(\d{5})"), "sph"),
    (re.compile(r"S(\d{4})"), "challenge-ptb"),
    (re.compile(r"I(\d{4})"), "challenge-incart"),
)

# Of the names JS00001 to JS45551 Chapman-Shaoxing has 10,247 up to this number and Ningbo all 34,905 above it, which
# are as many as the Challenge has of each.
LAST_CHAPMAN_NUMBER = 10_646

_CHALLENGE_PARTS = {
    "ptbxl": "ptb-xl",
    "georgia": "georgia",
    "cpsc_extra": "cpsc_extra",
    "cpsc2018": "cpsc2018",
    "challenge-ptb": "ptb",
    "challenge-incart": "incart",
}

_ENDINGS = (".hea", ".mat", ".dat", ".h5", ".npz", ".npy")


def known_record(name: str) -> tuple[str, str] | None:
    """Return collection and number of the ECG that a published name stands for.

    Args:
        name (`str`): name or path of a record, with or without the ending of its file.

    Returns:
        `tuple[str, str]`: for example `("ptbxl", "1")` for `HR00001`, `00001_hr` and `records100/00000/00001_lr.hea`;
        `None` for names that tell no collection.
    """
    base = str(name).strip().replace("\\", "/").rsplit("/", 1)[-1]
    stem, ending = os.path.splitext(base)
    base = stem if ending.lower() in _ENDINGS else base
    for pattern, collection in _PATTERNS:
        if match := pattern.fullmatch(base):
            return collection, str(int(match[1]))
    return None


def challenge_part(name: str) -> str | None:
    """Return the part of the Challenge of 2021 that a record's name belongs to, or `None`."""
    known = known_record(name)
    # The original of PTB-XL's copy has other names.
    if known is None or re.split(r"[\\/]", name)[-1][0].isdigit():
        return None
    collection, number = known
    if collection == "ecg-arrhythmia":
        return "chapman_shaoxing" if int(number) <= LAST_CHAPMAN_NUMBER else "ningbo"
    return _CHALLENGE_PARTS.get(collection)


def read_names(names: Sequence[str] | str | os.PathLike, option: str, column: str) -> list[str]:
    """Return names given as a list or in a file.

    Args:
        names (sequence of `str` or path): the names; or a CSV file with a column called `column`, or a text file with
            a name per line.
        option (`str`): what the names were given as, for messages.
        column (`str`): the column of a CSV file.

    Raises:
        ValueError: if it is no list, or there is no such file.
    """
    if not isinstance(names, (str, os.PathLike)):
        if not isinstance(names, Iterable):
            raise ValueError(f"`{option}` is a list of names or a file with them; got {names!r}.")
        return [str(name).strip() for name in names]
    path = Path(names)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`{option}` is a list of names, a CSV file with the column {column}, or a text file with a name per "
            f"line; {str(path)!r} cannot be read: {error}"
        ) from error
    if not rows:
        return []
    header = [cell.strip() for cell in rows[0]]
    if column in header:
        position, rows = header.index(column), rows[1:]
    elif len(header) == 1:
        position = 0
    else:
        raise ValueError(f"{path} (`{option}`) has no column {column}; it has {', '.join(header)}.")
    return [row[position].strip() for row in rows if position < len(row) and row[position].strip()]


class NameSet:
    """Names to be found again under any of the names that the same ECG has.

    Args:
        names (iterable of `str`): names of records.
    """

    def __init__(self, names: Iterable[str]):
        self.names = {os.path.splitext(name)[0] if name.lower().endswith(_ENDINGS) else name for name in names}
        self.known = {known for name in self.names if (known := known_record(name)) is not None}

    def __contains__(self, name: str) -> bool:
        return name in self.names or (bool(self.known) and known_record(name) in self.known)
