import pytest

from ecg_transformers.training.reports import clean_report, clean_reports, split_statements


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sinus Rhythm", "sinus rhythm"),
        ("  *** Normal EKG *** ", "normal ecg"),
        ("== - Abnormal ECG - ==", "abnormal ecg"),
        ("EKG: pre-excitation * RR = 0.8", "ecg: pre-excitation * rr = 0.8"),
        ("ekgs of the ekg-lab", "ekgs of the ecg-lab"),
        ("Sinus rhythm.\n  Left axis\tdeviation ", "sinus rhythm. left axis deviation"),
        ("***", ""),
    ],
)
def test_clean_report(text, expected):
    assert clean_report(text) == expected
    assert clean_report(clean_report(text)) == expected


def test_missing_and_empty_reports_are_none():
    assert clean_reports(["A", None, " - ", "b"]) == ["a", None, None, "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sinus rhythm", ["sinus rhythm"]),
        ("sinus rhythm, left bundle branch block", ["sinus rhythm", "left bundle branch block"]),
        ("sinus rhythm. normal ecg.", ["sinus rhythm", "normal ecg"]),
        ("pr 0.24 s; qrs 1,2 mv\n- st depression", ["pr 0.24 s", "qrs 1,2 mv", "st depression"]),
        ("...", ["..."]),
    ],
)
def test_split_statements(text, expected):
    assert split_statements(text) == expected
