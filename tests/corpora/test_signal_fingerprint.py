"""What the fingerprint of an ECG survives, and what it does not, on real records."""

import csv
from itertools import combinations

import numpy as np
import pytest
from scipy import signal as filters

from ecg_transformers import ECGRecord, read_ecg
from ecg_transformers.corpora import leakage_search
from ecg_transformers.corpora.ecg_feature import resample
from ecg_transformers.corpora.leakage_search import best_partners
from ecg_transformers.corpora.signal_fingerprint import (
    FREQUENCIES,
    SAME_SIMILARITY,
    SEARCH_SIMILARITY,
    fingerprint_similarity,
    signal_fingerprint,
    signal_similarity,
)

# One record of each kind of source, rates from 360 to 1000 Hz.
RECORDS = (
    "ptb-xl/records500/00000/00039_hr.hea",
    "challenge-2021/cpsc2018/A0001.hea",
    "challenge-2021/ningbo/JS20004.hea",
    "challenge-2025-code15/records/919083.hea",
    "ludb/data/104.hea",
    "ptbdb/s0010_re.hea",
    "sph-h5/SPH00003.h5",
    "mit-bih/100.hea",
)


def changed(record, signal=None, rate=None, leads=None):
    return ECGRecord(
        record.signal if signal is None else signal, rate or record.sampling_rate, leads or record.lead_names
    )


def zero_phase(record, kind, cutoff):
    sections = filters.butter(4, cutoff, kind, fs=record.sampling_rate, output="sos")
    return changed(record, filters.sosfiltfilt(sections, record.signal, axis=1))


def padded(record, value=0.0):
    ends = np.full((record.num_leads, round(0.3 * record.sampling_rate)), value, np.float32)
    return changed(record, np.concatenate([ends, record.signal, ends], axis=1))


SURVIVED = {
    "100 Hz": lambda r: changed(r, resample(r.signal, r.sampling_rate, 100), 100),
    "another rate, up": lambda r: changed(r, resample(r.signal, r.sampling_rate, 1024), 1024),
    "microvolts and an offset": lambda r: changed(r, 1000 * r.signal + 250),
    "z-scored leads": lambda r: changed(
        r, (r.signal - r.signal.mean(1, keepdims=True)) / np.maximum(r.signal.std(1, keepdims=True), 1e-6)
    ),
    "rounded to 20 uV": lambda r: changed(r, np.round(r.signal / 0.02) * 0.02),
    "half precision": lambda r: changed(r, r.signal.astype(np.float16)),
    "without wander": lambda r: zero_phase(r, "highpass", 0.67),
    "40 Hz low-pass": lambda r: zero_phase(r, "lowpass", 40),
    "padded with zeros": padded,
    "padded with NaN": lambda r: padded(r, np.nan),
    "padded with a value": lambda r: padded(r, 1.5),
    "first five seconds": lambda r: changed(r, r.signal[:, : round(5 * r.sampling_rate)]),
    "leads in another order": lambda r: changed(r, r.signal[::-1], leads=r.lead_names[::-1]),
    "begins 10 ms later": lambda r: changed(r, r.signal[:, round(0.01 * r.sampling_rate) :]),
}

LOST = {
    "begins elsewhere": lambda r: changed(r, r.signal[:, round(0.7 * r.sampling_rate) :]),
    "inverted": lambda r: changed(r, -r.signal),
    "backwards": lambda r: changed(r, r.signal[:, ::-1]),
    "noise as large as the waves": lambda r: changed(
        r,
        r.signal
        + r.signal.std(1, keepdims=True)
        * zero_phase(changed(r, np.random.default_rng(0).standard_normal(r.signal.shape)), "lowpass", 15).signal
        * 5,
    ),
}


@pytest.fixture(scope="module")
def records(shared_data):
    return {path: read_ecg(shared_data / path) for path in RECORDS}


def similarity(one, other):
    first, second = signal_fingerprint(one), signal_fingerprint(other)
    assert first[0] == second[0]
    return float(fingerprint_similarity(first[1][None], second[1][None])[0]), signal_similarity(one, other)


@pytest.mark.parametrize("change", SURVIVED)
def test_survives(records, change):
    for path, record in records.items():
        window, whole = similarity(record, SURVIVED[change](record))
        assert window >= SEARCH_SIMILARITY and whole >= SAME_SIMILARITY, (path, window, whole)


@pytest.mark.parametrize("change", LOST)
def test_does_not_survive(records, change):
    for path, record in records.items():
        window, whole = similarity(record, LOST[change](record))
        assert min(window, whole) < SAME_SIMILARITY, (path, window, whole)


def test_other_leads(records):
    record = records[RECORDS[0]]
    two = record.select_leads(["II", "V1"])
    assert min(similarity(record, two)) > 0.9999
    # Without a common lead there is nothing to compare.
    assert signal_similarity(two, record.select_leads(["V5"])) is None
    flat = changed(record, np.where(np.array(record.lead_names)[:, None] == "II", 0.25, record.signal))
    assert signal_fingerprint(flat)[0] == "I" and signal_fingerprint(record)[0] == "II"
    gap = record.signal.copy()
    gap[1, 700:720] = np.nan
    assert signal_fingerprint(changed(record, gap))[0] == "I"
    assert signal_similarity(changed(record, gap), record) > 0.9999


def test_records_without_a_fingerprint(records):
    record = records[RECORDS[0]]
    assert signal_fingerprint(changed(record, record.signal[:, :999])) is None
    assert signal_fingerprint(changed(record, record.signal[:, :1000])) is not None
    assert signal_fingerprint(changed(record, rate=37)) is None
    for value in (0.0, 2.0, np.nan):
        assert signal_fingerprint(changed(record, np.full_like(record.signal, value))) is None
    assert signal_similarity(changed(record, np.zeros_like(record.signal)), record) is None


def test_fingerprint_is_the_spectrum_of_the_first_seconds():
    # A cosine of 6 Hz: all of its power is at 6 Hz and, by the taper, in the two neighbours; phase 0 at the start.
    times = np.arange(5000) / 500
    lead, vector = signal_fingerprint(ECGRecord(np.cos(2 * np.pi * 6 * times)[None], 500, ["II"]))
    assert lead == "II" and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    place = int(np.flatnonzero(FREQUENCIES == 6.0)[0])
    expected = np.zeros(len(FREQUENCIES))
    expected[place - 1 : place + 2] = (-0.5, 1, -0.5) / np.sqrt(1.5)
    np.testing.assert_allclose(vector, expected, atol=0.01)


def test_real_files_of_one_ecg_and_of_two(shared_data):
    """Every pair of the real files: those of one ECG are found, and no others."""
    with open(shared_data / "index.csv", newline="") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    paths = [path for path in paths if not path.startswith(("misc/", "scp-ecg/healforce"))]
    names, prints, records = [], [], {}
    for path in paths:
        records[path] = read_ecg(shared_data / path)
        lead, vector = signal_fingerprint(records[path])
        if lead == "II":
            names.append(path)
            prints.append(np.concatenate([vector.real, vector.imag]).astype(np.float16))
    assert len(names) == len(paths) - 1

    def ecg(path):
        stem = path.rsplit("/", 1)[1].split(".")[0]
        if stem.startswith("Example"):
            return "the standard's example"
        if stem.startswith("ad4d3d80"):
            return "the Philips example"
        return stem.replace("HR", "").replace("_hr", "").replace("_lr", "")

    pairs = {frozenset(pair) for pair in combinations(names, 2) if ecg(pair[0]) == ecg(pair[1])}
    groups = {name for pair in pairs for name in pair}
    # 45 + 2 of PTB-XL, three reduced records in four versions, the standard's example and the Philips one.
    assert len(groups) == 45 * 2 + 3 + 3 * 5 + 3 + 2
    matrix = np.stack(prints)
    for split in (np.arange(len(names)) % 2 == 0, np.random.default_rng(1).random(len(names)) < 0.5):
        here, there = np.flatnonzero(split), np.flatnonzero(~split)
        found = best_partners(matrix[here], matrix[there], "cpu")
        matched = {frozenset((names[here[row]], names[there[column]])) for row, column, _ in found}
        assert matched <= pairs
        # Each file with a partner on the other side has found one.
        torn = {name for pair in pairs for name in pair if len({*pair} & {names[row] for row in here}) == 1}
        assert {name for pair in matched for name in pair} == torn
    for pair in pairs:
        assert signal_similarity(*(records[name] for name in pair)) > 0.999


class TestSearch:
    def prints(self, count, seed):
        values = np.random.default_rng(seed).standard_normal((count, 2 * len(FREQUENCIES)))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)

    def test_partners_across_blocks(self):
        one, other = self.prints(1500, 0), self.prints(9000, 1)
        other[8500], other[100], other[101] = one[1400], one[3], one[3]
        found = best_partners(one, other, "cpu")
        # Row 3 has two partners: both find it, and it finds one of them.
        assert [pair[:2] for pair in found] == [(3, 100), (3, 101), (1400, 8500)]
        assert all(value == pytest.approx(1, abs=2e-3) for _, _, value in found)

    def test_shifted_partners(self):
        one = self.prints(50, 0)
        turn = np.exp(2j * np.pi * FREQUENCIES * 0.012)
        width = len(FREQUENCIES)
        turned = (one[:, :width] + 1j * one[:, width:]) * turn
        other = np.concatenate([turned.real, turned.imag], axis=1).astype(np.float16)
        assert [pair[:2] for pair in best_partners(one, other, "cpu")] == [(row, row) for row in range(50)]
        far = turned * turn**3
        other = np.concatenate([far.real, far.imag], axis=1).astype(np.float16)
        assert best_partners(one, other, "cpu") == []

    def test_thousands_of_copies_of_one_signal(self):
        same = np.repeat(self.prints(1, 0), 300, axis=0)
        assert len({row for row, _, _ in best_partners(same, same, "cpu")}) == 300

    def test_a_long_search_shows_its_progress(self, capsys, monkeypatch):
        one, other = self.prints(3, 4), self.prints(50, 5)
        best_partners(one, other, "cpu")
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(leakage_search, "_PROGRESS_FROM", 150)
        best_partners(one, other, "cpu")
        assert "Comparing fingerprints: 100%" in (told := capsys.readouterr().err) and "150/150" in told
