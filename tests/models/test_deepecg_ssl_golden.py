"""The numbers of the original DeepECG-SSL code, recorded in shared/golden."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification

from ecg_transformers import convert_checkpoint

CLASSIFIERS = ("finetuned_classifier", "attn_classifier")


def open_case(golden, name):
    folder = golden / "deepecg_ssl" / name
    case = json.loads((folder / "case.json").read_text())
    inputs = load_file(folder / "inputs.safetensors")
    inputs["ecg"] = inputs["ecg"].float()
    inputs["attention_mask"] = 1 - inputs["padding_mask"].long()
    return folder, inputs, load_file(folder / "outputs.safetensors"), case["atol"]


def assert_close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("file", ["checkpoint.pt", "checkpoint_dictconfig.pt"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_frame_features(golden, tmp_path, file, attention):
    folder, inputs, outputs, atol = open_case(golden, "pretrained_checkpoint")
    convert_checkpoint(folder / file, tmp_path / "model")
    model = AutoModel.from_pretrained(tmp_path / "model", attn_implementation=attention)
    with torch.no_grad():
        plain = model(inputs["ecg"])
        padded = model(inputs["ecg"], attention_mask=inputs["attention_mask"])
        whole = model(inputs["ecg"], attention_mask=torch.ones_like(inputs["attention_mask"]))
        assert_close(plain.last_hidden_state, outputs["x_no_padding_mask"], atol)
        assert_close(plain.extract_features, outputs["conv_features"], atol)
        assert_close(padded.last_hidden_state, outputs["x_with_padding_mask"], atol)
        assert_close(whole.last_hidden_state, outputs["x_no_padding_mask"], atol)
        assert torch.equal(model.get_token_mask(inputs["attention_mask"]), ~outputs["frame_padding_mask"])
        assert_close(model.get_ecg_features(inputs["ecg"]), outputs["mean_pooled_no_padding_mask"], atol)
        pooled = model.get_ecg_features(inputs["ecg"], inputs["attention_mask"])
        assert_close(pooled, outputs["mean_pooled_with_padding_mask"], atol)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_classifiers(golden, tmp_path, name, attention):
    folder, inputs, outputs, atol = open_case(golden, name)
    convert_checkpoint(folder / "checkpoint.pt", tmp_path / "model")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", attn_implementation=attention)
    with torch.no_grad():
        plain = model(inputs["ecg"]).logits
        padded = model(inputs["ecg"], attention_mask=inputs["attention_mask"]).logits
        tokens = model.deepecg_ssl(inputs["ecg"], attention_mask=inputs["attention_mask"]).last_hidden_state
    assert_close(plain, outputs["logits_no_padding_mask"], atol)
    assert_close(padded, outputs["logits_with_padding_mask"], atol)
    assert_close(padded.sigmoid(), outputs["probabilities_with_padding_mask"], atol)
    token_mask = model.get_token_mask(inputs["attention_mask"])
    assert torch.equal(token_mask, ~outputs["frame_padding_mask"])
    assert_close(tokens.masked_fill(~token_mask[..., None], 0.0), outputs["encoder_out_with_padding_mask"], atol)


def open_pretraining(golden, tmp_path):
    folder, inputs, outputs, atol = open_case(golden, "pretraining")
    convert_checkpoint(folder / "checkpoint.pt", tmp_path / "model")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    masked = inputs["mask_indices"]
    records, tokens = masked.shape[0], int(masked[0].sum())
    # The original numbers the masked tokens of all records
    negatives = inputs["negative_indices"].reshape(records, tokens, -1) - tokens * torch.arange(records)[:, None, None]
    arguments = {
        "input_values": inputs["ecg"],
        "attention_mask": inputs["attention_mask"],
        "mask_time_indices": masked,
        "negative_indices": negatives,
        "patient_ids": inputs["patient_id"],
        "segments": inputs["segment"],
    }
    recorded = json.loads((folder / "losses.json").read_text())
    return model, arguments, outputs, atol, recorded


def test_pretraining_outputs(golden, tmp_path):
    model, arguments, outputs, atol, _ = open_pretraining(golden, tmp_path)
    with torch.no_grad():
        result = model(**arguments)
    logits = result.contrastive_logits.transpose(0, 1).flatten(0, 1)
    assert torch.equal(logits.isneginf(), outputs["contrastive_logits"].isneginf())
    assert logits.isneginf().sum() == 492
    assert_close(logits, outputs["contrastive_logits"], atol)
    assert torch.equal(result.code_indices, outputs["quantized_targets"])
    assert_close(result.pooled_states, outputs["aggregated_features"], atol)
    assert_close(result.cmsc_logits, outputs["cmsc_logits"], atol)
    assert_close(result.feature_penalty[None], outputs["extra_features_pen"], atol)
    assert_close(result.last_hidden_state[:, :16], outputs["features_first16_frames"], atol)


def test_pretraining_losses_and_gradients(golden, tmp_path):
    model, arguments, _, _, recorded = open_pretraining(golden, tmp_path)
    losses = recorded["losses"]
    result = model(**arguments)
    size = result.num_masked.item()
    assert size == losses["sample_size"] == losses["count"]
    weights = model.config.diversity_loss_weight, model.config.feature_penalty_weight
    for found, expected in (
        (result.contrastive_loss * size, "infonce_sum"),
        (result.contrastive_loss, "infonce_mean"),
        (result.diversity_loss, "diversity_raw"),
        (result.diversity_loss * weights[0] * size, "diversity_weighted_times_sample_size"),
        (result.feature_penalty, "feature_penalty_raw"),
        (result.feature_penalty * weights[1] * size, "feature_penalty_weighted_times_sample_size"),
        (result.cmsc_loss, "cmsc_raw"),
        (result.cmsc_loss * size, "cmsc_times_sample_size"),
        (result.loss * size, "total"),
        (result.loss, "total_per_sample_size"),
        (result.prob_perplexity, "prob_perplexity"),
        (result.code_perplexity, "code_perplexity"),
        (result.contrastive_accuracy * size, "correct"),
    ):
        assert found.item() == pytest.approx(losses[expected], rel=1e-5), expected
    (result.loss * size).backward()
    names = {
        "mask_emb": "deepecg_ssl.masked_spec_embed",
        "feature_extractor.conv_layers.0.0.weight": "deepecg_ssl.feature_extractor.conv_layers.0.conv.weight",
        "feature_extractor.conv_layers.0.2.bias": "deepecg_ssl.feature_extractor.conv_layers.0.layer_norm.bias",
        "feature_extractor.conv_layers.3.0.weight": "deepecg_ssl.feature_extractor.conv_layers.3.conv.weight",
        "layer_norm.weight": "deepecg_ssl.feature_projection.layer_norm.weight",
        "post_extract_proj.weight": "deepecg_ssl.feature_projection.projection.weight",
        "conv_pos.pos_conv.0.weight_g": ("deepecg_ssl.encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
        "conv_pos.pos_conv.0.weight_v": ("deepecg_ssl.encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
        "encoder.layer_norm.weight": "deepecg_ssl.encoder.layer_norm.weight",
        "encoder.layers.0.self_attn.q_proj.weight": "deepecg_ssl.encoder.layers.0.attention.q_proj.weight",
        "encoder.layers.1.fc1.weight": "deepecg_ssl.encoder.layers.1.feed_forward.intermediate_dense.weight",
        "quantizer.vars": "quantizer.codevectors",
        "quantizer.weight_proj.weight": "quantizer.weight_proj.weight",
        "project_q.weight": "project_q.weight",
        "final_proj.weight": "project_hid.weight",
    }
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert names.keys() == recorded["grad_l2_norms_of_total"].keys()
    for original, norm in recorded["grad_l2_norms_of_total"].items():
        assert gradients[names[original]].norm().item() == pytest.approx(norm, rel=1e-3), original
