"""XML without its dangers: the root element of a file's first bytes, and a bounded, entity-free parse."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder

from .errors import ECGReadError

# Full disclosure of 20 minutes in text is about 60 MiB; resting ECGs are below 2 MiB.
MAX_XML_BYTES = 256 * 2**20

# An element of four bytes takes some hundred in memory. The exports seen have up to 3000 elements, nested 20 deep.
MAX_ELEMENTS, MAX_DEPTH = 500_000, 200

_PROLOGUE = re.compile(
    r"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL
)  # in this order: blanks, declarations, comments, document type
_ROOT = re.compile(r"<(?:[\w.-]+:)?([\w.-]+)")


@lru_cache(maxsize=4)
def root_name(head: bytes) -> str | None:
    """Return the local name of the root element, or `None` if the bytes are no beginning of an XML document."""
    text = _decode(head).lstrip("\ufeff")
    position = 0
    while match := _PROLOGUE.match(text, position):
        position = match.end()
    root = _ROOT.match(text, position)
    return root[1] if root else None


def _encoding(data: bytes) -> str | None:
    """Tell UTF-16 by its byte order mark or by the zero in its first `<`."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(data[:2])


def _decode(head: bytes) -> str:
    return head.decode(_encoding(head) or "utf-8", "replace")


class _BoundedBuilder(TreeBuilder):
    """Builds a tree of local names (namespaces dropped) and counts what it builds."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.elements, self.depth = path, 0, 0

    def start(self, tag: str, attributes: dict[str, str]) -> Element:
        self.elements, self.depth = self.elements + 1, self.depth + 1
        if self.elements > MAX_ELEMENTS or self.depth > MAX_DEPTH or len(attributes) > 1000:
            raise ECGReadError(
                self.path,
                f"its XML has more than {MAX_ELEMENTS} elements, or {MAX_DEPTH} within each other.",
                "This is no export of an ECG.",
            )
        return super().start(_local(tag), {_local(key): value for key, value in attributes.items()})

    def end(self, tag: str) -> Element:
        self.depth -= 1
        return super().end(_local(tag))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def parse_xml(path: Path) -> Element:
    """Parse a file whose elements and attributes are then found by local name, without namespaces.

    Entities, external references and other means to make a small document large are refused. A file that declares
    UTF-16 and is not (saved anew by some program) is read as UTF-8.

    Args:
        path (`Path`): the file.

    Returns:
        `Element`: the root.

    Raises:
        ECGReadError: if the file is too large, no XML, truncated, or uses entities.
        ImportError: if `defusedxml` is missing.
    """
    try:
        from defusedxml import DefusedXmlException
        from defusedxml.ElementTree import DefusedXMLParser, ParseError
    except ImportError as error:
        raise ImportError("Reading XML ECGs needs defusedxml: pip install 'ecg-transformers[formats]'") from error

    size = path.stat().st_size
    if size > MAX_XML_BYTES:
        raise ECGReadError(path, f"an XML file of {size} bytes (at most {MAX_XML_BYTES} are read).", "Split it.")
    data = path.read_bytes()
    encoding = _encoding(data)
    declared = re.match(rb"(?:\xef\xbb\xbf)?\s*<\?xml[^>]*encoding=[\"']([\w.-]+)", data)
    if encoding is None and declared and declared[1].lower().startswith((b"utf-16", b"utf16")):
        encoding = "utf-8"
    parser = DefusedXMLParser(target=_BoundedBuilder(path), encoding=encoding)
    try:
        parser.feed(data)
        return parser.close()
    except DefusedXmlException as error:
        raise ECGReadError(
            path, f"its XML uses entities or external references ({error}).", "Save it without a document type."
        ) from error
    except ParseError as error:
        raise ECGReadError(
            path, f"its XML is damaged or truncated ({error}).", "Fetch or export the file again."
        ) from error


def text_of(element: Element | None, path: str | None = None) -> str | None:
    """Return the text of an element, or of its descendant at a path, without blanks around it; `None` if empty."""
    if element is not None and path is not None:
        element = element.find(path)
    text = None if element is None else (element.text or "").strip()
    return text or None


def number_of(text: Any, what: str, path: Path) -> float:
    """Return a number that the file states.

    Raises:
        ECGReadError: if it is missing or no number; it names `what`.
    """
    try:
        return float(text)
    except (TypeError, ValueError):
        raise ECGReadError(
            path,
            f"its {what} is {'missing' if text is None else repr(str(text)[:40])}.",
            "Fetch or export the file again.",
        ) from None


def decode_base64(text: str | None, what: str, path: Path) -> bytes:
    """Return the bytes of base64 text that may be broken into lines.

    Raises:
        ECGReadError: if it is no base64; it names `what`.
    """
    import base64
    import binascii

    try:
        return base64.b64decode("".join((text or "").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ECGReadError(path, f"{what} is no base64 ({error}).", "Fetch or export the file again.") from None
