"""Tables with a report in each row, read as a stream: one bad row costs nothing but itself."""

from __future__ import annotations

import codecs
import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Characters of the longest cell; a report has a few hundred.
_LONGEST_CELL = 2**24

_HEAD_BYTES = 2**16

_DELIMITERS = {".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True)
class ReportRow:
    """A row of a table.

    Args:
        line (`int`): line of the file in which the row ends, counted from 1.
        cells (`dict[str, str]`): by column; empty where the row could not be read.
        report (`str`): the report, without blanks around it.
        error (`str`, *optional*): why there is no report.
    """

    line: int
    cells: dict[str, str]
    report: str
    error: str | None = None


class ReportTable:
    """A CSV or TSV file with a column of reports.

    Args:
        path (`str` or `Path`): the file, with a header. `.tsv` is separated by tabs, anything else by a comma, a
            semicolon or a tab, whichever makes the report's column appear.
        text_column (`str`, *optional*, defaults to `"report"`): name of the column of reports.
        delimiter (`str`, *optional*): the separator, if it is another one.
        encoding (`str`, *optional*, defaults to `"utf-8"`): of the file; a byte order mark is no part of a name.

    Raises:
        ValueError: if there is no such file, it is no text or not in that encoding, no such column, a column twice, or
            an unknown encoding.
    """

    def __init__(
        self,
        path: str | Path,
        text_column: str = "report",
        delimiter: str | None = None,
        encoding: str = "utf-8",
    ):
        self.path = Path(path)
        self.text_column = text_column
        self.encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
        if not self.path.is_file():
            raise ValueError(f"There is no table {path}.")
        self._check_content()
        candidates = delimiter or _DELIMITERS.get(self.path.suffix.lower()) or ",;\t"
        if delimiter is not None and len(delimiter) != 1:
            raise ValueError(f"The delimiter is one character; got {delimiter!r}.")
        headers = {}
        for candidate in candidates:
            with self._open() as file:
                try:
                    headers[candidate] = next(csv.reader(file, delimiter=candidate, strict=True), [])
                except (csv.Error, UnicodeDecodeError) as error:
                    raise ValueError(f"The header of {path} cannot be read: {error}.") from error
        if any(_is_undecoded(name) for header in headers.values() for name in header):
            raise ValueError(
                f"The header of {path} is not written in {encoding}; if the table is not, say its encoding, "
                "for example encoding=latin-1."
            )
        found = [candidate for candidate, header in headers.items() if text_column in header]
        if not found:
            columns = max(headers.values(), key=len)
            raise ValueError(
                f"The table {path} has no column {text_column!r}; its columns are {columns[:12]}. Name the column of "
                "the reports with text_column=."
            )
        self.delimiter = found[0]
        self.columns = headers[self.delimiter]
        repeated = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if repeated:
            raise ValueError(f"The table {path} has columns of the same name: {repeated}; rename them.")

    def _check_content(self) -> None:
        """Refuse what is no text, or text in two bytes per character, which would come out as a row of zero bytes."""
        with open(self.path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        try:
            wide = codecs.lookup(self.encoding).name.startswith(("utf-16", "utf-32"))
        except LookupError:
            # Opening the file tells.
            return
        if wide:
            return
        wrong = f"The table {self.path} is not written in {self.encoding.removesuffix('-sig')}"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{wrong}; try encoding=utf-16.")
        if b"\0" not in head:
            return
        for name, zeros, characters in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
            if zeros.count(0) > 0.9 * len(zeros) and characters.count(0) == 0:
                raise ValueError(f"{wrong}; try encoding={name}.")
        raise ValueError(
            f"{self.path} is no text table: it holds zero bytes and begins with {head[:8]!r}. Give a CSV or TSV file."
        )

    def _open(self):
        try:
            # Bytes that are no text stay apart, so that they spoil their row only.
            return open(self.path, encoding=self.encoding, errors="surrogateescape", newline="")
        except LookupError as error:
            raise ValueError(f"Unknown encoding {self.encoding!r}; examples: utf-8, latin-1, cp1252.") from error

    def __iter__(self) -> Iterator[ReportRow]:
        """Yield the rows in the order of the file. Empty lines are no rows.

        Raises:
            ValueError: if a quotation mark is opened and never closed, which hides all rows behind it.
        """
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        with self._open() as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
            next(reader)
            while True:
                start = reader.line_num + 1
                try:
                    values = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if "unexpected end of data" in str(error):
                        raise ValueError(
                            f"In {self.path} a quotation mark is opened in or behind line {start} and never closed, "
                            "which hides all rows behind it. Close it."
                        ) from error
                    yield ReportRow(reader.line_num, {}, "", f"is no row of a table ({error})")
                    continue
                if values:
                    yield self._row(reader.line_num, values)

    def _row(self, line: int, values: list[str]) -> ReportRow:
        if len(values) != len(self.columns):
            return ReportRow(line, {}, "", f"has {len(values)} fields, the header {len(self.columns)}")
        cells = dict(zip(self.columns, values, strict=True))
        if any(map(_is_undecoded, values)):
            cells = {name: value.encode(errors="replace").decode() for name, value in cells.items()}
            name = self.encoding.removesuffix("-sig")
            return ReportRow(line, cells, "", f"is not written in {name}; if the table is not, say its encoding")
        report = cells[self.text_column].strip()
        return ReportRow(line, cells, report, None if report else "has no report")

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file."""
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
        return digest.hexdigest()


def _is_undecoded(text: str) -> bool:
    """Tell whether a text holds bytes that its encoding does not have, kept as surrogates."""
    return any("\udc80" <= character <= "\udcff" for character in text)
