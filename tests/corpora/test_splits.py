import numpy as np
import pytest

from ecg_transformers.corpora.splits import check_no_leak, split_by_group, split_rows


def random_corpus(seed, patients=300, labels=6):
    generator = np.random.default_rng(seed)
    records_of_patient = generator.integers(1, 5, patients)
    groups = np.repeat(np.arange(patients), records_of_patient)
    frequency = np.geomspace(0.4, 0.02, labels)
    of_patient = generator.random((patients, labels)) < frequency
    matrix = of_patient[groups] & (generator.random((len(groups), labels)) < 0.9)
    order = generator.permutation(len(groups))
    return groups[order], matrix[order].astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_patients_stay_together_and_labels_spread(seed):
    groups, labels = random_corpus(seed)
    splits = split_by_group(groups, labels, (0.7, 0.15, 0.15), seed)
    assert sorted(np.concatenate(splits)) == list(range(len(groups)))
    members = [set(groups[split]) for split in splits]
    assert not members[0] & members[1] and not members[0] & members[2] and not members[1] & members[2]
    shares = np.array([labels[split].sum(axis=0) / labels.sum(axis=0) for split in splits])
    frequent = labels.sum(axis=0) >= 40
    np.testing.assert_allclose(shares[:, frequent].T, [[0.7, 0.15, 0.15]] * frequent.sum(), atol=0.06)
    assert (shares > 0).all()
    np.testing.assert_allclose([len(split) / len(groups) for split in splits], (0.7, 0.15, 0.15), atol=0.03)


def test_is_deterministic_and_depends_on_the_seed():
    groups, labels = random_corpus(0)
    first, again, other = (split_by_group(groups, labels, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("positives", [3, 4, 5, 8])
def test_rare_labels_reach_every_split(positives):
    labels = np.zeros((100, 2))
    labels[:positives, 0] = 1
    labels[positives - 2 : 60, 1] = 1
    splits = split_by_group(range(100), labels)
    assert all(labels[split, 0].sum() >= 1 for split in splits)


def test_two_positives_go_to_two_splits():
    labels = np.zeros((40, 1))
    labels[:2] = 1
    assert sorted(labels[split].sum() for split in split_by_group(range(40), labels)) == [0, 1, 1]


def test_classes_nan_and_no_labels():
    classes = np.array(["a"] * 60 + ["b"] * 40)
    splits = split_by_group(range(100), classes, (0.5, 0.25, 0.25))
    assert [(classes[split] == "b").sum() for split in splits] == [20, 10, 10]
    unknown = np.full((100, 2), np.nan)
    assert [len(split) for split in split_by_group(range(100), unknown)] == [70, 15, 15]
    assert [len(split) for split in split_by_group(range(100))] == [70, 15, 15]
    assert [len(split) for split in split_by_group([], None)] == [0, 0, 0]


def test_a_share_of_zero_stays_empty():
    groups, labels = random_corpus(3)
    splits = split_by_group(groups, labels, (0.8, 0.2, 0.0))
    assert len(splits[2]) == 0 and len(splits[0]) + len(splits[1]) == len(groups)


@pytest.mark.parametrize("fractions", [(0.7, 0.2), (0.5, 0.6, -0.1), (), (1, 1, 1)])
def test_refuses_shares_that_do_not_add_up(fractions):
    with pytest.raises(ValueError, match="add up to 1"):
        split_by_group(range(10), None, fractions)


def test_refuses_labels_of_another_length():
    with pytest.raises(ValueError, match="10 groups and 9 rows"):
        split_by_group(range(10), np.zeros((9, 2)))


def test_leaks_are_named():
    check_no_leak({"train": {"patient_id": ["1", None], "record_id": ["a", "b"]}, "test": {"patient_id": [None, "2"]}})
    with pytest.raises(ValueError, match="1 patients of split 'test'.*'train'.*: 1"):
        check_no_leak({"train": {"patient_id": ["1", "2"]}, "test": {"patient_id": ["1"]}})
    with pytest.raises(ValueError, match="records of split 'test'"):
        check_no_leak({"train": {"record_id": ["a"]}, "test": {"record_id": ["a"]}})


def test_scales_to_a_large_corpus():
    groups, labels = random_corpus(0, patients=20_000, labels=60)
    splits = split_by_group(groups, labels)
    assert sum(map(len, splits)) == len(groups)


def test_rows_are_split_by_patient():
    rows = [{"record_id": str(n), "patient_id": str(n // 2), "labels": {"A": float(n < 8)}} for n in range(40)]
    rows += [{"record_id": f"alone {n}", "patient_id": None, "labels": None} for n in range(20)]
    splits = split_rows(rows, (0.5, 0.25, 0.25), seed=1)
    assert [len(part) for part in splits.values()] == [30, 15, 15]
    assert sorted(row["record_id"] for part in splits.values() for row in part) == sorted(
        row["record_id"] for row in rows
    )
    check_no_leak({name: {"patient_id": [row["patient_id"] for row in part]} for name, part in splits.items()})
    assert [sum((row["labels"] or {}).get("A", 0) for row in part) for part in splits.values()] == [4, 2, 2]
    classes = [{"record_id": str(n), "labels": n % 3} for n in range(30)]
    assert [len(part) for part in split_rows(classes, (0.8, 0.1, 0.1)).values()] == [24, 3, 3]
    with pytest.raises(ValueError, match="add up to 1"):
        split_rows(classes, (0.5, 0.1, 0.1))
