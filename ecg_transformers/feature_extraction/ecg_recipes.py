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

# Gaps are bridged before resampling, which would spread them over their lead (ours; the originals of these take none).
_BRIDGE_GAPS = {"step": "fill_nan", "value": "interpolate"}

# D-BETA (arXiv 2410.02131 and the code published with it): 12 x 5000 samples in mV, nothing filtered, nothing scaled.
_DBETA = [_BRIDGE_GAPS, {"step": "resample", "sampling_rate": 500}, {"step": "crop", "seconds": 10}]

# DeepECG (medRxiv 10.1101/2025.03.02.25322575, and the inference code published with it): 10 s at 250 Hz in mV. Three
# things of the original depend on chance and are fixed here.
# - It multiplies a batch by 3.003154 / mean |FFT| of lead I over the batch. Here the factor is a number in the recipe.
#   1 keeps the mV that the networks were trained on (counts x 0.00488). With records in mV the original's factor is
#   1.08 over 135 records of PTB-XL, 1.11 over 127 of CinC 2021, and 0.65 to 2.3 for a PTB-XL record alone (5 to 95 %).
#   `estimate_amplitude_factor` finds the original's for a corpus.
# - It looks for spectral peaks in the mean spectrum of a batch. Here each record is judged by its own spectrum.
# - It brings longer recordings to 2500 samples by slicing, whatever their rate. Here they are resampled; the recipes
#   named `..._original` slice.
# The original refuses recordings below 2500 samples and with NaN; here they are padded and masked, or filled, and a
# lead of which most is missing is marked.
_DEEPECG_RATE = [_BRIDGE_GAPS, {"step": "resample", "sampling_rate": 250}, {"step": "crop", "seconds": 10}]
_DEEPECG_ORIGINAL_RATE = [_BRIDGE_GAPS, {"step": "slice_stride", "num_samples": 2500, "sampling_rate": 250}]
_DEEPECG_REST = [
    {"step": "scale_amplitude", "factor": 1.0},
    {"step": "flatten_spectral_peaks", "statistics": "record"},
]
# The supervised network takes counts: the original multiplies its input by 1 / 0.0048, in the caller's array.
_DEEPECG_SL_UNIT = {"step": "convert_to_counts", "millivolts_per_count": 0.0048}

# Hybrid ECG (arXiv 2407.07110) publishes no preprocessing. Rate, filters and scale are those of ST-MEM
# (`configs/pretrain/st_mem.yaml`), the window of 10 s is ours.
_HYBRID_ECG = [
    _BRIDGE_GAPS,
    {"step": "resample", "sampling_rate": 250},
    {"step": "bandpass_butterworth", "low": 0.67, "high": 40, "order": 5},
    {"step": "scale_zscore", "per": "record"},
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
    "deepecg_ssl": {
        "lead_names": STANDARD_LEADS,
        "recipe": [*_DEEPECG_RATE, *_DEEPECG_REST],
    },
    "deepecg_ssl_original": {
        "lead_names": STANDARD_LEADS,
        "recipe": [*_DEEPECG_ORIGINAL_RATE, *_DEEPECG_REST],
    },
    "deepecg_sl": {
        "lead_names": STANDARD_LEADS,
        "recipe": [*_DEEPECG_RATE, *_DEEPECG_REST, _DEEPECG_SL_UNIT],
    },
    "deepecg_sl_original": {
        "lead_names": STANDARD_LEADS,
        "recipe": [*_DEEPECG_ORIGINAL_RATE, *_DEEPECG_REST, _DEEPECG_SL_UNIT],
    },
    "hybrid_ecg": {"lead_names": STANDARD_LEADS, "recipe": _HYBRID_ECG},
    # ECG-FM (bowang-lab/ECG-FM), the same network at 500 Hz over 5 s. Its publication names no filter.
    "ecg_fm": {
        "lead_names": STANDARD_LEADS,
        "recipe": [_BRIDGE_GAPS, {"step": "resample", "sampling_rate": 500}, {"step": "crop", "seconds": 5}],
    },
}

RECIPES_OF_MODEL_TYPE: dict[str, tuple[str, ...]] = {
    "hubert_ecg": ("hubert_ecg", "hubert_ecg_filter_first"),
    "dbeta": ("dbeta",),
    "deepecg_ssl": ("deepecg_ssl", "deepecg_ssl_original", "ecg_fm"),
    "deepecg_sl": ("deepecg_sl", "deepecg_sl_original"),
    "hybrid_ecg": ("hybrid_ecg",),
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
