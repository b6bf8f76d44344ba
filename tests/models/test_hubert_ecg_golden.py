"""The numbers of the original HuBERT-ECG code, recorded in shared/golden."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

import ecg_transformers  # noqa: F401
from ecg_transformers import HubertECGForPreTraining, HubertECGModel

FOLDERS = ("hub_checkpoint", "hub_checkpoint_old_keys", "hub_checkpoint_other_kernels")


def open_case(golden, name):
    folder = golden / "hubert_ecg" / name
    case = json.loads((folder / "case.json").read_text())
    return folder, load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors"), case["atol"]


def tail_mask(attention_mask):
    """Move the zeros of each row to its end, where counting (the original) and looking (ours) agree."""
    return attention_mask.long().sort(dim=1, descending=True).values


def assert_close(actual, expected, atol, rows=slice(None)):
    torch.testing.assert_close(actual[rows], expected[rows], atol=atol, rtol=0)


@pytest.mark.parametrize("name", FOLDERS)
def test_backbone_without_mask(golden, name):
    folder, inputs, outputs, atol = open_case(golden, name)
    model, info = AutoModel.from_pretrained(
        folder / "checkpoint", attn_implementation="eager", output_loading_info=True
    )
    assert type(model) is HubertECGModel
    assert not any(info.values())
    with torch.no_grad():
        result = model(inputs["input_values"], output_hidden_states=True, output_attentions=True)
    assert_close(result.last_hidden_state, outputs["last_hidden_state"], atol)
    assert len(result.hidden_states) == model.config.num_hidden_layers + 1
    for index, hidden_states in enumerate(result.hidden_states):
        if f"hidden_states.{index}" in outputs:
            assert_close(hidden_states, outputs[f"hidden_states.{index}"], atol)
    if "attentions_last_layer" in outputs:
        assert_close(result.attentions[-1][:1], outputs["attentions_last_layer"], atol)


@pytest.mark.parametrize("name", FOLDERS)
def test_backbone_with_mask(golden, name):
    # The last record of the larger cases has a mask of zeros only, where the original keeps 92 of 93 tokens by an
    # index that wraps around; here such a record has no real token.
    folder, inputs, outputs, atol = open_case(golden, name)
    mask = tail_mask(inputs["attention_mask"])
    rows = mask.any(dim=1)
    model = AutoModel.from_pretrained(folder / "checkpoint", attn_implementation="eager")
    assert torch.equal(model.get_token_mask(mask)[rows], outputs["masked.token_mask"][rows].bool())
    assert not model.get_token_mask(mask)[~rows].any()
    with torch.no_grad():
        result = model(inputs["input_values"], attention_mask=mask, output_hidden_states=True, output_attentions=True)
    assert result.last_hidden_state.isfinite().all()
    assert_close(result.last_hidden_state, outputs["masked.last_hidden_state"], atol, rows)
    for index, hidden_states in enumerate(result.hidden_states):
        if f"masked.hidden_states.{index}" in outputs:
            assert_close(hidden_states, outputs[f"masked.hidden_states.{index}"], atol, rows)
    if "masked.attentions_last_layer" in outputs:
        assert_close(result.attentions[-1][1:2], outputs["masked.attentions_last_layer"], atol)


@pytest.mark.parametrize("name", FOLDERS)
def test_codebook_logits(golden, name):
    folder, inputs, outputs, atol = open_case(golden, name)
    mask = tail_mask(inputs["attention_mask"])
    model, info = AutoModelForPreTraining.from_pretrained(folder / "checkpoint", output_loading_info=True)
    assert type(model) is HubertECGForPreTraining
    assert not any(info.values())
    with torch.no_grad():
        plain = model(inputs["input_values"]).logits
        masked = model(inputs["input_values"], attention_mask=mask).logits
    assert len(plain) == model.config.ensemble_length
    for index in range(len(plain)):
        assert_close(plain[index], outputs[f"codebook_logits.{index}"], atol)
        assert_close(masked[index], outputs[f"masked.codebook_logits.{index}"], atol, mask.any(dim=1))


@pytest.mark.parametrize("case", ["without_attention_mask", "with_attention_mask"])
@pytest.mark.parametrize("alpha", ["1.0", "0.5"])
def test_masked_prediction(golden, case, alpha):
    folder, inputs, outputs, atol = open_case(golden, "masked_prediction")
    recorded = json.loads((folder / "losses.json").read_text())[case]
    model = AutoModelForPreTraining.from_pretrained(folder / "checkpoint", alpha=float(alpha))
    labels = inputs["targets"].transpose(0, 1)
    arguments = {"input_values": inputs["input_values"], "mask_time_indices": inputs["mask_time_indices"]}
    prefix = ""
    if case == "with_attention_mask":
        arguments["attention_mask"] = tail_mask(inputs["attention_mask"])
        prefix = "with_attention_mask."
    result = model(labels=labels, output_hidden_states=True, **arguments)
    result.loss.backward()

    assert_close(result.hidden_states[-1], outputs[prefix + "last_hidden_state"], atol)
    for index, logits in enumerate(result.logits):
        assert_close(logits, outputs[f"{prefix}logits.{index}"], atol)
    for name in ("loss", "masked_loss", "unmasked_loss"):
        assert getattr(result, name).item() == pytest.approx(recorded[alpha][name], rel=1e-5)
    gradients = {
        name.removeprefix("hubert_ecg."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    for name, norm in recorded[alpha]["grad_l2_norm"].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4), name
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert total == pytest.approx(recorded[alpha]["grad_l2_norm_all"], rel=1e-4)

    # The loss by which the original validates: without hiding anything in the loss, all tokens count
    per_member = [
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, index].flatten())
        for index, logits in enumerate(result.logits)
    ]
    assert sum(per_member).item() == pytest.approx(recorded["loss_over_all_tokens"], rel=1e-5)


def test_remote_code_is_neither_run_nor_asked_for(golden, tmp_path, monkeypatch):
    folder, inputs, outputs, atol = open_case(golden, "hub_checkpoint")
    copy = tmp_path / "published"
    shutil.copytree(folder / "checkpoint", copy)
    copy.chmod(0o755)
    (copy / "hubert_ecg.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit(3)\n")
    assert "auto_map" in json.loads((copy / "config.json").read_text())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked a question"))
    for options in ({}, {"trust_remote_code": False}, {"trust_remote_code": True}):
        model = AutoModel.from_pretrained(copy, **options)
        assert type(model) is HubertECGModel
    assert not (tmp_path / "ran").exists()
    with torch.no_grad():
        assert_close(model(inputs["input_values"]).last_hidden_state, outputs["last_hidden_state"], atol)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForPreTraining])
def test_saving_a_published_checkpoint_leaves_a_whole_folder(golden, tmp_path, name, auto_class):
    folder, *_ = open_case(golden, name)
    model = auto_class.from_pretrained(folder / "checkpoint")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "auto_map" not in config
    assert config["architectures"] == [type(model).__name__]
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    again, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == model.config.to_diff_dict()


def test_old_names_can_be_written_back(golden, tmp_path):
    folder, *_ = open_case(golden, "hub_checkpoint_old_keys")
    model = AutoModel.from_pretrained(folder / "checkpoint")
    model.save_pretrained(tmp_path, save_original_format=True)
    assert any(key.endswith(".weight_g") for key in load_file(tmp_path / "model.safetensors"))
