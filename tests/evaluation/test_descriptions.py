import csv
import json

import pytest

from ecg_transformers.corpora.challenge_labels import SCORED_ABBREVIATIONS, scored_labels
from ecg_transformers.corpora.synthetic_labels import SYNTHETIC_LABELS
from ecg_transformers.evaluation.descriptions import FOLDER, label_descriptions, list_label_descriptions

CODE_LABELS = {"1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"}


def test_every_label_of_ptbxl_is_described(shared_data):
    labels = {group: set() for group in ("statement", "superclass", "subclass")}
    with open(shared_data / "ptb-xl" / "scp_statements.csv", newline="") as file:
        for row in csv.DictReader(file):
            labels["statement"].add(next(iter(row.values())))
            if row["diagnostic"]:
                labels["superclass"].add(row["diagnostic_class"])
                labels["subclass"].add(row["diagnostic_subclass"])
    assert {name: len(members) for name, members in labels.items()} == {
        "statement": 71,
        "superclass": 5,
        "subclass": 23,
    }
    assert set(label_descriptions("ptbxl")) == set.union(*labels.values())


def test_every_label_of_the_other_corpora_is_described():
    assert set(label_descriptions("challenge")) == {*scored_labels(merge=True), *scored_labels(merge=False)}
    assert set(label_descriptions("challenge")) == set(SCORED_ABBREVIATIONS.values())
    assert set(label_descriptions("synthetic")) == set(SYNTHETIC_LABELS)
    assert set(label_descriptions("code")) == CODE_LABELS


@pytest.mark.parametrize("name", list_label_descriptions())
def test_the_texts_are_of_use(name):
    texts = [text for of_label in label_descriptions(name).values() for text in of_label]
    # Cut off by a prompt of 64 tokens, or equal once lower-cased, two labels would have one score.
    assert len({text.lower() for text in texts}) == len(texts)
    for text in texts:
        assert 30 <= len(text) <= 190 and text.isascii() and text.endswith(".") and text == " ".join(text.split())
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert "Written for this package" in content["source"] and content["about"]


def test_names_are_selected_and_missing_ones_named(tmp_path):
    assert list_label_descriptions() == ["challenge", "code", "ptbxl", "synthetic"]
    chosen = label_descriptions("ptbxl", ["STTC", "AFIB"])
    assert list(chosen) == ["STTC", "AFIB"] and "P waves" in chosen["AFIB"][0]
    with pytest.raises(ValueError, match="but not ABC, DEF. Write a JSON file"):
        label_descriptions("code", ["ABC", "AF", "DEF"])
    with pytest.raises(ValueError, match="'ptb-xl'.*the package has challenge, code, ptbxl, synthetic"):
        label_descriptions("ptb-xl")


def test_own_descriptions(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"AF": " irregular ", "SB": ["slow", "slower than 60"]}))
    expected = {"AF": ["irregular"], "SB": ["slow", "slower than 60"]}
    assert label_descriptions(path) == label_descriptions(str(path)) == expected
    assert label_descriptions({"AF": "irregular", "SB": ("slow", "slower than 60")}) == expected
    path.write_text(json.dumps({"descriptions": {"AF": "irregular"}, "source": "me"}))
    assert label_descriptions(path) == {"AF": ["irregular"]}


def test_own_descriptions_may_leave_labels_out_but_not_mistype_them():
    names = [*(f"L{number}" for number in range(20)), "NORM", "AFIB"]
    own = {"AFIB": "irregular", "NORM": "normal"}
    assert list(label_descriptions(own, names, partial=True)) == ["NORM", "AFIB"]
    words = r"describes NROM \(did you mean NORM\?\), but the labels are L0, L1, L2, L3, L4 and 17 more"
    with pytest.raises(ValueError, match=words):
        label_descriptions({"NROM": "normal", "AFIB": "irregular"}, names, partial=True)
    with pytest.raises(ValueError, match="not L0, L1, L2, L3, L4 and 15 more. Write"):
        label_descriptions(own, names)
    with pytest.raises(ValueError, match="describes 6 labels, but not ABC"):
        label_descriptions("code", ["ABC", "AF"], partial=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no JSON file"),
        ("[1]", "object from label to text"),
        ("{}", "describes no label"),
        ('{"AF": 1}', "must describe 'AF'"),
        ('{"AF": []}', "must describe 'AF'"),
        ('{"AF": " "}', "must describe 'AF'"),
        ('{"AF": "a", "AF": "b"}', "AF more than once"),
    ],
)
def test_bad_files(tmp_path, content, words):
    path = tmp_path / "own.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=words):
        label_descriptions(path)
