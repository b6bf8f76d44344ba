"""Pipelines over ECG files, records, arrays and data sets, registered with transformers by importing this package."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoModel, PreTrainedModel
from transformers import pipeline as transformers_pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..model_folders import usable_device
from .loading import load_zero_shot_model

if TYPE_CHECKING:
    from .base import ECGPipeline

__all__ = ["list_tasks", "pipeline", "register_pipelines"]


@dataclass(frozen=True)
class PipelineEntry:
    """A task: the class of its pipeline, what loads its model, and for which Auto class.

    Args:
        module (`str`): module of this package that defines the class.
        pipeline_class (`str`): name of the class.
        load: function of folder, device and options that returns model and processor.
        auto_class: Auto class of transformers that the model is loaded with.
    """

    module: str
    pipeline_class: str
    load: Any
    auto_class: Any

    def get_class(self) -> type[ECGPipeline]:
        """Import the class of the pipeline."""
        return getattr(importlib.import_module(f".{self.module}", __package__), self.pipeline_class)


PIPELINES = {
    "zero-shot-ecg-classification": PipelineEntry(
        "zero_shot_ecg_classification", "ZeroShotECGClassificationPipeline", load_zero_shot_model, AutoModel
    ),
}


def list_tasks() -> list[str]:
    """Return the tasks of this package, sorted."""
    return sorted(PIPELINES)


def pipeline(
    task: str,
    model: str | Path | PreTrainedModel,
    *,
    processor: Any = None,
    device: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    dtype: Any = None,
    **options: Any,
) -> ECGPipeline:
    """Build a pipeline from a model folder: files, records or arrays in, answers out.

    Model and processor are loaded by local code only; code that a folder or a Hub repository brings is never run.

    Args:
        task (`str`): see `list_tasks`; now `"zero-shot-ecg-classification"`.
        model (`str`, `Path` or `PreTrainedModel`): a model folder, a Hub id, or a loaded model with `processor=`.
        processor (*optional*): the processor of the model, if not the one of its folder.
        device (*optional*): `"cpu"`, `"cuda:1"`, a GPU's number, or a `torch.device`. Default: the first GPU, else the
            CPU.
        revision (`str`, *optional*): branch, tag or commit of a Hub model.
        token (`str` or `bool`, *optional*): of the Hub, for private repositories.
        dtype (*optional*): of the weights, such as `torch.bfloat16`. Default: as saved.
        **options: passed to the pipeline: `batch_size`, `num_workers`, and defaults of its call, such as
            `candidate_labels`.

    Returns:
        A `transformers.Pipeline`; its class' docstring tells what a call takes and gives.

    Raises:
        ValueError: for an unknown task, device or folder, or a model that the task cannot use.

    Example:
        ```python
        zero_shot = et.pipeline("zero-shot-ecg-classification", model="dbeta")
        zero_shot("JS00001.hea", candidate_labels=["atrial fibrillation", "sinus rhythm"])
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
        if processor is None:
            raise ValueError("A loaded model needs its processor too: pass processor=.")
        if dtype is not None:
            model = model.to(dtype)
    else:
        given = {"revision": revision, "token": token, "dtype": dtype}
        loading = {name: value for name, value in given.items() if value is not None}
        model, own_processor = entry.load(model, device, processor=processor, **loading)
        processor = own_processor
    return transformers_pipeline(task, model=model, processor=processor, device=device, **options)


def register_pipelines() -> None:
    """Make the tasks known to `transformers.pipeline`. Repeating it changes nothing."""
    for task, entry in PIPELINES.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.register_pipeline(task, pipeline_class=entry.get_class(), pt_model=entry.auto_class)


register_pipelines()
