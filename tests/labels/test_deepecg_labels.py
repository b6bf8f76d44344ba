import json

import pytest
from safetensors.torch import load_file

from ecg_transformers.labels import (
    biomarker_thresholds,
    deepecg_labels,
    deepecg_thresholds,
    describe_deepecg_head,
    group_thresholds,
    label_groups,
    threshold_sources,
)


@pytest.fixture(scope="module")
def facts(golden):
    return json.loads((golden / "deepecg_sl" / "labels" / "labels.json").read_text(encoding="utf-8"))


def test_the_outputs_are_named_in_each_models_order(golden, facts):
    assert deepecg_labels("deepecg_sl") == facts["efficientnet_output_order"]
    assert deepecg_labels("deepecg_ssl") == facts["wcr_raw_output_order"]
    folder = golden / "deepecg_sl" / "labels"
    raw = load_file(folder / "conversion.safetensors")
    named = json.loads((folder / "named_probabilities.json").read_text(encoding="utf-8"))["named"]
    for row, expected in zip(raw["wcr_raw_probabilities"].tolist(), named, strict=True):
        assert dict(zip(deepecg_labels("deepecg_ssl"), row, strict=True)) == expected
    for row, expected in zip(raw["wcr_reordered"].tolist(), named, strict=True):
        assert dict(zip(deepecg_labels("deepecg_sl"), row, strict=True)) == expected


def test_groups_and_thresholds_are_the_published_ones(facts):
    assert label_groups() == facts["categories"]
    final, own = facts["thresholds_77_tasks_final"], facts["wcr_thresholds"]
    for model_type, column in (("deepecg_sl", "SL_sens_spec_threshold"), ("deepecg_ssl", "SSL_sens_spec_threshold")):
        found = deepecg_thresholds(model_type, "77_tasks_final")
        assert found == {name: final.get(name, {}).get(column) for name in deepecg_labels(model_type)}
        biomarkers = facts["thresholds_digital_biomarker_final"]
        assert list(biomarker_thresholds(model_type).values()) == [entry[column] for entry in biomarkers.values()]
        groups = ("RHYTHM", "CONDUCTION", "CHAMBER ENLARGEMENT", "PERICARDITIS", "INFARCT, ISCHEMIA", "OTHER")
        published = [final[name][column] for name in groups]
        assert list(group_thresholds(model_type, "77_tasks_final").values()) == published
    assert deepecg_thresholds("deepecg_ssl") == {
        name: own[name]["threshold"] for name in deepecg_labels("deepecg_ssl")
    }
    assert group_thresholds("deepecg_ssl") == {name: own[name]["macro_threshold"] for name in label_groups()}


def test_the_numbers_without_the_reference_files():
    assert [len(names) for names in label_groups().values()] == [17, 18, 5, 1, 14, 23]
    listed = [name for names in label_groups().values() for name in names]
    assert {name for name in listed if listed.count(name) > 1} == {"ST depression (anterior - V3-V4)"}
    assert set(listed) == set(deepecg_labels("deepecg_sl")) == set(deepecg_labels("deepecg_ssl"))
    assert len(set(listed)) == 77
    gaps = {
        model_type: [name for name, value in deepecg_thresholds(model_type).items() if value is None]
        for model_type in ("deepecg_sl", "deepecg_ssl")
    }
    assert gaps == {"deepecg_sl": ["Acute pericarditis"], "deepecg_ssl": ["Brugada"]}
    assert group_thresholds("deepecg_sl")["Pericarditis"] == 0.004
    assert biomarker_thresholds("deepecg_sl")["LVEF <= 40 %"] == 0.197
    assert biomarker_thresholds("deepecg_ssl")["LVEF < 50 %"] == 0.032


def test_what_is_returned_may_be_changed():
    label_groups()["Pericarditis"].append("mine")
    deepecg_labels("deepecg_sl").clear()
    deepecg_thresholds("deepecg_sl").clear()
    assert label_groups()["Pericarditis"] == ["Acute pericarditis"]
    assert len(deepecg_labels("deepecg_sl")) == len(deepecg_thresholds("deepecg_sl")) == 77


def test_the_fields_of_a_head_of_77_outputs():
    fields, notes = describe_deepecg_head("deepecg_ssl", 77)
    assert list(fields["id2label"].values()) == deepecg_labels("deepecg_ssl") == list(fields["label2id"])
    assert fields["thresholds"] == deepecg_thresholds("deepecg_ssl")
    assert fields["threshold_criterion"] == "youden" and "wcr_77_classes" in fields["threshold_source"]
    assert fields["label_groups"] == label_groups()
    assert len(notes) == 1 and "Brugada" in notes[0]
    shuffled = deepecg_labels("deepecg_sl")[::-1]
    fields, _ = describe_deepecg_head("deepecg_sl", 77, shuffled)
    assert list(fields["thresholds"]) == shuffled and fields["thresholds"] == deepecg_thresholds("deepecg_sl")
    own, notes = describe_deepecg_head("deepecg_sl", 77, [f"mine {index}" for index in range(77)])
    assert "thresholds" not in own and "label_groups" not in own and not notes


def test_the_fields_of_other_heads():
    fields, notes = describe_deepecg_head("deepecg_sl", 1, checkpoint_name="efficientnetv2_lvef_under_50")
    assert fields["id2label"] == {0: "LVEF < 50 %"} and fields["thresholds"] == {"LVEF < 50 %": 0.268}
    assert "LVEF < 50 %" in notes[0]
    fields, notes = describe_deepecg_head("deepecg_ssl", 1, ["LVEF < 50 %"], "wcr_afib_5y")
    assert fields["thresholds"] == {"LVEF < 50 %": 0.032} and not notes
    for name in (None, "wcr_afib_5y", "checkpoint"):
        fields, notes = describe_deepecg_head("deepecg_sl", 1, checkpoint_name=name)
        assert fields["id2label"] == {0: "LABEL_0"} and "thresholds" not in fields and "label_names" in notes[0]
    fields, _ = describe_deepecg_head("deepecg_sl", 3, ["a", "b", "c"])
    assert fields["label2id"] == {"a": 0, "b": 1, "c": 2} and "thresholds" not in fields


def test_what_does_not_exist_is_named():
    with pytest.raises(ValueError, match="'hubert_ecg'"):
        deepecg_labels("hubert_ecg")
    with pytest.raises(ValueError, match="'wcr_77_classes'"):
        deepecg_thresholds("deepecg_sl", "wcr_77_classes")
    assert threshold_sources("deepecg_ssl") == ["wcr_77_classes", "77_tasks_final"]
    assert threshold_sources("deepecg_sl") == ["77_tasks_final"]
    with pytest.raises(ValueError, match="77 labels.*2 names"):
        describe_deepecg_head("deepecg_sl", 77, ["a", "b"])
    with pytest.raises(ValueError, match="2 names, 1 of them different"):
        describe_deepecg_head("deepecg_sl", 2, ["a", "a"])
