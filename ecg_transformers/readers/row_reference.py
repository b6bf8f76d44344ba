"""How one of many recordings in a file is named, or a stretch of a long one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from .errors import ECGReadError

_WINDOW = re.compile(r"(?P<file>.+)#samples:(?P<start>[0-9]{1,15})-(?P<stop>[0-9]{1,15})")
_REFERENCE = re.compile(r"(?P<file>.+)#(?P<dataset>[^#:]+):(?P<row>[0-9]{1,18})")


@dataclass(frozen=True)
class RowReference:
    """One row of a dataset of recordings, written `FILE#DATASET:ROW`, for example `exams_part0.hdf5#tracings:17`.

    The text stands wherever a path may stand: in `read_ecg`, in an `ECG` column, on the command line. It is a format
    of files: saved corpora hold it.

    Args:
        file (`str`): the HDF5 file, as a path.
        dataset (`str`): the dataset's name in the file, with the groups it is in (`group/tracings`); its first axis
            counts the recordings.
        row (`int`): index of the recording, from 0.
    """

    file: str
    dataset: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}#{self.dataset}:{self.row}"

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """The reference without the folder of the file."""
        return f"{os.path.basename(self.file)}#{self.dataset}:{self.row}"


@dataclass(frozen=True)
class WindowReference:
    """A stretch of a recording, written `FILE#samples:START-STOP`, for example `100.hea#samples:3600-7200`.

    It stands wherever a path may stand, as a `RowReference` does, for files of every format. Of WFDB records in the
    common storage formats only that stretch is read.

    Args:
        file (`str`): the file, as a path.
        start (`int`): its first sample, from 0, at the record's own rate.
        stop (`int`): the sample after its last.
    """

    file: str
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.file}#samples:{self.start}-{self.stop}"

    def __fspath__(self) -> str:
        return str(self)

    @property
    def name(self) -> str:
        """The reference without the folder of the file."""
        return f"{os.path.basename(self.file)}#samples:{self.start}-{self.stop}"

    def check(self, num_samples: int) -> None:
        """Make sure that a recording of this many samples has the window.

        Raises:
            ECGReadError: if it has not, or the window is empty.
        """
        if not self.start < self.stop <= num_samples:
            raise ECGReadError(
                self,
                f"the recording has {num_samples} samples, the window goes from {self.start} to {self.stop}.",
                "Name a first sample, from 0, and the one after the last.",
            )


def parse_reference(path: Any) -> RowReference | WindowReference | None:
    """Return the row or the window that a path refers to, or `None` for an ordinary path or a file of that name."""
    if not isinstance(path, (str, os.PathLike)):
        return None
    text = os.fspath(path)
    if not isinstance(text, str):
        return None
    window, row = _WINDOW.fullmatch(text), _REFERENCE.fullmatch(text)
    if (window is None and row is None) or os.path.exists(text):
        return None
    if window is not None:
        return WindowReference(window["file"], int(window["start"]), int(window["stop"]))
    return RowReference(row["file"], row["dataset"], int(row["row"]))


def referenced_file(path: str) -> str:
    """Return the file that a path is, or a part of which it names."""
    reference = parse_reference(path)
    return path if reference is None else reference.file


def name_of_reference(path: str) -> str:
    """Return the last part of a path, which of the name of a row may have slashes in it."""
    reference = parse_reference(path)
    return os.path.basename(path) if reference is None else reference.name
