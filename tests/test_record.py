import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, ECGRecord, canonical_lead_name
from ecg_transformers.feature_extraction.ecg_leads import arrange_leads


@pytest.mark.parametrize(
    "spelling,name",
    [
        *[
            ("AVR", "aVR"),
            ("avl", "aVL"),
            (" i ", "I"),
            ("v1", "V1"),
            ("Lead II", "II"),
            ("LEAD_V6", "V6"),
            ("II ", "II"),
        ],
        *[
            ("MDC_ECG_LEAD_aVF", "aVF"),
            ("ecg v3", "V3"),
            ("MLII", "MLII"),
            ("vx", "VX"),
            ("-aVR", "-aVR"),
            ("ECG_I", "I"),
            ("DI", "I"),
            ("DII", "II"),
            ("DIII", "III"),
            ("DV1", None),
        ],
        *[("", None), ("pleth", None), ("V", None), ("V10", None), ("IV", None), ("lead", None), ("ECG", None)],
    ],
)
def test_canonical_lead_names(spelling, name):
    assert canonical_lead_name(spelling) == name


def test_limb_leads_follow_einthoven_and_goldberger():
    right, left, foot = np.random.default_rng(0).standard_normal((3, 50))
    potentials = {"I": left - right, "II": foot - right, "III": foot - left}
    potentials |= {
        "aVR": right - (left + foot) / 2,
        "aVL": left - (right + foot) / 2,
        "aVF": foot - (right + left) / 2,
    }
    signal = np.stack([potentials["I"], potentials["II"]])
    arranged, present = arrange_leads(signal, ["I", "II"])
    assert present.tolist() == [True] * 6 + [False] * 6
    np.testing.assert_allclose(arranged[:6], np.stack([potentials[name] for name in STANDARD_LEADS[:6]]), atol=1e-12)
    assert not arranged[6:].any()


def test_a_record_knows_itself():
    record = ECGRecord(np.zeros((2, 500)), 250.0, ["i", "AVR"], {"record_id": "A1"})
    assert record.signal.dtype == np.float32 and record.lead_names == ("I", "aVR")
    assert (record.num_leads, record.num_samples, record.duration_seconds) == (2, 500, 2.0)
    assert repr(record) == "ECGRecord(A1: 2 leads x 500 samples, 250 Hz, 2.00 s, I aVR)"
    assert record.select_leads(["aVR"]).lead_names == ("aVR",)
    with pytest.raises(ValueError, match="'V1'"):
        record.select_leads(["V1"])


@pytest.mark.parametrize(
    "arguments,words",
    [
        ((np.zeros(5), 500, ["I"]), "shape"),
        ((np.zeros((1, 0)), 500, ["I"]), "at least 1"),
        ((np.zeros((2, 5)), 500, ["I"]), "2 names"),
        ((np.zeros((2, 5)), 500, ["I", "i"]), "must differ"),
        ((np.zeros((1, 5)), 0, ["I"]), "positive"),
        ((np.zeros((1, 5)), float("inf"), ["I"]), "positive"),
    ],
)
def test_what_is_no_recording_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ECGRecord(*arguments)
