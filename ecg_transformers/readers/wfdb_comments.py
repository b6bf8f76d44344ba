"""What the comment lines of WFDB headers tell of patient and diagnosis.

The format leaves comments free. These are the spellings of the published corpora: the PhysioNet/CinC Challenges
(`Age`, `Sex`, `Dx`; `Patient ID`, `Chagas label`), the PTB diagnostic database (`Reason for admission`), LUDB and
INCART (`<age>`, `<sex>`, `<diagnoses>`), MIMIC-IV-ECG (`<subject_id>`), and the MIT-BIH databases (`69 M ...`).
"""

from __future__ import annotations

import re
from typing import Any

from .content import parse_age, parse_sex

_KEY_VALUE = re.compile(r"<?([A-Za-z][A-Za-z _-]{0,40}?)>?\s*:\s*(.*)")
_BRACKETED = re.compile(r"<(\w+)>\s*:?\s*([^<]*)")
_MIT_BIH = re.compile(r"(\d{1,3}|-1)\s+([MF])\b")
_NOTHING = {"", "unknown", "nan", "n/a", "none"}


def comment_facts(comments: list[str]) -> dict[str, Any]:
    """Return metadata for `ECGRecord` from the comment lines of a header.

    Args:
        comments (`list[str]`): the lines without `#`.

    Returns:
        `dict`: those of `patient_id`, `age`, `sex`, `labels`, `report` that are told, and `comments`, all lines. Ages
        outside 0 to 120 and values such as `Unknown` are left out; `labels` is an empty list where the file has the
        field, but no entry.
    """
    facts: dict[str, Any] = {}
    statements: list[str] | None = None
    for line in comments:
        if statements is not None and not line.startswith("<"):
            statements.append(line)
            continue
        pairs = _BRACKETED.findall(line) if line.startswith("<") else []
        if not pairs and (match := _KEY_VALUE.fullmatch(line)):
            pairs = [match.groups()]
        for key, value in pairs:
            key, value = key.strip().lower().replace("_", " "), value.strip()
            if key in ("diagnoses", "diagnosis") and line.startswith("<"):
                statements = [value] if value else []
            else:
                _take(facts, key, value)
        if not pairs and (match := _MIT_BIH.match(line)):
            facts.setdefault("age", parse_age(match[1]))
            facts.setdefault("sex", parse_sex(match[2]))
    if statements is not None:
        statements = [statement.strip().rstrip(".").strip() for statement in statements]
        statements = [statement for statement in statements if statement.lower() not in _NOTHING]
        facts["labels"] = [re.sub(r"^Rhythm:\s*", "", statement) for statement in statements]
        facts["report"] = ". ".join(statements) or None
    if comments:
        facts["comments"] = list(comments)
    return {key: value for key, value in facts.items() if value is not None}


def _take(facts: dict[str, Any], key: str, value: str) -> None:
    told = value.lower() not in _NOTHING
    if key == "age":
        facts["age"] = parse_age(value)
    elif key in ("sex", "gender"):
        facts["sex"] = parse_sex(value)
    elif key in ("patient id", "subject id") and told:
        facts["patient_id"] = value
    elif key == "exam id" and told:
        facts["exam_id"] = value
    elif key == "dx":
        codes = [code.strip() for code in value.split(",")]
        facts["labels"] = [code for code in codes if code.lower() not in _NOTHING]
    elif key == "reason for admission":
        facts["labels"] = [value] if told else []
    elif key == "chagas label" and value.lower() in ("true", "false"):
        facts["labels"] = [f"chagas={value.lower()}"]
