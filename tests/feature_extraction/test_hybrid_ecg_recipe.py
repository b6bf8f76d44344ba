"""Hybrid ECG's input: 250 Hz, 0.67 to 40 Hz, one scale for the whole record, 10 s."""

import json

import numpy as np
import pytest
import scipy.signal

from ecg_transformers import ECGFeatureExtractor, HybridECGConfig
from ecg_transformers.feature_extraction.feature_extraction_ecg import ECGSignalWarning

EXTRACTOR = ECGFeatureExtractor.for_model_type("hybrid_ecg")


def ecg(seconds=10.0, rate=500, seed=0):
    random = np.random.default_rng(seed)
    samples = round(seconds * rate)
    wander = 0.3 * np.sin(2 * np.pi * 0.2 * np.arange(samples) / rate + random.uniform(0, 6, (12, 1)))
    return (wander + 0.2 * random.standard_normal((12, samples)).cumsum(-1) / 20 + 0.5).astype(np.float64)


def reference(signal, rate):
    """The recipe with SciPy, record by record."""
    signal = scipy.signal.resample(signal, int(signal.shape[1] * 250 / rate), axis=-1)
    for kind, cutoff in (("highpass", 0.67), ("lowpass", 40)):
        signal = scipy.signal.sosfiltfilt(scipy.signal.butter(5, cutoff, kind, fs=250, output="sos"), signal)
    return ((signal - signal.mean()) / signal.std())[:, :2500]


@pytest.mark.parametrize("rate", [100, 250, 400, 500, 1000])
def test_the_recipe_equals_scipy(rate):
    for seconds in (10, 13):
        signal = ecg(seconds, rate)
        batch = EXTRACTOR(signal, sampling_rate=rate)
        assert batch.input_values.shape == (1, 12, 2500) and batch.attention_mask.all()
        np.testing.assert_allclose(batch.input_values[0], reference(signal, rate), atol=1e-5)


def test_short_records_are_padded_and_masked():
    signal = ecg(7.3)
    batch = EXTRACTOR(signal, sampling_rate=500)
    assert batch.attention_mask[0].tolist() == [1] * 1825 + [0] * 675
    np.testing.assert_allclose(batch.input_values[0, :, :1825], reference(signal, 500), atol=1e-5)
    assert not batch.input_values[0, :, 1825:].any()


def test_missing_leads_leave_the_others_as_they_are():
    signal = ecg()
    present = [0, 1, 2, 3, 4, 5, 7, 9]
    names = [EXTRACTOR.lead_names[lead] for lead in present]
    with pytest.warns(ECGSignalWarning, match="V1"):
        batch = EXTRACTOR(signal[present], sampling_rate=500, lead_names=names)
    assert batch.lead_mask[0].nonzero()[0].tolist() == present
    np.testing.assert_allclose(batch.input_values[0, present], reference(signal[present], 500), atol=1e-5)
    assert not np.delete(batch.input_values[0], present, axis=0).any()
    # A flat lead with an offset is the same as a missing one
    flat = signal.copy()
    flat[[6, 8, 10, 11]] = 1.7
    with pytest.warns(ECGSignalWarning, match="Flat"):
        again = EXTRACTOR(flat, sampling_rate=500)
    np.testing.assert_allclose(again.input_values, batch.input_values, atol=1e-5)


def test_ten_seconds_are_fifty_tokens_and_the_recipe_travels(tmp_path):
    assert HybridECGConfig().count_tokens(int(EXTRACTOR.window_seconds * EXTRACTOR.sampling_rate)) == 50
    EXTRACTOR.save_pretrained(tmp_path)
    assert ECGFeatureExtractor.from_pretrained(tmp_path).recipe == EXTRACTOR.recipe
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["sampling_rate"] == 250


def test_a_wrong_band_is_refused():
    recipe = json.loads(json.dumps(EXTRACTOR.recipe))
    step = next(entry for entry in recipe if entry["step"] == "bandpass_butterworth")
    for wrong, words in (({"high": 125}, "below 125 Hz"), ({"low": 50}, "below `high`"), ({"order": 0}, "`order`")):
        changed = [{**entry, **wrong} if entry["step"] == step["step"] else entry for entry in recipe]
        with pytest.raises(ValueError, match=words):
            ECGFeatureExtractor(changed)
    with pytest.raises(ValueError, match="per='record'"):
        ECGFeatureExtractor([{**e, "per": "batch"} if "per" in e else e for e in recipe])(ecg(), sampling_rate=500)
