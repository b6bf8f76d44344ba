"""The corpus of the George B. Moody PhysioNet Challenge 2025: Chagas disease, weak and strong labels."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import register_corpus
from .challenge import Header, find_headers, ptbxl_patients, read_headers
from .columns import build_corpus, corpus_features, multi_label_feature
from .corpus_files import (
    check_choice,
    check_counts,
    check_flags,
    check_paths,
    check_texts,
    corpus_folder,
)
from .record_names import NameSet, known_record, read_names
from .splits import DEFAULT_FRACTIONS, SPLITS, check_fractions, split_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

SOURCES = ("code15", "samitrop", "ptbxl")

# Self-reported, according to the Challenge's description.
WEAK_SOURCES = ("code15",)

# What is left of the `Source` line, or the name of a folder, without case and signs.
_SOURCE_WORDS = {"code15": "code15", "samitrop": "samitrop", "ptbxl": "ptbxl"}


@register_corpus("challenge2025")
def load_challenge2025(
    data_dir: str | os.PathLike,
    *,
    sources: Sequence[str] | None = None,
    weak_labels: str = "keep",
    labels_csv: str | os.PathLike | None = None,
    ptbxl_database: str | os.PathLike | None = None,
    exclude_records: Sequence[str] | str | os.PathLike = (),
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_unreadable: bool = False,
) -> DatasetDict:
    """Load records of the George B. Moody PhysioNet Challenge 2025, in any tree of folders.

    The training data come from three sources, which the additional column `source` tells:

    - `code15`: CODE-15 %, over 300,000 exams at 400 Hz with *weak* labels: patients were asked (about 2 % positive);
    - `samitrop`: SaMi-Trop, 1,631 exams at 400 Hz with *strong* labels: serology, all positive;
    - `ptbxl`: PTB-XL, 21,799 records at 500 Hz, all negative by inference: recorded in Germany, where Chagas disease
      is not endemic. These labels count as strong here.

    So strong positives and strong negatives come from different hospitals, devices and rates: a model that tells the
    sources apart looks perfect on them. A warning says where each class of a split has sources of its own.

    Only headers are read (`Chagas label`, `Source`, `Age`, `Sex`). Records without a `Source` line, as the first
    release wrote them, belong to the source that their folder is called after, to PTB-XL if their names are of its
    form (`00001_hr`), and to CODE-15 % if the header has an `Exam ID`. CODE-15 % and SaMi-Trop fill
    up exams to 4,096 samples with zeros. The Challenge's conversion took them away: none of the 30 real records that
    this was tested on (1,730 to 4,096 samples) begins or ends with zeros. For copies that still do, the recipe step
    `mask_zero_padding` marks them as padding. Amplitudes of CODE-15 % are about twice those of other sets, and
    artefacts reach 33 mV, the limit of the format.

    Of the real files, records of CODE-15 % were seen; those of the other sources were written by the description.

    Args:
        data_dir (`str` or path): a folder with `.hea` files below it.
        sources (sequence of `str`, *optional*): those to use, of `code15`, `samitrop`, `ptbxl`.
        weak_labels (`str`, *optional*, defaults to `"keep"`): what becomes of weak labels: `"keep"`; `"train"`:
            records with weak labels are all for training, and validation and test have strong ones only; `"unknown"`:
            the labels become null, which losses and metrics leave out; `"drop"`: the records are left out.
        labels_csv (`str` or path, *optional*): a table with `exam_id`, `chagas` and, optionally, `patient_id`, as the
            Challenge publishes for CODE-15 %. Gives records of CODE-15 % their patients where headers do not
            (otherwise each record is split by itself), and labels where the header has none; where both tell a label
            they must agree.
        ptbxl_database (`str` or path, *optional*): `ptbxl_database.csv`; gives PTB-XL's records their patient and
            fold.
        exclude_records (sequence of `str`, or path, *optional*): records to leave out, under any of their names
            (`00001_hr`, `HR00001`), or a CSV file with the column `record_id`, or a text file with a name per line.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test, by
            patient where one is known.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_unreadable (`bool`, *optional*, defaults to `False`): leave out records with a broken header or without
            their signal file instead of refusing the corpus.

    Returns:
        `datasets.DatasetDict`: multi-label with the label `chagas` (null where unknown), and a column `source`.
        Patients are called after their source (`code15-1331343`), whose numberings are independent.

    Raises:
        ValueError: if no records are left, headers are broken, a source is unknown, or labels contradict each other.
    """
    check_choice("weak_labels", weak_labels, ("keep", "train", "unknown", "drop"))
    check_fractions(split)
    check_counts(seed=seed)
    check_flags(skip_unreadable=skip_unreadable)
    check_paths(labels_csv=labels_csv, ptbxl_database=ptbxl_database)
    for source in check_texts("sources", [sources] if isinstance(sources, str) else sources, "code15"):
        check_choice("sources", source, SOURCES)
    folder = corpus_folder(data_dir, "challenge2025")
    headers = read_headers(find_headers(folder), skip_unreadable)

    listed = _listed_exams(labels_csv)
    patients_of_ptbxl = ptbxl_patients(ptbxl_database)
    unwanted = NameSet(read_names(exclude_records, "exclude_records", "record_id"))
    rows, left_out = [], Counter()
    for header in headers:
        source = _source(header, folder)
        weak = source in WEAK_SOURCES
        if sources and source not in sources:
            left_out[f"of {source}, which `sources` does not name"] += 1
            continue
        if header.record_id in unwanted:
            left_out["named in `exclude_records`"] += 1
            continue
        if weak and weak_labels == "drop":
            left_out["with weak labels, by `weak_labels`"] += 1
            continue
        label, number, fold = _label(header), header.comments.get("patient id"), None
        if source == "code15":
            label, number = _with_listed(header, label, number, listed)
        patient = f"{source}-{number}" if number else None
        if source == "ptbxl" and (known := known_record(header.record_id)):
            patient, fold = patients_of_ptbxl.get(f"HR{int(known[1]):05d}", (patient, None))
        rows.append(
            {
                "ecg": str(header.path),
                "labels": {"chagas": None if weak and weak_labels == "unknown" else label},
                "record_id": header.record_id,
                "patient_id": patient,
                "age": header.age,
                "sex": header.sex,
                "fold": fold,
                "source": source,
            }
        )
    for reason, count in left_out.items():
        logger.warning("%d of %d records are left out: %s.", count, len(headers), reason)
    if not rows:
        raise ValueError(f"No records of the corpus 'challenge2025' are left in {folder}; loosen the options.")
    _check_names(rows)

    result: dict[str, list[Any]] = {name: [] for name in SPLITS}
    fixed = [row for row in rows if weak_labels == "train" and row["source"] in WEAK_SOURCES]
    result["train"] += fixed
    free = rows if not fixed else [row for row in rows if row["source"] not in WEAK_SOURCES]
    for name, members in split_rows(free, split, seed).items():
        result[name] += members
    _warn_of_telling_sources(result)
    features = corpus_features(multi_label_feature(["chagas"]))
    return build_corpus(result, _with_source(features))


def _with_source(features: Any) -> Any:
    from datasets import Features, Value

    return Features({**features, "source": Value("string")})


def _source(header: Header, folder: Path) -> str:
    told = header.comments.get("source")
    if told is not None:
        source = _SOURCE_WORDS.get(re.sub(r"[^a-z0-9]", "", told.lower()))
        if source is None:
            raise ValueError(
                f"{header.path} tells the source {told!r}; the Challenge of 2025 has CODE-15%, SaMi-Trop and PTB-XL."
            )
        return source
    # Above `data_dir` only its own name counts.
    for part in [*reversed(header.path.parent.relative_to(folder).parts), folder.name]:
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        for word, source in _SOURCE_WORDS.items():
            if word in plain:
                return source
    if (known_record(header.record_id) or ("",))[0] == "ptbxl":
        return "ptbxl"
    if "exam id" in header.comments:
        return "code15"
    raise ValueError(
        f"{header.path} has no line `# Source:`, and neither its name nor its folder tells whether it is of "
        "CODE-15 %, SaMi-Trop or PTB-XL. Put the records of each source into a folder called code15, samitrop or "
        "ptbxl."
    )


def _label(header: Header) -> float | None:
    word = header.comments.get("chagas label", "").lower()
    if word in ("true", "1"):
        return 1.0
    if word in ("false", "0"):
        return 0.0
    if word in ("", "unknown", "nan"):
        return None
    raise ValueError(f"{header.path} has the Chagas label {word!r}; it is True or False.")


def _listed_exams(table: str | os.PathLike | None) -> dict[str, tuple[float | None, str | None]]:
    """Return label and patient of each exam in the Challenge's table for CODE-15 %."""
    if table is None:
        return {}
    words = {"true": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "0": 0.0, "0.0": 0.0}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            return {
                row["exam_id"].strip(): (
                    words.get(row["chagas"].strip().lower()),
                    (row.get("patient_id") or "").strip() or None,
                )
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`labels_csv` is a table with the columns exam_id, chagas and, optionally, patient_id; {table} is not: "
            f"{error!r}."
        ) from error


def _with_listed(
    header: Header, label: float | None, patient: str | None, listed: dict[str, tuple[float | None, str | None]]
) -> tuple[float | None, str | None]:
    listed_label, listed_patient = listed.get(header.comments.get("exam id", header.record_id), (None, None))
    for told, other, what in ((label, listed_label, "Chagas label"), (patient, listed_patient, "patient")):
        if told is not None and other is not None and told != other:
            raise ValueError(
                f"{header.path} and `labels_csv` tell another {what} of the record: {told} and {other}. Are they of "
                "the same release?"
            )
    return (listed_label if label is None else label), patient or listed_patient


def _check_names(rows: list[dict[str, Any]]) -> None:
    """Exams of CODE-15 % and SaMi-Trop have numbers of their own; the same number twice in a source is one ECG."""
    counts = Counter((row["source"], row["record_id"]) for row in rows)
    repeated = [f"{name} ({source})" for (source, name), count in counts.items() if count > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} records are there more than once: {', '.join(repeated[:3])}"
            f"{', …' if len(repeated) > 3 else ''}. Point `data_dir` at one copy of the data."
        )


def _warn_of_telling_sources(rows_of_split: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in rows_of_split.items():
        sources = {value: {row["source"] for row in rows if row["labels"]["chagas"] == value} for value in (0.0, 1.0)}
        if sources[0.0] and sources[1.0] and not sources[0.0] & sources[1.0]:
            logger.warning(
                "In the split %s all negatives are from %s and all positives from %s: scores there say how well a "
                "model tells the sources apart.",
                name,
                " and ".join(sorted(sources[0.0])),
                " and ".join(sorted(sources[1.0])),
            )
