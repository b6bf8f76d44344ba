"""Which licence weights are under: what is given, else that of what they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Licences of the weights that the authors published, by model type (the cards under model_cards/ say where each is
# stated). A model that is trained from them carries them on; one's own weights of the same type do not.
LICENCE_OF_PUBLISHED_WEIGHTS = {"hubert_ecg": "cc-by-nc-4.0", "dbeta": "cc-by-nc-4.0"}


def licence_of_folder(folder: str | Path | None) -> str | None:
    """Return the licence that the card of a model folder names, as its metadata in `README.md`.

    Args:
        folder (`str` or `Path`, *optional*): a model folder, or a checkpoint of a run, whose card lies beside it.

    Returns:
        `str`: Hub identifier; `None` if this is no folder, or its card is missing, damaged, or names none.
    """
    if folder is None or not Path(folder).is_dir():
        return None
    folder = Path(folder).resolve()
    for place in (folder, folder.parent) if folder.name.startswith("checkpoint-") else (folder,):
        licence = licence_of_card(place / "README.md")
        if licence is not None:
            return licence
    return None


def licence_of_card(path: str | Path) -> str | None:
    """Return the licence that the metadata of a card name; `None` if it is missing, damaged, or names none."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        licence = (metadata_load(path) or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return licence if isinstance(licence, str) and licence != "unknown" else None


def licence_of(run: dict[str, Any], licence: str | None) -> str:
    """Return the identifier of the licence of a run's weights: the given one, else that of what it started from.

    Of a base model on the Hub it is that of the published weights of its type, of a folder what its own card says.
    """
    model = run["model"]
    if licence is not None:
        return licence
    if model["base_model"] is None:
        return "unknown"
    if model["base_model_is_local"]:
        return model.get("base_model_licence") or "unknown"
    return LICENCE_OF_PUBLISHED_WEIGHTS.get(model["model_type"], "unknown")


def describe_licence(run: dict[str, Any], licence: str | None) -> str:
    """Return the sentence on the licence."""
    chosen, model = licence_of(run, licence), run["model"]
    if licence is not None:
        return f"Weights: {chosen}."
    if chosen != "unknown":
        source = f", as the card of `{model['base_model']}` says" if model["base_model_is_local"] else ""
        return f"The weights that training started from are under {chosen}{source}, so these are too."
    note = "Not chosen yet. Whoever trained these weights decides, within the terms of the training data"
    if model["base_model"] is None:
        return f"{note}."
    lacking = "a folder whose card names no licence" if model["base_model_is_local"] else "whose licence is not known"
    return f"{note} and of the weights that training started from (`{model['base_model']}`, {lacking})."
