"""Descriptions of labels in words: what a model with a text encoder compares recordings with."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("label_descriptions")


def list_label_descriptions() -> list[str]:
    """Return the names of the descriptions that the package brings, such as `"ptbxl"`."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def label_descriptions(
    source: str | os.PathLike | Mapping[str, Any],
    label_names: Sequence[str] | None = None,
    partial: bool = False,
) -> dict[str, list[str]]:
    """Return how labels show on an ECG, in one or two sentences each.

    Args:
        source (`str`, path or mapping): `"ptbxl"` (statements, superclasses and subclasses), `"code"`, `"challenge"`
            (the scored diagnoses) or `"synthetic"`; or the path of a JSON file of one's own: an object from label to
            text, or to a list of texts, alone or under the key `descriptions`; or such a mapping itself.
        label_names (sequence of `str`, *optional*): the labels wanted, in the order wanted. All by default.
        partial (`bool`, *optional*, defaults to `False`): a file or mapping of one's own may leave labels out, if it
            does not describe others instead. Descriptions of the package always describe all labels wanted.

    Returns:
        `dict[str, list[str]]`: the descriptions of each label, at least one.

    Raises:
        ValueError: if there are no such descriptions, the file does not hold any, labels have none, or with `partial`
            others are described instead; the message names some of them.

    Example:
        >>> label_descriptions("ptbxl", ["AFIB"])
        {'AFIB': ['Atrial fibrillation: irregularly irregular QRS complexes without P waves, ...']}
    """
    if isinstance(source, Mapping):
        found, origin, own = source, "The mapping of descriptions", True
    else:
        path = _path_of(source)
        found, origin, own = _read(path), str(source), path.parent != FOLDER
    texts = {str(label): _texts(label, value, origin) for label, value in found.items()}
    if not texts:
        raise ValueError(f"{origin} describes no label; expected an object from label to text.")
    if label_names is None:
        return texts
    missing = [name for name in label_names if name not in texts]
    if missing and partial and own:
        # One that is no label may be one of the missing, mistyped
        unknown = [name for name in texts if name not in label_names]
        if unknown:
            raise ValueError(
                f"{origin} describes {_some([_with_suggestion(name, label_names) for name in unknown])}, but the "
                f"labels are {_some(label_names)}. Correct or remove what is no label."
            )
    elif missing:
        raise ValueError(
            f"{origin} describes {len(texts)} labels, but not {_some(missing)}. Write a JSON file that maps each "
            "label to its description and pass its path."
        )
    return {name: texts[name] for name in label_names if name in texts}


def _some(names: Sequence[str], count: int = 5) -> str:
    """List a few names and tell how many more there are."""
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _with_suggestion(name: str, label_names: Sequence[str]) -> str:
    by_key = {label.casefold(): label for label in label_names}
    meant = difflib.get_close_matches(name.casefold(), by_key, n=1)
    return f"{name} (did you mean {by_key[meant[0]]}?)" if meant else name


def _path_of(source: str | os.PathLike) -> Path:
    if str(source) in list_label_descriptions():
        return FOLDER / f"{source}.json"
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"There are no label descriptions {str(source)!r}: no file of that name, and the package has "
            f"{', '.join(list_label_descriptions())}."
        )
    return path


def _read(path: Path) -> Mapping[str, Any]:
    def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = sorted({key for key, _ in pairs if [name for name, _ in pairs].count(key) > 1})
        if repeated:
            raise ValueError(f"{path} describes {', '.join(repeated)} more than once; give a list of texts instead.")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repetition)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}.") from error
    if isinstance(content, dict) and isinstance(content.get("descriptions"), dict):
        content = content["descriptions"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object from label to text; it holds a {type(content).__name__}.")
    return content


def _texts(label: Any, value: Any, origin: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, (list, tuple))
        or not texts
        or not all(isinstance(text, str) and text.strip() for text in texts)
    ):
        raise ValueError(f"{origin} must describe {label!r} by a text or a list of texts; got {value!r}.")
    return [text.strip() for text in texts]
