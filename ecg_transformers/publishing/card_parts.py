"""What the cards of all runs have in common: metadata for the Hub, tables, and use without this package."""

from __future__ import annotations

import json
from typing import Any

from ..registration import find_model
from .licences import licence_of

# The Hub has no task for classifying signals. Every model here gives features, and these tags tell the rest.
PIPELINE_TAG = "feature-extraction"
LIBRARY = "ecg_transformers"
# Corpora of one's own: a name that says nothing to others
_PRIVATE_CORPORA = ("folder", "table")
_EVALUATED = ("accuracy", "balanced_accuracy", "mae", "rmse", "r2", "challenge_score")


def table_cell(text: Any) -> str:
    """Return text such that it stays in one cell of a table, or in one line."""
    return " ".join(str(text).split()).replace("|", "\\|")


def python_literal(text: str) -> str:
    """Return a string as Python source, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def tags_of(model_type: str, with_head: bool = False, with_text: bool = False, with_code: bool = False) -> list[str]:
    """Return the tags of a card: the field, the model type, and the pipelines of this package that take the model.

    Args:
        model_type (`str`): such as `"hubert_ecg"`.
        with_head (`bool`): it classifies.
        with_text (`bool`): it compares recordings with texts.
        with_code (`bool`): its code lies beside it.
    """
    tags = ["ecg", "electrocardiogram", model_type.replace("_", "-"), "ecg-feature-extraction"]
    tags += ["ecg-classification"] * with_head + ["zero-shot-ecg-classification"] * with_text
    return tags + ["custom_code"] * with_code


def run_metadata(name: str, run: dict[str, Any], licence: str | None, with_code: bool) -> str:
    """Return the YAML that the Hub reads, with the test results as a `model-index`.

    Args:
        name (`str`): of the model.
        run (`dict`): `run.json`.
        licence (`str`, *optional*): see `write_card`.
        with_code (`bool`): the folder brings its code.
    """
    from huggingface_hub import ModelCardData

    results = _results(run)
    model = run["model"]
    data = ModelCardData(
        model_name=name if results else None,
        eval_results=results or None,
        license=licence_of(run, licence),
        library_name=LIBRARY,
        pipeline_tag=PIPELINE_TAG,
        tags=tags_of(
            model["model_type"],
            run["corpus"].get("problem_type", "regression") != "regression",
            model.get("text_tokens") is not None,
            with_code,
        ),
        datasets=_datasets(run),
        base_model=None if model["base_model_is_local"] else model["base_model"],
    )
    return data.to_yaml().strip()


def _results(run: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    corpus = run["corpus"]
    kind = "time-series-regression" if corpus.get("problem_type") == "regression" else "time-series-classification"
    return [
        EvalResult(
            task_type=kind,
            task_name="ECG " + kind.rpartition("-")[2],
            dataset_type=corpus["name"],
            dataset_name=corpus["name"] + (f" ({corpus['task']})" if corpus["task"] else ""),
            dataset_split="test",
            metric_type=metric,
            metric_name=metric.replace("_", " "),
            metric_value=round(value, 4),
        )
        for metric, value in (run["metrics"].get("test") or {}).items()
        if (metric.startswith("macro_") or metric in _EVALUATED) and value is not None
    ]


def _datasets(run: dict[str, Any]) -> list[str] | None:
    """Name the corpus where the name means something to others: one of this package's, or a Hub id."""
    from ..corpora import list_corpora

    name = run["corpus"]["name"]
    known = "/" in name or (name in list_corpora() and name not in _PRIVATE_CORPORA)
    return [name] if known else None


def label_table(run: dict[str, Any]) -> str | None:
    """Return Markdown: each label with its threshold and how often training records had it; not for values."""
    corpus, thresholds = run["corpus"], run.get("thresholds") or {}
    if corpus["problem_type"] == "regression":
        return None
    counts = corpus["splits"]["train"]["labels"]
    single = corpus["problem_type"] == "single_label_classification"
    lines = ["| class | training records |", "| --- | ---: |"]
    if not single:
        lines = ["| label | threshold | present in training | absent |", "| --- | ---: | ---: | ---: |"]
    for name in corpus["label_names"]:
        count = counts[name]
        if single:
            lines.append(f"| {table_cell(name)} | {count['positives']} |")
            continue
        limit = thresholds.get(name)
        shown = "–" if limit is None else f"{limit:.3f}"
        lines.append(f"| {table_cell(name)} | {shown} | {count['positives']} | {count['negatives']} |")
    return "\n".join(lines)


def show_learning_curve(name: str) -> str:
    """Return Markdown of the picture."""
    return f"![Losses over training]({name})"


def use_without_package(location: str, model_type: str, auto_class: str, preprocessor: dict[str, Any]) -> str:
    """Return Markdown on how a folder with code opens where this package is not installed.

    Args:
        location (`str`): folder or Hub id.
        model_type (`str`): such as `"hubert_ecg"`.
        auto_class (`str`): of transformers; for others than classifiers, features are shown.
        preprocessor (`dict`): `preprocessor_config.json`.
    """
    classifies = auto_class == "AutoModelForSequenceClassification"
    if not classifies:
        auto_class = "AutoModel"
    shown = ", ".join(python_literal(name) for name in preprocessor["lead_names"])
    arguments = "inputs.input_values, inputs.attention_mask"
    output = f"logits = model({arguments}).logits" if classifies else f"features = model.get_ecg_features({arguments})"
    text = f"""## Use without ecg_transformers

The repository holds the code of the model and of its preprocessing; it needs torch and transformers alone.
`trust_remote_code=True` runs it, so read it first. Where `ecg_transformers` is imported, its own classes are taken.

```python
import numpy as np
import torch
from transformers import AutoFeatureExtractor, {auto_class}

folder = {python_literal(location)}
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
model = {auto_class}.from_pretrained(folder, trust_remote_code=True).eval()
signal = np.load("signal.npy")  # (leads, samples) in mV; say its rate and leads:
leads = [{shown}]
inputs = extractor(signal, sampling_rate=500, lead_names=leads, return_tensors="pt")
with torch.no_grad():
    {output}
```
"""
    if not classifies and find_model(model_type).processor_class:
        text += (
            "\n`AutoProcessor.from_pretrained(folder, trust_remote_code=True)` takes texts too: "
            "`processor(ecg=signal, text=[...], sampling_rate=500)`.\n"
        )
    return text
