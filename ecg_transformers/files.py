"""Writing files whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def written_atomically(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a file beside `path` for writing and rename it to `path` at the end; on an error nothing is left behind.

    Args:
        path (`str` or `Path`): the file to write; its folder must exist.
        mode (`str`, *optional*, defaults to `"w"`): `"w"` (UTF-8) or `"wb"`.
        **options: passed to `open`.
    """
    path = Path(path)
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        # mkstemp files are private; the result gets what `open` would have given it.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        with open(handle, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: bytes of file names that are none are escaped.

    Args:
        text (`str`): a path from the file system, or text with one in it (`os.fsdecode` keeps such bytes as
            surrogates).
    """
    if text.isascii():
        return text
    return re.sub("[\ud800-\udfff]", lambda match: _escaped(ord(match[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
