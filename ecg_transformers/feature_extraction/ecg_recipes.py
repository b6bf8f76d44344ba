"""Input recipes of the models, as data: the ordered steps from millivolts to model input.

A checkpoint carries its recipe in `preprocessor_config.json`. Checkpoints that were published without that file get
the recipe of their model type, the first one listed for it.
"""

import copy
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from .ecg_leads import STANDARD_LEADS

# HuBERT-ECG (Coppola et al., medRxiv 10.1101/2024.11.14.24317328, and the code published with it). The band-pass lasts
# 0.3 s, far too short for its edge of 0.05 Hz: offset and wander stay in (gain 0.963 at 0 Hz), 50 Hz is at 0.011.
# Decimation by 5 runs over the concatenated row, so the filter rings across the joints of the leads, as in training.
_HUBERT_ECG_FILTER = {"step": "bandpass_fir", "low": 0.05, "high": 47, "seconds": 0.3}
_HUBERT_ECG_RATE = {"step": "resample", "sampling_rate": 500}
_HUBERT_ECG_REST = [
    {"step": "scale_minmax", "per": "lead"},
    {"step": "crop", "seconds": 5},
    {"step": "fill_nan", "value": "mean"},
    {"step": "concatenate_leads"},
    {"step": "decimate", "factor": 5},
]

# D-BETA (arXiv 2410.02131 and the code published with it): 12 x 5000 samples in mV, nothing filtered, nothing scaled.
# Gaps are bridged before resampling, which would spread them over their lead (ours; the original takes none).
_DBETA = [
    {"step": "fill_nan", "value": "interpolate"},
    {"step": "resample", "sampling_rate": 500},
    {"step": "crop", "seconds": 10},
]

RECIPES: dict[str, dict] = {
    # The published weights were trained before December 2025, when resampling came first.
    "hubert_ecg": {
        "lead_names": STANDARD_LEADS,
        "recipe": [_HUBERT_ECG_RATE, _HUBERT_ECG_FILTER, *_HUBERT_ECG_REST],
    },
    # Since December 2025 the original filters at the record's own rate, then resamples.
    "hubert_ecg_filter_first": {
        "lead_names": STANDARD_LEADS,
        "recipe": [_HUBERT_ECG_FILTER, _HUBERT_ECG_RATE, *_HUBERT_ECG_REST],
    },
    "dbeta": {"lead_names": STANDARD_LEADS, "recipe": _DBETA},
}

RECIPES_OF_MODEL_TYPE: dict[str, tuple[str, ...]] = {
    "hubert_ecg": ("hubert_ecg", "hubert_ecg_filter_first"),
    "dbeta": ("dbeta",),
}


def adapt_hubert_ecg_recipe(recipe: list[dict], conv_stride: Sequence[int]) -> list[dict]:
    """Return HuBERT-ECG's recipe at the sampling rate that a model's convolutions were made for.

    The original decimates 5 s at 500 Hz by 5, by 10, or not at all, and chooses convolutions that make 93 tokens of
    the row in every case; so their stride tells the decimation.

    Raises:
        ValueError: if the convolutions fit none of the three.
    """
    factors = {64: 5, 32: 10, 320: 1}
    stride = prod(conv_stride)
    if stride not in factors:
        raise ValueError(
            f"`conv_stride` {list(conv_stride)} (in all {stride}) belongs to no sampling rate of HuBERT-ECG: 64 is "
            "for 100 Hz, 32 for 50 Hz, 320 for 500 Hz. Pass the `feature_extractor` of the model's training, or store "
            "it in the folder."
        )
    recipe = copy.deepcopy(recipe)
    for entry in recipe:
        if entry["step"] == "decimate":
            entry["factor"] = factors[stride]
    return [entry for entry in recipe if entry["step"] != "decimate" or entry["factor"] > 1]


# model type -> function (recipe, configuration) -> the recipe for a model of that configuration
RECIPE_ADAPTERS: dict[str, Callable[[list[dict], Any], list[dict]]] = {
    "hubert_ecg": lambda recipe, config: adapt_hubert_ecg_recipe(recipe, config.conv_stride),
}
