"""The registry of readers and `read_ecg`, the one entrance to all of them."""

from __future__ import annotations

import importlib
import os
import pkgutil
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..record import ECGRecord
from .content import FileContent, build_record
from .errors import ECGReadError
from .row_reference import RowReference, WindowReference, parse_reference

# Enough for every magic number and for the first rows of a table of twelve columns.
HEAD_BYTES = 8192


@dataclass(frozen=True)
class ReadRequest:
    """What the caller of `read_ecg` stated about a file.

    Args:
        sampling_rate (`float`, *optional*): Hz.
        lead_names (`tuple[str, ...]`, *optional*): one name per row of the recording.
        units (`str`, *optional*): `"mV"`, `"uV"`, `"V"` or `"nV"`.
        drop_nan_leads (`bool`): leave out leads without a single sample instead of refusing the file.
        row (`RowReference`, *optional*): which of the file's recordings is meant.
        window (`WindowReference`, *optional*): which stretch of the recording; for readers registered with `windows`.
    """

    sampling_rate: float | None = None
    lead_names: tuple[str, ...] | None = None
    units: str | None = None
    drop_nan_leads: bool = False
    row: RowReference | None = None
    window: WindowReference | None = None


@dataclass(frozen=True)
class Reader:
    """One registered format. See `register_reader` for the fields."""

    name: str
    extensions: tuple[str, ...]
    read: Callable[[Path, ReadRequest], FileContent | ECGRecord]
    sniff: Callable[[Path, bytes], bool]
    is_record: Callable[[Path, bytes], bool]
    any_name: bool = False
    rows: bool = False
    windows: bool = False


_READERS: dict[str, Reader] = {}
_discovered = False


def register_reader(
    name: str,
    extensions: Sequence[str],
    sniff: Callable[[Path, bytes], bool],
    is_record: Callable[[Path, bytes], bool] | None = None,
    any_name: bool = False,
    rows: bool = False,
    windows: bool = False,
) -> Callable:
    """Register the decorated function as the reader of a file format.

    The function is called as `function(path, request)` with a `Path` to an existing, non-empty regular file and a
    `ReadRequest`; it returns a `FileContent` (or an `ECGRecord`). It raises `ECGReadError` for faults that it can
    explain; any other exception is turned into one by `read_ecg`.

    Args:
        name (`str`): the name for `read_ecg(..., format=name)`.
        extensions (sequence of `str`): file name endings with the dot, e.g. `(".xml",)`. Readers may share one.
        sniff (callable): `sniff(path, head)` with the first bytes of the file tells whether this reader understands
            it. Of the readers of an extension, the first whose `sniff` is true reads the file.
        is_record (callable, *optional*): same arguments; tells whether `find_ecg_files` lists the file as a record.
            By default whatever `sniff` accepts.
        any_name (`bool`, *optional*, defaults to `False`): try this reader on files of any other name too, after
            those of the extension. For formats whose first bytes leave no doubt.
        rows (`bool`, *optional*, defaults to `False`): the reader heeds `request.row`. Of other formats no rows can be
            named.
        windows (`bool`, *optional*, defaults to `False`): the reader heeds `request.window` and returns that stretch
            alone. What others return is cut.

    Returns:
        callable: the decorator; it returns the function unchanged.

    Raises:
        ValueError: if the name is taken by another function or an extension lacks its dot.

    Example:
        ```python
        @register_reader("scp", extensions=(".scp",), sniff=lambda path, head: head[16:22] == b"SCPECG")
        def read_scp(path, request):
            return FileContent(signal, sampling_rate=500, lead_names=names, units="uV")
        ```
    """
    endings = tuple(ending.lower() for ending in extensions)
    if not endings or not all(ending.startswith(".") and len(ending) > 1 for ending in endings):
        raise ValueError(f"Extensions are written with their dot, such as ('.xml',); got {tuple(extensions)!r}.")

    def decorate(function: Callable) -> Callable:
        existing = _READERS.get(name)
        if existing is not None and existing.read.__qualname__ != function.__qualname__:
            raise ValueError(
                f"A reader named {name!r} exists already ({existing.read.__module__}); choose another name."
            )
        _READERS[name] = Reader(name, endings, function, sniff, is_record or sniff, any_name, rows, windows)
        return function

    return decorate


def _readers() -> dict[str, Reader]:
    global _discovered
    if not _discovered:
        package = importlib.import_module(__package__)
        for module in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
            importlib.import_module(f"{__package__}.{module}")
        _discovered = True
    return _READERS


def list_readers() -> dict[str, tuple[str, ...]]:
    """Return the registered formats: name and file extensions."""
    return {name: reader.extensions for name, reader in _readers().items()}


def readers_of(path: Path) -> list[Reader]:
    """Return the readers registered for the extension of a path, in order of registration."""
    ending = path.suffix.lower()
    return [reader for reader in _readers().values() if ending in reader.extensions]


def readers_of_any_name() -> list[Reader]:
    """Return the readers that recognise their files by content under any name."""
    return [reader for reader in _readers().values() if reader.any_name]


def supported() -> str:
    """Describe the registered formats in one line, for error messages."""
    return "; ".join(f"{name} ({', '.join(endings)})" for name, endings in list_readers().items())


def read_head(path: Path) -> bytes:
    """Return the first bytes of a file."""
    with open(path, "rb") as file:
        return file.read(HEAD_BYTES)


def _existing_file(path: str | os.PathLike) -> Path:
    """Find the file that a path means; a WFDB record may be named without its extension."""
    try:
        file = Path(path)
        if not file.is_file():
            header = file.with_name(file.name + ".hea") if file.name else file
            if header.is_file():
                file = header
        mode = file.stat().st_mode
    except FileNotFoundError:
        raise ECGReadError(
            path,
            "there is no such file.",
            "Check the path; a WFDB record is named by its .hea file or by that path without the extension.",
        ) from None
    except TypeError as error:
        raise ECGReadError(str(path), f"this is no file path ({error}).", "Pass a str or a Path.") from None
    except (OSError, ValueError) as error:
        raise ECGReadError(
            path, f"the path cannot be opened ({error}).", "Check the path and its permissions."
        ) from None
    if stat.S_ISDIR(mode):
        raise ECGReadError(
            path, "this is a folder.", "List its records with find_ecg_files(folder) and read each one."
        )
    if not stat.S_ISREG(mode):
        raise ECGReadError(path, "this is no regular file.", "Copy the recording into a file first.")
    return file


def _choose_reader(path: Path, format: str | None) -> Reader:
    if format is not None:
        reader = _readers().get(format)
        if reader is None:
            raise ECGReadError(path, f"there is no format named {format!r}.", f"Formats: {supported()}.")
        return reader
    candidates = readers_of(path)
    head = read_head(path)
    for reader in (*candidates, *readers_of_any_name()):
        if reader.sniff(path, head):
            return reader
    if not candidates:
        kind = f"files ending in {path.suffix!r} are" if path.suffix else "a file without an extension is"
        raise ECGReadError(
            path,
            f"{kind} not supported.",
            f"Supported: {supported()}. If the content is one of these, name it with format=.",
        )
    names = " or ".join(reader.name for reader in candidates)
    raise ECGReadError(
        path,
        f"the content is not that of a {names} file (it starts with {head[:16]!r}).",
        "The file may be damaged, incomplete or of another format; fetch it again, or name its format with format=.",
    )


def read_ecg(
    path: str | os.PathLike,
    *,
    format: str | None = None,
    sampling_rate: float | None = None,
    lead_names: Sequence[str] | None = None,
    units: str | None = None,
    drop_nan_leads: bool = False,
) -> ECGRecord:
    """Read one ECG file of any supported format.

    Nothing is guessed in silence: the rate, the lead names and the unit come from the file, from the documented
    convention of the data set that the file is recognised as (stated in `metadata["layout"]`), or from the caller.
    What is known from none of these is an error that says what to pass; a caller's value that contradicts the file is
    an error too (no reader resamples or rescales on request).

    Args:
        path (`str` or `os.PathLike`): the file. For WFDB: the `.hea` file, that path without the extension, or the
            signal file beside it. For one row of an HDF5 or Parquet file of many recordings: `FILE#DATASET:ROW`,
            such as `exams_part0.hdf5#tracings:17` or `train-00000.parquet#ecg:17`. For a stretch of a long recording:
            `FILE#samples:START-STOP`, such as `100.hea#samples:3600-7200`.
        format (`str`, *optional*): a name from `list_readers()`; by default extension and content decide.
        sampling_rate (`float`, *optional*): Hz, for files that do not state it.
        lead_names (sequence of `str`, *optional*): one name per lead, for files that do not state them.
        units (`str`, *optional*): unit of the stored samples, `"mV"`, `"uV"`, `"V"` or `"nV"`, for files that do not
            state it. Arrays (`.npy`, `.npz`, plain `.mat`) are taken as mV unless given otherwise; text files need a
            unit in the file or here.
        drop_nan_leads (`bool`, *optional*, defaults to `False`): leave out leads in which every sample is missing, and
            list them in `metadata["dropped_leads"]`. By default such a file is refused.

    Returns:
        [`ECGRecord`]: the recording in mV; single missing samples are NaN.

    Raises:
        ECGReadError: if the file cannot be read; it names the file, the reason and the remedy.
        ImportError: if an optional library is missing; it names the extra to install.

    Example:
        ```python
        record = read_ecg("JS00001.hea")
        record = read_ecg("leads.npy", sampling_rate=500, lead_names=["I", "II"], units="uV")
        ```
    """
    reference = parse_reference(path)
    row = reference if isinstance(reference, RowReference) else None
    window = reference if isinstance(reference, WindowReference) else None
    file = _existing_file(path if reference is None else reference.file)
    # What messages name, and what the record is told as its source.
    named = file if reference is None else Path(str(reference))
    if isinstance(lead_names, str):
        raise ECGReadError(path, f"lead_names is one string, {lead_names!r}.", "Pass a list with one name per lead.")
    request = ReadRequest(
        sampling_rate, None if lead_names is None else tuple(lead_names), units, bool(drop_nan_leads), row, window
    )
    try:
        if file.stat().st_size == 0:
            raise ECGReadError(path, "the file is empty.", "Fetch or export it again.")
        reader = _choose_reader(file, format)
        if row is not None and not reader.rows:
            formats = " and ".join(one.name for one in _readers().values() if one.rows)
            raise ECGReadError(
                path, f"rows can be named in files of {formats}; this is {reader.name}.", "Name the file alone."
            )
        with warnings.catch_warnings():
            # Libraries comment on odd files with warnings of their own; ours reach the user.
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, message="ECG labels")
            content = reader.read(file, request)
        if window is not None:
            content = _cut(content, window, already_cut=reader.windows, file=file)
        return build_record(content, named, reader.name, request)
    except (ECGReadError, ImportError):
        raise
    except PermissionError as error:
        raise ECGReadError(path, f"permission denied ({error}).", "Check the permissions of the file.") from error
    except MemoryError as error:
        raise ECGReadError(path, "there is not enough memory to hold the recording.", "Read it in parts.") from error
    except Exception as error:
        raise ECGReadError(
            path,
            f"the content is damaged or not understood ({type(error).__name__}: {str(error)[:300]}).",
            "Fetch or export the file again, or name its format with format=.",
        ) from error


def _cut(content: FileContent | ECGRecord, window: WindowReference, already_cut: bool, file: Path) -> Any:
    """Return what is in the window, named after it."""
    if not already_cut:
        window.check(content.signal.shape[-1])
        content = replace(content, signal=content.signal[..., window.start : window.stop])
    name = content.metadata.get("record_id") or file.stem
    content.metadata.update(record_id=f"{name}:{window.start}-{window.stop}", source=str(window))
    return content
