import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from ecg_transformers import ECGFeatureExtractor, load_corpus
from ecg_transformers.corpora import label_names
from ecg_transformers.training import CorpusSplit, ECGCollator, label_matrix, positive_weights
from ecg_transformers.training.data import count_records, describe_split, target_array


@pytest.fixture(scope="module")
def corpus(corpus_folder):
    return load_corpus(corpus_folder)


@pytest.fixture(scope="module")
def extractor():
    return ECGFeatureExtractor.for_model_type("hubert_ecg")


def test_positive_weights_are_negatives_over_positives():
    nan = np.nan
    targets = np.array([[1, 0, 1, nan], [0, 0, 1, nan], [0, 0, 1, 1], [nan, 0, 1, 0]], dtype=np.float32)
    assert positive_weights(targets).tolist() == [2.0, 1.0, 1.0, 1.0]
    assert positive_weights(targets, maximum=1.5)[0] == 1.5


def test_targets():
    rows = [{"b": 1.0, "a": None}, None, {"a": 0.0, "b": 0.0}]
    values = target_array(rows, ["a", "b"], "multi_label_classification")
    np.testing.assert_array_equal(values, [[np.nan, 1], [np.nan, np.nan], [0, 0]])
    assert target_array([2, None, -1], ["x", "y", "z"], "single_label_classification").tolist() == [2, -100, -100]
    np.testing.assert_array_equal(target_array([1.5, None], ["labels"], "regression"), [[1.5], [np.nan]])


def test_label_matrix_equals_the_rows(corpus):
    names = label_names(corpus)
    matrix = label_matrix(corpus["validation"], names, "multi_label_classification")
    rows = [[row["labels"][name] for name in names] for row in corpus["validation"]]
    np.testing.assert_array_equal(matrix, rows)
    facts = describe_split(corpus["validation"], matrix, names, "multi_label_classification")
    assert facts["records"] == len(rows) == facts["patients"]
    assert facts["labels"][names[0]]["positives"] == int(matrix[:, 0].sum())


def test_records_and_patients_are_counted():
    rows = Dataset.from_dict({"patient_id": [0, 0, None, None]})
    assert count_records(rows) == {"records": 4, "patients": 3}
    assert count_records(rows.to_iterable_dataset()) == {"records": "streamed"}
    assert count_records(Dataset.from_dict({"patient_id": [None, None]})) == {"records": 2}
    assert count_records(Dataset.from_dict({"record_id": ["a"]})) == {"records": 1}


def make_collator(extractor, corpus, windows):
    return ECGCollator(
        extractor, label_names(corpus), "multi_label_classification", windows, ["input_values", "attention_mask"]
    )


def test_collator_makes_one_row_per_record_or_window(extractor, corpus):
    rows = [corpus["test"][index] for index in range(3)]
    first = make_collator(extractor, corpus, "first")(rows)
    assert set(first) == {"input_values", "attention_mask", "labels"}
    assert first["input_values"].shape == (3, 6000) and first["labels"].shape == (3, 9)
    everything = make_collator(extractor, corpus, "all")(rows)
    assert everything["record_index"].tolist() == [0, 0, 1, 1, 2, 2]
    assert everything["labels"].shape == (3, 9)
    torch.testing.assert_close(everything["input_values"][::2], first["input_values"])


@pytest.mark.parametrize("workers", [0, 2])
def test_random_windows_depend_on_seed_epoch_and_row_only(extractor, corpus, workers):
    def batches(seed=0, epoch=0, workers=0):
        split = CorpusSplit(corpus["test"], seed)
        split.set_epoch(epoch)
        loader = DataLoader(
            split, batch_size=4, num_workers=workers, collate_fn=make_collator(extractor, corpus, "random")
        )
        return torch.cat([batch["input_values"] for batch in loader])

    torch.manual_seed(1)
    reference = batches()
    torch.manual_seed(2)
    assert torch.equal(batches(workers=workers), reference)
    assert not torch.equal(batches(epoch=1, workers=workers), reference)
    assert not torch.equal(batches(seed=1, workers=workers), reference)


def test_workers_that_live_on_see_the_next_epoch(extractor, corpus):
    split = CorpusSplit(corpus["test"])
    loader = DataLoader(
        split,
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        collate_fn=make_collator(extractor, corpus, "random"),
    )
    epochs = []
    for epoch in range(2):
        split.set_epoch(epoch)
        epochs.append(torch.cat([batch["input_values"] for batch in loader]))
    assert not torch.equal(*epochs)


def test_unknown_windows(extractor):
    with pytest.raises(ValueError, match="'first', 'random' or 'all'"):
        ECGCollator(extractor, ["a"], "multi_label_classification", windows="last")
