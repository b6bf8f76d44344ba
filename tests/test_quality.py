import json
import math

import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, ECGRecord, QualityLimits, assess_quality, read_ecg
from ecg_transformers.feature_extraction.ecg_leads import arrange_leads
from ecg_transformers.information import describe_record, format_description

RATE, SECONDS = 500, 10


def clean(rate=RATE, seconds=SECONDS, noise=0.003):
    """Twelve consistent leads with a normal axis: I, II, V1 to V6 from beats, the others derived."""
    time = np.arange(int(rate * seconds)) / rate
    phase = (time % 0.8) / 0.8
    qrs = np.exp(-(((phase - 0.4) / 0.012) ** 2)) - 0.25 * np.exp(-(((phase - 0.43) / 0.012) ** 2))
    wave = qrs + 0.12 * np.exp(-(((phase - 0.22) / 0.03) ** 2)) + 0.25 * np.exp(-(((phase - 0.7) / 0.06) ** 2))
    gains = np.array([0.7, 1.1, -0.6, 0.3, 0.6, 1.0, 1.2, 0.9])
    random = np.random.default_rng(0)
    stored = gains[:, None] * wave + random.normal(0, noise, (8, len(time)))
    signal, _ = arrange_leads(stored, ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"])
    return signal.astype(np.float32)


def quality_of(signal, rate=RATE, names=STANDARD_LEADS, **limits):
    return assess_quality(ECGRecord(signal, rate, tuple(names)), QualityLimits(**limits))


@pytest.mark.parametrize("rate", [100, 250, 400, 500, 1000])
def test_a_clean_recording_has_no_issues(rate):
    quality = quality_of(clean(rate), rate)
    assert quality.issues == [] and quality.missing_leads == [] and quality.padding_seconds == (0.0, 0.0)
    assert quality.limb_electrodes is None and quality.limb_error_mv < 1e-4 and quality.power_line_hz is None
    for lead in quality.leads.values():
        assert lead.missing_fraction == lead.flat_fraction == lead.clipped_fraction == 0
        assert lead.wander_mv < 0.2 and lead.baseline_power > 0.8 and lead.kurtosis > 5 and lead.qrs_power > 0.4
    assert json.loads(json.dumps(quality.to_dict()))["leads"]["V1"]["kurtosis"] == quality.leads["V1"].kurtosis


def test_wander_is_measured():
    signal = clean()
    time = np.arange(signal.shape[1]) / RATE
    signal[7] += 0.8 * np.sin(2 * np.pi * 0.2 * time)
    quality = quality_of(signal)
    assert quality.leads["V2"].wander_mv == pytest.approx(1.6, rel=0.1) and quality.leads["V2"].baseline_power < 0.3
    assert [issue for issue in quality.issues if not issue.startswith("lead V2: wander of 1.")] == []
    assert quality_of(signal, wander_mv=2.0, baseline_power=0.0).issues == []


@pytest.mark.parametrize("line", [50, 60])
def test_the_power_line_is_found(line):
    signal = clean()
    time = np.arange(signal.shape[1]) / RATE
    signal += np.float32(0.08) * np.sin(2 * np.pi * line * time).astype(np.float32)
    quality = quality_of(signal)
    assert quality.power_line_hz == line
    for lead in quality.leads.values():
        assert lead.power_line_mv == pytest.approx(0.08, rel=0.1) and lead.noise_mv < 0.02
    assert len([issue for issue in quality.issues if f"at {line} Hz" in issue]) == 12


def test_noise_is_measured_between_beats():
    signal = clean(noise=0.0)
    signal[9] += np.random.default_rng(1).normal(0, 0.1, signal.shape[1])
    quality = quality_of(signal)
    # White noise of 0.1 mV has 84 % of its power above 40 Hz of 250 Hz; the quieter half of the windows is below that.
    assert 0.8 < quality.leads["V4"].noise_mv / (0.1 * math.sqrt(0.84)) < 1
    assert quality.leads["V5"].noise_mv < 0.01
    assert [issue.split(":")[0] for issue in quality.issues] == ["lead V4"]


def test_flat_missing_and_clipped_leads():
    signal = clean()
    signal[6] = 0.25
    signal[7, 1000:3000] = np.nan
    signal[8] = np.nan
    signal[9] = np.clip(signal[9], None, 0.2)
    signal[10, 2000:4000] = 0.1
    quality = quality_of(signal)
    leads = quality.leads
    assert leads["V1"].flat_fraction == 1 and leads["V2"].missing_fraction == 0.4 and leads["V3"].missing_fraction == 1
    assert leads["V3"].noise_mv is None and leads["V2"].noise_mv is not None
    assert leads["V4"].clipped_fraction > 0.01 and leads["V6"].clipped_fraction == 0
    assert leads["V5"].flat_fraction == pytest.approx(0.4, abs=0.01)
    assert {issue.split(":")[0] for issue in quality.issues} == {f"lead V{number}" for number in range(1, 6)}


def test_padding():
    signal = np.pad(clean(), ((0, 0), (250, 750)))
    signal[:, -100:] = np.nan
    quality = quality_of(signal)
    begin, end = quality.padding_seconds
    assert begin == pytest.approx(0.5, abs=0.01) and end == pytest.approx(1.5, abs=0.01)
    assert [issue.split(":")[0] for issue in quality.issues] == ["padding"]
    # Padding does not count as flat, missing or wander.
    assert all(lead.missing_fraction == 0 and lead.flat_fraction == 0 for lead in quality.leads.values())


@pytest.mark.parametrize(
    ("swap", "electrodes"),
    [
        (lambda i, ii, iii: (-i, iii), "right arm and left arm"),
        (lambda i, ii, iii: (-iii, 0.0003 * ii), "right leg and right arm"),
        (lambda i, ii, iii: (ii, ii + 0.0003 * iii), "right leg and left arm"),
    ],
)
def test_swapped_limb_electrodes(swap, electrodes):
    signal = clean(noise=0.001)
    # A frontal axis at which all limb leads are large.
    signal[1] = 0.9 * signal[1] + 0.4 * signal[0]
    one, two = swap(signal[0], signal[1], signal[1] - signal[0])
    stored = np.stack([one, two, *signal[6:]])
    twelve, _ = arrange_leads(stored, ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"])
    quality = quality_of(twelve)
    assert quality.limb_electrodes == electrodes
    assert any(electrodes in issue for issue in quality.issues)
    assert quality_of(signal).limb_electrodes is None


def test_limb_leads_that_disagree():
    signal = clean()
    signal[3] *= -1
    quality = quality_of(signal, limb_error_mv=0.01)
    assert quality.limb_error_mv > 0.01 and any("limb leads disagree" in issue for issue in quality.issues)


def test_few_leads_and_short_recordings():
    signal = clean()
    quality = quality_of(signal[:2], names=["I", "II"])
    assert quality.missing_leads == ["V1", "V2", "V3", "V4", "V5", "V6"] and quality.issues == []
    assert quality_of(
        signal[[0, 1, 6, 7, 8, 9, 10]], names=["I", "II", "V1", "V2", "V3", "V4", "V5"]
    ).missing_leads == ["V6"]
    eight = [0, 1, 2, 6, 7, 8, 9, 10]
    assert "leads missing: V6" in quality_of(signal[eight], names=[STANDARD_LEADS[row] for row in eight]).issues
    for samples in (1, 2, 3, 50, 500):
        quality = quality_of(signal[:, :samples])
        assert all(lead.noise_mv is None for lead in quality.leads.values()) and quality.limb_electrodes is None
    assert quality_of(np.full((1, 5000), np.nan), names=["I"]).leads["I"].missing_fraction == 1
    assert quality_of(np.zeros((2, 5000)), names=["X", "Y"]).leads["X"].flat_fraction == 1


def test_info_tells_the_issues():
    signal = clean()
    assert "quality      no issues" in format_description(describe_record(ECGRecord(signal, RATE, STANDARD_LEADS)))
    signal[6] = 0
    description = describe_record(ECGRecord(signal, RATE, STANDARD_LEADS))
    assert description["quality"] == ["lead V1: flat for 100% of the time"]
    assert "quality      lead V1: flat" in format_description(description)


def test_real_recordings(shared_data):
    ningbo = assess_quality(read_ecg(shared_data / "challenge-2021/ningbo/JS20004.hea"))
    flat = [name for name, lead in ningbo.leads.items() if lead.flat_fraction == 1]
    assert 3 <= len(flat) <= 5 and all(any(f"lead {name}: flat" in issue for issue in ningbo.issues) for name in flat)
    philips = assess_quality(read_ecg(shared_data / "philips-xml/129DYPRG.xml"))
    assert philips.issues == ["padding: 0 s at the beginning, 0.472 s at the end"]
    mains = assess_quality(read_ecg(shared_data / "challenge-2025-code15/records/47946.hea"))
    assert mains.power_line_hz == 60
    suspects = []
    for path in sorted((shared_data / "ptb-xl/records500").rglob("*.hea"))[::3]:
        record = read_ecg(path)
        suspects += [path] if assess_quality(record).limb_electrodes else []
    assert suspects == []


def test_simulated_swaps_of_real_recordings_are_found(shared_data):
    found, paths = 0, sorted((shared_data / "ptb-xl/records500").rglob("*.hea"))
    for path in paths:
        record = read_ecg(path)
        signal = record.signal.copy()
        one, two, three, right, left = signal[:5].copy()
        signal[:5] = -one, three, two, left, right
        swapped = ECGRecord(signal, record.sampling_rate, record.lead_names)
        found += assess_quality(swapped).limb_electrodes == "right arm and left arm"
    assert found > 0.75 * len(paths)
