"""Gaps between groups, against loops that read like the definitions."""

import itertools
import json

import numpy as np
import pytest

from ecg_transformers.evaluation import age_groups, fairness_gaps, format_fairness
from ecg_transformers.evaluation.bootstrap import resample_blocks

NAMES = ["afib", "lbbb", "rare"]


def make_data(num_patients: int = 150, seed: int = 0) -> dict:
    """Several records per patient; the third label is rare; some targets, sexes and ages are unknown."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(num_patients), random.integers(1, 4, num_patients))
    random.shuffle(patient)
    count = len(patient)
    sex = np.array(["female", "male", None], dtype=object)[random.choice(3, num_patients, p=[0.5, 0.45, 0.05])][
        patient
    ]
    age = random.uniform(20, 95, num_patients)[patient]
    age[random.random(count) < 0.05] = np.nan
    targets = (random.random((count, 3)) < [0.4, 0.5, 0.02]).astype(float)
    targets[random.random((count, 3)) < 0.05] = np.nan
    shift = 0.25 * (sex == "male")[:, None] * [1, -1, 0]
    probabilities = np.clip(random.random((count, 3)) * 0.6 + 0.3 * np.nan_to_num(targets) + shift, 0, 1)
    return {
        "targets": targets,
        "probabilities": probabilities,
        "sex": list(sex),
        "age": age_groups(age),
        "patient": patient,
    }


def rate_of(targets, decisions, members, label, value):
    chosen = [row for row in members if targets[row, label] == value]
    return sum(decisions[row, label] for row in chosen) / len(chosen) if chosen else None


def by_loops(data, attribute, thresholds, min_patients, resamples):
    """Return gap, its resamples and the groups too small, per rate and label, and for the macro."""
    decisions = data["probabilities"] > thresholds
    names = sorted({name for name in data[attribute] if name is not None})
    everything = np.arange(len(decisions))
    scored, result = {}, {}
    for rate, value in (("true_positive_rate", 1), ("false_positive_rate", 0)):
        for label in range(3):
            for name in names:
                rows = [r for r in everything if data[attribute][r] == name and data["targets"][r, label] == value]
                scored[rate, label, name] = len({data["patient"][row] for row in rows}) >= min_patients

    def gaps_on(rows, rate, value):
        differences = {}
        for first, second in itertools.combinations(names, 2):
            for label in range(3):
                if not (scored[rate, label, first] and scored[rate, label, second]):
                    continue
                rates = [
                    rate_of(data["targets"], decisions, [r for r in rows if data[attribute][r] == name], label, value)
                    for name in (first, second)
                ]
                if None not in rates:
                    differences[first, second, label] = rates[0] - rates[1]
        per_label = [
            max((abs(d) for (*_, at), d in differences.items() if at == label), default=None) for label in range(3)
        ]
        means = [
            np.mean([d for (*at, _), d in differences.items() if tuple(at) == pair])
            for pair in {(first, second) for first, second, _ in differences}
        ]
        return [*per_label, max((abs(mean) for mean in means), default=None)]

    for rate, value in (("true_positive_rate", 1), ("false_positive_rate", 0)):
        result[rate] = gaps_on(everything, rate, value), [gaps_on(rows, rate, value) for rows in resamples]
    return names, scored, result


@pytest.mark.parametrize("attribute", ["sex", "age"])
def test_gaps_and_intervals_equal_loops(attribute):
    data = make_data()
    thresholds = np.array([0.5, 0.45, 0.6])
    blocks = resample_blocks(data["targets"], 12, 3, None, data["patient"], False)
    resamples = [np.repeat(np.arange(len(counts)), column.astype(int)) for counts in blocks for column in counts.T]
    assert len(resamples) == 12
    names, scored, expected = by_loops(data, attribute, thresholds, 8, resamples)
    found = fairness_gaps(
        data["targets"],
        data["probabilities"],
        {attribute: data[attribute]},
        dict(zip(NAMES, thresholds, strict=True)),
        label_names=NAMES,
        patients=data["patient"],
        min_patients=8,
        num_resamples=12,
        seed=3,
    )["attributes"][attribute]
    assert list(found["groups"]) == names and found["num_unknown"] == data[attribute].count(None) > 0
    scored_labels = 0
    for rate, (values, drawn) in expected.items():
        for column, name in enumerate([*NAMES, "macro"]):
            entry = found["macro"][rate] if name == "macro" else found["per_label"][name][rate]
            if values[column] is None:
                assert entry["gap"] == {"value": None, "lower": None, "upper": None, "num_resamples": 0}
                assert entry["between"] is None
                continue
            scored_labels += 1
            assert entry["gap"]["value"] == pytest.approx(values[column])
            known = [row[column] for row in drawn if row[column] is not None]
            assert entry["gap"]["num_resamples"] == len(known)
            limits = np.quantile(known, [0.025, 0.975])
            assert [entry["gap"]["lower"], entry["gap"]["upper"]] == pytest.approx(limits.tolist())
            assert entry["difference"]["value"] == pytest.approx(values[column])
            if name != "macro":
                assert entry["too_small"] == [n for n in names if not scored[rate, column, n]]
                rates = {n: entry["groups"][n]["rate"] for n in names}
                assert rates[entry["between"][0]] - rates[entry["between"][1]] == pytest.approx(values[column])
        best = max((v, n) for v, n in zip(values[:3], NAMES, strict=True) if v is not None)
        assert (found["largest"][rate]["gap"]["value"], found["largest"][rate]["label"]) == (
            pytest.approx(best[0]),
            best[1],
        )
    assert scored_labels >= 6
    # The rare label's positives are too few in every group.
    assert found["per_label"]["rare"]["true_positive_rate"]["too_small"] == names
    assert all(v["rate"] is None for v in found["per_label"]["rare"]["true_positive_rate"]["groups"].values())
    json.dumps(found, allow_nan=False)


def test_counts_are_of_records_and_patients():
    data = make_data()
    found = fairness_gaps(
        data["targets"],
        data["probabilities"],
        {"sex": data["sex"]},
        label_names=NAMES,
        patients=data["patient"],
        num_resamples=0,
    )["attributes"]["sex"]
    for name, facts in found["groups"].items():
        rows = [row for row in range(len(data["patient"])) if data["sex"][row] == name]
        assert facts == {"num_records": len(rows), "num_patients": len({data["patient"][row] for row in rows})}
        for label, column in zip(NAMES, range(3), strict=True):
            for rate, value in (("true_positive_rate", 1), ("false_positive_rate", 0)):
                hits = [row for row in rows if data["targets"][row, column] == value]
                counted = found["per_label"][label][rate]["groups"][name]
                assert counted["num_records"] == len(hits)
                assert counted["num_patients"] == len({data["patient"][row] for row in hits})
    assert found["macro"]["true_positive_rate"]["num_labels"] == 2
    assert found["macro"]["false_positive_rate"]["num_labels"] == 3
    assert found["macro"]["true_positive_rate"]["gap"]["lower"] is None


def test_opposite_differences_cancel_in_the_macro_only():
    """Women lack 0.5 of one label's rate, men of the other's."""
    sex = ["female"] * 40 + ["male"] * 40
    targets = np.ones((80, 2))
    probabilities = np.ones((80, 2))
    probabilities[:20, 0] = probabilities[40:60, 1] = 0
    found = fairness_gaps(targets, probabilities, {"sex": sex}, num_resamples=50)["attributes"]["sex"]
    assert found["macro"]["true_positive_rate"]["gap"]["value"] == 0
    for label, between in (("label_0", ["male", "female"]), ("label_1", ["female", "male"])):
        entry = found["per_label"][label]["true_positive_rate"]
        assert entry["gap"]["value"] == 0.5 and entry["between"] == between
        assert 0.2 < entry["difference"]["lower"] < 0.5 < entry["difference"]["upper"] < 0.8
    assert found["per_label"]["label_0"]["false_positive_rate"]["gap"]["value"] is None


def test_the_difference_of_equal_groups_includes_zero_and_the_gap_does_not():
    random = np.random.default_rng(1)
    targets = (random.random((400, 1)) < 0.5).astype(float)
    sex = {"sex": ["female", "male"] * 200}
    found = fairness_gaps(targets, random.random((400, 1)), sex, num_resamples=200)["attributes"]["sex"]
    macro = found["macro"]["true_positive_rate"]
    assert macro["gap"]["lower"] > 0 and macro["difference"]["lower"] < 0 < macro["difference"]["upper"]


def test_patients_are_drawn_whole():
    """Copies of a patient's record bring no certainty."""
    random = np.random.default_rng(0)
    targets, probabilities = np.ones((60, 1)), random.random((60, 1))
    sex = ["female", "male"] * 30

    def width(copies, patients):
        found = fairness_gaps(
            np.tile(targets, (copies, 1)),
            np.tile(probabilities, (copies, 1)),
            {"sex": sex * copies},
            patients=patients,
            num_resamples=300,
        )["attributes"]["sex"]["per_label"]["label_0"]["true_positive_rate"]["difference"]
        return found["upper"] - found["lower"]

    assert width(20, np.tile(np.arange(60), 20)) == pytest.approx(width(1, None), abs=1e-12)
    assert width(20, None) < 0.4 * width(1, None)


def test_single_label_problems_take_the_predicted_class():
    random = np.random.default_rng(2)
    probabilities = random.dirichlet([1, 1, 1], 200)
    classes = random.integers(0, 3, 200).astype(float)
    classes[:5] = np.nan
    sex = list(random.choice(["female", "male"], 200))
    found = fairness_gaps(classes, probabilities, {"sex": sex}, label_names=NAMES, num_resamples=10)
    decided = probabilities.argmax(1)
    rates = found["attributes"]["sex"]["per_label"]["lbbb"]["true_positive_rate"]["groups"]
    for name in ("female", "male"):
        rows = [row for row in range(200) if sex[row] == name and classes[row] == 1]
        assert rates[name]["rate"] == pytest.approx(np.mean(decided[rows] == 1))


def test_a_single_group_has_no_gap():
    found = fairness_gaps(np.ones((30, 1)), np.ones((30, 1)), {"sex": ["male"] * 30}, num_resamples=10)
    sex = found["attributes"]["sex"]
    assert sex["macro"]["true_positive_rate"]["gap"]["value"] is None
    assert sex["largest"]["true_positive_rate"]["label"] is None
    assert sex["per_label"]["label_0"]["true_positive_rate"]["groups"]["male"]["rate"] == 1
    assert "–" in format_fairness(found)
    assert "Not compared by sex, true positives: all records are of one group." in format_fairness(found)


@pytest.mark.parametrize("style", ["text", "markdown"])
def test_what_was_not_compared_is_explained(style):
    """30 + 30 patients and 3 of a third group; `rare` has 12 positives, all of them of one group."""
    groups = ["18-39"] * 30 + ["40-59"] * 30 + ["80+"] * 3
    targets = np.zeros((63, 2))
    targets[::2, 0], targets[:12, 1] = 1, 1
    found = fairness_gaps(
        targets,
        np.full((63, 2), 0.7),
        {"age": groups, "sex": [None] * 63},
        label_names=["common", "rare"],
        num_resamples=5,
    )
    lines = format_fairness(found, style).splitlines()
    assert "Not compared by age, true positives: rare; fewer than two groups have 10 patients with the label." in lines
    left = "Left out of the comparison by age, {}: 80+ for {} labels; fewer than 10 patients of the group are {}."
    assert left.format("true positives", "1 of 1", "with the label") in lines
    assert left.format("false positives", "2 of 2", "without the label") in lines
    assert "Not compared by sex: unknown for all records." in lines
    assert found["unknown_attributes"] == ["sex"]
    every = fairness_gaps(targets, np.full((63, 2), 0.7), {"age": groups}, min_patients=40, num_resamples=0)
    text = format_fairness(every, style)
    assert "true positives: all 2 labels; fewer than two groups have 40 patients with the label." in text


def test_an_attribute_that_nobody_has_is_left_out():
    targets, probabilities = np.tile([[1.0], [0.0]], (30, 1)), np.full((60, 1), 0.7)
    unknown = [None, float("nan"), ""] * 20
    found = fairness_gaps(targets, probabilities, {"sex": unknown, "age": ["0-17", "80+"] * 30}, num_resamples=5)
    assert list(found["attributes"]) == ["age"]
    with pytest.raises(ValueError, match=r"No record has a known group of \['sex'\]"):
        fairness_gaps(targets, probabilities, {"sex": unknown})


def test_age_groups():
    ages = [0, 17.9, 18, 39, 40, 59.99, 60, 79, 80, 103, None, float("nan"), -1, float("inf")]
    expected = ["0-17", "0-17", "18-39", "18-39", "40-59", "40-59", "60-79", "60-79", "80+", "80+", *[None] * 4]
    assert age_groups(ages) == expected
    assert age_groups([64, 65, 5], bins=(18, 65)) == ["18-64", "65+", None]
    for bins in ((), (40, 18), (18, 18)):
        with pytest.raises(ValueError, match="ascending"):
            age_groups([3], bins)


def test_groups_are_in_order_of_age():
    ages = np.linspace(1, 100, 200)
    random = np.random.default_rng(0)
    found = fairness_gaps(
        np.ones((200, 1)), random.random((200, 1)), {"age": age_groups(ages, (0, 5, 18, 60, 80))}, num_resamples=0
    )
    assert list(found["attributes"]["age"]["groups"]) == ["0-4", "5-17", "18-59", "60-79", "80+"]


@pytest.mark.parametrize(
    "change,words",
    [
        ({"attributes": {"sex": ["male"]}}, "1 values for 4 records"),
        ({"attributes": {}}, "nothing to compare"),
        ({"patients": [1, 2]}, "one patient per record"),
        ({"min_patients": 0}, "at least 1"),
        ({"num_resamples": -1}, "got 10, -1"),
        ({"level": 95}, "coverage between 0 and 1"),
        ({"thresholds": {"x": 0.5}}, "No threshold for"),
        ({"probabilities": np.full((4, 1), 2.0)}, "between 0 and 1"),
    ],
)
def test_errors_name_value_and_remedy(change, words):
    arguments = {
        "targets": np.array([[0.0], [1], [0], [1]]),
        "probabilities": np.full((4, 1), 0.5),
        "attributes": {"sex": ["male", "female"] * 2},
        **change,
    }
    with pytest.raises(ValueError, match=words):
        fairness_gaps(**arguments)


def test_the_table_tells_gaps_groups_and_what_was_left_out():
    data = make_data()
    found = fairness_gaps(
        data["targets"],
        data["probabilities"],
        {"sex": data["sex"], "age": data["age"]},
        label_names=NAMES,
        patients=data["patient"],
        min_patients=20,
        num_resamples=20,
        level=0.9,
    )
    text = format_fairness(found)
    macro = found["attributes"]["sex"]["macro"]["true_positive_rate"]
    assert f"{macro['gap']['value']:.3f} [{macro['gap']['lower']:.3f}, {macro['gap']['upper']:.3f}]" in text
    assert "Macro gap [90% CI]" in text and " / ".join(macro["between"]) in text
    assert f"female {found['attributes']['sex']['groups']['female']['num_patients']}" in text
    assert "unknown: " in text
    table = format_fairness(found, "markdown").splitlines()
    assert table[0].startswith("| Groups |") and len({line.count("|") for line in table[:6]}) == 1
    with pytest.raises(ValueError, match="'text' or 'markdown'"):
        format_fairness(found, "html")


def test_many_records_of_few_patients_are_a_small_group():
    sexes = ["female"] * 40 + ["male"] * 40
    targets, probabilities = np.ones((80, 1)), np.linspace(0, 1, 80)[:, None]
    # Four patients with ten records each, beside forty
    patients = [f"f{number // 10}" for number in range(40)] + [f"m{number}" for number in range(40)]
    found = fairness_gaps(targets, probabilities, {"sex": sexes}, patients=patients, num_resamples=0, min_patients=5)
    rate = found["attributes"]["sex"]["per_label"]["label_0"]["true_positive_rate"]
    assert rate["too_small"] == ["female"] and rate["gap"]["value"] is None
    assert rate["groups"]["female"] == {"rate": None, "num_records": 40, "num_patients": 4}
    found = fairness_gaps(targets, probabilities, {"sex": sexes}, patients=patients, num_resamples=0, min_patients=4)
    rate = found["attributes"]["sex"]["per_label"]["label_0"]["true_positive_rate"]
    assert rate["too_small"] == [] and rate["gap"]["value"] == pytest.approx(1)
