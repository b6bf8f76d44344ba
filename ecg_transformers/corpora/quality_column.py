"""The optional column `quality` of a corpus: the indices of `assess_quality`, and a filter by them."""

from __future__ import annotations

import functools
import logging
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

from datasets import Dataset, DatasetDict, Features, IterableDataset, Value, concatenate_datasets

from ..quality import ECGQuality, QualityLimits, assess_quality
from ..record import ECGRecord
from .ecg_feature import ECG
from .file_workers import choose_workers

if TYPE_CHECKING:
    from datasets.features.features import FeatureType

logger = logging.getLogger(__name__)

COLUMN = "quality"

# Of each lead, as `LeadQuality` defines them.
_LEAD_INDICES = (
    *("missing_fraction", "flat_fraction", "clipped_fraction", "span_mv", "wander_mv", "noise_mv", "power_line_mv"),
    *("baseline_power", "qrs_power", "kurtosis"),
)

_Corpus = TypeVar("_Corpus", DatasetDict, Dataset, IterableDataset)


def quality_feature() -> FeatureType:
    """Return the feature of the column `quality`."""
    return {
        "score": Value("float32"),
        "issues": [Value("string")],
        "missing_leads": [Value("string")],
        "padding_seconds": [Value("float32")],
        "power_line_hz": Value("int32"),
        "limb_error_mv": Value("float32"),
        "limb_electrodes": Value("string"),
        "leads": [{"name": Value("string"), **{name: Value("float32") for name in _LEAD_INDICES}}],
    }


def quality_values(record: ECGRecord, limits: QualityLimits | None = None) -> dict[str, Any]:
    """Return what the column `quality` holds for a recording.

    `score` is ours: the share of leads in which no index is beyond its limit, where missing standard leads count as
    bad in recordings of eight leads and more; 1 is a recording without such leads. What concerns no single lead
    (padding, limb leads that disagree, swapped electrodes) is among the `issues` and leaves the score as it is.
    """
    return _as_values(assess_quality(record, limits))


def _as_values(quality: ECGQuality) -> dict[str, Any]:
    values = quality.to_dict()
    bad = sum(any(issue.startswith(f"lead {name}: ") for issue in quality.issues) for name in quality.leads)
    lacking = len(quality.missing_leads) if len(quality.leads) >= 8 else 0
    score = 1 - (bad + lacking) / (len(quality.leads) + lacking)
    leads = [{"name": name, **lead} for name, lead in values.pop("leads").items()]
    return {"score": score, **values, "leads": leads}


def _unreadable(error: Exception) -> dict[str, Any]:
    empty = {"missing_leads": [], "padding_seconds": [], "leads": []}
    return {**dict.fromkeys(quality_feature()), **empty, "score": 0.0, "issues": [f"not readable: {error}"]}


def add_quality(corpus: _Corpus, limits: QualityLimits | None = None, workers: int | None = None) -> _Corpus:
    """Add a column `quality` with the indices of `assess_quality`, for looking at and for filtering.

    The column is a struct: `score` (see `quality_values`), `issues` (sentences), `missing_leads`, `padding_seconds`
    (beginning, end), `power_line_hz`, `limb_error_mv`, `limb_electrodes`, and `leads`, a list with `name` and the
    indices of each lead. It stays with the corpus in `save_to_disk`, Parquet and on the Hub. All records are read
    once; a record that cannot be read gets the score 0 and the reason as its issue.

    Args:
        corpus (`datasets.DatasetDict`, `Dataset` or `IterableDataset`): any corpus; of a stream, the indices are
            computed as it is read. In the row of a record that cannot be read, `ecg` is `None` then.
        limits ([`QualityLimits`], *optional*): from where on an index is an issue.
        workers (`int`, *optional*): processes. By default the number of cores, at most 8; one for few records.

    Returns:
        The corpus with the column; an existing column is replaced.

    Raises:
        ValueError: if there is no column `ecg`.

    Example:
        ```python
        corpus = et.add_quality(et.load_corpus("ptbxl", data_dir="ptb-xl"))
        quiet = corpus.filter(lambda row: max(lead["noise_mv"] or 0 for lead in row["quality"]["leads"]) < 0.03)
        ```
    """
    if isinstance(corpus, dict):
        parts = {split: add_quality(data, limits, workers) for split, data in corpus.items()}
        return type(corpus)(parts)
    if corpus.features is None or "ecg" not in corpus.features:
        raise ValueError("A corpus has a column `ecg` of ECGs; this data set has none.")
    if COLUMN in corpus.features:
        corpus = corpus.remove_columns(COLUMN)
    features = Features({**corpus.features, COLUMN: quality_feature()})
    if isinstance(corpus, IterableDataset):
        measure = functools.partial(_measured_record, feature=corpus.features["ecg"], limits=limits)
        return corpus.cast_column("ecg", ECG(decode=False)).map(measure, features=features)
    if not len(corpus):
        # `map` adds no columns to a split without records.
        return Dataset.from_dict({name: [] for name in features}, features=features, split=corpus.split)
    measure = functools.partial(_measured_storage, feature=corpus.features["ecg"], limits=limits)
    # The stored form goes to the function, so that what cannot be read has a row all the same.
    stored = corpus.select_columns(["ecg"]).cast_column("ecg", ECG(decode=False))
    workers = choose_workers(workers, len(corpus))
    measured = stored.map(
        measure,
        remove_columns=["ecg"],
        features=Features({COLUMN: quality_feature()}),
        num_proc=workers if workers > 1 else None,
        desc="Assessing quality",
    )
    return concatenate_datasets([corpus, measured], axis=1)


def filter_by_quality(
    corpus: _Corpus, min_quality: float, limits: QualityLimits | None = None, workers: int | None = None
) -> _Corpus:
    """Keep the records whose `quality["score"]` reaches a value; `load_corpus(..., min_quality=...)` does this.

    Args:
        corpus (`datasets.DatasetDict`, `Dataset` or `IterableDataset`): any corpus. Without a column `quality` it is
            computed by `add_quality`; one that is there is taken as it is.
        min_quality (`float`): from 0 to 1: the share of leads without an issue. 1 keeps records in which every lead
            is good, 0 keeps all.
        limits ([`QualityLimits`], *optional*): see `add_quality`.
        workers (`int`, *optional*): see `add_quality`.

    Returns:
        The corpus with the column `quality` and fewer records.

    Raises:
        ValueError: if `min_quality` is no number from 0 to 1, or a split would be left empty (of a stream this is
            not known).
    """
    check_min_quality(min_quality)
    if isinstance(corpus, dict):
        parts = {split: filter_by_quality(data, min_quality, limits, workers) for split, data in corpus.items()}
        return type(corpus)(parts)
    if corpus.features is None or COLUMN not in corpus.features:
        corpus = add_quality(corpus, limits, workers)
    good = functools.partial(_reaches, score=min_quality)
    if isinstance(corpus, IterableDataset):
        features = corpus.features
        kept = corpus.filter(good, input_columns=[COLUMN])
        return kept if kept.features is not None else kept.cast(features)
    rows = [row for row, quality in enumerate(corpus[COLUMN]) if good(quality)]
    if len(corpus) and not rows:
        raise ValueError(
            f"None of the {len(corpus)} records of a split has a quality of {min_quality:g} or more. Lower "
            "`min_quality`, or look at the issues with add_quality(corpus)."
        )
    if len(rows) < len(corpus):
        logger.warning(
            "%d of %d records are left out: quality below %g.", len(corpus) - len(rows), len(corpus), min_quality
        )
    return corpus.select(rows)


def check_min_quality(value: Any) -> None:
    """Make sure that a value is a share of leads.

    Raises:
        ValueError: if it is no number from 0 to 1.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"`min_quality` is a share of leads, a number from 0 to 1; got {value!r}.")


def _reaches(quality: dict[str, Any], score: float) -> bool:
    # Stored as float32
    return quality["score"] >= score - 1e-6


def _measured_storage(row: dict[str, Any], feature: ECG, limits: QualityLimits | None) -> dict[str, Any]:
    try:
        return {COLUMN: quality_values(feature.decode_example(row["ecg"]), limits)}
    except (ValueError, ImportError, OSError) as error:
        return {COLUMN: _unreadable(error)}


def _measured_record(row: dict[str, Any], feature: ECG, limits: QualityLimits | None) -> dict[str, Any]:
    try:
        # What was mapped before comes decoded.
        record = row["ecg"] if isinstance(row["ecg"], ECGRecord) else feature.decode_example(row["ecg"] or {})
        return {"ecg": record, COLUMN: quality_values(record, limits)}
    except (ValueError, ImportError, OSError) as error:
        return {"ecg": None, COLUMN: _unreadable(error)}
