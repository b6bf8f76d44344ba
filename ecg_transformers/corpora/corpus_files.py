"""What corpora share in dealing with files and with the words that files use."""

from __future__ import annotations

import csv
import logging
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

logger = logging.getLogger(__name__)

# Fewer files than this are read before a progress bar would be seen.
_PROGRESS_FROM = 500
# Files that a thread takes at a time: handing out single ones costs more than reading them.
_PIECE = 64

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_files(function: Callable[[_Item], _Result], items: Sequence[_Item], description: str) -> list[_Result]:
    """Apply a function that waits for the disk to many items, in threads, with a progress bar.

    Args:
        function (callable): called with one item.
        items (sequence): what to apply it to.
        description (`str`): what the progress bar says.

    Returns:
        `list`: the results in the order of the items.
    """
    pieces = [items[start : start + _PIECE] for start in range(0, len(items), _PIECE)]
    results: list[_Result] = []
    with (
        ThreadPoolExecutor(max_workers=16) as pool,
        tqdm(total=len(items), desc=description, disable=len(items) < _PROGRESS_FROM) as progress,
    ):
        for piece in pool.map(lambda piece: [function(item) for item in piece], pieces):
            results += piece
            progress.update(len(piece))
    return results


def corpus_folder(data_dir: str | os.PathLike, corpus: str) -> Path:
    """Return the corpus' folder as an absolute path.

    Raises:
        ValueError: if there is no such folder.
    """
    if not isinstance(data_dir, (str, os.PathLike)):
        raise ValueError(f"The corpus {corpus!r} needs a folder as `data_dir`; got {data_dir!r}.")
    folder = Path(os.path.abspath(os.path.expanduser(data_dir)))
    if not folder.is_dir():
        raise ValueError(f"The corpus {corpus!r} needs a folder as `data_dir`; there is none at {folder}.")
    return folder


def read_columns(path: Path, types: Mapping[str, pa.DataType], corpus: str) -> dict[str, pa.Array]:
    """Read columns of a large CSV file, by name, into Arrow arrays.

    Args:
        path (`Path`): the file.
        types (mapping of `str` to `pyarrow.DataType`): the columns and their types. Blank cells are null, and `nan`
            in numbers.
        corpus (`str`): what needs the file, for messages.

    Returns:
        `dict[str, pyarrow.Array]`: one array per column.

    Raises:
        ValueError: if the file is missing or empty, or lacks a column, or a cell is of another type.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=list(types),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=["", "nan", "NaN"],
    )
    try:
        # Cells may hold line breaks, which the reader must know before it cuts the file into blocks.
        parse = arrow_csv.ParseOptions(newlines_in_values=True)
        table = arrow_csv.read_csv(path, convert_options=convert, parse_options=parse)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(
            f"{corpus} needs {path} with the columns {', '.join(types)}: {error} Fetch it again, or point at the "
            "right file."
        ) from error
    if not len(table):
        raise ValueError(f"{path} has no rows.")
    return {name: table[name].combine_chunks() for name in types}


def read_rows(path: Path, columns: Sequence[str], corpus: str) -> list[dict[str, str]]:
    """Read a small CSV file as text.

    Args:
        path (`Path`): the file.
        columns (sequence of `str`): columns that it must have.
        corpus (`str`): what needs the file, for messages.

    Returns:
        `list[dict]`: the cells of each row by column, without blanks around them; an empty text where there is none.

    Raises:
        ValueError: if the file is missing, has no rows, or lacks a column.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = [
                {name.strip(): (value or "").strip() for name, value in row.items() if name is not None}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{corpus} needs {path}: {error}. Point `data_dir` at the unpacked data set.") from error
    _check_table(path, columns, list(table[0]) if table else None)
    return table


def read_frame(path: Path, columns: Sequence[str], corpus: str, as_text: bool = False) -> pd.DataFrame:
    """Read a CSV file of moderate length as a data frame.

    Args:
        path (`Path`): the file.
        columns (sequence of `str`): columns that it must have.
        corpus (`str`): what needs the file, for messages.
        as_text (`bool`, *optional*, defaults to `False`): take all cells as text without blanks around them; otherwise
            pandas tells numbers and missing values.

    Returns:
        `pandas.DataFrame`: all columns, their names without blanks around them.

    Raises:
        ValueError: if the file is missing, has no rows, or lacks a column.
    """
    import pandas as pd

    options = {"dtype": str, "keep_default_na": False} if as_text else {}
    try:
        table = pd.read_csv(path, encoding="utf-8-sig", **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{corpus} needs {path}: {error}. Point `data_dir` at the unpacked data set.") from error
    table.columns = [str(column).strip() for column in table.columns]
    _check_table(path, columns, list(table.columns) if len(table) else None)
    return table.apply(lambda column: column.str.strip()) if as_text else table


def _check_table(path: Path, columns: Sequence[str], found: list[str] | None) -> None:
    if found is None:
        raise ValueError(f"{path} needs rows and the columns {', '.join(columns)}; it has no rows.")
    missing = [column for column in columns if column not in found]
    if missing:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(found)}.")


def report_missing(missing: Sequence[str], total: int, what: str, skip_missing: bool, option: str) -> None:
    """Say which files of a corpus are missing: in a warning if they may be skipped, otherwise in an error.

    Args:
        missing (sequence of `str`): their paths; nothing happens if it is empty.
        total (`int`): how many files were looked for.
        what (`str`): where they were listed, for the message.
        skip_missing (`bool`): whether the rest is to be used.
        option (`str`): the option that allows it, for the message.

    Raises:
        ValueError: if files are missing and must not be skipped, or if all are missing.
    """
    if not missing:
        return
    named = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
    message = f"{len(missing)} of {total} {what} are missing or unreadable: {named}."
    if not skip_missing:
        raise ValueError(f"{message} Complete the files, or pass {option}=True to use the others.")
    if len(missing) == total:
        raise ValueError(f"{message} Nothing is left to use.")
    logger.warning("%s They are left out.", message)


def canonical_sex(value: Any) -> str | None:
    """Return `"female"`, `"male"` or `None` for what files write; numbers mean nothing without a code book."""
    word = str(value).strip().lower()
    if word in ("f", "female", "w", "woman"):
        return "female"
    return "male" if word in ("m", "male", "man") else None


def plausible_age(value: Any) -> float | None:
    """Return an age in years as a number, or `None` if it is absent, no number, or outside 0 to 130."""
    try:
        age = float(value)
    except (TypeError, ValueError):
        return None
    return age if math.isfinite(age) and 0 <= age <= 130 else None


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Make sure that an option has one of its values.

    Raises:
        ValueError: naming the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"`{name}` is one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_flags(**flags: Any) -> None:
    """Make sure that options are `True` or `False`: any text would count as `True`.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"`{name}` is True or False; got {value!r}.")


def check_counts(least: int = 0, **counts: Any) -> None:
    """Make sure that options are integers of at least `least`.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise ValueError(f"`{name}` is an integer of at least {least}; got {value!r}.")


def check_paths(**paths: Any) -> None:
    """Make sure that options are paths or `None`: a number would be taken for an open file.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in paths.items():
        if value is not None and not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"`{name}` is the path of a file; got {value!r}.")


def check_number(name: str, value: Any, expected: str, accepts: Callable[[float], bool]) -> None:
    """Make sure that an option is a finite number that fits.

    Args:
        name (`str`): the option.
        value: its value.
        expected (`str`): what the option is, for the message.
        accepts (callable): whether a number is that.

    Raises:
        ValueError: if it is not.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not accepts(value):
        raise ValueError(f"`{name}` is {expected}; got {value!r}.")


def check_texts(name: str, value: Any, example: str) -> list[str]:
    """Return an option that is a list of texts as a list.

    Args:
        name (`str`): the option.
        value: its value; `None` is an empty list.
        example (`str`): what might be in it, for the message.

    Raises:
        ValueError: if it is no list of texts.
    """
    texts = None if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) else list(value)
    if value is not None and (texts is None or not all(isinstance(text, str) for text in texts)):
        raise ValueError(f'`{name}` is a list of names, such as ["{example}"]; got {value!r}.')
    return texts or []
