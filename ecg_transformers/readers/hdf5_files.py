"""HDF5 files with one recording: SPH, and files with one plain dataset."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from .content import FileContent, parse_age, parse_sex, unpacked_limit
from .errors import ECGReadError
from .label_tables import table_row
from .numpy_files import orient
from .registry import ReadRequest, register_reader

_MAGIC = b"\x89HDF\r\n\x1a\n"

# Filters that come with the HDF5 library: deflate, shuffle, Fletcher-32, szip, n-bit, scale-offset; and LZF of h5py.
# Others would load a plug-in.
_FILTERS = (1, 2, 3, 4, 5, 6, 32000)


@register_reader("hdf5", extensions=(".h5", ".hdf5", ".hdf"), sniff=lambda path, head: head.startswith(_MAGIC))
def read_hdf5(path: Path, request: ReadRequest) -> FileContent:
    """Read an HDF5 file that holds one recording (needs the extra `hdf5`).

    - SPH (Shandong Provincial Hospital): a dataset `ecg` (12, samples) of float16; 500 Hz, mV and the twelve standard
      leads by convention of the data set; labels, age and sex come from a `metadata.csv` beside the file (SNOMED CT
      codes where the table has them, else AHA codes).
    - One dataset of leads and samples under any name: rate, lead names and unit from its attributes `sampling_rate`
      (or `fs`), `lead_names`, `units`, or from the caller; mV unless told otherwise.
    """
    try:
        import h5py
    except ImportError as error:
        raise ImportError("Reading HDF5 ECGs needs h5py: pip install 'ecg-transformers[hdf5]'") from error

    with h5py.File(path, "r") as file:
        datasets = _datasets(h5py, file, path)
        recordings = {name: one for name, one in datasets.items() if one.dtype.kind in "iuf" and one.ndim in (1, 2)}
        if "ecg" in recordings:
            name = "ecg"
        elif len(recordings) == 1:
            name = next(iter(recordings))
        else:
            found = ", ".join(f"{name} {one.shape}" for name, one in list(datasets.items())[:10]) or "there are none"
            raise ECGReadError(
                path,
                f"none of its datasets ({found}) is clearly one recording.",
                "Export one recording per file, with a single dataset of shape (leads, samples).",
            )
        dataset = recordings[name]
        _check_storage(dataset, path)
        array = dataset[()]
        attributes = _attributes(dataset)
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


def _datasets(h5py: Any, file: Any, path: Path) -> dict[str, Any]:
    """Return the datasets of the root group and of its groups; links to other files are refused, not followed."""
    datasets: dict[str, Any] = {}
    groups = [("", file)]
    while groups:
        prefix, group = groups.pop()
        if len(group) > 1000 or len(datasets) > 1000:
            raise ECGReadError(path, "it has more than 1000 entries.", "Export one recording per file.")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ECGReadError(path, f"its entry {prefix}{name} is a link.", "Store the data in the file itself.")
            entry = group[name]
            if isinstance(entry, h5py.Dataset):
                datasets[prefix + name] = entry
            elif isinstance(entry, h5py.Group) and prefix.count("/") < 3:
                groups.append((f"{prefix}{name}/", entry))
    return datasets


def _check_storage(dataset: Any, path: Path) -> None:
    if dataset.external or dataset.is_virtual:
        raise ECGReadError(path, "its samples are in other files.", "Store the data in the file itself.")
    plan = dataset.id.get_create_plist()
    unknown = {plan.get_filter(number)[0] for number in range(plan.get_nfilters())} - set(_FILTERS)
    if unknown:
        raise ECGReadError(
            path, f"it is packed with HDF5 filter {sorted(unknown)}.", "Store it with gzip or unpacked."
        )
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    held = min(dataset.id.get_storage_size(), path.stat().st_size)
    if dataset.chunks:
        # Chunks that were never written read as zeros, which are no samples.
        expected = math.prod(-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        complete = dataset.id.get_num_chunks() == expected and max(claimed, chunk_bytes) <= unpacked_limit(held)
    else:
        complete = held == claimed
    if not complete:
        raise ECGReadError(
            path,
            f"it claims shape {dataset.shape} of {dataset.dtype}, {claimed} bytes, and stores {held} bytes of it.",
            "The file is damaged or incomplete; fetch it again.",
        )


def _attributes(dataset: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("sampling_rate", "fs", "lead_names", "units"):
        if key not in dataset.attrs:
            continue
        value = np.asarray(dataset.attrs[key]).reshape(-1)
        texts = [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in value[:1000]]
        if key == "lead_names":
            found[key] = texts
        elif len(value) == 1:
            found[key] = texts[0] if key == "units" else float(value[0])
    return found


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
