import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDatasetDict, Value
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from ecg_transformers import corpora
from ecg_transformers.corpora import label_names, list_corpora, load_corpus, problem_type, register_corpus
from ecg_transformers.corpora.columns import (
    build_corpus,
    corpus_features,
    multi_label_feature,
    regression_feature,
)
from ecg_transformers.corpora.ecg_feature import ECG
from ecg_transformers.corpora.saved_corpus import save_parquet
from ecg_transformers.corpora.splits import check_no_leak
from ecg_transformers.record import ECGRecord

COLUMNS = ["ecg", "labels", "record_id", "patient_id", "age", "sex", "fold", "report"]


def rows(count, label=lambda number: {"AF": float(number % 2), "MI": None}):
    record = ECGRecord(np.ones((1, 250)), 250, ["II"])
    return [
        {"ecg": record, "labels": label(number), "record_id": f"r{number}", "patient_id": f"p{number // 2}"}
        for number in range(count)
    ]


@pytest.fixture
def corpus():
    members = rows(20)
    parts = {"train": members[:12], "validation": members[12:16], "test": members[16:]}
    return build_corpus(parts, corpus_features(multi_label_feature(["AF", "MI"])))


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (multi_label_feature(["b", "a"]), "multi_label_classification", ["b", "a"]),
        (ClassLabel(names=["x", "y"]), "single_label_classification", ["x", "y"]),
        (Value("float32"), "regression", ["labels"]),
        (regression_feature(["ef", "age"]), "regression", ["ef", "age"]),
    ],
)
def test_features_tell_the_task(labels, kind, names, tmp_path):
    values = {
        "multi_label_classification": {name: 1.0 for name in names},
        "single_label_classification": 1,
        "regression": 0.5 if isinstance(labels, Value) else {name: 0.5 for name in names},
    }
    corpus = build_corpus({"train": rows(4, lambda _: values[kind])}, corpus_features(labels))
    corpus = DatasetDict(train=corpus["train"])
    corpus.save_to_disk(str(tmp_path / "disk"))
    save_parquet(corpus, tmp_path / "parquet")
    mapped = corpus["train"].map(lambda row: {"n": row["labels"] is not None})
    card = Features._from_yaml_list(corpus["train"].features._to_yaml_list())
    loaded = [load_corpus(tmp_path / name, split=(1, 0, 0)) for name in ("disk", "parquet")]
    streamed = corpus["train"].to_iterable_dataset()
    for source in (
        corpus,
        corpus["train"],
        corpus["train"].features,
        mapped,
        mapped.select([1]),
        card,
        streamed,
        *loaded,
    ):
        assert problem_type(source) == kind
        assert label_names(source) == names


@pytest.mark.parametrize("labels", [Value("string"), {}, {"a": {"b": Value("float32")}}])
def test_other_labels_are_refused(labels):
    with pytest.raises(ValueError, match="struct of float32"):
        problem_type(Features({"labels": labels}))


def test_no_labels():
    with pytest.raises(ValueError, match="column `labels`; found ecg"):
        label_names(Features({"ecg": ECG()}))
    with pytest.raises(ValueError, match="no splits"):
        label_names(DatasetDict())


def test_registry(monkeypatch):
    monkeypatch.setattr(corpora, "_registered", dict(corpora._registered))

    @register_corpus("ward")
    def load_ward(data_dir, *, beds=3):
        return (str(data_dir), beds)

    assert "ward" in list_corpora() and {"challenge", "ptbxl", "synthetic", "table", "folder"} <= set(list_corpora())
    assert load_corpus("ward", data_dir="x", beds=4) == ("x", 4)
    with pytest.raises(ValueError, match="no option 'bed'; its options: data_dir, beds"):
        load_corpus("ward", data_dir="x", bed=4)
    with pytest.raises(ValueError, match="needs data_dir="):
        load_corpus("ward")
    with pytest.raises(ValueError, match="'ward' belongs to"):
        register_corpus("ward")(lambda: None)
    assert register_corpus("ward")(load_ward) is load_ward


def test_unknown_names(tmp_path):
    with pytest.raises(ValueError, match="Unknown corpus 'cardio'.*challenge, .*folder, .*ptbxl"):
        load_corpus("cardio")
    with pytest.raises(ValueError, match="no file that looks like an ECG, and is no folder written by save_to_disk"):
        load_corpus(tmp_path)
    with pytest.raises(ValueError, match="is a folder itself and takes no `data_dir`"):
        load_corpus(tmp_path, data_dir="x")
    with pytest.raises(ValueError, match="no option 'task'; its options: data_dir, labels_csv"):
        load_corpus(tmp_path, task="all")
    with pytest.raises(ValueError, match="there is none at"):
        load_corpus("folder", data_dir=tmp_path / "none")


def test_saved_folders(corpus, tmp_path):
    assert corpus["train"].column_names == COLUMNS
    corpus.save_to_disk(str(tmp_path / "disk"))
    files = save_parquet(corpus, tmp_path / "parquet")
    assert [file.name for file in files] == ["train.parquet", "validation.parquet", "test.parquet"]
    for name in ("disk", "parquet"):
        for loaded in (load_corpus(tmp_path / name), load_corpus("folder", data_dir=tmp_path / name)):
            assert list(loaded) == ["train", "validation", "test"]
            assert loaded.num_rows == corpus.num_rows
            assert loaded["train"].features == corpus["train"].features
            assert loaded["test"][0]["ecg"].lead_names == ("II",)


def test_missing_splits_are_made_by_patient(corpus, tmp_path, caplog):
    corpus["train"].save_to_disk(str(tmp_path / "one"))
    loaded = load_corpus(tmp_path / "one", split=(0.5, 0.25, 0.25))
    check_no_leak(loaded)
    assert sum(loaded.num_rows.values()) == 12 and min(loaded.num_rows.values()) >= 2
    assert "no split validation, test" in caplog.text
    DatasetDict(train=corpus["train"], test=corpus["test"]).save_to_disk(str(tmp_path / "two"))
    loaded = load_corpus(tmp_path / "two")
    assert loaded["test"]["record_id"][:] == corpus["test"]["record_id"][:]
    assert 2 <= loaded.num_rows["validation"] <= 4
    DatasetDict(train=corpus["train"], val=corpus["test"]).save_to_disk(str(tmp_path / "three"))
    assert load_corpus(tmp_path / "three")["validation"].num_rows == 4
    DatasetDict(test=corpus["test"]).save_to_disk(str(tmp_path / "four"))
    with pytest.raises(ValueError, match="a split `train` is needed"):
        load_corpus(tmp_path / "four")


def test_plain_columns_become_ecgs(corpus, tmp_path):
    plain = Dataset.from_dict({"ecg": [{"bytes": None, "path": "a.npz"}] * 8, "record_id": list("abcdefgh")})
    plain.save_to_disk(str(tmp_path / "plain"))
    assert isinstance(load_corpus(tmp_path / "plain")["train"].features["ecg"], ECG)
    Dataset.from_dict({"ecg": [[1.0]] * 8}).save_to_disk(str(tmp_path / "numbers"))
    with pytest.raises(ValueError, match="holds no ECGs"):
        load_corpus(tmp_path / "numbers")
    Dataset.from_dict({"signal": [1] * 8}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="no column `ecg`; it has signal"):
        load_corpus(tmp_path / "other")


def test_changed_files_are_seen(corpus, tmp_path):
    save_parquet(corpus, tmp_path)
    assert len(load_corpus(tmp_path)["train"]) == 12
    save_parquet(DatasetDict(train=corpus["test"], validation=corpus["test"], test=corpus["test"]), tmp_path)
    assert len(load_corpus(tmp_path)["train"]) == 4


def test_an_unreachable_hub_is_named(monkeypatch):
    from ecg_transformers.corpora import saved_corpus

    def unreachable(name, **options):
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(saved_corpus, "load_dataset", unreachable)
    with pytest.raises(ValueError, match="no folder somebody/ecgs, and the Hub gives no data set.*Known corpora"):
        load_corpus("somebody/ecgs")


def test_hub_data_sets(monkeypatch, corpus):
    from ecg_transformers.corpora import saved_corpus

    asked = {}

    def load_dataset(name, **options):
        asked.update(options, name=name)
        return corpus

    monkeypatch.setattr(saved_corpus, "load_dataset", load_dataset)
    assert load_corpus("somebody/ecgs", revision="v1")["test"].num_rows == 4
    assert asked == {"name": "somebody/ecgs", "data_dir": None, "revision": "v1"}


def test_a_saved_corpus_with_an_empty_split_is_refused_clearly(tmp_path):
    corpus = load_corpus("synthetic", num_patients=5, records_per_patient=1)
    corpus["test"] = corpus["test"].select([])
    corpus.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="without records"):
        load_corpus(str(tmp_path / "saved"))


def same_rows(stream, data):
    assert stream.features == data.features
    rows = list(stream)
    assert len(rows) == len(data)
    for row, expected in zip(rows, data, strict=True):
        record, other = row.pop("ecg"), expected.pop("ecg")
        assert row == expected
        assert record.metadata == other.metadata and record.lead_names == other.lead_names
        np.testing.assert_array_equal(record.signal, other.signal)


@pytest.mark.parametrize("records", [1, 3])
def test_streams_of_any_corpus(records):
    options = {"num_patients": 9, "records_per_patient": records}
    corpus = load_corpus("synthetic", **options)
    stream = load_corpus("synthetic", streaming=True, **options)
    assert isinstance(stream, IterableDatasetDict) and list(stream) == list(corpus)
    assert label_names(stream["train"]) == label_names(corpus) and problem_type(stream["test"]) == problem_type(corpus)
    for split in corpus:
        same_rows(stream[split], corpus[split])


def test_streams_of_good_records_only():
    options = {"num_patients": 12, "records_per_patient": 1, "min_quality": 0.5}
    corpus, stream = load_corpus("synthetic", **options), load_corpus("synthetic", streaming=True, **options)
    for split in corpus:
        kept = stream[split].select_columns(["record_id", "labels"])
        assert list(kept) == list(corpus[split].select_columns(["record_id", "labels"]))


def test_streams_for_several_workers(corpus, tmp_path):
    corpus.save_to_disk(str(tmp_path / "disk"))
    stream = load_corpus(tmp_path / "disk", streaming=True)["train"]
    loader = DataLoader(stream, batch_size=3, num_workers=2, collate_fn=list)
    assert sorted(row["record_id"] for rows in loader for row in rows) == sorted(corpus["train"]["record_id"])
    parts = [split_dataset_by_node(stream, rank, 2) for rank in range(2)]
    assert sorted(row["record_id"] for part in parts for row in part) == sorted(corpus["train"]["record_id"])


def test_streams_of_saved_folders(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    corpus.save_to_disk(str(tmp_path / "disk"))
    save_parquet(corpus, tmp_path / "parquet")
    for source in ({"name": tmp_path / "disk"}, {"name": "folder", "data_dir": tmp_path / "parquet"}):
        stream = load_corpus(**source, streaming=True)
        assert isinstance(stream, IterableDatasetDict)
        for split in corpus:
            same_rows(stream[split], corpus[split])
    # Read as rows are asked for: nothing was copied.
    assert not list(tmp_path.glob("cache/**/*.arrow"))
    (tmp_path / "parquet" / "test.parquet").unlink()
    two = load_corpus(tmp_path / "parquet")
    stream = load_corpus(tmp_path / "parquet", streaming=True)
    for split in two:
        same_rows(stream[split], two[split])


def test_streams_from_the_hub(corpus, monkeypatch):
    from ecg_transformers.corpora import saved_corpus

    published = {"train": corpus["train"], "val": corpus["validation"], "test": corpus["test"]}

    def load_dataset(name, streaming=False, **options):
        assert streaming
        return IterableDatasetDict({split: data.to_iterable_dataset() for split, data in published.items()})

    monkeypatch.setattr(saved_corpus, "load_dataset", load_dataset)
    stream = load_corpus("somebody/ecgs", streaming=True)
    for split in corpus:
        same_rows(stream[split], corpus[split])
    del published["val"]
    with pytest.raises(ValueError, match="train, test and lacks validation, which cannot be taken out of a stream"):
        load_corpus("somebody/ecgs", streaming=True)


def test_streams_of_empty_splits(corpus, monkeypatch):
    monkeypatch.setattr(corpora, "_registered", dict(corpora._registered))
    corpus["test"] = corpus["test"].select([])
    register_corpus("ward")(lambda: corpus)
    stream = load_corpus("ward", streaming=True)
    assert list(stream["test"]) == [] and stream["test"].features == corpus["test"].features
    same_rows(stream["train"], corpus["train"])
