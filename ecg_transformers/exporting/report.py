"""What an export is, and how it was found to agree with the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .measuring import OutputDifference


@dataclass
class ExportReport:
    """A written export.

    Args:
        path (`Path`): the file.
        size (`int`): its bytes.
        metadata (`dict[str, str]`): what the file tells of itself, see [`read_export_metadata`].
        largest (`dict[str, float]`): for each output the largest difference between export and torch before any
            quantisation, relative to the larger of 1 and the largest absolute value.
        tolerance (`float`): what was allowed.
        checked_with (`str`): what ran the export.
        difference ([`OutputDifference`], *optional*): to the model in float32, where the export is less precise or
            recordings were given.
        measured_on (`str`, *optional*): what recordings these are.
    """

    path: Path
    size: int
    metadata: dict[str, str]
    largest: dict[str, float]
    tolerance: float
    checked_with: str
    difference: OutputDifference | None = None
    measured_on: str | None = None
