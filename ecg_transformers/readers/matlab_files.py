"""MATLAB files: CODE-15 exams, CPSC 2018 structs, and plain arrays."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from .content import FileContent, parse_age, parse_sex, unpacked_limit
from .errors import ECGReadError
from .label_tables import table_row
from .matlab_hdf5 import load_hdf5_variables
from .numpy_files import orient
from .registry import ReadRequest, register_reader
from .wfdb_files import header_beside

# Level 5 MAT-File Format, MathWorks: data types of elements and classes of arrays.
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC_CLASSES = range(6, 16)
_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
# Bytes per element of the numeric types of level 4 (the tens digit of the type number).
_LEVEL_4_BYTES = (8, 4, 4, 2, 2, 1)

CODE15_LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")


def _level(head: bytes) -> str | None:
    """Tell the file level from its first 128 bytes: "4", "5", "7.3", or `None`."""
    if len(head) >= 128 and head[126:128] in (b"IM", b"MI"):
        major = head[125] if head[126:128] == b"IM" else head[124]
        return {1: "5", 2: "7.3"}.get(major)
    if len(head) >= 20:
        kind, rows, columns, imaginary, name_length = struct.unpack("<5i", head[:20])
        if 0 <= kind <= 52 and kind % 10 in (0, 1, 2) and rows >= 0 and columns >= 0 and imaginary in (0, 1):
            return "4" if 1 < name_length < 256 and kind // 10 % 10 < 6 else None
    return None


def _sniff(path: Path, head: bytes) -> bool:
    return _level(head) is not None and header_beside(path) is None


@register_reader("matlab", extensions=(".mat",), sniff=_sniff)
def read_matlab(path: Path, request: ReadRequest) -> FileContent:
    """Read a MATLAB file (level 4, 5 or 7.3) by the variables that it holds.

    - CODE-15 exams: `feats` (leads, samples) in mV and `curr_sample_rate`; labels, age and sex come from a
      `labels.csv` beside the file.
    - CPSC 2018: a struct `ECG` with `sex`, `age` and `data` (12, samples); 500 Hz, mV and the twelve standard leads
      by convention of the data set.
    - One numeric matrix under any other name: rate and lead names from the caller; mV unless told otherwise.

    The files of the PhysioNet/CinC Challenges hold digital numbers in `val` and are read through their `.hea` header.
    """
    variables = _load(path)
    if "feats" in variables and "curr_sample_rate" in variables:
        return _code15(path, variables)
    ecg = variables.get("ECG")
    if isinstance(ecg, np.ndarray) and ecg.dtype.names and {"data", "sex", "age"} <= set(ecg.dtype.names):
        return _cpsc2018(path, ecg)
    if set(variables) == {"val"}:
        raise ECGReadError(
            path,
            f"it holds digital numbers (variable 'val') whose rate, leads and gains are in a header {path.stem}.hea, "
            "which is not beside it or does not name it.",
            "Put the .hea file beside it.",
        )
    arrays = {
        name: value
        for name, value in variables.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.ndim == 2 and value.size > 1
    }
    if len(arrays) != 1:
        raise ECGReadError(
            path,
            f"none of its variables ({', '.join(variables) or 'there are none'}) is clearly the recording.",
            "Save the recording as the only matrix, leads by samples.",
        )
    name, array = next(iter(arrays.items()))
    signal, layout = orient(array, request.lead_names, path)
    return FileContent(signal, metadata={"layout": f"variable {name}, {layout}"}, default_units="mV")


def _code15(path: Path, variables: dict[str, Any]) -> FileContent:
    rate = np.asarray(variables["curr_sample_rate"]).reshape(-1)
    if rate.size != 1 or rate.dtype.kind not in "iuf":
        raise ECGReadError(path, "its curr_sample_rate is not one number.", "Fetch the file again.")
    signal = np.asarray(variables["feats"])
    if signal.ndim != 2 or signal.dtype.kind not in "iuf":
        raise ECGReadError(path, f"its feats have shape {signal.shape}, type {signal.dtype}.", "Fetch the file again.")
    size = np.asarray(variables.get("curr_sample_size", signal.shape[1])).reshape(-1)
    if size.size != 1 or size[0] != signal.shape[1]:
        raise ECGReadError(
            path,
            f"it claims {size.tolist()[:4]} samples (curr_sample_size) and holds {signal.shape[1]}.",
            "The file is damaged; fetch it again.",
        )
    metadata: dict[str, Any] = {"layout": "CODE-15: feats (leads, samples); mV and lead order by convention"}
    row = table_row(path.parent, "labels.csv", ("save_file",), path)
    if row:
        metadata |= {"age": parse_age(row.get("age")), "patient_id": row.get("patient_id") or None}
        metadata["exam_id"] = row.get("exam_id") or None
        metadata["sex"] = {"true": "male", "false": "female", "1": "male", "0": "female"}.get(
            row.get("is_male", "").strip().lower()
        )
        present = [name for name in CODE15_LABELS if row.get(name, "").strip().lower() in ("true", "1")]
        metadata["labels"] = present if any(name in row for name in CODE15_LABELS) else None
    return FileContent(
        signal, sampling_rate=float(rate[0]), metadata=metadata, default_lead_names=STANDARD_LEADS, default_units="mV"
    )


def _cpsc2018(path: Path, ecg: np.ndarray) -> FileContent:
    entry = ecg.reshape(-1)[0] if ecg.size == 1 else None
    signal = None if entry is None else entry["data"]
    if not isinstance(signal, np.ndarray) or signal.dtype.kind not in "iuf" or signal.ndim != 2:
        raise ECGReadError(path, "its struct ECG holds no numeric matrix 'data'.", "Fetch the file again.")
    metadata = {
        "layout": "CPSC 2018: struct ECG; 500 Hz, mV and lead order by convention",
        "age": parse_age(_scalar(entry["age"])),
        "sex": parse_sex(_scalar(entry["sex"])),
    }
    return FileContent(
        signal,
        metadata=metadata,
        default_sampling_rate=500,
        default_lead_names=STANDARD_LEADS,
        default_units="mV",
    )


def _scalar(value: Any) -> Any:
    value = np.asarray(value)
    return value.reshape(-1)[0] if value.size == 1 else None


def _load(path: Path) -> dict[str, Any]:
    """Load the variables after checking every size that the file claims against the bytes that it has."""
    from scipy.io import loadmat

    with open(path, "rb") as file:
        level = _level(file.read(128))
    if level == "7.3":
        return load_hdf5_variables(path)
    data = path.read_bytes()
    if level is None:
        raise ECGReadError(path, "it is no MATLAB file.", "Fetch or export it again.")
    try:
        if level == "4":
            _check_level_4(data)
        else:
            data = _unpack_level_5(data)
        variables = loadmat(io.BytesIO(data), chars_as_strings=True)
    except ECGReadError:
        raise
    except Exception as error:
        raise ECGReadError(
            path,
            f"the MATLAB file is damaged ({type(error).__name__}: {str(error)[:200]}).",
            "Fetch or export it again.",
        ) from error
    return {name: value for name, value in variables.items() if not name.startswith("__")}


def _check_level_4(data: bytes) -> None:
    position = 0
    while position < len(data):
        if len(data) - position < 20:
            raise ValueError("a variable's header is cut off")
        kind, rows, columns, imaginary, name_length = struct.unpack_from("<5i", data, position)
        if not (0 <= kind <= 52 and kind // 10 % 10 < 6 and kind % 10 in (0, 1) and kind < 100):
            raise ValueError(f"variable type {kind} is not a little-endian full matrix")
        if min(rows, columns) < 0 or imaginary not in (0, 1) or not 1 <= name_length < 256:
            raise ValueError("a variable's header is impossible")
        claimed = rows * columns * _LEVEL_4_BYTES[kind // 10 % 10] * (1 + imaginary)
        position += 20 + name_length + claimed
        if position > len(data):
            raise ValueError(f"a variable claims {rows} x {columns} numbers, more than the file holds")


def _unpack_level_5(data: bytes) -> bytes:
    """Return the file with its compressed elements unpacked, each checked."""
    order = "<" if data[126:128] == b"IM" else ">"
    parts, position, total = [data[:124] + data[124:128]], 128, 0
    while position + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, position)
        position += 8
        if size > len(data) - position:
            raise ValueError(f"an element claims {size} bytes, {len(data) - position} follow")
        element = data[position : position + size]
        position += size
        if kind == _COMPRESSED:
            unpack = zlib.decompressobj()
            limit = unpacked_limit(len(data)) - total
            if limit <= 0:
                raise ValueError("it unpacks to far more than a recording does")
            element = unpack.decompress(element, limit)
            if not unpack.eof:
                raise ValueError("a compressed element is cut off, or unpacks to far more than a recording does")
            if len(element) < 8:
                raise ValueError("a compressed element is empty")
            kind, size = struct.unpack_from(f"{order}II", element)
            if size != len(element) - 8:
                raise ValueError(f"a compressed element claims {size} bytes and holds {len(element) - 8}")
            element = element[8:]
        elif size % 8 and kind != _MATRIX:
            position += -size % 8
        total += len(element)
        if kind == _MATRIX:
            _check_matrix(memoryview(element), order, depth=0)
        parts.append(struct.pack(f"{order}II", kind, len(element)) + element + b"\0" * (-len(element) % 8))
    return b"".join(parts)


def _element(data: memoryview, position: int, order: str) -> tuple[int, memoryview, int]:
    """Return type, content and end of the element at a position; the small form has size and type in one word."""
    if position + 8 > len(data):
        raise ValueError("an element is cut off")
    word, size = struct.unpack_from(f"{order}II", data, position)
    start, kind = position + 8, word
    if word >> 16:
        kind, size, start = word & 0xFFFF, word >> 16, position + 4
        if size > 4:
            raise ValueError("a small element claims more than 4 bytes")
        return kind, data[start : start + size], position + 8
    if size > len(data) - start:
        raise ValueError(f"an element claims {size} bytes, {len(data) - start} follow")
    return kind, data[start : start + size], start + size + (-size % 8)


def _check_matrix(data: memoryview, order: str, depth: int) -> None:
    """Walk through an array element; raise `ValueError` where a claimed size is not met by the bytes."""
    if len(data) == 0:
        return
    if depth > 8:
        raise ValueError("arrays are nested more than 8 deep")
    _, flags, position = _element(data, 0, order)
    if len(flags) < 8:
        raise ValueError("array flags are cut off")
    word = struct.unpack_from(f"{order}I", flags)[0]
    kind, imaginary = word & 0xFF, bool(word & 0x800)
    _, dims, position = _element(data, position, order)
    shape = struct.unpack_from(f"{order}{len(dims) // 4}i", dims)
    if len(shape) < 2 or len(shape) > 8 or min(shape) < 0:
        raise ValueError(f"an array has shape {shape}")
    count = math.prod(shape)
    _, _, position = _element(data, position, order)
    if kind in _NUMERIC_CLASSES or kind == _CHAR:
        for _ in range(1 + imaginary):
            stored, content, position = _element(data, position, order)
            width = _BYTES_OF_TYPE.get(stored)
            if width is None or (kind != _CHAR and len(content) != count * width) or len(content) > 8 * count:
                raise ValueError(f"an array of shape {shape} has {len(content)} bytes of type {stored}")
    elif kind in (_CELL, _STRUCT):
        fields = 1
        if kind == _STRUCT:
            _, length, position = _element(data, position, order)
            _, names, position = _element(data, position, order)
            width = struct.unpack_from(f"{order}i", length)[0] if len(length) >= 4 else 0
            if width <= 0 or len(names) % width:
                raise ValueError("the field names of a struct are damaged")
            fields = len(names) // width
        if count * max(1, fields) * 8 > len(data):
            raise ValueError(f"a container of shape {shape} with {fields} fields has {len(data)} bytes")
        for _ in range(count * fields):
            stored, content, position = _element(data, position, order)
            if stored != _MATRIX:
                raise ValueError("a container holds something that is no array")
            _check_matrix(content, order, depth + 1)
    else:
        raise ValueError(f"arrays of class {kind} are not read")
