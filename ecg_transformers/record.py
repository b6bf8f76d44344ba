"""`ECGRecord`: one electrocardiogram with everything needed to use it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .feature_extraction.ecg_leads import STANDARD_LEADS, arrange_leads, canonical_lead_name


@dataclass(eq=False)
class ECGRecord:
    """One electrocardiogram: samples in millivolts, sampling rate, lead names and what the file tells of the patient.

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): potentials in mV, stored as float32. NaN marks missing
            samples.
        sampling_rate (`float`): samples per second (Hz).
        lead_names (sequence of `str`): one name per row, brought to canonical spelling (`I`, `aVR`, `V1`, ...). Names
            that are no known lead are kept as they are.
        metadata (`dict`, *optional*): JSON-like facts. Keys used by the package, all optional: `record_id` (`str`),
            `patient_id` (`str`), `age` (`float`, years), `sex` (`"female"` or `"male"`), `labels` (`list[str]`, codes
            as the file writes them), `report` (`str`), `recorded_at` (`str`, ISO 8601), `source` (`str`, the path or
            format read). Exports of carts add, where they tell it: `statements` (`list[str]`, the lines of the
            report), `device` and `filters` (`str`), and `derived_leads` (`list[str]`).

    Raises:
        ValueError: if shapes, names and rate do not form a recording. The message says what was expected.
    """

    signal: np.ndarray
    sampling_rate: float
    lead_names: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.signal = np.ascontiguousarray(self.signal, dtype=np.float32)
        self.lead_names = tuple(canonical_lead_name(name) or str(name).strip() for name in self.lead_names)
        if self.signal.ndim != 2 or 0 in self.signal.shape:
            raise ValueError(
                f"An ECG signal has shape (leads, samples), both at least 1; got {self.signal.shape}. "
                "Transpose the array if time comes first."
            )
        if len(self.lead_names) != self.signal.shape[0]:
            raise ValueError(
                f"{self.signal.shape[0]} leads need {self.signal.shape[0]} names; got {len(self.lead_names)}: "
                f"{list(self.lead_names)}."
            )
        if len(set(self.lead_names)) != len(self.lead_names):
            raise ValueError(f"Lead names must differ; got {list(self.lead_names)}.")
        rate = float(self.sampling_rate)
        if not np.isfinite(rate) or rate <= 0:
            raise ValueError(f"The sampling rate must be a positive number of Hz; got {self.sampling_rate!r}.")
        self.sampling_rate = int(rate) if rate.is_integer() else rate

    @property
    def num_leads(self) -> int:
        """Number of rows."""
        return self.signal.shape[0]

    @property
    def num_samples(self) -> int:
        """Samples per lead."""
        return self.signal.shape[1]

    @property
    def duration_seconds(self) -> float:
        """Length of the recording in seconds."""
        return self.num_samples / self.sampling_rate

    def select_leads(self, lead_names: Sequence[str] = STANDARD_LEADS) -> ECGRecord:
        """Return the record with the given leads in the given order.

        III, aVR, aVL and aVF are derived from I and II where they are missing.

        Raises:
            ValueError: if a wanted lead is neither in the record nor derivable from it.
        """
        signal, present = arrange_leads(self.signal, self.lead_names, tuple(lead_names))
        if not present.all():
            missing = [name for name, found in zip(lead_names, present, strict=True) if not found]
            raise ValueError(
                f"The record has leads {list(self.lead_names)}; {missing} are neither there nor derivable from I and "
                "II."
            )
        return ECGRecord(signal, self.sampling_rate, tuple(lead_names), dict(self.metadata))

    def save(self, path: str | os.PathLike, units_per_mv: float = 1000.0) -> Path:
        """Write the record to a file that `read_ecg` reads back.

        - `.npz`: everything, unchanged.
        - `.hea`: a WFDB header and its `.dat` file of 16-bit numbers, for other programs. Samples are rounded to 1 /
          `units_per_mv` mV (a lead that does not fit in 16 bits to coarser steps, which the header states), so they
          come back to within half a step. Of the metadata patient, age, sex, labels and time are written.

        Args:
            path (`str` or `os.PathLike`): the file; its folder must exist. Existing files are replaced.
            units_per_mv (`float`, *optional*, defaults to 1000): resolution of WFDB files; 1 uV by default.

        Returns:
            `Path`: the file written.

        Raises:
            ValueError: if the name ends in neither, or the record does not fit the format.
            TypeError: if a value of the metadata has no JSON form (`.npz`).
            OSError: if the folder does not exist or cannot be written.

        Example:
            ```python
            read_ecg("export.xml").save("export.npz")
            ```
        """
        ending = Path(path).suffix.lower()
        if ending == ".npz":
            from .readers.numpy_files import save_npz

            return save_npz(self, path)
        if ending == ".hea":
            from .readers.wfdb_writer import save_wfdb

            return save_wfdb(self, path, units_per_mv)
        raise ValueError(f"A record is written as .npz or .hea (WFDB); got {Path(path).name!r}.")

    def __repr__(self) -> str:
        name = self.metadata.get("record_id")
        return (
            f"ECGRecord({f'{name}: ' if name else ''}{self.num_leads} leads x {self.num_samples} samples, "
            f"{self.sampling_rate} Hz, {self.duration_seconds:.2f} s, {' '.join(self.lead_names)})"
        )
