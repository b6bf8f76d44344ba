"""What is in an HDF5 file, and whether it can be read without surprises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from .content import unpacked_limit
from .errors import ECGReadError

# Filters that come with the HDF5 library: deflate, shuffle, Fletcher-32, szip, n-bit, scale-offset; and LZF of h5py.
# Others would load a plug-in.
_FILTERS = (1, 2, 3, 4, 5, 6, 32000)


def datasets_of(h5py: Any, file: Any, path: Path) -> dict[str, Any]:
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


def plain_dataset(h5py: Any, file: Any, name: str, path: Any, missing_ok: bool = False) -> Any:
    """Return a dataset by name; links to other files are refused, not followed.

    Raises:
        ECGReadError: if there is none, unless `missing_ok`, which gives `None`.
    """
    entry = file
    for part in name.split("/"):
        link = entry.get(part, getlink=True) if isinstance(entry, h5py.Group) else None
        if link is not None and not isinstance(link, h5py.HardLink):
            raise ECGReadError(path, f"its entry {part} is a link.", "Store the data in the file itself.")
        entry = None if link is None else entry[part]
    if isinstance(entry, h5py.Dataset):
        return entry
    if missing_ok:
        return None
    raise ECGReadError(
        path, f"it has no dataset {name}; its entries: {', '.join(list(file)[:10])}.", "Name one that is there."
    )


def check_plain_storage(dataset: Any, path: Any) -> None:
    """Refuse datasets whose samples are in other files or that need a plug-in.

    Raises:
        ECGReadError: naming the reason.
    """
    if dataset.external or dataset.is_virtual:
        raise ECGReadError(path, "its samples are in other files.", "Store the data in the file itself.")
    plan = dataset.id.get_create_plist()
    unknown = {plan.get_filter(number)[0] for number in range(plan.get_nfilters())} - set(_FILTERS)
    if unknown:
        raise ECGReadError(
            path, f"it is packed with HDF5 filter {sorted(unknown)}.", "Store it with gzip or unpacked."
        )


def check_storage(dataset: Any, path: Path) -> None:
    """Refuse datasets that are not all there, before memory is taken.

    Raises:
        ECGReadError: naming the reason.
    """
    check_plain_storage(dataset, path)
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


def file_attributes(dataset: Any) -> dict[str, Any]:
    """Return rate, lead names and unit as far as the dataset's attributes tell them."""
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
