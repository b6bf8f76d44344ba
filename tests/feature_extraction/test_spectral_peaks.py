"""DeepECG's steps on other input than the fixture's, against the plain formulation."""

import json
import warnings

import numpy as np
import pytest
import scipy.signal
import torch
from deepecg_reference import crossings, flatten_peaks, lowess, peak_ranges
from safetensors.numpy import load_file

from ecg_transformers import STANDARD_LEADS, ECGFeatureExtractor, ECGRecord, find_ecg_files, read_ecg
from ecg_transformers.corpora import load_corpus
from ecg_transformers.feature_extraction.amplitude_factor import estimate_amplitude_factor
from ecg_transformers.feature_extraction.local_regression import smooth_lowess
from ecg_transformers.feature_extraction.signal_steps import SignalBatch, apply_recipe
from ecg_transformers.feature_extraction.spectral_peaks import (
    find_crossings,
    find_peak_ranges,
    flatten_magnitudes,
    flatten_spectral_peaks,
)

FLATTEN = [{"step": "flatten_spectral_peaks"}]


def batch_of(signal: torch.Tensor, sampling_rate: float = 250, valid: torch.Tensor | None = None) -> SignalBatch:
    if valid is None:
        valid = torch.ones(signal.shape[0], signal.shape[-1], dtype=torch.bool)
    return SignalBatch(signal, sampling_rate, valid, torch.arange(len(signal)))


def with_sines(sines: list, samples: int = 2500, rate: float = 250, seed: int = 0, leads: int = 3) -> np.ndarray:
    """Noise and wander, and on every lead sines of `(Hz, mV)`."""
    random = np.random.default_rng(seed)
    signal = 0.02 * random.standard_normal((leads, samples)).cumsum(-1) + 0.05 * random.standard_normal(
        (leads, samples)
    )
    time = np.arange(samples) / rate
    for lead in range(leads):
        for frequency, amplitude in sines:
            signal[lead] += amplitude * np.sin(2 * np.pi * frequency * time + lead + frequency)
    return signal


def test_lowess_equals_statsmodels(golden):
    """The expected numbers are those of statsmodels 0.15, `lowess(values, x, frac=..., it=...)`."""
    place = np.arange(40)
    values = np.round(np.sin(place / 5) + 0.3 * np.cos(2.7 * place) + 3 * (place == 17) - 2 * (place == 31), 4)
    shown = [0, 1, 5, 16, 17, 18, 30, 31, 32, 38, 39]
    expected = {
        (0.3, 3): [
            *(0.1868088978, 0.3041613885, 0.7474990014, -0.0308385985, -0.203510814, -0.3686032557),
            *(-0.2174089266, -0.0436219781, 0.1314259454, 0.952739241, 1.0705993082),
        ],
        (0.25, 3): [
            *(0.1496138917, 0.2809466627, 0.7743931262, -0.0275635964, -0.2081520097, -0.3813082843),
            *(-0.2215274693, -0.0416041118, 0.139890481, 0.9458813947, 1.0541114136),
        ],
        (0.3, 0): [
            *(0.1616834386, 0.2858374989, 0.7567440327, 0.3728078005, 0.2023394551, 0.0278413543),
            *(-0.5362432356, -0.3623539312, -0.1791205083, 1.0421828342, 1.2168712902),
        ],
    }
    for (fraction, robust), numbers in expected.items():
        ours = smooth_lowess(torch.tensor(values), fraction, robust)
        np.testing.assert_allclose(ours[shown], numbers, atol=1e-9)
        np.testing.assert_allclose(ours, lowess(values, fraction, robust), atol=1e-12)

    folder = golden / "deepecg_sl" / "preprocessing"
    counts = load_file(folder / "inputs.safetensors")["adc_counts"].astype(np.float64)
    factor = json.loads((folder / "facts.json").read_text())["factor"]
    spectrum = np.abs(np.fft.fft(counts[:, :, 0] * 0.003821196500211954, axis=1)).mean(0)[300:1250]
    assert factor == pytest.approx(0.003821196500211954)
    ours = smooth_lowess(torch.tensor(scipy.signal.medfilt(spectrum, 5)), 0.1)
    shown = [0, 1, 46, 47, 48, 100, 299, 300, 301, 500, 700, 902, 903, 948, 949]
    numbers = [
        *(1.1936310697, 1.1856727595, 0.8396201611, 0.8323179903, 0.8257482254, 0.7235611563, 0.6913516911),
        *(0.6930745615, 0.6948414649, 0.679589164, 0.6597231113, 0.6711001627, 0.6719738376, 0.6701662202),
        0.6696280036,
    ]
    np.testing.assert_allclose(ours[shown], numbers, atol=1e-9)


@pytest.mark.parametrize("count", [951, 950, 200, 97, 40])
@pytest.mark.parametrize("fraction", [0.1, 0.35, 1.0])
def test_lowess_of_many_series_equals_one_by_one(count, fraction):
    random = np.random.default_rng(count)
    noise = np.abs(random.standard_normal((2, count)))
    # The second falls over six decades: there, whole neighbourhoods are outliers and keep their value.
    falling = np.where(np.arange(count) < count // 3, 1e3 + 1e2 * noise[1], 1e-3 * noise[1])
    series = np.stack([noise[0], falling, np.zeros(count)])
    ours = smooth_lowess(torch.tensor(series), fraction).numpy()
    for row, values in zip(ours, series, strict=True):
        np.testing.assert_allclose(row, lowess(values, fraction), atol=1e-9 * max(1, values.max()))


def test_lowess_says_what_it_takes():
    for fraction, count in ((-0.1, 10), (1.5, 10), (0.5, 2)):
        with pytest.raises(ValueError, match="fraction in 0..1 and 3 or more points"):
            smooth_lowess(torch.zeros(count), fraction)


SIGNALS = {
    "one peak": with_sines([(60, 0.1)]),
    "several peaks": with_sines([(50, 0.05), (61.3, 0.08), (100, 0.05), (23, 0.1)]),
    "close peaks": with_sines([(40, 0.1), (80, 0.1), (82, 0.1)]),
    "two overlapping": with_sines([(50, 0.1), (51.2, 0.1)], seed=3),
    "weak harmonics": with_sines([(40, 0.1), (80, 0.008), (120, 0.008)]),
    "at the lower end": with_sines([(20, 0.2), (29.9, 0.2), (30.2, 0.1)]),
    "at the upper end": with_sines([(124.9, 0.2), (120, 0.2)]),
    "odd length": with_sines([(60, 0.1)], samples=2501),
    "no peak": with_sines([], seed=1),
    "six seconds": with_sines([(60, 0.1)], samples=1500),
    "five seconds": with_sines([(60, 0.1)], samples=1250),
    "very short": with_sines([(60, 0.1)], samples=60),
    "three samples": with_sines([], samples=3),
    "zero": np.zeros((2, 2500)),
    "zero lead I": np.concatenate([np.zeros((1, 2500)), with_sines([(60, 0.1)])]),
    "low-pass at 40 Hz": scipy.signal.sosfiltfilt(
        scipy.signal.butter(8, 40, fs=250, output="sos"), with_sines([(60, 0.2), (35, 0.1)])
    ).copy(),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_a_record_equals_the_plain_formulation(name):
    signal = SIGNALS[name]
    expected = flatten_peaks(signal[None], 250)[0]
    ours = flatten_spectral_peaks(torch.tensor(signal)[None], 250)[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-12, rtol=0)
    single = flatten_spectral_peaks(torch.tensor(signal, dtype=torch.float32)[None], 250)[0].numpy()
    np.testing.assert_allclose(single, expected, atol=2e-6, rtol=0)
    changed = np.abs(expected - signal).max() > 1e-6
    unchanged = ("no peak", "five seconds", "very short", "three samples", "zero", "zero lead I")
    assert changed == (name not in unchanged)


def test_the_signals_do_what_their_names_say():
    frequencies = np.arange(1250) / 10

    def ranges(name):
        return peak_ranges(np.abs(np.fft.rfft(SIGNALS[name][0]))[:1250], frequencies)

    assert ranges("one peak") == [(60, 60)]
    assert {50, 61.3, 100, 23} <= {first for first, last in ranges("several peaks")}
    assert (80, 80) in ranges("weak harmonics") and (120, 120) in ranges("weak harmonics")
    assert any(first > last for first, last in ranges("close peaks"))
    assert any(first < 30 for first, last in ranges("at the lower end"))
    bounds = sorted(
        (low - 1, high + 1)
        for low, high in crossings(
            np.abs(np.fft.rfft(SIGNALS["two overlapping"][0]))[:1250], frequencies, ranges("two overlapping")
        )
    )
    assert any(second[0] < first[1] for first, second in zip(bounds, bounds[1:], strict=False))


@pytest.mark.parametrize("statistics", ["record", "batch"])
def test_a_batch_equals_the_plain_formulation(statistics):
    records = np.stack(
        [with_sines([(20 + 13 * seed, 0.1), (50, 0.02 * seed)] * (seed % 3 > 0), seed=seed) for seed in range(7)]
    )
    ours = flatten_spectral_peaks(torch.tensor(records), 250, statistics=statistics).numpy()
    if statistics == "batch":
        expected = flatten_peaks(records, 250)
    else:
        expected = np.concatenate([flatten_peaks(record[None], 250) for record in records])
    np.testing.assert_allclose(ours, expected, atol=1e-12, rtol=0)
    assert not np.array_equal(expected, records)


def test_ranges_and_crossings_equal_the_plain_formulation_on_noise():
    """Heavy-tailed spectra: hundreds of ranges of all kinds."""
    random = np.random.default_rng(5)
    spectra = np.abs(random.standard_t(3, (40, 2, 1250))) ** 1.5
    frequencies = np.fft.fftfreq(2500, 1 / 250)[:1250]
    tensor = torch.tensor(spectra)
    record, ranges = find_peak_ranges(tensor[:, 0], 2500, 250)
    found = find_crossings(tensor, (record, ranges), 2500, 250)
    count, inverted = 0, 0
    for row in range(40):
        expected = peak_ranges(spectra[row, 0], frequencies)
        mine = record == row
        assert [tuple(pair) for pair in ranges[mine].tolist()] == expected
        for lead in range(2):
            np.testing.assert_array_equal(
                found[mine, lead].numpy().reshape(-1, 2),
                np.reshape(crossings(spectra[row, lead], frequencies, expected), (-1, 2)),
            )
        count += len(expected)
        inverted += sum(first > last for first, last in expected)
    assert count > 200 and inverted > 10


def test_a_record_does_not_depend_on_its_company():
    records = torch.tensor(
        np.stack([with_sines([(50 + seed, 0.1)] * (seed % 2), seed=seed) for seed in range(70)]), dtype=torch.float32
    )
    together = flatten_spectral_peaks(records, 250)
    for row in (0, 1, 63, 64, 69):
        torch.testing.assert_close(
            together[row], flatten_spectral_peaks(records[row : row + 1], 250)[0], atol=1e-6, rtol=0
        )
    assert torch.equal(together[0], records[0]) and not torch.equal(together[1], records[1])


def test_the_result_scales_with_the_signal():
    signal = torch.tensor(SIGNALS["several peaks"])[None]
    torch.testing.assert_close(flatten_spectral_peaks(1000 * signal, 250), 1000 * flatten_spectral_peaks(signal, 250))


def test_a_peak_at_another_rate_is_removed():
    signal = torch.tensor(with_sines([(60, 0.3)], samples=5000, rate=500))[None]
    spectrum = torch.fft.rfft(flatten_spectral_peaks(signal, 500)).abs()[0]
    assert (torch.fft.rfft(signal).abs()[0, :, 600] > 500).all() and (spectrum[:, 600] < 20).all()


def test_nan_count_as_zero():
    signal = SIGNALS["one peak"].copy()
    signal[1, 100:110] = np.nan
    signal[0, 5] = np.nan
    ours = flatten_spectral_peaks(torch.tensor(signal)[None], 250)
    expected = flatten_spectral_peaks(torch.tensor(np.nan_to_num(signal))[None], 250)
    torch.testing.assert_close(ours, expected)
    quiet = torch.tensor(SIGNALS["no peak"])[None].clone()
    quiet[0, 1, 7] = torch.nan
    torch.testing.assert_close(flatten_spectral_peaks(quiet, 250), quiet, equal_nan=True)


def test_real_records_equal_the_plain_formulation(shared_data):
    extractor = ECGFeatureExtractor.for_model_type("deepecg_ssl")
    before = ECGFeatureExtractor(extractor.recipe[:-1])
    changed = 0
    for path in find_ecg_files(shared_data / "ptb-xl")[::6] + find_ecg_files(shared_data / "challenge-2021")[::9]:
        record = read_ecg(path)
        signal = before(record).input_values.astype(np.float64)
        expected = flatten_peaks(signal, 250, bandwidth=record.sampling_rate / 2)
        changed += not np.array_equal(expected, signal)
        assert np.abs(extractor(record).input_values - expected).max() < 1e-5 * np.abs(signal).max(), path
    assert changed > 5


def test_only_frequencies_that_the_recording_has_are_judged():
    """Brought up from 100 Hz, a recording has nothing above 50 Hz, beside which all below would stand out."""
    extractor = ECGFeatureExtractor.for_model_type("deepecg_ssl")
    before = ECGFeatureExtractor(extractor.recipe[:-1])
    for sines, changed in (([], False), ([(35, 0.2)], True)):
        signal = with_sines(sines, samples=1000, rate=100, leads=12, seed=4)
        resampled, flat = (one(signal, sampling_rate=100).input_values for one in (before, extractor))
        np.testing.assert_allclose(flat, flatten_peaks(resampled, 250, bandwidth=50), atol=1e-6)
        assert np.array_equal(flat, resampled) != changed
        assert not np.array_equal(flatten_peaks(resampled, 250), resampled)


def test_padding_stays_zero_and_does_not_count():
    signal = torch.tensor(with_sines([(60, 0.2)], samples=2500, leads=2), dtype=torch.float32)[None]
    valid = torch.ones(3, 2500, dtype=torch.bool)
    valid[1, 2000:] = False
    rows = signal.repeat(3, 1, 1)
    rows[1, :, 2000:] = 0
    result = apply_recipe(batch_of(rows, valid=valid), FLATTEN).signal
    assert not result[1, :, 2000:].any()
    alone = flatten_spectral_peaks(signal[..., :2000].contiguous(), 250)
    torch.testing.assert_close(result[1:2, :, :2000], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        result[[0, 2]], flatten_spectral_peaks(signal, 250).expand(2, -1, -1), atol=1e-6, rtol=0
    )
    # Zeros at the start are no tail: such a row is taken as it is.
    valid = torch.arange(2500)[None] >= 100
    whole = apply_recipe(batch_of(signal, valid=valid), FLATTEN).signal
    torch.testing.assert_close(whole, flatten_spectral_peaks(signal, 250))


def test_flattening_keeps_phases_and_straightens_magnitudes():
    signal = torch.tensor(SIGNALS["no peak"])[None]
    bounds = torch.tensor([[[40.0, 42.0]] * 3, [[41.0, 50.0]] * 3, [[60.0, 60.0]] * 3], dtype=torch.float64)
    flat = flatten_magnitudes(signal, torch.zeros(3, dtype=torch.int64), bounds, 250)
    before, after = torch.fft.rfft(signal)[0], torch.fft.rfft(flat)[0]
    torch.testing.assert_close(after.angle()[:, :1250], before.angle()[:, :1250])
    # The first line as far as the second begins, whose ends are original magnitudes.
    line = torch.lerp(before.abs()[:, 400], before.abs()[:, 420], torch.tensor(0.25, dtype=torch.float64))
    torch.testing.assert_close(after.abs()[:, 405], line)
    line = torch.lerp(before.abs()[:, 410], before.abs()[:, 500], torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(after.abs()[:, 455], line)
    untouched = [*range(400), *range(501, 1251)]
    torch.testing.assert_close(after[:, untouched], before[:, untouched])


def test_slicing_takes_every_nth_sample_and_says_where_the_rate_is_not_the_models():
    step = [{"step": "slice_stride", "num_samples": 2500, "sampling_rate": 250}]
    signal = torch.arange(7500.0).expand(1, 2, -1)
    for samples, rate, stride in ((7500, 750, 3), (5000, 500, 2), (2500, 250, 1), (2550, 257, 1)):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if rate != 257 else "ignore")
            cut = apply_recipe(batch_of(signal[..., :samples], rate), step)
        assert torch.equal(cut.signal, signal[..., :samples:stride]) and cut.sampling_rate == 250
        assert cut.valid.shape == cut.signal.shape[::2]
    with pytest.warns(UserWarning, match="400 Hz, but the model takes them to be 250 Hz"):
        assert apply_recipe(batch_of(signal[..., :4096], 400), step).signal.shape[-1] == 4096
    with pytest.raises(ValueError, match="2500 samples or more; this one has 2499"):
        apply_recipe(batch_of(signal[..., :2499]), step)


def sampled(samples: int, rate: float, seed: int = 0) -> ECGRecord:
    """Beats far below 125 Hz, the same at every rate."""
    time = np.arange(samples) / rate
    random = np.random.default_rng(seed)
    waves = random.uniform(0.05, 0.3, (12, 8))[:, :, None] * np.sin(
        2 * np.pi * np.arange(1, 9)[None, :, None] * 1.5 * time + random.uniform(0, 6, (12, 8))[:, :, None]
    )
    return ECGRecord(waves.sum(1).astype(np.float32), rate, STANDARD_LEADS)


def test_recipes_end_in_the_shape_rate_and_unit_of_the_model():
    ssl, sl = (ECGFeatureExtractor.for_model_type(name) for name in ("deepecg_ssl", "deepecg_sl"))
    fm = ECGFeatureExtractor.for_model_type("deepecg_ssl", recipe="ecg_fm")
    record = sampled(5000, 500)
    assert (ssl.sampling_rate, sl.sampling_rate, fm.sampling_rate) == (250, 250, 500)
    assert ssl(record).input_values.shape == sl(record).input_values.shape == fm(record).input_values.shape
    np.testing.assert_allclose(ssl(record).input_values[0], record.signal[:, ::2], atol=1e-5)
    np.testing.assert_allclose(sl(record).input_values[0] * 0.0048, record.signal[:, ::2], atol=1e-5)
    np.testing.assert_allclose(fm(record).input_values[0], record.signal[:, :2500], atol=1e-6)
    assert fm(record, windows="all").input_values.shape == (2, 12, 2500)


@pytest.mark.parametrize("model_type", ["deepecg_ssl", "deepecg_sl"])
def test_the_callers_array_is_untouched(model_type):
    for rate in (250, 500):
        extractor = ECGFeatureExtractor.for_model_type(model_type)
        record = with_sines([(60, 0.2)], samples=10 * rate, rate=rate, leads=12)
        for given in (record.copy(), torch.tensor(record), torch.tensor(record, dtype=torch.float32)[None]):
            kept = given.copy() if isinstance(given, np.ndarray) else given.clone()
            extractor(given, sampling_rate=rate)
            assert (given == kept).all()


def test_resampling_does_not_fold_what_slicing_folds_down():
    """A sine of 170 Hz, recorded at 500 Hz, becomes one of 80 Hz by slicing."""
    record = sampled(5000, 500)
    record.signal[:] += 0.5 * np.sin(2 * np.pi * 170 * np.arange(5000) / 500)
    # Without the last step, which would flatten the peak.
    default, original = (
        ECGFeatureExtractor(ECGFeatureExtractor.for_model_type("deepecg_ssl", recipe=name).recipe[:-1])
        for name in ("deepecg_ssl", "deepecg_ssl_original")
    )
    folded = [np.abs(np.fft.rfft(extractor(record).input_values[0, 0]))[800] for extractor in (default, original)]
    assert folded[0] < 1 and folded[1] > 600
    np.testing.assert_array_equal(original(record).input_values[0], record.signal[:, ::2])


def test_the_original_recipe_refuses_short_recordings_and_the_default_pads():
    short = sampled(2000, 250)
    with pytest.raises(ValueError, match="8.00 s at 250 Hz.*2500 samples or more; this one has 2000.*pads"):
        ECGFeatureExtractor.for_model_type("deepecg_sl", recipe="deepecg_sl_original")(short)
    batch = ECGFeatureExtractor.for_model_type("deepecg_sl")(short)
    assert batch.input_values.shape == (1, 12, 2500) and batch.attention_mask[0].tolist() == [1] * 2000 + [0] * 500
    np.testing.assert_allclose(batch.input_values[0, :, :2000] * 0.0048, short.signal, atol=1e-5)
    assert not batch.input_values[0, :, 2000:].any()


def test_the_factor_of_a_corpus_lands_in_the_recipe():
    corpus = load_corpus("synthetic", num_patients=12)["train"]
    factor = estimate_amplitude_factor(corpus)
    records = [row["ecg"] for row in corpus]
    assert estimate_amplitude_factor(iter(records)) == pytest.approx(factor, rel=1e-6)
    assert estimate_amplitude_factor(records[0]) != pytest.approx(factor, rel=1e-3)
    extractor = ECGFeatureExtractor.for_model_type("deepecg_ssl")
    entry = next(entry for entry in extractor.recipe if entry["step"] == "scale_amplitude")
    assert entry["factor"] == 1.0
    entry["factor"] = factor
    scaled = ECGFeatureExtractor(extractor.recipe[:-1])(records).input_values
    magnitudes = np.abs(np.fft.fft(scaled[:, 0].astype(np.float64), axis=-1))
    assert magnitudes.mean() == pytest.approx(3.003154, rel=1e-4)


def test_the_factor_leaves_out_what_the_original_rejects():
    whole, short, gap = sampled(2500, 250), sampled(2000, 250, seed=1), sampled(2500, 250, seed=2)
    gap.signal[0, 300:1700] = np.nan
    with pytest.warns(UserWarning, match="2 of 3 recordings are short or lack lead I"):
        factor = estimate_amplitude_factor([whole, short, gap])
    assert factor == pytest.approx(estimate_amplitude_factor(whole))
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="None of 1 recordings"):
        estimate_amplitude_factor([short])
    corpus = load_corpus("synthetic", num_patients=12)["train"]
    with pytest.raises(ValueError, match="no column 'signal'"):
        estimate_amplitude_factor(corpus, column="signal")
    without = ECGFeatureExtractor([{"step": "resample", "sampling_rate": 250}], ["V1"])
    with pytest.raises(ValueError, match="defined on lead I"):
        estimate_amplitude_factor(whole, extractor=without)


@pytest.mark.parametrize(
    "step,words",
    [
        ({"step": "scale_amplitude", "factor": 0}, "positive finite factor; got 0"),
        ({"step": "scale_amplitude", "factor": float("nan")}, "positive finite factor; got nan"),
        ({"step": "convert_to_counts", "millivolts_per_count": -1}, "positive number of mV per count; got -1"),
        ({"step": "flatten_spectral_peaks", "statistics": "mean"}, "'record' or 'batch'; got 'mean'"),
        ({"step": "flatten_spectral_peaks", "lead": 2}, "lead 2 is no row of a signal with 2 leads"),
    ],
)
def test_steps_say_what_they_take(step, words):
    with pytest.raises(ValueError, match=words):
        apply_recipe(batch_of(torch.zeros(1, 2, 2500)), [step])


@pytest.mark.parametrize("model_type", ["deepecg_ssl", "deepecg_sl"])
def test_a_record_in_single_precision_stays_so_beside_a_double(model_type):
    extractor = ECGFeatureExtractor.for_model_type(model_type)
    single = torch.randn(12, 5000, generator=torch.Generator().manual_seed(0)).cumsum(-1) / 50
    double = single.double() + 0.1
    alone = [extractor(signal, sampling_rate=500, return_tensors="pt").input_values[0] for signal in (single, double)]
    together = extractor([double, single, double], sampling_rate=500, return_tensors="pt").input_values
    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[0], alone[1]) and torch.equal(together[2], alone[1])
