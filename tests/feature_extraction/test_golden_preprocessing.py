"""The recorded preprocessing stages of HuBERT-ECG, in double and in single precision."""

import json

import numpy as np
import pytest
import torch

from ecg_transformers import ECGFeatureExtractor
from ecg_transformers.feature_extraction.signal_operations import bandpass_fir_taps, decimate_zero_phase
from ecg_transformers.feature_extraction.signal_steps import SignalBatch, apply_recipe

CASES = ["1000hz", "250hz", "257hz", "400hz", "500hz", "flat_and_nan", "real"]
FILTER_FIRST = ECGFeatureExtractor.for_model_type("hubert_ecg", recipe="hubert_ecg_filter_first")
DEFAULT = ECGFeatureExtractor.for_model_type("hubert_ecg")


def load(golden, case):
    folder = golden / "hubert_ecg" / f"preprocessing_{case}"
    return (
        np.load(folder / "inputs.npz"),
        np.load(folder / "outputs.npz"),
        json.loads((folder / "case.json").read_text()),
    )


def run_steps(raw: np.ndarray, sampling_rate: float, recipe: list[dict]) -> torch.Tensor:
    signal = torch.tensor(raw, dtype=torch.float64)[None]
    valid = torch.ones(1, signal.shape[-1], dtype=torch.bool)
    return apply_recipe(SignalBatch(signal, sampling_rate, valid, torch.zeros(1, dtype=torch.int64)), recipe)


@pytest.mark.parametrize("case", CASES)
def test_stages_of_the_filter_first_order(golden, case):
    inputs, outputs, facts = load(golden, case)
    atol = facts["atol_by_output"]
    rate = int(inputs["sampling_rate"])
    np.testing.assert_allclose(bandpass_fir_taps(0.05, 47, rate, 0.3), outputs["fir_taps"], atol=atol["fir_taps"])
    stored = outputs["leads_stored"]
    recipe = FILTER_FIRST.recipe
    for steps, name in ((1, "bandpass"), (2, "resampled")):
        stage = run_steps(inputs["raw"], rate, recipe[:steps]).signal[0].numpy()
        np.testing.assert_allclose(stage[stored], outputs[name], atol=atol[name], rtol=0)
    scaled = run_steps(inputs["raw"], rate, recipe[:3]).signal[0].numpy()
    np.testing.assert_allclose(scaled, outputs["scaled"], atol=atol["scaled"], rtol=0)


@pytest.mark.filterwarnings("ignore::ecg_transformers.feature_extraction.feature_extraction_ecg.ECGSignalWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_model_input_of_the_filter_first_order(golden, case, dtype):
    inputs, outputs, facts = load(golden, case)
    batch = FILTER_FIRST(inputs["raw"].astype(dtype), sampling_rate=int(inputs["sampling_rate"]))
    atol = facts["atol_by_output"]["model_input"] if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(batch.input_values[0], outputs["model_input"], atol=atol, rtol=0)
    atol = facts["atol_by_output"]["model_input_from_float32_file"]
    np.testing.assert_allclose(batch.input_values[0], outputs["model_input_from_float32_file"], atol=atol, rtol=0)
    np.testing.assert_array_equal(batch.attention_mask[0], outputs["attention_mask"])


@pytest.mark.parametrize("case", ["1000hz", "250hz", "257hz", "400hz"])
def test_the_default_is_the_order_of_the_published_weights(golden, case):
    inputs, outputs, facts = load(golden, case)
    scaled = run_steps(inputs["raw"], int(inputs["sampling_rate"]), DEFAULT.recipe[:3]).signal[0].numpy()
    expected = outputs["scaled_older_order"]
    np.testing.assert_allclose(scaled[: len(expected)], expected, atol=facts["atol_by_output"]["scaled"], rtol=0)


PADDED = ["trailing_zeros", "leading_zeros", "middle_zeros", "all_zero", "short_4s", "one_lead_trailing_zeros"]


@pytest.mark.parametrize("name", PADDED)
def test_decimation_of_zero_padded_recordings(golden, name):
    inputs, outputs, facts = load(golden, "padding")
    row = torch.tensor(inputs[name], dtype=torch.float64).flatten()[None]
    ours = decimate_zero_phase(row, 5)[0].to(torch.float32).numpy()
    np.testing.assert_allclose(ours, outputs[f"{name}.model_input"], atol=facts["atol"], rtol=0)


@pytest.mark.parametrize("name", [*PADDED, "mask_only_a", "mask_only_b", "mask_only_c"])
def test_zero_padding_is_found_by_the_rule_of_the_original(golden, name):
    inputs, outputs, _ = load(golden, "padding")
    views = {"attention_mask": 0} if name.startswith("mask_only") else {"attention_mask": 5, "attention_mask_500hz": 0}
    for output, factor in views.items():
        row = torch.tensor(inputs[name]).flatten()[None]
        row = decimate_zero_phase(row.to(torch.float64), factor) if factor else row
        leads = row.reshape(1, 12, -1)
        batch = SignalBatch(leads, 100, torch.ones_like(leads[:, 0], dtype=torch.bool), torch.zeros(1))
        ours = apply_recipe(batch, [{"step": "mask_zero_padding"}, {"step": "concatenate_leads"}]).valid[0]
        np.testing.assert_array_equal(ours.numpy(), outputs[f"{name}.{output}"])


def test_windows_of_a_decimated_ten_second_row(golden):
    """The test-time windows of the original: decimate the concatenated 10 s, then cut 5 s at 100 Hz."""
    folder = golden / "hubert_ecg" / "tta"
    inputs, outputs = np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")
    for record, start in enumerate(inputs["dataset_crop_start_500hz"]):
        piece = torch.tensor(inputs[f"record_{record}"][:, start : start + 5000], dtype=torch.float64)
        row = decimate_zero_phase(piece.flatten()[None], 5)[0].to(torch.float32).numpy()
        np.testing.assert_allclose(row, outputs["decimated_10s"][record], atol=2e-6, rtol=0)
