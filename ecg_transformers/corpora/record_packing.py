"""Pack a folder of ECG files once and for all: into Parquet shards, or into files of one format."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import written_atomically
from ..readers.numpy_files import record_to_npz_bytes
from ..readers.row_reference import name_of_reference, parse_reference, referenced_file
from .columns import SPLITS, corpus_features
from .corpus_files import check_choice, map_files
from .ecg_feature import ECG
from .file_workers import choose_workers, map_in_workers
from .folder import file_feature, split_of_row
from .folder_listing import FileFacts, FolderListing, completed, facts_of_record, list_folder, read_record
from .saved_corpus import holds_saved_corpus
from .table_rows import Targets

logger = logging.getLogger(__name__)

FORMATS = ("parquet", "npz", "wfdb")

# What is written beside the records; of these, only the first is there before the end.
PROGRESS, RECORDS, ERRORS = "conversion.jsonl", "records.csv", "errors.csv"

# Records that are compressed and written together: what is kept in memory.
_GROUP_RECORDS, _GROUP_BYTES = 100, 32 * 2**20

_SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.parquet")

# Files between two points from which an interrupted conversion into single files goes on.
_FILES_PER_PART = 500

_ROW_COLUMNS = ("record_id", "patient_id", "age", "sex", "fold", "report", "split")


@dataclass
class PackingReport:
    """What a conversion has done.

    Args:
        output (`Path`): the folder written.
        num_records, num_errors (`int`): files converted, and those that could not be read.
        num_resumed (`int`): files dealt with by an earlier, interrupted run.
        num_parts (`int`): shards, or parts of single files.
        num_bytes (`int`): size of the records written.
        seconds (`float`): duration of this run.
        kinds (`Counter`): how many files had which format, leads and rate.
        reasons (`Counter`): why files could not be read.
        errors (`Path`, *optional*): the table of these files.
    """

    output: Path
    num_records: int = 0
    num_errors: int = 0
    num_resumed: int = 0
    num_parts: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    kinds: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    errors: Path | None = None


def pack_records(
    folder: str | os.PathLike,
    output: str | os.PathLike,
    *,
    to: str = "parquet",
    labels_csv: str | os.PathLike | None = None,
    label_columns: Sequence[str] | None = None,
    label_separator: str | None = None,
    problem_type: str | None = None,
    patient_column: str | None = None,
    sex_codes: dict[Any, str] | None = None,
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | str | None = None,
    units: str | None = None,
    skip_missing: bool = False,
    quality: bool = False,
    workers: int | None = None,
    shard_mb: float = 500,
    overwrite: bool = False,
) -> PackingReport:
    """Convert all ECG files below a folder; what `ecg-transformers convert-records` does.

    `parquet` writes shards `train-00000.parquet`, ... with the columns of a corpus and the recordings inside (float32
    mV, all metadata), which `load_corpus(output)` opens; splits that the table does not name are taken out of train
    then, by patient. `npz` and `wfdb` write a file for each recording and `records.csv`, a table for the corpus
    `folder`; WFDB rounds to 1 uV.

    Files that cannot be read are listed in `errors.csv` with reason and remedy, the others go on. A shard takes its
    name when it is complete; `conversion.jsonl` keeps what is done, so that the same call goes on after an
    interruption. Only what is being written is held in memory.

    Args:
        folder (`str` or path): the files; subfolders are searched.
        output (`str` or path): folder to write, outside of `folder`; new, empty, or that of an interrupted call.
        to (`str`, *optional*, defaults to `"parquet"`): `"parquet"`, `"npz"` or `"wfdb"`.
        labels_csv, label_columns, label_separator, problem_type, patient_column, sex_codes, sampling_rate, lead_names,
            units, skip_missing: as for the corpus `folder`.
        quality (`bool`, *optional*, defaults to `False`): add the column `quality` (Parquet), see `add_quality`.
        workers (`int`, *optional*): processes that read and convert. By default the number of cores, at most 8.
        shard_mb (`float`, *optional*, defaults to 500): size in 10^6 bytes after which a shard is closed.
        overwrite (`bool`, *optional*, defaults to `False`): start over where `output` holds another conversion.

    Returns:
        [`PackingReport`]: what was done.

    Raises:
        ValueError: if there are no recordings, the table does not fit, or `output` holds something else.
        OSError: if the disk is full or a process ended abruptly.
    """
    begin = time.monotonic()
    check_choice("to", to, FORMATS)
    # Refused before anything is touched
    choose_workers(workers, 1)
    if not shard_mb > 0:
        raise ValueError(f"`shard_mb` is a size in 10^6 bytes above 0; got {shard_mb!r}.")
    if quality and to != "parquet":
        raise ValueError(f"Only Parquet has a column `quality`; got quality=True with to={to!r}.")
    folder, output = (Path(os.path.abspath(os.path.expanduser(path))) for path in (folder, output))
    if output.exists() and not output.is_dir():
        raise ValueError(f"The output {output} is a file. Name a new or empty folder.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; a single file is converted with read_ecg(path).save(...).")
    if output == folder or folder in output.parents or output in folder.parents:
        raise ValueError(f"The output {output} must lie outside of the folder {folder}, and the other way round.")
    if labels_csv is None and holds_saved_corpus(folder):
        raise ValueError(
            f"{folder} holds a saved data set (or Parquet files), which load_corpus opens as it is. For ECG files "
            "beside them, keep the two apart."
        )
    table_options = {
        "labels_csv": labels_csv,
        "label_columns": label_columns,
        "label_separator": label_separator,
        "problem_type": problem_type,
        "patient_column": patient_column,
        "sex_codes": sex_codes,
        "skip_missing": skip_missing,
    }
    listing = list_folder(folder, **table_options)
    listing.rows.sort(key=lambda row: (SPLITS.index(split_of_row(row)), row["ecg"]))
    feature = file_feature(sampling_rate, lead_names, units)
    settings = {"to": to, "shard_mb": shard_mb, "quality": quality, "feature": repr(feature), **table_options}
    names = [] if to == "parquet" else _file_names([row["ecg"] for row in listing.rows], folder, to)
    progress = _Progress(output, _digest(listing, settings), overwrite, names)
    report = PackingReport(output, num_resumed=progress.done)
    if to == "parquet":
        writer = _ShardWriter(listing, progress, feature, shard_mb, quality)
    else:
        writer = _FileWriter(listing, progress, feature, names)
    with writer:
        work = writer.tasks(progress.done)
        results = map_in_workers(writer.function, work, workers=workers, description="Converting", unit="file")
        for index, result in enumerate(results, start=progress.done):
            facts = writer.add(index, result)
            if facts.reason:
                report.reasons[facts.reason] += 1
    progress.finish()
    for part in progress.parts:
        report.num_records += part["records"]
        report.num_errors += part["errors"]
        report.num_bytes += part["bytes"]
        report.kinds.update(part["kinds"])
    report.num_parts = sum(part["records"] > 0 for part in progress.parts)
    report.errors = output / ERRORS if report.num_errors else None
    report.seconds = time.monotonic() - begin
    if not report.num_records:
        raise ValueError(f"None of the {report.num_errors} files of {folder} can be read; see {report.errors}.")
    return report


def _digest(listing: FolderListing, settings: dict[str, Any]) -> str:
    """Return the same for the same files, rows and settings."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps({**settings, "format": 1}, sort_keys=True, default=str).encode())
    digest.update(repr((listing.targets.kind, listing.targets.columns, listing.targets.classes)).encode())
    places = [referenced_file(row["ecg"]) for row in listing.rows]
    for row, status in zip(listing.rows, map_files(os.stat, places, "Looking at files"), strict=True):
        digest.update(repr((sorted(row.items()), status.st_size, status.st_mtime_ns)).encode())
    return digest.hexdigest()


class _Progress:
    """What is done: a line per part in a file, and two tables that grow with them.

    The first line names the single files that are going to be written: processes are ahead of what is done.
    """

    def __init__(self, output: Path, digest: str, overwrite: bool, names: Sequence[str]):
        self.output = output
        self.parts: list[dict[str, Any]] = []
        path = output / PROGRESS
        if output.is_dir() and any(output.iterdir()):
            if not path.is_file():
                raise ValueError(f"{output} holds files that no conversion wrote. Name a new or empty folder.")
            header, self.parts = _read_progress(path)
            if header.get("digest") != digest:
                if not overwrite:
                    raise ValueError(
                        f"{output} holds a conversion of other files or with other settings. Name another folder, or "
                        "pass overwrite=True to start over."
                    )
                self._remove_all(path, header)
        self.done = self.parts[-1]["end"] if self.parts else 0
        output.mkdir(parents=True, exist_ok=True)
        with written_atomically(path) as file:
            header = {"digest": digest, "files": list(names)}
            file.writelines(json.dumps(one) + "\n" for one in (header, *self.parts))
        last = self.parts[-1] if self.parts else {}
        self.tables = {name: _GrowingTable(output / name, last.get(name, 0)) for name in (RECORDS, ERRORS)}

    def _remove_all(self, path: Path, header: dict[str, Any]) -> None:
        # A shard may have its name without being noted yet.
        names = [file.name for file in self.output.iterdir() if _SHARD.fullmatch(file.name)]
        for name in header.get("files", ()):
            names += _files_of_record(name)
        for name in (*names, RECORDS, ERRORS, f"{RECORDS}.part", f"{ERRORS}.part"):
            (self.output / name).unlink(missing_ok=True)
        path.unlink()
        self.parts = []

    def add(self, part: dict[str, Any]) -> None:
        for name, table in self.tables.items():
            part[name] = table.settle()
        with open(self.output / PROGRESS, "a", encoding="utf-8") as file:
            file.write(json.dumps(part) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.parts.append(part)

    def finish(self) -> None:
        for table in self.tables.values():
            table.finish()


def _read_progress(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            # The line that was being written when the power went
            break
    return (entries[0] if entries else {}), entries[1:]


class _GrowingTable:
    """A CSV that grows under another name until its end; rows that were never settled are forgotten.

    The file is opened by the first row: a table that is finished stays as it is.
    """

    def __init__(self, path: Path, settled: int):
        self.path = path
        self.part = path.with_name(f"{path.name}.part")
        self.settled = settled
        self.file: Any = None

    def write(self, header: Sequence[str], row: Sequence[Any]) -> None:
        if self.file is None:
            if self.path.is_file():
                os.replace(self.path, self.part)
            self.file = open(self.part, "a+", newline="", encoding="utf-8")
            self.file.truncate(self.settled)
            self.writer = csv.writer(self.file)
        if self.file.tell() == 0:
            self.writer.writerow(header)
        self.writer.writerow(row)

    def settle(self) -> int:
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.settled = self.file.tell()
        return self.settled

    def finish(self) -> None:
        self.settle()
        if self.file is not None:
            self.file.close()
        if not self.part.is_file():
            return
        if self.settled:
            os.truncate(self.part, self.settled)
            os.replace(self.part, self.path)
        else:
            self.part.unlink()


class _Writer:
    """What both kinds of output share: the part at hand, and errors."""

    def __init__(self, listing: FolderListing, progress: _Progress):
        self.listing, self.progress = listing, progress
        self._new_part(progress.done)

    def _new_part(self, start: int) -> None:
        self.part = {"start": start, "end": start, "records": 0, "errors": 0, "bytes": 0, "kinds": {}}

    def _count(self, index: int, facts: FileFacts) -> None:
        self.part["end"] = index + 1
        if facts.reason:
            self.part["errors"] += 1
            name = os.path.relpath(self.listing.rows[index]["ecg"], self.listing.folder)
            self.progress.tables[ERRORS].write(("file", "reason", "remedy"), (name, facts.reason, facts.remedy))
        else:
            self.part["records"] += 1
            self.part["kinds"][facts.kind] = self.part["kinds"].get(facts.kind, 0) + 1

    def close(self) -> None:
        if self.part["end"] > self.part["start"]:
            self.progress.add(self.part)
            self._new_part(self.part["end"])

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self.close()


class _ShardWriter(_Writer):
    """Parquet shards, each of one split."""

    def __init__(self, listing: FolderListing, progress: _Progress, feature: ECG, shard_mb: float, quality: bool):
        super().__init__(listing, progress)
        from datasets import Features

        from .quality_column import COLUMN, quality_feature

        features = corpus_features(listing.targets.feature())
        if not listing.targets.columns:
            del features["labels"]
        if quality:
            features = Features({**features, COLUMN: quality_feature()})
        self.features, self.limit, self.split = features, shard_mb * 1e6, None
        self.function = functools.partial(_packed, feature=feature, quality=quality)
        self.group: list[dict[str, Any]] = []
        self.group_bytes = 0
        self.stack = ExitStack()
        self.writer: Any = None

    def tasks(self, start: int) -> list[str]:
        return [row["ecg"] for row in self.listing.rows[start:]]

    def add(self, index: int, result: tuple[FileFacts, dict[str, Any]]) -> FileFacts:
        facts, stored = result
        row = self.listing.rows[index]
        if self.split not in (None, split_of_row(row)):
            self.close()
        self.split = split_of_row(row)
        self._count(index, facts)
        if not facts.reason:
            path = os.path.relpath(row["ecg"], self.listing.folder)
            stored["ecg"] = {"bytes": stored["ecg"], "path": path}
            self.group.append({**completed(row, facts), **stored})
            self.group_bytes += len(stored["ecg"]["bytes"])
            if len(self.group) >= _GROUP_RECORDS or self.group_bytes >= _GROUP_BYTES:
                self._write_group()
            if self.part["bytes"] + self.group_bytes >= self.limit:
                self.close()
        return facts

    def _write_group(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.group:
            return
        schema = self.features.arrow_schema
        if self.writer is None:
            number = sum(part.get("shard", "").startswith(self.split) for part in self.progress.parts)
            self.part["shard"] = f"{self.split}-{number:05d}.parquet"
            path = self.progress.output / self.part["shard"]
            self.file = self.stack.enter_context(written_atomically(path, "wb"))
            self.writer = self.stack.enter_context(pq.ParquetWriter(self.file, schema, compression="zstd"))
        columns = {name: [row.get(name) for row in self.group] for name in self.features}
        self.writer.write_table(pa.Table.from_pydict(self.features.encode_batch(columns), schema=schema))
        self.part["bytes"] = self.file.tell()
        self.group, self.group_bytes = [], 0

    def close(self) -> None:
        self._write_group()
        if self.writer is not None:
            self.stack.close()
            self.writer = None
            self.part["bytes"] = (self.progress.output / self.part["shard"]).stat().st_size
        super().close()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        # With an error the shard at hand disappears.
        self.stack.__exit__(*error)


class _FileWriter(_Writer):
    """A file for each recording, and a table of them."""

    def __init__(self, listing: FolderListing, progress: _Progress, feature: ECG, names: Sequence[str]):
        super().__init__(listing, progress)
        self.function = functools.partial(_saved, feature=feature)
        self.names = names

    def tasks(self, start: int) -> list[tuple[str, str]]:
        output = self.progress.output
        return [
            (row["ecg"], str(output / name))
            for row, name in zip(self.listing.rows[start:], self.names[start:], strict=True)
        ]

    def add(self, index: int, result: tuple[FileFacts, int]) -> FileFacts:
        facts, size = result
        self._count(index, facts)
        self.part["bytes"] += size
        if not facts.reason:
            header, cells = _table_row(completed(self.listing.rows[index], facts), self.listing.targets)
            self.progress.tables[RECORDS].write(("file", *header), (self.names[index], *cells))
        if self.part["end"] - self.part["start"] >= _FILES_PER_PART:
            self.close()
        return facts


def _packed(path: str, feature: ECG, quality: bool) -> tuple[FileFacts, dict[str, Any]]:
    from .quality_column import COLUMN, quality_values

    record = read_record(path, feature)
    if isinstance(record, FileFacts):
        return record, {}
    # What travels names no folder of this machine.
    record.metadata["source"] = name_of_reference(path)
    stored: dict[str, Any] = {"ecg": record_to_npz_bytes(record)}
    if quality:
        stored[COLUMN] = quality_values(record)
    return facts_of_record(record), stored


def _saved(task: tuple[str, str], feature: ECG) -> tuple[FileFacts, int]:
    path, target = Path(task[0]), Path(task[1])
    record = read_record(str(path), feature)
    if isinstance(record, FileFacts):
        return record, 0
    target.parent.mkdir(parents=True, exist_ok=True)
    record.metadata["source"] = name_of_reference(task[0])
    try:
        record.save(target)
    except (ValueError, TypeError) as error:
        return FileFacts(reason=f"it cannot be written: {error}"), 0
    return facts_of_record(record), sum(
        (target.parent / name).stat().st_size for name in _files_of_record(target.name)
    )


def _files_of_record(name: str) -> list[str]:
    """Return a recording's file, and of a WFDB record that with the samples, too."""
    return [name, *([name[: -len(".hea")] + ".dat"] if name.endswith(".hea") else [])]


def _file_names(paths: Sequence[str], folder: Path, to: str) -> list[str]:
    """Return where recordings go within the output: their folders and names, made to differ and to fit the format."""
    ending = ".hea" if to == "wfdb" else ".npz"
    names, taken = [], set()
    for path in paths:
        relative = Path(os.path.relpath(referenced_file(path), folder))
        parent = Path() if ".." in relative.parts or relative.is_absolute() else relative.parent
        reference = parse_reference(path)
        stem = relative.stem if reference is None else re.sub(r"[/\\#:]", "_", reference.name)
        stem = re.sub(r"[^\w-]", "_", stem, flags=re.ASCII) if to == "wfdb" else stem
        name, number = stem, 2
        while (parent, name.lower()) in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add((parent, name.lower()))
        names.append((parent / f"{name}{ending}").as_posix())
    return names


def _table_row(row: dict[str, Any], targets: Targets) -> tuple[list[str], list[Any]]:
    """Return names and cells of a row of `records.csv`, from which the corpus `folder` makes the same row."""
    labels = row.get("labels")
    if not isinstance(labels, dict):
        labels = dict.fromkeys(targets.columns, labels)
    described = [name for name in _ROW_COLUMNS if name not in labels]
    header = [*described, *labels]
    return header, [_cell(row.get(name)) for name in described] + [_cell(value) for value in labels.values()]


def _cell(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "" if value is None else value
