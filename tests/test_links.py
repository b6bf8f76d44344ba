"""Links in the README, the documents and the cards lead somewhere. No network: those to the web are looked at only."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("**/*.md")),
    *sorted((ROOT / "model_cards").glob("*.md")),
]


def prose(text: str) -> str:
    """Return a document without its code, where brackets mean other things."""
    text = re.sub(r"^(```+)[^\n]*\n.*?^\1\s*$", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)[^`]*\1", "code", text)


def links(text: str) -> list[str]:
    """Return the targets of links and pictures."""
    return re.findall(r"\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)", prose(text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of headings: lower case, without punctuation, blanks as hyphens."""
    found: dict[str, int] = {}
    names = set()
    headings = re.findall(r"^#{1,6}\s+(.*?)\s*#*$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    for heading in headings:
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def broken_links(path: Path) -> list[str]:
    """Return the links of a document that lead nowhere."""
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in links(text):
        parts = urlsplit(target)
        if parts.scheme:
            well_formed = parts.scheme in ("https", "http") and re.fullmatch(r"(?:[\w-]+\.)+[a-z]{2,}", parts.netloc)
            if not well_formed:
                broken.append(target)
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (ROOT not in place.parents and place != ROOT):
            broken.append(target)
        elif anchor and place.suffix == ".md" and anchor not in anchors(place.read_text(encoding="utf-8")):
            broken.append(target)
    return broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    assert broken_links(path) == []


def test_urls_in_the_text_are_well_formed():
    for path in DOCUMENTS:
        for url in re.findall(r"https?://[^\s)>\]`\"]+", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"(?:[\w-]+\.)+[a-z]{2,}(?::\d+)?|localhost(?::\d+)?", urlsplit(url).netloc), (
                path,
                url,
            )


def test_every_document_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        for target in links(path.read_text(encoding="utf-8")):
            place = (path.parent / target.partition("#")[0]).resolve()
            if place.suffix == ".md" and place.exists():
                waiting.append(place)
    assert sorted(path.name for path in set(DOCUMENTS) - reached) == []


def test_broken_links_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `code` heading, twice\n\n## Part 2\n\n## Part 2\n")
    right = ["other.md", "other.md#a-code-heading-twice", "other.md#part-2-1", "#here", "https://arxiv.org/abs/1", "."]
    wrong = ["none.md", "other.md#part-2-2", "#there", "https://", "ftp://a.org/x", "https://a b", "../outside.md"]
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n```\n[code](none.md)\n```\n" + "\n".join(f"[x]({target})" for target in [*right, *wrong])
    )
    assert broken_links(page) == [target for target in wrong if " " not in target]
