"""One row of an HDF5 file with many recordings, such as a part of CODE-15 %."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from .content import SMALL_BYTES, FileContent, unpacked_limit
from .errors import ECGReadError
from .hdf5_storage import check_plain_storage, file_attributes, plain_dataset
from .numpy_files import orient
from .row_reference import RowReference

# More pieces than this for one recording are no sensible storage.
_MAX_CHUNKS_OF_ROW = 10_000

# CODE: 4096 samples at 400 Hz of twelve leads in each row (Zenodo 4916206 and 3625006).
_CODE_ROW = (4096, 12)
_CODE_TEST_FILE, _CODE_TEST_EXAMS = "ecg_tracings.hdf5", 827
CODE_TEST_LEADS = ("I", "II", "III", "aVL", "aVF", "aVR", "V1", "V2", "V3", "V4", "V5", "V6")


def read_row(h5py: Any, file: Any, path: Path, row: RowReference) -> FileContent:
    """Read one recording of an open HDF5 file.

    All rows of a dataset have one length, and shorter recordings are filled up with zeros. Samples before the first
    and after the last one in which any lead differs from zero are therefore left out;
    `metadata["padding_samples"]` says how many.

    Rate, lead names and unit come from the attributes `sampling_rate` (or `fs`), `lead_names` and `units` of the
    dataset, from the caller, or from the convention of CODE-15 % (rows of 4096 x 12 beside a dataset `exam_id`; 400
    Hz, mV, the standard leads) or CODE-test (`ecg_tracings.hdf5` with 827 such rows; I, II, III, aVL, aVF, aVR, V1 to
    V6). mV unless told otherwise.

    Args:
        h5py (module): the library.
        file (`h5py.File`): the open file.
        path (`Path`): its path.
        row (`RowReference`): which row.

    Returns:
        [`FileContent`]: the recording, named after its `exam_id` where the file has such a dataset.

    Raises:
        ECGReadError: if there is no such row, or it is no recording.
    """
    dataset = plain_dataset(h5py, file, row.dataset, row)
    if dataset.ndim not in (2, 3) or dataset.dtype.kind not in "iuf":
        raise ECGReadError(
            row,
            f"the dataset {row.dataset} has shape {dataset.shape} of {dataset.dtype}.",
            "Rows are recordings in a dataset of numbers with shape (recordings, samples, leads).",
        )
    if row.row >= dataset.shape[0]:
        raise ECGReadError(row, f"the dataset {row.dataset} has {dataset.shape[0]} rows.", "Rows are counted from 0.")
    check_plain_storage(dataset, row)
    _check_row_storage(dataset, path, row)
    array = dataset[row.row]
    attributes = file_attributes(dataset)

    metadata: dict[str, Any] = {"source": str(row), "record_id": f"{path.stem}-{row.row}"}
    parent = row.dataset.rpartition("/")[0]
    exam_ids = plain_dataset(h5py, file, f"{parent}/exam_id".lstrip("/"), row, missing_ok=True)
    has_ids = exam_ids is not None and exam_ids.shape == dataset.shape[:1]
    if has_ids:
        check_plain_storage(exam_ids, row)
        exam_id = exam_ids[row.row]
        metadata["record_id"] = exam_id.decode("utf-8", "replace") if isinstance(exam_id, bytes) else str(exam_id)
    names, rate, convention = attributes.get("lead_names"), None, None
    if row.dataset.endswith("tracings") and dataset.shape[1:] == _CODE_ROW:
        if has_ids:
            names, rate, convention = names or STANDARD_LEADS, 400, "CODE-15 %"
        elif path.name == _CODE_TEST_FILE and len(dataset) == _CODE_TEST_EXAMS:
            names, rate, convention = names or CODE_TEST_LEADS, 400, "CODE-test"
    signal, layout = orient(array, names, row)
    signal, padding = _without_padding(signal, row)
    if any(padding):
        metadata["padding_samples"] = list(padding)
    metadata["layout"] = f"row {row.row} of dataset {row.dataset}, {layout}"
    if convention is not None:
        metadata["layout"] += f"; 400 Hz, mV and lead order by convention of {convention}"
    return FileContent(
        signal,
        sampling_rate=attributes.get("sampling_rate", attributes.get("fs")),
        lead_names=attributes.get("lead_names"),
        units=attributes.get("units"),
        metadata=metadata,
        default_sampling_rate=rate,
        default_lead_names=None if convention is None else names,
        default_units="mV",
    )


def _without_padding(signal: np.ndarray, row: RowReference) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the samples from the first to the last that is not zero in all leads, and how many were left out."""
    used = np.flatnonzero((signal != 0).any(axis=0))
    if not len(used):
        raise ECGReadError(
            row,
            "every sample is zero.",
            "It is no recording: each part of CODE-15 % ends with such a row, whose exam_id is 0. Leave it out.",
        )
    first, last = int(used[0]), int(used[-1])
    return signal[:, first : last + 1], (first, signal.shape[1] - 1 - last)


def _check_row_storage(dataset: Any, path: Path, row: RowReference) -> None:
    """Refuse rows that are not all there, before memory is taken."""
    row_bytes = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
    if not 0 < row_bytes <= SMALL_BYTES:
        raise ECGReadError(row, f"a row claims {row_bytes} bytes.", f"A recording has at most {SMALL_BYTES} bytes.")
    if dataset.chunks:
        chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        starts = [range(0, length, chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
        starts[0] = [row.row // dataset.chunks[0] * dataset.chunks[0]]
        complete = math.prod(len(one) for one in starts) <= _MAX_CHUNKS_OF_ROW
        for corner in itertools.product(*starts) if complete else ():
            # Chunks that were never written read as zeros, which are no samples.
            stored = dataset.id.get_chunk_info_by_coord(corner).size
            complete = complete and 0 < stored and chunk_bytes <= unpacked_limit(stored)
    else:
        claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
        complete = dataset.id.get_storage_size() == claimed and path.stat().st_size >= claimed
    if not complete:
        raise ECGReadError(row, "the file does not hold all samples of this row.", "Fetch the file again.")
