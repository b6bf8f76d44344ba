import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from ecg_transformers import STANDARD_LEADS, ECGFeatureExtractor, ECGRecord, HubertECGConfig
from ecg_transformers.feature_extraction.feature_extraction_ecg import ECGSignalWarning

EXTRACTOR = ECGFeatureExtractor.for_model_type("hubert_ecg")
LEADS = list(STANDARD_LEADS)


def ecg(samples: int = 5000, seed: int = 0, leads: int = 12) -> np.ndarray:
    """Noise with the amplitude of an ECG whose limb leads obey Einthoven and Goldberger."""
    random = np.random.default_rng(seed)
    signal = 0.3 * random.standard_normal((12, samples)) + 0.01 * random.standard_normal((12, samples)).cumsum(-1)
    one, two = signal[0].copy(), signal[1].copy()
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return signal[:leads].astype(np.float32)


def record(samples: int = 5000, seed: int = 0, rate: float = 500, **metadata) -> ECGRecord:
    return ECGRecord(ecg(samples, seed), rate, STANDARD_LEADS, metadata)


def test_shapes_and_types():
    batch = EXTRACTOR([record(), record(seed=1)], return_tensors="pt")
    assert batch.input_values.shape == (2, 6000) and batch.input_values.dtype == torch.float32
    assert batch.attention_mask.shape == (2, 6000) and batch.attention_mask.dtype == torch.int64
    assert batch.lead_mask.tolist() == [[1] * 12] * 2
    assert "record_index" not in batch
    assert EXTRACTOR.sampling_rate == 100 and EXTRACTOR.window_seconds == 5
    single = EXTRACTOR(record(), return_tensors="np")
    assert isinstance(single.input_values, np.ndarray) and single.input_values.shape == (1, 6000)
    np.testing.assert_allclose(single.input_values[0], batch.input_values[0], atol=1e-5)


def test_all_forms_of_input_agree():
    signal = ecg()
    expected = EXTRACTOR(record()).input_values
    for form in (
        signal,
        torch.from_numpy(signal),
        signal[None],
        [signal],
        [torch.from_numpy(signal)],
        signal.tolist() and [signal.tolist()],
    ):
        np.testing.assert_allclose(EXTRACTOR(form, sampling_rate=500).input_values, expected, atol=1e-5)
    np.testing.assert_allclose(
        EXTRACTOR(signal.astype(np.float64), sampling_rate=500).input_values, expected, atol=1e-5
    )
    read_only = signal.astype(">f4")
    read_only.flags.writeable = False
    np.testing.assert_allclose(EXTRACTOR(read_only, sampling_rate=500).input_values, expected, atol=1e-5)


def test_a_record_does_not_depend_on_its_company():
    kinds = [(5000, 500), (10000, 1000), (4000, 400), (5000, 500), (2000, 500), (7000, 500), (1285, 257)]
    records = [record(samples, seed, rate) for seed, (samples, rate) in enumerate(kinds)]
    together = EXTRACTOR(records, windows="all", return_tensors="pt")
    assert together.record_index.tolist() == sorted(together.record_index.tolist())
    for index, single in enumerate(records):
        alone = EXTRACTOR(single, windows="all", return_tensors="pt")
        rows = together.record_index == index
        torch.testing.assert_close(together.input_values[rows], alone.input_values, atol=1e-5, rtol=0)
        assert torch.equal(together.attention_mask[rows], alone.attention_mask)


def test_leads_are_found_by_name():
    signal = ecg()
    order = [11, 0, 5, 2, 7, 1, 3, 10, 4, 6, 9, 8]
    names = [LEADS[row].upper() if row % 2 else f"lead {LEADS[row].lower()}" for row in order]
    shuffled = EXTRACTOR(signal[order], sampling_rate=500, lead_names=names).input_values
    np.testing.assert_array_equal(shuffled, EXTRACTOR(signal, sampling_rate=500).input_values)


def test_missing_limb_leads_are_derived():
    signal = ecg()
    rows = [0, 1, *range(6, 12)]
    batch = EXTRACTOR(signal[rows], sampling_rate=500, lead_names=[LEADS[row] for row in rows])
    np.testing.assert_allclose(batch.input_values, EXTRACTOR(signal, sampling_rate=500).input_values, atol=1e-5)
    assert batch.lead_mask.all()


def test_other_missing_leads_are_zero_and_reported():
    signal = ecg()
    with pytest.warns(ECGSignalWarning, match=r"Missing leads in the recording: \['V6'\]"):
        batch = EXTRACTOR(signal[:11], sampling_rate=500, lead_names=LEADS[:11])
    assert batch.lead_mask[0].tolist() == [1] * 11 + [0]
    signal[11] = 0
    with pytest.warns(ECGSignalWarning, match=r"Flat leads in the recording: \['V6'\]"):
        flat = EXTRACTOR(signal, sampling_rate=500)
    np.testing.assert_allclose(batch.input_values, flat.input_values, atol=1e-5)
    assert flat.lead_mask[0].tolist() == [1] * 11 + [0]


def test_leads_not_used_are_named_where_others_miss():
    # VX is Frank's X lead, so not unknown, but may well be a V6 mistyped
    words = r"Missing leads in the recording: \['V6'\].*left out: \['VX'\]"
    with pytest.warns(ECGSignalWarning, match=words) as warned:
        EXTRACTOR(ecg(), sampling_rate=500, lead_names=[*LEADS[:11], "VX"])
    assert [Path(warning.filename) for warning in warned] == [Path(__file__)]


def test_warnings_point_at_the_caller():
    flat = ecg()
    flat[3] = 0
    for names in ([*LEADS[:11], "pleth"], LEADS):
        with pytest.warns(ECGSignalWarning) as warned:
            EXTRACTOR(flat, sampling_rate=500, lead_names=names)
        assert {Path(warning.filename) for warning in warned} == {Path(__file__)}


def test_unknown_leads_are_left_out_with_a_warning():
    signal = np.concatenate([ecg(), ecg(seed=1, leads=1)])
    with pytest.warns(ECGSignalWarning, match=r"Unknown leads in the recording: \['pleth'\]"):
        batch = EXTRACTOR(signal, sampling_rate=500, lead_names=[*LEADS, "pleth"])
    np.testing.assert_allclose(batch.input_values, EXTRACTOR(signal[:12], sampling_rate=500).input_values, atol=1e-5)
    # Frank's leads are known, just not used.
    EXTRACTOR(signal, sampling_rate=500, lead_names=[*LEADS, "vx"])


def test_nan_voids_its_lead_and_nothing_else():
    signal = ecg()
    signal[4, 100:110] = np.nan
    with pytest.warns(ECGSignalWarning, match=r"NaN in record A1: \['aVL'\]"):
        batch = EXTRACTOR(ECGRecord(signal, 500, LEADS, {"record_id": "A1"}))
    assert np.isfinite(batch.input_values).all()
    assert batch.lead_mask[0].tolist() == [1] * 4 + [0] + [1] * 7
    assert batch.attention_mask.all()


def test_one_lost_sample_voids_nothing():
    signal = ecg()
    expected = EXTRACTOR(signal, sampling_rate=500, windows="all")
    last = signal.copy()
    last[:, -1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error", ECGSignalWarning)
        batch = EXTRACTOR(last, sampling_rate=500, windows="all")
    assert batch.lead_mask.all() and batch.attention_mask.all()
    shorter = EXTRACTOR(signal[:, :-1], sampling_rate=500, windows="all")
    np.testing.assert_allclose(batch.input_values, shorter.input_values, atol=1e-5)
    scattered = signal.copy()
    scattered[np.arange(12), 4988 + np.arange(12)] = np.nan
    with pytest.warns(ECGSignalWarning, match="Gaps.*bridged"):
        batch = EXTRACTOR(scattered, sampling_rate=500, windows="all")
    assert batch.lead_mask.all()
    np.testing.assert_allclose(batch.input_values, expected.input_values, atol=0.2)  # the signal is noise
    assert np.abs(batch.input_values - expected.input_values).max() > 0


def test_void_ends_are_no_part_of_a_recording():
    signal = ecg()
    padded = np.full((12, 5400), np.nan, dtype=np.float32)
    padded[:, 300:5300] = signal
    padded[3, 300] = np.nan
    signal[3, 0] = np.nan
    for rows in (range(12), range(11)):
        names = [LEADS[row] for row in rows]
        with pytest.warns(ECGSignalWarning):
            cut, plain = (
                EXTRACTOR(array[list(rows)], sampling_rate=500, lead_names=names, windows="all")
                for array in (padded, signal)
            )
        for name in plain:
            np.testing.assert_array_equal(cut[name], plain[name])
    with pytest.warns(ECGSignalWarning, match=r"\['aVR'\]"):
        short = EXTRACTOR(padded[:, :1800], sampling_rate=500)
    mask = short.attention_mask.reshape(12, 500)
    assert mask[:, :300].all() and not mask[:, 300:].any()
    signal[4, 100:110], signal[4, 200] = np.nan, np.inf
    with pytest.raises(ValueError, match="infinite"):
        EXTRACTOR(signal, sampling_rate=500)


def test_short_recordings_are_padded_with_a_mask():
    batch = EXTRACTOR(record(samples=2000))
    assert batch.input_values.shape == (1, 6000) and np.isfinite(batch.input_values).all()
    mask = batch.attention_mask.reshape(12, 500)
    assert mask[:, :400].all() and not mask[:, 400:].any()


def test_windows():
    long = record(samples=6000)
    every = EXTRACTOR([record(), long], windows="all")
    assert every.record_index.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(every.input_values[2], EXTRACTOR(long).input_values[0], atol=1e-5)
    assert every.attention_mask.all()
    draw = [EXTRACTOR([record(), long], windows="random", generator=seed).input_values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draw[0], draw[1])
    assert np.abs(draw[0] - draw[2]).max() > 0.1
    exact = record(samples=2500)
    for windows in ("first", "random", "all"):
        np.testing.assert_array_equal(EXTRACTOR(exact, windows=windows).input_values, EXTRACTOR(exact).input_values)


@pytest.mark.parametrize("unit,factor", [("uV", 1e3), ("µV", 1e3), ("V", 1e-3), ("nV", 1e6)])
def test_units(unit, factor):
    signal = ecg().astype(np.float64)
    expected = EXTRACTOR(signal, sampling_rate=500).input_values
    np.testing.assert_allclose(
        EXTRACTOR(signal * factor, sampling_rate=500, units=unit).input_values, expected, atol=1e-5
    )
    with pytest.raises(ValueError, match="units="):
        EXTRACTOR(signal * factor, sampling_rate=500)


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: EXTRACTOR(ecg()), "sampling_rate="),
        (lambda: EXTRACTOR(record(), sampling_rate=100), "has 500 Hz"),
        (lambda: EXTRACTOR(ecg(), sampling_rate=0), "positive number of Hz"),
        (lambda: EXTRACTOR(ecg(), sampling_rate=float("nan")), "positive number of Hz"),
        (lambda: EXTRACTOR(ecg().T, sampling_rate=500), "transposed"),
        (lambda: EXTRACTOR(ecg(leads=3), sampling_rate=500), "lead_names="),
        (lambda: EXTRACTOR(ecg(leads=3), sampling_rate=500, lead_names=["I", "II"]), r"expected \(2, samples\)"),
        (
            lambda: EXTRACTOR(ecg(leads=2), sampling_rate=500, lead_names=["a", "b"]),
            "No lead of the recording is known",
        ),
        (lambda: EXTRACTOR(ecg(leads=2), sampling_rate=500, lead_names=["VX", "VY"]), "none can be had"),
        (lambda: EXTRACTOR(ecg(leads=2), sampling_rate=500, lead_names=["I", "i"]), "occurs twice"),
        (lambda: EXTRACTOR(ecg() * np.inf, sampling_rate=500), "infinite"),
        (lambda: EXTRACTOR(ecg() * np.nan, sampling_rate=500), "nothing but NaN"),
        (lambda: EXTRACTOR(1000 * ecg(), sampling_rate=500), "units='uV'"),
        (lambda: EXTRACTOR(ecg(samples=400), sampling_rate=500), "0.80 s at 500 Hz.*more than 453 samples"),
        (lambda: EXTRACTOR(np.zeros((12, 0)), sampling_rate=500), "expected \\(12, samples\\)"),
        (lambda: EXTRACTOR([], sampling_rate=500), "empty list"),
        (lambda: EXTRACTOR("ecg.hea"), "read_ecg"),
        (lambda: EXTRACTOR(None), "NoneType"),
        (lambda: EXTRACTOR({"signal": ecg()}, sampling_rate=500), "dict"),
        (lambda: EXTRACTOR([ecg(), ecg()], sampling_rate=[500, 100]), "one `sampling_rate` for all"),
        (lambda: EXTRACTOR(ecg(leads=1), sampling_rate=500, lead_names="II"), "as a list"),
        (lambda: EXTRACTOR([["a"]], sampling_rate=500), "no array of numbers"),
        (lambda: EXTRACTOR(ecg(), sampling_rate=500, units="mm"), "mV, uV"),
        (lambda: EXTRACTOR(record(), windows="last"), "'first', 'random' or 'all'"),
        (lambda: EXTRACTOR(record(), return_tensors="tf"), "'pt' or 'np'"),
        (lambda: EXTRACTOR.pad([]), "pads by itself"),
        (lambda: ECGFeatureExtractor.for_model_type("bert"), "hubert_ecg"),
        (lambda: ECGFeatureExtractor.for_model_type("hubert_ecg", recipe="newest"), "hubert_ecg_filter_first"),
        (lambda: ECGFeatureExtractor(lead_names=["I", "Z9"]), "Z9"),
        (lambda: ECGFeatureExtractor(sampling_rate=250), "ends at 100 Hz"),
        (lambda: ECGFeatureExtractor(recipe=[{"step": "crop", "seconds": 5}]), "'resample'"),
    ],
)
def test_refusals_name_what_was_expected(call, words):
    error = NotImplementedError if "pads" in words else ValueError
    with pytest.raises(error, match=words):
        call()


RATE = {"step": "resample", "sampling_rate": 500}


@pytest.mark.parametrize(
    "recipe,words",
    [
        ([RATE, {"step": "decimate", "factor": 0}], "`factor` of step 1, 'decimate', must be a positive whole.*got 0"),
        ([RATE, {"step": "decimate", "factor": 2.5}], "whole number; got 2.5"),
        ([{"step": "resample", "sampling_rate": -500}], "`sampling_rate` of step 0.*positive.*-500"),
        ([{"step": "resample", "sampling_rate": "500"}], "positive finite number; got '500'"),
        ([{"step": "resample", "sampling_rate": float("nan")}], "positive finite number; got nan"),
        ([RATE, {"step": "crop", "seconds": True}], "`seconds`.*got True"),
        ([RATE, {"step": "crop", "seconds": float("inf")}], "`seconds`.*got inf"),
        ([RATE, {"step": "bandpass_fir", "low": 40, "high": 40, "seconds": 0.3}], "`low` .*below `high`"),
        ([RATE, {"step": "bandpass_fir", "low": 1, "high": 250, "seconds": 0.3}], "`high` .*below 250 Hz"),
        ([{"step": "crop", "seconds": 5}, RATE], "crops before it resamples"),
        ([RATE, {"step": "crop", "seconds": 5}, {"step": "crop", "seconds": 2}], "one 'crop' step"),
        ([RATE, {"step": "concatenate_leads"}, {"step": "scale_minmax"}], "'scale_minmax'.*cannot follow"),
        ([RATE, {"step": ["crop"]}], "Step 1 of the recipe"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_when_it_is_made(tmp_path, recipe, words):
    with pytest.raises(ValueError, match=words):
        ECGFeatureExtractor(recipe=recipe)
    stored = {"feature_extractor_type": "ECGFeatureExtractor", "recipe": recipe}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=words):
        ECGFeatureExtractor.from_pretrained(tmp_path)


def test_an_all_zero_recording_is_warned_of_and_finite():
    with pytest.warns(ECGSignalWarning, match="Flat leads"):
        batch = EXTRACTOR(np.zeros((12, 5000)), sampling_rate=500)
    assert np.isfinite(batch.input_values).all() and not batch.lead_mask.any()


def test_the_callers_array_is_untouched():
    signal = ecg()
    kept = signal.copy()
    EXTRACTOR(signal, sampling_rate=500, units="mV")
    EXTRACTOR(signal, sampling_rate=500, lead_names=LEADS[::-1])
    np.testing.assert_array_equal(signal, kept)


def test_recipe_survives_saving(tmp_path):
    other = ECGFeatureExtractor.for_model_type("hubert_ecg", recipe="hubert_ecg_filter_first")
    other.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["feature_extractor_type"] == "ECGFeatureExtractor"
    assert stored["recipe"][0] == {"step": "bandpass_fir", "low": 0.05, "high": 47, "seconds": 0.3}
    loaded = ECGFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == other.to_dict()
    signal = record(2570, rate=257)
    np.testing.assert_array_equal(loaded(signal).input_values, other(signal).input_values)
    assert np.abs(loaded(signal).input_values - EXTRACTOR(signal).input_values).max() > 1e-4


def test_a_recipe_is_data():
    recipe = [
        {"step": "mask_zero_padding"},
        {"step": "resample", "sampling_rate": 250},
        {"step": "crop", "seconds": 10},
    ]
    extractor = ECGFeatureExtractor(recipe=recipe, lead_names=["II", "V1"])
    signal = ecg()
    signal[:, :500] = 0
    batch = extractor(signal, sampling_rate=500, lead_names=LEADS)
    assert extractor.sampling_rate == 250 and batch.input_values.shape == (1, 2, 2500)
    assert not batch.attention_mask[0, :250].any() and batch.attention_mask[0, 250:].all()


def test_checkpoints_without_a_recipe_get_that_of_their_type(golden, tmp_path):
    folder = golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint"
    assert ECGFeatureExtractor.from_pretrained(folder).to_dict() == EXTRACTOR.to_dict()
    shutil.copy(folder / "config.json", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "Wav2Vec2FeatureExtractor"}')
    with pytest.raises(ValueError, match="no 'recipe'"):
        ECGFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(OSError):
        ECGFeatureExtractor.from_pretrained(tmp_path / "nowhere")


def test_the_extractor_imports_its_files_itself():
    """transformers 5.8 opens an export with the files that the extractor's own file names, and no others."""
    from ecg_transformers.feature_extraction import feature_extraction_ecg as module

    folder = Path(module.__file__).parent
    named = {folder / f"{name}.py" for name in get_relative_imports(module.__file__)}
    assert named == {Path(file) for file in get_relative_import_files(module.__file__)}


@pytest.mark.parametrize("stride,rate", [([4, 2, 2, 2, 2], 100), ([4, 2, 2, 2, 1], 50), ([5, 4, 4, 2, 2], 500)])
def test_a_named_recipe_is_fitted_to_the_model(stride, rate):
    for name in ("hubert_ecg", "hubert_ecg_filter_first"):
        config = HubertECGConfig(conv_stride=stride)
        assert ECGFeatureExtractor.for_model_type("hubert_ecg", name, config=config).sampling_rate == rate


def test_recordings_of_the_corpus_have_plausible_spans(shared_data):
    """The bounds of the unit check leave every real file in."""
    from ecg_transformers import find_ecg_files, read_ecg

    count = 0
    for path in find_ecg_files(shared_data / "challenge-2021") + find_ecg_files(shared_data / "challenge-2025-code15"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = EXTRACTOR(read_ecg(path), windows="all")
        assert np.isfinite(batch.input_values).all()
        count += 1
    assert count > 100


def test_published_folders_with_other_kernels_get_their_rate(golden):
    folder = golden / "hubert_ecg" / "hub_checkpoint_other_kernels" / "checkpoint"
    extractor = ECGFeatureExtractor.from_pretrained(folder)
    assert extractor.sampling_rate == 50 and extractor(record()).input_values.shape == (1, 3000)


def test_a_damaged_recipe_is_not_replaced(golden, tmp_path):
    shutil.copy(golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint" / "config.json", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"recipe": [{"step"')
    with pytest.raises((OSError, ValueError)):
        ECGFeatureExtractor.from_pretrained(tmp_path)
