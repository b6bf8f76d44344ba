"""The pipeline `ecg-classification`: findings of a fine-tuned model, as the command `predict` gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..inference import ECGInference
from ..registration import MODELS
from .base import check_top_k
from .inference_pipeline import ECGInferencePipeline


class ECGClassificationPipeline(ECGInferencePipeline):
    """Diagnose recordings with a fine-tuned model of any type of this package.

    Preprocessing, windows, aggregation and decisions are those of `ecg_transformers.ECGInference`, as in the command
    `predict`.

    A call takes:

    - `inputs`: the path of an ECG file, an `ECGRecord`, an array of shape `(leads, samples)`, or a row with the column
      `ecg`; a list of these or an array of shape `(records, leads, samples)`; a data set with the column `ecg`, or a
      generator. Of a folder give its files: `ecg_transformers.find_ecg_files(folder)`.
    - `top_k` (`int`, *optional*): how many labels to return; all by default.
    - `thresholds` (*optional*): what decides whether a label is present: `"stored"`, the criterion by which the stored
      thresholds were chosen, such as `"youden"`, a number, a mapping of label to value, or a JSON file of it. Default:
      the stored thresholds, else 0.5.
    - `groups` (`bool`, *optional*, defaults to `False`): answer with the model's groups of labels.
    - `windows` (`str`, *optional*): of recordings longer than the model's window, `"all"` or `"first"`. Default: those
      for which the thresholds were chosen, else `"all"`.
    - `aggregation` (`str`, *optional*): of the windows' probabilities, `"mean"` or `"max"`. Default: that for which
      the thresholds were chosen, else `"mean"`.
    - `sampling_rate` (Hz), `lead_names`, `units` (*optional*): of arrays, and of files that do not say.
    - `on_error` (`str`, *optional*, defaults to `"raise"`): the first recording that cannot be read or used is an
      error that names it; with `"warn"` its answer is `None`, a warning tells why, and the others go on. (A stream
      of a data set ends at a file that cannot be decoded.)
    - `batch_size`, `num_workers` (*optional*): recordings in one batch, processes that read files.

    It returns for each recording a list of `{"label", "score", "present"}`, highest score first: one such list for a
    single input, a list of them for a list, an iterator over them for a data set or a generator, which knows its
    length if the data set does (`tqdm` then shows progress).

    - `score`: the probability of the label (sigmoid; softmax where labels exclude each other).
    - `present`: whether the probability is above the label's threshold, or highest where labels exclude each other;
      `None` where a label has no threshold, so that nothing decides.

    With `groups=True` the entries are `{"label", "score", "labels"}`: a group, the highest probability in it, and its
    labels that are present. Of a regression model they are `{"label", "score"}`, all quantities in the model's order,
    where `score` is the value.

    Raises:
        ValueError: for arguments or recordings that cannot be used; `ECGReadError` for files.

    Example:
        ```python
        classify = et.pipeline("ecg-classification", model="outputs/my-ptbxl")
        classify("JS00001.hea", top_k=2)
        # [{"label": "atrial fibrillation", "score": 0.91, "present": True}, {"label": "sinus rhythm", ...}]
        ```
    """

    def prepared_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model if it has a classification head."""
        for entry in MODELS:
            if model.config.model_type == entry.model_type:
                head = entry.get_model_class("AutoModelForSequenceClassification")
                if not isinstance(model, head):
                    raise ValueError(
                        f"{type(model).__name__} has no classification head; load the model with "
                        "AutoModelForSequenceClassification."
                    )
        return model

    def _sanitize_parameters(
        self, top_k: int | None = None, thresholds: Any = None, groups: bool | None = None, **shared: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        reading, running = self._shared_parameters(**shared)
        telling: dict[str, Any] = {}
        described = ECGInference(self.model, None, thresholds=thresholds)
        if top_k is not None:
            check_top_k(top_k)
            if self._is_regression:
                raise ValueError("`top_k` chooses labels; a regression model gives all its values. Leave it out.")
            telling["top_k"] = top_k
        if thresholds is not None:
            # By label, so that a file is read once.
            limits = zip(described.label_names, described.thresholds.tolist(), strict=True)
            telling["thresholds"] = {label: limit for label, limit in limits if limit == limit}
        if groups is not None:
            telling["groups"] = described.label_groups if groups else {}
        return reading, running, telling

    @property
    def _is_regression(self) -> bool:
        return self.model.config.problem_type == "regression"

    def postprocess(
        self,
        outputs: Mapping[str, Any],
        top_k: int | None = None,
        thresholds: Mapping[str, float] | None = None,
        groups: Mapping[str, list[str]] | None = None,
    ) -> list[dict[str, Any]] | None:
        """Name the probabilities or values of one recording."""
        result = self._only_result(outputs)
        if result.values is None:
            return None
        inference = ECGInference(self.model, None, thresholds=thresholds)
        if groups:
            summaries = inference.summarize_groups(result.values)
            answer = [
                {"label": group, "score": summary["probability"], "labels": summary["labels"]}
                for group, summary in summaries.items()
            ]
        else:
            answer = [
                {"label": label, "score": float(value)}
                for label, value in zip(inference.label_names, result.values, strict=True)
            ]
            if self._is_regression:
                return answer
            found, undecided = set(inference.decide(result.values)), set(inference.undecided_labels)
            for entry in answer:
                entry["present"] = None if entry["label"] in undecided else entry["label"] in found
        return sorted(answer, key=lambda entry: -entry["score"])[:top_k]
