import logging

import numpy as np
import pytest
import scipy.signal

from ecg_transformers import STANDARD_LEADS, load_corpus, read_ecg
from ecg_transformers.readers.wfdb_annotations import read_annotations
from ecg_transformers.record import ECGRecord
from ecg_transformers.training import RPeakFinder, find_r_peaks, sample_views


@pytest.fixture(scope="module")
def records():
    rows = load_corpus("synthetic", num_patients=14, records_per_patient=1, seed=2)["train"]
    return [rows[index]["ecg"] for index in range(6)]


def beats(seconds=10, rate=250, interval=0.8, first=0.5, height=1.0, leads=("I", "II"), noise=0.0):
    """Triangles of 80 ms on a straight line, whose tips are known."""
    times = np.arange(round(seconds * rate)) / rate
    tips = np.arange(first, seconds - 0.1, interval)
    signal = np.zeros_like(times)
    for tip in tips:
        signal += np.clip(1 - np.abs(times - tip) / 0.04, 0, None)
    signal = height * signal + noise * np.random.default_rng(0).standard_normal(len(times))
    return ECGRecord(np.stack([signal] * len(leads)), rate, leads), tips


def starts_of(view, record):
    """Where a view lies in its record."""
    length = view.num_samples
    windows = np.lib.stride_tricks.sliding_window_view(record.signal[0], length)
    return np.flatnonzero((windows == view.signal[0]).all(-1)).tolist()


@pytest.mark.parametrize("rate", [50, 100, 250, 257, 360, 500, 1000])
@pytest.mark.parametrize("height", [1.0, -1.0])
def test_peaks_of_known_beats(rate, height):
    record, tips = beats(rate=rate, height=height, noise=0.005)
    found = find_r_peaks(record.signal[0] + 3, rate) / rate
    nearest = np.abs(found[:, None] - tips).min(0)
    assert (nearest <= max(0.008, 1 / rate)).sum() >= len(tips) - 1
    # Nothing else is taken for a beat
    assert np.abs(found[:, None] - tips).min(1).max() <= max(0.008, 1 / rate)


def test_peaks_do_not_depend_on_the_rate(records):
    for record in records[:3]:
        at_500 = find_r_peaks(record.signal[1], 500) / 500
        slower = scipy.signal.resample(record.signal[1], record.num_samples // 5)
        at_100 = find_r_peaks(slower, 100) / 100
        near = np.abs(at_500[:, None] - at_100).min(1) < 0.03
        assert len(at_500) > 4 and near.mean() > 0.8 and abs(len(at_500) - len(at_100)) <= 1


@pytest.mark.parametrize(
    ("signal", "rate"),
    [
        (np.zeros(2500), 250),
        (np.full(2500, 0.7), 250),
        (np.full(2500, np.nan), 250),
        (np.random.default_rng(0).standard_normal(100), 250),
        (np.random.default_rng(0).standard_normal(1), 250),
        (np.random.default_rng(0).standard_normal(300), 30),
    ],
    ids=["zero", "constant", "missing", "short", "one sample", "low rate"],
)
def test_signals_without_peaks(signal, rate):
    found = find_r_peaks(signal.astype(np.float32), rate)
    assert found.shape == (0,) and found.dtype == np.int64


def test_gaps_are_bridged():
    record, tips = beats(noise=0.005)
    signal = record.signal[0].copy()
    signal[1000:1100] = np.nan
    found = find_r_peaks(signal, 250) / 250
    kept = [tip for tip in tips if not 3.9 < tip < 4.5]
    assert (np.abs(found[:, None] - kept).min(0) < 0.01).sum() >= len(kept) - 1


def matched(found, marked, tolerance):
    """Share of the marked beats that are found, and of the found ones that are marked."""
    distances = np.abs(found[:, None] - marked)
    return (distances.min(0) <= tolerance).sum(), (distances.min(1) <= tolerance).sum()


def test_beats_of_a_holter_record(shared_data):
    record = read_ecg(shared_data / "mit-bih" / "100.hea")
    marks = read_annotations(shared_data / "mit-bih" / "100.atr")
    marked = marks.samples[[symbol in "NAV" for symbol in marks.symbols]]
    length = 300 * 360
    found = find_r_peaks(record.signal[0, :length], 360)
    marked = marked[marked < length]
    of_marked, of_found = matched(found, marked, 0.05 * 360)
    assert of_marked >= 0.99 * len(marked) and of_found >= 0.99 * len(found) and len(marked) > 300


def test_beats_of_clinical_records(shared_data):
    """Records with flutter, fibrillation, blocks and pacemakers among them; cardiologists marked their R peaks."""
    counts = np.zeros(4)
    for path in sorted((shared_data / "ludb" / "data").glob("*.hea")):
        marks = read_annotations(path.with_suffix(".ii"))
        marked = marks.samples[[symbol == "N" for symbol in marks.symbols]]
        found = RPeakFinder().find(read_ecg(path))
        # The first and the last beat are not marked
        found = found[(found > marked[0] - 50) & (found < marked[-1] + 50)]
        counts += [*matched(found, marked, 40), len(marked), len(found)]
    assert counts[2] > 100 and counts[0] > 0.95 * counts[2] and counts[1] > 0.95 * counts[3]


def test_the_lead_that_counts():
    record, tips = beats(leads=STANDARD_LEADS, noise=0.002)
    finder = RPeakFinder()
    whole = finder.find(record)
    flat = record.signal.copy()
    flat[1] = 0.2  # II
    flat[0, :2000] = np.nan  # I
    assert np.array_equal(finder.find(ECGRecord(flat, 250, STANDARD_LEADS)), whole)
    only = ECGRecord(record.signal[7:8], 250, ["V2"])
    assert np.array_equal(finder.find(only), whole) and len(whole) >= len(tips) - 1
    # A lead without beats, and one with
    mixed = ECGRecord(np.stack([np.linspace(0, 1, 2500), record.signal[0]]), 250, ["II", "X1"])
    assert np.array_equal(finder.find(mixed), whole)


def test_peaks_are_remembered(records, monkeypatch):
    import wfdb.processing

    calls = []
    detect = wfdb.processing.xqrs_detect

    def counted(*args, **kwargs):
        calls.append(1)
        return detect(*args, **kwargs)

    monkeypatch.setattr(wfdb.processing, "xqrs_detect", counted)
    finder = RPeakFinder(remembered=2)
    first = finder.find(records[0])
    copied = ECGRecord(records[0].signal.copy(), 500, records[0].lead_names)
    assert np.array_equal(finder.find(copied), first) and len(calls) == 1
    finder.find(records[1])
    finder.find(records[0])
    finder.find(records[2])  # the memory holds two: record 1 goes
    finder.find(records[0])
    assert len(calls) == 3
    finder.find(records[1])
    assert len(calls) == 4


def test_random_views(records):
    first, second = sample_views(records, 4.0, seeds=range(6))
    for record, one, two in zip(records, first, second, strict=True):
        assert one.num_samples == two.num_samples == 2000 and one.sampling_rate == 500
        assert one.metadata == record.metadata and one.lead_names == record.lead_names
        (start,) = starts_of(one, record)
        assert np.array_equal(one.signal, record.signal[:, start : start + 2000])
        assert starts_of(two, record) != [start]
    # Views belong to their seed, not to their company
    again = sample_views(records[2:4], 4.0, seeds=[2, 3])
    assert np.array_equal(again[1][0].signal, second[2].signal)
    others = sample_views(records[2:3] * 200, 4.0, seeds=range(200), num_views=1)[0]
    starts = [starts_of(view, records[2])[0] for view in others]
    assert min(starts) < 150 and 2850 < max(starts) <= 3000


def test_views_at_peaks(records):
    finder = RPeakFinder()
    many = records[:1] * 60
    first, second = sample_views(many, 4.0, "r_peak", seeds=range(60), finder=finder)
    room = [peak for peak in finder.find(records[0]).tolist() if peak + 2000 <= 5000]
    found = [[starts_of(view, records[0])[0] for view in views] for views in (first, second)]
    assert set(found[0]) == set(found[1]) == set(room) and len(room) > 2
    # Each view picks its own peak
    same = np.mean(np.array(found[0]) == np.array(found[1]))
    assert same < 0.7
    assert (finder.num_asked, finder.num_without_peaks, finder.num_without_room) == (60, 0, 0)


def test_records_without_peaks_are_cut_anywhere_and_counted(caplog):
    flat = ECGRecord(np.zeros((2, 5000)) + np.linspace(0, 1, 5000), 500, ["I", "II"])
    finder = RPeakFinder()
    caplog.set_level(logging.WARNING)
    logging.getLogger("ecg_transformers").propagate = True
    views = sample_views([flat] * 12, 4.0, "r_peak", seeds=range(12), finder=finder)[0]
    random = sample_views([flat] * 12, 4.0, seeds=range(12))[0]
    assert all(np.array_equal(one.signal, two.signal) for one, two in zip(views, random, strict=True))
    assert (finder.num_asked, finder.num_without_peaks, finder.num_without_room) == (12, 12, 0)
    said = [entry.getMessage() for entry in caplog.records if "R peak" in entry.getMessage()]
    assert len(said) == 2
    assert said[0].startswith("1 of 1 records") and said[1].startswith("10 of 10 records")


def test_records_that_are_no_longer_than_a_view(records, caplog):
    short = ECGRecord(records[0].signal[:, :1500], 500, records[0].lead_names)
    caplog.set_level(logging.WARNING)
    finder = RPeakFinder()
    for align in ("random", "r_peak"):
        first, second = sample_views([short, records[1]], 10.0, align, seeds=[1, 2], finder=finder)
        assert np.array_equal(first[0].signal, short.signal) and np.array_equal(second[0].signal, short.signal)
        assert first[1].num_samples == 5000
    assert finder.num_without_room == 2 and "shorter views" in caplog.text


def test_settings_that_make_no_sense(records):
    with pytest.raises(ValueError, match="'p_wave'"):
        sample_views(records, 4.0, "p_wave", seeds=range(6))
    with pytest.raises(ValueError, match="got 0 s"):
        sample_views(records, 0, seeds=range(6))
    with pytest.raises(ValueError, match="got 2 seeds"):
        sample_views(records, 4.0, seeds=[1, 2])
