import base64

import numpy as np
import pytest

from ecg_transformers import STANDARD_LEADS, find_ecg_files, read_ecg


def encoded(signal: np.ndarray) -> bytes:
    return base64.b64encode(np.ascontiguousarray(signal.T, dtype="<f4").tobytes())


def test_recordings_come_back(tmp_path, write):
    signal = write.signal(12, 2500).astype(np.float32)
    (tmp_path / "a.base64").write_bytes(encoded(signal))
    lines = base64.encodebytes(base64.b64decode(encoded(signal)))
    (tmp_path / "b.b64").write_bytes(lines)
    assert b"\n" in lines.strip()
    for path in find_ecg_files(tmp_path):
        record = read_ecg(path)
        np.testing.assert_array_equal(record.signal, signal)
        assert (record.sampling_rate, record.lead_names) == (250, STANDARD_LEADS)
    assert len(find_ecg_files(tmp_path)) == 2
    record = read_ecg(tmp_path / "a.base64", sampling_rate=500, units="uV")
    assert record.sampling_rate == 500
    np.testing.assert_allclose(record.signal, signal / 1000, rtol=1e-6)


@pytest.mark.parametrize(
    "content,match",
    [
        (base64.b64encode(bytes(47)), "47 bytes are no whole number of samples"),
        (base64.b64encode(bytes(480))[:-3], "no base64"),
        (b"AAAA=AAA", "no base64"),
        (b"I,II\n0.1,0.2\n", "content is not that of"),
        (base64.b64encode(np.full(12 * 9, np.nan, "<f4").tobytes()), "every sample is missing"),
    ],
)
def test_damaged_files_are_refused(tmp_path, refused, content, match):
    (tmp_path / "a.base64").write_bytes(content)
    refused(tmp_path / "a.base64", match)
