"""The card of a pretraining run, rendered from its `run.json`."""

from __future__ import annotations

from typing import Any

from ..training.linear_probe_report import format_probe
from .card_parts import python_literal, table_cell
from .hybrid_ecg_objective import describe_objective, show_picture
from .model_card import LIMITS, number, thin_out

_USAGE_WITH_TEXT = """import torch
import ecg_transformers as et  # registers the model, so import it even if you use transformers alone
from transformers import AutoModel, AutoProcessor

folder = {name}  # this folder, or its Hub id
processor, model = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
texts = ["sinus rhythm", "atrial fibrillation"]
inputs = processor(ecg=et.read_ecg("record.npz"), text=texts, return_tensors="pt")
with torch.no_grad():
    scores = model(**inputs).logits_per_ecg  # (records, texts)
    features = model.get_ecg_features(inputs["input_values"], inputs["attention_mask"])"""
_USAGE = """import torch
import ecg_transformers as et  # registers the model, so import it even if you use transformers alone
from transformers import AutoFeatureExtractor, AutoModel

folder = {name}  # this folder, or its Hub id
inputs = AutoFeatureExtractor.from_pretrained(folder)(et.read_ecg("record.npz"), return_tensors="pt")
with torch.no_grad():
    model = AutoModel.from_pretrained(folder).eval()
    features = model.get_ecg_features(inputs.input_values, inputs.attention_mask)"""

_LIMITS_OF_ANY = (
    "The model knows devices, populations and words like those of its training records. Its scores are not calibrated "
    "probabilities."
)
# Endings of the measures that the table of the learning curve shows
_IN_THE_CURVE = ("_loss", "_accuracy", "alignment", "uniformity")


def pretraining_values(location: str, run: dict[str, Any], pictures: list[str]) -> dict[str, Any]:
    """Return what the template of pretraining cards asks for beside what all cards have.

    Args:
        location (`str`): folder or Hub id.
        run (`dict`): `run.json`, of kind `"pretraining"`.
        pictures (`list[str]`): of reconstructions, that are there.
    """
    model, corpus = run["model"], run["corpus"]
    with_text = model.get("text_tokens") is not None
    curve, columns = _curve(run["learning_curve"])
    validation, probe = run["metrics"].get("validation") or {}, run["metrics"].get("probe")
    return {
        "model": model,
        "base_model": model["base_model"],
        "modalities": "ECGs and their reports" if with_text else "ECGs",
        "window_seconds": number(model["window_seconds"]),
        "usage": (_USAGE_WITH_TEXT if with_text else _USAGE).format(name=python_literal(location)),
        "usage_note": _usage_note(with_text),
        "objective": describe_objective(model["objective"]) if "objective" in model else None,
        "picture": show_picture(pictures),
        "probe": format_probe(probe, "markdown") if probe else None,
        "validation": [(measure.replace("_", " "), number(value)) for measure, value in validation.items()],
        "corpus_note": _corpus_note(corpus),
        "split_columns": _split_columns(corpus["splits"]),
        "splits": corpus["splits"],
        "training_note": _training_note(run),
        "curve": curve,
        "curve_columns": columns,
        "limits": LIMITS.get(corpus["name"], _LIMITS_OF_ANY),
    }


def _usage_note(with_text: bool) -> str:
    note = "The lines above see the first window of the record. "
    if with_text:
        note += (
            "Scores are dot products: the larger, the better a text fits the record. They rank records for one text, "
            "and have no threshold. "
        )
    return note + "`training_scripts/finetune_classification.py --model_name_or_path` fine-tunes the model on labels."


def _corpus_note(corpus: dict[str, Any]) -> str:
    name = table_cell(corpus["name"])
    unseen = "Records of a test split, where there is one, were not seen."
    if any(facts["records"] == "streamed" for facts in corpus["splits"].values()):
        return f"Corpus `{name}`, read as a stream. {unseen}"
    known = all("patients" in facts for facts in corpus["splits"].values() if facts["records"])
    patients = "No patient is in more than one split." if known else "Patients are not known: it is split by record."
    return f"Corpus `{name}`. {patients} {unseen}"


def _split_columns(splits: dict[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for facts in splits.values() for column in facts))


def _training_note(run: dict[str, Any]) -> str:
    training, model = run["training"], run["model"]
    parts = [
        f"{model['parameters']:,} parameters",
        f"{training['steps']} steps ({number(training['epochs'], 2)} epochs) of {training['batch_size']} records",
        f"{training['optimizer']}, learning rate {training['learning_rate']:g}, weight decay "
        f"{training['weight_decay']:g}, warm-up {training['warmup']:g}, schedule {training['schedule']}",
        f"seed {training['seed']}",
    ]
    if model.get("text_encoder"):
        parts.append(f"text encoder from {model['text_encoder']}")
    if model.get("new_parts"):
        parts.append(f"started anew: {', '.join(model['new_parts'])}")
    if training.get("augmentations"):
        parts.append(f"training records augmented: {', '.join(training['augmentations']['augmentations'])}")
    if training["best_step"]:
        parts.append(f"best step {training['best_step']} by validation {training['metric_for_best_model']}")
    seconds = run["seconds"].get("training")
    if seconds is not None:
        environment = run["environment"]
        parts.append(f"{seconds:.0f} s on {environment['device']}, {environment['processes']} process(es)")
    return "; ".join(parts) + "."


def _curve(entries: list[dict[str, Any]]) -> tuple[list[dict[str, str]], list[str]]:
    """Return the thinned learning curve and its columns."""
    known = [name for entry in entries for name in entry]
    columns = [
        name
        for name in dict.fromkeys(known)
        if name in ("training_loss", "validation_loss")
        or (name.endswith(_IN_THE_CURVE) and not name.startswith("training_"))
    ]
    rows = [
        {"epoch": number(entry.get("epoch"), 2), **{name: number(entry.get(name)) for name in columns}}
        for entry in thin_out(entries)
    ]
    return rows, columns
