"""Cards of converted checkpoints: the short one that the converter writes, and the family's for publishing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .card_parts import LIBRARY, PIPELINE_TAG, python_literal, tags_of, use_without_package

# On the card of weights that others trained: the family's card speaks of them
CONVERTED_TAG = "converted-original"

# In a checkout, beside the package
FAMILY_CARDS = Path(__file__).resolve().parents[2] / "model_cards"


def write_card_of_converted(
    folder: Path, name: str, source: Path, model_type: str, licence: str | None, original: bool
) -> None:
    """Write the short card of a converted checkpoint, so that what is trained from it knows its licence.

    Args:
        folder (`Path`): where to write `README.md`.
        name (`str`): of the model.
        source (`Path`): what was converted.
        model_type (`str`): such as `"hubert_ecg"`.
        licence (`str`, *optional*): Hub identifier of that of the source, where it is known.
        original (`bool`): weights of other code, not of this package.
    """
    from huggingface_hub import ModelCardData

    tags = tags_of(model_type) + [CONVERTED_TAG] * original
    metadata = ModelCardData(
        license=licence or "unknown", library_name=LIBRARY, pipeline_tag=PIPELINE_TAG, tags=tags
    ).to_yaml()
    about = (
        f"Weights: {licence}, that of their source." if licence else "Not known: ask those who trained the weights."
    )
    text = (
        f"---\n{metadata.strip()}\n---\n\n# {name}\n\nWeights of a {model_type} model, converted from "
        f"`{source.name}` by `ecg-transformers convert`.\n\n## Licence\n\n{about}\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def is_converted_original(folder: Path) -> bool:
    """Whether the card of a folder is the short one of a converted original."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        tags = (metadata_load(folder / "README.md") or {}).get("tags")
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(tags, list) and CONVERTED_TAG in tags


def render_family_card(
    folder: Path,
    model_type: str,
    licence: str,
    *,
    location: str,
    auto_class: str,
    preprocessor: dict[str, Any],
    with_code: bool,
    with_text: bool = False,
) -> str:
    """Return the card of a converted original: that of its family, with what is known of these files in front.

    Args:
        folder (`Path`): the converted folder, with its short card.
        model_type (`str`): such as `"hubert_ecg"`.
        licence (`str`): Hub identifier.
        location (`str`): Hub id, or name of the folder.
        auto_class (`str`): of transformers, that opens the weights.
        preprocessor (`dict`): `preprocessor_config.json`.
        with_code (`bool`): the folder brings its code; tell how to use it.
        with_text (`bool`, *optional*, defaults to `False`): it brings a tokenizer, and compares recordings with texts.

    Raises:
        FileNotFoundError: if the cards of the families are not there: they are in the repository, not in the wheel.
    """
    from huggingface_hub import metadata_load

    path = FAMILY_CARDS / f"{model_type}.md"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: the cards of converted originals are made from those in the repository of "
            "ecg_transformers. Run hub_upload.py there, or give a card with card=."
        )
    short = (folder / "README.md").read_text(encoding="utf-8")
    where = re.search(r"converted from `([^`]*)`", short)
    made_of = f"Converted from `{where[1]}` by `ecg-transformers convert`" if where else "A converted checkpoint"
    body = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.S).strip()
    # Links lead to files of the repository, which are not published along
    body = re.sub(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)[^)]*\)", r"\1", body)
    # The examples take this folder
    body = re.sub(r'^folder = "[^"]*".*$', lambda _: f"folder = {python_literal(location)}", body, flags=re.M)
    title, _, rest = body.partition("\n")
    front = (
        f"# {location.rpartition('/')[2]}\n\n{made_of}. What follows is the card of the family, "
        f"{title.lstrip('# ')}; its figures are of the weights that the authors of the model published."
    )
    parts = [front, rest.strip()]
    if with_code:
        parts.append(use_without_package(location, model_type, auto_class, preprocessor).strip())
    family = metadata_load(path) or {}
    own_tags = tags_of(model_type, auto_class == "AutoModelForSequenceClassification", with_text, with_code)
    metadata = {
        **family,
        "license": licence,
        "library_name": LIBRARY,
        "pipeline_tag": PIPELINE_TAG,
        "tags": list(dict.fromkeys([*family.get("tags", []), *own_tags])),
    }
    return with_metadata(metadata, "\n\n".join(parts) + "\n")


def with_metadata(metadata: dict[str, Any], body: str) -> str:
    """Return a card of metadata and text."""
    from huggingface_hub import ModelCardData

    return f"---\n{ModelCardData(**metadata).to_yaml().strip()}\n---\n\n{body.lstrip()}"
