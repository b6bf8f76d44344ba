"""Zero-shot diagnosis: recordings scored by how well they match the description of a label.

A model with a text encoder (`get_text_features`) places recordings and texts in one space. D-BETA's score is the dot
product of the two vectors, neither normalised nor scaled: its contrastive loss is the mean of
`-log sigmoid(y * dot product)` over all pairs of a batch, `y` being 1 for a recording and its own report and -1
otherwise (arXiv 2410.02131). So the sigmoid of the dot product is the probability, as that loss has taught it, that a
text belongs to a recording, each label by itself. Most pairs of a batch do not match, so the probabilities are those
of a world of many negatives: ranks (AUROC, AUPRC) are meaningful without calibration, a threshold of 0.5 is not.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .score_inputs import ArrayLike, check_binary_targets, check_label_names, check_scores

AREAS = ("auroc", "auprc")
_PER_LABEL = (*AREAS, "num_positives", "num_negatives", "num_unknown")


def fill_template(template: str | None, text: str) -> str:
    """Put a text into a template such as `"the ecg shows {}"`; without a template the text stays as it is.

    Raises:
        ValueError: if the template has not exactly one `{}`.
    """
    if template is None:
        return text
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError:
        names = []
    if names != [""]:
        raise ValueError(
            f"A template has one place for the label, {{}}, as in 'the ecg shows {{}}'; got {template!r}."
        )
    return template.format(text)


@torch.no_grad()
def embed_texts(model: Any, processor: Any, texts: Sequence[str], batch_size: int = 32) -> torch.Tensor:
    """Embed each distinct text once.

    Texts of equal length in tokens share a batch, so nothing is padded, and a text's embedding does not depend on its
    company even in a text encoder that is run without a mask.

    Args:
        model (`PreTrainedModel`): with `get_text_features(input_ids, text_attention_mask)`.
        processor (`ProcessorMixin`): turns `text=` into `input_ids` and `text_attention_mask`.
        texts (sequence of `str`): at least one, none of them empty.
        batch_size (`int`, *optional*, defaults to 32): most texts in one forward pass.

    Returns:
        `torch.Tensor` of shape `(texts, hidden)`: float32, on the model's device.

    Raises:
        ValueError: if there is no text, or one is empty.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct or not all(isinstance(text, str) and text.strip() for text in distinct):
        raise ValueError(f"Expected texts that are not empty; got {list(texts)[:5]!r}.")
    tokens = [processor(text=[text], return_tensors="pt") for text in distinct]
    by_length: dict[int, list[int]] = {}
    for index, inputs in enumerate(tokens):
        by_length.setdefault(inputs["input_ids"].shape[1], []).append(index)
    embeddings: dict[str, torch.Tensor] = {}
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            members = indices[start : start + batch_size]
            inputs = {
                name: torch.cat([tokens[index][name] for index in members]).to(model.device)
                for name in ("input_ids", "text_attention_mask")
            }
            features = model.get_text_features(**inputs).float()
            embeddings.update(zip([distinct[index] for index in members], features, strict=True))
    return torch.stack([embeddings[text] for text in texts])


def embed_labels(
    model: Any,
    processor: Any,
    descriptions: Mapping[str, str | Sequence[str]],
    template: str | None = None,
    batch_size: int = 32,
) -> torch.Tensor:
    """Embed labels: of a label with several descriptions the mean of their embeddings.

    Args:
        model, processor, batch_size: as in `embed_texts`.
        descriptions (mapping of `str` to `str` or to a sequence of them): label -> description(s).
        template (`str`, *optional*): text around each description, with `{}` where it goes.

    Returns:
        `torch.Tensor` of shape `(labels, hidden)`: float32, on the model's device.
    """
    texts = [[value] if isinstance(value, str) else list(value) for value in descriptions.values()]
    flat = [fill_template(template, text) for of_label in texts for text in of_label]
    embeddings = embed_texts(model, processor, flat, batch_size)
    return torch.stack([part.mean(0) for part in embeddings.split([len(of_label) for of_label in texts])])


def combine_windows(
    logits: torch.Tensor, record_index: torch.Tensor, method: str = "mean", multi_label: bool = True
) -> torch.Tensor:
    """Combine the scores of a recording's windows, so that its probabilities are the mean or maximum of theirs.

    Args:
        logits (`torch.Tensor` of shape `(windows, labels)`): dot products.
        record_index (`torch.Tensor` of shape `(windows,)`): for each window its recording: 0, 1, 2, ...
        method (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"max"`.
        multi_label (`bool`, *optional*, defaults to `True`): probabilities are sigmoids, else softmax over the labels.

    Returns:
        `torch.Tensor` of shape `(recordings, labels)`: float64 (float32 where the device has no float64). A recording
        of one window keeps its dot products.
    """
    from ..training.trainer import aggregate_logits

    kind = "multi_label_classification" if multi_label else "single_label_classification"
    combined = aggregate_logits(logits, record_index, method, kind)
    alone = torch.bincount(record_index, minlength=len(combined)) == 1
    first = torch.searchsorted(record_index, torch.arange(len(combined), device=record_index.device))
    return torch.where(alone[:, None], logits[first].to(combined.dtype), combined)


@torch.no_grad()
def zero_shot_logits(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    label_embeds: torch.Tensor,
    method: str = "mean",
    multi_label: bool = True,
    batch_size: int | None = None,
) -> torch.Tensor:
    """Score a batch of recordings against labels.

    Args:
        model (`PreTrainedModel`): with `get_ecg_features(input_values, attention_mask)`.
        inputs (mapping): `input_values` and, where there is padding, `attention_mask`; with several windows per
            recording `record_index`. Other entries are not used.
        label_embeds (`torch.Tensor` of shape `(labels, hidden)`): see `embed_labels`.
        method, multi_label (*optional*): see `combine_windows`.
        batch_size (`int`, *optional*): most windows in one forward pass; all by default.

    Returns:
        `torch.Tensor` of shape `(recordings, labels)`, on the model's device.
    """
    values, mask, index = (inputs.get(name) for name in ("input_values", "attention_mask", "record_index"))
    label_embeds = label_embeds.to(model.device)
    pieces = []
    for start in range(0, len(values), batch_size or len(values)):
        part = slice(start, start + (batch_size or len(values)))
        features = model.get_ecg_features(
            values[part].to(device=model.device, dtype=model.dtype),
            attention_mask=None if mask is None else mask[part].to(model.device),
        )
        pieces.append(features.float() @ label_embeds.T)
    logits = torch.cat(pieces)
    index = torch.arange(len(logits)) if index is None else index
    return combine_windows(logits, index.to(logits.device), method, multi_label)


def score_zero_shot(
    targets: ArrayLike,
    logits: ArrayLike,
    label_names: Sequence[str] | None = None,
    *,
    groups: ArrayLike | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Score dot products by ranks: AUROC and AUPRC, per label and macro, with bootstrap intervals over patients.

    Args:
        targets (array of shape `(records, labels)`): 0, 1 or NaN (unknown).
        logits (array of the same shape): any finite scores, higher for positives.
        label_names (sequence of `str`, *optional*): names of the columns; `label_0`, ... if absent.
        groups (array of shape `(records,)`, *optional*): patient of each record.
        num_resamples (`int`, *optional*, defaults to 1000): 0 leaves the intervals out.
        level, seed (*optional*): as in `bootstrap_intervals`.

    Returns:
        `dict`, valid JSON: `macro_auroc`, `macro_auprc`, `num_records`, `num_labels`, `num_missing_labels`,
        `missing_labels`, `per_label` (name -> `auroc`, `auprc`, `num_positives`, `num_negatives`, `num_unknown`), and
        `intervals` as `bootstrap_intervals` returns them. A label with one class only has no scores (`None`) and is
        left out of the macro.

    Raises:
        ValueError: if shapes differ, targets are not 0, 1 or NaN, or a score is not finite.
    """
    from .bootstrap import bootstrap_intervals
    from .classification import multilabel_metrics

    targets = check_binary_targets(targets)
    names = check_label_names(label_names, targets.shape[1])
    # Large dot products have equal sigmoids, which would tie them; ranks in 0..1 keep their order.
    ranks = _rank_fractions(check_scores(logits, targets.shape, "logits"))
    full = multilabel_metrics(targets, ranks, names)
    result = {f"macro_{metric}": full[f"macro_{metric}"] for metric in AREAS}
    result.update({key: full[key] for key in ("num_records", "num_labels", "num_missing_labels", "missing_labels")})
    result["per_label"] = {name: {key: row[key] for key in _PER_LABEL} for name, row in full["per_label"].items()}
    result["intervals"] = {}
    if num_resamples:
        result["intervals"] = bootstrap_intervals(
            targets,
            ranks,
            AREAS,
            label_names=names,
            num_resamples=num_resamples,
            level=level,
            seed=seed,
            groups=groups,
        )
    return result


def _rank_fractions(scores: np.ndarray) -> np.ndarray:
    """Replace each score by its place among the label's distinct scores, as a number from 0 to below 1."""
    ranks = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in scores.T]
    return np.stack(ranks, axis=1) / len(scores)
