import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecg_transformers import ECGReadError, find_ecg_files, read_ecg


def test_the_only_record_and_a_row_of_several(tmp_path, write, refused):
    record = read_ecg(write.parquet(tmp_path))
    np.testing.assert_array_equal(record.signal, write.signal(3, 200).astype(np.float32))
    assert (record.sampling_rate, record.lead_names) == (500, ("I", "II", "V1"))
    assert (record.metadata["record_id"], record.metadata["age"], record.metadata["patient_id"]) == ("r0", 55.0, "p0")
    path = write.parquet(tmp_path, "five.parquet", count=5)
    assert "five.parquet#ecg:0" in refused(path, "it holds 5 recordings").remedy
    for row in (0, 1, 4):
        record = read_ecg(f"{path}#ecg:{row}")
        np.testing.assert_array_equal(record.signal, write.signal(3, 200, seed=row).astype(np.float32))
        assert record.metadata["record_id"] == f"r{row}" and record.metadata["source"] == f"{path}#ecg:{row}"
        assert record.metadata["age"] == (40.0 if row else 55.0), "the column goes before the record"
    assert find_ecg_files(tmp_path) == []


def test_what_holds_no_recording(tmp_path, write, refused):
    path = write.parquet(tmp_path, count=2)
    for reference, match in (("ecg:2", "no row 2"), ("nothing:0", "no column 'nothing'"), ("labels:0", "no embedded")):
        with pytest.raises(ECGReadError, match=match):
            read_ecg(f"{path}#{reference}")
    table = pa.table({"ecg": [{"bytes": None, "path": "a.hea"}]})
    pq.write_table(table, tmp_path / "names.parquet")
    refused(tmp_path / "names.parquet", "names the file 'a.hea'")
    pq.write_table(pa.table({"ecg": [b"other bytes"]}), tmp_path / "bytes.parquet")
    refused(tmp_path / "bytes.parquet", "no embedded recording")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-20])
    refused(tmp_path / "cut.parquet", "damaged or not understood")


def test_rows_that_unpack_to_far_more_are_refused(tmp_path, refused):
    bomb = pa.table({"ecg": [bytes(300 * 2**20)]})
    pq.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 10**6
    refused(tmp_path / "bomb.parquet", "unpacks to 31")
