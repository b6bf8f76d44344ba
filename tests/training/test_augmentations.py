import math

import numpy as np
import pytest
import torch

from ecg_transformers import STANDARD_LEADS
from ecg_transformers.training import (
    add_baseline_shift,
    add_baseline_wander,
    add_emg,
    add_powerline,
    augmentations,
    crop_time,
    mask_time,
    scale_amplitude,
)
from ecg_transformers.training.electrodes import lead_matrix

RATE = 500
LEADS = list(STANDARD_LEADS)
NOISES = {
    "powerline": add_powerline,
    "emg": add_emg,
    "wander": add_baseline_wander,
    "shift": add_baseline_shift,
}
# All with one signature: (signals, seeds, mask)
ALL = {
    **{
        name: lambda x, seeds, mask=None, add=add: add(x, RATE, LEADS[: x.shape[1]], seeds, mask=mask)
        for name, add in NOISES.items()
    },
    "amplitude": lambda x, seeds, mask=None: scale_amplitude(x, seeds, mask=mask),
    "time": lambda x, seeds, mask=None: mask_time(x, RATE, seeds, mask=mask),
}


def records(rows=4, samples=2000, seed=0):
    """Records whose limb leads fit together, in mV."""
    electrodes, matrix = lead_matrix(LEADS)
    random = torch.Generator().manual_seed(seed)
    return matrix @ torch.randn(rows, len(electrodes), samples, generator=random)


def noise_of(add, leads=LEADS, samples=5000, rows=1, rate=RATE, seeds=None, **options):
    """What is added to records; these hardly carry a signal, so rounding does not blur it."""
    signals = 1e-12 * torch.randn(rows, len(leads), samples, generator=torch.Generator().manual_seed(1))
    return add(signals, rate, leads, list(range(rows)) if seeds is None else seeds, **options)


def amplitude_at(signal, frequency, rate=RATE):
    """Amplitude of the sine at one frequency, by correlation over a whole number of periods."""
    times = np.arange(signal.shape[-1]) / rate
    return 2 * np.abs((signal * np.exp(-2j * np.pi * frequency * times)).mean(-1))


# Mains hum


def test_hum_is_the_mains_frequency_and_its_harmonics():
    hum = noise_of(add_powerline, amplitude_mv=(0.1, 0.1), frequencies_hz=[50], harmonics=3).double().numpy()[0]
    parts = np.stack([amplitude_at(hum, frequency) for frequency in (50, 100, 150)])
    assert np.allclose(parts[1], parts[0] / 2, rtol=1e-3) and np.allclose(parts[2], parts[0] / 3, rtol=1e-3)
    # All the power is there: a sine of amplitude a has a^2 / 2
    assert np.allclose((parts**2).sum(0) / 2, (hum**2).mean(-1), rtol=1e-3)
    # A lead of two electrodes, each with a share between -1 and 1
    assert 0.001 < parts[0].max() <= 0.2


def test_hum_of_an_electrode_reaches_the_strength_asked_for():
    hum = noise_of(add_powerline, ["VX"], rows=300, amplitude_mv=(0.1, 0.1), frequencies_hz=[60], harmonics=1)
    found = amplitude_at(hum.double().numpy()[:, 0], 60)
    assert 0.095 < found.max() <= 0.1 + 1e-6
    # Shares lie evenly in [-1, 1]
    assert found.mean() == pytest.approx(0.05, abs=4 * 0.1 / math.sqrt(12 * 300))
    assert np.allclose(found / math.sqrt(2), hum[:, 0].double().square().mean(-1).sqrt(), atol=1e-6)


def test_rows_get_one_of_the_frequencies():
    hum = noise_of(add_powerline, rows=64, amplitude_mv=(0.1, 0.1), harmonics=1).double().numpy()
    at_50, at_60 = amplitude_at(hum[:, 0], 50), amplitude_at(hum[:, 0], 60)
    is_50 = at_50 > at_60
    assert np.all(np.where(is_50, at_60, at_50) < 1e-6) and 16 < is_50.sum() < 48


def test_the_phase_holds_over_half_an_hour():
    samples = 30 * 60 * RATE
    hum = noise_of(add_powerline, ["I"], samples=samples, amplitude_mv=(1, 1), frequencies_hz=[60], harmonics=1)[0, 0]
    whole = amplitude_at(hum.double().numpy(), 60)
    last = hum[-RATE:].double().numpy()
    times = np.arange(samples - RATE, samples) / RATE
    basis = np.stack([np.sin(2 * np.pi * 60 * times), np.cos(2 * np.pi * 60 * times)], axis=1)
    weights = np.linalg.lstsq(basis, last, rcond=None)[0]
    assert np.hypot(*weights) == pytest.approx(whole, rel=1e-3)
    # The same phase in the first second as in the last
    assert np.abs(hum[:RATE].double().numpy() - last).max() < 1e-3 * whole


def test_what_a_low_rate_cannot_show_is_left_out():
    signals = records()
    assert torch.equal(add_powerline(signals, 100, LEADS, range(4), (0.1, 0.1)), signals)
    # At 150 Hz mains itself is there, and none of its harmonics folded back
    hum = noise_of(add_powerline, samples=1500, rate=150, amplitude_mv=(0.1, 0.1), frequencies_hz=[50])
    hum = hum.double().numpy()[0]
    assert np.allclose(amplitude_at(hum, 50, 150) ** 2 / 2, (hum**2).mean(-1), rtol=1e-4, atol=1e-12)


# Muscle noise


@pytest.mark.parametrize("samples", [5000, 4999, 1250])
def test_muscle_noise_lies_in_its_band_and_has_its_strength(samples):
    noise = noise_of(add_emg, ["VX", "VY"], samples, rows=3, rms_mv=(0.04, 0.04), band_hz=(20, 150)).double().numpy()
    assert np.allclose(np.sqrt((noise**2).mean(-1)), 0.04, rtol=1e-5)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies = np.fft.rfftfreq(samples, 1 / RATE)
    inside = (frequencies >= 20) & (frequencies <= 150)
    assert power[..., ~inside].sum() < 1e-9 * power.sum()
    # Even: each quarter of the band holds a quarter of the power
    quarters = [power[..., (frequencies >= low) & (frequencies < low + 32.5)].sum(-1) for low in (20, 52.5, 85, 117.5)]
    assert np.allclose(quarters / power.sum(-1), 0.25, atol=0.01)
    # Independent electrodes
    assert abs(np.mean(noise[:, 0] * noise[:, 1])) < 5 * 0.04**2 / math.sqrt(3 * samples / 2)


def test_muscle_noise_in_leads_is_that_of_their_electrodes():
    noise = noise_of(add_emg, rows=40, rms_mv=(0.04, 0.04)).double()
    strengths = noise.square().mean((0, 2)).sqrt() / 0.04
    expected = [math.sqrt(2)] * 3 + [math.sqrt(1.5)] * 3 + [math.sqrt(4 / 3)] * 6
    assert strengths.tolist() == pytest.approx(expected, rel=0.03)
    # Nearly normal: the fourth moment of a normal distribution is 3 variances squared
    assert float(noise[:, 0].pow(4).mean() / noise[:, 0].square().mean() ** 2) == pytest.approx(3, abs=0.1)


def test_of_a_band_beyond_half_the_rate_the_rest_is_missing():
    noise = noise_of(add_emg, ["VX"], rate=100, rms_mv=(0.04, 0.04), band_hz=(20, 150)).double()
    assert noise.square().mean().sqrt() == pytest.approx(0.04 * math.sqrt(30 / 130), rel=0.01)
    assert torch.equal(noise_of(add_emg, rate=30), noise_of(add_emg, rate=30, rms_mv=(0, 0)))


# Baseline


def test_wander_is_slow_and_bounded():
    noise = noise_of(
        add_baseline_wander, ["VX", "VY"], 50_000, rows=20, amplitude_mv=(0.3, 0.3), band_hz=(0.05, 0.5)
    ).double()
    assert 0.2 < noise.abs().max() <= 0.3
    windowed = noise.numpy() * np.hanning(50_000)
    power = np.abs(np.fft.rfft(windowed)) ** 2
    frequencies = np.fft.rfftfreq(50_000, 1 / RATE)
    outside = (frequencies < 0.05 - 0.04) | (frequencies > 0.5 + 0.04)
    assert power[..., outside].sum() < 1e-4 * power.sum()


def test_wander_is_a_sum_of_three_sines_that_electrodes_share():
    noise = noise_of(add_baseline_wander, samples=20_000, amplitude_mv=(0.3, 0.3))[0].double().numpy()
    # Three sines with two phases span six dimensions, the nine electrodes of 12 leads would span eight
    values = np.linalg.svd(noise, compute_uv=False)
    assert (values > 1e-4 * values[0]).sum() == 6


def test_shifts_are_steps_of_some_length():
    noise = noise_of(
        add_baseline_shift,
        ["VX"],
        10_000,
        rows=200,
        amplitude_mv=(0.2, 0.4),
        seconds=(1, 2),
        electrode_probability=1.0,
    )[:, 0]
    on = noise.abs() > 0.01
    sizes = noise.abs().amax(-1)
    assert (0.2 <= sizes).all() and (sizes <= 0.4).all() and (noise.amax(-1) > 0.1).float().mean() > 0.35
    for row in range(200):
        places = on[row].nonzero().flatten()
        assert torch.equal(places, torch.arange(places[0], places[-1] + 1))
        assert torch.unique(noise[row][on[row]]).numel() == 1
        assert len(places) <= 2 * RATE and (len(places) >= RATE or places[-1] == 9_999)


def test_share_of_electrodes_that_move():
    noise = noise_of(add_baseline_shift, ["VX"], rows=500, amplitude_mv=(0.2, 0.4), electrode_probability=0.3)
    share = (noise.abs().amax(-1) > 0.01).float().mean().item()
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 500))
    assert noise_of(add_baseline_shift, electrode_probability=0.0).abs().max() < 1e-10


# Amplitude and time


def test_factor_is_one_for_all_leads():
    signals = records(rows=300, samples=20)
    factors = scale_amplitude(signals, range(300), (0.5, 2.0)) / signals
    assert torch.allclose(factors, factors[:, :1, :1].expand_as(factors), rtol=1e-5)
    logarithms = factors[:, 0, 0].log2()
    assert -1 <= logarithms.min() < -0.9 and 0.9 < logarithms.max() <= 1
    assert logarithms.mean().item() == pytest.approx(0, abs=4 * 2 / math.sqrt(12 * 300))


def test_hidden_span_of_time():
    signals = records(rows=50) + 3
    masked = mask_time(signals, RATE, range(50), (0.5, 1.0))
    changed = (masked != signals).any(1)
    for row in range(50):
        places = changed[row].nonzero().flatten()
        assert 0.5 * RATE - 3 <= len(places) <= RATE and places[-1] - places[0] < RATE
        mean = signals[row].mean(-1, keepdim=True)
        assert torch.allclose(masked[row][:, places], mean.expand(-1, len(places)), atol=1e-5)
    starts = torch.tensor([int(row.nonzero()[0]) for row in changed])
    assert starts.min() < 300 and starts.max() > 900
    longer = mask_time(signals, RATE, range(50), (60, 60))
    assert torch.allclose(longer, signals.mean(-1, keepdim=True).expand_as(signals), atol=1e-5)


def test_crops():
    signals = torch.arange(1000.0).expand(60, 12, 1000)
    pieces, real = crop_time(signals, RATE, range(60), 0.5)
    assert pieces.shape == (60, 12, 250) and real.all()
    starts = pieces[:, 0, 0]
    assert torch.equal(pieces[:, 3], starts[:, None] + torch.arange(250.0))
    assert starts.min() < 60 and starts.max() > 690 and starts.max() <= 750
    mask = torch.ones(60, 1000)
    mask[0, 200:] = 0
    mask[1, 300:] = 0
    pieces, real = crop_time(signals, RATE, range(60), 0.5, mask)
    assert pieces[0, 0, 0] == 0 and real[0].sum() == 200
    assert pieces[1, 0, 0] <= 50 and real[1].all()
    assert torch.equal(pieces[2:, 0, 0], starts[2:])
    assert crop_time(signals, RATE, range(60), 10)[0].shape == (60, 12, 1000)


# What holds of all


@pytest.mark.parametrize("name", ALL)
def test_limb_leads_still_fit_together(name):
    signals = records()
    changed = ALL[name](signals, range(4))
    assert (changed != signals).any((1, 2)).all()
    one, two, three, avr, avl, avf = changed[:, :6].unbind(1)
    for derived, expected in (
        (three, two - one),
        (avr, -(one + two) / 2),
        (avl, one - two / 2),
        (avf, two - one / 2),
    ):
        assert torch.allclose(derived, expected, atol=5e-6)


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("leads", [["V1"], ["aVF", "III"], ["V5", "aVR", "II", "I"], ["V4R", "II", "V2"]])
def test_any_leads_in_any_order_get_the_same(name, leads):
    order = [*LEADS, "V4R"]
    whole = noise_of(NOISES[name], order, seeds=[7], rows=1)
    some = noise_of(NOISES[name], leads, seeds=[7], rows=1)
    assert torch.allclose(some, whole[:, [order.index(lead) for lead in leads]], atol=1e-6)


def test_electrodes_sum_to_leads():
    electrodes, matrix = lead_matrix(LEADS)
    assert set(electrodes) == {"RA", "LA", "LL", "V1", "V2", "V3", "V4", "V5", "V6"}
    # A potential common to all electrodes is in no lead
    assert matrix.sum(1).abs().max() < 1e-6
    assert torch.linalg.matrix_rank(matrix) == 8
    assert lead_matrix(["lead ii", "MLII", "-aVR"])[0] == ["LL", "RA", "MLII", "LA"]


@pytest.mark.parametrize("name", ALL)
def test_a_row_depends_on_its_seed_alone(name):
    signals, seeds = records(rows=6), [11, 5, 2**31, 0, 77, 6]
    together = ALL[name](signals, seeds)
    assert torch.equal(ALL[name](signals, seeds), together)
    assert not torch.equal(ALL[name](signals, [seed + 1 for seed in seeds]), together)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = ALL[name](signals[order], [seeds[row] for row in order])
    assert torch.allclose(shuffled, together[order], atol=1e-6)
    assert torch.allclose(ALL[name](signals[3:4], seeds[3:4])[0], together[3], atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_padding_stays_and_changes_nothing(name):
    signals, seeds = records(rows=3), [1, 2, 3]
    padded = torch.cat([signals, torch.full((3, 12, 700), 9.0)], dim=-1)
    mask = torch.zeros(3, 2700, dtype=torch.long)
    mask[:, :2000] = 1
    changed = ALL[name](padded, seeds, mask)
    assert torch.equal(changed[..., 2000:], padded[..., 2000:])
    assert torch.allclose(changed[..., :2000], ALL[name](signals, seeds), atol=1e-6)
    # A row that is shorter than its company
    mask[1, 900:] = 0
    changed = ALL[name](padded, seeds, mask)
    assert torch.allclose(changed[1, :, :900], ALL[name](signals[1:2, :, :900], [2])[0], atol=1e-6)
    assert torch.equal(changed[1, :, 900:], padded[1, :, 900:])


@pytest.mark.parametrize("name", ALL)
def test_gaps_stay_and_spread_nowhere(name):
    signals = records()
    signals[0, 3, 50:90] = math.nan
    signals[1, 7] = math.nan
    changed = ALL[name](signals, range(4))
    assert torch.equal(changed.isnan(), signals.isnan())
    if name != "time":
        known = ALL[name](records(), range(4))
        assert torch.allclose(torch.where(signals.isnan(), 0.0, known), changed.nan_to_num(), atol=1e-6)


@pytest.mark.parametrize("name", [*NOISES, "time"])
def test_leads_without_signal_stay_so(name):
    signals = records()
    signals[:, 4] = 0.1
    changed = ALL[name](signals, range(4))
    assert torch.equal(changed[:, 4], signals[:, 4]) and not torch.equal(changed[:, 5], signals[:, 5])


@pytest.mark.parametrize("name", ALL)
def test_input_is_not_changed_and_its_type_kept(name):
    signals = records()
    before = signals.clone()
    assert ALL[name](signals, range(4)).dtype == torch.float32
    assert torch.equal(signals, before)
    double = ALL[name](signals.double(), range(4))
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), ALL[name](signals, range(4)), atol=1e-5)
    half = ALL[name](signals.bfloat16(), range(4))
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ALL)
def test_the_device_does_not_matter(name):
    signals = records()
    mask = torch.ones(4, 2000)
    mask[2, 1500:] = 0
    on_gpu = ALL[name](signals.cuda(), range(4), mask.cuda())
    assert on_gpu.is_cuda
    assert torch.allclose(on_gpu.cpu(), ALL[name](signals, range(4), mask), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_what_is_computed_stays_on_the_device(name, monkeypatch):
    """Tensors on torch's device without data refuse to meet those of the CPU, as those of a GPU do."""
    # What looks at values cannot run there
    monkeypatch.setattr(augmentations, "carries_signal", lambda signals, mask: signals[..., 0] != 0)
    monkeypatch.setattr(augmentations, "_mean", lambda signals, mask: signals.mean(-1, keepdim=True))
    signals = records().to("meta")
    assert ALL[name](signals, range(4)).device.type == "meta"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("signals", "seeds", "mask", "message"),
    [
        (torch.zeros(12, 50), [0], None, "rows, leads, samples"),
        (torch.zeros(2, 12, 50, dtype=torch.long), [0, 1], None, "int64"),
        (torch.zeros(2, 12, 50), [0], None, "got 1 seeds"),
        (torch.zeros(2, 12, 50), [0, 1], torch.ones(2, 12, 50), r"\(2, 50\)"),
    ],
)
def test_shapes_that_do_not_fit(name, signals, seeds, mask, message):
    with pytest.raises(ValueError, match=message):
        ALL[name](signals, seeds, mask)


def test_strengths_out_of_range():
    signals = records()
    for call in (
        lambda: add_powerline(signals, RATE, LEADS, range(4), amplitude_mv=(0.2, 0.1)),
        lambda: add_powerline(signals, RATE, LEADS, range(4), frequencies_hz=[0]),
        lambda: add_powerline(signals, RATE, LEADS, range(4), harmonics=0),
        lambda: add_emg(signals, RATE, LEADS, range(4), rms_mv=(-1, 1)),
        lambda: add_baseline_wander(signals, RATE, LEADS, range(4), components=0),
        lambda: add_baseline_shift(signals, RATE, LEADS, range(4), electrode_probability=2),
        lambda: scale_amplitude(signals, range(4), (0, 1)),
        lambda: scale_amplitude(signals, range(4), (-1, 1)),
        lambda: mask_time(signals, RATE, range(4), (1, math.inf)),
        lambda: crop_time(signals, RATE, range(4), 0.0001),
        lambda: add_emg(signals, 0, LEADS, range(4)),
        lambda: add_emg(signals, RATE, LEADS[:3], range(4)),
    ):
        with pytest.raises(ValueError, match="got|has no sample"):
            call()
