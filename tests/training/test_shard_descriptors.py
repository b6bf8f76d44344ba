import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch

from ecg_transformers.training import cut_shards, describe_shards, mfcc_descriptors, time_frequency_descriptors
from ecg_transformers.training.shard_descriptors import real_shards


@pytest.fixture(scope="module")
def case(golden):
    folder = golden / "hubert_ecg" / "morphology_features"
    return np.load(folder / "inputs.npz"), np.load(folder / "outputs.npz")


@pytest.fixture(scope="module")
def leads():
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (3, 12, 2500)))


KINDS = {"tf": "time_frequency", "mfcc": "mfcc", "mixed": "mixed"}


RECORDED = [(record, f"{kind}_100") for record in range(3) for kind in KINDS]
RECORDED += [(0, name) for name in ("tf_50", "mfcc_50", "tf_500", "mfcc_500")]


@pytest.mark.parametrize(("record", "name"), RECORDED)
def test_recorded_numbers(case, record, name):
    inputs, outputs = case
    expected = outputs[f"record_{record}.{name}"]
    kind, rate = name.split("_")
    found = describe_shards(torch.from_numpy(inputs[f"record_{record}"])[None], KINDS[kind], int(rate))[0].numpy()
    assert found.shape == expected.shape and found.dtype == np.float32
    if kind != "mfcc":
        # Whether a constant shard has a skewness hangs on rounding; a flat lead has seven, so has a void one
        constant = expected[:, 5] < 1e-9
        assert constant.sum() == (14 if record == 2 else 0)
        assert np.isnan(found[constant, 10:12]).all()
        found[constant, 10:12] = expected[constant, 10:12] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_where_the_samples_of_a_shard_come_from(case):
    """Leads of slow ramps pass the low-pass unchanged away from their ends, and tell lead and sample."""
    lead, sample = (case[1][f"shard_{name}_100"].astype(int) for name in ("lead", "sample"))
    ramps = 10_000 * np.arange(12)[:, None] + np.arange(2500)[None] / 5
    shards = cut_shards(torch.from_numpy(ramps)[None])[0].numpy() / 10 ** (-0.1 / 20)
    inner = (sample > 100) & (sample < 400)
    assert inner.sum() > 3000
    np.testing.assert_allclose(shards[inner], (10_000 * lead + sample)[inner], rtol=1e-3)


def test_numbers_on_time_equal_scipy(leads):
    shards = cut_shards(leads, 100)
    found = time_frequency_descriptors(shards).numpy()
    x = shards.numpy()
    spectrum = np.abs(np.fft.fft(x)) ** 2 / 64
    rms = np.sqrt((x**2).mean(-1))
    expected = [x.min(-1), x.max(-1), x.mean(-1), rms, x.var(-1), x.std(-1), rms**2, np.abs(x).max(-1)]
    expected += [np.ptp(x, -1), np.abs(x).max(-1) / rms, scipy.stats.skew(x, -1), scipy.stats.kurtosis(x, -1)]
    expected += [spectrum.max(-1), spectrum.sum(-1), spectrum.mean(-1), spectrum.var(-1)]
    np.testing.assert_allclose(found, np.stack(expected, -1), rtol=1e-9, atol=1e-12)


def test_decimation_is_scipys_on_each_lead(leads):
    decimated = scipy.signal.decimate(leads.numpy(), 10)[..., 1:-1]
    np.testing.assert_allclose(cut_shards(leads, 50).numpy().reshape(3, -1), decimated.reshape(3, -1), atol=1e-12)


def test_coefficients_equal_a_plain_formulation(leads):
    """Kaldi's steps one shard at a time: bands as triangles over frequencies in mel, cosine transform by its sum."""
    shards = cut_shards(leads[:1], 100)[0]
    found = mfcc_descriptors(shards, 100).numpy()
    hertz = np.arange(32) * 100 / 64
    mel = 1127 * np.log(1 + hertz / 700)
    edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 50 / 700), 25)
    for shard, row in list(zip(shards.numpy(), found, strict=True))[::9]:
        x = shard - shard.mean()
        x = np.array([x[0] * (1 - 0.97), *(x[1:] - 0.97 * x[:-1])])
        x *= (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 63)) ** 0.85
        power = np.abs(np.fft.fft(x)[:32]) ** 2
        triangles = [np.interp(mel, edges[band : band + 3], [0, 1, 0]) for band in range(23)]
        energies = np.log(np.maximum([(power * triangle).sum() for triangle in triangles], 2.0**-23))
        scipys = scipy.fft.dct(energies, type=2, norm="ortho")[:13]
        lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
        # The package's cosines are those of rounded angles
        np.testing.assert_allclose(row[:13], scipys * lifter, atol=3e-3)
    assert not found[:, 13:].any()


def test_a_record_is_described_alike_in_company(leads):
    leads = leads.clone()
    leads[1, 3, 7] = torch.nan
    together = describe_shards(leads, "mixed")
    for row in range(3):
        torch.testing.assert_close(
            describe_shards(leads[row : row + 1], "mixed")[0], together[row], rtol=1e-5, atol=1e-6, equal_nan=True
        )


def test_a_void_lead_becomes_the_mean_of_the_others(leads):
    whole = cut_shards(leads, 100)[0].flatten()
    leads = leads.clone()
    leads[0, 4, 1200:] = torch.nan
    holed = cut_shards(leads, 100)[0].flatten()
    lead = torch.arange(12).repeat_interleave(496)
    torch.testing.assert_close(holed[lead != 4], whole[lead != 4])
    torch.testing.assert_close(holed[lead == 4], whole[lead != 4].mean().expand(496))


def test_shards_with_padding_are_told(case):
    """Leads end after 3.2 s: at 100 Hz their first 320 samples are real."""
    real = torch.arange(2500)[None] < 1600
    expected = (case[1]["shard_sample_100"] < 320).all(-1)
    assert real_shards(real).tolist() == [expected.tolist()] and 0 < expected.sum() < 93
    assert real_shards(torch.ones(1, 2500, dtype=torch.bool), 500).all()


def test_bad_input_is_refused(leads):
    with pytest.raises(ValueError, match="time_frequency, mfcc, mixed; got 'wavelet'"):
        describe_shards(leads, "wavelet")
    with pytest.raises(ValueError, match="100, 50, 500 Hz; got 250"):
        describe_shards(leads, "mfcc", 250)
    with pytest.raises(ValueError, match=r"got \(3, 12, 2000\)"):
        describe_shards(leads[..., :2000])
