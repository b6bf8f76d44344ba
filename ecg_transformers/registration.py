"""The one table of models: what exists, and how transformers and datasets come to know it."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass, field
from types import ModuleType

import transformers

from .post_import import call_after_import


@dataclass(frozen=True)
class ModelEntry:
    """One row of the table: a model type and where its parts are.

    Args:
        model_type (`str`): name of the model type and of its folder under `models/`.
        config_class (`str`): name of the configuration class in `configuration_<model_type>`.
        model_classes (`dict[str, str]`): name of an Auto class of transformers -> name of a class in
            `modeling_<model_type>`.
        processor_class (`str`, *optional*): name of the class in `processing_<model_type>`, where a model takes more
            than recordings; else the feature extractor is the processor.
        has_originals (`bool`): whether there are weights of other code, which `convert_<model_type>` converts.
    """

    model_type: str
    config_class: str
    model_classes: dict[str, str] = field(default_factory=dict)
    processor_class: str | None = None
    has_originals: bool = True

    def import_part(self, part: str) -> ModuleType:
        """Import `configuration`, `modeling`, `convert` or `processing` of this model."""
        return importlib.import_module(f".models.{self.model_type}.{part}_{self.model_type}", __package__)

    def get_config_class(self) -> type:
        """Return the configuration class."""
        return getattr(self.import_part("configuration"), self.config_class)

    def get_model_class(self, auto_class: str = "AutoModel") -> type:
        """Return the class that an Auto class of transformers gives for this model.

        Raises:
            KeyError: if the model has no class for it.
        """
        return getattr(self.import_part("modeling"), self.model_classes[auto_class])

    def get_processor_class(self) -> type | None:
        """Return the processor class, or `None` if the feature extractor is all that the model needs."""
        return self.processor_class and getattr(self.import_part("processing"), self.processor_class)


MODELS = (
    ModelEntry(
        model_type="hubert_ecg",
        config_class="HubertECGConfig",
        model_classes={
            "AutoModel": "HubertECGModel",
            "AutoModelForPreTraining": "HubertECGForPreTraining",
            "AutoModelForSequenceClassification": "HubertECGForSequenceClassification",
        },
    ),
    ModelEntry(
        model_type="dbeta",
        config_class="DBetaConfig",
        model_classes={
            "AutoModel": "DBetaModel",
            "AutoModelForPreTraining": "DBetaForPreTraining",
            "AutoModelForSequenceClassification": "DBetaForSequenceClassification",
        },
        processor_class="DBetaProcessor",
    ),
    ModelEntry(
        model_type="deepecg_ssl",
        config_class="DeepECGSSLConfig",
        model_classes={
            "AutoModel": "DeepECGSSLModel",
            "AutoModelForPreTraining": "DeepECGSSLForPreTraining",
            "AutoModelForSequenceClassification": "DeepECGSSLForSequenceClassification",
        },
    ),
    ModelEntry(
        model_type="deepecg_sl",
        config_class="DeepECGSLConfig",
        model_classes={
            "AutoModel": "DeepECGSLModel",
            "AutoModelForSequenceClassification": "DeepECGSLForSequenceClassification",
        },
    ),
    ModelEntry(
        model_type="hybrid_ecg",
        config_class="HybridECGConfig",
        model_classes={
            "AutoModel": "HybridECGModel",
            "AutoModelForPreTraining": "HybridECGForPreTraining",
            "AutoModelForSequenceClassification": "HybridECGForSequenceClassification",
        },
        has_originals=False,
    ),
)


def find_model(model_type: str) -> ModelEntry:
    """Return the row of a model type.

    Raises:
        ValueError: if the package has no such model.
    """
    for entry in MODELS:
        if entry.model_type == model_type:
            return entry
    raise ValueError(f"No model type {model_type!r}; this package has {[entry.model_type for entry in MODELS]}.")


def register_all() -> None:
    """Register models with the Auto classes, pipelines with transformers, and the `ECG` feature with datasets.

    Repeating it changes nothing.

    A registered class wins over code that a checkpoint brings along: nothing is downloaded, asked or run.
    """
    from .corpora.feature_registration import register_ecg_feature
    from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor

    for entry in MODELS:
        config_class = entry.get_config_class()
        transformers.AutoConfig.register(entry.model_type, config_class)
        for auto_class in entry.model_classes:
            getattr(transformers, auto_class).register(config_class, entry.get_model_class(auto_class))
        transformers.AutoFeatureExtractor.register(config_class, ECGFeatureExtractor)
        # Without an entry, AutoProcessor tries image processors first, and asks about code in the folder
        transformers.AutoProcessor.register(config_class, entry.get_processor_class() or ECGFeatureExtractor)
    register_ecg_feature()
    # Only those who use pipelines pay for importing them.
    call_after_import("transformers.pipelines", _register_pipelines)


def _register_pipelines() -> None:
    # Importing the module registers them. Whoever imports transformers' pipelines must not fail because of us.
    try:
        importlib.import_module(".pipelines", __package__)
    except Exception as error:
        warnings.warn(f"The ECG pipelines could not be registered with transformers: {error!r}.", stacklevel=2)
