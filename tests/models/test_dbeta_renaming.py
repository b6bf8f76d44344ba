"""Conversion of the original's settings and weights."""

import json

import dbeta_reference
import pytest
import torch
from transformers import AutoModelForPreTraining

from ecg_transformers import convert_checkpoint
from ecg_transformers.conversion import CheckpointConversionError
from ecg_transformers.models.dbeta.convert_dbeta import convert_settings, parse_conv_layers


@pytest.fixture
def source(tmp_path):
    """Write a checkpoint of the original's form; changes apply to its settings, those of T5, and its weights."""

    def write(settings=None, t5=None, change=None, **entries):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        model_settings = dbeta_reference.settings(**(settings or {}))
        t5_settings = dbeta_reference.t5_settings(**(t5 or {}))
        state = dbeta_reference.random_state(dbeta_reference.settings(), dbeta_reference.t5_settings(), 0)
        if change:
            change(state)
        torch.save({"model": state, "args": None, **entries}, folder / "checkpoint.pt")
        model_settings = {name: value for name, value in model_settings.items() if value is not None}
        (folder / "config.json").write_text(json.dumps({"model": model_settings}))
        (folder / "t5_config.json").write_text(json.dumps(t5_settings))
        return folder

    return write


def test_settings_of_the_original():
    settings = dbeta_reference.settings(
        dropout=0.3,
        attention_dropout=0.2,
        activation_dropout=0.15,
        dropout_input=0.25,
        encoder_layerdrop=0.05,
        drop_rate=0.35,
        activation_fn="relu",
        conv_feature_layers="[(16, 10, 5)] + [(24, 3, 2)] * 2 + [(8,2,2)]",
        feature_grad_mult=0.1,
        shoe_size=44,
    )
    config, notes = convert_settings(settings)
    ecg, fusion = config.ecg_config, config.cross_modal_config
    assert (ecg.hidden_dropout, ecg.attention_dropout, ecg.activation_dropout) == (0.3, 0.2, 0.15)
    assert (ecg.feat_proj_dropout, ecg.layerdrop, ecg.hidden_act) == (0.25, 0.05, "relu")
    assert fusion.hidden_dropout_prob == fusion.attention_probs_dropout_prob == 0.35
    assert (ecg.conv_dim, ecg.conv_kernel, ecg.conv_stride) == ([16, 24, 24, 8], [10, 3, 3, 2], [5, 2, 2, 2])
    assert config.text_config.d_model == 768 and config.text_config.d_ff == 2048
    assert any("0.1" in note for note in notes) and any("shoe_size" in note for note in notes) and len(notes) == 2


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "[(1, 2)] * 3",
        "[(16, 2, 2)] * 1000000000",
        "[[(16, 2, 2)] * 99] * 99",
        "[(16, 2, 2.5)]",
        "[(16, 2, True)]",
        "[]",
        "[(16, 2, 2)",
        "(" * 5000,
        "16",
        {},
        None,
        [[16, 2]],
    ],
)
def test_conv_layers_are_not_run(expression):
    with pytest.raises(ValueError, match="conv_feature_layers"):
        parse_conv_layers(expression)


def test_conv_layers():
    assert parse_conv_layers(" 2 * [(16, 2, 2)]") == [(16, 2, 2)] * 2
    assert parse_conv_layers([[16, 3, 2], (8, 2, 2)]) == [(16, 3, 2), (8, 2, 2)]


def test_converting(source, tmp_path):
    notes = []
    folder = convert_checkpoint(
        source(change=lambda state: state.update({"ecg_encoder.mask_emb": torch.zeros(24)})),
        tmp_path / "converted",
        on_note=notes.append,
    )
    model, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    config = model.config
    assert config.hidden_size == 20 and config.ecg_config.hidden_size == 24 and config.text_config.d_kv == 6
    assert config.decoder_config.fusion_layer == 1 and config.decoder_config.patch_size == 16
    assert not config.ecg_only and config.text_encoder_uses_mask
    # Again from our own folder: the same
    again = convert_checkpoint(folder, tmp_path / "again", on_note=notes.append)
    other = AutoModelForPreTraining.from_pretrained(again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert other.config.to_diff_dict() == config.to_diff_dict()


def test_only_one_of_the_tied_embeddings(source, tmp_path):
    for name in ("shared", "encoder.embed_tokens"):
        folder = source(change=lambda state, name=name: state.pop(f"language_encoder.{name}.weight"))
        model = AutoModelForPreTraining.from_pretrained(convert_checkpoint(folder, tmp_path / name))
        expected = dbeta_reference.random_state(dbeta_reference.settings(), dbeta_reference.t5_settings(), 0)
        embeddings = model.dbeta.text_encoder.shared.weight
        assert torch.equal(embeddings, expected["language_encoder.shared.weight"])
        assert model.dbeta.text_encoder.encoder.embed_tokens.weight is embeddings


def drop(name):
    return lambda state: state.pop(name)


def put(name, value):
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    "settings, t5, change, message",
    [
        ({"normalize": True}, None, None, "normalize"),
        ({"filter": True}, None, None, "filter"),
        ({"apply_mask": True}, None, None, "apply_mask"),
        ({"extractor_mode": "batch_norm"}, None, None, "extractor_mode"),
        ({"encoder_attention_heads": None}, None, None, "encoder_attention_heads"),
        ({"num_heads": None}, None, None, "num_heads"),
        ({"mem_layer": None}, None, None, "mem_layer"),
        ({"mem_layer": 2}, None, None, "fusion_layer"),
        ({"encoder_layers": 3}, None, None, "missing.*layers.2"),
        ({"encoder_layers": 1}, None, None, "unexpected.*layers.1"),
        ({"hidden_dim": 24}, None, None, "another shape"),
        ({"conv_feature_layers": "[(16, 2, 2)] * 3"}, None, None, "unexpected"),
        ({"encoder_attention_heads": 5}, None, None, "num_attention_heads"),
        ({"vocab_size": 38}, None, None, "another shape.*mlm_head"),
        (None, {"num_layers": 3}, None, "missing.*block.2"),
        (None, {"feed_forward_proj": "relu"}, None, "unexpected.*wi_0"),
        (None, {"model_type": "bert"}, None, "bert"),
        (None, None, drop("class_embedding"), "recognised as none"),
        (None, None, drop("itm_head.fc.bias"), "missing: etm_head.bias"),
        (None, None, put("surplus.weight", torch.zeros(2)), "unexpected: surplus.weight"),
        (None, None, put("class_embedding", torch.full((24,), torch.nan)), "NaN"),
        (None, None, put("mim_head.decoder_pos_embed.pe", torch.zeros(1, 512, 18)), "fixed positions"),
        (None, None, put("mim_head.decoder_pos_embed.pe", torch.zeros(512)), "fixed positions"),
        (None, None, put("language_encoder.encoder.embed_tokens.weight", torch.zeros(37, 24)), "differ"),
        (None, None, put("mim_head.decoder.resblocks.0.attn.in_proj_bias", torch.zeros(55)), "in_proj_bias"),
    ],
)
def test_what_does_not_fit_is_an_error(source, tmp_path, settings, t5, change, message):
    folder = source(settings, t5, change)
    with pytest.raises(CheckpointConversionError, match=message):
        convert_checkpoint(folder, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_weights_without_settings(source, tmp_path):
    folder = source()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointConversionError, match="config.json"):
        convert_checkpoint(folder, tmp_path / "converted")
    (folder / "config.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointConversionError, match="int"):
        convert_checkpoint(folder, tmp_path / "converted")
    with pytest.raises(CheckpointConversionError, match="no classification head"):
        convert_checkpoint(source(), tmp_path / "converted", label_names=["a"])
