"""What the training scripts share: arguments, collator, layer groups, callbacks, and the run itself.

Names are loaded on first use, so importing the package stays cheap.
"""

import importlib
from typing import Any

# public name -> module that defines it
_PUBLIC_NAMES = {
    "ModelArguments": ".arguments",
    "DataArguments": ".arguments",
    "EvaluationArguments": ".arguments",
    "FinetuningArguments": ".arguments",
    "parse_finetuning_arguments": ".arguments",
    "ECGCollator": ".data",
    "CorpusSplit": ".data",
    "label_matrix": ".data",
    "positive_weights": ".data",
    "ECGTrainer": ".trainer",
    "aggregate_logits": ".trainer",
    "DynamicRegularizerCallback": ".callbacks",
    "CropEpochCallback": ".callbacks",
    "GracefulStopCallback": ".callbacks",
    "ReadableProgressCallback": ".callbacks",
    "freeze_layers": ".layer_groups",
    "layer_names": ".layer_groups",
    "parameter_groups": ".layer_groups",
    "FineTuneResult": ".finetuning",
    "TrainingInterrupted": ".finetuning",
    "finetune": ".finetuning",
    "DEMO_SETTINGS": ".presets",
    "demo_arguments": ".presets",
}

__all__ = sorted(_PUBLIC_NAMES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    module = _PUBLIC_NAMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(module, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
