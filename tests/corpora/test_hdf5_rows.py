import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from code_writer import CODE15_LEADS, CODE_TEST_LEADS, exam_signal, padded, write_code15, write_code_test
from datasets import Dataset, DatasetDict, Features, load_from_disk

from ecg_transformers import STANDARD_LEADS, ECGReadError, read_ecg
from ecg_transformers.corpora.ecg_feature import ECG
from ecg_transformers.corpora.saved_corpus import save_parquet
from ecg_transformers.readers.row_reference import RowReference, parse_reference


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code15")
    write_code15(folder, num_exams=12, num_parts=1)
    return str(folder / "exams_part0.hdf5")


@pytest.fixture(scope="module")
def exam_ids(part):
    with h5py.File(part) as file:
        return file["exam_id"][:]


def refused(path, reason, **options):
    with pytest.raises(ECGReadError, match=reason) as error:
        read_ecg(path, **options)
    return str(error.value)


def test_references():
    reference = parse_reference("a b/x#1.hdf5#group/tracings:17")
    assert reference == RowReference("a b/x#1.hdf5", "group/tracings", 17)
    assert str(reference) == "a b/x#1.hdf5#group/tracings:17" and reference.name == "x#1.hdf5#group/tracings:17"
    for path in (
        "a.hdf5",
        "a.hdf5#tracings",
        "a.hdf5#tracings:",
        "a.hdf5#tracings:-1",
        "#tracings:1",
        "a#b:1.5",
        b"a",
    ):
        assert parse_reference(path) is None


def test_a_file_of_that_name_goes_first(tmp_path):
    record = saved_record(tmp_path / "r#x:3.npz")
    (tmp_path / "r#x:3.npz").rename(tmp_path / "r#x:3")
    assert parse_reference(tmp_path / "r#x:3") is None
    np.testing.assert_array_equal(read_ecg(tmp_path / "r#x:3", format="npz").signal, record.signal)


def saved_record(path):
    from ecg_transformers.record import ECGRecord

    record = ECGRecord(np.ones((1, 250)), 250, ["II"])
    record.save(path)
    return record


def test_a_row_without_its_padding(part, exam_ids):
    for row, exam_id in enumerate(exam_ids[:-1]):
        record = read_ecg(f"{part}#tracings:{row}")
        expected = exam_signal(exam_id % 8, CODE15_LEADS)
        np.testing.assert_array_equal(record.signal, expected)
        assert (record.sampling_rate, record.lead_names) == (400, STANDARD_LEADS)
        assert record.metadata["record_id"] == str(exam_id)
        assert record.metadata["source"] == f"{part}#tracings:{row}"
        before = (4096 - expected.shape[1]) // 2
        assert record.metadata.get("padding_samples", [0, 0]) == [before, before]
    assert "CODE-15 %" in record.metadata["layout"]


def test_code_test_by_name(tmp_path):
    write_code_test(tmp_path)
    record = read_ecg(tmp_path / "ecg_tracings.hdf5#tracings:5")
    assert record.lead_names == tuple(CODE_TEST_LEADS)
    np.testing.assert_array_equal(record.select_leads().signal, exam_signal(5, CODE15_LEADS))
    (tmp_path / "ecg_tracings.hdf5").rename(tmp_path / "other.hdf5")
    refused(tmp_path / "other.hdf5#tracings:5", "sampling rate or name its 12 leads")


def test_what_is_no_recording(part, exam_ids, tmp_path):
    assert "exam_id is 0" in refused(f"{part}#tracings:{len(exam_ids) - 1}", "every sample is zero")
    refused(f"{part}#tracings:{len(exam_ids)}", f"has {len(exam_ids)} rows")
    refused(f"{part}#exam_id:0", "shape")
    refused(f"{part}#tracing:0", "no dataset tracing; its entries: exam_id, tracings")
    refused(f"{part}x#tracings:0", "no such file")
    assert "exams_part0.hdf5#tracings:0" in refused(part, "clearly one recording")
    saved_record(tmp_path / "r.npz")
    refused(tmp_path / "r.npz#signal:0", "files of hdf5 and parquet; this is npz")


def test_other_layouts(tmp_path):
    path = tmp_path / "ward.h5"
    signal = np.zeros((3, 12, 800), "<i2")
    signal[:, :, 100:700] = np.arange(1, 601)
    with h5py.File(path, "w") as file:
        file["group/ecgs"] = signal
        file["rhythm"] = signal[:, 1]
    stated = {"sampling_rate": 100, "lead_names": STANDARD_LEADS, "units": "uV"}
    record = read_ecg(f"{path}#group/ecgs:2", **stated)
    np.testing.assert_allclose(record.signal, signal[2, :, 100:700] / 1000, rtol=1e-6)
    assert record.metadata["record_id"] == "ward-2"
    refused(f"{path}#group/ecgs:2", "sampling rate", lead_names=STANDARD_LEADS)
    assert read_ecg(f"{path}#rhythm:0", sampling_rate=100, lead_names=["II"], units="uV").num_samples == 600
    with h5py.File(path, "r+") as file:
        file["group/ecgs"].attrs.update({"fs": 100, "lead_names": STANDARD_LEADS, "units": "uV"})
    assert read_ecg(f"{path}#group/ecgs:0").num_samples == 600


def test_storage_that_is_not_all_there(tmp_path):
    path = tmp_path / "a.hdf5"
    stated = {"sampling_rate": 400, "lead_names": STANDARD_LEADS}
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("tracings", (9, 4096, 12), "<f4", chunks=(1, 4096, 6), compression="gzip")
        dataset[0] = 1
        dataset[1, :, :6] = 1
        file.create_dataset("bomb", (4, 10_000_000, 12), "<f4", chunks=(1, 10_000_000, 12), compression="gzip")
        file["link"] = h5py.ExternalLink("elsewhere.h5", "/ecg")
        file.create_dataset("far", (4, 100, 12), "<f4", external=[(str(tmp_path / "raw.bin"), 0, 19200)])
        file.create_dataset("unwritten", (4, 100, 12), "<f4")
    assert read_ecg(f"{path}#tracings:0", **stated).num_samples == 4096
    for row in (1, 2):
        refused(f"{path}#tracings:{row}", "does not hold all samples", **stated)
    refused(f"{path}#bomb:0", "claims 480000000 bytes", **stated)
    refused(f"{path}#link:0", "is a link", **stated)
    refused(f"{path}#far:0", "in other files", **stated)
    refused(f"{path}#unwritten:0", "does not hold all samples", **stated)
    path.write_bytes(path.read_bytes()[:3000])
    refused(f"{path}#tracings:0", "damaged", **stated)


def test_a_missing_library_names_the_extra(part, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    data = Dataset.from_dict({"ecg": [f"{part}#tracings:0"]}, features=Features({"ecg": ECG()}))
    with pytest.raises(ImportError, match=r"pip install 'ecg-transformers\[hdf5\]'"):
        data[0]


@pytest.fixture
def data(part, exam_ids):
    rows = range(len(exam_ids) - 1)
    return Dataset.from_dict({"ecg": [f"{part}#tracings:{row}" for row in rows]}, features=Features({"ecg": ECG()}))


def names(rows):
    return [row["ecg"].metadata["record_id"] for row in rows]


def test_an_ecg_column_of_rows(data, part, exam_ids, tmp_path):
    expected = [str(exam_id) for exam_id in exam_ids[:-1]]
    assert names(data) == expected
    # Handed back unchanged, a record stays a reference.
    same = data.map(lambda row: {"ecg": row["ecg"], "n": row["ecg"].num_samples}, num_proc=2)
    assert same.with_format("arrow")[3]["ecg"].to_pylist() == [{"bytes": None, "path": f"{part}#tracings:3"}]
    data.save_to_disk(str(tmp_path / "disk"))
    assert names(load_from_disk(str(tmp_path / "disk"))) == expected
    assert names(pickle.loads(pickle.dumps(data))) == expected
    resampled = data.cast_column("ecg", ECG(sampling_rate=100, lead_names=["aVL"]))[0]["ecg"]
    assert resampled.signal.shape == (1, -(-exam_signal(exam_ids[0] % 8, ["I"]).shape[1] // 4))


def test_threads_and_workers(data, exam_ids):
    from torch.utils.data import DataLoader

    expected = [str(exam_id) for exam_id in exam_ids[:-1]]
    data[0]
    loader = DataLoader(data, batch_size=3, num_workers=2, collate_fn=list)
    assert [name for batch in loader for name in names(batch)] == expected
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda row: data[row % len(data)]["ecg"], range(200)))
    for row, record in enumerate(read):
        exam_id = exam_ids[row % len(data)]
        assert record.metadata["record_id"] == str(exam_id)
        np.testing.assert_array_equal(record.signal, exam_signal(exam_id % 8, CODE15_LEADS))


def test_parquet_holds_the_rows_and_no_more(data, exam_ids, tmp_path):
    two = data.select([2, 5])
    (file,) = save_parquet(DatasetDict(train=two), tmp_path / "parquet")
    signals = [exam_signal(exam_ids[row] % 8, CODE15_LEADS) for row in (2, 5)]
    assert file.stat().st_size < sum(signal.nbytes for signal in signals) + 20_000
    loaded = Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    for row, signal in enumerate(signals):
        np.testing.assert_array_equal(loaded[row]["ecg"].signal, signal)
    stored = loaded.with_format("arrow")[:]["ecg"].to_pylist()
    assert [value["path"] for value in stored] == ["exams_part0.hdf5#tracings:2", "exams_part0.hdf5#tracings:5"]
    assert loaded[0]["ecg"].metadata["source"] == "exams_part0.hdf5#tracings:2"


def test_bytes_of_a_whole_part(part, exam_ids):
    with open(part, "rb") as file:
        record = ECG().decode_example({"bytes": file.read(), "path": "exams_part0.hdf5#tracings:4"})
    assert record.metadata["record_id"] == str(exam_ids[4])


def test_rows_of_remote_files_are_refused():
    with pytest.raises(ValueError, match="Download the file"):
        ECG().decode_example({"bytes": None, "path": "https://example.org/exams_part0.hdf5#tracings:4"})


def test_padding_is_that_of_the_documentation():
    # CODE-test's README: 2,800 samples get 648 zeros on each side.
    row = padded(exam_signal(0, CODE15_LEADS))
    assert np.flatnonzero(row.any(axis=1))[[0, -1]].tolist() == [648, 648 + 2800 - 1]


def test_on_the_command_line(part, exam_ids, capsys):
    from ecg_transformers.cli import main

    assert main(["info", f"{part}#tracings:1"]) == 0
    printed = capsys.readouterr().out
    assert f"{exam_ids[1]}" in printed and "400 Hz" in printed
    assert main(["info", f"{part}#tracings:99"]) == 1
    assert "has 13 rows" in capsys.readouterr().err


def test_mutated_parts_give_an_error_or_a_record(tmp_path):
    path = tmp_path / "exams_part0.hdf5"
    write_code15(tmp_path, num_exams=2, num_parts=1)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    read = 0
    for _ in range(150):
        content = bytearray(whole)
        if random.random() < 0.2:
            del content[int(random.integers(len(content))) :]
        for place in random.integers(0, len(content), 3) if content else ():
            content[place] = random.integers(256)
        path.write_bytes(content)
        try:
            record = read_ecg(f"{path}#tracings:1")
        except ECGReadError:
            continue
        read += 1
        assert record.signal.shape[0] == 12 and record.num_samples <= 4096 and np.isfinite(record.signal).all()
    assert 0 < read < 150
