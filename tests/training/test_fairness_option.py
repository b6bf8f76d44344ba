"""`--fairness`: from the corpus' ages and sexes to metrics.json, the printed report and the card."""

import csv
import json

import numpy as np
import pytest

from ecg_transformers import load_corpus
from ecg_transformers.evaluation import age_groups, fairness_gaps, format_fairness
from ecg_transformers.training import finetune

OPTIONS = ("--fairness", "true", "--fairness_min_patients", 2, "--num_train_epochs", 1)


def test_gaps_land_in_metrics_report_and_card(make_arguments, corpus_folder, capsys):
    result = finetune(*make_arguments(*OPTIONS, "--evaluate_untrained", "true"))
    printed = capsys.readouterr().out
    folder = result.output_dir
    metrics = json.loads((folder / "metrics.json").read_text())
    found = metrics["test"]["fairness"]
    assert "fairness" not in metrics["validation"] and "fairness" not in metrics["untrained_test"]

    test = load_corpus(corpus_folder)["test"]
    with (folder / "test_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = result.label_names
    expected = fairness_gaps(
        [[float(row[f"{name}_true"]) for name in names] for row in rows],
        np.array([[float(row[f"{name}_probability"]) for name in names] for row in rows]),
        {"sex": test["sex"][:], "age": age_groups(test["age"][:])},
        result.thresholds,
        label_names=names,
        patients=[row["patient_id"] for row in rows],
        min_patients=2,
        num_resamples=20,
        seed=42,
    )
    assert set(found["attributes"]) == {"sex", "age"} and found["min_patients"] == 2
    for name, attribute in expected["attributes"].items():
        assert found["attributes"][name]["groups"] == attribute["groups"]
        for rate, entry in attribute["macro"].items():
            assert found["attributes"][name]["macro"][rate]["gap"]["value"] == pytest.approx(entry["gap"]["value"])
    assert found["attributes"]["sex"]["macro"]["false_positive_rate"]["gap"]["upper"] is not None

    assert "Differences between groups of patients" in printed and format_fairness(found) in printed
    card = (folder / "README.md").read_text()
    assert "### Differences between groups of patients" in card and format_fairness(found, "markdown") in card


def test_without_the_option_nothing_is_said(make_arguments, capsys):
    result = finetune(*make_arguments("--num_train_epochs", 1))
    assert "fairness" not in result.test and "groups of patients" not in capsys.readouterr().out
    assert "groups of patients" not in (result.output_dir / "README.md").read_text()


@pytest.mark.parametrize("missing", ["age", "sex"])
def test_one_attribute_is_enough(make_arguments, corpus_folder, tmp_path, missing, capsys):
    corpus = load_corpus(corpus_folder).remove_columns(missing)
    corpus.save_to_disk(str(tmp_path / "corpus"))
    result = finetune(*make_arguments(*OPTIONS, "--corpus", tmp_path / "corpus"))
    assert set(result.test["fairness"]["attributes"]) == {"age", "sex"} - {missing}
    note = f"Not compared by {missing}: unknown for all records."
    assert note in capsys.readouterr().out and note in (result.output_dir / "README.md").read_text()


def test_single_label_problems_have_gaps_too(make_arguments, corpus_folder, tmp_path):
    from datasets import ClassLabel

    corpus = load_corpus(corpus_folder)
    for split, dataset in corpus.items():
        classes = [index % 3 for index in range(len(dataset))]
        feature = ClassLabel(names=["slow", "normal", "fast"])
        corpus[split] = dataset.remove_columns("labels").add_column("labels", classes, feature=feature)
    corpus.save_to_disk(str(tmp_path / "corpus"))
    result = finetune(*make_arguments(*OPTIONS, "--corpus", tmp_path / "corpus"))
    assert list(result.test["fairness"]["attributes"]["sex"]["per_label"]) == ["slow", "normal", "fast"]


def test_what_cannot_be_answered_is_refused_before_training(make_arguments, corpus_folder, tmp_path):
    from datasets import Value

    corpus = load_corpus(corpus_folder)
    corpus.remove_columns(["age", "sex"]).save_to_disk(str(tmp_path / "nobody"))
    with pytest.raises(ValueError, match="--fairness needs the columns `sex` or `age`"):
        finetune(*make_arguments(*OPTIONS, "--corpus", tmp_path / "nobody"))
    for split, dataset in corpus.items():
        values = [float(index) for index in range(len(dataset))]
        corpus[split] = dataset.remove_columns("labels").add_column("labels", values, feature=Value("float32"))
    corpus.save_to_disk(str(tmp_path / "values"))
    with pytest.raises(ValueError, match="--fairness compares error rates.*regression"):
        finetune(*make_arguments(*OPTIONS, "--corpus", tmp_path / "values"))
    with pytest.raises(ValueError, match="--fairness_min_patients must be 1 or more; got 0"):
        make_arguments("--fairness_min_patients", 0)
