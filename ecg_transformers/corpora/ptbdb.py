"""The PTB diagnostic ECG database: 549 records of 290 patients with 12 leads and the Frank leads."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import register_corpus
from .challenge import Header, find_headers, read_headers
from .columns import build_corpus, corpus_features, multi_label_feature
from .corpus_files import check_counts, check_flags, corpus_folder
from .splits import DEFAULT_FRACTIONS, check_fractions, split_rows

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)


@register_corpus("ptbdb")
def load_ptbdb(
    data_dir: str | os.PathLike,
    *,
    min_positives: int = 8,
    keep_unlabelled: bool = True,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    skip_unreadable: bool = False,
) -> DatasetDict:
    """Load the PTB diagnostic ECG database 1.0.0 in its original layout (PhysioNet, `ptbdb`, ODC-By 1.0).

    549 records of 290 patients, one to five each, of 32 to 120 s at 1000 Hz: 12 leads and Frank's vx, vy, vz, which
    models for 12 leads leave out. Bousseljot, Kreiseler and Schnabel, Biomed Tech 40 s1:317 (1995). The corpus `ptb`
    is the copy in the Challenges of 2020 and 2021, with SNOMED CT codes and without patients. Whoever uses both
    compares them with `check_leakage`, by signal, as the names differ.

    The label is the header's `Reason for admission`, without what it adds in brackets ("Heart failure (NYHA 2)" is
    "Heart failure"); a header without it has unknown (null) labels. Diagnoses are of the patient, not of the
    recording. Patients are told by the folders, `patient001` to `patient294`.

    Tested on one real record (s0010_re) and on files written by the description of the layout.

    Args:
        data_dir (`str` or path): a folder with `.hea` files below it, in folders called after their patients.
        min_positives (`int`, *optional*, defaults to 8): leave out labels with fewer records.
        keep_unlabelled (`bool`, *optional*, defaults to `True`): keep records that have none of the labels; they are
            negatives of all.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test, by
            patient.
        seed (`int`, *optional*, defaults to 0): of the split.
        skip_unreadable (`bool`, *optional*, defaults to `False`): leave out records with a broken header or without
            their signal files instead of refusing the corpus.

    Returns:
        `datasets.DatasetDict`: multi-label; a record has one label at most.

    Raises:
        ValueError: if no records or labels are left, or headers are broken; the message says which.
    """
    check_fractions(split)
    check_counts(min_positives=min_positives, seed=seed)
    check_flags(keep_unlabelled=keep_unlabelled, skip_unreadable=skip_unreadable)
    folder = corpus_folder(data_dir, "ptbdb")
    headers = read_headers(find_headers(folder), skip_unreadable)

    reasons = [_reason(header) for header in headers]
    counts = Counter(reason for reason in reasons if reason is not None)
    names = sorted(name for name, count in counts.items() if count >= min_positives)
    if not names:
        raise ValueError(
            f"No reason for admission has {min_positives} records; the most frequent are "
            f"{', '.join(f'{name} ({count})' for name, count in counts.most_common(5)) or 'none'}. Lower "
            "`min_positives`."
        )
    rows = [
        {
            "ecg": str(header.path),
            "labels": {name: None if reason is None else float(name == reason) for name in names},
            "record_id": header.record_id,
            "patient_id": _patient(header.path),
            "age": header.age,
            "sex": header.sex,
        }
        for header, reason in zip(headers, reasons, strict=True)
        if keep_unlabelled or reason in names
    ]
    unknown = sum(row["patient_id"] is None for row in rows)
    if unknown:
        logger.warning(
            "%d of %d records are in no folder called patient001, patient002, …: their patients are unknown and may "
            "be in two splits.",
            unknown,
            len(rows),
        )
    return build_corpus(split_rows(rows, split, seed), corpus_features(multi_label_feature(names)))


def _reason(header: Header) -> str | None:
    reason = re.sub(r"\s*\(.*", "", header.comments.get("reason for admission", "")).strip()
    return None if reason.lower() in ("", "n/a", "unknown") else reason


def _patient(path: Path) -> str | None:
    match = re.fullmatch(r"patient(\d+)", path.parent.name)
    return str(int(match[1])) if match else None
