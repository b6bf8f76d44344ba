import numpy as np
import pytest
import scipy.signal
import torch

from ecg_transformers.feature_extraction.recipe_validation import validate_recipe
from ecg_transformers.feature_extraction.signal_operations import (
    bandpass_fir_taps,
    decimate_zero_phase,
    fast_fft_length,
    filter_butterworth_zero_phase,
    filter_fir_zero_phase,
    resample_fourier,
    scale_minmax,
    scale_zscore,
)
from ecg_transformers.feature_extraction.signal_steps import SIGNAL_STEPS, SignalBatch, apply_recipe


def wandering(rows: int, samples: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (
        5 + 0.05 * random.standard_normal((rows, samples)).cumsum(-1) + 0.1 * random.standard_normal((rows, samples))
    )


PRECISIONS = [(torch.float64, 1e-11), (torch.float32, 1e-5)]


@pytest.mark.parametrize("dtype,atol", PRECISIONS)
@pytest.mark.parametrize("sampling_rate", [100, 250, 257, 400, 500, 1000])
@pytest.mark.parametrize("samples", [1000, 2571, 5000])
def test_fir_filter_equals_filtfilt(dtype, atol, sampling_rate, samples):
    taps = bandpass_fir_taps(0.05, 47, sampling_rate, 0.3)
    designed = scipy.signal.firwin(len(taps), [0.05, 47], pass_zero=False, fs=sampling_rate)
    np.testing.assert_allclose(taps, designed, atol=1e-14)
    signal = wandering(3, samples)
    ours = filter_fir_zero_phase(torch.tensor(signal, dtype=dtype), taps)
    expected = scipy.signal.filtfilt(designed, [1.0], signal, padlen=3 * len(taps))
    np.testing.assert_allclose(ours.numpy(), expected, atol=atol)


@pytest.mark.parametrize("dtype,atol", PRECISIONS)
@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("samples", [28, 500, 2999, 30000])
def test_decimation_equals_scipy(dtype, atol, factor, samples):
    signal = wandering(2, samples, seed=samples)
    ours = decimate_zero_phase(torch.tensor(signal, dtype=dtype), factor)
    np.testing.assert_allclose(ours.numpy(), scipy.signal.decimate(signal, factor), atol=atol)


@pytest.mark.parametrize("dtype,atol", PRECISIONS)
@pytest.mark.parametrize("kind,cutoff", [("highpass", 0.67), ("highpass", 30), ("lowpass", 40), ("lowpass", 0.5)])
@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("samples", [19, 600, 2500])
def test_butterworth_filter_equals_scipy(dtype, atol, kind, cutoff, order, samples):
    signal = wandering(3, samples, seed=samples)
    ours = filter_butterworth_zero_phase(torch.tensor(signal, dtype=dtype), cutoff, 250, order, kind)
    sections = scipy.signal.butter(order, cutoff, kind, fs=250, output="sos")
    np.testing.assert_allclose(ours.numpy(), scipy.signal.sosfiltfilt(sections, signal), atol=atol)


@pytest.mark.parametrize("per_lead", [False, True])
def test_z_scores_equal_numpy(per_lead):
    signal = wandering(24, 500).reshape(2, 12, 500) * np.linspace(0.1, 3, 12)[:, None]
    signal[1, 4] = 2.0
    found = scale_zscore(torch.tensor(signal), per_lead).numpy()
    for record, scaled in zip(signal, found, strict=True):
        there = np.ptp(record, axis=1) > 0
        axis = 1 if per_lead else None
        expected = record[there] - record[there].mean(axis=axis, keepdims=True)
        np.testing.assert_allclose(scaled[there], expected / record[there].std(axis=axis, keepdims=True), atol=1e-10)
        # A lead without signal neither counts nor keeps its offset
        assert not scaled[~there].any()
    assert not scale_zscore(torch.full((2, 3, 9), 4.0)).any()


@pytest.mark.parametrize("samples,wanted", [(1000, 500), (500, 1000), (2570, 5000), (999, 1234), (1000, 999), (7, 9)])
def test_resampling_equals_scipy(samples, wanted):
    signal = wandering(3, samples)
    ours = resample_fourier(torch.tensor(signal), wanted)
    np.testing.assert_allclose(ours.numpy(), scipy.signal.resample(signal, wanted, axis=-1), atol=1e-11)


def test_many_rows_give_the_same_as_one_row():
    rows = torch.tensor(wandering(300, 5000), dtype=torch.float32)
    taps = bandpass_fir_taps(0.05, 47, 500, 0.3)
    for function in (
        lambda x: filter_fir_zero_phase(x, taps),
        lambda x: decimate_zero_phase(x, 5),
        lambda x: resample_fourier(x, 2500),
        lambda x: filter_butterworth_zero_phase(x, 40, 500, 5, "lowpass"),
    ):
        together = function(rows)
        for row in (0, 103, 104, 299):
            torch.testing.assert_close(together[row], function(rows[row : row + 1])[0], atol=1e-6, rtol=0)


def test_nan_spreads_by_the_filter_length_and_no_further():
    signal = torch.tensor(wandering(2, 2000))
    with_gap = signal.clone()
    with_gap[1, 1000:1010] = torch.nan
    taps = bandpass_fir_taps(0.05, 47, 500, 0.3)
    filtered, clean = filter_fir_zero_phase(with_gap, taps), filter_fir_zero_phase(signal, taps)
    expected = scipy.signal.filtfilt(taps, [1.0], with_gap.numpy(), padlen=3 * len(taps))
    np.testing.assert_array_equal(filtered.isnan().numpy(), np.isnan(expected))
    known = ~filtered.isnan()
    assert known[0].all() and (~known[1]).sum() == 10 + 2 * (len(taps) - 1)
    torch.testing.assert_close(filtered[known], clean[known])
    assert resample_fourier(filtered, 2000)[1].isnan().all() and not resample_fourier(filtered, 2000)[0].isnan().any()


def test_scaling_of_a_flat_row_is_minus_one():
    scaled = scale_minmax(torch.tensor([[3.0, 3.0], [1.0, 2.0]]))
    torch.testing.assert_close(scaled, torch.tensor([[-1.0, -1.0], [-1.0, 1.0]]))


@pytest.mark.parametrize("length", [1, 2, 7, 11, 5300, 5401, 32454, 100003])
def test_fast_lengths_have_small_factors(length):
    found = fast_fft_length(length)
    assert found >= length
    smaller = [n for n in range(length, found + 1) if _is_smooth(n)]
    assert smaller == [found]


def _is_smooth(number: int) -> bool:
    for factor in (2, 3, 5):
        while number % factor == 0:
            number //= factor
    return number == 1


@pytest.mark.parametrize(
    "call,words",
    [
        (lambda: bandpass_fir_taps(0.05, 47, 90, 0.3), "half of 90 Hz"),
        (lambda: filter_fir_zero_phase(torch.zeros(1, 453), np.ones(151)), "more than 453 samples"),
        (lambda: decimate_zero_phase(torch.zeros(1, 27), 5), "more than 27 samples"),
        (lambda: decimate_zero_phase(torch.zeros(1, 100), 2.5), "whole number"),
        (lambda: filter_butterworth_zero_phase(torch.zeros(1, 18), 40, 250, 5, "lowpass"), "more than 18 samples"),
        (lambda: filter_butterworth_zero_phase(torch.zeros(1, 99), 125, 250, 5, "lowpass"), "125.0 Hz"),
        (lambda: filter_butterworth_zero_phase(torch.zeros(1, 99), 40, 250, 2.5, "lowpass"), "order.*2.5"),
        (lambda: filter_butterworth_zero_phase(torch.zeros(1, 99), 40, 250, 5, "notch"), "'notch'"),
        (lambda: validate_recipe([]), "at least one step"),
        (lambda: validate_recipe([{"step": "smooth"}]), "bandpass_fir"),
        (lambda: validate_recipe([{"step": "crop"}]), "required: \\['seconds'\\]"),
        (lambda: validate_recipe([{"step": "crop", "seconds": 5, "start": 0}]), "'start'"),
    ],
)
def test_errors_name_value_and_remedy(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_every_step_is_documented():
    assert all(step.__doc__ for step in SIGNAL_STEPS.values())


def batch_of(signal: torch.Tensor, windows: str = "first", seed: int = 0) -> SignalBatch:
    return SignalBatch(
        signal,
        500,
        torch.ones(signal.shape[0], signal.shape[-1], dtype=torch.bool),
        torch.arange(signal.shape[0]),
        windows,
        torch.Generator().manual_seed(seed),
    )


def test_crop_cuts_all_leads_at_the_same_time():
    signal = torch.arange(7000.0).expand(3, 2, -1) + 10000 * torch.arange(2)[None, :, None]
    first = apply_recipe(batch_of(signal), [{"step": "crop", "seconds": 5}])
    torch.testing.assert_close(first.signal, signal[..., :2500])
    every = apply_recipe(batch_of(signal, "all"), [{"step": "crop", "seconds": 5}])
    assert every.record_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert every.signal[:3, 0, 0].tolist() == [0, 2500, 4500]
    starts = set()
    for seed in range(20):
        cut = apply_recipe(batch_of(signal, "random", seed), [{"step": "crop", "seconds": 5}]).signal
        torch.testing.assert_close(cut[:, 1] - cut[:, 0], torch.full((3, 2500), 10000.0))
        starts |= set(cut[:, 0, 0].tolist())
    assert len(starts) > 40 and min(starts) >= 0 and max(starts) <= 4500


def test_short_recordings_are_padded_and_marked():
    cut = apply_recipe(
        batch_of(torch.ones(1, 2, 2000)), [{"step": "crop", "seconds": 5}, {"step": "concatenate_leads"}]
    )
    assert cut.signal.shape == (1, 5000)
    assert cut.valid[0].sum() == 4000 and not cut.valid[0, 2000:2500].any() and cut.valid[0, 2500:4500].all()


def test_nan_is_filled_by_the_mean_of_what_is_real():
    signal = torch.ones(1, 2, 2000)
    signal[0, 0, :1000] = torch.nan
    recipe = [{"step": "crop", "seconds": 5}, {"step": "fill_nan", "value": "mean"}]
    assert apply_recipe(batch_of(signal), recipe).signal[0, 0, 0] == 1.0  # the padding's zeros do not count
    recipe[-1]["value"] = 7
    assert apply_recipe(batch_of(signal), recipe).signal[0, 0, 0] == 7.0
