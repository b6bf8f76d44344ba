import logging

import numpy as np
import pytest

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.readers.numpy_files import save_npz
from ecg_transformers.record import ECGRecord

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def write_files(folder, count=20, ending=".npy"):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        signal = generator.normal(size=(12, 500)).astype(np.float32)
        if ending == ".npy":
            np.save(folder / f"e{number:02d}.npy", signal)
        else:
            save_npz(ECGRecord(signal, 250, LEADS), folder / f"e{number:02d}.npz")


def write_table(path, rows, header="filename,age,sex,AF,MI"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    write_files(tmp_path / "ecgs", ending=".npz")
    rows = [
        f"e{n:02d}.npz,{40 + n},{'MF'[n % 2]},{int(n % 4 == 0)},{'' if n == 3 else int(n % 3 == 0)}" for n in range(20)
    ]
    write_table(tmp_path / "train.csv", rows)
    return tmp_path


def load(folder, **options):
    return load_corpus("table", data_dir=folder, **{"train_csv": "train.csv", "ecg_dir": "ecgs", **options})


def test_the_column_of_files_may_be_called_file(folder):
    lines = (folder / "train.csv").read_text().replace("filename,", "file,", 1)
    write_table(folder / "other.csv", lines.splitlines()[1:], lines.splitlines()[0])
    assert rows_of(load(folder, train_csv="other.csv")) == rows_of(load(folder))


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split.remove_columns("ecg")}


def test_multi_label(folder):
    corpus = load(folder)
    assert problem_type(corpus) == "multi_label_classification"
    assert label_names(corpus) == ["AF", "MI"]
    assert corpus.num_rows == {"train": 14, "validation": 3, "test": 3}
    rows = rows_of(corpus)
    assert rows["e00"]["labels"] == {"AF": 1.0, "MI": 1.0}
    assert rows["e03"]["labels"] == {"AF": 0.0, "MI": None}
    assert (rows["e01"]["age"], rows["e01"]["sex"], rows["e00"]["sex"]) == (41.0, "female", "male")
    assert corpus["test"][0]["ecg"].signal.shape == (12, 500)
    assert rows_of(load(folder)) == rows


def test_hubert_ecg_arrays(tmp_path):
    write_files(tmp_path / "ecgs")
    write_table(tmp_path / "train.csv", [f"e{n:02d}.npy,,,{n % 2},0" for n in range(20)])
    with pytest.raises(ValueError, match=r"\.npy files .*`sampling_rate`, `lead_names`"):
        load(tmp_path)
    corpus = load(tmp_path, sampling_rate=500, lead_names="standard")
    record = corpus["train"][0]["ecg"]
    assert (record.sampling_rate, record.lead_names, record.signal.shape) == (500, LEADS, (12, 500))
    microvolts = load(tmp_path, sampling_rate=500, lead_names=LEADS, units="uV")
    np.testing.assert_allclose(microvolts["train"][0]["ecg"].signal * 1000, record.signal, rtol=1e-5)
    with pytest.raises(ValueError, match="'standard'"):
        load(tmp_path, sampling_rate=500, lead_names="usual")


def test_without_labels(folder):
    write_table(folder / "train.csv", [f"e{n:02d}.npz,text {n}" for n in range(20)], "filename,report")
    with pytest.raises(ValueError, match=r"label_columns=\[\]"):
        load(folder)
    corpus = load(folder, label_columns=[])
    assert corpus.num_rows == {"train": 14, "validation": 3, "test": 3}
    assert "labels" not in corpus["train"].column_names
    assert corpus["test"][0]["report"].startswith("text ")
    with pytest.raises(ValueError, match="column `labels`"):
        problem_type(corpus)


def test_names_without_ending_and_elsewhere(folder):
    write_table(folder / "train.csv", [*(f"e{n:02d},1,M,0,1" for n in range(10)), f"{folder}/ecgs/e10.npz,1,M,1,0"])
    corpus = load(folder)
    assert sum(corpus.num_rows.values()) == 11
    beside = load_corpus(
        "table", train_csv=write_table(folder / "ecgs" / "t.csv", ["e00,1,M,0,1"] * 1), split=(1, 0, 0)
    )
    assert beside["train"][0]["ecg"].num_leads == 12


def test_given_splits(folder):
    lines = (folder / "train.csv").read_text().splitlines()
    write_table(folder / "test.csv", lines[16:])
    write_table(folder / "train.csv", lines[1:16])
    corpus = load(folder, test_csv="test.csv")
    assert corpus["test"]["record_id"][:] == ["e15", "e16", "e17", "e18", "e19"]
    assert sum(corpus.num_rows.values()) == 20 and 2 <= corpus.num_rows["validation"] <= 3
    write_table(folder / "validation.csv", lines[1:4])
    with pytest.raises(ValueError, match="records of split 'validation'"):
        load(folder, test_csv="test.csv", validation_csv="validation.csv")
    write_table(folder / "train.csv", lines[4:16])
    whole = load(folder, test_csv="test.csv", validation_csv="validation.csv")
    assert whole.num_rows == {"train": 12, "validation": 3, "test": 5}


def test_patients(folder):
    rows = [f"e{n:02d},50,F,p{n // 5},{n % 2},{(n + 1) % 2}" for n in range(20)]
    write_table(folder / "train.csv", rows, "filename,age,sex,patient_id,AF,MI")
    corpus = load(folder, split=(0.5, 0.25, 0.25))
    assert label_names(corpus) == ["AF", "MI"]
    assert [len(set(corpus[split]["patient_id"])) for split in corpus] == [2, 1, 1]
    write_table(folder / "train.csv", rows, "filename,age,sex,person,AF,MI")
    corpus = load(folder, patient_column="person", split=(0.5, 0.25, 0.25))
    assert label_names(corpus) == ["AF", "MI"]
    assert len(set(corpus["test"]["patient_id"])) == 1
    with pytest.raises(ValueError, match="train table lacks the columns nobody"):
        load(folder, patient_column="nobody")
    write_table(folder / "test.csv", rows[-1:], "filename,age,sex,person,AF,MI")
    with pytest.raises(ValueError, match="patients of split"):
        load(folder, patient_column="person", test_csv="test.csv")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["0", "1", "10", "2"], ["0", "1", "2", "10"]),
        (["normal", "AF", "None", "other"], ["AF", "None", "normal", "other"]),
        (["1.0", "2.0", "1.0", "2.0"], ["1", "2"]),
    ],
)
def test_single_label(folder, values, names, caplog):
    write_table(
        folder / "train.csv",
        [f"e{n:02d},50,F,{values[n % 4]}" for n in range(19)] + ["e19,50,F,"],
        "filename,age,sex,y",
    )
    corpus = load(folder)
    assert problem_type(corpus) == "single_label_classification"
    assert label_names(corpus) == names
    rows = rows_of(corpus)
    assert names[rows["e01"]["labels"]] == values[1].removesuffix(".0")
    assert "e19" not in rows and "1 of 20 rows" in caplog.text and "'y', is taken as single" in caplog.text
    named = load(folder, problem_type="single_label_classification", label_columns="y")
    assert named["train"].features["labels"].names == names


def test_regression(folder):
    write_table(folder / "train.csv", [f"e{n:02d},50,F,{n / 10},{n}" for n in range(20)], "filename,age,sex,ef,qt")
    one = load(folder, label_columns=["ef"])
    assert (problem_type(one), label_names(one)) == ("regression", ["ef"])
    assert rows_of(one)["e05"]["labels"] == {"ef": 0.5}
    means = [np.mean([row["ef"] for row in one[split]["labels"]]) for split in one]
    assert max(means) - min(means) < 0.4
    two = load(folder, problem_type="regression")
    assert (problem_type(two), label_names(two)) == ("regression", ["ef", "qt"])
    assert rows_of(two)["e10"]["labels"] == {"ef": 1.0, "qt": 10.0}
    with pytest.raises(ValueError, match="line 3, column 'ef': labels are 0, 1 or blank .* not '0.1'"):
        load(folder)
    write_table(folder / "train.csv", ["e00,50,F,high"], "filename,age,sex,ef")
    with pytest.raises(ValueError, match="line 2, column 'ef': 'high' is no number"):
        load(folder, problem_type="regression")


def test_label_columns(folder):
    header = "filename,age,sex,site,AF,MI"
    write_table(folder / "train.csv", [f"e{n:02d},50,F,7,{n % 2},{n % 2}" for n in range(20)], header)
    assert label_names(load(folder, label_start_index=4)) == ["AF", "MI"]
    assert label_names(load(folder, label_columns=["MI", "AF"])) == ["MI", "AF"]
    with pytest.raises(ValueError, match="no label columns from index 9"):
        load(folder, label_start_index=9)
    with pytest.raises(ValueError, match="lacks the columns VT"):
        load(folder, label_columns=["VT"])


def test_what_words_mean(folder, caplog):
    rows = [f"e{n:02d};300;{n % 2};True;false" for n in range(20)]
    write_table(folder / "train.csv", rows, "filename;age;sex;AF;MI")
    with caplog.at_level(logging.WARNING):
        row = rows_of(load(folder))["e01"]
    assert (row["labels"], row["age"], row["sex"]) == ({"AF": 1.0, "MI": 0.0}, None, None)
    assert "writes the sex as 0, 1, taken as unknown" in caplog.text
    assert rows_of(load(folder, sex_codes={0: "male", "1": "female"}))["e01"]["sex"] == "female"


def test_missing_files(folder):
    for number in range(5):
        (folder / "ecgs" / f"e{number:02d}.npz").unlink()
    with pytest.raises(ValueError, match="5 of 20 files of .*e00.npz, e01.npz, e02.npz, ….*skip_missing=True"):
        load(folder)
    assert sum(load(folder, skip_missing=True).num_rows.values()) == 15
    with pytest.raises(ValueError, match="`ecg_dir` is the folder"):
        load(folder, ecg_dir="nowhere")


def test_bad_tables(folder):
    with pytest.raises(ValueError, match="needs train_csv="):
        load_corpus("table", data_dir=folder)
    with pytest.raises(ValueError, match="cannot be read"):
        load(folder, train_csv="none.csv")
    write_table(folder / "train.csv", ["1,2"], "a,b")
    with pytest.raises(ValueError, match="needs a column 'filename'"):
        load(folder)
    write_table(folder / "train.csv", [])
    with pytest.raises(ValueError, match="no rows"):
        load(folder)
    (folder / "train.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="cannot be read|needs a column"):
        load(folder)


def test_mixed_formats_of_real_files(shared_data, tmp_path):
    names = [
        "challenge-2021/georgia_odd_header/E01137.hea",
        "challenge-2021/ningbo/JS20004",
        "ludb/data/103.hea",
        "ptb-xl/records100/00000/00001_lr",
    ]
    np.save(tmp_path / "own.npy", np.zeros((12, 1000), dtype=np.float32) + np.sin(np.arange(1000) / 20))
    table = write_table(tmp_path / "t.csv", [f"{name},60,F,1,0" for name in [*names, tmp_path / "own.npy"]])
    corpus = load_corpus(
        "table", train_csv=table, ecg_dir=shared_data, sampling_rate=250, lead_names="standard", split=(1, 0, 0)
    )
    assert [row["ecg"].sampling_rate for row in corpus["train"]] == [500, 500, 500, 100, 250]


def test_one_column_of_zeros_and_ones_is_a_label(folder):
    rows = [f"e{n:02d},50,F,{'' if n == 3 else n % 2}" for n in range(20)]
    write_table(folder / "train.csv", rows, "filename,age,sex,AF")
    corpus = load(folder)
    assert problem_type(corpus) == "multi_label_classification" and label_names(corpus) == ["AF"]


def test_code15_as_one_file_per_exam(shared_data, tmp_path):
    # The layout of ECG-FM. Its table only needs the names that ours have for the file and the sex.
    folder = shared_data / "code15-mat"
    header, *lines = (folder / "labels.csv").read_text().splitlines()
    table = write_table(tmp_path / "t.csv", lines, header.replace("save_file", "filename").replace("is_male", "sex"))
    labels = ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]
    options = {"label_columns": labels, "sex_codes": {True: "male", False: "female"}, "split": (1, 0, 0)}
    corpus = load_corpus("table", train_csv=table, ecg_dir=folder, **options)
    assert label_names(corpus) == labels
    rows = {row["record_id"]: row for row in corpus["train"]}
    names = header.split(",")
    assert len(rows) == len(lines) == 7
    for line in lines:
        told = dict(zip(names, line.split(","), strict=True))
        row = rows[f"code_15_{told['exam_id']}"]
        assert {name for name, value in row["labels"].items() if value} == {n for n in labels if told[n] == "True"}
        assert (row["age"], row["sex"]) == (float(told["age"]), "male" if told["is_male"] == "True" else "female")
        record = row["ecg"]
        assert record.signal.shape == (12, int(told["sample_size"])) and record.sampling_rate == 400
        assert record.lead_names == LEADS


def test_rows_of_an_hdf5_file(tmp_path):
    import h5py

    signals = np.zeros((20, 800, 12), dtype=np.float32)
    signals[:, 100:700] = np.arange(1, 21).reshape(-1, 1, 1) / 100
    with h5py.File(tmp_path / "exams.hdf5", "w") as file:
        file["tracings"] = signals
    table = write_table(tmp_path / "t.csv", [f"exams.hdf5#tracings:{n},50,F,{n % 2},0" for n in range(20)])
    corpus = load_corpus("table", train_csv=table, sampling_rate=400, lead_names="standard", split=(1, 0, 0))
    for number, row in enumerate(corpus["train"]):
        assert row["record_id"] == f"exams.hdf5#tracings:{number}"
        np.testing.assert_array_equal(row["ecg"].signal, signals[number, 100:700].T)
    write_table(tmp_path / "t.csv", ["none.hdf5#tracings:0,50,F,0,0"])
    with pytest.raises(ValueError, match="1 of 1 files of .* are missing or unreadable: none.hdf5#tracings:0"):
        load_corpus("table", train_csv=table, sampling_rate=400, lead_names="standard")
