import itertools
import time

import numpy as np
import pytest

from ecg_transformers.corpora.synthetic_generator import (
    SYNTHETIC_LABELS,
    _atrial_waves,
    draw_patient,
    generate_record,
)
from ecg_transformers.corpora.synthetic_labels import go_together
from ecg_transformers.corpora.synthetic_rhythms import draw_rhythm
from ecg_transformers.corpora.synthetic_waves import ELECTRODE_VECTORS, LEADS_OF_ELECTRODES
from ecg_transformers.feature_extraction.ecg_leads import STANDARD_LEADS

RATE = 500
ROW = {name: row for row, name in enumerate(STANDARD_LEADS)}
SEEDS = range(25)


def clean(labels, seed, **options):
    return generate_record(labels, seed, noise=0.0, **options)


def speed(signal):
    return np.sqrt((np.gradient(signal, axis=1) ** 2).sum(axis=0))


def qrs_times(record):
    """Times of QRS complexes found in the signal alone: stretches where all leads together change fast."""
    fast = np.flatnonzero(speed(record.signal) > 0.35 * np.percentile(speed(record.signal), 99.7))
    groups = np.split(fast, np.flatnonzero(np.diff(fast) > 0.15 * RATE) + 1)
    return np.array([group.mean() for group in groups]) / RATE


def beats(record, ectopic=False):
    """Beats from 40 ms before the annotated QRS onset to 560 ms after it, relative to the PR segment."""
    notes = record.metadata["annotations"]
    cut = []
    for onset, is_ectopic in zip(notes["qrs_onsets"], notes["ectopic"], strict=True):
        first = round(onset * RATE) - 20
        if is_ectopic == ectopic and first >= 0 and first + 300 <= record.num_samples:
            piece = record.signal[:, first : first + 300]
            cut.append(piece - piece[:, 10:18].mean(axis=1, keepdims=True))
    return cut


def qrs_seconds(beat, until=0.19):
    """Duration of the stretch, in all leads together, that changes faster than 6 % of the fastest change."""
    fast = speed(beat)[: round((0.04 + until) * RATE)]
    above = np.flatnonzero(fast > 0.06 * fast.max())
    return (above[-1] - above[0]) / RATE


def qrs(record, beat):
    return beat[:, 15 : 22 + round(record.metadata["annotations"]["qrs_seconds"] * RATE)]


def st_level(record, beat):
    """mV 60 ms after the J point."""
    return beat[:, 20 + round((record.metadata["annotations"]["qrs_seconds"] + 0.06) * RATE)]


def t_wave(record, beat):
    notes = record.metadata["annotations"]
    start, end = notes["qrs_seconds"] + 0.07, notes["qt_seconds"] - 0.02
    section = beat[:, 20 + round(start * RATE) : 20 + round(end * RATE)]
    return section[np.arange(12), np.abs(section).argmax(axis=1)]


def p_wave(record, onset):
    """Height of what precedes a QRS by 40-200 ms, in lead II, above its own ends."""
    first, last = round((onset - 0.21) * RATE), round((onset - 0.01) * RATE)
    section = record.signal[ROW["II"], max(0, first) : last]
    return section.max() - np.median(section)


@pytest.mark.parametrize(
    ("rhythm", "slowest", "fastest"),
    [("sinus_rhythm", 60, 100), ("sinus_bradycardia", 35, 60), ("sinus_tachycardia", 100, 160)],
)
def test_sinus_rhythms_have_their_rate_and_a_p_wave_before_each_qrs(rhythm, slowest, fastest):
    for seed in SEEDS:
        record = clean(rhythm, seed)
        times = qrs_times(record)
        rate = 60 / np.diff(times).mean()
        assert slowest < rate < fastest
        assert np.diff(times).std() < 0.08 * np.diff(times).mean()
        notes = record.metadata["annotations"]
        assert notes["heart_rate"] == pytest.approx(rate, abs=1.5)
        assert 0.12 <= notes["pr_seconds"] <= 0.20
        before = [p for p in notes["qrs_onsets"] if p > 0.25]
        assert min(p_wave(record, onset) for onset in before) > 0.04


def test_normal_conduction_is_narrow_with_r_wave_progression_and_upright_t():
    for seed in SEEDS:
        record = clean("sinus_rhythm", seed)
        beat = beats(record)[1]
        assert 0.06 <= qrs_seconds(beat, until=0.13) < 0.11
        complex_ = qrs(record, beat)
        r, s = complex_.max(axis=1), -complex_.min(axis=1)
        assert s[ROW["V1"]] > r[ROW["V1"]] and r[ROW["V5"]] > s[ROW["V5"]]
        t = t_wave(record, beat)
        assert (t[[ROW["II"], ROW["V4"], ROW["V5"]]] > 0.05).all() and t[ROW["aVR"]] < 0
        assert np.abs(st_level(record, beat)).max() < 0.1
        # Neither of the voltage findings.
        assert s[ROW["V1"]] + max(r[ROW["V5"]], r[ROW["V6"]]) < 3.5
        assert np.ptp(complex_[:6], axis=1).max() > 0.5


def test_qt_follows_the_rate():
    patient = draw_patient(3)
    slow, fast = (
        clean(name, 3, patient=patient).metadata["annotations"] for name in ("sinus_bradycardia", "sinus_tachycardia")
    )
    for notes in (slow, fast):
        cycle = min(60 / notes["heart_rate"], 1.5)
        assert notes["qt_seconds"] == pytest.approx(patient.qtc_seconds * cycle ** (1 / 3), abs=0.01)
    assert slow["qt_seconds"] > fast["qt_seconds"] + 0.08


def test_atrial_fibrillation_is_irregularly_irregular_without_p_waves():
    for seed in SEEDS:
        record = clean("atrial_fibrillation", seed)
        intervals = np.diff(qrs_times(record))
        assert 0.10 < intervals.std() / intervals.mean() < 0.40
        # Irregularly: an interval tells little about the next one.
        assert abs(np.corrcoef(intervals[:-1], intervals[1:])[0, 1]) < 0.8
        assert record.metadata["annotations"]["p_onsets"] == []
        assert record.metadata["annotations"]["pr_seconds"] is None


def test_fibrillatory_waves_lie_between_4_and_9_hz_and_are_largest_in_v1():
    times = np.arange(10 * RATE, dtype=np.float32) / RATE
    frequency = np.fft.rfftfreq(len(times), 1 / RATE)
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        rhythm = draw_rhythm(rng, "atrial_fibrillation", 10.0, pr_seconds=0.16, sinus_arrhythmia=0.0)
        leads = LEADS_OF_ELECTRODES @ ELECTRODE_VECTORS @ _atrial_waves(rng, rhythm, times, flutter=False)
        power = np.abs(np.fft.rfft(leads[ROW["V1"]])) ** 2
        assert 4 < frequency[power.argmax()] < 9
        assert power[(frequency > 3) & (frequency < 10)].sum() > 0.6 * power.sum()
        assert leads[ROW["V1"]].std() > leads[ROW["V6"]].std()

        # On the finished recording, they show between T and the next QRS.
        record = clean("atrial_fibrillation", seed)
        peaks = qrs_times(record)
        swings = [
            np.ptp(record.signal[ROW["V1"], round((peak - 0.25) * RATE) : round((peak - 0.07) * RATE)])
            for peak in peaks[1:][np.diff(peaks) > 0.6]
        ]
        assert not swings or np.median(swings) > 0.04


@pytest.mark.parametrize("rhythm", ["sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia"])
def test_premature_ventricular_beats_are_early_wide_discordant_and_followed_by_a_compensatory_pause(rhythm):
    for seed in SEEDS:
        record = clean([rhythm, "premature_ventricular_beats"], seed)
        notes = record.metadata["annotations"]
        onsets, ectopic = np.array(notes["qrs_onsets"]), np.array(notes["ectopic"])
        assert ectopic.any() and not ectopic.all()
        assert np.diff(onsets[ectopic]).max(initial=0) < 5
        basic = 60 / (notes["heart_rate"])
        for position in np.flatnonzero(ectopic[1:-1]) + 1:
            before, after = np.diff(onsets)[position - 1 : position + 1]
            assert before < 0.75 * basic
            assert before + after == pytest.approx(2 * basic, rel=0.12)
        assert not any(onset - 0.21 < p < onset for p in notes["p_onsets"] for onset in onsets[ectopic])
        for beat in beats(record, ectopic=True):
            assert qrs_seconds(beat, until=0.21) >= 0.12
            lead = np.ptp(beat[:, 20:110], axis=1).argmax()
            main = beat[lead, 20:110][np.abs(beat[lead, 20:110]).argmax()]
            later = beat[lead, 125:200]
            assert np.sign(later[np.abs(later).argmax()]) == -np.sign(main)


def test_left_bundle_branch_block():
    for seed in SEEDS:
        record = clean("left_bundle_branch_block", seed)
        beat = beats(record)[1]
        assert record.metadata["annotations"]["qrs_seconds"] >= 0.12
        assert qrs_seconds(beat) >= 0.12
        complex_, t = qrs(record, beat), t_wave(record, beat)
        lateral = [ROW["I"], ROW["V5"], ROW["V6"]]
        assert (complex_[lateral].max(axis=1) > 0.3).all()
        # No q: nothing negative before R.
        assert (complex_[lateral, :30].min(axis=1) > -0.05).all()
        assert -complex_[ROW["V1"]].min() > 0.6 and complex_[ROW["V1"]].max() < 0.25
        assert (t[lateral] < -0.05).all() and t[ROW["V1"]] > 0.05
        # Notched: two summits with a dip between.
        summits = complex_[ROW["V6"]]
        peaks = [
            k for k in range(1, len(summits) - 1) if summits[k - 1] < summits[k] >= summits[k + 1] and summits[k] > 0.4
        ]
        assert len(peaks) >= 2


def test_right_bundle_branch_block():
    for seed in SEEDS:
        record = clean("right_bundle_branch_block", seed)
        beat = beats(record)[1]
        assert record.metadata["annotations"]["qrs_seconds"] >= 0.12
        assert qrs_seconds(beat) >= 0.12
        complex_, t = qrs(record, beat), t_wave(record, beat)
        v1 = complex_[ROW["V1"]]
        bottom = int(v1.argmin())
        assert v1[:bottom].max() > 0.1 and v1[bottom] < -0.2 and v1[bottom:].max() > v1[:bottom].max()
        for lead in ("I", "V6"):
            summit = int(complex_[ROW[lead]].argmax())
            after = complex_[ROW[lead], summit:]
            assert after.min() < -0.1
            # Broad: below zero for 40 ms at least.
            assert (after < 0).sum() >= 0.04 * RATE
        assert t[ROW["V1"]] < -0.05 and t[ROW["V6"]] > 0.05


@pytest.mark.parametrize("rhythm", ["sinus_rhythm", "sinus_bradycardia", "sinus_tachycardia"])
def test_first_degree_block_has_a_long_constant_pr(rhythm):
    for seed in SEEDS:
        notes = clean([rhythm, "first_degree_av_block"], seed).metadata["annotations"]
        p_onsets = np.array(notes["p_onsets"])
        intervals = [onset - p_onsets[p_onsets < onset].max() for onset in notes["qrs_onsets"] if onset > p_onsets[0]]
        assert min(intervals) > 0.20
        assert np.ptp(intervals) < 0.001


def test_p_waves_begin_where_annotated():
    record = clean("sinus_bradycardia", 4)
    onset = next(p for p in record.metadata["annotations"]["p_onsets"] if p > 0.3)
    lead = record.signal[ROW["II"]]
    level = lead[round((onset - 0.06) * RATE) : round((onset - 0.01) * RATE)].mean()
    during = lead[round(onset * RATE) : round((onset + 0.11) * RATE)]
    assert abs(lead[round(onset * RATE)] - level) < 0.02
    assert during.max() - level > 0.06


@pytest.mark.parametrize("rhythm", ["sinus_rhythm", "sinus_tachycardia", "atrial_fibrillation"])
def test_anterior_st_elevation(rhythm):
    for seed in SEEDS:
        record = clean([rhythm, "anterior_st_elevation"], seed)
        levels = np.median([st_level(record, beat) for beat in beats(record)], axis=0)
        assert (levels[[ROW[name] for name in ("V1", "V2", "V3", "V4")]] >= 0.2).all()
        assert (levels[[ROW["III"], ROW["aVF"]]] < -0.03).all()


def test_inferior_st_elevation():
    for seed in SEEDS:
        record = clean("inferior_st_elevation", seed)
        levels = np.median([st_level(record, beat) for beat in beats(record)], axis=0)
        assert (levels[[ROW["II"], ROW["III"], ROW["aVF"]]] >= 0.1).all()
        assert levels[ROW["aVL"]] < -0.03


def test_voltage_findings():
    for seed in SEEDS:
        record = clean("left_ventricular_hypertrophy", seed)
        beat = beats(record)[1]
        complex_ = qrs(record, beat)
        assert -complex_[ROW["V1"]].min() + complex_[[ROW["V5"], ROW["V6"]]].max() > 3.5
        assert t_wave(record, beat)[ROW["V6"]] < 0
        record = clean("low_voltage", seed)
        complex_ = qrs(record, beats(record)[1])
        assert np.ptp(complex_[:6], axis=1).max() < 0.5 and np.ptp(complex_[6:], axis=1).max() < 1.0


def test_flutter_wenckebach_complete_block_and_pacing():
    for seed in SEEDS:
        flutter = clean("atrial_flutter", seed)
        intervals = np.diff(flutter.metadata["annotations"]["qrs_onsets"])
        assert intervals.std() < 0.03 * intervals.mean()

        notes = clean("second_degree_av_block", seed).metadata["annotations"]
        p_onsets, onsets = np.array(notes["p_onsets"]), np.array(notes["qrs_onsets"])
        assert len(p_onsets) > len(onsets)
        pr = np.array([onset - p_onsets[p_onsets < onset].max() for onset in onsets if onset > p_onsets[0]])
        # A beat after a pause has the shortest PR, beats without a pause before them a longer one than the last.
        pauses = np.diff(onsets[-len(pr) :]) > 1.4 * np.diff(p_onsets).mean()
        assert pauses.any()
        assert (np.diff(pr)[~pauses] > 0.01).all() and (np.diff(pr)[pauses] < 0).all()

        notes = clean("complete_av_block", seed).metadata["annotations"]
        p_onsets, onsets = np.array(notes["p_onsets"]), np.array(notes["qrs_onsets"])
        assert 60 / np.diff(onsets).mean() < 46 < 60 < 60 / np.diff(p_onsets).mean()
        assert np.diff(onsets).std() < 0.03 and np.diff(p_onsets).std() < 0.1 * np.diff(p_onsets).mean()

        paced = clean("ventricular_pacing", seed)
        beat = beats(paced)[1]
        assert qrs_seconds(beat, until=0.22) >= 0.12
        assert (qrs(paced, beat)[[ROW["II"], ROW["III"], ROW["aVF"]]].min(axis=1) < -0.4).all()


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_limb_leads_obey_einthoven_and_goldberger_noise_included(noise):
    signal = generate_record("sinus_rhythm", 5, noise=noise).signal.astype(np.float64)
    one, two, three, right, left, foot = signal[:6]
    np.testing.assert_allclose(one + three, two, atol=2e-6)
    np.testing.assert_allclose(right, -(one + two) / 2, atol=2e-6)
    np.testing.assert_allclose(left, (one - three) / 2, atol=2e-6)
    np.testing.assert_allclose(foot, (two + three) / 2, atol=2e-6)


def test_electrodes_see_the_published_lead_vectors():
    leads = LEADS_OF_ELECTRODES @ ELECTRODE_VECTORS
    np.testing.assert_allclose(leads[ROW["I"]], [0.632, -0.235, 0.059], atol=1e-12)
    np.testing.assert_allclose(leads[ROW["II"]], [0.235, 1.066, -0.132], atol=1e-12)
    np.testing.assert_allclose(leads[ROW["V2"]], [0.044, 0.164, -1.387], atol=1e-12)
    np.testing.assert_allclose(leads[ROW["V6"]], [0.831, 0.076, 0.230], atol=1e-12)


def test_several_findings_at_once():
    record = clean(["right_bundle_branch_block", "atrial_fibrillation"], 2)
    assert record.metadata["labels"] == ["atrial_fibrillation", "right_bundle_branch_block"]
    intervals = np.diff(record.metadata["annotations"]["qrs_onsets"])
    assert intervals.std() > 0.1 * intervals.mean()
    assert qrs_seconds(beats(record)[1]) >= 0.12


@pytest.mark.parametrize("label", SYNTHETIC_LABELS)
def test_every_label_is_finite_in_range_and_reproducible(label):
    first, again, other = (generate_record(label, seed) for seed in (11, 11, 12))
    np.testing.assert_array_equal(first.signal, again.signal)
    assert first.metadata == again.metadata
    assert not np.array_equal(first.signal, other.signal)
    assert np.isfinite(first.signal).all() and np.abs(first.signal).max() < 6
    assert first.lead_names == STANDARD_LEADS and first.signal.shape == (12, 5000)
    assert label in first.metadata["labels"]
    assert 18 <= first.metadata["age"] <= 96 and first.metadata["sex"] in ("female", "male")


def test_all_pairs_that_go_together_can_be_generated():
    for pair in itertools.combinations(SYNTHETIC_LABELS, 2):
        if go_together(pair):
            assert set(pair) <= set(generate_record(pair, 1, seconds=3.0).metadata["labels"])
        else:
            with pytest.raises(ValueError, match="cannot occur"):
                generate_record(pair, 1)


def test_the_heart_does_not_depend_on_the_sampling_rate():
    fine, coarse = (
        clean(["atrial_fibrillation", "premature_ventricular_beats"], 8, sampling_rate=r) for r in (1000, 250)
    )
    np.testing.assert_allclose(fine.signal[:, ::4], coarse.signal, atol=1e-3)
    assert fine.metadata == coarse.metadata


def test_a_seed_sequence_and_its_children_serve_as_seeds():
    parent = np.random.SeedSequence(4)
    children = parent.spawn(2)
    signals = [generate_record("sinus_rhythm", child).signal for child in children]
    assert not np.array_equal(*signals)
    # What else was drawn in the meantime does not matter.
    np.testing.assert_array_equal(
        signals[1], generate_record("sinus_rhythm", np.random.SeedSequence(4).spawn(2)[1]).signal
    )


def test_records_of_a_patient_share_the_heart_but_not_the_noise():
    patient = draw_patient(21)
    first, second = (generate_record("sinus_rhythm", seed, patient=patient) for seed in (1, 2))
    stranger = generate_record("sinus_rhythm", 1, patient=draw_patient(22))
    assert first.metadata["age"] == second.metadata["age"] == patient.age
    assert first.metadata["annotations"]["qrs_seconds"] == second.metadata["annotations"]["qrs_seconds"]

    def shape(record):
        return np.median([beat[:, 15:80] for beat in beats(record)], axis=0)

    assert np.abs(shape(first) - shape(second)).max() < np.abs(shape(first) - shape(stranger)).max()


@pytest.mark.parametrize(("rate", "seconds"), [(100, 10.0), (400, 7.3), (1000, 2.0), (257, 0.5), (500, 60.0)])
def test_other_rates_and_lengths(rate, seconds):
    record = generate_record(["sinus_rhythm", "premature_ventricular_beats"], 1, sampling_rate=rate, seconds=seconds)
    assert record.signal.shape == (12, round(rate * seconds)) and record.sampling_rate == rate
    assert np.isfinite(record.signal).all()


def test_a_converter_rounds_and_keeps_the_limb_leads_consistent():
    signal = generate_record("sinus_rhythm", 1, adc_step_mv=0.005).signal.astype(np.float64)
    steps = signal[[0, 1, 6, 9]] / 0.005
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    np.testing.assert_allclose(signal[0] + signal[2], signal[1], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": "atrial_fibrilation"}, "Unknown label 'atrial_fibrilation'; known labels: sinus_rhythm"),
        ({"labels": ["sinus_rhythm", "sinus_bradycardia"]}, "cannot occur in one synthetic recording"),
        ({"seed": -1}, "at least 0"),
        ({"seed": 1.5}, "integer"),
        ({"sampling_rate": 0}, "`sampling_rate` is a positive number"),
        ({"seconds": float("nan")}, "`seconds` is a positive number"),
        ({"seconds": 1e-6}, "longer recording"),
        ({"noise": -1}, "`noise` is a factor"),
        ({"adc_step_mv": 0.0}, "`adc_step_mv` is a positive number"),
    ],
)
def test_bad_arguments_say_what_is_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate_record(**{"labels": "sinus_rhythm", "seed": 0, **arguments})


def test_a_record_takes_a_few_milliseconds():
    generate_record("sinus_tachycardia", 0)
    laps = []
    for seed in range(20):
        start = time.perf_counter()
        generate_record("sinus_tachycardia", seed)
        laps.append(time.perf_counter() - start)
    # About 1.5 ms on one core; the bound leaves room for a busy machine.
    assert min(laps) < 0.01
