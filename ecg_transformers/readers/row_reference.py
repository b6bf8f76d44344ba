"""How one of many recordings in a file is named."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

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

    @classmethod
    def parse(cls, path: Any) -> RowReference | None:
        """Return what a path refers to, or `None` if it is an ordinary path; so is the name of a file that exists."""
        if not isinstance(path, (str, os.PathLike)):
            return None
        text = os.fspath(path)
        match = _REFERENCE.fullmatch(text) if isinstance(text, str) else None
        if match is None or os.path.exists(text):
            return None
        return cls(match["file"], match["dataset"], int(match["row"]))
