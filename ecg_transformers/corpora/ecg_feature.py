"""The `ECG` feature type for `datasets`: stored as a path or as bytes, read as an `ECGRecord`."""

from __future__ import annotations

import os
import tempfile
import warnings
import zlib
from collections.abc import ItemsView, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from datasets import Features, Value
from datasets.features.features import register_feature
from datasets.table import array_cast

from ..feature_extraction.ecg_leads import canonical_lead_name
from ..readers.row_reference import name_of_reference, parse_reference
from ..record import ECGRecord

# A zip archive, which `record_to_npz_bytes` writes, starts with these bytes.
_ZIP_MAGIC = b"PK\x03\x04"


@dataclass
class ECG:
    """Electrocardiograms in a column of a data set.

    The column takes an `ECGRecord`, a path (`str` or `Path`) to a file that `read_ecg` understands, the bytes of such
    a file, or a dictionary with `path` and `bytes`. It is stored as a struct of `bytes` and `path`; a path stays a
    path until the data set is pushed to the Hub or written by `save_parquet`, where the record is embedded (a WFDB
    record is several files, so what is embedded is the record itself: float32 mV with lead names, rate and metadata,
    as NPZ). The method `to_parquet` of `datasets` embeds nothing, for no feature. Reading a row gives an `ECGRecord`.

    A path may name one row of an HDF5 file of many recordings: `FILE#DATASET:ROW`, for example
    `/data/exams_part3.hdf5#tracings:17` (see `ecg_transformers.readers.row_reference`). Only that row is read, and
    only it is embedded. The file is opened anew for each row (0.1 ms), so threads and processes share nothing. It may
    also name a stretch of a long recording: `FILE#samples:START-STOP`, for example `/data/100.hea#samples:3600-7200`.

    A record that `map` reads and hands back unchanged stays as it was stored; a changed one is stored with its
    samples.

    Args:
        sampling_rate (`float`, *optional*): rate in Hz that records are brought to when they are read, by
            `scipy.signal.resample_poly` (an anti-aliasing FIR filter, ends extended by a line). `None` keeps their
            own.
        lead_names (sequence of `str`, *optional*): leads to read, in this order. III, aVR, aVL and aVF are derived
            where missing; another missing lead is an error. `None` keeps those of the file.
        decode (`bool`, *optional*, defaults to `True`): `False` gives the stored dictionary instead of a record.
        file_sampling_rate (`float`, *optional*): rate in Hz of files that do not tell theirs, such as `.npy`; what a
            file tells itself comes first. So for the next two.
        file_lead_names (sequence of `str`, *optional*): the leads of files that do not name theirs.
        file_units (`str`, *optional*): the unit of files that do not tell theirs, for example `"uV"`.
        lead_aliases (sequence of `str`, *optional*): leads to be taken for others, such as `["MLII=II"]`: a record
            without II gets its MLII under that name. It comes before `lead_names`.

    Example:
        ```python
        corpus = corpus.cast_column("ecg", ECG(sampling_rate=250, lead_names=["I", "II", "V1"]))
        corpus["train"][0]["ecg"].signal.shape  # (3, 2500) for ten seconds
        ```
    """

    sampling_rate: float | int | None = None
    lead_names: Sequence[str] | None = None
    decode: bool = True
    file_sampling_rate: float | int | None = None
    file_lead_names: Sequence[str] | None = None
    file_units: str | None = None
    lead_aliases: Sequence[str] | None = None
    dtype: ClassVar[str] = "dict"
    pa_type: ClassVar[Any] = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    _type: str = field(default="ECG", init=False, repr=False)

    def __post_init__(self):
        for name in ("sampling_rate", "file_sampling_rate"):
            rate = getattr(self, name)
            if rate is not None and not (np.isfinite(rate) and rate > 0):
                raise ValueError(f"`{name}` is a positive number of Hz or None; got {rate!r}.")
        # JSON gives lists back: kept as lists, a feature equals itself after a round trip.
        for name in ("lead_names", "file_lead_names"):
            leads = getattr(self, name)
            if leads is None:
                continue
            if isinstance(leads, str):
                raise ValueError(f"`{name}` is a list of lead names; got the string {leads!r}.")
            setattr(self, name, [canonical_lead_name(lead) or str(lead) for lead in leads])
        if self.lead_aliases is not None:
            self.lead_aliases = [_checked_alias(alias) for alias in self.lead_aliases]
        if self.lead_names is not None and not self.lead_names:
            raise ValueError("`lead_names` is empty; pass None to keep the leads of the file.")

    def __call__(self) -> pa.DataType:
        """Return the storage type."""
        return self.pa_type

    def encode_example(self, value: ECGRecord | str | os.PathLike | bytes | Mapping) -> dict[str, Any]:
        """Turn a value into what is stored.

        Raises:
            ValueError: if the value is none of the forms that the class docstring lists.
        """
        if isinstance(value, ECGRecord):
            return dict(value.items())
        if isinstance(value, str):
            return {"bytes": None, "path": value}
        if isinstance(value, os.PathLike):
            return {"bytes": None, "path": os.path.abspath(value)}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": bytes(value), "path": None}
        if isinstance(value, Mapping) and (value.get("bytes") is not None or value.get("path") is not None):
            path = value.get("path")
            return {"bytes": value.get("bytes"), "path": None if path is None else os.fspath(path)}
        raise ValueError(
            f"An ECG is an ECGRecord, a path, bytes, or a dictionary with 'path' or 'bytes'; got {_describe(value)}."
        )

    def decode_example(self, value: Any, token_per_repo_id: dict[str, Any] | None = None) -> ECGRecord:
        """Read a stored value.

        Args:
            value (`dict`): the stored `bytes` and `path`. A record is returned as it is.
            token_per_repo_id (`dict`, *optional*): tokens for files in private repositories on the Hub.

        Returns:
            `ECGRecord`: the record at the rate and with the leads that the feature asks for.

        Raises:
            ECGReadError: if the file cannot be read.
            ValueError: if a lead is missing or nothing is stored.
        """
        if not self.decode:
            raise RuntimeError("Decoding is off for this column; use ECG(decode=True) to read records.")
        if isinstance(value, ECGRecord):
            return value
        original = self._read(value, token_per_repo_id)
        record = self._convert(original, value.get("path"))
        if record is original:
            record._stored = {"bytes": value.get("bytes"), "path": value.get("path")}
            record._stored_fingerprint = _fingerprint(record)
        return record

    def _read(self, value: Mapping, token_per_repo_id: dict[str, Any] | None = None) -> ECGRecord:
        content, path = value.get("bytes"), value.get("path")
        if content is None and path is None:
            raise ValueError("An ECG column stores 'path' or 'bytes'; both are missing.")
        if content is None and "://" not in path:
            return self._read_file(path)
        reference = parse_reference(path)
        if content is None:
            if reference is not None:
                raise ValueError(
                    f"{path} names a part of a remote file, which would be fetched whole for each. Download the "
                    "file and name its local path, or embed the rows in Parquet before publishing."
                )
            content = _fetch(path, token_per_repo_id or {})
        if content[:4] == _ZIP_MAGIC:
            from ..readers.numpy_files import record_from_npz_bytes

            try:
                return record_from_npz_bytes(content)
            except ValueError:
                # Other zip archives (an .npz of somebody else) are for the reader of their format.
                if not path:
                    raise
        # Readers work on files, as formats like WFDB and HDF5 need.
        with tempfile.TemporaryDirectory(prefix="ecg-") as folder:
            name = str(path).split("::")[0] if reference is None else reference.file
            file = Path(folder) / (os.path.basename(name) if path else "record")
            file.write_bytes(content)
            return self._read_file(file if reference is None else replace(reference, file=str(file)))

    def _read_file(self, path: str | os.PathLike) -> ECGRecord:
        from ..readers import ECGReadError, read_ecg

        told = {"sampling_rate": self.file_sampling_rate, "lead_names": self.file_lead_names, "units": self.file_units}
        told = {name: value for name, value in told.items() if value is not None}
        try:
            return read_ecg(path, **told)
        except ECGReadError as error:
            if not told:
                raise
            # In a mixed column, a file that tells its own rate or leads may contradict what the others need to be
            # told.
            try:
                return read_ecg(path)
            except ECGReadError:
                raise error from None

    def _convert(self, record: ECGRecord, path: str | None) -> ECGRecord:
        for alias in self.lead_aliases or ():
            name, lead = alias.split("=")
            if name in record.lead_names and lead not in record.lead_names:
                names = [lead if one == name else one for one in record.lead_names]
                record = ECGRecord(record.signal, record.sampling_rate, names, dict(record.metadata))
        if self.lead_names is not None and list(record.lead_names) != list(self.lead_names):
            try:
                record = record.select_leads(self.lead_names)
            except ValueError as error:
                name = record.metadata.get("record_id") or path or "record"
                raise ValueError(f"{name}: {error} Ask for other `lead_names`, or leave the record out.") from error
        if self.sampling_rate is not None and record.sampling_rate != self.sampling_rate:
            signal = resample(record.signal, record.sampling_rate, self.sampling_rate)
            record = ECGRecord(signal, self.sampling_rate, record.lead_names, dict(record.metadata))
        return record

    def cast_storage(self, storage: pa.Array) -> pa.StructArray:
        """Bring an Arrow array into the storage type.

        Args:
            storage (`pa.Array`): strings (paths), binaries (file contents), or structs with `bytes` or `path`. Records
                arrive here as such structs.

        Returns:
            `pa.StructArray` with the fields `bytes` and `path`.

        Raises:
            TypeError: for other types.
        """
        kind = storage.type
        if pa.types.is_null(kind):
            return pa.nulls(len(storage), self.pa_type)
        missing = {name: pa.nulls(len(storage), self.pa_type.field(name).type) for name in ("bytes", "path")}
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            parts = {**missing, "path": array_cast(storage, pa.string())}
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            parts = {**missing, "bytes": array_cast(storage, pa.binary())}
        elif pa.types.is_struct(kind) and {"bytes", "path"} & {one.name for one in kind}:
            parts = {
                name: array_cast(storage.field(name), empty.type) if kind.get_field_index(name) >= 0 else empty
                for name, empty in missing.items()
            }
        else:
            raise TypeError(
                f"An ECG column is made of paths, bytes, or structs of 'bytes' and 'path'; got {kind}. Arrays alone "
                "do not tell rate and leads: make them ECGRecord."
            )
        return pa.StructArray.from_arrays([parts["bytes"], parts["path"]], ["bytes", "path"], mask=storage.is_null())

    def embed_storage(
        self,
        storage: pa.StructArray,
        token_per_repo_id: dict[str, Any] | None = None,
        local_files: bool = True,
        remote_files: bool = True,
    ) -> pa.StructArray:
        """Replace paths by the records they name, at their own rate and with all leads.

        Args:
            storage (`pa.StructArray`): the column.
            token_per_repo_id (`dict`, *optional*): tokens for files in private repositories on the Hub.
            local_files (`bool`, *optional*, defaults to `True`): embed files of this machine.
            remote_files (`bool`, *optional*, defaults to `True`): embed files given as URL.

        Returns:
            `pa.StructArray`: the column with NPZ bytes; of each path embedded only the file's name is left.
        """
        from ..readers.numpy_files import record_to_npz_bytes

        contents, paths = [], []
        for value in storage.to_pylist():
            content, path = (value["bytes"], value["path"]) if value is not None else (None, None)
            if path is not None and (remote_files if "://" in path else local_files):
                name = name_of_reference(path)
                if content is None:
                    record = self._read(value, token_per_repo_id)
                    # What travels names no folder of this machine.
                    record.metadata["source"] = name
                    content = record_to_npz_bytes(record)
                path = name
            contents.append(content)
            paths.append(path)
        arrays = [pa.array(contents, pa.binary()), pa.array(paths, pa.string())]
        return pa.StructArray.from_arrays(arrays, ["bytes", "path"], mask=storage.is_null())

    def flatten(self) -> Features | dict[str, Value]:
        """Return the stored fields as features.

        Raises:
            ValueError: while the column is decoded.
        """
        if self.decode:
            raise ValueError("Cannot flatten a decoded ECG column; cast it to ECG(decode=False) first.")
        return {"bytes": Value("binary"), "path": Value("string")}


def resample(signal: np.ndarray, sampling_rate: float, target_rate: float) -> np.ndarray:
    """Bring a signal to another rate with a polyphase FIR filter (`scipy.signal.resample_poly`, Kaiser window, β 5).

    Args:
        signal (`np.ndarray` of shape `(leads, samples)`): any unit; NaN marks missing samples.
        sampling_rate (`float`): rate of the signal in Hz.
        target_rate (`float`): wanted rate in Hz.

    Returns:
        `np.ndarray` of shape `(leads, ceil(samples * target_rate / sampling_rate))`, float32. Samples nearest to a
        missing one are NaN; the gap is bridged by a line while filtering, so it does not spread.
    """
    from scipy.signal import resample_poly

    ratio = Fraction(target_rate).limit_denominator(10_000) / Fraction(sampling_rate).limit_denominator(10_000)
    missing = np.isnan(signal)
    if missing.any():
        times = np.arange(signal.shape[1])
        signal = np.array(signal, dtype=np.float32)
        for row, gaps in zip(signal, missing, strict=True):
            row[gaps] = np.interp(times[gaps], times[~gaps], row[~gaps]) if not gaps.all() else 0.0
    resampled = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line").astype(np.float32)
    if missing.any():
        nearest = np.minimum(np.round(np.arange(resampled.shape[1]) / float(ratio)).astype(int), signal.shape[1] - 1)
        resampled[missing[:, nearest]] = np.nan
    return resampled


def _fetch(url: str, token_per_repo_id: dict[str, Any]) -> bytes:
    """Read a remote file the way `datasets` does for audio."""
    from datasets import config
    from datasets.download.download_config import DownloadConfig
    from datasets.utils.file_utils import xopen
    from datasets.utils.py_utils import string_to_dict

    if url.lower().endswith(".hea"):
        raise ValueError(
            f"{url} is the header of a WFDB record, whose samples are in another file, and cannot be read from a URL. "
            "Download the record, or embed it in Parquet before publishing."
        )
    source = url.split("::")[-1]
    pattern = config.HUB_DATASETS_URL if source.startswith(config.HF_ENDPOINT) else config.HUB_DATASETS_HFFS_URL
    fields = string_to_dict(source, pattern)
    token = token_per_repo_id.get(fields["repo_id"]) if fields is not None else None
    with xopen(url, "rb", download_config=DownloadConfig(token=token)) as file:
        return file.read()


def _checked_alias(alias: str) -> str:
    """Return an alias with both leads in canonical spelling."""
    names = str(alias).split("=")
    if len(names) != 2 or not all(name.strip() for name in names):
        raise ValueError(f"`lead_aliases` is a list of NAME=LEAD, such as 'MLII=II'; it has {alias!r}.")
    return "=".join(canonical_lead_name(name) or name.strip() for name in names)


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}{'' if shape is None else f' of shape {tuple(shape)}'} ({str(value)[:60]})"


def _fingerprint(record: ECGRecord) -> tuple:
    signal = np.ascontiguousarray(record.signal)
    return zlib.crc32(signal), signal.shape, record.sampling_rate, record.lead_names, repr(record.metadata)


def _stored_items(record: ECGRecord) -> ItemsView[str, Any]:
    """Return what an ECG column stores for a record; see `ECG.encode_example`."""
    stored = getattr(record, "_stored", None)
    if stored is None or record._stored_fingerprint != _fingerprint(record):
        from ..readers.numpy_files import record_to_npz_bytes

        stored = {"bytes": record_to_npz_bytes(record), "path": None}
    return stored.items()


# `datasets` converts unknown objects that `map` returns to Arrow by itself, before it asks the feature. It handles
# mappings by their items, so a record presents itself as the mapping that the column stores.
ECGRecord.items = _stored_items
Mapping.register(ECGRecord)

# `datasets` calls its own way of registering experimental, which is nothing that users could act on.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)
    register_feature(ECG, "ECG")
    # The card of a data set on the Hub spells feature types in snake case, and "ecg" comes back as this.
    register_feature(ECG, "Ecg")
