"""NumPy files: bare arrays (`.npy`), archives (`.npz`), and the archive form that the package itself writes."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..files import written_atomically
from ..record import ECGRecord
from .content import FileContent, unpacked_limit
from .errors import ECGReadError
from .registry import ReadRequest, register_reader

_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_MAX_TEXT_BYTES = 64 * 2**20

# What archives of others call these things, in order of preference.
_SIGNAL_KEYS = ("signal", "ecg", "data", "x", "X", "arr_0")
_RATE_KEYS = ("sampling_rate", "fs", "sample_rate", "sampling_frequency")
_LEAD_KEYS = ("lead_names", "leads", "sig_name", "channels")
_UNIT_KEYS = ("units", "unit")


def _is_bare_recording(path: Path, head: bytes) -> bool:
    if not head.startswith(_NPY_MAGIC):
        return False
    try:
        shape, _, dtype = _read_npy_header(io.BytesIO(head), path)
    except Exception:
        return False
    return len(shape) >= 2 and sum(length != 1 for length in shape) <= 2 and dtype.kind in "iuf"


@register_reader(
    "npy", extensions=(".npy",), sniff=lambda path, head: head.startswith(_NPY_MAGIC), is_record=_is_bare_recording
)
def read_npy(path: Path, request: ReadRequest) -> FileContent:
    """Read a bare array of shape `(leads, samples)`, `(samples, leads)` or `(samples,)`; mV unless told otherwise.

    Further axes of length 1 are dropped. The caller gives rate and lead names; the axis as long as the list of names
    is that of the leads.
    """
    with open(path, "rb") as file:
        array = _read_array(file, path.stat().st_size, path)
    signal, layout = orient(array, request.lead_names, path)
    return FileContent(signal, metadata={"layout": layout}, default_units="mV")


@register_reader("npz", extensions=(".npz",), sniff=lambda path, head: head.startswith(_ZIP_MAGIC))
def read_npz(path: Path, request: ReadRequest) -> FileContent:
    """Read an archive written by `save_npz`, or one of others that holds one recording.

    In archives of others the recording is `signal`, `ecg`, `data`, `x` or the only array; `sampling_rate` or `fs`,
    `lead_names` or `leads`, and `units` are taken where present, the caller gives the rest; mV unless told otherwise.
    """
    with open(path, "rb") as file:
        arrays = _read_archive(file, path)
    metadata = _parse_metadata(arrays.pop("metadata", None), path)
    names = _first(arrays, _LEAD_KEYS)
    rate = _first(arrays, _RATE_KEYS)
    unit = _first(arrays, _UNIT_KEYS)
    if names is not None and names.dtype.kind != "U":
        raise ECGReadError(path, f"its lead names are of type {names.dtype}.", "Store them as an array of strings.")
    if rate is not None and (rate.size != 1 or rate.dtype.kind not in "iuf"):
        raise ECGReadError(path, f"its sampling rate is an array of shape {rate.shape}.", "Store one number in Hz.")
    rows = {key: value for key, value in arrays.items() if value.ndim in (1, 2) and value.dtype.kind in "iuf"}
    array = _first(rows, _SIGNAL_KEYS)
    if array is None:
        if len(rows) != 1:
            raise ECGReadError(
                path,
                f"none of its arrays ({', '.join(sorted(arrays)) or 'there are none'}) is clearly the recording.",
                "Store it under the key 'signal'.",
            )
        array = next(iter(rows.values()))
    names = None if names is None else [str(name) for name in names.reshape(-1)]
    signal, layout = orient(array, names or request.lead_names, path)
    return FileContent(
        signal,
        sampling_rate=None if rate is None else float(rate.reshape(-1)[0]),
        lead_names=names,
        units=None if unit is None or unit.size != 1 else str(unit.reshape(-1)[0]),
        metadata={**metadata, "layout": metadata.get("layout", layout)},
        default_units="mV",
    )


def orient(array: np.ndarray, lead_names: Any, path: Path) -> tuple[np.ndarray, str]:
    """Bring an array to `(leads, samples)` with the help of the number of lead names; also say what was found."""
    if array.dtype.kind not in "iuf":
        raise ECGReadError(path, f"its array is of type {array.dtype}.", "Store real numbers.")
    while array.ndim > 2 and 1 in array.shape:
        # The last one, so that one lead or one sample stays an axis.
        array = array.squeeze(max(axis for axis, length in enumerate(array.shape) if length == 1))
    if array.ndim == 1:
        return array[None, :], "one lead"
    if array.ndim != 2 or array.size == 0:
        raise ECGReadError(
            path,
            f"its array has shape {array.shape} instead of (leads, samples).",
            "Store one recording per file, or all in a dataset of an HDF5 file, whose rows are FILE#DATASET:0, …",
        )
    count = None if lead_names is None else len(lead_names)
    if count is not None and count == array.shape[1] and count != array.shape[0]:
        return array.T, "(samples, leads)"
    if count is None and array.shape[0] > array.shape[1]:
        # The caller will be asked for the names; the shorter axis tells how many.
        return array.T, "(samples, leads)"
    return array, "(leads, samples)"


def record_to_npz_bytes(record: ECGRecord) -> bytes:
    """Return a record as the bytes of an NPZ archive.

    Keys: `signal` (float32, mV), `sampling_rate` (float64, Hz), `lead_names` (strings), `metadata` (a JSON string).
    The same record always gives the same bytes.

    Args:
        record ([`ECGRecord`]): the record. Its metadata must be JSON-like; NumPy numbers and arrays are converted.

    Returns:
        `bytes`: the archive.

    Raises:
        TypeError: if a value of the metadata has no JSON form.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        signal=record.signal,
        sampling_rate=np.float64(record.sampling_rate),
        lead_names=np.array(record.lead_names, dtype=np.str_),
        metadata=np.array(json.dumps(record.metadata, default=_to_json, ensure_ascii=False)),
    )
    return buffer.getvalue()


def record_from_npz_bytes(data: bytes) -> ECGRecord:
    """Return the record that `record_to_npz_bytes` has written.

    Args:
        data (`bytes`): the archive.

    Returns:
        [`ECGRecord`]: the record, equal to the one written.

    Raises:
        ECGReadError: if the bytes are no such archive.
    """
    path = Path("<npz bytes>")
    try:
        arrays = _read_archive(io.BytesIO(data), path)
        missing = {"signal", "sampling_rate", "lead_names"} - set(arrays)
        if missing:
            raise ECGReadError(path, f"the archive lacks {', '.join(sorted(missing))}.", "Write it with save_npz.")
        names = [str(name) for name in arrays["lead_names"].reshape(-1)]
        metadata = _parse_metadata(arrays.get("metadata"), path)
        return ECGRecord(arrays["signal"], float(arrays["sampling_rate"].reshape(-1)[0]), tuple(names), metadata)
    except ECGReadError:
        raise
    except Exception as error:
        raise ECGReadError(
            path, f"the archive is damaged ({type(error).__name__}: {str(error)[:200]}).", "Write it again."
        ) from error


def save_npz(record: ECGRecord, path: str | os.PathLike) -> Path:
    """Write a record as an NPZ archive that `read_ecg` reads back unchanged; an existing file is replaced in one step.

    Args:
        record ([`ECGRecord`]): the record.
        path (`str` or `os.PathLike`): the file, ending in `.npz`.

    Returns:
        `Path`: the file written.

    Raises:
        ValueError: if the path does not end in `.npz`.
        OSError: if the folder does not exist or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".npz":
        raise ValueError(f"The archive's name must end in .npz; got {path.name!r}.")
    data = record_to_npz_bytes(record)
    with written_atomically(path, "wb") as file:
        file.write(data)
    return path


def _read_npy_header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ECGReadError(path, f"its array is in NPY version {version}.", "Save it with numpy.save, as plain numbers.")


def is_vector(path: Path) -> bool:
    """Tell whether an NPY file holds one row of numbers, or words: nothing that `find_ecg_files` takes for an ECG."""
    try:
        with open(path, "rb") as file:
            shape, _, dtype = _read_npy_header(file, path)
    except Exception:
        # Damaged, which reading tells
        return False
    return dtype.kind not in "iuf" or sum(length != 1 for length in shape) < 2


def _read_array(file: BinaryIO, size: int, path: Path, allow_text: bool = False) -> np.ndarray:
    """Read one NPY stream of `size` bytes whose header claims exactly what follows it; never a pickle."""
    start = file.tell()
    shape, fortran, dtype = _read_npy_header(file, path)
    if dtype.hasobject:
        raise ECGReadError(
            path, "its array holds Python objects (a pickle), which could run code.", "Save it as an array of numbers."
        )
    if dtype.kind not in "iuf" and not (allow_text and dtype.kind == "U"):
        raise ECGReadError(path, f"its array is of type {dtype}.", "Save real numbers.")
    if any(length < 0 for length in shape) or len(shape) > 8:
        raise ECGReadError(path, f"its array has shape {shape}.", "Save it again with numpy.save.")
    claimed, held = math.prod(shape) * dtype.itemsize, size - (file.tell() - start)
    if claimed != held:
        raise ECGReadError(
            path,
            f"its header claims shape {shape} of {dtype}, {claimed} bytes; {held} follow.",
            "The file is damaged.",
        )
    data = file.read(claimed)
    if len(data) != claimed:
        raise ECGReadError(path, f"it ends after {len(data)} of {claimed} bytes.", "The file is truncated.")
    array = np.frombuffer(data, dtype=dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _read_archive(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    """Read the numeric and text arrays of an archive; entries that are neither are left out."""
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        unpacked, packed = (sum(getattr(one, key) for one in entries) for key in ("file_size", "compress_size"))
        if unpacked > unpacked_limit(packed) or len(entries) > 1000:
            raise ECGReadError(
                path,
                f"the archive's {len(entries)} arrays unpack to {unpacked} bytes.",
                "Store one recording per file.",
            )
        if not entries:
            raise ECGReadError(path, "the archive holds no arrays.", "Write it with numpy.savez.")
        for entry in entries:
            if entry.flag_bits & 1:
                raise ECGReadError(path, "the archive is encrypted.", "Write it with numpy.savez.")
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as stream:
                try:
                    arrays[name] = _read_array(stream, entry.file_size, path, allow_text=True)
                except ECGReadError as error:
                    raise ECGReadError(path, f"array {name!r}: {error.reason}", error.remedy) from None
                # Reading past the end makes zipfile compare the checksum.
                stream.read(1)
    return arrays


def _parse_metadata(array: np.ndarray | None, path: Path) -> dict[str, Any]:
    if array is None or array.dtype.kind != "U" or array.size != 1:
        return {}
    if array.nbytes > _MAX_TEXT_BYTES:
        raise ECGReadError(path, f"its metadata take {array.nbytes} bytes.", "Keep signals out of the metadata.")
    try:
        metadata = json.loads(str(array.reshape(-1)[0]))
    except (ValueError, RecursionError) as error:
        raise ECGReadError(path, f"its metadata are no JSON ({error}).", "Write it again with save_npz.") from None
    return metadata if isinstance(metadata, dict) else {}


def _first(arrays: dict[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (set, tuple)):
        return list(value)
    raise TypeError(
        f"Metadata of type {type(value).__name__} has no JSON form: {str(value)[:80]!r}. Make it a string."
    )
