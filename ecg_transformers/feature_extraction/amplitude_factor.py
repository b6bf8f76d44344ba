"""The factor that DeepECG's inference code would multiply a corpus by."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from .feature_extraction_ecg import ECGFeatureExtractor

# Mean magnitude of lead I's spectrum (2500 samples, unscaled transform) that the original brings each batch to.
SPECTRAL_MEAN = 3.003154

_RECORDS_PER_CALL = 64


def estimate_amplitude_factor(
    records: Any,
    *,
    extractor: ECGFeatureExtractor | None = None,
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | None = None,
    units: str = "mV",
    column: str = "ecg",
    spectral_mean: float = SPECTRAL_MEAN,
) -> float:
    """Estimate the factor for the step `scale_amplitude` from a corpus, as DeepECG does from each batch.

    The original multiplies all records of a batch by 3.003154 / mean |FFT| of lead I, the mean going over records and
    bins; alone, a record would get another factor. Estimated once from a corpus and stored in the recipe, the factor
    no longer depends on the company of a record.

    Args:
        records: a recording, an array `(records, leads, samples)`, or any iterable of recordings as
            [`ECGFeatureExtractor`] takes them; or a split of a corpus (`datasets.Dataset`) with an `ECG` column.
        extractor ([`ECGFeatureExtractor`], *optional*): whose steps before `scale_amplitude` bring the recordings to
            rate and length. Defaults to that of `"deepecg_ssl"`. Lead I has to be among its leads.
        sampling_rate, lead_names, units (*optional*): of arrays, as for the extractor.
        column (`str`, *optional*, defaults to `"ecg"`): the column of a corpus.
        spectral_mean (`float`, *optional*, defaults to 3.003154): what the mean magnitude is to become.

    Returns:
        `float`: the factor. Recordings shorter than the window, and those without a usable lead I, are left out with a
        warning (the original rejects both).

    Raises:
        ValueError: if no recording is left, or a recording cannot be used.

    Example:
        >>> factor = estimate_amplitude_factor(corpus["train"])
        >>> extractor = ECGFeatureExtractor.for_model_type("deepecg_ssl")
        >>> next(step for step in extractor.recipe if step["step"] == "scale_amplitude")["factor"] = factor
    """
    extractor = extractor or ECGFeatureExtractor.for_model_type("deepecg_ssl")
    steps = [entry["step"] for entry in extractor.recipe]
    end = steps.index("scale_amplitude") if "scale_amplitude" in steps else len(steps)
    before = ECGFeatureExtractor(extractor.recipe[:end], extractor.lead_names)
    lead = before.lead_names.index("I") if "I" in before.lead_names else None
    if lead is None:
        raise ValueError(f"The factor is defined on lead I; the extractor's leads are {before.lead_names}.")
    total, used, left_out = 0.0, 0, 0
    for group in _groups(_each(records, column)):
        batch = before(group, sampling_rate, lead_names, units, return_tensors="pt")
        complete = batch.attention_mask.all(-1) & (batch.lead_mask[:, lead] == 1)
        left_out += int((~complete).sum())
        if complete.any():
            magnitude = torch.fft.fft(batch.input_values[complete, lead]).abs()
            total += float(magnitude.mean(-1, dtype=torch.float64).sum())
            used += int(complete.sum())
    if left_out:
        warnings.warn(f"{left_out} of {used + left_out} recordings are short or lack lead I: left out.", stacklevel=2)
    if not used or not total:
        raise ValueError(f"None of {left_out} recordings is as long as the window and has a lead I; pass others.")
    return spectral_mean * used / total


def _each(records: Any, column: str) -> Iterable[Any]:
    names = getattr(records, "column_names", None)
    if names is not None:
        if column not in names:
            raise ValueError(f"The corpus has no column {column!r}; its columns are {names}. Name it with `column=`.")
        return (row[column] for row in records.select_columns([column]))
    if hasattr(records, "lead_names") or getattr(records, "ndim", 3) < 3:
        return [records]
    return records


def _groups(records: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(records)
    while group := list(islice(iterator, _RECORDS_PER_CALL)):
        yield group
