"""Pipelines over ECG files, records, arrays and data sets, registered with transformers by importing this package."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel
from transformers import pipeline as transformers_pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..model_folders import load_feature_extractor, location_options, usable_device
from .loading import (
    CheckedLoader,
    ClassificationModelLoader,
    FeatureModelLoader,
    ZeroShotModelLoader,
    load_processor,
)

if TYPE_CHECKING:
    from .base import ECGPipeline

__all__ = ["list_tasks", "pipeline", "register_pipelines"]


@dataclass(frozen=True)
class PipelineEntry:
    """A task: the class of its pipeline, and what loads its model.

    Args:
        module (`str`): module of this package that defines the class.
        pipeline_class (`str`): name of the class.
        model_loader (`type`): loads the model, in the place of an Auto class of transformers.
        needs_texts (`bool`): whether it takes a processor with a tokenizer, else a feature extractor is enough.
    """

    module: str
    pipeline_class: str
    model_loader: type[CheckedLoader]
    needs_texts: bool = False

    def get_class(self) -> type[ECGPipeline]:
        """Import the class of the pipeline."""
        return getattr(importlib.import_module(f".{self.module}", __package__), self.pipeline_class)


PIPELINES = {
    "ecg-classification": PipelineEntry("ecg_classification", "ECGClassificationPipeline", ClassificationModelLoader),
    "ecg-feature-extraction": PipelineEntry(
        "ecg_feature_extraction", "ECGFeatureExtractionPipeline", FeatureModelLoader
    ),
    "zero-shot-ecg-classification": PipelineEntry(
        "zero_shot_ecg_classification", "ZeroShotECGClassificationPipeline", ZeroShotModelLoader, needs_texts=True
    ),
}


def list_tasks() -> list[str]:
    """Return the tasks of this package, sorted."""
    return sorted(PIPELINES)


def pipeline(
    task: str,
    model: str | Path | PreTrainedModel,
    *,
    feature_extractor: Any = None,
    processor: Any = None,
    device: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: Any = None,
    **options: Any,
) -> ECGPipeline:
    """Build a pipeline from a model folder: files, records or arrays in, answers out.

    Model and preprocessing are loaded by local code only; code that a folder or a Hub repository brings is never run.
    A folder that lacks weights, so that a head would be random, is refused. `transformers.pipeline` knows the tasks
    too, once `ecg_transformers` is imported, and refuses the same; it also asks for `trust_remote_code`, which is not
    needed here, where a `config.json` names a custom pipeline.

    Args:
        task (`str`): one of

            - `"ecg-classification"`: findings, or the values of a regression, from a fine-tuned model: see
              [`~pipelines.ecg_classification.ECGClassificationPipeline`];
            - `"ecg-feature-extraction"`: a vector per recording from any model: see
              [`~pipelines.ecg_feature_extraction.ECGFeatureExtractionPipeline`];
            - `"zero-shot-ecg-classification"`: labels in words, from a model with a text encoder (D-BETA): see
              [`~pipelines.zero_shot_ecg_classification.ZeroShotECGClassificationPipeline`].
        model (`str`, `Path` or `PreTrainedModel`): a model folder, a Hub id, or a loaded model.
        feature_extractor (*optional*): the preprocessing, if not that of the folder; of a loaded model, that of the
            folder it comes from.
        processor (*optional*): the processor, if not that of the folder, of a task that takes texts. A loaded model
            needs it.
        device (*optional*): `"cpu"`, `"cuda:1"`, a GPU's number, or a `torch.device`. Default: the first GPU, else the
            CPU.
        revision (`str`, *optional*): branch, tag or commit of a Hub model.
        token (`str` or `bool`, *optional*): of the Hub, for private repositories.
        dtype (*optional*): of the weights, such as `torch.bfloat16`. Default: as saved.
        **options: passed to the pipeline: `batch_size`, `num_workers`, and defaults of its call, such as `thresholds`
            or `candidate_labels`.

    Returns:
        A `transformers.Pipeline`; its class' docstring tells what a call takes and gives.

    Raises:
        ValueError: for an unknown task, device or folder, or a model that the task cannot use.

    Example:
        ```python
        classify = et.pipeline("ecg-classification", model="outputs/my-ptbxl", batch_size=32)
        classify(["JS00001.hea", "JS00002.hea"])
        ```
    """
    entry = PIPELINES.get(task)
    if entry is None:
        raise ValueError(
            f"Unknown task {task!r}; the pipelines of this package are {', '.join(list_tasks())}. For others use "
            "transformers.pipeline."
        )
    if options.pop("trust_remote_code", None):
        raise ValueError("Pipelines of this package never run code from a repository; leave trust_remote_code out.")
    device = usable_device(device)
    if isinstance(model, PreTrainedModel):
        if processor is None and entry.needs_texts:
            raise ValueError("A loaded model needs its processor too: pass processor=.")
        if dtype is not None:
            model = model.to(dtype)
    else:
        given = {"revision": revision, "token": token, "dtype": dtype}
        loading = {name: value for name, value in given.items() if value is not None}
        folder, model = model, entry.model_loader.from_pretrained(model, **loading)
        if entry.needs_texts:
            processor = processor or load_processor(folder, **location_options(loading))
        elif feature_extractor is None and processor is None:
            feature_extractor = load_feature_extractor(folder, **location_options(loading))
    parts = {"feature_extractor": feature_extractor, "processor": processor}
    parts = {name: part for name, part in parts.items() if part is not None}
    return transformers_pipeline(task, model=model, device=device, **parts, **options)


def register_pipelines() -> None:
    """Make the tasks known to `transformers.pipeline`. Repeating it changes nothing."""
    for task, entry in PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=entry.get_class(), pt_model=entry.model_loader)


register_pipelines()
