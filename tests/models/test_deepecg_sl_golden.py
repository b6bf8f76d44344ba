"""DeepECG-SL against the numbers of the original code."""

import json

import pytest
import torch
from deepecg_sl_reference import Network
from safetensors.torch import load_file

from ecg_transformers import DeepECGSLConfig, DeepECGSLForSequenceClassification
from ecg_transformers.checkpoint_sources import SourceCheckpoint
from ecg_transformers.conversion import convert_checkpoint
from ecg_transformers.models.deepecg_sl.convert_deepecg_sl import convert


@pytest.fixture(scope="module")
def case(golden):
    return golden / "deepecg_sl" / "efficientnet_state_dict"


@pytest.fixture(scope="module")
def model(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(case / "state_dict.pt", folder)
    return DeepECGSLForSequenceClassification.from_pretrained(folder).eval()


def test_the_reference_of_the_other_tests_is_the_original(case):
    facts = json.loads((case / "case.json").read_text())["config"]
    network = Network(facts["variant"], facts["num_classes"], facts["base_channels"], facts["base_depths"]).eval()
    network.load_state_dict(torch.load(case / "state_dict.pt", weights_only=True))
    ecg = load_file(case / "inputs.safetensors")["ecg"] * (1 / 0.0048)
    with torch.no_grad():
        logits = network(ecg)
    torch.testing.assert_close(logits, load_file(case / "outputs.safetensors")["logits"], atol=1e-4, rtol=0)


def test_converted_weights_give_the_originals_numbers(case, model):
    ecg = load_file(case / "inputs.safetensors")["ecg"] * (1 / 0.0048)
    expected = load_file(case / "outputs.safetensors")
    for mask in (None, torch.ones(2, 2500, dtype=torch.long)):
        with torch.no_grad():
            outputs = model.deepecg_sl(ecg, attention_mask=mask, output_hidden_states=True)
            logits = model(ecg, attention_mask=mask).logits
        stem = outputs.hidden_states[0]
        torch.testing.assert_close(stem.mean((0, 2)), expected["after_initial_conv_mean"], atol=1e-4, rtol=0)
        torch.testing.assert_close(outputs.hidden_states[-1], expected["after_features"], atol=1e-3, rtol=0)
        torch.testing.assert_close(outputs.pooler_output, expected["pooled"], atol=1e-4, rtol=0)
        torch.testing.assert_close(model.deepecg_sl.get_ecg_features(ecg, mask), expected["pooled"], atol=1e-4, rtol=0)
        torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)


def test_the_published_network_has_the_originals_parameters(case):
    architecture = json.loads((case / "architecture_s_v2_77.json").read_text())
    tensors = {
        entry["name"]: torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"]))
        for entry in architecture["state_dict"]
    }
    assert len(tensors) == architecture["n_state_dict_entries"]
    found = convert(SourceCheckpoint(case / "architecture_s_v2_77.json", None, tensors))
    assert found.config.to_dict() | {"transformers_version": None} == DeepECGSLConfig(
        id2label=found.config.id2label,
        label2id=found.config.label2id,
        problem_type="multi_label_classification",
        thresholds=found.config.thresholds,
        threshold_criterion="youden",
        threshold_source=found.config.threshold_source,
        label_groups=found.config.label_groups,
    ).to_dict() | {"transformers_version": None}
    assert found.notes[0] == "The network is the variant s_v2."
    network = DeepECGSLForSequenceClassification(found.config)
    state = network.state_dict()
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    assert sum(parameter.numel() for parameter in network.parameters()) == architecture["parameter_count"] == 6459979
    assert sum(buffer.numel() for buffer in network.buffers()) == architecture["buffer_count"]
    reference = {name: list(tensor.shape) for name, tensor in Network().state_dict().items()}
    assert reference == {entry["name"]: entry["shape"] for entry in architecture["state_dict"]}
