"""The corpus of the PhysioNet/CinC Challenges 2020 and 2021: eight sources, SNOMED CT codes in the headers."""

from __future__ import annotations

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import register_corpus
from .challenge_labels import label_of_codes, read_abbreviations, scored_labels
from .columns import build_corpus, corpus_features, multi_label_feature
from .corpus_files import canonical_sex, check_choice, corpus_folder, map_files, plausible_age, report_missing
from .splits import DEFAULT_FRACTIONS, check_fractions, split_rows

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
    ("ptb", "ptb"),
    ("georgia", "georgia"),
    ("chapman", "chapman_shaoxing"),
    ("ningbo", "ningbo"),
)


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
    ptbxl_database: str | os.PathLike | None = None,
    skip_unreadable: bool = False,
) -> DatasetDict:
    """Load records of the PhysioNet/CinC Challenges 2020 and 2021, in any tree of folders.

    Only headers are read. Each record counts once: of several with the same name (the reduced-lead versions of the
    Challenge's sample data, a part unpacked twice) the one with the most leads is kept.

    The Challenge does not publish patient numbers, so a record is its own group when splitting, except for records of
    its PTB-XL copy when `ptbxl_database` tells their patients.

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
            `incart`, `chapman_shaoxing`, `ningbo`, as far as their folder's name tells, or the name of any folder.
        exclude_sources (sequence of `str`, *optional*): parts to leave out, named in the same way.
        min_seconds (`float`, *optional*, defaults to 0): leave out shorter records.
        keep_unlabelled (`bool`, *optional*, defaults to `True`): keep records that have none of the labels; they are
            negatives of all.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test.
        seed (`int`, *optional*, defaults to 0): of the split.
        ptbxl_database (`str` or path, *optional*): `ptbxl_database.csv` of PTB-XL; gives the records of its copy here
            (`HRnnnnn`) their patient and fold.
        skip_unreadable (`bool`, *optional*, defaults to `False`): leave out records with a broken header or without
            their signal file instead of refusing the corpus.

    Returns:
        `datasets.DatasetDict`: multi-label; a record whose header has no `Dx` line has unknown (null) labels.

    Raises:
        ValueError: if no records, sources or labels are left, or headers are broken; the message says which.
    """
    check_choice("label_set", label_set, ("frequent", "scored", "all"))
    check_fractions(split)
    folder = corpus_folder(data_dir, "challenge")
    headers = _find_headers(folder, sources, exclude_sources)
    broken = [header for header in headers if header.problem]
    report_missing(
        [f"{header.path} ({header.problem})" for header in broken],
        len(headers),
        "records",
        skip_unreadable,
        "skip_unreadable",
    )
    headers = _without_copies([header for header in headers if not header.problem])
    long_enough = [header for header in headers if header.seconds >= min_seconds]
    if len(long_enough) < len(headers):
        logger.warning(
            "%d of %d records are shorter than %g s and left out.",
            len(headers) - len(long_enough),
            len(headers),
            min_seconds,
        )
    headers = long_enough

    labels_of_record, names = _labels(headers, folder, label_set, min_positives, merge_equivalent)
    if not keep_unlabelled:
        kept = [index for index, labels in enumerate(labels_of_record) if labels]
        headers, labels_of_record = [headers[index] for index in kept], [labels_of_record[index] for index in kept]
    if not headers:
        raise ValueError(f"No records of the corpus 'challenge' are left in {folder}; loosen the options.")

    patients = _ptbxl_patients(ptbxl_database)
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
    return build_corpus(split_rows(rows, split, seed), corpus_features(multi_label_feature(names)))


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
    return header


def _find_headers(folder: Path, sources: Sequence[str] | None, exclude_sources: Sequence[str]) -> list[Header]:
    paths = sorted(
        Path(parent) / name
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(".hea")
    )
    if not paths:
        raise ValueError(f"There are no .hea files in {folder} or below; point `data_dir` at the Challenge's records.")
    folders = {parent: _source_names(parent, folder) for parent in {path.parent for path in paths}}
    wanted = _as_list(sources, "sources")
    unwanted = _as_list(exclude_sources, "exclude_sources")
    known = {name for names in folders.values() for name in names}
    unknown = [name for name in (*wanted, *unwanted) if name not in known]
    if unknown:
        raise ValueError(f"No records belong to {', '.join(unknown)}; parts in {folder}: {', '.join(sorted(known))}.")
    used = [
        path
        for path in paths
        if (not wanted or set(wanted) & set(folders[path.parent])) and not set(unwanted) & set(folders[path.parent])
    ]
    if not used:
        raise ValueError(f"`sources` {wanted or None} without {unwanted} leaves no records in {folder}.")
    return map_files(read_header, used, "Reading headers")


def _as_list(names: Sequence[str] | None, option: str) -> list[str]:
    if isinstance(names, str):
        raise ValueError(f"`{option}` is a list of names; got the string {names!r}.")
    return list(names or ())


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


def _ptbxl_patients(database: str | os.PathLike | None) -> dict[str, tuple[str, int | None]]:
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
