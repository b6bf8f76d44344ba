"""Corpora that are data sets already: folders written by `save_to_disk` or holding Parquet files, and the Hub."""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, IterableDatasetDict, load_dataset, load_from_disk

from . import list_corpora
from .columns import SPLITS, label_names_of, problem_type_of, shares_of_train
from .ecg_feature import ECG
from .splits import DEFAULT_FRACTIONS, split_by_group
from .streaming import stream_corpus

logger = logging.getLogger(__name__)

# What other people call the three splits.
_SPLIT_NAMES = {"validation": ("validation", "valid", "val", "dev"), "test": ("test", "eval"), "train": ("train",)}

# What `save_to_disk` leaves in a folder, of several splits and of one.
_MARKS_OF_SAVED = ("dataset_dict.json", "state.json")


def holds_saved_corpus(folder: Path) -> bool:
    """Tell whether a folder was written by `save_to_disk` or holds Parquet files."""
    return any((folder / name).is_file() for name in _MARKS_OF_SAVED) or bool(_parquet_files(folder))


def load_saved_folder(
    folder: str | os.PathLike,
    *,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    streaming: bool = False,
) -> DatasetDict | IterableDatasetDict:
    """Load a corpus that was saved in a folder.

    Args:
        folder (`str` or path): a folder written by `save_to_disk`, or one with Parquet files whose names begin with
            `train`, `validation` or `test`, else all are `train` (in it or in its folder `data`).
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): shares of train, validation and test. Splits
            that are missing are taken out of `train`, by patient, at these shares.
        seed (`int`, *optional*, defaults to 0): of the split.
        streaming (`bool`, *optional*, defaults to `False`): see `load_corpus`. Parquet files that hold all three
            splits are read as rows are asked for; otherwise they are copied into the cache of `datasets` first, as
            without this option.

    Returns:
        `datasets.DatasetDict` or `datasets.IterableDatasetDict`: with the columns of the data set.

    Raises:
        ValueError: if the data set has no column of ECGs or an empty split.
    """
    folder = Path(folder)
    if any((folder / name).is_file() for name in _MARKS_OF_SAVED):
        try:
            loaded = load_from_disk(str(folder))
        except IndexError as error:
            # datasets writes no file for a split without rows, and then looks for one.
            raise ValueError(
                f"{folder} cannot be opened: a split without records was saved in it, which `datasets` does not read "
                "back. Save the corpus again without its empty splits."
            ) from error
        corpus = loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)
    else:
        of_split: dict[str, list[str]] = {}
        for file in _parquet_files(folder):
            of_split.setdefault(split_name(re.split(r"[-_.]", file.name)[0]) or "train", []).append(str(file))
        if streaming and set(of_split) == set(SPLITS):
            options = _options_of_streams()
            stream = IterableDatasetDict(
                {
                    name: load_dataset("parquet", data_files=of_split[name], split="train", streaming=True, **options)
                    for name in SPLITS
                }
            )
            return _with_ecg_column(stream, folder)
        corpus = DatasetDict({name: Dataset.from_parquet(names, split=name) for name, names in of_split.items()})
    corpus = _three_splits(_with_ecg_column(corpus, folder), split, seed, folder)
    return stream_corpus(corpus) if streaming else corpus


def _options_of_streams() -> dict[str, Any]:
    """Return what keeps a stream of local Parquet files from holding the whole file in memory.

    Arrow reads ahead by default, which is for files behind a network. `datasets` passes the option on from 4.2 on.
    """
    from datasets.packaged_modules.parquet.parquet import ParquetConfig

    if "fragment_scan_options" not in ParquetConfig.__dataclass_fields__:
        return {}
    from pyarrow.dataset import ParquetFragmentScanOptions

    return {"fragment_scan_options": ParquetFragmentScanOptions(pre_buffer=False)}


def _parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), list_corpora(), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def load_hub_corpus(
    name: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    streaming: bool = False,
    **options: Any,
) -> DatasetDict | IterableDatasetDict:
    """Load a data set from the Hub.

    Args:
        name (`str`): `owner/name` on the Hub.
        data_dir (`str` or path, *optional*): a folder within the data set on the Hub.
        split (three `float`, *optional*, defaults to 0.7, 0.15, 0.15): see `load_saved_folder`.
        seed (`int`, *optional*, defaults to 0): of the split.
        streaming (`bool`, *optional*, defaults to `False`): see `load_corpus`.
        **options: passed to `datasets.load_dataset`, for example `revision` or `name` (the configuration).

    Returns:
        `datasets.DatasetDict` or `datasets.IterableDatasetDict`: with the columns of the data set.

    Raises:
        ValueError: if nothing has this name, naming the registered corpora; with `streaming` also if a split is
            missing, which cannot be taken out of a stream.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise ValueError(
            f"Unknown corpus {str(name)!r}: no folder of that name, no owner/name on the Hub, and not one of "
            f"{', '.join(list_corpora())}.{_suggestion(str(name))}"
        )
    if streaming:
        options["streaming"] = True
    try:
        loaded = load_dataset(str(name), data_dir=None if data_dir is None else str(data_dir), **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"There is no folder {name}, and the Hub gives no data set of that name: {error} Known corpora: "
            f"{', '.join(list_corpora())}."
        ) from error
    if streaming:
        stream = {split_name(part) or part: data for part, data in loaded.items()}
        missing = [part for part in SPLITS if part not in stream]
        if missing:
            raise ValueError(
                f"{name} has the splits {', '.join(loaded)} and lacks {', '.join(missing)}, which cannot be taken out "
                "of a stream. Load it without streaming, or publish it with three splits."
            )
        return _with_ecg_column(IterableDatasetDict({part: stream[part] for part in SPLITS}), name)
    corpus = loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)
    return _three_splits(_with_ecg_column(corpus, name), split, seed, name)


def save_parquet(corpus: DatasetDict, folder: str | os.PathLike, batch_size: int = 100) -> list[Path]:
    """Write a corpus to Parquet files that hold everything, records included, so that it can travel.

    Files are written beside and renamed at the end; an interrupted call leaves no half file.

    Args:
        corpus (`datasets.DatasetDict`): any corpus.
        folder (`str` or path): where the files go; made if it is not there. `load_corpus(folder)` reads them.
        batch_size (`int`, *optional*, defaults to 100): records in memory at a time, and per row group.

    Returns:
        `list[Path]`: the files, `<split>.parquet` for each split.

    Raises:
        ECGReadError: if a record cannot be read.
    """
    import pyarrow.parquet as pq
    from datasets.table import embed_table_storage, table_cast
    from tqdm.auto import tqdm

    from ..files import written_atomically

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for split, data in corpus.items():
        path, schema = folder / f"{split}.parquet", data.features.arrow_schema
        with written_atomically(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:
            with tqdm(total=len(data), desc=f"Writing {split}", disable=len(data) < 5 * batch_size) as progress:
                for batch in data.with_format("arrow").iter(batch_size):
                    writer.write_table(embed_table_storage(table_cast(batch, schema)))
                    progress.update(len(batch))
        files.append(path)
    return files


def split_name(word: str) -> str | None:
    """Return which of the three splits a word means, or `None`."""
    return next((split for split, words in _SPLIT_NAMES.items() if word.lower() in words), None)


def _with_ecg_column(corpus: Any, source: Any) -> Any:
    """Make sure that the column `ecg` is read as ECGs, also if the file does not say so."""
    for split, data in corpus.items():
        feature = data.features.get("ecg")
        if isinstance(feature, ECG):
            continue
        if feature is None:
            raise ValueError(f"The data set {source} has no column `ecg`; it has {', '.join(data.features)}.")
        try:
            corpus[split] = data.cast_column("ecg", ECG())
        except (TypeError, ValueError) as error:
            raise ValueError(f"The column `ecg` of {source} holds no ECGs: {error}") from error
    return corpus


def _three_splits(corpus: DatasetDict, fractions: Sequence[float], seed: int, source: Any) -> DatasetDict:
    named = {split_name(split) or split: data for split, data in corpus.items()}
    if "train" not in named and len(named) == 1 and not set(named) & set(SPLITS):
        named = {"train": next(iter(named.values()))}
    missing = [split for split in SPLITS if split not in named]
    if "train" in missing:
        raise ValueError(f"{source} has the splits {', '.join(corpus)}; a split `train` is needed.")
    shares = shares_of_train(named, fractions)
    if shares:
        logger.warning("%s has no split %s; taken out of train, by patient where known.", source, ", ".join(missing))
        train = named["train"]
        indices = split_by_group(_groups(train), _stratification(train), list(shares.values()), seed)
        named.update({part: train.select(chosen) for part, chosen in zip(shares, indices, strict=True)})
    return DatasetDict({split: named[split] for split in SPLITS})


def _groups(data: Dataset) -> list[Any]:
    def column(name: str) -> list[Any]:
        return list(data[name]) if name in data.column_names else [None] * len(data)

    return [
        ("patient", patient) if patient is not None else ("record", record) if record is not None else ("row", row)
        for row, (patient, record) in enumerate(zip(column("patient_id"), column("record_id"), strict=True))
    ]


def _stratification(data: Dataset) -> np.ndarray | None:
    """Return what the split is balanced on: labels, if they are classes."""
    if "labels" not in data.column_names or problem_type_of(data) == "regression":
        return None
    labels = list(data["labels"])
    if isinstance(data.features["labels"], ClassLabel):
        return np.array([-1 if label is None else label for label in labels])
    return np.array([[row[name] or 0.0 for name in label_names_of(data)] for row in labels], dtype=float)
