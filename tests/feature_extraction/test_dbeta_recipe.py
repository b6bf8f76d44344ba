"""D-BETA's input: 12 x 5000 samples in mV, leads in order by name, the values as they were recorded."""

import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, ECGFeatureExtractor, ECGRecord, find_ecg_files, read_ecg
from ecg_transformers.feature_extraction.feature_extraction_ecg import ECGSignalWarning

EXTRACTOR = ECGFeatureExtractor.for_model_type("dbeta")
CHEST = ["V1", "V2", "V3", "V4", "V5", "V6"]
STORED_ORDERS = {
    "standard": ["I", "II", "III", "aVR", "aVL", "aVF", *CHEST],
    "CODE-test": ["I", "II", "III", "aVL", "aVF", "aVR", *CHEST],
    "MIMIC-IV-ECG": ["I", "II", "III", "aVR", "aVF", "aVL", *CHEST],
}


def ecg(seconds=10, rate=500, seed=0):
    """Sums of slow sines, so that another rate carries the same signal; limb leads obey Einthoven and Goldberger."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    waves = [np.sin(2 * np.pi * (hertz * time + random.random(12)[:, None])) for hertz in (0.5, 1.2, 3.1, 7)]
    signal = 0.2 * sum(waves)
    one, two = signal[0], signal[1]
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return signal.astype(np.float32)


@pytest.mark.parametrize("source", STORED_ORDERS)
def test_every_stored_order_gives_the_same_rows(source):
    signal = ecg()
    names = STORED_ORDERS[source]
    stored = signal[[STANDARD_LEADS.index(name) for name in names]]
    batch = EXTRACTOR(stored, sampling_rate=500, lead_names=names)
    assert batch.input_values.shape == (1, 12, 5000)
    np.testing.assert_array_equal(batch.input_values[0], signal)
    assert batch.attention_mask.all() and batch.lead_mask.all()
    spelt = [f"Lead {name.upper()}" for name in names]
    np.testing.assert_array_equal(EXTRACTOR(ECGRecord(stored, 500, spelt)).input_values[0], signal)
    if source != "standard":
        # By position the rows would be mixed up, which no shape tells
        assert np.abs(EXTRACTOR(stored, sampling_rate=500).input_values[0] - signal).max() > 0.1


def test_nothing_is_filtered_or_scaled():
    signal = ecg() + np.linspace(-2, 3, 12, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(EXTRACTOR(signal, sampling_rate=500).input_values[0], signal)
    batch = EXTRACTOR(signal * 1000, sampling_rate=500, units="uV")
    np.testing.assert_allclose(batch.input_values[0], signal, atol=1e-5)


@pytest.mark.parametrize("rate", [100, 250, 400, 1000])
def test_other_rates(rate):
    batch = EXTRACTOR(ecg(rate=rate), sampling_rate=rate)
    assert batch.input_values.shape == (1, 12, 5000)
    # The Fourier transform takes a recording to repeat, so the ends ring
    np.testing.assert_allclose(batch.input_values[0, :, 1000:4000], ecg()[:, 1000:4000], atol=0.05)


def test_short_and_long_recordings():
    signal = ecg()
    short = EXTRACTOR(signal[:, :3500], sampling_rate=500)
    np.testing.assert_array_equal(short.input_values[0, :, :3500], signal[:, :3500])
    assert not short.input_values[0, :, 3500:].any()
    assert short.attention_mask[0].tolist() == [1] * 3500 + [0] * 1500
    long = EXTRACTOR(ecg(seconds=25), sampling_rate=500, windows="all")
    assert long.input_values.shape == (3, 12, 5000) and long.record_index.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(long.input_values[2], ecg(seconds=25)[:, 7500:])


def test_missing_samples():
    signal = ecg()
    broken = signal.copy()
    broken[6, 1000:1200] = np.nan
    broken[7] = np.nan
    with pytest.warns(ECGSignalWarning) as warned:
        batch = EXTRACTOR(broken, sampling_rate=500)
    told = [str(warning.message) for warning in warned]
    assert "Gaps (NaN) in the recording: ['V1']" in told[0] and "NaN in the recording: ['V2']" in told[1]
    values = batch.input_values[0]
    others = [row for row in range(12) if row not in (6, 7)]
    np.testing.assert_array_equal(values[others], signal[others])
    np.testing.assert_array_equal(values[6, :1000], signal[6, :1000])
    np.testing.assert_allclose(values[6, 999:1201], np.linspace(signal[6, 999], signal[6, 1200], 202), atol=1e-5)
    assert not values[7].any()
    assert batch.lead_mask[0].tolist() == [1] * 7 + [0] + [1] * 4
    broken[7] = signal[7]
    # At another rate the gap does not spread either
    with pytest.warns(ECGSignalWarning):
        values = EXTRACTOR(broken[:, ::2], sampling_rate=250).input_values[0]
    np.testing.assert_allclose(values[6, 2000:4500], signal[6, 2000:4500], atol=0.05)


def test_a_dropout_of_all_leads_voids_nothing():
    broken = ecg()
    broken[:, 1000:1500] = np.nan
    with pytest.warns(ECGSignalWarning, match="bridged"):
        batch = EXTRACTOR(broken, sampling_rate=500)
    assert batch.lead_mask.all() and np.isfinite(batch.input_values).all()
    broken[3, :2600] = np.nan
    with pytest.warns(ECGSignalWarning, match=r"NaN in the recording: \['aVR'\]"):
        batch = EXTRACTOR(broken, sampling_rate=500)
    assert batch.lead_mask[0].tolist() == [1, 1, 1, 0] + [1] * 8


@pytest.mark.parametrize(
    "path",
    [
        "ptb-xl/records500",
        "challenge-2021/georgia",
        "challenge-2021/chapman_shaoxing",
        "sph-h5",
        "cpsc2018-mat",
        "ludb/data",
        "challenge-2025-code15",
        "code15-mat",
    ],
)
@pytest.mark.filterwarnings("ignore::ecg_transformers.feature_extraction.feature_extraction_ecg.ECGSignalWarning")
def test_real_files_arrive_in_their_rows(shared_data, path):
    for file in find_ecg_files(shared_data / path)[:4]:
        record = read_ecg(file)
        names = [name.upper() for name in record.lead_names]
        values = EXTRACTOR(record).input_values[0]
        assert values.shape == (12, 5000)
        for row, lead in enumerate(STANDARD_LEADS):
            stored = record.signal[names.index(lead.upper())]
            if record.sampling_rate == 500:
                size = min(5000, len(stored))
                np.testing.assert_array_equal(values[row, :size], stored[:size])
            else:
                ours = values[row, : round(len(stored) * 500 / record.sampling_rate)]
                other = np.interp(np.arange(len(ours)) / 500, np.arange(len(stored)) / record.sampling_rate, stored)
                assert np.corrcoef(ours, other)[0, 1] > 0.98 or np.ptp(stored) == 0
