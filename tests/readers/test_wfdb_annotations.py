import struct

import numpy as np
import pytest
import wfdb
from wfdb.io.annotation import ann_labels

from ecg_transformers.readers.errors import ECGReadError
from ecg_transformers.readers.wfdb_annotations import SYMBOLS, read_annotations


def test_symbols_are_those_of_the_library():
    assert SYMBOLS == {label.label_store: label.symbol for label in ann_labels if label.label_store}


def test_real_files_read_as_by_the_library(shared_data):
    files = [path for path in (shared_data / "ludb" / "data").iterdir() if path.suffix not in (".hea", ".dat")]
    files = [*sorted(files)[::5], shared_data / "mit-bih" / "100.atr"]
    assert len(files) > 40
    for path in files:
        expected = wfdb.rdann(str(path.with_suffix("")), path.suffix[1:])
        found = read_annotations(path)
        np.testing.assert_array_equal(found.samples, expected.sample)
        assert found.symbols == list(expected.symbol)
        assert found.texts == [text.rstrip("\0") for text in expected.aux_note]


def test_written_by_the_library(tmp_path):
    samples = np.array([5, 400, 400, 2_000, 90_000, 90_500])
    symbols, texts = ["+", "N", "V", "~", "/", "x"], ["(AFIB", "", "", "noise", "", ""]
    numbers = {"chan": np.array([0, 0, 1, 1, 0, 0]), "num": np.array([0, 2, 2, 0, 0, 0])}
    wfdb.wrann("r", "atr", samples, symbols, aux_note=texts, fs=360, write_dir=str(tmp_path), **numbers)
    found = read_annotations(tmp_path / "r.atr")
    assert (found.samples.tolist(), found.symbols, found.texts) == (samples.tolist(), symbols, texts)


def word(code, value=0):
    return struct.pack("<H", code << 10 | value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes at its end are missing"),
        (word(1, 100), "zero bytes at its end are missing"),
        (word(1, 100) + word(59), "ends within an interval"),
        (word(1, 100) + word(63, 20) + b"short", "text of 20 bytes"),
        (word(63, 2) + b"ab" + word(0), "belongs to nothing"),
        (word(57, 3) + word(0), "code 57"),
        (word(59) + struct.pack("<HH", 0xFFFF, 0xFF00) + word(1, 5) + word(0), "sample before the record"),
    ],
)
def test_damaged_files(tmp_path, content, reason):
    (tmp_path / "r.atr").write_bytes(content)
    with pytest.raises(ECGReadError, match=reason):
        read_annotations(tmp_path / "r.atr")


def test_missing_file(tmp_path):
    with pytest.raises(ECGReadError, match="No such file"):
        read_annotations(tmp_path / "r.atr")


def test_mutated_files(tmp_path, shared_data):
    """Truncated, flipped and swapped bytes give an error or annotations in bounded numbers, never anything else."""
    generator = np.random.default_rng(0)
    original = (shared_data / "mit-bih" / "100.atr").read_bytes()[:600] + b"\0\0"
    path = tmp_path / "r.atr"
    refused = 0
    for _ in range(400):
        data = bytearray(original[: generator.integers(0, len(original) + 1)])
        for place in generator.integers(0, max(1, len(data)), 4 if data else 0):
            data[place] = generator.integers(0, 256)
        path.write_bytes(bytes(data) + b"\0\0" * int(generator.integers(0, 2)))
        try:
            found = read_annotations(path)
        except ECGReadError as error:
            refused += 1
            assert "r.atr" in str(error)
        else:
            assert len(found.samples) == len(found.symbols) == len(found.texts) <= len(data) / 2
            assert (found.samples >= 0).all()
    assert 0 < refused < 400
