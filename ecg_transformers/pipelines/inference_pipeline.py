"""What the pipelines share: windows, aggregation, and what becomes of a bad recording, all by `ECGInference`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from ..inference import ECGInference, InferenceResult
from ..model_folders import load_feature_extractor
from .base import LARGEST_BATCH, ECGPipeline, check_choice, only_given


class ECGInferencePipeline(ECGPipeline):
    """Base of the pipelines that run `ECGInference`, as the commands `predict` and `embed` do.

    Args:
        model (`PreTrainedModel`): the model.
        feature_extractor (`ECGFeatureExtractor`, *optional*): its preprocessing. Default: that of `processor`, else
            that of the folder or Hub id that the model was loaded from.
        processor (*optional*): a processor with a feature extractor, or a feature extractor.
        **kwargs: as for `transformers.Pipeline`, and defaults of the call.

    Raises:
        ValueError: if there is no preprocessing, or the model does not fit the task.
    """

    # Where transformers finds none, the one of the model type is taken, as everywhere in this package.
    _load_feature_extractor = None
    embeddings = False

    def __init__(
        self, model: PreTrainedModel, feature_extractor: Any = None, processor: Any = None, **kwargs: Any
    ) -> None:
        extractor = feature_extractor or getattr(processor, "feature_extractor", processor)
        if extractor is None:
            extractor = _extractor_of(model)
        if not isinstance(extractor, ECGFeatureExtractor):
            raise ValueError(
                f"Expected an ECGFeatureExtractor as `feature_extractor`; got {type(extractor).__name__}."
            )
        model = self.prepared_model(model)
        super().__init__(model=model, feature_extractor=extractor, processor=processor, **kwargs)

    def prepared_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the part of a model that the task uses.

        Raises:
            ValueError: if it has none.
        """
        raise NotImplementedError

    def make_inference(self, **options: Any) -> ECGInference:
        """Return what runs the recordings of a batch.

        Args:
            **options: `batch_size`, and `windows` and `aggregation` where they are given.
        """
        return ECGInference(self.model, self.extractor, self.embeddings, **options)

    @staticmethod
    def _shared_parameters(
        windows: str | None = None,
        aggregation: str | None = None,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        units: str | None = None,
        on_error: str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Sort what is given into arguments of reading and of running."""
        if unknown:
            names = ", ".join(f"`{name}`" for name in unknown)
            raise TypeError(f"The pipeline has no option {names}; its class lists those it has.")
        check_choice("windows", windows, ("all", "first"))
        check_choice("aggregation", aggregation, ("mean", "max"))
        check_choice("on_error", on_error, ("raise", "warn"))
        return (
            only_given({"sampling_rate": sampling_rate, "lead_names": lead_names, "units": units}),
            only_given({"windows": windows, "aggregation": aggregation, "on_error": on_error}),
        )

    def _forward(
        self, inputs: Mapping[str, list], on_error: str = "raise", **choices: Any
    ) -> dict[str, list[InferenceResult]]:
        names, records = inputs["names"], inputs["records"]
        if on_error == "raise":
            for name, record in zip(names, records, strict=True):
                if isinstance(record, Exception):
                    if name is None or name in str(record):
                        raise record
                    raise ValueError(f"{name}: {record}") from record
        inference = self.make_inference(batch_size=max(len(records), LARGEST_BATCH), **choices)
        entries = [str(record) if isinstance(record, Exception) else record for record in records]
        named = [name or "the recording" for name in names]
        results = list(inference.run_batch(list(zip(named, entries, strict=True))))
        for result in results:
            if result.error is None:
                continue
            if on_error == "raise":
                raise ValueError(result.error)
            warnings.warn(f"Not used, the answer is None: {result.error}", stacklevel=2)
        return {"results": results}

    @staticmethod
    def _only_result(outputs: Mapping[str, Any]) -> InferenceResult:
        # transformers takes batches apart, but not those of one.
        results = outputs["results"]
        return results[0] if isinstance(results, list) else results


def _extractor_of(model: PreTrainedModel) -> ECGFeatureExtractor:
    folder = model.name_or_path
    if not folder:
        raise ValueError(
            "A model that was not loaded from a folder needs its preprocessing too: pass feature_extractor=."
        )
    try:
        return load_feature_extractor(folder, revision=getattr(model.config, "_commit_hash", None))
    except OSError as error:
        raise ValueError(
            f"{folder}, which the model was loaded from, cannot be asked for its preprocessing: pass "
            f"feature_extractor=. ({error})"
        ) from error
