"""The recorded pre-processing and file rules of DeepECG."""

import json
import warnings

import numpy as np
import pytest
import torch
from deepecg_reference import amplitude_factor, flatten_peaks
from safetensors.numpy import load_file

from ecg_transformers import STANDARD_LEADS, ECGFeatureExtractor, ECGReadError, read_ecg
from ecg_transformers.feature_extraction.amplitude_factor import estimate_amplitude_factor
from ecg_transformers.feature_extraction.ecg_recipes import RECIPES
from ecg_transformers.feature_extraction.signal_steps import SignalBatch, apply_recipe
from ecg_transformers.feature_extraction.spectral_peaks import (
    find_crossings,
    find_peak_ranges,
    flatten_magnitudes,
    flatten_spectral_peaks,
)

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@pytest.fixture(scope="module")
def preprocessing(golden):
    folder = golden / "deepecg_sl" / "preprocessing"
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    facts = json.loads((folder / "facts.json").read_text())
    atol = json.loads((folder / "case.json").read_text())["atol"]
    return inputs, outputs, facts, atol


def leads_first(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor(array.swapaxes(-1, -2).copy(), dtype=dtype)


def batch_of(signal: torch.Tensor, sampling_rate: float = 250) -> SignalBatch:
    valid = torch.ones(signal.shape[0], signal.shape[-1], dtype=torch.bool)
    return SignalBatch(signal, sampling_rate, valid, torch.arange(len(signal)))


def close(ours: torch.Tensor, expected: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(ours.numpy(), expected, atol=atol, rtol=0)


@PRECISIONS
def test_scaling_and_flattening_of_the_batch(preprocessing, dtype):
    inputs, outputs, facts, atol = preprocessing
    signal = leads_first(inputs["adc_counts"], dtype)
    mean = torch.fft.fft(signal[:, 0]).abs().mean(0)
    np.testing.assert_allclose(mean, outputs["mean_spectrum_lead0"], rtol=1e-5)
    recipe = [
        {"step": "scale_amplitude", "factor": facts["factor"]},
        {"step": "flatten_spectral_peaks", "statistics": "batch"},
    ]
    scaled = apply_recipe(batch_of(signal), recipe[:1]).signal
    close(scaled[0].T, outputs["scaled_record0"], atol)
    cleaned = apply_recipe(batch_of(signal), recipe).signal
    close(cleaned.transpose(1, 2), outputs["cleaned"], atol)

    spectra = torch.fft.rfft(scaled).abs()[..., :1250].mean(0, keepdim=True)
    record, ranges = find_peak_ranges(spectra[:, 0], 2500, 250)
    close(ranges, outputs["peak_ranges"], atol)
    found = find_crossings(spectra, (record, ranges), 2500, 250).transpose(0, 1)
    close(found, outputs["crossings"], atol)
    widened = found + torch.tensor([-1.0, 1.0])
    close(widened, outputs["flatten_ranges"], atol)


@PRECISIONS
def test_a_quiet_batch_is_returned_unchanged(preprocessing, dtype):
    inputs, _, facts, _ = preprocessing
    signal = leads_first(inputs["quiet"], dtype) * facts["quiet_factor"]
    for statistics in ("batch", "record"):
        assert torch.equal(flatten_spectral_peaks(signal, 250, statistics=statistics), signal)


@PRECISIONS
def test_flattening_alone(preprocessing, dtype):
    inputs, outputs, facts, atol = preprocessing
    lead = torch.tensor(inputs["flatten_input"], dtype=dtype)[None, None]
    bounds = torch.tensor(facts["flatten_test_ranges_hz"], dtype=torch.float64)[:, None]
    record = torch.zeros(2, dtype=torch.int64)
    close(flatten_magnitudes(lead, record, bounds, 250)[0, 0], outputs["flatten_output"], atol)
    inverted = flatten_magnitudes(lead, record, bounds.flip(-1), 250)[0, 0]
    close(inverted, outputs["flatten_output_inverted_range"], atol)
    lead[..., 100:110] = 0
    close(flatten_magnitudes(lead, record, bounds, 250)[0, 0], outputs["flatten_output_with_nan_input"], atol)


def test_the_factor_of_a_corpus(preprocessing):
    inputs, _, facts, _ = preprocessing
    # The extractor takes no raw counts: as microvolts they have a thousand times the factor.
    for key, factor in (("adc_counts", facts["factor"]), ("quiet", facts["quiet_factor"])):
        records = inputs[key].astype(np.float64).swapaxes(1, 2)
        unit, scale = ("uV", 1e3) if key == "adc_counts" else ("mV", 1)
        found = estimate_amplitude_factor(records, sampling_rate=250, units=unit)
        assert found == pytest.approx(scale * factor, rel=1e-6)
        assert amplitude_factor(records[:, 0]) == pytest.approx(factor, rel=1e-6)
    for record, factor in zip(inputs["adc_counts"], facts["single_record_factors_if_processed_alone"], strict=True):
        found = estimate_amplitude_factor(record.T, sampling_rate=250, units="uV")
        assert found == pytest.approx(1e3 * factor, rel=1e-6)


def test_the_reference_reproduces_the_fixture(preprocessing):
    inputs, outputs, facts, atol = preprocessing
    scaled = inputs["adc_counts"].astype(np.float64).swapaxes(1, 2) * facts["factor"]
    np.testing.assert_allclose(flatten_peaks(scaled, 250).swapaxes(1, 2), outputs["cleaned"], atol=atol, rtol=0)


@pytest.fixture(scope="module")
def file_facts(golden):
    return json.loads((golden / "deepecg_sl" / "file_handling" / "facts.json").read_text())


def test_npy_files_are_read_and_sliced_as_by_the_original(file_facts, tmp_path):
    step = RECIPES["deepecg_sl_original"]["recipe"][1]
    outcomes = []
    for rule in file_facts["npy_rules"]:
        if rule.get("contains_nan"):
            continue
        shape = rule["input_shape"]
        # In tenths of a microvolt, or the reader would say that no lead spans 60 V.
        np.save(tmp_path / "record.npy", 0.1 * np.arange(np.prod(shape)).reshape(shape))
        outcomes.append(rule["status"])
        try:
            record = read_ecg(tmp_path / "record.npy", sampling_rate=250, lead_names=STANDARD_LEADS, units="uV")
        except ECGReadError as error:
            assert rule["message"].startswith("Wrong lead count") and "12" in str(error), error
            continue
        start = batch_of(torch.tensor(record.signal)[None])
        if rule["status"] == "Failed":
            with pytest.raises(ValueError, match="takes recordings of 2500 samples or more"):
                apply_recipe(start, [step])
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = 1e4 * apply_recipe(start, [step]).signal[0].T
        assert list(result.shape) == rule["output_shape"]
        np.testing.assert_allclose(result[1, :3], rule["output_row1_first3"], rtol=1e-6)
        np.testing.assert_allclose(result[-1, :3], rule["output_last_row_first3"], rtol=1e-6)
    assert outcomes.count("Success") == 10 and outcomes.count("Failed") == 4


def test_what_the_original_rejects_is_padded_or_filled(preprocessing):
    """NaN and recordings below 10 s: the original refuses both."""
    extractor = ECGFeatureExtractor.for_model_type("deepecg_ssl")
    signal = preprocessing[0]["quiet"][0].T.copy()
    short = extractor(signal[:, :2000], sampling_rate=250)
    assert short.input_values.shape == (1, 12, 2500) and not short.input_values[..., 2000:].any()
    assert short.attention_mask[0].sum() == 2000
    signal[3, 100:110] = np.nan
    with pytest.warns(UserWarning, match="NaN"):
        filled = extractor(signal, sampling_rate=250)
    assert np.isfinite(filled.input_values).all() and filled.lead_mask.all()
    # A lead of which most is missing is marked
    signal[3, 100:1500] = np.nan
    with pytest.warns(UserWarning, match="NaN"):
        filled = extractor(signal, sampling_rate=250)
    assert np.isfinite(filled.input_values).all() and filled.lead_mask[0].tolist() == [1] * 3 + [0] + [1] * 8


def test_base64_files_are_read(file_facts, tmp_path):
    example = file_facts["base64_example"]
    (tmp_path / "record.base64").write_text(example["text"])
    record = read_ecg(tmp_path / "record.base64")
    np.testing.assert_array_equal(record.signal.T, np.array(example["values_float32"], dtype=np.float32))
    assert record.lead_names == STANDARD_LEADS and record.sampling_rate == 250
