import json

import pytest
import torch
from deepecg_sl_reference import Network, calibrate, randomize
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification

from ecg_transformers import DeepECGSLConfig, DeepECGSLForSequenceClassification, DeepECGSLModel, ECGFeatureExtractor
from ecg_transformers.conversion import CheckpointConversionError, convert_checkpoint
from ecg_transformers.labels import deepecg_labels, deepecg_thresholds, label_groups

SMALL = {"channels": (5, 5, 6, 8, 8, 10, 12, 14), "depths": (1, 1, 1, 2, 1, 1, 2)}


def ecg(records=3, samples=400, seed=0):
    return torch.randn(records, 12, samples, generator=torch.Generator().manual_seed(seed)) * 50


@pytest.fixture(scope="module")
def network():
    return calibrate(randomize(Network("s_v2", num_labels=77, **SMALL), seed=1), ecg())


def check(folder, network):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert type(model) is DeepECGSLForSequenceClassification
    with torch.no_grad():
        torch.testing.assert_close(model(ecg()).logits, network(ecg()), atol=1e-5, rtol=1e-5)
    return model


def test_a_state_dictionary(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "efficientnetv2_77.pt")
    notes = []
    convert_checkpoint(tmp_path / "efficientnetv2_77.pt", tmp_path / "model", on_note=notes.append)
    model = check(tmp_path / "model", network)
    assert {file.name for file in (tmp_path / "model").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert "license: unknown" in (tmp_path / "model" / "README.md").read_text()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == deepecg_labels("deepecg_sl")
    assert config["thresholds"] == deepecg_thresholds("deepecg_sl")
    assert config["thresholds"]["Acute pericarditis"] is None
    assert config["threshold_criterion"] == "youden" and config["label_groups"] == label_groups()
    assert config["threshold_source"] == "thresholds/77_tasks_final.json"
    assert model.config.problem_type == "multi_label_classification"
    assert any("Acute pericarditis" in note for note in notes)
    assert any("no published variant" in note and "[1, 1, 2, 2, 2, 2]" in note for note in notes)
    extractor = ECGFeatureExtractor.from_pretrained(tmp_path / "model")
    assert extractor.to_dict() == ECGFeatureExtractor.for_model_type("deepecg_sl").to_dict()


@pytest.mark.parametrize("kind", ["scripted", "traced", "traced in a wrapper"])
def test_torchscript(kind, network, tmp_path):
    if kind == "scripted":
        program = torch.jit.script(network)
    elif kind == "traced":
        program = torch.jit.trace(network, ecg(1))
    else:
        program = torch.jit.trace(Wrapper(network).eval(), ecg(1))
    program.save(tmp_path / "network.pt")
    convert_checkpoint(tmp_path / "network.pt", tmp_path / "model")
    check(tmp_path / "model", network)
    with torch.no_grad():
        torch.testing.assert_close(network(ecg(seed=3)), torch.jit.load(tmp_path / "network.pt")(ecg(seed=3)))
    assert not list((tmp_path / "model").glob("*.py"))


class Wrapper(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.model = network

    def forward(self, x):
        return self.model(x)


class NewHead(nn.Module):
    """What takes the place of the head in the variant for fine-tuning."""

    def __init__(self, labels, second=False):
        super().__init__()
        self.fc1 = nn.Linear(14, labels)
        if second:
            self.fc2 = nn.Linear(labels, labels)

    def forward(self, x):
        return self.fc1(x.mean(-1))


def test_a_module_pickled_whole_with_a_new_head(network, tmp_path):
    whole = Network("s_v2", num_labels=77, **SMALL)
    whole.load_state_dict(network.state_dict())
    whole.eval().classifier = NewHead(1).eval()
    torch.save(whole, tmp_path / "efficientnetv2_lvef_equal_under_40.pt")
    notes = []
    source = tmp_path / "efficientnetv2_lvef_equal_under_40.pt"
    convert_checkpoint(source, tmp_path / "model", on_note=notes.append)
    model = check(tmp_path / "model", whole)
    assert model.config.id2label == {0: "LVEF <= 40 %"} and model.config.thresholds == {"LVEF <= 40 %": 0.197}
    assert "label_groups" not in json.loads((tmp_path / "model" / "config.json").read_text())
    assert any("LVEF <= 40 %" in note for note in notes)
    named = tmp_path / "named"
    convert_checkpoint(source, named, label_names=["ejection fraction"])
    config = json.loads((named / "config.json").read_text())
    assert config["id2label"] == {"0": "ejection fraction"} and "thresholds" not in config


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_module_tells_its_strides_and_constants(wrapped, tmp_path):
    strides = (2, 2, 1, 3, 1, 2)
    # All stages alike: only the strides tell where one begins
    alike = {"channels": (6,) * 7 + (14,), "kernels": (3,) * 6, "expansions": (1, 2, 2, 2, 2, 2), "depths": (1,) * 7}
    plain = Network("b1_v1", num_labels=3, strides=strides, eps=1e-2, **(SMALL if wrapped else alike))
    network = calibrate(randomize(plain, seed=4), ecg())
    torch.save(Wrapper(network) if wrapped else network, tmp_path / "network.pt")
    if not wrapped:
        with pytest.raises(CheckpointConversionError, match="form 2 stages"):
            torch.save(network.state_dict(), tmp_path / "state.pt")
            convert_checkpoint(tmp_path / "state.pt", tmp_path / "other")
    notes = []
    convert_checkpoint(tmp_path / "network.pt", tmp_path / "model", on_note=notes.append)
    model = check(tmp_path / "model", network)
    assert model.config.batch_norm_eps == 1e-2 and not any("taken to be" in note for note in notes)
    if wrapped:
        assert model.config.stem_stride == 2 and model.config.stage_strides == list(strides)
    network.features[0].expand_conv[2].negative_slope = 0.2
    torch.save(network, tmp_path / "slope.pt")
    with pytest.raises(CheckpointConversionError, match="slopes"):
        convert_checkpoint(tmp_path / "slope.pt", tmp_path / "other")


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.backbone."])
def test_names_of_a_wrapper(prefix, network, tmp_path):
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    torch.save({"model_state_dict": state, "epoch": 3}, tmp_path / "network.pt")
    convert_checkpoint(tmp_path / "network.pt", tmp_path / "model")
    check(tmp_path / "model", network)


def test_a_folder_with_the_originals_configuration(tmp_path):
    strides = (1, 2, 1, 2, 2, 1)
    network = calibrate(randomize(Network("b0_v1", num_labels=3, strides=strides, **SMALL), seed=2), ecg())
    folder = tmp_path / "source"
    folder.mkdir()
    save_file(network.state_dict(), folder / "weights.safetensors")
    config = {"strides": [*strides, 2, 2], "stochastic_depth_prob": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    convert_checkpoint(folder, tmp_path / "model", label_names=["a", "b", "c"])
    model = check(tmp_path / "model", network)
    assert model.config.stage_strides == list(strides) and model.config.drop_path_rate == 0.1
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}


def test_without_a_head(network, tmp_path):
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("classifier")}
    torch.save(state, tmp_path / "backbone.pt")
    convert_checkpoint(tmp_path / "backbone.pt", tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert type(model) is DeepECGSLModel
    with torch.no_grad():
        features = network.final_norm(network.final_conv(network.features(network.initial_conv(ecg()))))
        torch.testing.assert_close(model(ecg()).last_hidden_state, features, atol=1e-4, rtol=1e-5)
    with pytest.raises(CheckpointConversionError, match="no classification head"):
        convert_checkpoint(tmp_path / "backbone.pt", tmp_path / "other", label_names=["a"])


def test_weights_in_half_precision(network, tmp_path):
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "network.pt")
    convert_checkpoint(tmp_path / "network.pt", tmp_path / "model")
    written = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.float16, torch.int64}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ecg()).logits, network(ecg()), atol=0.05, rtol=0.02)


def altered(state, case):
    state = dict(state)
    if case == "a block is gone":
        return {name: value for name, value in state.items() if not name.startswith("features.3.")}
    if case == "a weight is gone":
        del state["features.5.se.se.3.bias"]
    elif case == "a weight is foreign":
        state["features.5.attention.weight"] = torch.zeros(2)
    elif case == "another network beside it":
        state["ema.initial_conv.0.weight"] = state["initial_conv.0.weight"]
    elif case == "two layers in the head":
        state["classifier.fc2.weight"], state["classifier.fc2.bias"] = torch.zeros(2, 77), torch.zeros(2)
    elif case == "no multiple":
        name = next(name for name in state if name.endswith("expand_conv.0.weight"))
        state[name] = state[name][:-1]
    elif case == "no ratio":
        state["features.0.se.se.1.weight"] = torch.zeros(4, 5, 1)
        state["features.0.se.se.1.bias"], state["features.0.se.se.3.weight"] = torch.zeros(4), torch.zeros(5, 4, 1)
    elif case == "two dimensions":
        state["initial_conv.0.weight"] = torch.zeros(5, 12, 3, 3)
    elif case == "another depth":
        state["final_norm.norm.weight"] = torch.zeros(3)
    elif case == "not finite":
        state["final_conv.bias"] = torch.full((14,), torch.nan)
    elif case == "five stages":
        blocks = max(int(name.split(".")[1]) for name in state if name.startswith("features.")) + 1
        last_stage = tuple(f"features.{number}." for number in range(blocks - 4, blocks))
        return {name: value for name, value in state.items() if not name.startswith(last_stage)}
    return state


@pytest.mark.parametrize(
    "case, message",
    [
        ("a block is gone", "not 0, 1, 2"),
        ("a weight is gone", "missing: .*blocks.*squeeze_excite.expand.bias"),
        ("a weight is foreign", "no place for `features.5.attention.weight`"),
        ("another network beside it", "ema.initial_conv|besides the network"),
        ("two layers in the head", "is not DeepECG-SL's, one linear layer"),
        ("no multiple", "which is no multiple"),
        ("no ratio", "no ratio explains the squeeze-excite of stage 0"),
        ("two dimensions", "initial_conv.0.weight"),
        ("another depth", r"final.norm.weight \(3,\) instead of \(14,\)"),
        ("not finite", "NaN or infinite"),
        ("five stages", "form 5 stages.*`strides`"),
    ],
)
def test_what_does_not_fit_is_an_error(case, message, network, tmp_path):
    torch.save(altered(network.state_dict(), case), tmp_path / "network.pt")
    with pytest.raises(CheckpointConversionError, match=message):
        convert_checkpoint(tmp_path / "network.pt", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_labels_that_do_not_fit(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "network.pt")
    with pytest.raises(CheckpointConversionError, match="77 labels.*2 names"):
        convert_checkpoint(tmp_path / "network.pt", tmp_path / "model", label_names=["a", "b"])


def test_our_own_folder_keeps_what_it_says(tmp_path):
    config = DeepECGSLConfig(stage_depths=[1] * 6, num_labels=2, problem_type="multi_label_classification")
    config.thresholds, config.eval_windows = {"LABEL_0": 0.2, "LABEL_1": None}, "all"
    model = DeepECGSLForSequenceClassification(config)
    model.save_pretrained(tmp_path / "ours")
    convert_checkpoint(tmp_path / "ours", tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["thresholds"] == config.thresholds and written["eval_windows"] == "all"
