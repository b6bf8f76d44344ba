import json

import numpy as np
import pytest

from ecg_transformers.evaluation import (
    ChallengeWeights,
    bootstrap_statistic,
    challenge_score,
    challenge_score_details,
    load_challenge_weights,
)
from ecg_transformers.evaluation.challenge import CHALLENGE_2020_EQUIVALENT_CLASSES

ALIASES = {
    "SB": "SBRAD",
    "AFIB": "AF",
    "VPB": "VPC|VPB",
    "CRBBB": "CRBBB|RBBB",
    "NSR": "NORM",
    "IAVB": "1AVB",
    "RBBB": "CRBBB|RBBB",
    "PVC": "VPC|VPB",
    "TAB_": "TAB",
}


def slow_score(true, predicted, weights, normal):
    def credit(chosen):
        total = 0.0
        for record in range(len(true)):
            labels = {k for k in range(len(weights)) if true[record, k]}
            outputs = {k for k in range(len(weights)) if chosen[record, k]}
            for label in labels:
                for output in outputs:
                    total += weights[label][output] / max(1, len(labels | outputs))
        return total

    inactive = np.zeros_like(true)
    inactive[:, normal] = 1
    baseline = credit(inactive)
    return (credit(predicted) - baseline) / (credit(true) - baseline)


@pytest.fixture
def weights():
    return ChallengeWeights(("NSR", "AF", "A|B"), [[1, 0.3, 0.2], [0.3, 1, 0.5], [0.2, 0.5, 1]])


def write_table(path, names, values):
    rows = [["", *names], *([name, *map(str, row)] for name, row in zip(names, values, strict=True))]
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return path


def test_golden_score(golden):
    folder = golden / "hubert_ecg" / "metrics"
    inputs = np.load(folder / "inputs.npz")
    expected = json.loads((folder / "expected.json").read_text())["cinc2020"]
    table = load_challenge_weights(folder / "cinc_weights.csv", ALIASES)
    assert sorted(table.class_names) == sorted(expected["weight_columns_after_renaming"])
    names = expected["dataset_conditions"]
    decisions = inputs["probabilities"] > 0.5
    details = challenge_score_details(inputs["labels"], decisions, table, names, "NORM", ALIASES)
    assert details["scored_classes"] == expected["scored_conditions"]
    assert details["unscored_labels"] == ["XYZ"]
    for part in ("observed", "correct", "inactive", "score"):
        assert details[part] == pytest.approx(expected[part], abs=1e-5)

    # Deliberate difference: without a normal label the reference takes the inactive score for 0; so does None here.
    others = [index for index, name in enumerate(names) if name != "NORM"]
    arguments = inputs["labels"][:, others], decisions[:, others], table, [names[index] for index in others]
    without = expected["score_when_normal_class_not_in_dataset"]
    assert challenge_score(*arguments, None, ALIASES) == pytest.approx(without, abs=1e-5)
    assert challenge_score(*arguments, "NORM", ALIASES) < without


@pytest.mark.parametrize("seed", range(3))
def test_score_equals_a_slow_formulation(seed):
    rng = np.random.default_rng(seed)
    values = rng.random((5, 5))
    true, predicted = rng.random((2, 40, 5)) < 0.3
    table = ChallengeWeights(tuple("abcde"), values)
    score = challenge_score(true, predicted, table, list("abcde"), "c")
    assert score == pytest.approx(slow_score(true, predicted, values, 2), abs=1e-12)


def test_real_weights(shared_data):
    table = load_challenge_weights(shared_data / "challenge-2021" / "weights.csv")
    assert len(table.class_names) == 26
    assert "713427006|59118001" in table.class_names
    np.testing.assert_array_equal(table.values, table.values.T)
    np.testing.assert_array_equal(table.values.diagonal(), 1)
    rng = np.random.default_rng(0)
    names = [name.split("|")[-1] for name in table.class_names]
    true, predicted = rng.random((2, 30, 26)) < 0.1
    normal = table.class_index("426783006")
    score = challenge_score(true, predicted, table, names)
    assert score == pytest.approx(slow_score(true, predicted, table.values, normal), abs=1e-12)
    assert challenge_score(true, true, table, names) == pytest.approx(1)
    inactive = np.zeros_like(true)
    inactive[:, normal] = True
    assert challenge_score(true, inactive, table, names) == pytest.approx(0)


def test_columns_of_one_class_are_joined(weights):
    apart = challenge_score([[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]], weights, ["AF", "b", "a"], "nsr")
    joined = challenge_score([[0, 1], [0, 1]], [[0, 1], [0, 1]], weights, ["AF", "A|B"], "NSR")
    assert apart == joined == 1


def test_unknown_labels_count_neither_way(weights):
    names = ["NSR", "AF", "A"]
    known = challenge_score([[0, 1, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]], weights, names, "NSR")
    unknown = challenge_score([[0, 1, np.nan], [0, 0, 1]], [[0, 1, 1], [1, 0, 0]], weights, names, "NSR")
    assert known == unknown


def test_score_without_scale_is_missing(weights):
    assert np.isnan(challenge_score([[1, 0]], [[0, 1]], weights, ["NSR", "AF"], "NSR"))


def test_equivalent_classes_of_separate_rows(tmp_path):
    names = ["426783006", "713427006", "59118001"]
    path = write_table(tmp_path / "weights.csv", names, [[1, 0.5, 0.5], [0.5, 1, 1], [0.5, 1, 1]])
    table = load_challenge_weights(path, equivalent_classes=CHALLENGE_2020_EQUIVALENT_CLASSES)
    assert table.class_names == ("426783006", "713427006|59118001")
    np.testing.assert_array_equal(table.values, [[1, 0.5], [0.5, 1]])
    different = write_table(tmp_path / "other.csv", names, [[1, 0.5, 0.4], [0.5, 1, 1], [0.5, 1, 1]])
    with pytest.raises(ValueError, match="equal weights.*differ"):
        load_challenge_weights(different, equivalent_classes=CHALLENGE_2020_EQUIVALENT_CLASSES)


def test_rows_in_another_order_than_columns(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text("\ufeff,A,B\nB,0.2,0.9\nA,0.8,0.1\n", encoding="utf-8")
    table = load_challenge_weights(path)
    assert table.class_names == ("B", "A")
    np.testing.assert_array_equal(table.values, [[0.9, 0.2], [0.1, 0.8]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "square table"),
        (",A,B\nA,1,2\n", "square table"),
        (",A,B\nA,1,2\nB,1\n", "square table"),
        (",A,B\nA,1,2\nC,1,2\n", "row names and column names"),
        (",A,B\nA,1,x\nB,1,2\n", "must be a number"),
        (",A,B\nA,1,nan\nB,1,2\n", "finite number"),
        (",A|B,B\nA|B,1,1\nB,1,2\n", "one class only"),
    ],
)
def test_bad_weights_file_is_explained(tmp_path, text, message):
    path = tmp_path / "weights.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_challenge_weights(path)


def test_binary_and_absent_weights_files_are_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="evaluation-2021"):
        load_challenge_weights(tmp_path / "weights.csv")
    (tmp_path / "weights.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="no CSV text"):
        load_challenge_weights(tmp_path / "weights.csv")


def test_bad_scoring_input_is_explained(weights):
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        challenge_score([[1, 0]], [[0.7, 0.1]], weights, ["NSR", "AF"], "NSR")
    with pytest.raises(ValueError, match="has Challenge weights"):
        challenge_score([[1]], [[1]], weights, ["XYZ"], "NSR")
    with pytest.raises(ValueError, match="normal class '426783006'"):
        challenge_score([[1, 0]], [[0, 1]], weights, ["NSR", "AF"])
    with pytest.raises(ValueError, match="several classes"):
        challenge_score([[1]], [[1]], weights, ["NSR|AF"], "NSR")


def test_interval_of_the_score(weights):
    rng = np.random.default_rng(0)
    true = np.eye(3)[rng.integers(0, 3, 100)]
    predicted = np.where(rng.random((100, 1)) < 0.7, true, true[::-1])
    result = bootstrap_statistic(
        lambda t, p: challenge_score(t, p, weights, ["NSR", "AF", "A"], "NSR"), true, predicted, num_resamples=100
    )
    assert result["lower"] < result["value"] < result["upper"]
