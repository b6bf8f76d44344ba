"""The variables of MATLAB 7.3 files, which are HDF5 files behind a block of 512 bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import ECGReadError
from .hdf5_storage import check_storage

# MATLAB's classes of numbers, as the attribute `MATLAB_class` names them
_NUMBERS = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "logical"}
_MAX_ENTRIES = 1000


def load_hdf5_variables(path: Path) -> dict[str, Any]:
    """Read the numbers, texts and structs of a MATLAB 7.3 file as `scipy.io.loadmat` gives those of older files.

    Arrays are stored with their axes reversed, as MATLAB counts columns first. Cells, objects and functions are left
    out. Needs the extra `hdf5`.

    Args:
        path (`Path`): the file.

    Returns:
        `dict[str, Any]`: arrays of two axes and more, texts, and structs as arrays of shape (1, 1) with fields.

    Raises:
        ECGReadError: if an array is not all there, or the file has links or absurdly many entries.
        ImportError: without h5py.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "Reading MATLAB 7.3 files needs h5py: pip install 'ecg-transformers[hdf5]'. Or save them with -v7."
        ) from error

    try:
        with h5py.File(path, "r") as file:
            return _entries(h5py, file, path)
    except (OSError, KeyError, RuntimeError) as error:
        raise ECGReadError(
            path,
            f"it is a damaged MATLAB 7.3 (HDF5) file ({error}).",
            "Save it again, or with the option -v7.",
        ) from error


def _entries(h5py: Any, group: Any, path: Path, depth: int = 0) -> dict[str, Any]:
    if len(group) > _MAX_ENTRIES or depth > 4:
        raise ECGReadError(path, "it has too many variables or nested structs.", "Save one recording per file.")
    found: dict[str, Any] = {}
    for name in group:
        if name.startswith("#"):
            # The bodies of cells and objects
            continue
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ECGReadError(path, f"its variable {name} is a link.", "Store the data in the file itself.")
        entry = group[name]
        kind = entry.attrs.get("MATLAB_class", b"")
        kind = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
        if isinstance(entry, h5py.Group):
            fields = _entries(h5py, entry, path, depth + 1)
            if kind == "struct" and fields:
                found[name] = np.empty((1, 1), dtype=[(field, object) for field in fields])
                found[name][0, 0] = tuple(fields.values())
        elif entry.dtype.kind in "iuf" and (kind in _NUMBERS or kind == "char"):
            if entry.attrs.get("MATLAB_empty", 0):
                continue
            check_storage(entry, path)
            array = np.asarray(entry[()]).T
            found[name] = "".join(map(chr, array.T.reshape(-1))) if kind == "char" else array
    return found
