import numpy as np
import pytest

from ecg_transformers.corpora.ecg_feature import resample
from ecg_transformers.corpora.sample_classes import (
    AAMI_CLASS_OF_SYMBOL,
    AAMI_CLASSES,
    UNKNOWN,
    WAVE_CLASSES,
    beat_classes,
    classes_at_rate,
    segment_classes,
    wave_classes,
)


def wave(lead, kind, onset, peak, offset):
    return {"lead": lead, "wave": kind, "onset": onset, "peak": peak, "offset": offset}


def test_waves_of_leads():
    marks = [
        wave("II", "P", 3, 4, 6),
        # Touches the P wave, has no offset.
        wave("II", "QRS", 6, 8, None),
        wave("II", "T", 12, 13, 14),
        wave("V1", "T", None, 5, 6),
        wave("V9", "T", 0, 1, 2),
    ]
    classes = wave_classes(marks, ["V1", "I", "II"], 18)
    assert classes.dtype == np.int8
    names = [["?" if number == UNKNOWN else WAVE_CLASSES[number][0] for number in row] for row in classes]
    assert ["".join(row) for row in names] == ["?????TT???????????", "??????????????????", "???PPPQQQnnnTTT???"]
    with pytest.raises(ValueError, match="has 'U'"):
        wave_classes([wave("II", "U", 1, 2, 3)], ["II"], 9)


def test_a_peak_before_its_onset_is_covered():
    assert wave_classes([wave("I", "QRS", 4, 2, 6)], ["I"], 8)[0].tolist() == [-1, -1, 2, 2, 2, 2, 2, -1]


def test_beats_reach_halfway_to_their_neighbours():
    beats = [{"sample": 30, "aami": "V"}, {"sample": 10, "aami": "N"}, {"sample": 16, "aami": "S"}]
    classes = beat_classes(beats, 40, sampling_rate=10, before_seconds=0.4, after_seconds=0.5)
    expected = [-1] * 6 + [0] * 8 + [1] * 8 + [-1] * 4 + [2] * 10 + [-1] * 4
    assert classes.tolist() == expected
    # One at the edge is cut, and one beyond it covers nothing.
    assert beat_classes([{"sample": 0, "aami": "F"}], 3, 10).tolist() == [3, 3, 3]
    assert beat_classes([{"sample": -20, "aami": "F"}], 3, 10).tolist() == [-1, -1, -1]
    with pytest.raises(ValueError, match="got 'x'"):
        beat_classes([{"sample": 1, "aami": "x"}], 3, 10)


def test_symbols_have_classes():
    assert set(AAMI_CLASS_OF_SYMBOL.values()) == set(AAMI_CLASSES)
    # No beats: rhythm change, noise, artefact, blocked P wave, flutter wave, waves and their borders.
    assert not set('+~|x![]()pt"') & set(AAMI_CLASS_OF_SYMBOL)


@pytest.mark.parametrize(("rate", "target"), [(500, 100), (100, 500), (360, 500), (257, 250), (500, 500)])
def test_classes_follow_the_signal_to_another_rate(rate, target):
    seconds = np.arange(rate * 3) / rate
    classes = ((seconds >= 1.2) & (seconds < 2.1)).astype(np.int8)
    moved = classes_at_rate(np.stack([classes, classes]), rate, target)
    assert moved.shape == (2, resample(np.zeros((1, len(classes)), np.float32), rate, target).shape[1])
    new_seconds = np.arange(moved.shape[1]) / target
    inside = (new_seconds > 1.2 + 1 / rate) & (new_seconds < 2.1 - 1 / rate)
    outside = (new_seconds < 1.2 - 1 / rate) | (new_seconds > 2.1 + 1 / rate)
    assert (moved[:, inside] == 1).all() and (moved[:, outside] == 0).all()


def test_segments_take_the_majority():
    classes = np.array([[0, 0, 1, 2, 2, 1, -1, -1, 3, 3], [1, 1, 0, 1, 2, 3, -1, 1, 0, 0]], dtype=np.int8)
    assert segment_classes(classes, 3).tolist() == [[0, 2, -1], [1, 1, -1]]
    assert segment_classes(classes, 20).shape == (2, 0)
    with pytest.raises(ValueError, match="got 0"):
        segment_classes(classes, 0)
