"""The cards of `model_cards/` are complete, and what checks them finds what is missing."""

import re
from pathlib import Path

import pytest

from ecg_transformers.publishing.card_lint import LICENCES, PIPELINE_TAGS, SECTIONS, lint_card
from ecg_transformers.registration import MODELS

ROOT = Path(__file__).resolve().parent.parent
CARDS = {path.stem: path for path in sorted((ROOT / "model_cards").glob("*.md"))}

every_card = pytest.mark.parametrize("path", CARDS.values(), ids=CARDS)


def messages(text: str) -> list[str]:
    return [finding.message for finding in lint_card(text)]


@pytest.fixture(scope="module")
def card() -> str:
    text = CARDS["hubert_ecg"].read_text(encoding="utf-8")
    assert lint_card(text) == []
    return text


def test_every_model_has_a_card():
    assert set(CARDS) == {entry.model_type for entry in MODELS}


@every_card
def test_cards_are_complete(path):
    assert [str(finding) for finding in lint_card(path.read_text(encoding="utf-8"))] == []


@every_card
def test_cards_tell_how_to_cite(path):
    text = path.read_text(encoding="utf-8")
    _, _, citation = text.partition("## Licence and citation")
    (entries,) = re.findall(r"^```bibtex\n(.*?)^```", citation, flags=re.M | re.S)
    assert entries.count("{") == entries.count("}")
    for entry in re.split(r"\n\n", entries.strip()):
        assert re.match(r"@\w+\{[\w]+,\n", entry)
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) +=", entry, flags=re.M))
    # What is cited is what the card names as its source
    identifiers = re.findall(r"(?:doi +=|eprint +=|arXiv:) *\{?([\d./]+)", entries)
    assert identifiers and all(text.count(identifier) >= 2 for identifier in identifiers[:1])


@every_card
def test_files_that_cards_name_as_sources_are_there(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|training_scripts|benchmarks|ecg_transformers)/[\w./]+\.\w+)", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("---\nlicense", "license", "does not begin with its metadata"),
        ("license: cc-by-nc-4.0", "license: cc-by-nc-9.0", "'cc-by-nc-9.0', no identifier of the Hub"),
        ("license: cc-by-nc-4.0\n", "", "`license` is None"),
        ("license: cc-by-nc-4.0", "license: other", "license_name"),
        ("license: cc-by-nc-4.0", "license: [cc", "metadata cannot be read"),
        ("license:", "model-index: 3\nlicense:", "metadata cannot be read: Invalid `model_index`"),
        (
            "library_name: ecg_transformers",
            "library_name: transformers",
            "'transformers'; expected 'ecg_transformers'",
        ),
        ("feature-extraction\n", "feature-distraction\n", "'feature-distraction'; expected one of"),
        ("tags:\n- ecg\n- electrocardiogram\n- hubert-ecg\n", "", "`tags` are missing"),
        ("# HuBERT-ECG", "HuBERT-ECG", "one title (#) is expected, not 0"),
        ("## Input", "# Input", "one title (#) is expected, not 2"),
        ("```python\nimport", "```text\nimport", "no block of Python"),
        ("AutoModel.from_pretrained(folder)", "AutoModel.from_pretrained(folder", "this python is no python"),
        ("not for diagnosis", "not for toys", "intended use"),
        ("medRxiv 10.1101/2024.11.14.24317328, figure 2a", "figure 2a", "(90.16, 90.26, 89.58, …) have no source"),
        (
            "(arXiv 2509.25095; tables in AI4HealthUOL/ecg-fm-benchmarking, `Confidence_Interval.xlsx`)",
            "",
            "(.915, .908",
        ),
        ("## What differs", "On our records 0.93.\n\n## What differs", "paragraph (0.93) have no source"),
        (
            "## What differs",
            "So:\n\n- 88 % of 1,200\n- none\n\n## What differs",
            "paragraph (88, 1,200) have no source",
        ),
        (
            "## Limits",
            "## Limits\n\nOur AUROC is 0.999 on 5,000 records.\n\n",
            "paragraph (0.999, 5,000) have no source",
        ),
        ("## Input", "AUROC 0.999 on 5,000 records.\n\n## Input", "paragraph (0.999, 5,000) have no source"),
        ("## What differs", "AUROC 99.\n\n## What differs", "paragraph (99) have no source"),
        ("## What differs", "It has `0.99`.\n\n## What differs", "paragraph (0.99) have no source"),
        ("## What differs", "0.99 (in `config.json`).\n\n## What differs", "paragraph (0.99) have no source"),
        ("## What differs", "0.99 ([here](x)).\n\n## What differs", "paragraph (0.99) have no source"),
        ("## What differs", "0.99 (https://x).\n\n## What differs", "paragraph (0.99) have no source"),
        ("## What differs", "0.99 ([t](../docs/none.md)).\n\n## What differs", "paragraph (0.99) have no source"),
        ("# HuBERT-ECG", "# {{ name }}", "'{{ name }}' is left"),
        ("For research", "TODO For research", "'TODO' is left"),
    ],
)
def test_a_broken_card_is_found_out(card, old, new, message):
    assert old in card
    broken = card.replace(old, new, 1)
    found = messages(broken)
    assert any(message in one for one in found), found
    assert len(found) <= 2


@pytest.mark.parametrize("names", SECTIONS, ids=lambda names: names[0])
def test_a_missing_section_is_found_out(card, names):
    heading = next(re.search(rf"^## {name}", card, flags=re.M) for name in names if f"\n## {name}" in card)
    broken = card[: heading.start()] + "## Other" + card[heading.end() :]
    assert any(f"no section ## {names[0]}" in message for message in messages(broken))


def test_a_finding_tells_its_line(card):
    broken = card.replace("On the", "on the").replace("## What differs", "It scores 0.93.\n\n## What differs", 1)
    (finding,) = lint_card(broken)
    assert broken.splitlines()[finding.line - 1] == "It scores 0.93."
    assert str(finding).startswith(f"line {finding.line}: ")


@pytest.mark.parametrize(
    "paragraph",
    [
        "Measured with transformers 5.23.0 on CPSC2018, as arXiv says.",
        "0.93, by `python training_scripts/linear_probe.py --model runs/hybrid`.",
        "0.93, by `ecg-transformers predict records/ --model folder`.",
        "0.93 ([pretraining](../docs/pretraining.md)).",
        "0.93 (`metrics.json`).",
        "0.93 (https://example.org/table).",
        "0.93 (10.1000/xyz-1).",
        "Scores of arXiv 2410.02131:\n\n| data | AUROC |\n| --- | --- |\n| PTB-XL | 93 |",
        "So:\n\n| data | AUROC |\n| --- | --- |\n| PTB-XL | 93 |\n\nSource: arXiv 2410.02131.",
        "Scores of arXiv 2410.02131:\n\n- 0.93\n- 0.94",
    ],
)
def test_figures_with_a_source_pass(card, paragraph):
    assert messages(card.replace("## What differs", f"{paragraph}\n\n## What differs", 1)) == []


def test_a_card_may_name_one_source_for_all(card):
    without = card.replace("## What differs", "It scores 0.93.\n\n## What differs", 1)
    assert len(messages(without)) == 1
    one_source = "Every figure below is from the run that made it (`run.json`).\n\n## Input"
    assert messages(without.replace("## Input", one_source, 1)) == []
    for words in ("Every figure below is ours.", "Every figure is ours, see https://example.org/x."):
        assert len(messages(without.replace("## Input", f"{words}\n\n## Input", 1))) == 1


def test_code_is_no_prose(card):
    """What stands in a block of code is neither a heading nor a figure."""
    block = "```text\n# a comment\n## Limits\n| 0.93 |\n\n0.94\n```\n\n## What differs"
    assert messages(card.replace("## What differs", block, 1)) == []


def test_known_values():
    assert {"apache-2.0", "cc-by-nc-4.0", "unknown", "other"} <= LICENCES
    assert "feature-extraction" in PIPELINE_TAGS
