"""Bring your own data: any mix of ECG files below a folder, with or without a table of labels, or a saved data set."""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..feature_extraction.ecg_leads import STANDARD_LEADS
from . import register_corpus
from .columns import build_corpus, corpus_features, shares_of_train
from .corpus_files import check_choice, corpus_folder
from .ecg_feature import ECG
from .file_workers import map_in_workers
from .folder_listing import completed, facts_of_file, list_folder, report_unreadable
from .saved_corpus import holds_saved_corpus, load_saved_folder, split_name
from .splits import DEFAULT_FRACTIONS, check_fractions, check_no_leak, split_by_group
from .streaming import stream_corpus
from .table_rows import Targets, probe_files

if TYPE_CHECKING:
    from datasets import DatasetDict, IterableDatasetDict

logger = logging.getLogger(__name__)


@register_corpus("folder")
def load_folder(
    data_dir: str | os.PathLike,
    *,
    labels_csv: str | os.PathLike | None = None,
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
    problem_type: str | None = None,
    patient_column: str | None = None,
    sex_codes: dict[Any, str] | None = None,
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | str | None = None,
    units: str | None = None,
    read_files: bool = True,
    skip_missing: bool = False,
    skip_unreadable: bool = False,
    errors_csv: str | os.PathLike | None = None,
    workers: int | None = None,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """Load the ECG files below a folder, of any mix of the formats that `read_ecg` reads.

    Files are recognised by their content; what is no recording (tables, licences, pictures) is left out, and of a
    WFDB record only the header counts. Each file is read once, so that those that cannot be read are known before
    training, and for what the table does not tell: patient, age, sex and report. A file with several recordings
    (arrays of three axes, HDF5 parts of CODE-15 %, Parquet) counts as unreadable, with the way out in its remedy: a
    table names its rows (`exams.hdf5#tracings:17`, `train.parquet#ecg:17`). For
    a large folder `ecg-transformers convert-records` does all this once.

    A folder that was written by `save_to_disk` or holds Parquet files is loaded as the data set that it is, and takes
    no other options than `split` and `seed`.

    Args:
        data_dir (`str` or path): the folder; subfolders are searched.
        labels_csv (`str` or path, *optional*): table with a column `file` (or `filename`, `path`), from the folder or
            from the current one, and any of the columns `patient_id`, `age`, `sex`, `record_id`, `fold`, `report` and
            `split` (`train`, `validation`, `test`); all others are labels: 0, 1 or blank (unknown), a class, a
            number, or a column `labels` that lists names separated by `;`. A file is named by its path within the
            folder or, where only one fits, by its name; the ending may be left out. Files without a row are left out.
            Without a table the corpus has no column `labels` and serves for pretraining.
        label_columns (sequence of `str`, *optional*): the label columns by name; an empty sequence for none.
        label_separator (`str`, *optional*): what stands between the labels in the cells of the only label column.
        problem_type (`str`, *optional*): as for the corpus `table`.
        patient_column (`str`, *optional*): column with the patient, if not `patient_id`.
        sex_codes (`dict`, *optional*): what numbers in the column `sex` mean, as for the corpus `table`.
        sampling_rate (`float`, *optional*): rate in Hz of files that do not tell theirs, such as `.npy`.
        lead_names (sequence of `str` or `"standard"`, *optional*): leads of files that do not name theirs.
        units (`str`, *optional*): unit of files that do not tell theirs.
        read_files (`bool`, *optional*, defaults to `True`): `False` opens only a few files of each kind: quick, but
            unreadable files are met in training, and only the table tells of patients.
        skip_missing (`bool`, *optional*, defaults to `False`): leave out rows of the table whose file is not there.
        skip_unreadable (`bool`, *optional*, defaults to `False`): leave out files that cannot be read, with a warning.
        errors_csv (`str` or path, *optional*): where to write the table of the files that cannot be read, with the
            reason and the remedy of each.
        workers (`int`, *optional*): processes that read files. By default the number of cores, at most 8; one for
            few files.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test, by
            patient. Recordings with the same samples stay together, too (the same ECG in two formats). Where the table
            has a column `split`, only the splits that it does not name are taken out of train; the same samples in two
            splits are a warning then.
        seed (`int`, *optional*, defaults to 0): of the split.
        streaming (`bool`, *optional*, defaults to `False`): see `load_corpus`.

    Returns:
        `datasets.DatasetDict` or `datasets.IterableDatasetDict`: with the columns of all corpora; `record_id` is the
        path within the folder without its ending unless the table has the column, or two files differ by it alone.

    Raises:
        ValueError: if there are no recordings, files are missing or cannot be read, the table does not fit, or a
            patient is in two of the splits that the table names.

    Example:
        ```python
        corpus = load_corpus("folder", data_dir="exports/", labels_csv="labels.csv")
        corpus = load_corpus("exports/", skip_unreadable=True, errors_csv="errors.csv")  # for pretraining
        ```
    """
    given = dict(locals())
    folder = corpus_folder(data_dir, "folder")
    if holds_saved_corpus(folder) and labels_csv is None:
        _refuse_options(folder, given)
        return load_saved_folder(folder, split=split, seed=seed, streaming=streaming)
    check_fractions(split)
    feature = file_feature(sampling_rate, lead_names, units)
    listing = list_folder(
        folder,
        labels_csv=labels_csv,
        label_columns=label_columns,
        label_separator=label_separator,
        problem_type=problem_type,
        patient_column=patient_column,
        sex_codes=sex_codes,
        skip_missing=skip_missing,
    )
    rows = listing.rows
    fingerprints: list[str] = [""] * len(rows)
    if read_files:
        read = functools.partial(facts_of_file, feature=feature)
        paths = [row["ecg"] for row in rows]
        facts = list(map_in_workers(read, paths, workers=workers, description="Reading records", unit="file"))
        bad = [(path, one) for path, one in zip(paths, facts, strict=True) if one.reason]
        report_unreadable(bad, len(rows), folder, skip_unreadable, errors_csv)
        kinds = Counter(one.kind for one in facts if not one.reason)
        logger.info("%s: %s", folder, "; ".join(f"{count} x {kind}" for kind, count in kinds.most_common()))
        rows = [completed(row, one) for row, one in zip(rows, facts, strict=True) if not one.reason]
        fingerprints = [one.fingerprint for one in facts if not one.reason]
    else:
        probe_files({"train": rows}, feature)
    corpus = _split_corpus(rows, fingerprints, listing.targets, feature, split, seed)
    return stream_corpus(corpus) if streaming else corpus


def file_feature(sampling_rate: float | None, lead_names: Sequence[str] | str | None, units: str | None) -> ECG:
    """Return the feature of a column of files; the arguments are those of the corpus `folder`.

    Raises:
        ValueError: for lead names that are none.
    """
    if isinstance(lead_names, str):
        check_choice("lead_names", lead_names, ("standard",))
        lead_names = STANDARD_LEADS
    return ECG(file_sampling_rate=sampling_rate, file_lead_names=lead_names, file_units=units)


def split_of_row(row: dict[str, Any]) -> str:
    """Return the split that the table names for a row, else `train`.

    Raises:
        ValueError: for a word that is no split.
    """
    if row.get("split") is None:
        return "train"
    name = split_name(row["split"])
    if name is None:
        raise ValueError(
            f"The column 'split' holds train, validation or test; {row['record_id']} has {row['split']!r}."
        )
    return name


def _split_corpus(
    rows: list[dict[str, Any]],
    fingerprints: list[str],
    targets: Targets,
    feature: ECG,
    split: Sequence[float],
    seed: int,
) -> DatasetDict:
    rows_of_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
    fingerprint_of = dict(zip((row["ecg"] for row in rows), fingerprints, strict=True))
    for row in rows:
        rows_of_split[split_of_row(row)].append(row)
    shares = shares_of_train(rows_of_split, split)
    if shares:
        train = rows_of_split["train"]
        groups = _groups(train, [fingerprint_of[row["ecg"]] for row in train])
        strata = targets.strata([row.get("labels") for row in train])
        for name, indices in zip(shares, split_by_group(groups, strata, list(shares.values()), seed), strict=True):
            rows_of_split[name] = [train[index] for index in indices]
    _tell_copies(rows_of_split, fingerprint_of)
    features = corpus_features(targets.feature(), feature)
    if not targets.columns:
        del features["labels"]
    corpus = build_corpus(rows_of_split, features)
    check_no_leak(corpus)
    return corpus


def _groups(rows: list[dict[str, Any]], fingerprints: list[str]) -> list[Any]:
    """Return what stays together: a patient's recordings, and recordings with the same samples."""
    repeated = sum(count - 1 for mark, count in Counter(fingerprints).items() if mark)
    if repeated:
        logger.warning("%d recordings have the same samples as another one; they stay in one split.", repeated)
    parents: dict[Any, Any] = {}

    def root(node: Any) -> Any:
        while (parent := parents.setdefault(node, node)) != node:
            node = parent
        return node

    nodes = []
    for row, mark in zip(rows, fingerprints, strict=True):
        samples = ("samples", mark) if mark else ("record", row["record_id"])
        nodes.append(("patient", row["patient_id"]) if row.get("patient_id") else samples)
        parents[root(nodes[-1])] = root(samples)
    return [root(node) for node in nodes]


def _tell_copies(rows_of_split: dict[str, list[dict[str, Any]]], fingerprint_of: dict[str, str]) -> None:
    """Warn of recordings of one split that another has, too: splits that the table names are taken as they are."""
    homes: dict[str, dict[str, str]] = defaultdict(dict)
    for split, rows in rows_of_split.items():
        for row in rows:
            if mark := fingerprint_of[row["ecg"]]:
                homes[mark].setdefault(split, row["record_id"])
    shared = [of_split for of_split in homes.values() if len(of_split) > 1]
    if shared:
        shown = "; ".join(" = ".join(f"{name} ({split})" for split, name in one.items()) for one in shared[:3])
        logger.warning(
            "%d recordings are in two splits with the same samples: %s%s. Mend the column `split` of the table.",
            len(shared), shown, "; …" if len(shared) > 3 else "",
        )  # fmt: skip


def _refuse_options(folder: Path, given: dict[str, Any]) -> None:
    """Make sure that a saved data set is given no options that are for files.

    Raises:
        ValueError: naming them.
    """
    defaults = {name: one.default for name, one in inspect.signature(load_folder).parameters.items()}
    taken = ("data_dir", "split", "seed", "streaming")
    surplus = [name for name, value in given.items() if name not in taken and value != defaults.get(name)]
    if surplus:
        raise ValueError(
            f"{folder} holds a saved data set (or Parquet files), which takes the options `split` and `seed` only; "
            f"got {', '.join(surplus)}. For the ECG files beside them, keep the two apart."
        )
