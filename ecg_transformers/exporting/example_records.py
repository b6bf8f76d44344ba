"""Recordings with which exports are made and checked: synthetic ECGs, some short, some with leads missing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..corpora.synthetic_generator import SYNTHETIC_LABELS, generate_record
from ..feature_extraction.feature_extraction_ecg import ECGSignalWarning
from ..input_listing import list_ecg_files
from ..readers import ECGReadError, read_ecg
from ..record import ECGRecord
from .source import ExportSource

# Records in the batches of the check; the model is exported with the second
BATCH_SIZES = (1, 3, 8)
# Of the window: the length of a padded record, and the lengths tried where any is allowed
_SHORT = 0.6
_OTHER_LENGTHS = (0.7, 1.5)
# Of the synthetic recordings; the recipe brings them to the model's rate
_SAMPLING_RATE = 500


def make_record(source: ExportSource, number: int) -> ECGRecord:
    """Generate the recording with a number: whole, too short, with half of the leads, with a flat lead, and so on."""
    kind = number % 4
    leads = source.extractor.lead_names
    record = generate_record(_label(number), number, sampling_rate=_SAMPLING_RATE, seconds=source.seconds)
    # A model may have other leads than the twelve; a potential is a potential
    signal = np.array(record.signal[np.arange(len(leads)) % record.num_leads])
    if kind == 1:
        signal = signal[:, : int(_SHORT * signal.shape[1])]
    elif kind == 2:
        leads = leads[: max(1, len(leads) // 2)]
        signal = signal[: len(leads)]
    elif kind == 3 and len(leads) > 1:
        signal[-1] = 0.0
    return ECGRecord(signal, _SAMPLING_RATE, leads, {"record_id": f"synthetic {number}"})


def _label(number: int) -> str:
    labels = list(SYNTHETIC_LABELS)
    return labels[number % len(labels)]


def rows_of(source: ExportSource, record: ECGRecord, windows: str = "first") -> dict[str, torch.Tensor]:
    """Return the model input of one recording, a row per window."""
    with warnings.catch_warnings():
        # One at a time and unheard: the extractor tells of batches once in a process
        warnings.simplefilter("ignore", ECGSignalWarning)
        extracted = source.extractor(record, windows=windows, return_tensors="pt", return_attention_mask=True)
    return {name: extracted[name] for name in source.reference.input_names}


def join_rows(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put rows of several recordings into one batch, shorter ones padded with zeros."""
    longest = max(part["input_values"].shape[-1] for part in parts)
    joined = {}
    for name in parts[0]:
        rows = [part[name] for part in parts]
        if name != "lead_mask":
            rows = [torch.nn.functional.pad(row, (0, longest - row.shape[-1])) for row in rows]
        joined[name] = torch.cat(rows)
    return joined


def make_check_batches(source: ExportSource) -> list[dict[str, torch.Tensor]]:
    """Return batches of 1, 3 and 8 rows; where the length is free, some of other lengths too."""
    parts = [rows_of(source, make_record(source, number)) for number in range(max(BATCH_SIZES))]
    batches = [join_rows(parts[:size]) for size in BATCH_SIZES]
    if source.dynamic_length:
        batches += [_with_length(batches[1], int(share * source.num_samples)) for share in _OTHER_LENGTHS]
    return batches


def _with_length(batch: Mapping[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    def fitted(values: torch.Tensor) -> torch.Tensor:
        repeats = -(-length // values.shape[-1])
        return torch.cat([values] * repeats, dim=-1)[..., :length].contiguous()

    return {name: value if name == "lead_mask" else fitted(value) for name, value in batch.items()}


def measuring_records(files: Sequence[str | Path] | None, number: int) -> Iterator[ECGRecord]:
    """Yield the recordings of files and folders, or synthetic ones; a file that cannot be read is warned of.

    Raises:
        FileNotFoundError: if a path does not exist or a folder holds no ECG.
    """
    if files is None:
        for seed in range(number):
            yield generate_record(_label(seed), 1000 + seed, sampling_rate=_SAMPLING_RATE)
        return
    for path in list_ecg_files(files):
        try:
            yield read_ecg(path)
        except ECGReadError as error:
            warnings.warn(f"Left out of the measurement: {error}", stacklevel=2)


def batches_of(source: ExportSource, records: Iterable[ECGRecord], size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches of equally long rows of recordings; one that the extractor refuses is warned of."""
    waiting: list[dict[str, torch.Tensor]] = []
    for record in records:
        try:
            rows = rows_of(source, record, source.inference.windows)
        except ValueError as error:
            warnings.warn(f"Left out of the measurement: {error}", stacklevel=2)
            continue
        if waiting and (
            rows["input_values"].shape[-1] != waiting[0]["input_values"].shape[-1]
            or sum(len(part["input_values"]) for part in waiting) >= size
        ):
            yield join_rows(waiting)
            waiting = []
        waiting.append(rows)
    if waiting:
        yield join_rows(waiting)
