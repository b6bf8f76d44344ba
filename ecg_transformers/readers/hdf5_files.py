"""HDF5 files with one recording: SPH, and files with one plain dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from .content import FileContent, parse_age, parse_sex
from .errors import ECGReadError
from .hdf5_rows import read_row
from .hdf5_storage import check_storage, datasets_of, file_attributes
from .label_tables import table_row
from .numpy_files import orient
from .registry import ReadRequest, register_reader

_MAGIC = b"\x89HDF\r\n\x1a\n"


@register_reader(
    "hdf5", extensions=(".h5", ".hdf5", ".hdf"), sniff=lambda path, head: head.startswith(_MAGIC), rows=True
)
def read_hdf5(path: Path, request: ReadRequest) -> FileContent:
    """Read an HDF5 file that holds one recording (needs the extra `hdf5`).

    - SPH (Shandong Provincial Hospital): a dataset `ecg` (12, samples) of float16; 500 Hz, mV and the twelve standard
      leads by convention of the data set; labels, age and sex come from a `metadata.csv` beside the file (SNOMED CT
      codes where the table has them, else AHA codes).
    - One dataset of leads and samples under any name: rate, lead names and unit from its attributes `sampling_rate`
      (or `fs`), `lead_names`, `units`, or from the caller; mV unless told otherwise.
    - One row of a dataset of many recordings, such as the parts of CODE-15 %, named `FILE#DATASET:ROW`; see
      `hdf5_rows`.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Reading HDF5 ECGs needs h5py: pip install 'ecg-transformers[hdf5]'") from error

    with h5py.File(path, "r") as file:
        if request.row is not None:
            return read_row(h5py, file, path, request.row)
        datasets = datasets_of(h5py, file, path)
        recordings = {name: one for name, one in datasets.items() if one.dtype.kind in "iuf" and one.ndim in (1, 2)}
        many = next((name for name, one in datasets.items() if one.dtype.kind in "iuf" and one.ndim == 3), None)
        if "ecg" in recordings:
            name = "ecg"
        elif many is None and len(recordings) == 1:
            name = next(iter(recordings))
        else:
            found = ", ".join(f"{name} {one.shape}" for name, one in list(datasets.items())[:10]) or "there are none"
            raise ECGReadError(
                path,
                f"none of its datasets ({found}) is clearly one recording.",
                "Export one recording per file, with a single dataset of shape (leads, samples)."
                if many is None
                else f"Name one row, counted from 0: {path.name}#{many}:0",
            )
        dataset = recordings[name]
        check_storage(dataset, path)
        array = dataset[()]
        attributes = file_attributes(dataset)
    if name == "ecg" and array.ndim == 2 and array.shape[0] == 12 and array.dtype == np.float16:
        return _sph(path, array)
    names = attributes.get("lead_names")
    signal, layout = orient(array, names or request.lead_names, path)
    return FileContent(
        signal,
        sampling_rate=attributes.get("sampling_rate", attributes.get("fs")),
        lead_names=names,
        units=attributes.get("units"),
        metadata={"layout": f"dataset {name}, {layout}"},
        default_units="mV",
    )


def _sph(path: Path, array: np.ndarray) -> FileContent:
    metadata: dict[str, Any] = {"layout": "SPH: dataset ecg (leads, samples); 500 Hz, mV and lead order by convention"}
    row = table_row(path.parent, "metadata.csv", ("ECG_ID",), path)
    if row:
        aha = [code.strip() for code in row.get("AHA_Code", "").split(";") if code.strip()]
        snomed = [code.strip() for code in row.get("SNOMEDCTCode", "").split(",") if code.strip()]
        metadata |= {
            "patient_id": row.get("Patient_ID") or None,
            "age": parse_age(row.get("Age")),
            "sex": parse_sex(row.get("Sex")),
            "recorded_at": row.get("Date") or None,
            "labels": snomed if "SNOMEDCTCode" in row else aha,
            "aha_codes": aha,
        }
    rate = row.get("fs")
    return FileContent(
        array,
        sampling_rate=float(rate) if rate else None,
        metadata=metadata,
        default_sampling_rate=500,
        default_lead_names=STANDARD_LEADS,
        default_units="mV",
    )
