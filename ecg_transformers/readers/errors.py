"""The one exception that reading an ECG file raises."""

from __future__ import annotations

import os


class ECGReadError(ValueError):
    """An ECG file that cannot be read, with the reason and what to do about it.

    Args:
        path (`str` or `os.PathLike`): the file.
        reason (`str`): what is wrong with it, with the values found and expected.
        remedy (`str`): what the caller can do.

    Attributes:
        path (`str`): the file.
        reason (`str`): what is wrong.
        remedy (`str`): what to do.
    """

    def __init__(self, path: str | os.PathLike, reason: str = "", remedy: str = ""):
        # All three are kept in `args`, so that the error survives pickling between data loader processes. The defaults
        # are for loaders that rebuild an exception from its message alone.
        super().__init__(os.fspath(path), reason, remedy)
        self.path, self.reason, self.remedy = self.args

    def __str__(self) -> str:
        if not self.reason:
            return self.path
        return " ".join(part for part in (f"Cannot read the ECG file {self.path}: {self.reason}", self.remedy) if part)
