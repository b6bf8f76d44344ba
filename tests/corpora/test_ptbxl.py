import numpy as np
import pytest

from ecg_transformers.corpora import label_names, load_corpus, problem_type
from ecg_transformers.corpora.splits import check_no_leak

STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal,1.0,,,NORM,NORM
IMI,inferior infarction,1.0,,,MI,IMI
ASMI,anteroseptal infarction,1.0,,,MI,AMI
NDT,T abnormalities,1.0,1.0,,STTC,STTC
LVOLT,low voltage,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,fibrillation,,,1.0,,
"""
ROWS = [
    # ecg_id, patient, age, sex, report, statements, fold
    (1, "10.0", 56.0, 1, "sinusrhythmus", "{'NORM': 100.0, 'SR': 0.0}", 1),
    (2, "10.0", 57.0, 1, "", "{'IMI': 35.0, 'ASMI': 0.0, 'SR': 0.0}", 1),
    (3, "11.0", 300.0, 0, "vorhofflimmern", "{'AFIB': 0.0}", 9),
    (4, "12.0", "", 0, "x", "{'NDT': 50.0, 'AFIB': 0.0}", 9),
    (5, "13.0", 20.0, 0, "y", "{'NORM': 0.0, 'LVOLT': 0.0, 'SR': 0.0}", 10),
]


def write_corpus(folder, rows=ROWS, rates=("records500",)):
    header = "ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr\n"
    lines = [
        f'{n},{patient},{age},{sex},{report},"{codes}",{fold},records100/{n:05d}_lr,records500/{n:05d}_hr\n'
        for n, patient, age, sex, report, codes, fold in rows
    ]
    (folder / "ptbxl_database.csv").write_text(header + "".join(lines))
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    for rate in rates:
        (folder / rate).mkdir()
        for row in rows:
            (folder / rate / f"{row[0]:05d}_{'hr' if rate == 'records500' else 'lr'}.hea").write_text("")
    return folder


def positives(corpus):
    return {
        row["record_id"]: sorted(name for name, value in row["labels"].items() if value)
        for split in corpus.values()
        for row in split.remove_columns("ecg")
    }


@pytest.mark.parametrize(
    ("task", "names", "expected"),
    [
        ("superclass", ["MI", "NORM", "STTC"], {"1": ["NORM"], "2": ["MI"], "4": ["STTC"], "5": ["NORM"]}),
        (
            "subclass",
            ["AMI", "IMI", "NORM", "STTC"],
            {"1": ["NORM"], "2": ["AMI", "IMI"], "4": ["STTC"], "5": ["NORM"]},
        ),
        (
            "diagnostic",
            ["ASMI", "IMI", "NDT", "NORM"],
            {"1": ["NORM"], "2": ["ASMI", "IMI"], "4": ["NDT"], "5": ["NORM"]},
        ),
        ("rhythm", ["AFIB", "SR"], {"1": ["SR"], "2": ["SR"], "3": ["AFIB"], "4": ["AFIB"], "5": ["SR"]}),
        (
            "all",
            ["AFIB", "ASMI", "IMI", "LVOLT", "NDT", "NORM", "SR"],
            {
                "1": ["NORM", "SR"],
                "2": ["ASMI", "IMI", "SR"],
                "3": ["AFIB"],
                "4": ["AFIB", "NDT"],
                "5": ["LVOLT", "NORM", "SR"],
            },
        ),
    ],
)
def test_tasks(tmp_path, task, names, expected):
    corpus = load_corpus("ptbxl", data_dir=write_corpus(tmp_path), task=task)
    assert label_names(corpus) == names
    assert problem_type(corpus) == "multi_label_classification"
    assert positives(corpus) == expected


def test_columns_and_folds(tmp_path):
    corpus = load_corpus("ptbxl", data_dir=write_corpus(tmp_path), task="all")
    raw = {row["record_id"]: row for split in corpus.values() for row in split.remove_columns(["ecg", "labels"])}
    assert [corpus[split]["record_id"][:] for split in corpus] == [["1", "2"], ["3", "4"], ["5"]]
    first = {"patient_id": "10", "age": 56.0, "sex": "female", "fold": 1, "report": "sinusrhythmus"}
    assert raw["1"] == {"record_id": "1", **first}
    assert (raw["3"]["age"], raw["3"]["sex"]) == (90.0, "male")
    assert (raw["4"]["age"], raw["2"]["report"]) == (None, None)


def test_likelihood_and_counts(tmp_path):
    folder = write_corpus(tmp_path)
    certain = load_corpus("ptbxl", data_dir=folder, task="diagnostic", min_likelihood=35, keep_unlabelled=True)
    assert positives(certain) == {"1": ["NORM"], "2": ["IMI"], "3": [], "4": ["NDT"], "5": []}
    # Rhythms and forms carry likelihood 0, which says nothing about them.
    rhythms = load_corpus("ptbxl", data_dir=folder, task="rhythm", min_likelihood=80)
    assert positives(rhythms) == {"1": ["SR"], "2": ["SR"], "3": ["AFIB"], "4": ["AFIB"], "5": ["SR"]}
    everything = load_corpus("ptbxl", data_dir=folder, task="all", min_likelihood=80)
    assert positives(everything)["5"] == ["LVOLT", "SR"] and positives(everything)["2"] == ["SR"]
    with pytest.raises(ValueError, match="from 0 to 100 .*got 101"):
        load_corpus("ptbxl", data_dir=folder, min_likelihood=101)
    frequent = load_corpus("ptbxl", data_dir=folder, task="all", min_positives=2)
    assert label_names(frequent) == ["AFIB", "NORM", "SR"]
    with pytest.raises(ValueError, match="No label of the task 'form' has 5"):
        load_corpus("ptbxl", data_dir=folder, task="form", min_positives=5)


def test_empty_splits_are_refused(tmp_path):
    folder = write_corpus(tmp_path, ROWS[:4])
    with pytest.raises(ValueError, match="no records for test; labelled records per fold: {1: 2, 9: 2}.*test_fold"):
        load_corpus("ptbxl", data_dir=folder, task="all")
    with pytest.raises(ValueError, match="different folds"):
        load_corpus("ptbxl", data_dir=folder, validation_fold=9, test_fold=9)


def test_missing_files(tmp_path):
    folder = write_corpus(tmp_path)
    with pytest.raises(ValueError, match="5 of 5 100 Hz records .*records100/00001_lr.hea.*skip_missing=True"):
        load_corpus("ptbxl", data_dir=folder, sampling_rate=100)
    with pytest.raises(ValueError, match="Nothing is left"):
        load_corpus("ptbxl", data_dir=folder, sampling_rate=100, skip_missing=True)
    with pytest.raises(ValueError, match="500, 100; got 250"):
        load_corpus("ptbxl", data_dir=folder, sampling_rate=250)
    (folder / "scp_statements.csv").unlink()
    with pytest.raises(ValueError, match="scp_statements.csv"):
        load_corpus("ptbxl", data_dir=folder)


def test_damaged_table(tmp_path):
    write_corpus(tmp_path, [(1, "10.0", 56.0, 1, "r", "nonsense(", 1)])
    with pytest.raises(ValueError, match="Record 1 .*scp_codes"):
        load_corpus("ptbxl", data_dir=tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns ecg_id"):
        load_corpus("ptbxl", data_dir=tmp_path)


class TestOnRealRecords:
    @pytest.fixture
    def folder(self, shared_data):
        return shared_data / "ptb-xl"

    @pytest.mark.parametrize(
        ("task", "num_labels"),
        [("superclass", 5), ("subclass", 23), ("diagnostic", 44), ("form", 19), ("rhythm", 12), ("all", 71)],
    )
    def test_label_sets(self, folder, task, num_labels):
        corpus = load_corpus("ptbxl", data_dir=folder, task=task)
        assert len(label_names(corpus)) == num_labels
        check_no_leak(corpus)

    @pytest.mark.parametrize("task", ["superclass", "subclass", "diagnostic", "form", "rhythm", "all"])
    def test_both_rates(self, folder, task):
        """The 45 records that are there at 100 Hz have the labels that they have at 500 Hz."""
        fast = load_corpus("ptbxl", data_dir=folder, task=task)
        slow = load_corpus("ptbxl", data_dir=folder, task=task, sampling_rate=100, skip_missing=True)
        assert label_names(slow) == label_names(fast) and positives(slow).items() <= positives(fast).items()
        for split in slow:
            records = (
                slow[split][0]["ecg"],
                fast[split].filter(
                    lambda name, wanted=slow[split][0]["record_id"]: name == wanted, input_columns="record_id"
                )[0]["ecg"],
            )
            assert [record.sampling_rate for record in records] == [100, 500]
            # Of the same ten seconds; the slow one is the publisher's own resampling of the fast one.
            assert np.corrcoef(records[0].signal[1], records[1].signal[1, ::5])[0, 1] > 0.9

    def test_known_rows(self, folder):
        corpus = load_corpus("ptbxl", data_dir=folder, task="superclass")
        assert label_names(corpus) == ["CD", "HYP", "MI", "NORM", "STTC"]
        labels = positives(corpus)
        # Row 1 is "NORM 100, LVOLT 0, SR 0", row 2 "NORM 80, SBRAD 0".
        assert labels["1"] == ["NORM"] and labels["2"] == ["NORM"]
        rows = {row["record_id"]: row for row in corpus["train"].remove_columns("ecg")}
        assert (rows["1"]["patient_id"], rows["1"]["age"], rows["1"]["sex"]) == ("15709", 56.0, "female")

    def test_folds_and_signals(self, folder):
        corpus = load_corpus("ptbxl", data_dir=folder, task="all")
        assert corpus.num_rows == {"train": 60, "validation": 20, "test": 10}
        assert set(corpus["test"]["fold"]) == {10} and set(corpus["validation"]["fold"]) == {9}
        record = corpus["test"][0]["ecg"]
        assert (record.sampling_rate, record.signal.shape) == (500, (12, 5000))
        slow = load_corpus("ptbxl", data_dir=folder, sampling_rate=100, skip_missing=True)
        assert slow["train"][0]["ecg"].signal.shape == (12, 1000)
