import time

import numpy as np
import pytest

from ecg_transformers import read_ecg

LEADS = ["I", "V1"]
HINTS = {"sampling_rate": 500, "lead_names": LEADS, "units": "mV"}


def table(signal, delimiter=",", decimal=".", form="{:.5f}"):
    return "".join(
        delimiter.join(form.format(value) for value in row).replace(".", decimal) + "\n" for row in signal.T
    )


@pytest.mark.parametrize(
    ("delimiter", "decimal", "name"),
    [(",", ".", "comma"), (";", ".", "semicolon"), (";", ",", "semicolon"), ("\t", ".", "tab"), ("\t", ",", "tab"),
     (" ", ".", "blank"), ("   ", ",", "blank"), (", ", ".", "comma")],
)  # fmt: skip
def test_delimiters_and_decimal_signs(tmp_path, write, delimiter, decimal, name):
    signal = write.signal(2, 50)
    (tmp_path / "a.csv").write_text(table(signal, delimiter, decimal))
    record = read_ecg(tmp_path / "a.csv", **HINTS)
    np.testing.assert_allclose(record.signal, signal, atol=1e-5)
    assert f"delimiter {name}" in record.metadata["layout"]
    assert ("decimal comma" in record.metadata["layout"]) == (decimal == ",")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_line_endings_and_encodings(tmp_path, write, ending, encoding):
    text = "Prénom: x\nI (µV),V1 (µV)\n" + table(write.signal(2, 50) * 1000)
    (tmp_path / "a.txt").write_bytes(text.replace("\n", ending).encode(encoding))
    record = read_ecg(tmp_path / "a.txt", sampling_rate=500)
    np.testing.assert_allclose(record.signal, write.signal(2, 50), atol=1e-6)
    assert record.lead_names == ("I", "V1")


def test_title_row_with_time_and_units(tmp_path, write):
    path, signal = write.csv(tmp_path)
    record = read_ecg(path)
    np.testing.assert_allclose(record.signal, signal, atol=1e-5)
    assert (record.sampling_rate, record.lead_names) == (500, ("I", "V1"))
    assert "first column is time in s" in record.metadata["layout"]


@pytest.mark.parametrize(
    ("titles", "scale", "rate"),
    [("time (s)", 1, 500), ("Time", 1, 500), ("t", 1000, 500), ("time [ms]", 1000, 500), ("time_ms", 1000, 500),
     ("ms", 1000, 500), ("Elapsed time", 1, 257)],
)  # fmt: skip
def test_time_columns(tmp_path, write, titles, scale, rate):
    signal = write.signal(2, 400)
    lines = [f"{n / rate * scale:.6f},{a:.5f},{b:.5f}" for n, (a, b) in enumerate(signal.T)]
    (tmp_path / "a.csv").write_text(f"{titles},I,V1\n" + "\n".join(lines))
    record = read_ecg(tmp_path / "a.csv", units="mV")
    assert record.sampling_rate == rate and record.num_leads == 2
    (tmp_path / "b.csv").write_text("\n".join(lines))
    assert read_ecg(tmp_path / "b.csv", units="mV", lead_names=LEADS).sampling_rate == rate


def test_clock_times_and_a_row_of_units(tmp_path, write):
    lines = ["'Elapsed time','MLII','V5'", "'hh:mm:ss.mmm','mV','mV'"]
    lines += [f"'0:{n / 360:06.3f}',{a:.3f},{b:.3f}" for n, (a, b) in enumerate(write.signal(2, 720).T)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    record = read_ecg(tmp_path / "a.csv")
    assert (record.sampling_rate, record.lead_names) == (360, ("MLII", "V5"))
    np.testing.assert_allclose(record.signal, write.signal(2, 720), atol=6e-4)


def test_sample_numbers_are_no_lead(tmp_path, write):
    signal = write.signal(2, 200)
    for title in (",I,V1\n", "sample,I,V1\n", ""):
        lines = [f"{n},{a:.5f},{b:.5f}" for n, (a, b) in enumerate(signal.T)]
        (tmp_path / "a.csv").write_text(title + "\n".join(lines))
        record = read_ecg(tmp_path / "a.csv", **HINTS)
        np.testing.assert_allclose(record.signal, signal, atol=1e-5)


def test_lines_before_the_table(tmp_path, write, refused):
    text = "Patient; anonymous\nSampling rate: 250 Hz\nUnits: uV\n\nI;V1\n" + table(write.signal(2, 600) * 1000, ";")
    path = tmp_path / "a.csv"
    path.write_text(text)
    record = read_ecg(path)
    assert record.sampling_rate == 250 and 1 < record.signal.max() < 3
    refused(path, "250 Hz, the caller 500", sampling_rate=500)
    refused(path, "in uV, the caller in mV", units="mV")
    refused(path, "row 1 is lead I", lead_names=["II", "V1"])
    path.write_text(text.replace("250 Hz", "fast"))
    refused(path, "sampling rate is 'fast'")


def test_a_title_that_states_the_shape(tmp_path, write, refused):
    path = tmp_path / "a.txt"
    path.write_text("\n\nRhythm signal: 50 X 2\n\n" + table(write.signal(2, 50) * 1000, " ", form="{:.0f}"))
    assert read_ecg(path, **HINTS | {"units": "uV"}).num_samples == 50
    path.write_text(path.read_text()[:-12])
    refused(path, "its title says 50 x 2|cannot be read", **HINTS | {"units": "uV"})


def test_nothing_is_guessed(tmp_path, write, refused):
    path = tmp_path / "a.csv"
    path.write_text(table(write.signal(2, 600) * 1000))
    refused(path, "sampling rate", **HINTS | {"sampling_rate": None})
    refused(path, "does not name its 2 leads", **HINTS | {"lead_names": None})
    assert 'units="uV"' in refused(path, "does not state the unit", **HINTS | {"units": None}).remedy
    assert 'units="uV"' in refused(path, "absurd", **HINTS).remedy


def test_all_that_is_not_stated_is_named_at_once(tmp_path, write, refused):
    path = tmp_path / "a.csv"
    path.write_text(table(write.signal(2, 600)))
    error = refused(path, "does not state its sampling rate, name its 2 leads or state the unit of its samples")
    assert error.remedy == 'Pass sampling_rate= in Hz, lead_names= with 2 names and units="mV" or units="uV".'
    assert "does not look" not in str(error)


def test_a_table_of_facts_is_told_from_a_damaged_recording(tmp_path, refused):
    path = tmp_path / "patients.csv"
    rows = [f"{number},{50 + number % 7},{1e8 if number == 9 else 1}" for number in range(300)]
    path.write_text("\n".join(["age,weight,code", *rows]))
    words = r"does not look like a table of samples: no ECG lead is called age, weight, code\."
    refused(path, words)
    rows = [f"1,{number % 7},{10**8 if number == 9 else 1}" for number in range(300)]
    path.write_text("\n".join(["age,weight,code", *rows]))
    error = refused(path, f"1 kV.*{words}", sampling_rate=500, units="mV")
    assert "damaged" not in str(error)


def test_missing_values(tmp_path):
    (tmp_path / "a.csv").write_text("I,V1\n0.1,0.2\n,0.3\nNaN,0.4\n0.5,\n0.6,0.7\n")
    record = read_ecg(tmp_path / "a.csv", sampling_rate=500, units="mV")
    assert np.isnan(record.signal).tolist() == [[False, True, True, False, False], [False, False, False, True, False]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty"),
        ("\n\n\n", "content is not that of"),
        ("no numbers at all\nin this text\n", "content is not that of"),
        ("0.1,0.2\n0.3,0.4\n0.5,0.6\n0.1\n", "line 4 cannot be read: it has 1 fields instead of 2"),
        ("0.1,0.2\n0.3,0.4\n0.5,0.6\n0.1,abc\n", "line 4 cannot be read: 'abc' is no number"),
        ("0.1,0.2\n0.3,0.4\n0.5,0.6\n0.1,1e999\n", "infinite"),
        ("0.1,nan\n0.3,nan\n0.5,nan\n0.1,nan\n", "every sample is missing"),
        ("I (mV),V1 (uV)\n0.1,0.2\n0.3,0.4\n", "different units"),
        ("I (mV),V1 (mmHg)\n0.1,0.2\n0.3,0.4\n", "different units"),
        ("I (bpm),V1 (bpm)\n0.1,0.2\n0.3,0.4\n", "no voltage"),
        ("time,I\n0,0.2\n0.002,0.4\n0.004,1\n0.1,1\n0.102,0\n", "does not advance in even steps"),
        ("time,I\n0.1,0.2\n0.1,0.4\n0.1,1\n", "does not advance in even steps"),
        ("I,I\n0.1,0.2\n0.3,0.4\n", "Lead names must differ"),
        ("0.1,0.2\n0.3,0.4\n\0\0\0", "content is not that of"),
    ],
)
def test_damaged_texts(tmp_path, refused, text, match):
    path = tmp_path / "a.csv"
    path.write_text(text)
    hints = {} if text[:1].isalpha() and "," in text else {"lead_names": LEADS}
    refused(path, match, **({"sampling_rate": 500, "units": None if "(" in text else "mV"} | hints))


def test_time_and_statement_must_agree(tmp_path, write, refused):
    path, _ = write.csv(tmp_path)
    path.write_text("fs: 250\n" + path.read_text())
    refused(path, "states 250 Hz, its time column advances at 500 Hz")


def test_hostile_lines_take_no_time(tmp_path, refused):
    path = tmp_path / "a.csv"
    for text in (
        "9" * 200_000 + "x\n",
        "0.1,0.2\n0.3,0.4\n0.5,0.6\n" + "9" * 200_000 + "x,1\n",
        "a" + " " * 200_000 + "b,c\n0.1,0.2\n0.3,0.4\n0.5,x\n",
        "1," * 200_000 + "x\n",
        ("[" * 5000 + "," + "(" * 5000 + "\n") * 20 + "0.1,0.2\n0.3,0.4\n0.5,x\n",
    ):
        path.write_text(text)
        begin = time.perf_counter()
        refused(path, "content is not that of|no table of numbers|cannot be read", **HINTS)
        refused(path, "no table of numbers|cannot be read", format="text", **HINTS)
        assert time.perf_counter() - begin < 2
