"""Finding the recordings of a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import ECGReadError
from .wfdb_header import read_header

# Text, XML and raw samples are no recordings unless they look like one; a file with another ending that does not look
# like what the ending says is a damaged recording.
_ENDINGS_OF_OTHER_FILES = {".csv", ".txt", ".tsv", ".asc", ".dat", ".xml"}

# What shares its name with a WFDB header is a part of that record, but for these, which are never signal files.
_NEVER_SIGNAL_FILES = {".xml", ".dcm", ".dicom", ".scp", ".npz"}


def find_ecg_files(folder: str | os.PathLike, recursive: bool = True) -> list[Path]:
    """List the ECG files of a folder, one path per recording.

    A WFDB record is listed by its header only, never by its signal files; the segments of a segmented record are not
    listed beside it. Tables of labels and other files that are no recordings are left out, as are hidden files and
    folders. A damaged recording is listed, so that reading it tells what is wrong with it.

    Args:
        folder (`str` or `os.PathLike`): the folder.
        recursive (`bool`, *optional*, defaults to `True`): look into its subfolders, too. Links to folders are not
            followed.

    Returns:
        `list[Path]`: the recordings, sorted.

    Raises:
        ECGReadError: if there is no such folder.
    """
    return search_folder(folder, recursive)[0]


def search_folder(folder: str | os.PathLike, recursive: bool = True) -> tuple[list[Path], list[Path]]:
    """Return what `find_ecg_files` does, and the other files, sorted: those that belong to no recording either."""
    from tqdm.auto import tqdm

    found: list[Path] = []
    others: list[Path] = []
    # How many files there are is not known before.
    for entry in tqdm(walk_folder(folder, recursive), desc="Searching", unit=" files", delay=2):
        (found if is_recording(entry.path) else others).append(Path(entry.path))
    return found, others


def walk_folder(
    folder: str | os.PathLike, recursive: bool = True, on_error: Callable[[str, str], None] | None = None
) -> Iterator[os.DirEntry]:
    """Yield the files of a folder that may be recordings, by their names and what lies beside them.

    They come in the order of their paths. No file is opened but the headers of segmented WFDB records, and only the
    names of one folder, and of those above it, are in memory. `is_recording` tells which files are recordings.

    Args:
        folder (`str` or `os.PathLike`): the folder.
        recursive (`bool`, *optional*, defaults to `True`): look into its subfolders, too.
        on_error (callable, *optional*): called with the path of a subfolder that cannot be listed, or of a link that
            leads nowhere, and the reason, in the order of the files; by default they are warned of.

    Raises:
        ECGReadError: if there is no such folder.
    """
    if not os.path.isdir(folder):
        raise ECGReadError(folder, "there is no such folder.", "Pass a folder; one file is read with read_ecg(path).")
    return _walk(os.fspath(folder), recursive, on_error or _warn)


def _warn(path: str, reason: str) -> None:
    warnings.warn(f"{reason} It is left out.", stacklevel=3)


def _walk(folder: str, recursive: bool, on_error: Callable[[str, str], None]) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as listed:
            entries = sorted((entry for entry in listed if not entry.name.startswith(".")), key=lambda one: one.name)
    except OSError as error:
        on_error(folder, f"The folder {folder} cannot be listed: {error.strerror}.")
        return
    names = {entry.name for entry in entries}
    headers = [name for name in names if name.endswith(".hea")]
    stems = {name[: -len(".hea")] for name in headers}
    segments: set[str] = set()
    for name in headers:
        segments |= _segments_of(os.path.join(folder, name), names)
    for entry in entries:
        if _is(entry.is_dir):
            if recursive and not entry.is_symlink():
                yield from _walk(entry.path, recursive, on_error)
            continue
        stem, ending = os.path.splitext(entry.name)
        ending = ending.lower()
        if ending == ".hea":
            listed = entry.name not in segments
        elif ending == ".dat":
            # Beside headers lie signal files, whatever their names
            listed = not stems
        else:
            listed = ending in _NEVER_SIGNAL_FILES or stem not in stems
        if not listed:
            continue
        if _is(entry.is_file):
            yield entry
        elif entry.is_symlink() and not os.path.exists(entry.path):
            on_error(entry.path, f"The link {entry.path} leads to nothing that can be opened.")


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        # A link that leads in a circle
        return False


def is_recording(path: str | os.PathLike) -> bool:
    """Tell whether a file of a folder is a recording, by its name and first bytes.

    A damaged recording is one, and so is a file that cannot be opened: reading it tells what is wrong.
    """
    from .registry import read_head, readers_of, readers_of_any_name

    path = Path(path)
    readers = readers_of(path)
    try:
        head = read_head(path)
        known = [reader for reader in (*readers, *readers_of_any_name()) if reader.sniff(path, head)]
        damaged = not known and readers and path.suffix.lower() not in _ENDINGS_OF_OTHER_FILES
        return bool(damaged or any(reader.is_record(path, head) for reader in known[:1]))
    except OSError:
        return True
    except Exception:
        # An unreadable header is reported when it is read; a folder with one such file is still listed.
        return path.suffix.lower() == ".hea"


def _segments_of(header: str, names: set[str]) -> set[str]:
    # Only a header without a signal file of its own name can be the head of a segmented record.
    stem = os.path.basename(header)[: -len(".hea")]
    if f"{stem}.dat" in names or f"{stem}.mat" in names:
        return set()
    try:
        return {f"{name}.hea" for name, _ in read_header(Path(header)).segments or ()}
    except (ECGReadError, OSError):
        return set()
