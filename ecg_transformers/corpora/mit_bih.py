"""MIT-BIH arrhythmia database: 48 half hours of two leads, 47 subjects, with every beat and rhythm marked."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..readers.row_reference import WindowReference
from ..readers.wfdb_annotations import read_annotations
from ..readers.wfdb_comments import comment_facts
from ..readers.wfdb_header import read_header
from . import register_corpus
from .columns import build_corpus_from_columns, corpus_features, multi_label_feature
from .corpus_files import (
    check_choice,
    check_counts,
    check_flags,
    check_number,
    corpus_folder,
    map_files,
    report_missing,
)
from .ecg_feature import ECG
from .record_names import read_names
from .sample_classes import AAMI_CLASS_OF_SYMBOL, AAMI_CLASSES, BEATS_FEATURE
from .splits import SPLITS, check_fractions, split_by_group

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

TASKS = ("beats", "rhythms", "single_beat")

# The two halves of de Chazal, O'Dwyer and Reilly, IEEE Trans Biomed Eng 51:1196 (2004): DS1 to train, DS2 to test.
DS1 = ("101", "106", "108", "109", "112", "114", "115", "116", "118", "119", "122", "124", "201", "203", "205", "207")
DS1 += ("208", "209", "215", "220", "223", "230")
DS2 = ("100", "103", "105", "111", "113", "117", "121", "123", "200", "202", "210", "212", "213", "214", "219", "221")
DS2 += ("222", "228", "231", "232", "233", "234")
# Records with paced beats, which ANSI/AAMI EC57 leaves out of such tests.
PACED = ("102", "104", "107", "217")
RECORDS = tuple(sorted((*DS1, *DS2, *PACED)))

# Records 201 and 202 are of one subject (the database's directory); all others are of one each.
_SUBJECT_OF_RECORD = {"202": "201"}

# The symbols of beats and the rhythms that the database's directory lists.
BEAT_SYMBOLS = tuple("NLRAaJSVFejE/fQ")
RHYTHMS = ("AB", "AFIB", "AFL", "B", "BII", "IVR", "N", "NOD", "P", "PREX", "SBR", "SVTA", "T", "VFL", "VT")


@dataclass
class _Record:
    """What header and annotations of a record tell."""

    path: Path
    name: str
    sampling_rate: float
    num_samples: int
    age: float | None
    sex: str | None
    beat_samples: np.ndarray
    beat_symbols: np.ndarray
    # First and last sample of the stretches of ventricular flutter, in which beats are not marked.
    flutter: list[tuple[int, int]]
    # First sample, sample after the last, and name.
    rhythms: list[tuple[int, int, str]]


@register_corpus("mit_bih")
def load_mit_bih(
    data_dir: str | os.PathLike,
    *,
    task: str = "beats",
    classes: str = "aami",
    seconds: float = 10.0,
    split: str | Sequence[float] = "inter_patient",
    validation_share: float = 0.2,
    mlii_as_ii: bool = False,
    include_paced: bool = False,
    exclude_records: Sequence[str] | str | os.PathLike = (),
    seed: int = 0,
    skip_missing: bool = False,
) -> DatasetDict:
    """Load the MIT-BIH arrhythmia database 1.0.0 as windows of its records, in its layout on PhysioNet.

    360 Hz, two leads, mostly MLII (modified lead II, not lead II) and V1; leads are known by the names in the headers.
    A row refers to a stretch of a record (`100.hea#samples:3600-7200`) and nothing is copied. Beside the common
    columns there is `beats`, a list with `sample` (from the window's start), `symbol` (as
    https://wfdb.io/spec/annotation-codes.html has it) and `aami` (N, S, V, F or Q) per beat in the window;
    `ecg_transformers.corpora.sample_classes.beat_classes` makes a class per sample of it. `fold` is 1 for DS1, 2 for
    DS2, null for paced records.

    Source: Moody and Mark, IEEE Eng Med Biol 20:45 (2001), https://physionet.org/content/mitdb/1.0.0/, ODC-BY 1.0.
    Seen on the real record 100; the others on files in its layout.

    Args:
        data_dir (`str` or path): the folder with `100.hea`, `100.dat`, `100.atr` and so on.
        task (`str`, *optional*, defaults to `"beats"`): `"beats"`: multi-label, which classes of beats occur in the
            window. `"rhythms"`: multi-label, which rhythms do (AFIB, VT, ...). `"single_beat"`: single-label, one row
            per beat with the window around it.
        classes (`str`, *optional*, defaults to `"aami"`): `"aami"`: N, S, V, F, Q. `"symbols"`: the database's 15.
        seconds (`float`, *optional*, defaults to 10): length of the windows. They follow each other from the record's
            start, without the rest at its end; around single beats they overlap.
        split (`str` or three `float`, *optional*, defaults to `"inter_patient"`): that of de Chazal et al. (2004): DS1
            for training, DS2 for testing, 22 records each. Their DS1 has record 201 and their DS2 record 202, which
            are of one subject. Three shares split at random by subject.
        validation_share (`float`, *optional*, defaults to 0.2): share of DS1 held back for validation, by subject;
            the authors used cross-validation within DS1.
        mlii_as_ii (`bool`, *optional*, defaults to `False`): give MLII as II, which it resembles: models for twelve
            leads use what has the name of one of them, so without this of most records only V1.
        include_paced (`bool`, *optional*, defaults to `False`): use records 102, 104, 107 and 217 too; they belong to
            neither half and are added to DS1.
        exclude_records (sequence of `str`, or path, *optional*): records to leave out, such as `["201"]`, or a CSV
            file with the column `record_id`, or a text file with a name per line.
        seed (`int`, *optional*, defaults to 0): of random splits.
        skip_missing (`bool`, *optional*, defaults to `False`): use the records that are there instead of refusing an
            incomplete copy.

    Returns:
        `datasets.DatasetDict`: multi-label or single-label. Windows with ventricular flutter (of record 207), in which
        beats are not told apart, are left out unless rhythms are the task.

    Raises:
        ValueError: for a wrong option, missing or damaged files, or records shorter than a window.
    """
    check_choice("task", task, TASKS)
    check_choice("classes", classes, ("aami", "symbols"))
    if isinstance(split, str):
        check_choice("split", split, ("inter_patient",))
    else:
        check_fractions(split)
    check_number("seconds", seconds, "a length above 0", lambda value: value > 0)
    check_number(
        "validation_share", validation_share, "a share of DS1 from 0 to below 1", lambda value: 0 <= value < 1
    )
    check_counts(seed=seed)
    check_flags(mlii_as_ii=mlii_as_ii, include_paced=include_paced, skip_missing=skip_missing)
    records = _find_records(corpus_folder(data_dir, "mit_bih"), include_paced, exclude_records, skip_missing)

    names = RHYTHMS if task == "rhythms" else AAMI_CLASSES if classes == "aami" else BEAT_SYMBOLS
    parts = [_windows(record, task, names, classes, seconds) for record in records]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "beats"}
    beats = pa.concat_arrays([part["beats"] for part in parts])
    labels = columns.pop("labels")
    if not len(labels):
        raise ValueError(f"No window of {seconds:g} s is left; the records are shorter, or hold no beats.")
    feature = multi_label_feature(names)
    if task == "single_beat":
        from datasets import ClassLabel

        feature = ClassLabel(names=list(names))
    features = corpus_features(feature, ECG(lead_aliases=["MLII=II"] if mlii_as_ii else None))
    features["beats"] = BEATS_FEATURE
    members = _split(columns["patient_id"], columns["fold"], labels, split, validation_share, seed)
    columns_of_split = {}
    for name, chosen in zip(SPLITS, members, strict=True):
        taken: dict[str, Any] = {column: values[chosen] for column, values in columns.items()}
        taken["beats"] = beats.take(pa.array(chosen))
        taken["labels"] = (
            labels[chosen]
            if task == "single_beat"
            else {label: labels[chosen, place] for place, label in enumerate(names)}
        )
        columns_of_split[name] = taken
    return build_corpus_from_columns(columns_of_split, features)


def _find_records(
    folder: Path, paced: bool, exclude: Sequence[str] | str | os.PathLike, skip_missing: bool
) -> list[_Record]:
    names = read_names(exclude, "exclude_records", "record_id")
    unknown = [name for name in names if name not in RECORDS]
    if unknown:
        raise ValueError(f"`exclude_records` names {', '.join(unknown)}; the records are {', '.join(RECORDS)}.")
    left_out = {*names, *(() if paced else PACED)}
    wanted = [folder / f"{name}.hea" for name in RECORDS if name not in left_out]
    if not wanted:
        raise ValueError("`exclude_records` leaves no record.")
    there = [path for path in wanted if path.is_file() and path.with_suffix(".atr").is_file()]
    missing = [str(path) for path in wanted if path not in there]
    report_missing(missing, len(wanted), "records of MIT-BIH, each with its .atr file,", skip_missing, "skip_missing")
    return map_files(_read_record, there, "Reading beats")


def _read_record(path: Path) -> _Record:
    header = read_header(path)
    annotations = read_annotations(path.with_suffix(".atr"))
    if header.sampling_rate is None or header.num_samples is None:
        raise ValueError(f"{path} does not tell rate and length; fetch it again.")
    samples, symbols = annotations.samples, np.array(annotations.symbols, dtype=object)
    is_beat = np.array([symbol in AAMI_CLASS_OF_SYMBOL for symbol in symbols], dtype=bool)
    changes = [
        (int(sample), text.lstrip("("))
        for sample, symbol, text in zip(samples, symbols, annotations.texts, strict=True)
        if symbol == "+" and text.startswith("(")
    ]
    ends = [sample for sample, _ in changes[1:]] + [header.num_samples]
    facts = comment_facts(header.comments)
    return _Record(
        path=path,
        name=path.stem,
        sampling_rate=header.sampling_rate,
        num_samples=header.num_samples,
        age=facts.get("age"),
        sex=facts.get("sex"),
        beat_samples=samples[is_beat],
        beat_symbols=symbols[is_beat],
        flutter=_flutter(samples.tolist(), symbols.tolist()),
        rhythms=[(start, end, name) for (start, name), end in zip(changes, ends, strict=True)],
    )


def _flutter(samples: list[int], symbols: list[str]) -> list[tuple[int, int]]:
    """Return the stretches from `[` to `]`, and single flutter waves (`!`) outside of them."""
    stretches, start = [], None
    for sample, symbol in zip(samples, symbols, strict=True):
        if symbol == "[":
            start = sample
        elif symbol == "]":
            stretches.append((sample if start is None else start, sample))
            start = None
        elif symbol == "!" and start is None:
            stretches.append((sample, sample))
    return stretches if start is None else [*stretches, (start, samples[-1])]


def _windows(record: _Record, task: str, names: Sequence[str], classes: str, seconds: float) -> dict[str, Any]:
    """Return the columns of a record's windows; `labels` is a matrix, or numbers of classes for single beats."""
    length = round(seconds * record.sampling_rate)
    if not 1 <= length <= record.num_samples:
        raise ValueError(
            f"`seconds` is a length from one sample to a record; {record.path} has "
            f"{record.num_samples / record.sampling_rate:g} s, got {seconds!r}."
        )
    kinds = np.array(
        [AAMI_CLASS_OF_SYMBOL[symbol] if classes == "aami" else symbol for symbol in record.beat_symbols], dtype=object
    )
    number_of_kind = {name: number for number, name in enumerate(names)}
    beat_kind = np.array([number_of_kind.get(kind, -1) for kind in kinds], dtype=np.int64)
    if task == "single_beat":
        starts = record.beat_samples - length // 2
        usable = (starts >= 0) & (starts + length <= record.num_samples) & (beat_kind >= 0)
        starts, own_kind = starts[usable], beat_kind[usable]
    else:
        starts = np.arange(record.num_samples // length) * length
        own_kind = np.zeros(len(starts), dtype=np.int64)
    if task != "rhythms":
        clear = np.ones(len(starts), dtype=bool)
        for first, last in record.flutter:
            clear &= (starts > last) | (starts + length <= first)
        starts, own_kind = starts[clear], own_kind[clear]

    first = np.searchsorted(record.beat_samples, starts)
    count = np.searchsorted(record.beat_samples, starts + length) - first
    offsets = np.concatenate([[0], np.cumsum(count)])
    window_of_beat = np.repeat(np.arange(len(starts)), count)
    beat = np.arange(offsets[-1]) - offsets[window_of_beat] + first[window_of_beat]
    if task == "single_beat":
        labels = own_kind
    else:
        labels = np.zeros((len(starts), len(names)), dtype=np.float32)
        if task == "beats":
            known = beat_kind[beat] >= 0
            labels[window_of_beat[known], beat_kind[beat[known]]] = 1
        else:
            labels[starts + length <= min((start for start, *_ in record.rhythms), default=record.num_samples)] = (
                np.nan
            )
            for start, end, rhythm in record.rhythms:
                if rhythm in number_of_kind:
                    labels[(starts < end) & (starts + length > start), number_of_kind[rhythm]] = 1
    aami = [AAMI_CLASS_OF_SYMBOL[symbol] for symbol in record.beat_symbols[beat]]
    marks = pa.StructArray.from_arrays(
        [
            pa.array(record.beat_samples[beat] - starts[window_of_beat], pa.int32()),
            pa.array(record.beat_symbols[beat].tolist(), pa.string()),
            pa.array(aami, pa.string()),
        ],
        ["sample", "symbol", "aami"],
    )
    references = [WindowReference(str(record.path), start, start + length) for start in starts.tolist()]

    def repeated(value: Any) -> np.ndarray:
        return np.full(len(starts), value, dtype=object)

    return {
        "ecg": np.array([str(reference) for reference in references], dtype=object),
        "labels": labels,
        "record_id": np.array([f"{record.name}:{one.start}-{one.stop}" for one in references], dtype=object),
        "patient_id": repeated(_SUBJECT_OF_RECORD.get(record.name, record.name)),
        "age": repeated(record.age),
        "sex": repeated(record.sex),
        "fold": repeated(1 if record.name in DS1 else 2 if record.name in DS2 else None),
        "beats": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), marks),
    }


def _split(
    patients: np.ndarray,
    folds: np.ndarray,
    labels: np.ndarray,
    split: str | Sequence[float],
    validation_share: float,
    seed: int,
) -> list[np.ndarray]:
    groups = patients.tolist()
    if not isinstance(split, str):
        return split_by_group(groups, labels, split, seed)
    test = np.flatnonzero(folds == 2)
    training = np.flatnonzero(folds != 2)
    shared = {groups[row] for row in test} & {groups[row] for row in training}
    if shared:
        logger.warning(
            "The published split has one subject on both sides, in records 201 (DS1) and 202 (DS2). To keep them "
            'apart, leave one out with `exclude_records`, such as ["201"], or split by shares.'
        )
    inner = [np.array([], dtype=np.int64)] * 2
    if len(training):
        shares = (1 - validation_share, validation_share)
        inner = split_by_group([groups[row] for row in training], labels[training], shares, seed)
    return [training[inner[0]], training[inner[1]], test]
