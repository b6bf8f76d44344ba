"""Finding the recordings of a folder."""

from __future__ import annotations

import os
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

    from .registry import read_head, readers_of, readers_of_any_name

    root = Path(folder)
    if not root.is_dir():
        raise ECGReadError(root, "there is no such folder.", "Pass a folder; one file is read with read_ecg(path).")
    found: list[Path] = []
    others: list[Path] = []
    # How many files there are is not known before.
    progress = tqdm(desc="Searching", unit=" files", delay=2)
    for current, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        stems = {name[: -len(".hea")] for name in names if name.endswith(".hea")}
        segments: set[str] = set()
        for name in sorted(names):
            progress.update()
            path = Path(current, name)
            of_its_own = path.suffix.lower() in _NEVER_SIGNAL_FILES | {".hea"}
            if name.startswith(".") or (not of_its_own and path.stem in stems):
                continue
            readers = readers_of(path)
            try:
                if not path.is_file():
                    continue
                head = read_head(path)
                known = [reader for reader in (*readers, *readers_of_any_name()) if reader.sniff(path, head)]
                damaged = not known and readers and path.suffix.lower() not in _ENDINGS_OF_OTHER_FILES
                if not damaged and not any(reader.is_record(path, head) for reader in known[:1]):
                    # Beside headers lie signal files, whatever their names
                    if not (stems and path.suffix.lower() == ".dat"):
                        others.append(path)
                    continue
            except Exception:
                # An unreadable file is reported when it is read; a folder with one such file is still listed.
                if path.suffix.lower() != ".hea":
                    others.append(path)
                    continue
            if path.suffix.lower() == ".hea":
                segments |= _segments_of(path, names)
            found.append(path)
        if segments:
            found = [path for path in found if str(path.parent) != current or path.name not in segments]
    progress.close()
    return sorted(found), sorted(others)


def _segments_of(header: Path, names: list[str]) -> set[str]:
    # Only a header without a signal file of its own name can be the head of a segmented record.
    if f"{header.stem}.dat" in names or f"{header.stem}.mat" in names:
        return set()
    try:
        return {f"{name}.hea" for name, _ in read_header(header).segments or ()}
    except (ECGReadError, OSError):
        return set()
