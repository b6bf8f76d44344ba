"""Writing WFDB records: a `.hea` header and a `.dat` file of 16-bit numbers (format 16)."""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path

import numpy as np

from ..files import written_atomically
from ..record import ECGRecord

# The lowest 16-bit number marks a missing sample.
LARGEST_COUNT, MISSING = 32767, -32768


def save_wfdb(record: ECGRecord, path: str | os.PathLike, units_per_mv: float = 1000.0) -> Path:
    """Write a record as a WFDB header and its signal file; existing files are replaced.

    Samples are rounded to multiples of 1 / `units_per_mv` mV, so that what is read back differs by at most half of
    that. A lead whose largest sample would leave 16 bits gets the largest whole number of units per mV at which it
    fits, at least 1; the header says so. NaN is written as the missing sample of the format. Of the metadata the
    header holds patient, age, sex, labels and the time of the recording; `save_npz` keeps all.

    Args:
        record ([`ECGRecord`]): the record.
        path (`str` or `os.PathLike`): the header, ending in `.hea`; the `.dat` file is written beside it.
        units_per_mv (`float`, *optional*, defaults to 1000): resolution, 1 uV by default.

    Returns:
        `Path`: the header.

    Raises:
        ValueError: if the name is no WFDB record name, a sample is infinite or beyond 32 V, or a lead name has a line
            break.
        OSError: if the folder does not exist or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".hea" or not re.fullmatch(r"[\w-]+", path.stem, re.ASCII):
        raise ValueError(
            f"A WFDB record is named by letters, digits, '_' and '-' and its header ends in .hea; got {path.name!r}."
        )
    units_per_mv = float(units_per_mv)
    if not 0 < units_per_mv < 1e9:
        raise ValueError(f"`units_per_mv` is a positive number below 1e9; got {units_per_mv!r}.")
    if np.isinf(record.signal).any():
        raise ValueError("The record has infinite samples, which a file cannot hold; make them NaN.")
    counts = np.empty((record.num_samples, record.num_leads), dtype="<i2")
    rate = record.sampling_rate
    lines = [f"{path.stem} {record.num_leads} {rate!r} {record.num_samples}{_moment(record)}"]
    for row, (name, samples) in enumerate(zip(record.lead_names, record.signal.astype(np.float64), strict=True)):
        missing = np.isnan(samples)
        largest = float(np.abs(samples[~missing]).max(initial=0.0))
        gain = units_per_mv
        if largest * gain > LARGEST_COUNT:
            gain = float(LARGEST_COUNT // largest)
            if gain < 1:
                raise ValueError(f"Lead {name} has a sample of {largest:g} mV; 16 bits hold up to 32767.")
        counts[:, row] = np.where(missing, MISSING, np.round(np.where(missing, 0, samples) * gain))
        if "\n" in name or "\r" in name:
            raise ValueError(f"The lead name {name!r} has a line break.")
        checksum = int(counts[:, row].astype(np.int64).sum()) & 0xFFFF
        checksum -= 0x10000 * (checksum >= 0x8000)
        lines.append(f"{path.stem}.dat 16 {gain:.15g}(0)/mV 16 0 {counts[0, row]} {checksum} 0 {name}")
    lines += [f"# {line}" for line in _comments(record)]
    with written_atomically(path.with_suffix(".dat"), "wb") as file:
        file.write(counts.tobytes())
    with written_atomically(path, "w", newline="\n") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _moment(record: ECGRecord) -> str:
    """Return time and date for the record line, or nothing if the metadata have no point in time."""
    text = str(record.metadata.get("recorded_at") or "")
    if "T" not in text and " " not in text.strip():
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return f" {moment:%H:%M:%S} {moment.day:02d}/{moment.month:02d}/{moment.year:04d}"


def _comments(record: ECGRecord) -> list[str]:
    """Return the comment lines, in the spelling of the PhysioNet/CinC Challenges."""
    facts = record.metadata
    lines = []
    for key, title in (("age", "Age"), ("sex", "Sex"), ("patient_id", "Patient ID")):
        if facts.get(key) not in (None, ""):
            value = facts[key]
            text = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
            lines.append(f"{title}: {text.capitalize() if key == 'sex' else text}")
    labels = facts.get("labels")
    if labels is not None:
        texts = [" ".join(str(label).split()) for label in labels]
        if any("," in text for text in texts):
            # A list with commas cannot hold these; LUDB has a line for each.
            lines += ["<diagnoses>:", *texts]
        else:
            lines.append(f"Dx: {','.join(texts)}")
    return lines
