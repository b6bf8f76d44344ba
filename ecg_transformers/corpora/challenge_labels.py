"""The diagnoses of the PhysioNet/CinC Challenges 2020 and 2021: SNOMED CT codes, abbreviations, equivalent codes."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)

# The scored diagnoses of 2021 and their abbreviations, as `dx_mapping_scored.csv` of
# physionetchallenges/evaluation-2021 lists them.
SCORED_ABBREVIATIONS = {
    "164889003": "AF",
    "164890007": "AFL",
    "6374002": "BBB",
    "426627000": "Brady",
    "733534002": "CLBBB",
    "713427006": "CRBBB",
    "270492004": "IAVB",
    "713426002": "IRBBB",
    "39732003": "LAD",
    "445118002": "LAnFB",
    "164909002": "LBBB",
    "251146004": "LQRSV",
    "698252002": "NSIVCB",
    "426783006": "NSR",
    "284470004": "PAC",
    "10370003": "PR",
    "365413008": "PRWP",
    "427172004": "PVC",
    "164947007": "LPR",
    "111975006": "LQT",
    "164917005": "QAb",
    "47665007": "RAD",
    "59118001": "RBBB",
    "427393009": "SA",
    "426177001": "SB",
    "427084000": "STach",
    "63593006": "SVPB",
    "164934002": "TAb",
    "59931005": "TInv",
    "17338001": "VPB",
}

# Codes that the Challenge of 2021 scores as one diagnosis (the column Notes of `dx_mapping_scored.csv`), under one
# name.
EQUIVALENT_CODES = {
    "LBBB": ("733534002", "164909002"),
    "RBBB": ("713427006", "59118001"),
    "PAC": ("284470004", "63593006"),
    "PVC": ("427172004", "17338001"),
}

MAPPING_FILES = ("dx_mapping_scored.csv", "dx_mapping_unscored.csv")


def read_abbreviations(folders: Iterable[Path]) -> dict[str, str]:
    """Return the abbreviation of each SNOMED CT code.

    Args:
        folders (iterable of `Path`): where the Challenge's mapping files may be; the first that holds one is used.

    Returns:
        `dict[str, str]`: the scored diagnoses, and all others that the files list.

    Raises:
        ValueError: if a mapping file lacks its columns.
    """
    abbreviations = dict(SCORED_ABBREVIATIONS)
    folders = list(folders)
    for name in MAPPING_FILES:
        path = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if path is None:
            continue
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            # The files of 2020 write "SNOMED CT Code".
            columns = {column.replace(" ", "").lower(): column for column in rows.fieldnames or ()}
            if not {"snomedctcode", "abbreviation"} <= set(columns):
                raise ValueError(f"{path} needs the columns SNOMEDCTCode and Abbreviation; it has {rows.fieldnames}.")
            for row in rows:
                code, abbreviation = (row[columns[key]] or "" for key in ("snomedctcode", "abbreviation"))
                if code.strip() and abbreviation.strip():
                    abbreviations[code.strip()] = abbreviation.strip()
    return abbreviations


def label_of_codes(codes: Iterable[str], abbreviations: dict[str, str], merge: bool) -> dict[str, str]:
    """Name the label of each code: its abbreviation, the name that equivalent codes share, or the code itself.

    Args:
        codes (iterable of `str`): SNOMED CT codes.
        abbreviations (`dict[str, str]`): see `read_abbreviations`.
        merge (`bool`): whether equivalent codes become one label.

    Returns:
        `dict[str, str]`: label by code. Two codes that are not equivalent never share a label.
    """
    merged = {code: name for name, equivalent in EQUIVALENT_CODES.items() for code in equivalent} if merge else {}
    codes = sorted(set(codes))
    names = {code: merged.get(code) or abbreviations.get(code, code) for code in codes}
    owners: dict[str, set[str]] = {}
    for code, name in names.items():
        owners.setdefault(name, set()).add(code)
    for name, sharing in owners.items():
        if len(sharing) > 1 and not sharing <= set(EQUIVALENT_CODES.get(name, ())):
            logger.warning(
                "The abbreviation %s stands for the codes %s; they keep their codes as names.", name, sharing
            )
            names.update({code: code for code in sharing if merged.get(code) != name})
    return names


def scored_labels(merge: bool = True) -> dict[str, tuple[str, ...]]:
    """Return the scored diagnoses of 2021, in the order of the Challenge's list.

    Args:
        merge (`bool`, *optional*, defaults to `True`): join equivalent ones; gives 26 labels instead of 30.

    Returns:
        `dict[str, tuple[str, ...]]`: the codes of each label.
    """
    names = label_of_codes(SCORED_ABBREVIATIONS, SCORED_ABBREVIATIONS, merge)
    labels: dict[str, tuple[str, ...]] = {}
    for code in SCORED_ABBREVIATIONS:
        labels[names[code]] = (*labels.get(names[code], ()), code)
    return labels


def challenge_codes(label_names: Sequence[str], folders: Iterable[Path] = ()) -> dict[str, str]:
    """Translate label names of the `challenge` corpus into the class names of the Challenge's `weights.csv`.

    Args:
        label_names (sequence of `str`): labels of the corpus.
        folders (iterable of `Path`, *optional*): where the Challenge's mapping files may be.

    Returns:
        `dict[str, str]`: per label its SNOMED CT code, or equivalent codes joined with `|`. Unknown labels are left
        out.
    """
    code_of = {abbreviation: code for code, abbreviation in read_abbreviations(folders).items()}
    codes = {}
    for name in label_names:
        if name in EQUIVALENT_CODES:
            codes[name] = "|".join(EQUIVALENT_CODES[name])
        elif name in code_of or name in code_of.values():
            codes[name] = code_of.get(name, name)
    return codes
