"""The corpus of the PhysioNet/CinC Challenges 2020 and 2021: eight sources, SNOMED CT codes in the headers."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import register_corpus
from .challenge_labels import label_of_codes, read_abbreviations, scored_labels
from .columns import build_corpus, corpus_features, multi_label_feature
from .corpus_files import (
    canonical_sex,
    check_choice,
    check_counts,
    check_flags,
    check_number,
    check_paths,
    check_texts,
    corpus_folder,
    map_files,
    plausible_age,
    report_missing,
)
from .record_names import NameSet, challenge_part, known_record, read_names
from .splits import DEFAULT_FRACTIONS, SPLITS, check_fractions, split_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

# Beginnings of folder names, letters and digits only, longest first: the official download and common variants.
_SOURCE_FOLDERS = (
    ("cpsc2018extra", "cpsc_extra"),
    ("cpscextra", "cpsc_extra"),
    ("cpsc2018", "cpsc2018"),
    ("cpsc", "cpsc2018"),
    ("stpetersburg", "incart"),
    ("incart", "incart"),
    ("ptbxl", "ptb-xl"),
    # The PTB diagnostic database itself, of which the Challenge has a copy.
    ("ptbdb", "ptbdb"),
    ("ptbdiagnostic", "ptbdb"),
    ("ptb", "ptb"),
    ("georgia", "georgia"),
    ("chapman", "chapman_shaoxing"),
    ("ningbo", "ningbo"),
)

# Of the Challenge of 2025, and of the PTB diagnostic database
_OTHER_COMMENTS = ("chagas label", "source", "patient id", "exam id", "reason for admission")

# PTB-XL recommends its folds 9 and 10 for validation and testing.
_FOLD_SPLITS = {9: "validation", 10: "test"}


@dataclass
class Header:
    """What a record's header tells without its signal.

    Args:
        path (`Path`): the `.hea` file.
        record_id (`str`): name of the record, without the extension that some headers append.
        num_leads (`int`): number of signals.
        seconds (`float`): length.
        codes (`list[str]`, *optional*): SNOMED CT codes, or `None` if there is no `Dx` line.
        age (`float`, *optional*): years.
        sex (`str`, *optional*): `"female"` or `"male"`.
        problem (`str`): why the record cannot be used, or an empty string.
        signal_files (`set[str]`): names of the files that hold the samples.
        comments (`dict[str, str]`): what headers of related corpora tell besides, keys in lower case.
    """

    path: Path
    record_id: str = ""
    num_leads: int = 0
    seconds: float = 0.0
    codes: list[str] | None = None
    age: float | None = None
    sex: str | None = None
    problem: str = ""
    signal_files: set[str] = field(default_factory=set)
    comments: dict[str, str] = field(default_factory=dict)


@register_corpus("challenge")
def load_challenge(
    data_dir: str | os.PathLike,
    *,
    label_set: str = "frequent",
    min_positives: int = 8,
    merge_equivalent: bool = True,
    sources: Sequence[str] | None = None,
    exclude_sources: Sequence[str] = (),
    min_seconds: float = 0.0,
    keep_unlabelled: bool = True,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    exclude_records: Sequence[str] | str | os.PathLike = (),
    exclude_patients: Sequence[str] | str | os.PathLike = (),
    exclude_ptbxl_folds: Sequence[int] = (),
    keep_ptbxl_folds: bool = False,
    ptbxl_database: str | os.PathLike | None = None,
    patients_csv: str | os.PathLike | None = None,
    skip_unreadable: bool = False,
) -> DatasetDict:
    """Load records of the PhysioNet/CinC Challenges 2020 and 2021, in any tree of folders.

    Only headers are read. Each record counts once: of several with the same name (the reduced-lead versions of the
    Challenge's sample data, a part unpacked twice) the one with the most leads is kept.

    The Challenge does not publish patient numbers, so a record is its own group when splitting, except for records of
    its PTB-XL copy when `ptbxl_database` tells their patients, and for those that `patients_csv` names. Without it the
    PTB and INCART parts may have a patient in two splits, which a warning says: the 549 originals of PTB's 516 records
    are of 290 patients, those of INCART's 74 of 32.

    Records that recur elsewhere: the parts are copies of data sets that are published by themselves as well. `HRnnnnn`
    is record nnnnn of PTB-XL, `Annnn` has its name from CPSC 2018, `JSnnnnn` from ecg-arrhythmia (Chapman-Shaoxing and
    Ningbo). A model that was trained on the one must not be tested on the other: leave the whole part out
    (`exclude_sources`), or the records in question (`exclude_records`, `exclude_patients`, `exclude_ptbxl_folds`).
    `check_leakage` finds what two corpora share. Whoever tests on PTB-XL's fold 10 trains here with
    `exclude_ptbxl_folds=[10]`, or with `keep_ptbxl_folds=True`, which puts the copies into the split of their
    originals.

    Args:
        data_dir (`str` or path): a folder with `.hea` files below it. `dx_mapping_scored.csv` and
            `dx_mapping_unscored.csv` in it or above it give the abbreviations that name the labels; without them the
            scored diagnoses are known, and other labels are named by their SNOMED CT code.
        label_set (`str`, *optional*, defaults to `"frequent"`): `"frequent"`: labels with at least `min_positives`
            records; `"scored"`: the diagnoses scored in 2021, in their order; `"all"`: every label that occurs.
        min_positives (`int`, *optional*, defaults to 8): see `label_set`.
        merge_equivalent (`bool`, *optional*, defaults to `True`): make one label of each pair of codes that the
            Challenge scores as one (LBBB, RBBB, PAC, PVC); 26 scored labels instead of 30.
        sources (sequence of `str`, *optional*): parts to use: `cpsc2018`, `cpsc_extra`, `georgia`, `ptb-xl`, `ptb`,
            `incart`, `chapman_shaoxing`, `ningbo`, or the name of any folder. The part is told by the folder's name,
            where that says nothing by the record's (`HR00001`, `A0001`, `Q0001`, `E00001`, `S0001`, `I0001`; JS00001
            to JS10646 are Chapman-Shaoxing, which follows from the numbers of records, the rest Ningbo).
        exclude_sources (sequence of `str`, *optional*): parts to leave out, named in the same way.
        min_seconds (`float`, *optional*, defaults to 0): leave out shorter records.
        keep_unlabelled (`bool`, *optional*, defaults to `True`): keep records that have none of the labels; they are
            negatives of all.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): of the split.
        exclude_records (sequence of `str`, or path, *optional*): records to leave out, under any of their names
            (`HR00001`, `00001_hr`, PTB-XL's `ecg_id` 1), or a CSV file with the column `record_id`, or a text file
            with a name per line. Names that are not here are no error.
        exclude_patients (sequence of `str`, or path, *optional*): patients to leave out, as in the column
            `patient_id` (`ptbxl-15709`), or a file with them.
        exclude_ptbxl_folds (sequence of `int`, *optional*): leave out records of the PTB-XL copy whose original is in
            these folds, and those that `ptbxl_database` does not list, whose patients are unknown: the Challenge has
            21,837, PTB-XL 1.0.3 has 21,799. Needs `ptbxl_database`.
        keep_ptbxl_folds (`bool`, *optional*, defaults to `False`): put records of the PTB-XL copy into the recommended
            splits, folds 1 to 8, 9 and 10, and divide only the others by `split`; those of the copy that
            `ptbxl_database` does not list are left out. Needs `ptbxl_database`.
        ptbxl_database (`str` or path, *optional*): `ptbxl_database.csv` of PTB-XL; gives the records of its copy here
            (`HRnnnnn`) their patient and fold.
        patients_csv (`str` or path, *optional*): a table with the columns `record_id` and `patient_id`, where one
            knows the patients of other records.
        skip_unreadable (`bool`, *optional*, defaults to `False`): leave out records with a broken header or without
            their signal file instead of refusing the corpus.

    Returns:
        `datasets.DatasetDict`: multi-label; a record whose header has no `Dx` line has unknown (null) labels.

    Raises:
        ValueError: if no records, sources or labels are left, or headers are broken; the message says which.
    """
    check_choice("label_set", label_set, ("frequent", "scored", "all"))
    check_fractions(split)
    check_number("min_seconds", min_seconds, "a number of seconds of at least 0", lambda value: value >= 0)
    check_counts(min_positives=min_positives, seed=seed)
    check_flags(merge_equivalent=merge_equivalent, keep_unlabelled=keep_unlabelled)
    check_flags(keep_ptbxl_folds=keep_ptbxl_folds, skip_unreadable=skip_unreadable)
    check_paths(ptbxl_database=ptbxl_database, patients_csv=patients_csv)
    sources, exclude_sources = (
        check_texts(name, value, "georgia")
        for name, value in (("sources", sources), ("exclude_sources", exclude_sources))
    )
    folder = corpus_folder(data_dir, "challenge")
    headers = _without_copies(read_headers(_choose_headers(folder, sources, exclude_sources), skip_unreadable))
    long_enough = [header for header in headers if header.seconds >= min_seconds]
    if len(long_enough) < len(headers):
        logger.warning(
            "%d of %d records are shorter than %g s and left out.",
            len(headers) - len(long_enough),
            len(headers),
            min_seconds,
        )
    patients = {**_listed_patients(patients_csv), **ptbxl_patients(ptbxl_database)}
    headers = _without_recurring(
        long_enough, patients, exclude_records, exclude_patients, exclude_ptbxl_folds, keep_ptbxl_folds, ptbxl_database
    )

    labels_of_record, names = _labels(headers, folder, label_set, min_positives, merge_equivalent)
    if not keep_unlabelled:
        kept = [index for index, labels in enumerate(labels_of_record) if labels]
        headers, labels_of_record = [headers[index] for index in kept], [labels_of_record[index] for index in kept]
    if not headers:
        raise ValueError(f"No records of the corpus 'challenge' are left in {folder}; loosen the options.")

    rows = []
    for header, labels in zip(headers, labels_of_record, strict=True):
        patient, fold = patients.get(header.record_id, (None, None))
        rows.append(
            {
                "ecg": str(header.path),
                "labels": {name: None if labels is None else float(name in labels) for name in names},
                "record_id": header.record_id,
                "patient_id": patient,
                "age": header.age,
                "sex": header.sex,
                "fold": fold,
            }
        )
    _warn_of_unknown_patients(rows)
    splits: dict[str, list[Any]] = {name: [] for name in SPLITS}
    if keep_ptbxl_folds:
        for row in rows:
            if row["fold"]:
                splits[_FOLD_SPLITS.get(row["fold"], "train")].append(row)
    for name, members in split_rows(
        [row for row in rows if not (keep_ptbxl_folds and row["fold"])], split, seed
    ).items():
        splits[name] += members
    return build_corpus(splits, corpus_features(multi_label_feature(names)))


def read_header(path: Path) -> Header:
    """Read what a Challenge header tells, without `wfdb`, which refuses some of them and is slower.

    Args:
        path (`Path`): the `.hea` file.

    Returns:
        `Header`: with `problem` set where the file is no usable header; nothing is raised.
    """
    header = Header(path, record_id=path.stem)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError as error:
        header.problem = error.strerror or "cannot be read"
        return header
    entries = [line for line in lines if line and not line.startswith("#")]
    try:
        # WFDB header(5): name[/segments] leads rate[/counter] samples …; some Georgia headers name `E00018.mat`.
        name, num_leads, rate, num_samples = entries[0].split()[:4]
        header.record_id = re.sub(r"\.(mat|dat|hea)$", "", name.split("/")[0])
        header.num_leads = int(num_leads)
        header.seconds = int(num_samples) / float(rate.split("/")[0].split("(")[0])
        header.signal_files = {entry.split()[0] for entry in entries[1 : 1 + header.num_leads]}
    except (IndexError, ValueError, ZeroDivisionError):
        header.problem = "no record line with name, leads, rate and samples"
        return header
    if len(entries) != 1 + header.num_leads:
        header.problem = f"{header.num_leads} leads announced, {len(entries) - 1} described"
    for name in header.signal_files:
        if os.path.basename(name) != name or not (path.parent / name).is_file():
            header.problem = f"signal file {name} is not there"
    for line in lines:
        key, separator, value = line.lstrip("# ").partition(":")
        if not line.startswith("#") or not separator:
            continue
        key, value = key.strip().lower(), value.strip()
        if key == "age":
            header.age = plausible_age(value)
        elif key == "sex":
            header.sex = canonical_sex(value)
        elif key == "dx":
            header.codes = [code for code in re.split(r"[,\s]+", value) if code and code.lower() != "unknown"]
        elif key in _OTHER_COMMENTS:
            header.comments[key] = value
    return header


def find_headers(folder: Path) -> list[Path]:
    """Return the `.hea` files in a folder and below it, sorted.

    Raises:
        ValueError: if there are none.
    """
    paths = sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(".hea")
    )
    if not paths:
        raise ValueError(f"There are no .hea files in {folder} or below; point `data_dir` at the records.")
    return paths


def read_headers(paths: Sequence[Path], skip_unreadable: bool) -> list[Header]:
    """Read the headers that are usable.

    Raises:
        ValueError: if some are not and `skip_unreadable` is not set, or none is.
    """
    headers = map_files(read_header, paths, "Reading headers")
    broken = [f"{header.path} ({header.problem})" for header in headers if header.problem]
    report_missing(broken, len(headers), "records", skip_unreadable, "skip_unreadable")
    return [header for header in headers if not header.problem]


def _choose_headers(folder: Path, wanted: list[str], unwanted: list[str]) -> list[Path]:
    paths = find_headers(folder)
    folders = {parent: _source_names(parent, folder) for parent in {path.parent for path in paths}}
    names_of = [_names_of_record(path, folders[path.parent]) for path in paths]
    known = {name for names in names_of for name in names}
    unknown = [name for name in (*wanted, *unwanted) if name not in known]
    if unknown:
        raise ValueError(f"No records belong to {', '.join(unknown)}; parts in {folder}: {', '.join(sorted(known))}.")
    used = [
        path
        for path, names in zip(paths, names_of, strict=True)
        if (not wanted or set(wanted) & set(names)) and not set(unwanted) & set(names)
    ]
    if not used:
        raise ValueError(f"`sources` {wanted or None} without {unwanted} leaves no records in {folder}.")
    return used


def _names_of_record(path: Path, of_folder: list[str]) -> list[str]:
    """Return the names by which a record may be chosen: its folder's, and its part by its own name."""
    parts = set(dict(_SOURCE_FOLDERS).values())
    part = challenge_part(path.name)
    if part is None and known_record(path.name) is not None:
        # A record of the original beside or instead of the Challenge's copy.
        return [name for name in of_folder if name not in parts]
    return of_folder if part is None or parts & set(of_folder) else [*of_folder, part]


def _without_recurring(
    headers: list[Header],
    patients: dict[str, tuple[str, int | None]],
    exclude_records: Sequence[str] | str | os.PathLike,
    exclude_patients: Sequence[str] | str | os.PathLike,
    exclude_folds: Sequence[int],
    keep_folds: bool,
    ptbxl_database: str | os.PathLike | None,
) -> list[Header]:
    """Leave out the records that the options of `load_challenge` name, and say how many."""
    if (exclude_folds or keep_folds) and ptbxl_database is None:
        raise ValueError(
            "`exclude_ptbxl_folds` and `keep_ptbxl_folds` need `ptbxl_database`, the file ptbxl_database.csv of "
            "PTB-XL, which tells the folds."
        )
    if not isinstance(exclude_folds, Iterable) or not all(fold in range(1, 11) for fold in exclude_folds):
        raise ValueError(
            f"`exclude_ptbxl_folds` is a list of folds from 1 to 10, such as [10]; got {exclude_folds!r}."
        )
    names = read_names(exclude_records, "exclude_records", "record_id")
    # No record of the Challenge is called by a number alone, so a number is one of PTB-XL.
    records = NameSet(f"HR{int(name):05d}" if name.isdigit() else name for name in names)
    unwanted = set(read_names(exclude_patients, "exclude_patients", "patient_id"))
    if unwanted and not patients:
        raise ValueError("`exclude_patients` needs `ptbxl_database` or `patients_csv`: headers name no patients.")
    kept, counts = [], Counter()
    for header in headers:
        patient, fold = patients.get(header.record_id, (None, None))
        unlisted = fold is None and challenge_part(header.record_id) == "ptb-xl"
        if header.record_id in records:
            counts["named in `exclude_records`"] += 1
        elif patient is not None and patient in unwanted:
            counts["of patients named in `exclude_patients`"] += 1
        elif fold is not None and fold in exclude_folds:
            counts["of PTB-XL's folds in `exclude_ptbxl_folds`"] += 1
        elif unlisted and (exclude_folds or keep_folds):
            counts["of PTB-XL's copy that `ptbxl_database` does not list"] += 1
        else:
            kept.append(header)
    for reason, count in counts.items():
        logger.warning("%d of %d records are left out: %s.", count, len(headers), reason)
    return kept


def _warn_of_unknown_patients(rows: list[dict[str, Any]]) -> None:
    parts = Counter(challenge_part(row["record_id"]) for row in rows if row["patient_id"] is None)
    several = {part: parts[part] for part in ("ptb", "incart") if parts[part] > 1}
    if several:
        logger.warning(
            "The Challenge does not tell the patients of %s, of whom many have several records: a patient may be in "
            "two splits. `patients_csv`, a table with record_id and patient_id, tells them.",
            " and ".join(f"{count} records of {part}" for part, count in several.items()),
        )


def _source_names(parent: Path, folder: Path) -> list[str]:
    """Return the names by which the records of a folder may be chosen."""
    inner = list(parent.relative_to(folder).parts)
    names = []
    # Above `data_dir` only its own name counts: it may be one part of the Challenge.
    for part in [*reversed(inner), folder.name]:
        plain = re.sub(r"[^a-z0-9]", "", part.lower())
        names += [source for beginning, source in _SOURCE_FOLDERS if plain.startswith(beginning)][:1]
    return list(dict.fromkeys([*names[:1], *inner, folder.name]))


def _without_copies(headers: list[Header]) -> list[Header]:
    best: dict[str, Header] = {}
    for header in headers:
        known = best.get(header.record_id)
        if known is None or header.num_leads > known.num_leads:
            best[header.record_id] = header
    if len(best) < len(headers):
        kept = {id(header) for header in best.values()}
        copies = [str(header.path) for header in headers if id(header) not in kept]
        logger.warning(
            "%d records have the name of another with as many leads or more and are left out: %s%s",
            len(copies),
            ", ".join(copies[:3]),
            ", …" if len(copies) > 3 else "",
        )
    return list(best.values())


def _labels(
    headers: list[Header], folder: Path, label_set: str, min_positives: int, merge: bool
) -> tuple[list[set[str] | None], list[str]]:
    """Return the chosen labels of each record (`None` if unknown) and all labels in the order of the outputs."""
    if label_set == "scored":
        codes_of_label = scored_labels(merge)
        names = list(codes_of_label)
        name_of_code = {code: name for name, codes in codes_of_label.items() for code in codes}
    else:
        abbreviations = read_abbreviations((folder, folder.parent))
        codes = {code for header in headers for code in header.codes or ()}
        name_of_code = label_of_codes(codes, abbreviations, merge)
        counts = Counter(name for header in headers for name in {name_of_code[code] for code in header.codes or ()})
        least = min_positives if label_set == "frequent" else 1
        names = sorted((name for name, count in counts.items() if count >= least), key=str.lower)
        if not names:
            raise ValueError(
                f"No label has {least} positive records or more; the most frequent are "
                f"{', '.join(f'{name} ({count})' for name, count in counts.most_common(5)) or 'none'}. Lower "
                "`min_positives`, or use label_set='scored'."
            )
    chosen = set(names)
    labels = [
        None
        if header.codes is None
        else {name_of_code[code] for code in header.codes if code in name_of_code} & chosen
        for header in headers
    ]
    return labels, names


def _listed_patients(table: str | os.PathLike | None) -> dict[str, tuple[str, int | None]]:
    """Return the patient of each record that the user's table lists; folds are PTB-XL's alone."""
    if table is None:
        return {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            return {row["record_id"].strip(): (row["patient_id"].strip(), None) for row in csv.DictReader(file)}
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`patients_csv` is a table with the columns record_id and patient_id; {table} is not: {error!r}."
        ) from error


def ptbxl_patients(database: str | os.PathLike | None) -> dict[str, tuple[str, int | None]]:
    """Return patient and fold of `HRnnnnn`, the record that PTB-XL numbers nnnnn."""
    if database is None:
        return {}
    try:
        with open(database, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {
            f"HR{int(row['ecg_id']):05d}": (f"ptbxl-{int(float(row['patient_id']))}", int(row["strat_fold"]))
            for row in rows
        }
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"`ptbxl_database` is the file ptbxl_database.csv of PTB-XL, with ecg_id, patient_id and strat_fold; "
            f"{database} is not: {error!r}."
        ) from error
