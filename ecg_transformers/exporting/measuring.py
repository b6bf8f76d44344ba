"""What less precise arithmetic changes in the outputs of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .checking import ExportError, Runner, run_reference
from .example_records import batches_of, measuring_records
from .source import ExportSource


@dataclass
class OutputDifference:
    """How far an export is from the model in float32.

    Args:
        output (`str`): the output compared: `"probabilities"`, `"values"` or `"features"`.
        num_windows (`int`): rows compared.
        largest (`float`): absolute difference.
        mean (`float`): likewise, over all rows and columns.
        num_decisions (`int`): decisions compared: one for each row and label that has a threshold, or one for each row
            of a single-label model; 0 for regression and features.
        num_changed (`int`): decisions that are others.
        least_cosine (`float`, *optional*): of features, the smallest cosine similarity of a row to its counterpart.
    """

    output: str
    num_windows: int = 0
    largest: float = 0.0
    mean: float = 0.0
    num_decisions: int = 0
    num_changed: int = 0
    least_cosine: float | None = None

    @property
    def share_changed(self) -> float:
        """Share of the decisions that are others; 0 without decisions."""
        return self.num_changed / max(1, self.num_decisions)

    def __str__(self):
        windows = f"{self.num_windows} window{'' if self.num_windows == 1 else 's'}"
        text = f"{self.output} of {windows} differ by {self.largest:.2g} at most and {self.mean:.2g} on average"
        if self.num_decisions:
            text += f"; {self.num_changed} of {self.num_decisions} decisions change ({100 * self.share_changed:.2g} %)"
        if self.least_cosine is not None:
            text += f"; smallest cosine similarity {self.least_cosine:.6f}"
        return text


def measure_difference(
    source: ExportSource, run: Runner, batches: Iterable[Mapping[str, torch.Tensor]]
) -> OutputDifference:
    """Compare an export with the model in float32.

    Args:
        source ([`ExportSource`]): the model, its labels and thresholds.
        run (callable): the export.
        batches (iterable of mappings): inputs.

    Raises:
        ExportError: if there are no inputs, or an output is not finite.
    """
    result = OutputDifference(source.reference.output_names[-1])
    total, count = 0.0, 0
    for inputs in batches:
        expected = run_reference(source.reference, inputs)[result.output]
        found = run(inputs)[result.output]
        if not np.isfinite(found).all():
            raise ExportError(f"The export gives {result.output} that are not finite. Nothing was written.")
        difference = np.abs(found.astype(np.float64) - expected)
        result.num_windows += len(expected)
        result.largest = max(result.largest, float(difference.max()))
        total, count = total + float(difference.sum()), count + difference.size
        if result.output == "probabilities":
            before, after = _decisions(source, expected), _decisions(source, found)
            result.num_decisions += before.size
            result.num_changed += int((before != after).sum())
        elif result.output == "features":
            norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
            cosines = (expected * found).sum(axis=1) / np.maximum(norms, 1e-12)
            least = 1.0 if result.least_cosine is None else result.least_cosine
            result.least_cosine = min(least, float(cosines.min()))
    if not count:
        raise ExportError("There is no recording to measure the difference on.")
    result.mean = total / count
    return result


def _decisions(source: ExportSource, probabilities: np.ndarray) -> np.ndarray:
    if not source.inference.has_thresholds:
        return probabilities.argmax(axis=1)
    thresholds = source.inference.thresholds
    decided = ~np.isnan(thresholds)
    return probabilities[:, decided] > thresholds[decided]


def measure_on_records(
    source: ExportSource, run: Runner, records: Sequence[str | Path] | None, num_records: int, batch_size: int = 8
) -> tuple[OutputDifference, str]:
    """Compare an export with the model on recordings, or on synthetic ones; returns what they are, too.

    Raises:
        ExportError: if there is no recording that can be used, or an output is not finite.
        FileNotFoundError: if a path does not exist or a folder holds no ECG.
    """
    found = batches_of(source, measuring_records(records, num_records), batch_size)
    what = f"{num_records} synthetic records" if records is None else ", ".join(map(str, records))
    return measure_difference(source, run, found), what
