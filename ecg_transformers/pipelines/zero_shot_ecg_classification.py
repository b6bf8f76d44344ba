"""The pipeline `zero-shot-ecg-classification`: labels in words, chosen when the recording is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..evaluation.trainer_metrics import logits_to_probabilities
from ..evaluation.zero_shot import combine_windows, embed_labels
from ..inference import ECGInference
from .base import LARGEST_BATCH, check_top_k, only_given
from .inference_pipeline import ECGInferencePipeline
from .loading import check_processor, check_text_encoder


class ZeroShotECGClassificationPipeline(ECGInferencePipeline):
    """Score recordings against labels given in words.

    A score is the sigmoid of the dot product of the recording's and the label's vector: the probability, as D-BETA's
    contrastive loss has taught it, that the text belongs to the recording. Every label is judged by itself, and scores
    do not sum to 1; with `multi_label=False` labels exclude each other, and scores are the softmax of dot products.
    Neither is calibrated: use them to rank recordings or labels, not as the risk of a patient. `logit` is what the
    score is computed from: the dot product, or, for a recording of several windows, the logit of the combined
    probability.

    A call takes:

    - `inputs`: the path of an ECG file, an `ECGRecord`, an array of shape `(leads, samples)`, or a row with the column
      `ecg`; a list of these or an array of shape `(records, leads, samples)`; a data set with the column `ecg`, or a
      generator.
    - `candidate_labels` (sequence of `str`, or mapping of `str` to `str` or a list of them): the labels, lower-cased
      by the processor; or labels with their descriptions, whose embeddings are averaged where a label has several
      (`ecg_transformers.evaluation.label_descriptions` has some).
    - `hypothesis_template` (`str`, *optional*): text around each label or description, such as `"the ecg shows {}"`.
    - `multi_label` (`bool`, *optional*, defaults to `True`): see above.
    - `top_k` (`int`, *optional*): how many labels to return; all by default.
    - `windows` (`str`, *optional*): of recordings longer than the model's window, `"all"` (default) or `"first"`.
    - `aggregation` (`str`, *optional*): of the windows' probabilities, `"mean"` (default) or `"max"`.
    - `sampling_rate` (Hz), `lead_names`, `units` (*optional*): of arrays, and of files that do not say.
    - `on_error` (`str`, *optional*, defaults to `"raise"`): the first recording that cannot be read or used is an
      error that names it; with `"warn"` its answer is `None`, a warning tells why, and the others go on.
    - `batch_size`, `num_workers` (*optional*): recordings in one batch, processes that read files.

    The labels are embedded once per call, not per recording.

    It returns for each recording a list of `{"label", "score", "logit"}`, highest score first: one such list for a
    single input, a list of them for a list, an iterator over them for a data set or a generator.

    Raises:
        ValueError: for labels, arguments or recordings that cannot be used; `ECGReadError` for files.

    Example:
        ```python
        zero_shot = et.pipeline("zero-shot-ecg-classification", model="dbeta")
        zero_shot("JS00001.hea", candidate_labels=["atrial fibrillation", "sinus rhythm"])
        # [{"label": "atrial fibrillation", "score": 0.91, "logit": 2.3}, {"label": "sinus rhythm", ...}]
        ```
    """

    _load_processor = True
    _load_feature_extractor = False

    def __init__(self, model: PreTrainedModel, processor: Any = None, **kwargs: Any):
        check_processor(processor, "The processor")
        super().__init__(model=model, processor=processor, **kwargs)

    def prepared_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model if it has a text encoder."""
        check_text_encoder(model.config, "The model")
        return model

    def __call__(self, inputs: Any, candidate_labels: Any = None, **kwargs: Any) -> Any:
        """Score recordings; see the class for arguments and results."""
        if candidate_labels is not None:
            kwargs["candidate_labels"] = candidate_labels
        _, own, _ = self._sanitize_parameters(**{key: kwargs[key] for key in _LABELS if key in kwargs})
        chosen = {**self._forward_params, **own}
        if "candidate_labels" not in chosen:
            raise ValueError("Pass `candidate_labels=`, for example ['atrial fibrillation', 'sinus rhythm'].")
        labels = chosen["candidate_labels"]
        embeds = embed_labels(self.model, self.processor, labels, chosen.get("hypothesis_template"))
        return super().__call__(inputs, **kwargs, label_embeds=embeds, label_names=list(labels))

    def _sanitize_parameters(
        self,
        candidate_labels: Any = None,
        hypothesis_template: str | None = None,
        multi_label: bool | None = None,
        top_k: int | None = None,
        label_embeds: torch.Tensor | None = None,
        label_names: list[str] | None = None,
        **shared: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        reading, running = self._shared_parameters(**shared)
        check_top_k(top_k)
        if candidate_labels is not None:
            candidate_labels = _checked_labels(candidate_labels)
        running |= only_given(
            {
                "candidate_labels": candidate_labels,
                "hypothesis_template": hypothesis_template,
                "multi_label": multi_label,
                "label_embeds": label_embeds,
            }
        )
        telling = only_given({"label_names": label_names, "multi_label": multi_label, "top_k": top_k})
        return reading, running, telling

    def make_inference(
        self,
        label_embeds: torch.Tensor,
        multi_label: bool = True,
        windows: str = "all",
        aggregation: str = "mean",
        batch_size: int = LARGEST_BATCH,
        **_: Any,
    ) -> ECGInference:
        """Return what compares the recordings of a batch with the labels."""
        return _ZeroShotInference(
            self.model,
            self.extractor,
            embeddings=True,
            windows=windows,
            aggregation=aggregation,
            batch_size=batch_size,
            label_embeds=label_embeds,
            multi_label=multi_label,
        )

    def postprocess(
        self,
        outputs: Mapping[str, torch.Tensor],
        label_names: list[str],
        multi_label: bool = True,
        top_k: int | None = None,
    ) -> list[dict[str, Any]] | None:
        """Name the scores of one recording, the highest first."""
        logits = self._only_result(outputs).values
        if logits is None:
            return None
        kind = "multi_label_classification" if multi_label else "single_label_classification"
        scores = logits_to_probabilities(logits, kind)
        # By logits: the sigmoids of large ones are equal.
        order = sorted(range(len(label_names)), key=lambda index: -logits[index])[:top_k]
        return [
            {"label": label_names[index], "score": float(scores[index]), "logit": float(logits[index])}
            for index in order
        ]


@dataclass
class _ZeroShotInference(ECGInference):
    """`ECGInference` whose values are logits: of each label, from the dot product with its vector.

    Args:
        label_embeds (`torch.Tensor` of shape `(labels, hidden)`): see `evaluation.zero_shot.embed_labels`.
        multi_label (`bool`): see `evaluation.zero_shot.combine_windows`.
    """

    label_embeds: torch.Tensor | None = None
    multi_label: bool = True

    def _values(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return super()._values(inputs).float() @ self.label_embeds.to(self.model.device).T

    def _combine(self, values: torch.Tensor, record_index: np.ndarray) -> np.ndarray:
        index = torch.as_tensor(record_index, device=values.device)
        return combine_windows(values, index, self.aggregation, self.multi_label).double().cpu().numpy()


_LABELS = ("candidate_labels", "hypothesis_template")


def _checked_labels(labels: Any) -> dict[str, list[str]]:
    """Return label -> descriptions; a label without any describes itself."""
    if isinstance(labels, str):
        labels = [labels]
    if isinstance(labels, Mapping):
        from ..evaluation.descriptions import label_descriptions

        return label_descriptions(labels)
    labels = list(labels)
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError(f"`candidate_labels` are texts, at least one; got {labels[:5]!r}.")
    if len(set(labels)) < len(labels):
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        raise ValueError(f"`candidate_labels` must differ; given more than once: {', '.join(repeated)}.")
    return {label: [label] for label in labels}
