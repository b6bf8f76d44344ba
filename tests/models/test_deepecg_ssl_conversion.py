"""Conversion of fairseq-signals checkpoints to DeepECG-SSL."""

import json
import re
import sys
import types

import pytest
import torch
from safetensors.torch import load_file
from tiny_deepecg_ssl import config as tiny_config
from tiny_deepecg_ssl import inputs as tiny_inputs
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers import AutoModelForPreTraining as AutoPreTraining
from transformers import AutoModelForSequenceClassification as AutoClassifier

from ecg_transformers import (
    DeepECGSSLConfig,
    DeepECGSSLForPreTraining,
    DeepECGSSLForSequenceClassification,
    DeepECGSSLModel,
    convert_checkpoint,
)
from ecg_transformers.checkpoint_sources import (
    CheckpointConversionError,
    SourceCheckpoint,
    plain_settings,
    read_source,
)
from ecg_transformers.labels import biomarker_thresholds, deepecg_labels, deepecg_thresholds, label_groups
from ecg_transformers.models.deepecg_ssl import convert_deepecg_ssl as converter
from ecg_transformers.restricted_unpickling import load_without_running

# Our names -> the original's, the other way round than the converter has them
ORIGINAL = [
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0$", "conv_pos.pos_conv.0.weight_g"),
    (r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1$", "conv_pos.pos_conv.0.weight_v"),
    (r"^encoder\.pos_conv_embed\.conv\.bias$", "conv_pos.pos_conv.0.bias"),
    (r"^(encoder\.layers\.\d+\.)attention\.", r"\1self_attn."),
    (r"^(encoder\.layers\.\d+\.)layer_norm\.", r"\1self_attn_layer_norm."),
    (r"^(encoder\.layers\.\d+\.)feed_forward\.intermediate_dense\.", r"\1fc1."),
    (r"^(encoder\.layers\.\d+\.)feed_forward\.output_dense\.", r"\1fc2."),
    (r"^quantizer\.codevectors$", "quantizer.vars"),
    (r"^project_hid\.", "final_proj."),
]
BLOCK = "proj.pooler.cross_attention_block."
ATTENTIVE = {
    "query": "proj.pooler.query_tokens",
    "token_norm.": BLOCK + "norm1.",
    "q_proj.": BLOCK + "xattn.q.",
    "out_proj.": BLOCK + "xattn.proj.",
    "pooled_norm.": BLOCK + "norm2.",
    "intermediate_dense.": BLOCK + "mlp.fc1.",
    "output_dense.": BLOCK + "mlp.fc2.",
    "output.": "proj.linear.",
}


def original_state(model):
    """The state dictionary as fairseq-signals would name it."""
    state, fused = {}, {}
    per_layer = model.config.feat_extract_norm == "layer"
    finetuned = isinstance(model, DeepECGSSLForSequenceClassification)
    for name, value in model.state_dict().items():
        if name.startswith("classifier."):
            part = name.removeprefix("classifier.")
            if part.startswith(("k_proj.", "v_proj.")):
                fused[part] = value
                continue
            prefix = next((key for key in ATTENTIVE if part.startswith(key)), None)
            state[f"proj.{part}" if prefix is None else ATTENTIVE[prefix] + part.removeprefix(prefix)] = value
            continue
        name = name.removeprefix("deepecg_ssl.")
        name = re.sub(r"^(feature_extractor\.conv_layers\.\d+)\.layer_norm", r"\1.2" + ".1" * per_layer, name)
        for pattern, replacement in ORIGINAL:
            name, found = re.subn(pattern, replacement, name)
            if found:
                break
        state["encoder." * finetuned + name] = value
    for kind in ("weight", "bias"):
        if f"k_proj.{kind}" in fused:
            state[f"{BLOCK}xattn.kv.{kind}"] = torch.cat([fused[f"k_proj.{kind}"], fused[f"v_proj.{kind}"]])
    return state


def original_settings(config, **changes):
    """`cfg.model` as the original's trainer writes it."""
    layers = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    settings = {
        "_name": "wav2vec2_cmsc",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "layer_norm_first": config.do_stable_layer_norm,
        "dropout": 0.11,
        "attention_dropout": 0.12,
        "activation_dropout": 0.13,
        "encoder_layerdrop": 0.05,
        "dropout_input": 0.14,
        "dropout_features": 0.15,
        "apply_mask": True,
        "mask_length": 7,
        "mask_prob": 0.6,
        "extractor_mode": {"group": "default", "layer": "layer_norm"}[config.feat_extract_norm],
        "conv_feature_layers": " + ".join(f"[({dim}, {kernel}, {stride})]" for dim, kernel, stride in layers),
        "in_d": config.num_leads,
        "conv_bias": config.conv_bias,
        "feature_grad_mult": 0.3,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "logit_temp": 0.2,
        "quantize_targets": True,
        "latent_vars": config.num_codevectors_per_group,
        "latent_groups": config.num_codevector_groups,
        "num_negatives": 9,
        "latent_temp": [3, 0.25, 0.9],
    }
    return settings | changes


DEFAULTS = {
    "_name": "ecg_transformer_classifier",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "layer_norm_first": False,
    "conv_feature_layers": "[(256, 2, 2)] * 4",
    "in_d": 12,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "extractor_mode": "default",
    "conv_bias": False,
    "mask_prob": 0.0,
    "final_dropout": 0.25,
}


def write(path, model, settings=None, task=None, criterion=None, state=None, **entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    cfg = None
    if settings is not None:
        criterion = criterion or {"_name": "wav2vec2_with_cmsc", "loss_weights": [0.2, 5.0], "temp": 0.3}
        cfg = {"_name": None, "common": {"fp16": True}, "model": settings, "task": task or {}, "criterion": criterion}
    state = original_state(model) if state is None else state
    torch.save({"args": None, "cfg": cfg, "model": state, "optimizer_history": [], **entries}, path)
    return path


def build(model_class, seed=0, **overrides):
    torch.manual_seed(seed)
    return model_class(tiny_config(**overrides)).eval()


def convert(source, destination, **options):
    notes = []
    convert_checkpoint(source, destination, on_note=notes.append, **options)
    return notes


def assert_same_outputs(model, again, names):
    values = tiny_inputs(2, padded=True)
    with torch.no_grad():
        first, second = model(**values), again(**values)
    for name in names:
        assert torch.equal(first[name], second[name]), name


GEOMETRIES = [
    {},
    {"hidden_size": 8, "num_conv_pos_embeddings": 5},
    {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True},
    {"conv_dim": [6, 10, 4], "conv_kernel": [5, 3, 2], "conv_stride": [3, 2, 2], "conv_bias": True},
    {"num_codevector_groups": 4, "num_codevectors_per_group": 3, "codevector_dim": 12, "proj_codevector_dim": 5},
    {"num_attention_heads": 4, "num_conv_pos_embedding_groups": 4, "num_hidden_layers": 3, "intermediate_size": 20},
]


@pytest.mark.parametrize("overrides", GEOMETRIES)
def test_pretraining_files(tmp_path, overrides):
    model = build(DeepECGSSLForPreTraining, **overrides)
    path = write(tmp_path / "ssl.pt", model, original_settings(model.config))
    notes = convert(path, tmp_path / "out")
    assert any("ecg_fm" in note for note in notes)
    again, info = AutoPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(again) is DeepECGSSLForPreTraining and not any(info.values())
    assert_same_outputs(model, again, ("projected_states", "projected_quantized_states", "last_hidden_state"))
    config, expected = again.config, model.config
    shaped = [*converter._SHAPED_GEOMETRY.values(), *converter._STATED_GEOMETRY.values(), "feat_extract_norm"]
    shaped += ["num_codevectors_per_group", "num_codevector_groups", "codevector_dim", "proj_codevector_dim"]
    for name in shaped:
        assert getattr(config, name) == getattr(expected, name), name
    for name in ("conv_dim", "conv_kernel", "conv_stride"):
        assert list(getattr(config, name)) == list(getattr(expected, name)), name
    read = {
        "hidden_dropout": 0.11,
        "attention_dropout": 0.12,
        "activation_dropout": 0.13,
        "layerdrop": 0.05,
        "feat_proj_dropout": 0.14,
        "feat_quantizer_dropout": 0.15,
        "mask_time_prob": 0.6,
        "mask_time_length": 7,
        "apply_spec_augment": False,
        "feature_grad_mult": 0.3,
        "contrastive_logits_temperature": 0.2,
        "num_negatives": 9,
        "max_gumbel_temperature": 3,
        "min_gumbel_temperature": 0.25,
        "gumbel_temperature_decay": 0.9,
        "diversity_loss_weight": 0.2,
        "feature_penalty_weight": 5.0,
        "cmsc_temperature": 0.3,
    }
    assert {name: getattr(config, name) for name in read} == read
    assert again.quantizer.temperature == 3
    assert AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)[1]["missing_keys"] == set()


@pytest.mark.parametrize("overrides", [*GEOMETRIES, {"classifier_head": "attentive", "hidden_size": 24}])
def test_finetuned_files_beside_their_base(tmp_path, overrides):
    overrides = {"mask_time_prob": 0.0, "classifier_num_heads": 12, "num_labels": 5, **overrides}
    model = build(DeepECGSSLForSequenceClassification, **overrides)
    base = build(DeepECGSSLForPreTraining, 1, **{**overrides, "mask_time_prob": 0.6, "classifier_head": "linear"})
    folder = tmp_path / "source"
    write(folder / "best.pt", model, DEFAULTS)
    write(folder / "base_ssl.pt", base, original_settings(base.config))
    for source, name in ((folder, "folder"), (folder / "best.pt", "file")):
        notes = convert(source, tmp_path / name)
        assert any("label_names" in note for note in notes)
        again, info = AutoClassifier.from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(info.values())
        assert_same_outputs(model, again, ("logits",))
        # How it was fine-tuned stands in its own file, the encoder in that of the base
        assert again.config.classifier_dropout == 0.25 and again.config.mask_time_prob == 0
        assert again.config.problem_type == "multi_label_classification"
        assert not hasattr(again.deepecg_ssl, "masked_spec_embed")


def test_a_finetuned_file_alone(tmp_path):
    model = build(DeepECGSSLForSequenceClassification, mask_time_prob=0.0)
    path = write(tmp_path / "a" / "best.pt", model, original_settings(model.config, num_labels=3, mask_prob=0.0))
    convert(path, tmp_path / "out")
    assert_same_outputs(model, AutoClassifier.from_pretrained(tmp_path / "out"), ("logits",))
    # Defaults that are not those of the weights tell nothing of heads and strides, even those that seem to fit
    for name, stated in (("b", DEFAULTS), ("c", original_settings(model.config, encoder_layers=12))):
        path = write(tmp_path / name / "best.pt", model, stated)
        with pytest.raises(CheckpointConversionError, match="encoder_layers.*12.*weights have 2.*base_ssl.pt"):
            convert(path, tmp_path / "none")
    path = write(tmp_path / "d" / "best.pt", model)
    with pytest.raises(CheckpointConversionError, match="holds no configuration.*base_ssl.pt"):
        convert(path, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_base_is_found_by_its_stated_name_and_must_fit(tmp_path):
    model = build(DeepECGSSLForSequenceClassification, mask_time_prob=0.0)
    base = build(DeepECGSSLForPreTraining, 1, mask_time_prob=0.6)
    stated = {**DEFAULTS, "model_path": "/somewhere/else/pretrained.pt"}
    path = write(tmp_path / "a" / "best.pt", model, stated)
    write(tmp_path / "a" / "pretrained.pt", base, original_settings(base.config))
    convert(path, tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").num_attention_heads == 2
    other = build(DeepECGSSLForPreTraining, 1, num_hidden_layers=3)
    write(tmp_path / "b" / "base_ssl.pt", other, original_settings(other.config))
    path = write(tmp_path / "b" / "best.pt", model, DEFAULTS)
    with pytest.raises(CheckpointConversionError, match="base_ssl.pt does not fit.*`encoder_layers` is 3.*have 2"):
        convert(path, tmp_path / "none")


def test_an_encoder_alone_and_the_published_shapes_without_configuration(tmp_path):
    with torch.device("meta"):
        full = DeepECGSSLForPreTraining(DeepECGSSLConfig())
    source = SourceCheckpoint(tmp_path / "x.pt", None, original_state(full))
    assert converter.matches(source)
    converted = converter.convert(source)
    assert converted.model_class is DeepECGSSLForPreTraining
    assert any("holds no configuration" in note for note in converted.notes)
    assert {name: value.shape for name, value in converted.tensors.items()} == {
        name: value.shape for name, value in full.state_dict().items()
    }
    assert converted.config.to_dict() == DeepECGSSLConfig().to_dict()
    tiny = build(DeepECGSSLModel)
    path = write(tmp_path / "encoder.pt", tiny, original_settings(tiny.config))
    convert(path, tmp_path / "out")
    assert type(AutoModel.from_pretrained(tmp_path / "out")) is DeepECGSSLModel
    with pytest.raises(CheckpointConversionError, match="no classification head"):
        convert(path, tmp_path / "none", label_names=["a"])


def test_half_precision_becomes_single(tmp_path):
    model = build(DeepECGSSLForPreTraining)
    state = {name: value.half() for name, value in original_state(model).items()}
    path = write(tmp_path / "ssl.pt", model, original_settings(model.config), state=state)
    convert(path, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in written.values()} == {torch.float32}
    expected = {name: value.half().float() for name, value in model.state_dict().items()}
    assert all(torch.equal(written[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "rate, recipe, expected",
    [(None, None, 250), (250, None, 250), (500, None, 500), (None, "ecg_fm", 500), (250, "ecg_fm", 500)],
)
def test_the_recipe_follows_from_the_sampling_rate(tmp_path, rate, recipe, expected):
    model = build(DeepECGSSLForPreTraining)
    path = write(tmp_path / "ssl.pt", model, original_settings(model.config), {"sample_rate": rate})
    notes = convert(path, tmp_path / "out", recipe=recipe)
    assert any("does not say its sampling rate" in note for note in notes) == (rate is None)
    steps = {step["step"]: step for step in AutoFeatureExtractor.from_pretrained(tmp_path / "out").recipe}
    assert steps["resample"]["sampling_rate"] == expected
    assert steps["crop"]["seconds"] == 2500 / expected


def test_what_the_recipe_cannot_tell(tmp_path):
    model = build(DeepECGSSLForPreTraining)
    path = write(tmp_path / "ssl.pt", model, original_settings(model.config), {"sample_rate": 360})
    with pytest.raises(CheckpointConversionError, match="360 Hz.*feature_extractor"):
        convert(path, tmp_path / "out")
    path = write(tmp_path / "ssl.pt", model, original_settings(model.config), {"sample_rate": 250, "normalize": True})
    assert any("`normalize`" in note for note in convert(path, tmp_path / "out"))
    eight = build(DeepECGSSLForPreTraining, num_leads=8)
    path = write(tmp_path / "eight.pt", eight, original_settings(eight.config), {"sample_rate": 250})
    assert any("8 leads" in note for note in convert(path, tmp_path / "eight"))


# Labels


def finetuned(path, num_labels, **options):
    model = build(DeepECGSSLForSequenceClassification, mask_time_prob=0.0, num_labels=num_labels)
    return write(path, model, original_settings(model.config, mask_prob=0.0, num_labels=num_labels), **options)


def test_the_77_labels_in_the_order_of_the_transformer(tmp_path):
    notes = convert(finetuned(tmp_path / "best.pt", 77), tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    names = deepecg_labels("deepecg_ssl")
    assert [config.id2label[index] for index in range(77)] == names != deepecg_labels("deepecg_sl")
    assert config.thresholds == deepecg_thresholds("deepecg_ssl") and config.thresholds["Brugada"] is None
    assert config.threshold_criterion == "youden" and config.label_groups == label_groups()
    # Whose labels they are tells whose recipe it is
    assert len(notes) == 1 and "Brugada" in notes[0]


def test_golden_order_of_the_labels(golden, tmp_path):
    folder = golden / "deepecg_sl" / "labels"
    facts = json.loads((folder / "labels.json").read_text())
    raw = load_file(folder / "conversion.safetensors")["wcr_raw_probabilities"]
    named = json.loads((folder / "named_probabilities.json").read_text())
    convert(finetuned(tmp_path / "best.pt", 77), tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    by_name = [{config.id2label[index]: row[index].item() for index in range(77)} for row in raw]
    reordered = load_file(folder / "conversion.safetensors")["wcr_reordered"]
    lists = [value for value in facts.values() if isinstance(value, list) and len(value) == 77]
    labels = next(value for value in lists if all(isinstance(name, str) for name in value))
    for row, expected in zip(by_name, reordered, strict=True):
        assert [row[label] for label in labels] == expected.tolist()
    assert named


@pytest.mark.parametrize("place", ["file", "folder"])
def test_published_biomarkers_are_known_by_their_names(tmp_path, place):
    name = "wcr_lvef_equal_under_40"
    path = tmp_path / f"{name}.pt" if place == "file" else tmp_path / name / "best.pt"
    source = finetuned(path, 1)
    for given in (source, source.parent) if place == "folder" else (source,):
        out = tmp_path / ("out" + given.name)
        convert(given, out)
        config = AutoConfig.from_pretrained(out)
        (label,) = config.id2label.values()
        assert config.thresholds == {label: biomarker_thresholds("deepecg_ssl")[label]}
        assert config.problem_type == "multi_label_classification"


def test_label_names(tmp_path):
    path = finetuned(tmp_path / "best.pt", 2)
    notes = convert(path, tmp_path / "plain")
    assert any("label_names" in note for note in notes)
    convert(path, tmp_path / "named", label_names=["a", "b"])
    assert AutoConfig.from_pretrained(tmp_path / "named").id2label == {0: "a", 1: "b"}
    with pytest.raises(CheckpointConversionError, match="2 labels.*1 names"):
        convert(path, tmp_path / "none", label_names=["a"])


@pytest.mark.parametrize(
    "criterion, expected",
    [
        ("binary_cross_entropy_with_logits", "multi_label_classification"),
        ("mse", "regression"),
        ("cross_entropy", "single_label_classification"),
    ],
)
def test_the_problem_type_follows_from_the_criterion(tmp_path, criterion, expected):
    path = finetuned(tmp_path / "best.pt", 2, criterion={"_name": criterion})
    convert(path, tmp_path / "out")
    assert AutoConfig.from_pretrained(tmp_path / "out").problem_type == expected


# What does not fit


@pytest.mark.parametrize(
    "change, message",
    [
        ({"drop": "encoder.layers.0.fc1.bias"}, "missing.*intermediate_dense.bias"),
        ({"drop": "encoder.layers.0.fc1.weight"}, r"numbered \[1\]"),
        ({"drop": "conv_pos.pos_conv.0.weight_v"}, "positional convolution"),
        ({"drop": "mask_emb"}, "mask"),
        ({"drop": "quantizer.vars"}, "lacks quantizer.vars"),
        ({"add": {"surplus.weight": torch.ones(2)}}, "unexpected.*surplus.weight"),
        ({"add": {"layer_norm.weight": torch.ones(9)}}, "of another shape.*feature_projection"),
        ({"add": {"layer_norm.weight": torch.full((8,), torch.nan)}}, "NaN"),
        ({"add": {"layer_norm.weight": torch.ones(8, dtype=torch.int64)}}, "not in floating point.*torch.int64"),
        ({"add": {"layer_norm.weight": torch.ones(8, dtype=torch.complex64)}}, "not in floating point.*complex64"),
        ({"set": {"conv_feature_layers": "[(8, 2, 2)] * 3 + [(8, 2, 0)]"}}, "conv_stride"),
        ({"set": {"conv_feature_layers": "[(8, 2, 20)] * 4"}}, "takes 8422 samples"),
        ({"set": {"conv_feature_layers": "[" * 90 + "1" + "]" * 90}}, "no list of"),
        ({"set": {"conv_feature_layers": "(" * 3000}}, r"\(… is no list of"),
        ({"set": {"latent_temp": "9**9**9"}}, "`latent_temp` holds 3 numbers"),
        ({"add": {"project_q.weight": torch.ones(8, 7)}}, "do not fit together"),
        ({"set": {"encoder_layers": 3}}, "`encoder_layers` is 3.*different checkpoints"),
        ({"set": {"conv_pos": 9}}, "`conv_pos` is 9"),
        ({"set": {"extractor_mode": "layer_norm"}}, "extractor_mode"),
        ({"set": {"extractor_mode": "other"}}, "extractor_mode"),
        ({"set": {"conv_feature_layers": "[(8, 2, 2)] * 3"}}, "conv_feature_layers"),
        ({"set": {"conv_feature_layers": "__import__('os').system('true')"}}, "no list of"),
        ({"set": {"conv_feature_layers": "[(8, 2, 2)] * 10**9"}}, "no list of"),
        ({"set": {"conv_feature_layers": "[(8, 2)] * 4"}}, "no list of"),
        ({"set": {"conv_feature_layers": 5}}, "no list of"),
        ({"set": {"encoder_attention_heads": 3}}, "num_attention_heads"),
        ({"set": {"encoder_attention_heads": "2"}}, "num_attention_heads"),
        ({"unset": "layer_norm_first"}, "layer_norm_first"),
        ({"set": {"quantize_targets": False}}, "quantize_targets"),
        ({"set": {"target_glu": True}}, "target_glu"),
        ({"set": {"latent_vars": 5}}, "latent_vars"),
        ({"set": {"latent_temp": [1, 2]}}, "latent_temp"),
    ],
)
def test_damaged_pretraining_files(tmp_path, change, message):
    model = build(DeepECGSSLForPreTraining)
    state = original_state(model)
    if "drop" in change:
        del state[change["drop"]]
    state |= change.get("add", {})
    settings = original_settings(model.config, **change.get("set", {}))
    settings.pop(change.get("unset"), None)
    path = write(tmp_path / "ssl.pt", model, settings, state=state)
    with pytest.raises(CheckpointConversionError, match=message):
        convert(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_finetuned_files(tmp_path):
    model = build(DeepECGSSLForSequenceClassification, mask_time_prob=0.0)
    settings = original_settings(model.config, mask_prob=0.0, num_labels=4)
    path = write(tmp_path / "best.pt", model, settings)
    with pytest.raises(CheckpointConversionError, match="states 4 labels and its head has 3"):
        convert(path, tmp_path / "out")
    state = original_state(model)
    state["proj.other.weight"] = state.pop("proj.weight")
    path = write(tmp_path / "best.pt", model, settings, state=state)
    with pytest.raises(CheckpointConversionError, match="proj.other.weight.*none of DeepECG-SSL's"):
        convert(path, tmp_path / "out")


def test_options_of_the_pretraining_that_are_not_here_are_told(tmp_path):
    model = build(DeepECGSSLForPreTraining)
    settings = original_settings(model.config, codebook_negatives=5)
    path = write(tmp_path / "ssl.pt", model, settings, criterion={"_name": "x", "infonce": False})
    assert any("codebook_negatives 5, infonce False" in note for note in convert(path, tmp_path / "out"))


def test_other_models_are_not_taken_for_it(golden):
    others = [path for path in (golden / "hubert_ecg").glob("*/*.pt")] + [
        golden / "hubert_ecg/hub_checkpoint/checkpoint"
    ]
    for path in others:
        assert not converter.matches(read_source(path))


# The configuration as an object of omegaconf


def test_dictconfig_is_read_as_the_plain_configuration(golden):
    folder = golden / "deepecg_ssl" / "pretrained_checkpoint"
    plain, wrapped = (read_source(folder / name) for name in ("checkpoint.pt", "checkpoint_dictconfig.pt"))
    assert wrapped.config == plain.config
    assert wrapped.config["model"]["latent_temp"] == [2, 0.5, 0.999995]


def omegaconf_like(monkeypatch):
    """Modules whose classes pickle under the names of omegaconf's."""
    made = {}
    for module, names in (
        ("omegaconf.dictconfig", ["DictConfig"]),
        ("omegaconf.listconfig", ["ListConfig"]),
        ("omegaconf.nodes", ["AnyNode"]),
    ):
        stand_in = types.ModuleType(module)
        for name in names:
            made[name] = type(name, (), {"__module__": module})
            setattr(stand_in, name, made[name])
        monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    return made


def wrapped(made, kind, **attributes):
    value = made[kind]()
    vars(value).update(attributes)
    return value


def test_wrapped_settings(monkeypatch, tmp_path):
    made = omegaconf_like(monkeypatch)
    node = wrapped(made, "AnyNode", _val="${other}")
    items = wrapped(made, "ListConfig", _content=[wrapped(made, "AnyNode", _val=1), node])
    config = wrapped(made, "DictConfig", _content={"a": items, "b": items, "empty": wrapped(made, "DictConfig")})
    torch.save(config, tmp_path / "config.pt")
    read = plain_settings(load_without_running(tmp_path / "config.pt"))
    assert read == {"a": [1, "${other}"], "b": [1, "${other}"], "empty": None}


def test_wrapped_settings_without_end(monkeypatch, tmp_path):
    made = omegaconf_like(monkeypatch)
    config = wrapped(made, "DictConfig", _content={})
    config._content["again"] = config
    torch.save(config, tmp_path / "config.pt")
    with pytest.raises(CheckpointConversionError, match="holds itself"):
        plain_settings(load_without_running(tmp_path / "config.pt"))
    deep = wrapped(made, "AnyNode", _val=1)
    for _ in range(3000):
        outer = made["DictConfig"]()
        outer._content = {"deeper": deep}
        deep = outer
    with pytest.raises(CheckpointConversionError, match="too deeply"):
        # Built here: the pickle of so deep an object cannot be written either
        plain_settings(as_bags(deep))


def as_bags(value):
    from ecg_transformers.restricted_unpickling import AttributeBag

    bags = []
    while type(value).__name__ == "DictConfig":
        bag = object.__new__(
            type("DictConfig", (AttributeBag,), {"qualified_name": "omegaconf.dictconfig.DictConfig"})
        )
        if bags:
            bags[-1]._content = {"deeper": bag}
        bags.append(bag)
        value = value._content["deeper"]
    return bags[0]
