"""What is exported of a model folder: tensors in, named tensors out."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from ..inference import ECGInference
from ..model_folders import load_model

# What the feature extractor returns for a model, in the order in which exports take it
_INPUT_NAMES = ("input_values", "attention_mask", "lead_mask")
# Seconds of recording whose shape is exported where the recipe cuts no windows
_SECONDS_OF_WHOLE_RECORDINGS = 10.0


class ExportableModel(nn.Module):
    """A model as it is exported: what the feature extractor returns goes in, named float32 tensors come out.

    Args:
        model (`PreTrainedModel`): a classifier, or with `features` a backbone.
        features (`bool`): give `get_ecg_features` instead of the head's outputs.
    """

    def __init__(self, model: nn.Module, features: bool):
        super().__init__()
        self.model = model
        self.features = features
        taken = inspect.signature(model.forward).parameters
        self.input_names = tuple(name for name in _INPUT_NAMES if name in taken)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        if self.features:
            return ("features",)
        return ("values",) if self.model.config.problem_type == "regression" else ("logits", "probabilities")

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor, lead_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return `features`, or `values` of a regression, or `logits` and their `probabilities`.

        Probabilities are the softmax of the logits in a single-label problem, else their sigmoid, as in `predict`.
        """
        inputs = {"input_values": input_values, "attention_mask": attention_mask}
        if lead_mask is not None:
            inputs["lead_mask"] = lead_mask
        if self.features:
            return {"features": self.model.get_ecg_features(**inputs).float()}
        logits = self.model(**inputs).logits.float()
        problem_type = self.model.config.problem_type
        if problem_type == "regression":
            return {"values": logits}
        single = problem_type == "single_label_classification"
        return {"logits": logits, "probabilities": logits.softmax(-1) if single else logits.sigmoid()}


@dataclass
class ExportSource:
    """A model folder that is exported.

    Args:
        folder (`str` or `Path`): folder or Hub id.
        inference ([`ECGInference`]): model as loaded, extractor, labels and thresholds.
        reference ([`ExportableModel`]): the model as loaded, in float32; what exports are compared with.
        dynamic_length (`bool`): whether the export takes records of any length.
        num_samples (`int`): samples in a row of `input_values` for one window.
    """

    folder: str | Path
    inference: ECGInference
    reference: ExportableModel
    dynamic_length: bool
    num_samples: int

    @property
    def extractor(self) -> ECGFeatureExtractor:
        """The extractor whose recipe belongs to the model."""
        return self.inference.extractor

    @property
    def seconds(self) -> float:
        """Length of recordings that fill a row: the recipe's window."""
        return self.extractor.window_seconds or _SECONDS_OF_WHOLE_RECORDINGS

    def load_for_export(self, dtype: torch.dtype = torch.float32) -> ExportableModel:
        """Load the model once more, without what its outputs do not need, and with its weights computed.

        Of a model with a text encoder the ECG branch is left; weights that are a product of parameters (the positional
        convolution of HuBERT and wav2vec 2.0) become plain tensors, or each call would compute them.
        """
        model = self.reference.model
        config = copy.deepcopy(model.config)
        if getattr(config, "ecg_only", None) is False:
            config.ecg_only = True
        loaded = load_model(self.folder, type(model), config=config, dtype=dtype)
        for module in list(loaded.modules()):
            if parametrize.is_parametrized(module):
                for name in list(module.parametrizations):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        return ExportableModel(loaded.requires_grad_(False), self.reference.features).eval()
