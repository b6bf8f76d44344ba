"""What must not be published along with a record of a run: where files lie on somebody's disk, and secrets."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from typing import Any

_SECRET = re.compile(r"\w*(?:token|password|secret|api_key)", re.I)
# `token=…` in an option, `"token": "…"` in one that is JSON, and what the Hub's tokens look like
_SECRET_IN_TEXT = re.compile(
    r"""["']?\b\w*(?:token|password|secret|api_key)["']?\s*[=:]\s*(?:"[^"]*"|'[^']*'|[^\s,;}]+)|\bhf_[A-Za-z0-9]{8,}""",
    re.I,
)
_PART = r"""[^\s/\\'",;:)\]}|<>`]+"""
_PATH = re.compile(
    rf"""(?:^|(?<=[\s='"\[({{,:;|`]))            # not in a URL, a fraction or a relative path
    (?:file://)?(?:(?:~[\w.-]*)?(?:/{_PART})+/?|(?:[A-Za-z]:[\\/]|\\\\)(?:{_PART}[\\/]+)*{_PART}[\\/]?)(?<!\.)""",
    re.X,
)
# A whole value that is a path may hold spaces and commas
_WHOLE_PATH = re.compile(r"(?P<key>[\w.-]+=)?(?P<path>(?:file://)?(?:(?:~[\w.-]*)?/|[A-Za-z]:[\\/]|\\\\)[^\n\"'={}]*)")


def without_private_values(value: Any) -> Any:
    r"""Return values of JSON with the last part only of every absolute path, and without secrets.

    Paths are found in any string, also as `key=/a/b` and inside JSON; `~/a` and `C:\a` count, URLs and relative
    paths do not. Text of which the name ends in token, password, secret or api_key is left out of dictionaries and,
    as `token=…`, of lists; in other text it becomes `<secret>`.
    """
    if isinstance(value, dict):
        kept = {key: entry for key, entry in value.items() if not (isinstance(entry, str) and _SECRET.fullmatch(key))}
        return {key: without_private_values(entry) for key, entry in kept.items()}
    if isinstance(value, (list, tuple)):
        kept = [entry for entry in value if not _is_secret(entry)]
        return [without_private_values(entry) for entry in kept]
    return _shorten(value) if isinstance(value, str) else value


def absolute_paths(text: str) -> list[str]:
    """Return the absolute paths in a text, as `without_private_values` finds them."""
    return [found[0] for found in _PATH.finditer(text)]


def _is_secret(value: Any) -> bool:
    return isinstance(value, str) and bool(_SECRET.fullmatch(value.partition("=")[0].strip())) and "=" in value


def _shorten(text: str) -> str:
    whole = _WHOLE_PATH.fullmatch(text)
    if whole and len(_PATH.findall(text)) <= 1:
        return (whole["key"] or "") + _last_part(whole["path"])
    text = _SECRET_IN_TEXT.sub("<secret>", text)
    return _PATH.sub(lambda found: _last_part(found[0]), text)


def _last_part(path: str) -> str:
    path = path.removeprefix("file://")
    kind = PureWindowsPath if re.match(r"[A-Za-z]:|\\\\", path) else Path
    return kind(path).name or path
