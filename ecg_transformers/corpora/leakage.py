"""What two corpora, or the splits of one, share: records by name, patients by number, ECGs by their signal."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..record import ECGRecord
from .leakage_report import LeakageReport, PatientMatch, RecordMatch
from .leakage_search import best_partners
from .record_names import known_record
from .signal_fingerprint import SAME_SIMILARITY, signal_fingerprint, signal_similarity

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

logger = logging.getLogger(__name__)

# Rows read at a time; of embedded records (about 0.25 MB each) this is 60 MB.
_BATCH_SIZE = 256
_PROGRESS_FROM = 500
# A fingerprint alone must agree this well where a record cannot be read a second time.
_SURE_SIMILARITY = 0.998

# Corpora that give a patient this prefix take the number from the data set of that name.
_PATIENT_PREFIX = re.compile(r"(ptbxl|code15|samitrop)-(.+)")

# Names that tell nothing of where records come from.
_OWN_DATA = ("folder", "table", "parquet", "json", "csv", "arrow", "generator", None)


def check_leakage(
    one: DatasetDict | Dataset | IterableDatasetDict | IterableDataset | Sequence[ECGRecord | str | os.PathLike],
    other: DatasetDict | Dataset | IterableDatasetDict | IterableDataset | Sequence[Any] | None = None,
    *,
    names: bool = True,
    patients: bool = True,
    signals: bool = True,
    device: str | None = None,
    num_threads: int = 8,
) -> LeakageReport:
    """Find records, patients and ECGs that two corpora, or the splits of one corpus, share.

    - **Files**: the same path in both.
    - **Names**: the published names of one ECG are taken as one, whatever corpus they are found in: `HR00001`,
      `00001_hr` and `00001_lr` are record 1 of PTB-XL, `JS00001` is the same in the Challenge and in ecg-arrhythmia,
      and so are `A0001` (CPSC 2018), `Q0001` and `E00001` (see `ecg_transformers.corpora.record_names`). Other names,
      and bare numbers, count only within one numbering: two splits or copies of the same corpus, records of the same
      `source` of `challenge2025`, or data of your own on both sides (folders, tables, files).
    - **Patients**: numbers of patients are compared within one numbering only. It is told by a prefix (`ptbxl-15709`
      in `challenge` is patient 15709 of `ptbxl`; `code15-…`, `samitrop-…`), else by the name that `load_corpus` gave
      the corpus; data of your own on both sides count as one numbering. Patient 7 of two corpora is not one person.
    - **Signals**: a fingerprint of each record (`ecg_transformers.corpora.signal_fingerprint`: 2 to 15 Hz, first five
      seconds, one lead) finds candidates, and these are read again and compared in all leads that both have. The same
      ECG is found in another format, rate, unit, gain or lead order, filtered outside 2 to 15 Hz, padded, or cut at
      its end; not if the copy begins elsewhere, is inverted, or noise as large as the waves was added.

    Records are read once, in batches, in threads; those with a partner a second time. Kept of each are its fingerprint
    (264 bytes), names and path, about 2 kB in all, so 345,779 exams take 0.7 GB. Comparing takes about 1e-8 s per pair
    on a core (some minutes for the Challenge of 2021 against CODE-15 %), less than reading.

    Args:
        one (corpus, split, or sequence of `ECGRecord` or paths): what `load_corpus` returns, one split of it, or
            files.
        other (*optional*): the same. `None` compares the splits of `one` with each other.
        names (`bool`, *optional*, defaults to `True`): compare names and files.
        patients (`bool`, *optional*, defaults to `True`): compare patients.
        signals (`bool`, *optional*, defaults to `True`): read and compare signals; without, nothing is read.
        device (`str`, *optional*): where fingerprints are compared, `"cpu"` or `"cuda"`; by default a GPU if there is
            one.
        num_threads (`int`, *optional*, defaults to 8): threads that read.

    Returns:
        `LeakageReport`: prints what was found; `report.table()` has a row per pair, `report.without_leaks(one)` leaves
        the shared rows out.

    Raises:
        ValueError: if there is nothing to compare.

    Example:
        ```python
        report = check_leakage(load_corpus("challenge", "challenge-2021"), load_corpus("ptbxl", "ptb-xl")["test"])
        print(report)
        training = report.without_leaks(training)
        ```
    """
    if not (names or patients or signals):
        raise ValueError("Nothing is to be compared: `names`, `patients` and `signals` are all False.")
    if other is None:
        if not hasattr(one, "items") or len(one) < 2:
            raise ValueError("`check_leakage(one)` compares the splits of a corpus; pass `other`, or a DatasetDict.")
        parts = [_Side({name: split}, _name_of(split), num_threads) for name, split in one.items()]
        pairs = [(first, second) for place, first in enumerate(parts) for second in parts[place + 1 :]]
        title = parts[0].title or "one corpus"
        titles = (title, title)
    else:
        parts = [_Side(_splits(value), _name_of(value), num_threads) for value in (one, other)]
        pairs = [(parts[0], parts[1])]
        titles = (parts[0].title or "one", parts[1].title or "other")
    for part in parts:
        part.scan(signals)
    sizes = [len(part.rows) for part in parts]
    report = LeakageReport(
        titles=titles,
        within=other is None,
        num_records=(sum(sizes), sum(sizes)) if other is None else (sizes[0], sizes[1]),
        compared=tuple(what for what, on in (("names", names), ("patients", patients), ("signals", signals)) if on),
        not_compared=[entry for part in parts for entry in part.not_compared],
    )
    for first, second in pairs:
        found: dict[tuple[int, int], dict[str, Any]] = {}
        if names:
            _match_names(first, second, found)
        if signals:
            _match_signals(first, second, found, device, num_threads)
        report.records += [
            RecordMatch(*first.describe(here), *second.describe(there), tuple(match["by"]), match.get("similarity"))
            for (here, there), match in sorted(found.items())
        ]
        if patients:
            report.patients += _match_patients(first, second)
    return report


@dataclass(slots=True)
class _Row:
    """What is kept of a record."""

    split: str
    index: int
    record_id: str
    name: tuple[str, str] | None
    path: str | None
    patient: tuple[str, str] | None


@dataclass
class _Side:
    """One of the two things compared: its rows and, per lead, their fingerprints."""

    splits: dict[str, Any]
    title: str | None
    num_threads: int
    rows: list[_Row] = field(default_factory=list)
    rows_of_lead: dict[str, list[int]] = field(default_factory=dict)
    prints_of_lead: dict[str, list[np.ndarray]] = field(default_factory=dict)
    not_compared: list[tuple[str, str]] = field(default_factory=list)
    readers: dict[str, Callable[[int], ECGRecord | None]] = field(default_factory=dict)

    def scan(self, signals: bool) -> None:
        """Go through all rows once."""
        for split, data in self.splits.items():
            batches, total, read, reread = _open(data, signals)
            self.readers[split] = reread
            index = 0
            with (
                ThreadPoolExecutor(self.num_threads) as pool,
                tqdm(
                    total=total,
                    desc=f"Reading {' '.join(filter(None, (self.title, split)))}",
                    disable=not signals or (total is not None and total < _PROGRESS_FROM),
                ) as progress,
            ):
                for batch in batches:
                    for row in batch:
                        self.rows.append(self._row(split, index, row))
                        index += 1
                    if signals:
                        start = len(self.rows) - len(batch)
                        for place, result in enumerate(pool.map(partial(_fingerprint, read), batch), start):
                            self._keep(place, result)
                    progress.update(len(batch))

    def _row(self, split: str, index: int, row: dict[str, Any]) -> _Row:
        name, path = row.get("record_id"), row.get("path")
        name = os.path.splitext(os.path.basename(path))[0] if name is None and path is not None else name
        source = row.get("source") or self.title or ""
        key = known_record(name or "") or (known_record(path) if path else None)
        if key is None and name is not None:
            key = (source, name)
        patient = row.get("patient_id")
        prefixed = _PATIENT_PREFIX.fullmatch(patient) if patient else None
        return _Row(
            split,
            index,
            f"row {index}" if name is None else name,
            key,
            path,
            (prefixed[1], prefixed[2]) if prefixed else (source, patient) if patient else None,
        )

    def _keep(self, place: int, result: tuple[str, np.ndarray] | str) -> None:
        if isinstance(result, str):
            self.not_compared.append((self.rows[place].record_id, result))
            return
        lead, vector = result
        self.rows_of_lead.setdefault(lead, []).append(place)
        self.prints_of_lead.setdefault(lead, []).append(np.concatenate([vector.real, vector.imag]).astype(np.float16))

    def prints(self, lead: str) -> np.ndarray:
        """Return the fingerprints of a lead, `(rows, 2 * frequencies)`."""
        return np.stack(self.prints_of_lead[lead])

    def describe(self, place: int) -> tuple[str, int, str]:
        """Return split, index and name of a row."""
        row = self.rows[place]
        return row.split, row.index, row.record_id

    def read(self, place: int) -> ECGRecord | None:
        """Read a record again, where that is possible."""
        row = self.rows[place]
        return self.readers[row.split](row.index)


def _name_of(data: Any) -> str | None:
    """Return the name that `load_corpus` gave a corpus, or `None` for data of one's own."""
    splits = list(data.values()) if hasattr(data, "values") else [data]
    names = {getattr(getattr(split, "info", None), "dataset_name", None) for split in splits}
    name = names.pop() if len(names) == 1 else None
    return None if name in _OWN_DATA else name


def _splits(data: Any) -> dict[str, Any]:
    if hasattr(data, "items") and not isinstance(data, ECGRecord):
        if not len(data):
            raise ValueError("A corpus without splits cannot be compared.")
        return dict(data.items())
    return {str(getattr(data, "split", None) or ""): data}


def _open(data: Any, signals: bool) -> tuple[Iterator[list[dict]], int | None, Callable, Callable]:
    """Return batches of rows, their number, how to read what a row holds, and how to read a row again by its index."""
    if not hasattr(data, "column_names"):
        return _open_sequence(data)
    from datasets import Dataset

    from .ecg_feature import ECG

    features = data.features
    feature = None if features is None else features.get("ecg")
    if signals and not isinstance(feature, ECG):
        raise ValueError(
            "Signals are read from a column `ecg` of the feature ECG, as `load_corpus` gives it; the columns are "
            f"{', '.join(data.column_names or [])}. Without it pass signals=False."
        )
    wanted = [name for name in ("ecg", "record_id", "patient_id", "source") if features and name in features]
    plain = data.with_format(None).select_columns(wanted)
    plain = plain.cast_column("ecg", ECG(decode=False)) if "ecg" in wanted else plain
    reader = feature and ECG(
        file_sampling_rate=feature.file_sampling_rate,
        file_lead_names=feature.file_lead_names,
        file_units=feature.file_units,
    )
    # A stream gives its rows in their order only.
    paths: list[str | None] = []
    whole = isinstance(data, Dataset)

    def batches() -> Iterator[list[dict]]:
        for columns in plain.iter(_BATCH_SIZE):
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            for row in rows:
                row["path"] = (row.get("ecg") or {}).get("path")
                if not whole:
                    paths.append(row["path"])
            yield rows

    def reread(index: int) -> ECGRecord | None:
        if whole:
            return reader.decode_example(plain[index]["ecg"])
        return None if paths[index] is None else reader.decode_example({"bytes": None, "path": paths[index]})

    return batches(), len(data) if whole else None, lambda row: reader.decode_example(row["ecg"]), reread


def _open_sequence(items: Sequence[Any]) -> tuple[Iterator[list[dict]], int, Callable, Callable]:
    from ..readers import read_ecg

    items = list(items)
    wrong = next((item for item in items if not isinstance(item, (ECGRecord, str, os.PathLike))), None)
    if wrong is not None:
        raise ValueError(
            "`check_leakage` takes corpora, splits, and sequences of ECGRecord or paths; got an item "
            f"{type(wrong).__name__}."
        )

    def read(item: Any) -> ECGRecord:
        return item if isinstance(item, ECGRecord) else read_ecg(item)

    def describe(item: Any) -> dict[str, Any]:
        told = item.metadata if isinstance(item, ECGRecord) else {"record_id": None}
        path = None if isinstance(item, ECGRecord) else os.path.abspath(item)
        return {"item": item, "path": path, "record_id": told.get("record_id"), "patient_id": told.get("patient_id")}

    def batches() -> Iterator[list[dict]]:
        for start in range(0, len(items), _BATCH_SIZE):
            yield [describe(item) for item in items[start : start + _BATCH_SIZE]]

    return batches(), len(items), lambda row: read(row["item"]), lambda index: read(items[index])


def _fingerprint(read: Callable[[dict], ECGRecord], row: dict[str, Any]) -> tuple[str, np.ndarray] | str:
    """Return the fingerprint of a row's record, or why there is none."""
    try:
        return signal_fingerprint(read(row)) or "shorter than 2 s, sampled too slowly, or flat"
    # A damaged file is one record that is not compared, not the end of the check.
    except (ValueError, OSError) as error:
        return str(error)


def _match_names(one: _Side, other: _Side, found: dict[tuple[int, int], dict[str, Any]]) -> None:
    for by, key in (("file", lambda row: row.path), ("name", lambda row: row.name)):
        here, there = (
            {key(row): place for place, row in reversed(list(enumerate(side.rows)))} for side in (one, other)
        )
        # Each row of either side gets one partner, so several copies are all named, but not all their pairs.
        here.pop(None, None)
        there.pop(None, None)
        pairs = {(place, there[key(row)]) for place, row in enumerate(one.rows) if key(row) in there}
        pairs |= {(here[key(row)], place) for place, row in enumerate(other.rows) if key(row) in here}
        for pair in pairs:
            found.setdefault(pair, {"by": []})["by"].append(by)


def _match_patients(one: _Side, other: _Side) -> list[PatientMatch]:
    def rows_of(side: _Side) -> dict[tuple[str, str], list[int]]:
        result: dict[tuple[str, str], list[int]] = {}
        for place, row in enumerate(side.rows):
            if row.patient is not None:
                result.setdefault(row.patient, []).append(place)
        return result

    here, there = rows_of(one), rows_of(other)
    return [
        PatientMatch(
            "-".join(filter(None, patient)),
            [one.describe(place) for place in places],
            [other.describe(place) for place in there[patient]],
        )
        for patient, places in here.items()
        if patient in there
    ]


def _match_signals(
    one: _Side, other: _Side, found: dict[tuple[int, int], dict[str, Any]], device: str | None, num_threads: int
) -> None:
    candidates: dict[tuple[int, int], float] = {}
    for lead in sorted(set(one.rows_of_lead) & set(other.rows_of_lead)):
        here, there = one.rows_of_lead[lead], other.rows_of_lead[lead]
        for first, second, similarity in best_partners(one.prints(lead), other.prints(lead), device):
            candidates[here[first], there[second]] = similarity

    def check(pair: tuple[int, int]) -> float | None:
        try:
            records = one.read(pair[0]), other.read(pair[1])
        except (ValueError, OSError):
            return None
        if None in records:
            return candidates[pair] if candidates.get(pair, 0.0) >= _SURE_SIMILARITY else None
        return signal_similarity(*records)

    # Pairs of one name are looked at as well: a name without its signal is worth knowing.
    pairs = list(dict.fromkeys([*candidates, *found]))
    with (
        ThreadPoolExecutor(num_threads) as pool,
        tqdm(total=len(pairs), desc="Comparing matches", disable=len(pairs) < _PROGRESS_FROM) as progress,
    ):
        for start in range(0, len(pairs), _BATCH_SIZE):
            piece = pairs[start : start + _BATCH_SIZE]
            for pair, similarity in zip(piece, pool.map(check, piece), strict=True):
                same = similarity is not None and similarity >= SAME_SIMILARITY
                if same:
                    found.setdefault(pair, {"by": []})["by"].append("signal")
                if pair in found:
                    found[pair]["similarity"] = similarity
            progress.update(len(piece))
