"""Whether a model card is complete: its metadata, its sections, its code, and the sources of its figures."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

# https://huggingface.co/docs/hub/repositories-licenses
LICENCES = frozenset(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc intel-research lppl-1.3c ms-pl mpl-2.0 odc-by odbl ofl-1.1 osl-3.0
    postgresql ncsa unlicense zlib pddl unknown other""".split()
)
# Of the Hub's tasks those that a model of ECGs can have (huggingface.js, `packages/tasks/src/pipelines.ts`); ours are
# those of `ecg_transformers.pipelines`
PIPELINE_TAGS = frozenset(
    """feature-extraction zero-shot-classification tabular-classification tabular-regression time-series-forecasting
    other""".split()
)
# What a card tells, by the beginnings of second-level headings
SECTIONS = (("Use",), ("Input",), ("Training",), ("Results", "Evaluation"), ("Limits",), ("Licence", "License"))
_SCORED = ("Results", "Evaluation", "Training", "Limits")
# In a checkout, beside the package
_REPOSITORY = Path(__file__).resolve().parents[2]

_HEADING = re.compile(r"(#{1,6})\s+(.*)")
_FENCE = re.compile(r"\s*(```+|~~~+)\s*([\w+-]*)")
_SOURCE = re.compile(
    r"""arXiv[:\s]*\d{4}\.\d{4,5}            # a preprint
    | \b10\.\d{4,9}/[^\s)\]|]+              # a DOI
    | https?://[\w-]+(?:\.[\w-]+)+/[^\s)\]|]+
    | `(?:[\w.-]+/)*(?:run|metrics)\.json`  # what a run records
    | `ecg-transformers\s[^`]+`             # a command that prints the figures
    | (?:\]\(|`(?:python\s+)?)(?:\.\./)*(?P<file>(?:tests|docs|benchmarks|training_scripts)/[\w/.-]+)(?=[\s`)\#])
    | \]\((?P<card>\w+\.md)[)\#]           # another card
    """,
    re.X,
)
# What has digits and is no figure: code, targets of links, identifiers of papers, and versions
_NO_FIGURE = re.compile(
    r"`(?![\s\d.,%]+`)[^`]*`|\]\([^)]*\)|https?://\S+|arXiv[:\s]*\d{4}\.\d{4,5}|\b10\.\d{4,9}/\S+|\d+\.\d+\.\d+"
)
_FIGURE = re.compile(
    r"(?<![\w.])(?:\d*\.\d+|\d{1,3}(?:,\d{3})+|\d+(?=\s?%))"
    r"|(?:(?<=AUROC )|(?<=AUROC of )|(?<=ccuracy )|(?<=ccuracy of ))\d+"
)
_SCORE = re.compile(r"\b(?:AUROC|AUC|accuracy|F1|sensitivity|specificity)\b", re.I)
_ALL_FROM = re.compile(r"\b[Ee]very figure\b[^.]*\bis from\b[^\n]*")
_UNFINISHED = re.compile(r"\{\{\s*[a-z_.]+[^{}]*\}\}|\{%|\bTODO\b|\bTBD\b|\bFIXME\b|More Information Needed")


@dataclass(frozen=True)
class CardFinding:
    """Something that a card lacks or gets wrong.

    Args:
        line (`int`): of the card, from 1.
        message (`str`): what is wrong, and what is expected.
    """

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class _Block:
    """A heading, a fenced block (`kind` `"code"`), a table or anything else (`"text"`) between blank lines."""

    kind: str
    line: int
    text: str
    language: str = ""
    level: int = 0


def lint_card(text: str) -> list[CardFinding]:
    """Check a model card, one of `model_cards/` or one rendered from a run.

    - The metadata are read by `huggingface_hub`; `license` is an identifier of the Hub (`other` has `license_name` and
      `license_link`), `pipeline_tag` one of the Hub's or of this package, `library_name` ours, and there are `tags`.
    - There is one title, every section of `SECTIONS`, and the words "not for diagnosis".
    - *Use* has a block of Python. Blocks of Python compile, those of shell can be split into words. Whether they run
      is for the tests that run them.
    - In *Results* or *Evaluation*, *Training* and *Limits* each paragraph, list or table with figures names its
      source: an arXiv id, a DOI, a URL, `run.json` or `metrics.json`, a file under tests, docs or benchmarks, or a
      command of ours. In other sections those that speak of scores do. That the source says so is not checked. A
      table or list may have it in the paragraph before, or after it in one that begins with "Source". A card of which
      every figure comes from one place says so before its first section:
      "Every figure … is from …", with the source. Figures are decimal numbers, percentages, numbers with thousands
      separators, and all numbers of a table but those in its first row and column.
      After the words AUROC and accuracy, any number is one. A section of *Training* may name the sources of all its
      paragraphs in a sentence "Source: …".
    - Nothing is left to be filled in.

    Args:
        text (`str`): the card, metadata included.

    Returns:
        `list[CardFinding]`: in the order of the lines; empty if nothing is wrong.

    Example:
        ```python
        for finding in lint_card(Path("model_cards/hubert_ecg.md").read_text(encoding="utf-8")):
            print(finding)
        ```
    """
    blocks = _blocks(text)
    findings = [*_check_metadata(text), *_check_sections(blocks), *_check_code(blocks), *_check_sources(blocks)]
    for number, line in enumerate(text.splitlines(), 1):
        left = _UNFINISHED.search(line)
        if left:
            findings.append(CardFinding(number, f"{left[0]!r} is left to be filled in."))
    return sorted(findings, key=lambda finding: finding.line)


def _check_metadata(text: str) -> list[CardFinding]:
    import yaml
    from huggingface_hub import ModelCard

    from ..pipelines import list_tasks

    if not re.match(r"---\s*\n", text):
        return [CardFinding(1, "the card does not begin with its metadata, YAML between two lines of ---.")]
    try:
        data = ModelCard(text).data
    except (ValueError, yaml.YAMLError) as error:
        return [CardFinding(1, f"the metadata cannot be read: {' '.join(str(error).split())}")]
    wrong = []
    licence = data.get("license")
    if licence not in LICENCES:
        wrong.append(
            f"`license` is {licence!r}, no identifier of the Hub (https://huggingface.co/docs/hub/"
            "repositories-licenses); 'other' takes any licence, with license_name and license_link."
        )
    if licence == "other" and not (data.get("license_name") and data.get("license_link")):
        wrong.append("`license: other` wants `license_name` and `license_link`.")
    if data.get("library_name") != "ecg_transformers":
        wrong.append(f"`library_name` is {data.get('library_name')!r}; expected 'ecg_transformers'.")
    known = PIPELINE_TAGS | set(list_tasks())
    if data.get("pipeline_tag") not in known:
        wrong.append(f"`pipeline_tag` is {data.get('pipeline_tag')!r}; expected one of {', '.join(sorted(known))}.")
    if not data.get("tags"):
        wrong.append("`tags` are missing.")
    return [CardFinding(1, message) for message in wrong]


def _check_sections(blocks: list[_Block]) -> list[CardFinding]:
    last = blocks[-1].line if blocks else 1
    titles = [block for block in blocks if block.level == 1]
    findings = []
    if len(titles) != 1:
        findings.append(CardFinding(titles[1].line if titles else 1, f"one title (#) is expected, not {len(titles)}."))
    headings = [block.text for block in blocks if block.level == 2]
    for names in SECTIONS:
        if not any(heading.startswith(names) for heading in headings):
            findings.append(CardFinding(last, f"there is no section ## {' or ## '.join(names)}."))
    words = " ".join(" ".join(block.text for block in blocks if block.kind == "text").split())
    if "not for diagnosis" not in words.lower():
        findings.append(CardFinding(last, 'the intended use is missing: "For research, not for diagnosis."'))
    return findings


def _check_code(blocks: list[_Block]) -> list[CardFinding]:
    findings, section, has_use = [], "", False
    for block in blocks:
        if block.level in (1, 2):
            section = block.text
        if block.kind != "code":
            continue
        try:
            if block.language in ("python", "py"):
                has_use |= section.startswith("Use")
                compile(block.text, "card", "exec")
            elif block.language in ("bash", "sh", "shell"):
                shlex.split(block.text, comments=True)
        except (SyntaxError, ValueError) as error:
            findings.append(CardFinding(block.line, f"this {block.language} is no {block.language}: {error}."))
    if not has_use and any(block.level == 2 and block.text.startswith("Use") for block in blocks):
        line = next(block.line for block in blocks if block.level == 2 and block.text.startswith("Use"))
        findings.append(CardFinding(line, "the section on use has no block of Python."))
    return findings


def _check_sources(blocks: list[_Block]) -> list[CardFinding]:
    first = next((number for number, block in enumerate(blocks) if block.level == 2), len(blocks))
    for block in blocks[:first]:
        told = _ALL_FROM.search(" ".join(block.text.split()))
        if told and _has_source(told[0]):
            return []
    findings, section = [], ""
    for number, block in enumerate(blocks):
        if block.level in (1, 2):
            section = block.text if block.level == 2 else ""
            sourced = section.startswith("Training") and _names_sources(blocks[number + 1 :])
        checked = _SCORE.search(block.text) or (section.startswith(_SCORED) and not sourced)
        if not checked or block.level or block.kind == "code" or _has_source(block.text):
            continue
        figures = _figures(block)
        shares = block.kind == "table" or block.text.lstrip().startswith(("- ", "* ", "1. "))
        if figures and not (shares and _has_source_beside(blocks, number)):
            shown = ", ".join(figures[:3]) + (", …" if len(figures) > 3 else "")
            kind = "table" if block.kind == "table" else "paragraph"
            message = (
                f"the figures of this {kind} ({shown}) have no source: name an arXiv id, a DOI, a URL, a file of the "
                "repository or the run, or the command that prints them."
            )
            findings.append(CardFinding(block.line, message))
    return findings


def _has_source_beside(blocks: list[_Block], number: int) -> bool:
    """Whether the paragraph before names a source, or one after that begins with "Source"."""
    before = blocks[number - 1]
    after = blocks[number + 1] if number + 1 < len(blocks) else before
    near = [before, *([after] if after.text.startswith("Source") else [])]
    return any(block.kind == "text" and not block.level and _has_source(block.text) for block in near)


def _names_sources(blocks: list[_Block]) -> bool:
    """Whether the section that these blocks begin with has a sentence "Source(s): …"."""
    end = next((number for number, block in enumerate(blocks) if block.level in (1, 2)), len(blocks))
    told = (re.search(r"\bSources?: .*", block.text, flags=re.S) for block in blocks[:end] if block.kind == "text")
    return any(found and _has_source(found[0]) for found in told)


def _has_source(text: str) -> bool:
    return any(_is_there(found) for found in _SOURCE.finditer(text))


def _is_there(source: re.Match) -> bool:
    """Whether a file that is named is in the repository, where this is the repository."""
    if not (_REPOSITORY / "model_cards").is_dir():
        return True
    if source["card"]:
        return (_REPOSITORY / "model_cards" / source["card"]).is_file()
    return source["file"] is None or (_REPOSITORY / source["file"]).is_file()


def _figures(block: _Block) -> list[str]:
    """Return the figures of a block, as written."""
    if block.kind != "table":
        return _FIGURE.findall(_NO_FIGURE.sub(" ", block.text))
    rows = [line.strip().strip("|").split("|") for line in block.text.splitlines()[1:]]
    cells = [_NO_FIGURE.sub(" ", cell) for row in rows for cell in row[1:]]
    return [found for cell in cells for found in re.findall(r"\d[\d.,]*|\.\d+", cell)]


def _blocks(text: str) -> list[_Block]:
    """Cut a card into blocks, its metadata left out."""
    lines = text.splitlines()
    start = 0
    if lines and lines[0].strip() == "---":
        start = next((number + 1 for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), len(lines))
    blocks: list[_Block] = []
    number = start
    while number < len(lines):
        line = lines[number]
        fence, heading = _FENCE.match(line), _HEADING.match(line)
        end = number + 1
        if fence:
            while end < len(lines) and lines[end].strip() != fence[1]:
                end += 1
            code = "\n".join(lines[number + 1 : end]) + "\n"
            blocks.append(_Block("code", number + 1, code, language=fence[2].lower()))
            end += 1
        elif heading:
            blocks.append(_Block("text", number + 1, heading[2].strip(), level=len(heading[1])))
        elif line.strip():
            is_table = line.lstrip().startswith("|")
            while (
                end < len(lines)
                and lines[end].strip()
                and not _FENCE.match(lines[end])
                and not _HEADING.match(lines[end])
                and lines[end].lstrip().startswith("|") == is_table
            ):
                end += 1
            blocks.append(_Block("table" if is_table else "text", number + 1, "\n".join(lines[number:end])))
        number = end
    return blocks
