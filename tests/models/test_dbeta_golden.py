"""The numbers of the original D-BETA code, recorded in shared/golden."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining

from ecg_transformers import DBetaForPreTraining, DBetaModel, convert_checkpoint
from ecg_transformers.models.dbeta.convert_dbeta import our_name

CASES = ("checkpoint", "checkpoint_mask_emb")


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    """Folders of ours by the name of the case."""
    folders = {}

    def convert(name):
        if name not in folders:
            destination = tmp_path_factory.mktemp("dbeta") / name
            folders[name] = convert_checkpoint(golden / "dbeta" / name, destination)
        return folders[name]

    return convert


def open_case(golden, name):
    folder = golden / "dbeta" / name
    case = json.loads((folder / "case.json").read_text())
    inputs, outputs = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    inputs["ecg"] = inputs["ecg"].float()
    return inputs, outputs, case["atol"]


def assert_close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_conversion_uses_every_weight(golden, converted, name):
    model, info = AutoModelForPreTraining.from_pretrained(converted(name), output_loading_info=True)
    assert type(model) is DBetaForPreTraining
    assert not any(info.values())
    original = torch.load(golden / "dbeta" / name / "checkpoint.pt", weights_only=True)["model"]
    ours = model.state_dict()
    used = set()
    for key, value in original.items():
        if ".in_proj_" in key:
            parts = [our_name(key).replace("in_proj_", f"{part}_proj.") for part in "qkv"]
            assert torch.equal(value, torch.cat([ours[part] for part in parts])), key
            used.update(parts)
        elif key not in ("ecg_encoder.mask_emb", "mim_head.decoder_pos_embed.pe"):
            assert torch.equal(value, ours[our_name(key)]), key
            used.add(our_name(key))
    assert used == set(ours)


@pytest.mark.parametrize("name", CASES)
def test_features(golden, converted, name):
    inputs, outputs, atol = open_case(golden, name)
    model = AutoModel.from_pretrained(converted(name))
    assert type(model) is DBetaModel
    ecg, ids, mask = inputs["ecg"], inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        assert_close(model.ecg_encoder.embed(ecg), outputs["embeddings"], atol)
        if "conv_features" in outputs:
            assert_close(model.ecg_encoder.feature_extractor(ecg), outputs["conv_features"], atol)
            hidden_states = model.ecg_encoder(ecg, model.class_embedding).last_hidden_state
            assert_close(hidden_states, outputs["encoder_output"], atol)
            assert_close(model.ecg_projection(hidden_states), outputs["projected"], atol)
            assert_close(model.text_encoder(ids).last_hidden_state, outputs["text_hidden_no_mask"], atol)
            hidden_states = model.text_encoder(ids, attention_mask=mask).last_hidden_state
            assert_close(hidden_states, outputs["text_hidden_with_mask"], atol)
        assert_close(model.get_ecg_features(ecg), outputs["ecg_pooled"], atol)
        assert_close(model.get_text_features(ids), outputs["text_pooled_no_mask"], atol)
        assert_close(model.get_text_features(ids, mask), outputs["text_pooled_with_mask"], atol)
        alone = [model.get_text_features(row[None, : length.sum()]) for row, length in zip(ids, mask, strict=True)]
        assert_close(torch.cat(alone), outputs["text_pooled_notebook"], atol)

        result = model(input_values=ecg, input_ids=ids, text_attention_mask=mask)
        assert_close(result.ecg_embeds, outputs["ecg_pooled"], atol)
        assert_close(result.text_embeds, outputs["text_pooled_notebook"], atol)
        assert_close(result.logits_per_ecg, outputs["similarity"], atol)
        assert torch.equal(result.logits_per_text, result.logits_per_ecg.T)

        as_original = AutoModel.from_pretrained(converted(name), text_encoder_uses_mask=False)
        result = as_original(input_ids=ids, text_attention_mask=mask)
        assert_close(result.text_embeds, outputs["text_pooled_no_mask"], atol)


def test_joint_forward(golden, converted):
    inputs, outputs, atol = open_case(golden, "joint_forward")
    model = AutoModelForPreTraining.from_pretrained(converted("joint_forward"), text_encoder_uses_mask=False)
    arguments = {
        "input_values": inputs["ecg"],
        "input_ids": inputs["input_ids"],
        "text_attention_mask": inputs["text_attention_mask"],
    }
    nothing_padded = {"attention_mask": torch.ones(2, 5000)}
    with torch.no_grad():
        for extra in ({}, nothing_padded):
            result = model.dbeta(**arguments, **extra, return_fusion=True)
            assert_close(result.text_embeds, outputs["uni_modal_text_feats"], atol)
            assert_close(result.ecg_embeds, outputs["uni_modal_ecg_feats"], atol)
            assert_close(result.multi_modal_text_hidden_states, outputs["multi_modal_text_feats"], atol)
            assert_close(result.multi_modal_ecg_hidden_states, outputs["multi_modal_ecg_feats"], atol)
            assert_close(result.multi_modal_embeds, outputs["multi_modal_cls_feats"], atol)
            result = model(**arguments, **extra, mask_ecg=False)
            assert_close(result.etm_logits, outputs["etm_logits"], atol)
            assert result.mem_logits is None


@pytest.mark.parametrize("training", [False, True])
def test_pretraining(golden, converted, training):
    inputs, outputs, atol = open_case(golden, "pretraining")
    recorded = json.loads((golden / "dbeta" / "pretraining" / "losses.json").read_text())
    model = DBetaForPreTraining.from_pretrained(converted("pretraining"), text_encoder_uses_mask=False)
    if training:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        model.train()
    result = model(
        inputs["ecg"],
        inputs["input_ids"],
        text_attention_mask=inputs["text_attention_mask"],
        labels=inputs["mlm_labels"],
        is_aligned=inputs["is_aligned"],
        noise=inputs["noise"],
    )
    for name, theirs in (
        ("ecg_embeds", "uni_modal_ecg_feats"),
        ("text_embeds", "uni_modal_text_feats"),
        ("multi_modal_embeds", "multi_modal_cls_feats"),
        ("mem_logits", "mem_logits"),
        ("mlm_logits", "mlm_logits"),
        ("etm_logits", "etm_logits"),
        ("mem_mask", "mem_masks"),
        ("mem_ids_restore", "mem_ids_restore"),
    ):
        assert_close(getattr(result, name), outputs[theirs], atol)
    targets = model.get_mem_targets(inputs["ecg"])
    assert_close(targets[0, :64], outputs["mem_target_record0_first64"], atol)
    assert_close(targets.mean((1, 2)), outputs["mem_target_mean_per_record"], atol)
    assert_close(targets.flatten(1).std(1), outputs["mem_target_std_per_record"], atol)
    assert_close(result.mem_logits[0, :4].flatten(1), outputs["mem_logits_flat_record0_first4"], atol)

    for name, value in recorded["losses"].items():
        loss = result.loss if name == "total" else result[f"{name}_loss"]
        assert loss.item() == pytest.approx(value, rel=1e-5), name
    result.loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    for key, norm in recorded["grad_l2_norms_of_total"].items():
        names = [our_name(key)]
        if ".in_proj_" in key:
            names = [names[0].replace("in_proj_", f"{part}_proj.") for part in "qkv"]
        assert math.hypot(*(norms[name] for name in names)) == pytest.approx(norm, rel=1e-3), key
    assert not recorded["parameters_without_gradient"]
    assert all(norm > 0 for name, norm in norms.items() if not name.endswith("k_proj.bias")), norms
