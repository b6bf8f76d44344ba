"""D-BETA: the mathematics against an independent computation, and what its parts promise."""

import copy
import json

import dbeta_reference
import pytest
import tiny_dbeta
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, T5Config

from ecg_transformers import (
    DBetaConfig,
    DBetaForPreTraining,
    DBetaForSequenceClassification,
    DBetaModel,
)
from ecg_transformers.models.dbeta.configuration_dbeta import DBetaECGConfig, DBetaFusionConfig
from ecg_transformers.models.dbeta.convert_dbeta import convert_settings, rename_tensors
from ecg_transformers.models.dbeta.modeling_dbeta import (
    choose_removed,
    contrastive_loss,
    fixed_noise,
    joint_mean,
    sinusoidal_positions,
)
from ecg_transformers.training.layer_groups import freeze_layers, group_of_parameters, layer_names

# name -> (original settings, settings of T5, samples)
VARIANTS = {
    "narrow shared space": ({}, {}, 5000),
    "half the samples": ({"hidden_dim": 36, "num_heads": 3}, {}, 2500),
    "layer norm in the convolutions, bias, odd positions": (
        {
            "extractor_mode": "layer_norm",
            "conv_bias": True,
            "conv_feature_layers": [(10, 5, 3), (12, 3, 2), (14, 2, 2)],
            "conv_pos": 7,
            "conv_pos_groups": 3,
            "mem_layer": 0,
            "encoder_ffn_embed_dim": 30,
        },
        {"feed_forward_proj": "relu"},
        1700,
    ),
    "norm before the layers, no projection": (
        {
            "layer_norm_first": True,
            "conv_feature_layers": [(8, 3, 2), (8, 2, 2), (16, 2, 2), (16, 3, 2), (24, 2, 2)],
            "conv_pos": 9,
            "mem_layer": -1,
            "num_top_layer": 3,
            "mem_prob": 0.6,
        },
        {"d_kv": 7, "num_heads": 2, "relative_attention_num_buckets": 12},
        2100,
    ),
    "one convolution, many tokens": (
        {"conv_feature_layers": [(16, 4, 4)], "in_d": 3, "mem_layer": 1, "num_top_layer": 2, "conv_pos": 32},
        {"num_layers": 1},
        2200,
    ),
    "other sizes": (
        {
            "encoder_layers": 3,
            "encoder_embed_dim": 32,
            "encoder_attention_heads": 2,
            "hidden_dim": 32,
            "num_heads": 4,
            "num_top_layer": 1,
            "mem_layer": 0,
            "mem_decoder_hidden_dim": 20,
            "mem_decoder_num_layers": 1,
            "mem_decoder_num_heads": 2,
            "vocab_size": 41,
            "conv_bias": True,
            "in_d": 8,
        },
        {"d_model": 32, "num_layers": 3},
        1100,
    ),
}


def build(model_settings, t5, seed=0):
    """Our model and the reference with the same random weights."""
    state = dbeta_reference.random_state(model_settings, t5, seed)
    config, notes = convert_settings(model_settings, t5)
    assert not notes
    model = DBetaForPreTraining(config).eval()
    model.load_state_dict(rename_tensors(state))
    return model, dbeta_reference.Reference(model_settings, t5, state)


def assert_close(actual, expected, atol=2e-4):
    assert torch.is_floating_point(expected) is False or expected.numel() == 1 or expected.std() > 0.01
    torch.testing.assert_close(actual.double(), expected.double(), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equals_the_independent_computation(name, attention):
    overrides, t5_overrides, samples = VARIANTS[name]
    settings = dbeta_reference.settings(**overrides)
    t5 = dbeta_reference.t5_settings(**t5_overrides)
    model, reference = build(settings, t5, seed=len(name))
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(3)
    ecg = torch.randn(3, settings["in_d"], samples, generator=generator) + 0.5
    ids = torch.randint(2, t5["vocab_size"], (3, 13), generator=generator)
    text_mask = torch.ones(3, 13, dtype=torch.long)
    text_mask[1, 5:] = 0
    labels = torch.where(torch.rand(3, 13, generator=generator) < 0.4, ids, -100)
    is_aligned = torch.tensor([1.0, 0.0, 1.0])
    tokens = dbeta_reference.count_tokens(settings, samples)
    noise = torch.rand(3, tokens, generator=generator)
    assert model.config.ecg_config.count_tokens(samples) == tokens
    assert model.config.decoder_config.patch_size == dbeta_reference.patch_size(settings)

    with torch.no_grad():
        base = model.dbeta
        assert_close(base.ecg_encoder.feature_extractor(ecg), reference.conv_features(ecg))
        assert_close(base.ecg_encoder.embed(ecg), reference.embeddings(ecg))
        assert_close(base.get_ecg_features(ecg), reference.ecg_features(ecg))
        assert_close(base.get_text_features(ids), reference.text_features(ids))
        assert_close(base.get_text_features(ids, text_mask), reference.text_features(ids, text_mask))
        whole = reference.encode(reference.embeddings(ecg))
        ecg_states = reference.linear(whole, "multi_modal_ecg_proj")
        text, fused, pooled, _ = reference.fuse(reference.text_states(ids, text_mask), ecg_states, text_mask)
        result = base(ecg, ids, text_attention_mask=text_mask, return_fusion=True)
        assert_close(result.multi_modal_text_hidden_states, text)
        assert_close(result.multi_modal_ecg_hidden_states, fused)
        assert_close(result.multi_modal_embeds, pooled)
        similarity = reference.ecg_features(ecg) @ reference.text_features(ids, text_mask).T
        assert_close(result.logits_per_ecg, similarity)
        assert_close(model.get_mem_targets(ecg), reference.targets(ecg).flatten(2))

        model.config.text_encoder_uses_mask = False
        result = model(ecg, ids, text_attention_mask=text_mask, labels=labels, is_aligned=is_aligned, noise=noise)
        expected = reference.pretrain(ecg, ids, text_mask, labels, is_aligned, noise)
    assert set(result) == set(expected)
    for key, value in expected.items():
        assert_close(result[key], value)


def test_full_size():
    with torch.device("meta"):
        model = DBetaForPreTraining(DBetaConfig())

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(model.dbeta.ecg_encoder) == 62_021_760
    assert model.config.ecg_config.count_tokens(5000) == 312
    assert model.config.ecg_config.count_tokens(2500) == 156
    assert model.config.ecg_config.receptive_field == 16
    assert model.config.decoder_config.patch_size == 16
    # T5: attention and gated feed-forward of 12 layers, embeddings, positions, norms
    t5 = 12 * (4 * 768 * 768 + 3 * 768 * 2048) + 32128 * 768 + 32 * 12 + 25 * 768
    assert count(model.dbeta.text_encoder) == t5
    config = DBetaConfig.from_size("base", classifier_dropout=0.2)
    assert config.to_diff_dict() == DBetaConfig(classifier_dropout=0.2).to_diff_dict()
    with pytest.raises(ValueError, match="'base'.*'huge'"):
        DBetaConfig.from_size("huge")


def test_parts_of_the_configuration():
    text = T5Config(vocab_size=50, d_model=16, num_layers=1)
    before = copy.deepcopy(text.to_dict())
    fusion = DBetaFusionConfig(hidden_size=32, intermediate_size=40, num_attention_heads=4, num_hidden_layers=4)
    ecg = DBetaECGConfig(**tiny_dbeta.PARTS["ecg_config"])
    config = DBetaConfig(ecg_config=ecg, text_config=text, cross_modal_config=fusion, hidden_size=32)
    config.ecg_config.hidden_dropout = 0.5
    assert DBetaModel(config).fusion.config.intermediate_size == 40
    # What was passed in is left alone
    assert text.to_dict() == before and ecg.hidden_dropout == 0.1
    assert config.vocab_size == 50 and not config.text_config.is_encoder_decoder
    assert DBetaConfig(hidden_size=48).cross_modal_config.intermediate_size == 192
    assert DBetaConfig(decoder_config={"hidden_size": 60}).decoder_config.intermediate_size == 240
    ecg = DBetaECGConfig(conv_dim=[8], conv_kernel=[10], conv_stride=[5])
    assert DBetaConfig(ecg_config=ecg).decoder_config.patch_size == 5000 // 999
    assert DBetaConfig().text_config.feed_forward_proj == "gated-gelu"
    with pytest.raises(ValueError, match="text_config.*T5Config.*DBetaECGConfig"):
        DBetaConfig(text_config=ecg)
    assert ecg.count_tokens(9) == 0 and ecg.count_tokens(10) == 1 and ecg.count_tokens(1) == 0


def tiny(auto_class="AutoModel", **overrides):
    torch.manual_seed(0)
    classes = {
        "AutoModel": DBetaModel,
        "AutoModelForPreTraining": DBetaForPreTraining,
        "AutoModelForSequenceClassification": DBetaForSequenceClassification,
    }
    return classes[auto_class](tiny_dbeta.config(**overrides)).eval()


def test_one_modality_alone():
    model, inputs = tiny(), tiny_dbeta.inputs(3)
    with torch.no_grad():
        both = model(**inputs)
        ecg, text = model(inputs["input_values"]), model(input_ids=inputs["input_ids"])
    assert torch.equal(ecg.ecg_embeds, both.ecg_embeds) and ecg.text_embeds is None and ecg.logits_per_ecg is None
    assert torch.equal(text.text_embeds, both.text_embeds) and text.ecg_embeds is None
    assert model(inputs["input_values"], inputs["input_ids"][:2]).logits_per_ecg.shape == (3, 2)
    with pytest.raises(ValueError, match="input_values.*input_ids"):
        model()
    with pytest.raises(ValueError, match="as many texts as records.*\\(3, 12, 320\\) and \\(2, 6\\)"):
        model(inputs["input_values"], inputs["input_ids"][:2], return_fusion=True)
    with pytest.raises(ValueError, match="as many texts as records"):
        model(inputs["input_values"], return_fusion=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"input_values": torch.zeros(2, 320)}, "records, 12 leads, samples"),
        ({"input_values": torch.zeros(2, 8, 320)}, "records, 12 leads, samples"),
        ({"input_values": torch.zeros(2, 12, 15)}, "15 samples; one token needs 16"),
        ({"attention_mask": torch.ones(2, 319)}, r"\(2, 320\); got \(2, 319\)"),
        ({"input_ids": torch.zeros(6, dtype=torch.long)}, "texts, tokens"),
        ({"text_attention_mask": torch.ones(2, 5)}, "shape of `input_ids`"),
        ({"labels": torch.zeros(2, 5, dtype=torch.long)}, "`labels`"),
        ({"is_aligned": torch.ones(3)}, "`is_aligned`"),
        ({"noise": torch.zeros(2, 19)}, r"\(2, 20\); got \(2, 19\)"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    model = tiny("AutoModelForPreTraining")
    with pytest.raises(ValueError, match=message):
        model(**{**tiny_dbeta.inputs(2), **change})


def test_text_features_do_not_depend_on_padding():
    model = tiny()
    ids = tiny_dbeta.inputs(2)["input_ids"]
    padded, mask = F.pad(ids, (0, 5)), F.pad(torch.ones_like(ids), (0, 5))
    with torch.no_grad():
        torch.testing.assert_close(model.get_text_features(padded, mask), model.get_text_features(ids))
        assert not torch.allclose(model.get_text_features(padded), model.get_text_features(ids), atol=1e-3)
        model.config.text_encoder_uses_mask = False
        assert torch.equal(model.get_text_features(padded, mask), model.get_text_features(padded))


def test_a_text_without_tokens_is_finite():
    inputs = tiny_dbeta.inputs(2, padded=True)
    inputs["text_attention_mask"][0] = 0
    for attention in ("sdpa", "eager"):
        model = tiny()
        model.set_attn_implementation(attention)
        with torch.no_grad():
            result = model(**inputs, return_fusion=True)
        assert all(value.isfinite().all() for value in result.to_tuple())


def test_the_fusion_does_not_see_padding():
    # Without group norm, whose statistics see padded samples
    model = tiny(ecg_config={"feat_extract_norm": "layer"})
    inputs = tiny_dbeta.inputs(2, padded=True)
    inputs["text_attention_mask"][:, 3:] = 0
    short = {
        "input_values": inputs["input_values"][..., : tiny_dbeta.SAMPLES // 2],
        "input_ids": inputs["input_ids"][:, :3],
    }
    with torch.no_grad():
        padded, cut = model(**inputs, return_fusion=True), model(**short, return_fusion=True)
    torch.testing.assert_close(padded.multi_modal_embeds, cut.multi_modal_embeds, atol=1e-5, rtol=0)
    kept = cut.multi_modal_ecg_hidden_states.shape[1]
    torch.testing.assert_close(
        padded.multi_modal_ecg_hidden_states[:, :kept], cut.multi_modal_ecg_hidden_states, atol=1e-5, rtol=0
    )


def test_padded_tokens_never_enter_the_reconstruction_loss():
    model = tiny("AutoModelForPreTraining", ecg_config={"feat_extract_norm": "layer"})
    inputs = tiny_dbeta.inputs(2, padded=True)
    is_aligned = torch.ones(2)
    noise = torch.rand(2, tiny_dbeta.TOKENS, generator=torch.Generator().manual_seed(4))
    half = tiny_dbeta.SAMPLES // 2
    short = {"input_values": inputs["input_values"][..., :half], "input_ids": inputs["input_ids"]}
    short["text_attention_mask"] = inputs["text_attention_mask"]
    with torch.no_grad():
        padded = model(**inputs, is_aligned=is_aligned, noise=noise)
        cut = model(**short, is_aligned=is_aligned, noise=noise[:, :10])
    assert padded.mem_mask[:, 10:].sum() == 0
    assert torch.equal(padded.mem_mask[:, :10], cut.mem_mask)
    for name in ("mem_loss", "etm_loss", "ets_loss", "loss"):
        assert padded[name].item() == pytest.approx(cut[name].item(), rel=1e-5), name


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.6, 0.7, 0.75, 0.9, 1.0])
def test_choosing_removed_tokens(ratio):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, 30, generator=generator)
    mask = torch.ones(4, 30, dtype=torch.bool)
    mask[1, 10:] = False
    mask[2] = torch.rand(30, generator=generator) < 0.5
    mask[3] = False
    removal = choose_removed(noise, ratio, mask)
    plain = choose_removed(noise, ratio)
    assert torch.equal(removal.kept[0], plain.kept[0]) and torch.equal(removal.removed[0], plain.removed[0])
    assert plain.kept.shape == (4, int(30 * (1 - ratio)))
    for row in range(4):
        real = [index for index in range(30) if mask[row, index]]
        by_noise = sorted(real, key=lambda index: noise[row, index].item())
        keep = int(len(real) * (1 - ratio))
        assert removal.kept[row][removal.kept_mask[row]].tolist() == by_noise[:keep]
        assert removal.removed[row].nonzero().flatten().tolist() == sorted(by_noise[keep:])
        assert sorted(removal.ids_restore[row].tolist()) == list(range(30))


def test_the_fixed_noise():
    noise = fixed_noise(5000)
    assert noise.min() >= 0 and noise.max() < 1
    assert len(noise.unique()) > 4990
    assert noise.mean().item() == pytest.approx(0.5, abs=0.02) and noise.var().item() == pytest.approx(
        1 / 12, abs=0.01
    )
    assert torch.corrcoef(torch.stack([noise[1:], noise[:-1]]))[0, 1].abs() < 0.05
    assert torch.equal(fixed_noise(100), noise[:100])
    # MurmurHash3's finaliser of 1 and 2
    expected = [0x514E28B7 >> 8, 0x30F4C306 >> 8]
    assert (noise[:2] * 2**24).long().tolist() == expected


def test_evaluation_repeats_itself_and_training_does_not():
    model = tiny("AutoModelForPreTraining", **tiny_dbeta.WITHOUT_DROPOUT)
    inputs = tiny_dbeta.inputs(3)
    with torch.no_grad():
        first, second = model(**inputs), model(**inputs)
        assert torch.equal(first.mem_mask, second.mem_mask)
        assert (first.mem_mask == first.mem_mask[0]).all()
        model.train()
        assert not torch.equal(model(**inputs).mem_mask, model(**inputs).mem_mask)
        assert not (model(**inputs).mem_mask == model(**inputs).mem_mask[0]).all()


def test_losses():
    model = tiny("AutoModelForPreTraining", mlm_loss_weight=2.0, mem_loss_weight=0.5, etm_loss_weight=3.0)
    inputs, labels = tiny_dbeta.inputs(3), tiny_dbeta.labels("AutoModelForPreTraining", 3)
    with torch.no_grad():
        assert model(**inputs).loss is None
        result = model(**inputs, **labels)
        assert result.loss.item() == pytest.approx(
            2 * result.mlm_loss.item()
            + 0.5 * result.mem_loss.item()
            + 3 * result.etm_loss.item()
            + result.ets_loss.item(),
            rel=1e-6,
        )
        aligned = model(**inputs, labels=labels["labels"], noise=labels["noise"])
        explicit = model(**inputs, **{**labels, "is_aligned": torch.ones(3)})
        assert aligned.loss == explicit.loss
        nothing = model(**inputs, labels=torch.full((3, 6), -100))
        assert nothing.mlm_loss == 0 and nothing.loss.isfinite()
        without_text = model(**inputs, is_aligned=labels["is_aligned"])
        assert without_text.mlm_loss is None and without_text.loss.isfinite()
        as_numbers = model(**inputs, **{**labels, "is_aligned": labels["is_aligned"].float()})
        assert as_numbers.loss == result.loss
        whole = model(**inputs, **labels, mask_ecg=False)
        assert whole.mem_loss is None and whole.mem_mask is None and whole.loss.isfinite()


def test_contrastive_loss_of_two_pairs():
    ecg, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[2.0, 1.0], [0.5, 0.0]])
    # scores: 2, 0.5 / 1, 0; the second report was replaced
    expected = F.softplus(torch.tensor([-2.0, 0.5, 1.0, 0.0])).mean()
    torch.testing.assert_close(contrastive_loss(ecg, text, torch.tensor([True, False])), expected)


def test_joint_mean_of_nothing_has_a_graph():
    values = torch.ones(3, requires_grad=True)
    mean = joint_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean == 0 and values.grad.tolist() == [0, 0, 0]


def test_positions_of_any_length_and_width():
    for length, width in ((513, 24), (3000, 6), (7, 5)):
        expected = dbeta_reference.positions(length, width)
        torch.testing.assert_close(sinusoidal_positions(length, width), expected, atol=5e-4, rtol=0)


def test_records_too_short_for_their_patches():
    # Wide kernels leave fewer tokens, so a patch is longer than the stride, and a long record has too few samples
    ecg = {"conv_dim": [8], "conv_kernel": [1000], "conv_stride": [10]}
    model = tiny("AutoModelForPreTraining", ecg_config=ecg)
    patch = model.config.decoder_config.patch_size
    assert patch == 5000 // 401
    tokens = (20000 - 1000) // 10 + 1
    with pytest.raises(ValueError, match=f"{tokens} tokens, whose patches of {patch}.*patch_size"):
        model.get_mem_targets(torch.zeros(1, 12, 20000))
    assert model.get_mem_targets(torch.zeros(1, 12, 5000)).shape == (1, 401, 12 * patch)


def test_targets_ignore_padded_samples():
    model = tiny("AutoModelForPreTraining")
    ecg = tiny_dbeta.inputs(2)["input_values"]
    mask = torch.ones(2, tiny_dbeta.SAMPLES, dtype=torch.long)
    torch.testing.assert_close(model.get_mem_targets(ecg, mask), model.get_mem_targets(ecg), atol=1e-5, rtol=0)
    mask[:, 160:] = 0
    cut = model.get_mem_targets(ecg[..., :160])
    torch.testing.assert_close(model.get_mem_targets(ecg, mask)[:, :10], cut, atol=1e-5, rtol=0)


def test_layerdrop_skips_layers_in_training_only():
    model = tiny("AutoModelForSequenceClassification", ecg_config={"layerdrop": 1.0}, **{"classifier_dropout": 0.0})
    plain = tiny("AutoModelForSequenceClassification", classifier_dropout=0.0)
    inputs = {"input_values": tiny_dbeta.inputs(2)["input_values"]}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
        model.train()
        assert len(model(**inputs, output_hidden_states=True).hidden_states or ()) == 0


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ("ecg_config", "feat_proj_dropout"),
        ("ecg_config", "hidden_dropout"),
        ("ecg_config", "attention_dropout"),
        ("ecg_config", "activation_dropout"),
        ("text_config", "dropout_rate"),
        ("cross_modal_config", "hidden_dropout_prob"),
        ("cross_modal_config", "attention_probs_dropout_prob"),
        ("decoder_config", "attention_dropout"),
    ],
)
def test_each_dropout_acts_in_training_only(part, field):
    settings = {**tiny_dbeta.WITHOUT_DROPOUT}
    settings[part] = {**settings.get(part, {}), field: 0.5}
    torch.manual_seed(0)
    model = DBetaForPreTraining(tiny_dbeta.config(**settings))
    batch = {**tiny_dbeta.inputs(2), **tiny_dbeta.labels("AutoModelForPreTraining", 2)}

    def losses():
        with torch.no_grad():
            return model(**batch).loss.item()

    model.eval()
    assert losses() == losses()
    model.train()
    assert losses() != losses()


def test_new_positions_begin_as_in_wav2vec2():
    """Weight normalisation begins with the weight that it normalises, so the first step does not change its scale."""
    torch.manual_seed(0)
    config = tiny_dbeta.config(ecg_config={"hidden_size": 64, "num_conv_pos_embeddings": 16})
    convolution = DBetaModel(config).ecg_encoder.pos_conv_embed.conv
    weight = convolution.parametrizations.weight
    torch.testing.assert_close(convolution.weight, weight.original1, rtol=1e-5, atol=1e-6)
    assert convolution.weight.std().item() == pytest.approx(2 / (16 * 64) ** 0.5, rel=0.03)
    assert not convolution.bias.any()


def test_setting_the_attention_is_silent(caplog):
    for head in ("AutoModel", "AutoModelForSequenceClassification", "AutoModelForPreTraining"):
        model = tiny(head)
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            parts = [getattr(model.config, name) for name in model.config.sub_configs if name != "text_config"]
            assert {part._attn_implementation for part in (model.config, *parts)} == {attention}
    assert "sub-config" not in caplog.text


def test_outputs_that_the_configuration_asks_for():
    inputs = tiny_dbeta.inputs(2)
    model = tiny("AutoModelForPreTraining", return_dict=False)
    assert isinstance(model(**inputs), tuple)
    model = tiny("AutoModelForPreTraining", output_hidden_states=True)
    assert len(model(**inputs).hidden_states) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loading_in_half_precision(tmp_path, dtype):
    tiny("AutoModelForPreTraining").save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path, dtype=dtype)
    result = model(**tiny_dbeta.inputs(2, padded=True), **tiny_dbeta.labels("AutoModelForPreTraining", 2))
    assert result.ecg_embeds.dtype == result.text_embeds.dtype == dtype
    assert all(value.isfinite().all() for value in result.to_tuple())


def test_classifiers_keep_the_ecg_branch_only(tmp_path, caplog):
    whole = tiny("AutoModelForPreTraining")
    whole.save_pretrained(tmp_path / "whole")
    config = tiny_dbeta.config()
    made = DBetaForSequenceClassification(config)
    assert not config.ecg_only and made.config.ecg_only and made.dbeta.config is made.config
    caplog.clear()
    loader = AutoModelForSequenceClassification
    model, info = loader.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert "text_encoder" not in caplog.text and "UNEXPECTED" not in caplog.text
    inputs = tiny_dbeta.inputs(2)["input_values"]
    expected = whole.dbeta.get_ecg_features(inputs)
    assert torch.equal(model.dbeta.get_ecg_features(inputs), expected)

    model.save_pretrained(tmp_path / "classifier")
    assert json.loads((tmp_path / "classifier" / "config.json").read_text())["ecg_only"] is True
    assert not [name for name in load_file(tmp_path / "classifier" / "model.safetensors") if "text" in name]
    base, info = AutoModel.from_pretrained(tmp_path / "classifier", output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(base.get_ecg_features(inputs), expected)
    assert torch.equal(base(inputs).ecg_embeds, expected)
    for call in (
        lambda: base.get_text_features(torch.zeros(1, 3, dtype=torch.long)),
        lambda: base(input_ids=torch.zeros(1, 3, dtype=torch.long)),
        lambda: base(inputs, return_fusion=True),
        base.get_input_embeddings,
    ):
        with pytest.raises(ValueError, match="ecg_only"):
            call()
    with pytest.raises(ValueError, match="ecg_only"):
        AutoModelForPreTraining.from_pretrained(tmp_path / "classifier")

    # The base model of a whole folder, with and without its texts
    base, info = AutoModel.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(info.values()) and not base.config.ecg_only
    base, info = AutoModel.from_pretrained(tmp_path / "whole", ecg_only=True, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(base.get_ecg_features(inputs), expected)
    # What does not belong to a text encoder that is there is still reported
    base, info = AutoModel.from_pretrained(
        tmp_path / "whole", text_config={**tiny_dbeta.PARTS["text_config"], "num_layers": 1}, output_loading_info=True
    )
    assert any("block.1." in name for name in info["unexpected_keys"])


def test_freezing_and_layer_groups():
    model = tiny("AutoModelForSequenceClassification")
    assert layer_names(model) == ["convolution", "projection", "positions", "layer.0", "layer.1", "pooler", "head"]
    groups = group_of_parameters(model)
    assert groups["dbeta.class_embedding"] == "positions"
    assert groups["dbeta.ecg_projection.weight"] == groups["dbeta.ecg_pooler.dense.bias"] == "pooler"
    assert freeze_layers(model, unfreeze_last=1) == ["convolution", "projection", "positions", "layer.0"]
    assert freeze_layers(model, unfreeze_last=0) == [name for name in layer_names(model) if name != "head"]
    for head in ("AutoModelForSequenceClassification", "AutoModelForPreTraining"):
        model = tiny(head)
        model.freeze_feature_encoder()
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen == {name for name, _ in model.named_parameters() if "feature_extractor" in name}
        model.freeze_base_model()
        assert not any(parameter.requires_grad for parameter in model.dbeta.parameters())
        assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_losses_of_the_classifier(head):
    inputs = {"input_values": tiny_dbeta.inputs(3)["input_values"]}
    settings = {"classifier_head": head, "classifier_hidden_size": 5, "pos_weight": [1.0, 2.0, 3.0]}
    model = tiny("AutoModelForSequenceClassification", **settings)
    labels = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0], [float("nan")] * 3])
    result = model(**inputs, labels=labels)
    weights = torch.tensor([1.0, 2.0, 3.0])
    terms = [
        F.binary_cross_entropy_with_logits(result.logits[i, j], labels[i, j], pos_weight=weights[j])
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))
    ]
    torch.testing.assert_close(result.loss, torch.stack(terms).mean())
    assert model(**inputs, labels=torch.full((3, 3), float("nan"))).loss == 0

    model = tiny("AutoModelForSequenceClassification", problem_type=None)
    result = model(**inputs, labels=torch.tensor([2, -100, 0]))
    torch.testing.assert_close(result.loss, F.cross_entropy(result.logits[[0, 2]], torch.tensor([2, 0])))
    assert model.config.problem_type == "single_label_classification"
    model = tiny("AutoModelForSequenceClassification", problem_type=None, num_labels=1)
    result = model(**inputs, labels=torch.tensor([0.5, float("nan"), 2.0]))
    torch.testing.assert_close(result.loss, F.mse_loss(result.logits[[0, 2], 0], torch.tensor([0.5, 2.0])))
    with pytest.raises(ValueError, match="needs 3 values for this batch; got 2"):
        model(**inputs, labels=torch.tensor([0.5, 2.0]))
    with pytest.raises(ValueError, match="`pos_weight` needs one value for each of the 3 labels; got 1"):
        tiny("AutoModelForSequenceClassification", pos_weight=[1.0])
