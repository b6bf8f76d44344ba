import csv
import logging

import h5py
import numpy as np
import pytest
from mixed_exports import TOLD, recording, write_mixed

from ecg_transformers import label_names, load_corpus, problem_type, read_ecg
from ecg_transformers.corpora.file_workers import map_in_workers
from ecg_transformers.corpora.saved_corpus import save_parquet
from ecg_transformers.readers import list_readers


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "exports"
    write_mixed(folder)
    return folder


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Twenty files of ten patients, which only the table knows."""
    folder = tmp_path_factory.mktemp("twenty") / "exports"
    for number in range(20):
        (folder / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        recording(number, seconds=1).save(folder / f"{number % 3}" / f"e{number:02d}.npz")
    return folder


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split.remove_columns("ecg")}


def write_table(path, header, lines):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_any_mix_of_formats_without_a_table(exports, tmp_path, caplog):
    with pytest.raises(ValueError, match=r"3 of 11 files of .* cannot be read: .*cut\.npz: .*skip_unreadable=True"):
        load_corpus("folder", data_dir=exports)
    errors = tmp_path / "errors.csv"
    corpus = load_corpus("folder", data_dir=exports, skip_unreadable=True, errors_csv=errors)
    assert corpus["train"].column_names == ["ecg", "record_id", "patient_id", "age", "sex", "fold", "report"]
    rows = rows_of(corpus)
    assert {name: (row["patient_id"], row["age"], row["sex"]) for name, row in rows.items()} == TOLD
    assert rows["b/schiller"]["report"] == "Sinus rhythm. Left axis"
    for split in corpus.values():
        for row in split:
            (source,) = exports.glob(f"{row['record_id']}.*[!t]")
            expected = read_ecg(source)
            np.testing.assert_array_equal(row["ecg"].signal, expected.signal)
    listed = list(csv.DictReader(errors.open()))
    assert [row["file"] for row in listed] == ["a/cut.npz", "broken.xml", "stack.npy"]
    assert all(row["reason"] and row["remedy"] for row in listed) and "FILE#DATASET:0" in listed[2]["remedy"]
    assert "LICENSE" not in caplog.text


def test_the_same_samples_stay_in_one_split(exports, caplog):
    for seed in range(4):
        corpus = load_corpus(exports, skip_unreadable=True, split=(0.4, 0.3, 0.3), seed=seed)
        homes = {row["record_id"]: name for name, split in corpus.items() for row in split.remove_columns("ecg")}
        assert homes["ecg"] == homes["b/copy"] and homes["a/philips"] == homes["b/scp"]
    assert "2 recordings have the same samples" in caplog.text


def test_a_table_goes_before_the_files(exports, caplog):
    header = "file;patient_id;age;sex;AF;MI;report"
    table = write_table(
        exports.parent / "labels.csv",
        header,
        ["philips.xml;P1;;;1;0;seen by us", "b/wfdb;;71;male;0;;", "ecg.npz;P3;;;1;1;", "b/dicom.dcm;P4;;;0;0;"],
    )
    corpus = load_corpus("folder", data_dir=exports, labels_csv=table, split=(1, 0, 0))
    assert problem_type(corpus) == "multi_label_classification" and label_names(corpus) == ["AF", "MI"]
    rows = rows_of(corpus)
    assert set(rows) == {"a/philips", "b/wfdb", "ecg", "b/dicom"}, "paths within the folder, as without a table"
    assert [rows["a/philips"][name] for name in ("patient_id", "age", "sex", "report")] == [
        *("P1", 50.0, "female", "seen by us")
    ]
    assert [rows["b/wfdb"][name] for name in ("patient_id", "age", "sex")] == ["W7", 71.0, "male"]
    assert rows["b/wfdb"]["labels"] == {"AF": 0.0, "MI": None}
    assert "7 recordings" in caplog.text and "no row in" in caplog.text


def test_splits_by_the_tables_patients_and_in_workers(twenty):
    lines = [f"e{n:02d},p{n // 2},{n % 2}" for n in range(20)]
    table = write_table(twenty.parent / "t.csv", "filename,patient_id,AF", lines)
    corpus = load_corpus("folder", data_dir=twenty, labels_csv=table, workers=2)
    assert sum(corpus.num_rows.values()) == 20 and min(corpus.num_rows.values()) >= 2
    patients = [set(split["patient_id"]) for split in corpus.values()]
    assert sum(map(len, patients)) == 10
    assert rows_of(corpus) == rows_of(load_corpus(twenty, labels_csv=table, workers=1))
    quick = load_corpus(twenty, labels_csv=table, read_files=False)
    assert rows_of(quick) == rows_of(corpus)


def test_splits_that_the_table_names(twenty):
    words = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    lines = [f"e{n:02d}.npz,p{n},{n % 2},{words[n]}" for n in range(20)]
    table = write_table(twenty.parent / "s.csv", "file,patient_id,AF,split", lines)
    corpus = load_corpus(twenty, labels_csv=table)
    assert corpus.num_rows == {"train": 12, "validation": 4, "test": 4}
    assert label_names(corpus) == ["AF"]
    some = write_table(twenty.parent / "w.csv", "file,AF,split", ["e00,0,train", "e01,1,train", "e02,1,test"])
    with pytest.raises(ValueError, match=r"`split` \[0, 0, 1\] leaves nothing for train, validation"):
        load_corpus(twenty, labels_csv=some, split=(0, 0, 1))
    lines[19] = "e19.npz,p0,1,test"
    with pytest.raises(ValueError, match="1 patients of split 'test'"):
        load_corpus(twenty, labels_csv=write_table(twenty.parent / "s.csv", "file,patient_id,AF,split", lines))
    lines[19] = "e19.npz,p0,1,holdout"
    with pytest.raises(ValueError, match="'split' holds train, validation or test; 1/e19 has 'holdout'"):
        load_corpus(twenty, labels_csv=write_table(twenty.parent / "s.csv", "file,patient_id,AF,split", lines))


def test_copies_in_two_splits_are_told(tmp_path, caplog):
    """Also those in splits that the table names: nobody takes these apart."""
    words = {"a": "train", "b": "train", "c": "test", "d": "val"}
    for number, name in enumerate(words):
        recording(number, seconds=1).save(tmp_path / f"{name}.npz")
    recording(0, seconds=1).save(tmp_path / "again.npz")
    recording(3, seconds=1).save(tmp_path / "more.npz")
    words |= {"again": "test", "more": "val"}
    table = write_table(tmp_path / "s.csv", "file,AF,split", [f"{name},1,{word}" for name, word in words.items()])
    load_corpus(tmp_path, labels_csv=table)
    assert "1 recordings are in two splits with the same samples: a (train) = again (test)." in caplog.text
    caplog.clear()
    words["again"] = "train"
    table = write_table(tmp_path / "s.csv", "file,AF,split", [f"{name},1,{word}" for name, word in words.items()])
    load_corpus(tmp_path, labels_csv=table)
    assert "in two splits" not in caplog.text
    table = write_table(tmp_path / "s.csv", "file,AF,split", [f"{name},1,test" for name in words])
    assert load_corpus(tmp_path, labels_csv=table).num_rows == {"train": 0, "validation": 0, "test": 6}


def test_names_of_records_tell_nothing_of_the_machine(tmp_path):
    inside, other = tmp_path / "in", tmp_path / "other"
    for folder in (inside / "x", other / "y"):
        folder.mkdir(parents=True)
    for number, path in enumerate((inside / "a.npz", inside / "x" / "b.npz", other / "c.npz", other / "y" / "d.npz")):
        recording(number, seconds=1).save(path)
    recording(7, seconds=1).save(inside / "a.hea")
    lines = ["a.npz,", "a.hea,", f"{inside}/x/b.npz,", f"{other}/c.npz,", "../other/y/d,", f"{inside}/x/e,E7"]
    recording(8, seconds=1).save(inside / "x" / "e.npz")
    table = write_table(tmp_path / "t.csv", "file,record_id", lines)
    names = {"a.npz", "a.hea", "x/b", "c", "y/d", "E7"}
    assert set(rows_of(load_corpus(inside, labels_csv=table))) == names
    assert set(rows_of(load_corpus("table", train_csv=table, ecg_dir=inside, label_columns=[]))) == names
    recording(9, seconds=1).save(inside / "c.npz")
    table = write_table(tmp_path / "t.csv", "file", ["c.npz", f"{other}/c.npz"])
    with pytest.raises(ValueError, match=r"in/c.npz, .*other/c.npz would all be called 'c.npz'.*column `record_id`"):
        load_corpus(inside, labels_csv=table)


@pytest.mark.parametrize("ending", sorted({one for endings in list_readers().values() for one in endings} - {".hea"}))
def test_every_ending_may_be_left_out(tmp_path, ending):
    from ecg_transformers.corpora.table_rows import find_file

    (tmp_path / f"e{ending}").write_bytes(b"1")
    assert find_file("e", tmp_path) == str(tmp_path / f"e{ending}")
    (tmp_path / "e.hea").write_bytes(b"1")
    assert find_file("e", tmp_path) == str(tmp_path / "e.hea")


def test_files_of_many_recordings(tmp_path, caplog):
    """Their rows come from a table; a vector is no recording at all."""
    signals = np.stack([recording(number).signal.T + 1 for number in range(4)])
    with h5py.File(tmp_path / "exams.hdf5", "w") as file:
        file["tracings"] = signals
    np.save(tmp_path / "ages.npy", np.arange(4.0))
    np.save(tmp_path / "stack.npy", signals)
    recording(9).save(tmp_path / "e.npz")
    options = {"sampling_rate": 250, "lead_names": "standard", "split": (1, 0, 0)}
    with pytest.raises(ValueError, match=r"2 of 3 files .*Name one row, .*exams.hdf5#tracings:0") as told:
        load_corpus(tmp_path, **options)
    assert "stack.npy" in str(told.value) and "ages.npy" not in str(told.value)
    assert "1 files" in caplog.text and "one row of numbers" in caplog.text and "ages.npy" in caplog.text
    caplog.clear()
    lines = [f"exams.hdf5#tracings:{number},1" for number in range(4)]
    corpus = load_corpus(tmp_path, labels_csv=write_table(tmp_path / "t.csv", "file,AF", lines), **options)
    assert corpus["train"]["record_id"][:] == [f"exams.hdf5#tracings:{number}" for number in range(4)]
    assert "2 recordings" in caplog.text and "left out: e.npz, stack.npy" in caplog.text


def test_labels_in_one_cell_and_other_tasks(twenty, caplog):
    lists = [f"e{n:02d},{';'.join(['AF'] * (n % 2) + ['LBBB'] * (n % 3 == 0)) or 'normal'}" for n in range(19)]
    table = write_table(twenty.parent / "l.csv", "path,labels", [*lists, "e19,"])
    corpus = load_corpus(twenty, labels_csv=table)
    assert label_names(corpus) == ["AF", "LBBB", "normal"] and "list of labels" in caplog.text
    assert rows_of(corpus)["0/e03"]["labels"] == {"AF": 1.0, "LBBB": 1.0, "normal": 0.0}
    assert rows_of(corpus)["1/e19"]["labels"] == {"AF": None, "LBBB": None, "normal": None}
    bars = [line.replace(";", "|") for line in lists]
    table = write_table(twenty.parent / "l.csv", "path,findings", bars)
    piped = load_corpus(twenty, labels_csv=table, label_separator="|")
    assert rows_of(piped)["0/e03"]["labels"] == {"AF": 1.0, "LBBB": 1.0, "normal": 0.0}
    table = write_table(twenty.parent / "r.csv", "file,ef", [f"e{n:02d},{0.3 + n / 50}" for n in range(20)])
    assert problem_type(load_corpus(twenty, labels_csv=table)) == "regression"
    table = write_table(twenty.parent / "n.csv", "file,patient_id", [f"e{n:02d},p{n}" for n in range(20)])
    assert "labels" not in load_corpus(twenty, labels_csv=table)["train"].column_names


def test_tables_that_do_not_fit(exports, twenty):
    def load(lines, header="file,AF", folder=twenty, **options):
        return load_corpus(folder, labels_csv=write_table(folder.parent / "bad.csv", header, lines), **options)

    with pytest.raises(ValueError, match=r"1 of 2 files of .* are missing.*gone.*skip_missing=True"):
        load(["e00,1", "gone,0"])
    assert sum(load(["e00,1", "e01,1", "gone,0"], skip_missing=True, split=(1, 0, 0)).num_rows.values()) == 2
    with pytest.raises(ValueError, match="two rows for .*e00.npz: 'e00' and '0/e00.npz'"):
        load(["e00,1", "0/e00.npz,0"])
    (twenty / "1" / "e00.npz").write_bytes((twenty / "0" / "e00.npz").read_bytes())
    try:
        with pytest.raises(ValueError, match="'e00', which fits 2 files: 0/e00.npz, 1/e00.npz"):
            load(["e00,1"])
    finally:
        (twenty / "1" / "e00.npz").unlink()
    with pytest.raises(ValueError, match="column 'site': 'A' is no number. `label_columns` says"):
        load(["e00,A,1"], "file,site,AF")
    with pytest.raises(ValueError, match="describe a table: name it with `labels_csv`"):
        load_corpus(twenty, label_columns=["AF"])
    with pytest.raises(ValueError, match="column 'filename' .or 'file', 'path'."):
        load(["e00,1"], "name,AF")


def test_what_files_have_to_be_told(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"a{number}.npy", recording(number).signal * 1000)
    with pytest.raises(ValueError, match="4 files of .*does not state its sampling rate or name its 12 leads"):
        load_corpus(tmp_path, skip_unreadable=True)
    corpus = load_corpus(tmp_path, sampling_rate=250, lead_names="standard", units="uV", split=(1, 0, 0))
    np.testing.assert_allclose(corpus["train"][2]["ecg"].signal, recording(2).signal, rtol=1e-5)


def test_saved_folders_are_still_data_sets(twenty, tmp_path):
    corpus = load_corpus(twenty)
    save_parquet(corpus, tmp_path / "parquet")
    corpus.save_to_disk(str(tmp_path / "disk"))
    (tmp_path / "parquet" / "notes.csv").write_text("a,b\n")
    for name in ("parquet", "disk"):
        assert rows_of(load_corpus("folder", data_dir=tmp_path / name)) == rows_of(corpus)
        with pytest.raises(ValueError, match="holds a saved data set.*got skip_unreadable"):
            load_corpus(tmp_path / name, skip_unreadable=True)


def test_a_folder_without_recordings(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(
        ValueError, match=r"no file that looks like an ECG \(1 other files\), and is no folder written by"
    ):
        load_corpus(tmp_path)


def double(number):
    if number == 77:
        raise KeyError("77")
    return 2 * number


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_keep_the_order_and_pass_errors_on(workers):
    assert list(map_in_workers(double, range(70), workers=workers)) == list(range(0, 140, 2))
    with pytest.raises(KeyError):
        list(map_in_workers(double, range(200), workers=workers))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        list(map_in_workers(double, range(3), workers=0))


def die(number):
    import os

    os._exit(3)


def test_a_process_that_dies_is_told():
    with pytest.raises(OSError, match="ended abruptly"):
        list(map_in_workers(die, range(20), workers=2))


def test_real_files(shared_data, caplog):
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(shared_data, skip_unreadable=True)
    assert sum(corpus.num_rows.values()) == 346 and "3 of 349 files" in caplog.text
    rows = rows_of(corpus)
    assert rows["scp-ecg/Example"]["patient_id"] == rows["dicom/Example"]["patient_id"] == "SBJ-123"
    assert rows["mit-bih/100"]["age"] == 69.0 and rows["mit-bih/100"]["sex"] == "male"
