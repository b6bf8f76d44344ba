import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining
from transformers import AutoModelForSequenceClassification as AutoClassifier

from ecg_transformers import (
    ECGFeatureExtractor,
    HubertECGConfig,
    HubertECGForPreTraining,
    HubertECGForSequenceClassification,
    HubertECGModel,
)
from ecg_transformers.checkpoint_sources import read_source
from ecg_transformers.conversion import CheckpointConversionError, convert_checkpoint
from ecg_transformers.restricted_unpickling import UnsafePickleError

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "classifier_proj_size": 8,
    "conv_dim": [8, 8, 8, 8, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
WRITTEN = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


class HuBERTECGConfig:
    """Stands in for the original's configuration class: pickled, it is a class that the reader does not have."""

    def __init__(self, **attributes):
        vars(self).update(attributes)


def original_file(path, *, head=None, labels=5, older=False, drop=(), add=None, entries=None, **config):
    """Write what the original's training scripts write, from a tiny model with random weights."""
    torch.manual_seed(0)
    settings = {**TINY, **config}
    content = {"global_step": 7, "best_val_loss": torch.tensor(0.5), "optimizer_state_dict": {"state": {}}}
    if head is None:
        model = HubertECGForPreTraining(HubertECGConfig(vocab_sizes=[6, 9], **settings))
        state = {name.removeprefix("hubert_ecg."): value for name, value in model.state_dict().items()}
        content["pretraining_vocab_sizes"] = [6, 9]
    else:
        model = HubertECGForSequenceClassification(
            HubertECGConfig(classifier_head=head, num_labels=labels, **settings)
        )
        state = model.state_dict()
        if head == "label_embedding":
            state["label_embedding.weight"] = state.pop("classifier.weight")
        content |= {"linear": head == "linear", "use_label_embedding": head == "label_embedding"}
        content["finetuning_vocab_size"] = labels
    if older:
        old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        for new_name, old_name in old.items():
            key = next(key for key in state if key.endswith(new_name))
            state[key.replace(new_name, old_name)] = state.pop(key)
    for name in drop:
        del state[name]
    state |= add or {}
    defaults = {"output_attentions": True, "top_k": 50, "id2label": {0: "LABEL_0", 1: "LABEL_1"}}
    content["model_config"] = HuBERTECGConfig(**{**defaults, **settings})
    content["model_state_dict"] = state
    torch.save(content | (entries or {}), path)
    return path, model.eval()


def rows_with_padding(case):
    inputs = load_file(case / "inputs.safetensors")
    # The zeros moved to the end of the row, where the original's counting and our looking agree
    mask = inputs["attention_mask"].long().sort(dim=1, descending=True).values
    return inputs["input_values"], mask, mask.any(dim=1)


def only_file(case):
    return next(case.glob("*.pt"))


@pytest.mark.parametrize("name", ["pt_pretrained", "pt_pretrained_hubertconfig"])
def test_golden_pretraining_files(golden, tmp_path, name):
    case = golden / "hubert_ecg" / name
    outputs = load_file(case / "outputs.safetensors")
    atol = json.loads((case / "case.json").read_text())["atol"]
    folder = convert_checkpoint(only_file(case), tmp_path / "converted")
    assert {file.name for file in folder.iterdir()} == WRITTEN
    values, mask, rows = rows_with_padding(case)

    backbone, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        plain = backbone(values, output_hidden_states=True)
        masked = backbone(values, attention_mask=mask, output_hidden_states=True)
    assert torch.equal(backbone.get_token_mask(mask)[rows], outputs["masked.token_mask"][rows].bool())
    torch.testing.assert_close(plain.last_hidden_state, outputs["last_hidden_state"], atol=atol, rtol=0)
    for index in (0, 2):
        key = f"hidden_states.{index}"
        torch.testing.assert_close(plain.hidden_states[index], outputs[key], atol=atol, rtol=0)
        torch.testing.assert_close(
            masked.hidden_states[index][rows], outputs["masked." + key][rows], atol=atol, rtol=0
        )

    model, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        plain, masked = model(values).logits, model(values, attention_mask=mask).logits
    for index in range(len(plain)):
        key = f"codebook_logits.{index}"
        torch.testing.assert_close(plain[index], outputs[key], atol=atol, rtol=0)
        torch.testing.assert_close(masked[index][rows], outputs["masked." + key][rows], atol=atol, rtol=0)
    assert model.config.vocab_sizes == [outputs[f"codebook_logits.{i}"].shape[-1] for i in range(len(plain))]


@pytest.mark.parametrize("head", ["linear", "mlp", "label_embedding"])
def test_golden_fine_tuned_files(golden, tmp_path, head):
    case = golden / "hubert_ecg" / f"pt_finetuned_{head}"
    outputs = load_file(case / "outputs.safetensors")
    atol = json.loads((case / "case.json").read_text())["atol"]
    folder = convert_checkpoint(only_file(case), tmp_path / "converted")
    model, info = AutoClassifier.from_pretrained(folder, output_loading_info=True)
    assert type(model) is HubertECGForSequenceClassification
    assert not any(info.values())
    assert model.config.classifier_head == head
    values, mask, rows = rows_with_padding(case)
    with torch.no_grad():
        plain = model(values, output_hidden_states=True)
        masked = model(values, attention_mask=mask, output_hidden_states=True)
    torch.testing.assert_close(plain.logits, outputs["logits"], atol=atol, rtol=0)
    torch.testing.assert_close(plain.logits.sigmoid(), outputs["probabilities"], atol=atol, rtol=0)
    torch.testing.assert_close(plain.hidden_states[-1], outputs["last_hidden_state"], atol=atol, rtol=0)
    torch.testing.assert_close(masked.logits[rows], outputs["masked.logits"][rows], atol=atol, rtol=0)
    assert masked.logits.isfinite().all()
    # The original zeroes the padded tokens of the hidden states it returns; ours keeps them
    zeroed = masked.hidden_states[-1] * model.get_token_mask(mask)[..., None]
    torch.testing.assert_close(zeroed[rows], outputs["masked.last_hidden_state"][rows], atol=atol, rtol=0)
    pooled = model.pool_tokens(masked.hidden_states[-1], mask)
    torch.testing.assert_close(pooled[rows], outputs["masked.pooled"][rows], atol=atol, rtol=0)


def test_golden_crops(golden, tmp_path):
    case = golden / "hubert_ecg" / "tta"
    inputs, outputs = np.load(case / "inputs.npz"), np.load(case / "outputs.npz")
    model = AutoClassifier.from_pretrained(convert_checkpoint(only_file(case), tmp_path / "converted"))
    records = torch.from_numpy(outputs["decimated_10s"]).view(3, 12, 1000)
    probabilities = []
    for starts in inputs["crop_start_100hz"]:
        crops = [record[:, start : start + 500].flatten() for record, start in zip(records, starts, strict=True)]
        with torch.no_grad():
            probabilities.append(model(torch.stack(crops)).logits.sigmoid())
    probabilities = torch.stack(probabilities)
    expected = {
        "probabilities_per_crop": probabilities,
        "probabilities_mean": probabilities.mean(0),
        "probabilities_max": probabilities.amax(0),
    }
    for name, actual in expected.items():
        torch.testing.assert_close(actual, torch.from_numpy(outputs[name]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["hub_checkpoint", "hub_checkpoint_old_keys", "hub_checkpoint_other_kernels"])
def test_golden_folders(golden, tmp_path, name):
    case = golden / "hubert_ecg" / name
    outputs = load_file(case / "outputs.safetensors")
    folder = convert_checkpoint(case / "checkpoint", tmp_path / "converted")
    assert {file.name for file in folder.iterdir()} == WRITTEN
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert not any("weight_g" in key for key in load_file(folder / "model.safetensors"))
    model, info = AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    values = load_file(case / "inputs.safetensors")["input_values"]
    with torch.no_grad():
        torch.testing.assert_close(model(values).logits[0], outputs["codebook_logits.0"], atol=2e-5, rtol=0)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    row = extractor(np.random.default_rng(0).normal(size=(12, 5000)), sampling_rate=500, return_tensors="pt")
    assert row["input_values"].shape == (1, values.shape[1])


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("head", [None, "linear", "mlp", "label_embedding"])
def test_original_files(tmp_path, head, older):
    path, model = original_file(tmp_path / "original.pt", head=head, older=older)
    folder = convert_checkpoint(path, tmp_path / "deep" / "converted")
    assert {file.name for file in folder.iterdir()} == WRITTEN
    assert os.listdir(folder.parent) == ["converted"]
    again = (AutoModelForPreTraining if head is None else AutoClassifier).from_pretrained(folder)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    if head is not None:
        assert again.config.id2label == {index: f"LABEL_{index}" for index in range(5)}
        assert again.config.problem_type == "multi_label_classification"
        assert again.config.vocab_sizes is None
    assert again.config.output_attentions is False


def test_plain_backbone_folder(tmp_path):
    config = HubertECGConfig(**TINY)
    model = HubertECGModel(config)
    model.save_pretrained(tmp_path / "backbone")
    folder = convert_checkpoint(tmp_path / "backbone", tmp_path / "converted")
    assert AutoConfig.from_pretrained(folder).architectures == ["HubertECGModel"]
    # The same weights in torch's own format, in half precision
    (tmp_path / "backbone" / "model.safetensors").unlink()
    state = {name: value.half() for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "backbone" / "pytorch_model.bin")
    folder = convert_checkpoint(tmp_path / "backbone", tmp_path / "half")
    assert AutoModel.from_pretrained(folder).dtype == torch.float16


def test_label_names(tmp_path):
    path, _ = original_file(tmp_path / "original.pt", head="linear", labels=3)
    names = ["AF", "RBBB", "1dAVb"]
    (tmp_path / "labels.txt").write_text("\n".join(names) + "\n\n")
    for index, given in enumerate((names, tmp_path / "labels.txt")):
        config = AutoConfig.from_pretrained(convert_checkpoint(path, tmp_path / str(index), label_names=given))
        assert [config.id2label[label] for label in range(3)] == names
        assert config.label2id["1dAVb"] == 2
    for wrong in (["AF"], ["AF", "AF", "RBBB"]):
        with pytest.raises(CheckpointConversionError, match="3 labels"):
            convert_checkpoint(path, tmp_path / "wrong", label_names=wrong)
    pretrained, _ = original_file(tmp_path / "pretrained.pt")
    with pytest.raises(CheckpointConversionError, match="no classification head"):
        convert_checkpoint(pretrained, tmp_path / "wrong", label_names=names)
    named = {"id2label": {0: "AF", 1: "RBBB", 2: "LBBB"}}
    path, _ = original_file(tmp_path / "named.pt", head="linear", labels=3, **named)
    config = AutoConfig.from_pretrained(convert_checkpoint(path, tmp_path / "named"))
    assert config.id2label == named["id2label"]


def test_left_over_mask_vector_is_ignored(tmp_path):
    add = {"hubert_ecg.masked_spec_embed": torch.ones(16)}
    path, _ = original_file(tmp_path / "original.pt", head="linear", mask_time_prob=0.0, add=add)
    model = AutoClassifier.from_pretrained(convert_checkpoint(path, tmp_path / "converted"))
    assert not hasattr(model.hubert_ecg, "masked_spec_embed")


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"drop": ["encoder.layers.1.final_layer_norm.bias"]},
            "missing: hubert_ecg.encoder.layers.1.final_layer_norm",
        ),
        ({"add": {"encoder.layers.2.surplus": torch.ones(1)}}, "unexpected: hubert_ecg.encoder.layers.2.surplus"),
        ({"add": {"masked_spec_embed": torch.ones(17)}}, r"masked_spec_embed \(17,\) instead of \(16,\)"),
        ({"add": {"masked_spec_embed": torch.full((16,), torch.nan)}}, "NaN.*masked_spec_embed"),
        ({"entries": {"pretraining_vocab_sizes": [6, 10]}}, r"codebooks of \[6, 10\]"),
        ({"entries": {"model_config": HuBERTECGConfig(**TINY | {"num_attention_heads": 5})}}, "num_attention_heads"),
        ({"entries": {"model_config": HuBERTECGConfig(**TINY | {"hidden_size": "wide"})}}, "hidden_size"),
        ({"head": "mlp", "entries": {"linear": True}}, "'linear' head"),
        ({"head": "linear", "entries": {"finetuning_vocab_size": 4}}, "4 labels and its head has 5"),
        ({"head": "linear", "drop": ["classifier.bias"]}, "missing: classifier.bias"),
        ({"conv_stride": [4, 2, 2, 2, 3]}, "conv_stride"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.split()[0],
)
def test_what_does_not_fit_is_an_error(tmp_path, options, message):
    path, _ = original_file(tmp_path / "original.pt", **options)
    with pytest.raises(CheckpointConversionError, match=message) as caught:
        convert_checkpoint(path, tmp_path / "converted")
    assert str(path) in str(caught.value)
    assert os.listdir(tmp_path) == ["original.pt"]


class Call:
    def __reduce__(self):
        return os.system, ("touch it-ran",)


def test_a_file_that_would_run_something_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = original_file(tmp_path / "original.pt", entries={"scheduler": Call()})
    with pytest.raises(UnsafePickleError, match="system"):
        convert_checkpoint(path, tmp_path / "converted")
    assert os.listdir(tmp_path) == ["original.pt"]


def test_unknown_and_damaged_sources(tmp_path):
    def check(name, message, error=CheckpointConversionError, **options):
        with pytest.raises(error, match=message):
            convert_checkpoint(tmp_path / name, tmp_path / "converted", **options)
        assert not (tmp_path / "converted").exists()

    check("absent.pt", "absent.pt", FileNotFoundError)
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    check("other.pt", "recognised as none of .*hubert_ecg")
    check("other.pt", "No model type 'bert'", ValueError, model_type="bert")
    check("other.pt", "missing", model_type="hubert_ecg")
    check("other.pt", "nobody else has published weights of the model type 'hybrid_ecg'", model_type="hybrid_ecg")
    torch.save([1, 2], tmp_path / "list.pt")
    check("list.pt", "not a dictionary")
    torch.save({"model_state_dict": {}, "epoch": 3}, tmp_path / "empty.pt")
    check("empty.pt", "no weights")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:300])
    check("cut.pt", "cut.pt", ValueError)
    folder = tmp_path / "folder"
    folder.mkdir()
    check("folder", "no weights")
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    check("folder", "no config.json")
    (folder / "config.json").write_text("{")
    check("folder", "no JSON")
    (folder / "config.json").write_text(json.dumps({"model_type": "hubert_ecg", **TINY}))
    (folder / "model.safetensors").write_bytes(b"12345678")
    check("folder", "damaged")
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    check("folder", "recognised as none")


def test_destination(tmp_path):
    path, _ = original_file(tmp_path / "original.pt")
    folder = tmp_path / "converted"
    folder.mkdir()
    convert_checkpoint(path, folder)
    with pytest.raises(FileExistsError, match="overwrite"):
        convert_checkpoint(path, folder)
    (folder / "notes.txt").write_text("keep")
    (folder / "config.json").write_text("{}")
    convert_checkpoint(path, folder, overwrite=True)
    assert {file.name for file in folder.iterdir()} == {*WRITTEN, "notes.txt"}
    AutoModel.from_pretrained(folder)
    with pytest.raises(FileExistsError, match="same folder"):
        convert_checkpoint(folder, folder, overwrite=True)
    with pytest.raises(FileExistsError, match="is a file"):
        convert_checkpoint(path, path, overwrite=True)
    shutil.rmtree(folder)
    convert_checkpoint(path, folder, recipe="hubert_ecg_filter_first")
    steps = [entry["step"] for entry in AutoFeatureExtractor.from_pretrained(folder).recipe]
    assert steps.index("bandpass_fir") < steps.index("resample")


def fine_tuned_folder(folder, **extra):
    """A folder as the fine-tuning script leaves it: labels, thresholds, window rules, a recipe of its choice."""
    labels = {"id2label": {0: "AF", 1: "RBBB", 2: "LBBB"}, "label2id": {"AF": 0, "RBBB": 1, "LBBB": 2}}
    settings = {
        "classifier_head": "mlp",
        "problem_type": "multi_label_classification",
        "pos_weight": [1.0, 2.0, 3.0],
        "thresholds": {"AF": 0.25, "RBBB": None, "LBBB": 0.75},
        "threshold_criterion": "youden",
        "eval_windows": "all",
        "window_aggregation": "max",
        "label_groups": {"rhythm": ["AF"], "conduction": ["RBBB", "LBBB"]},
    }
    torch.manual_seed(0)
    model = HubertECGForSequenceClassification(HubertECGConfig(**TINY, **labels, **settings, **extra)).eval()
    model.save_pretrained(folder)
    ECGFeatureExtractor.for_model_type("hubert_ecg", "hubert_ecg_filter_first").save_pretrained(folder)
    return model


def test_a_folder_of_ours_keeps_all_that_it_says(tmp_path):
    model = fine_tuned_folder(tmp_path / "ours")
    torch.save({"state": {}}, tmp_path / "ours" / "optimizer.pt")
    torch.save({}, tmp_path / "ours" / "training_args.bin")
    folder = convert_checkpoint(tmp_path / "ours", tmp_path / "converted")
    before, after = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("ours", "converted"))
    assert before == after
    recipes = [ECGFeatureExtractor.from_pretrained(tmp_path / name).recipe for name in ("ours", "converted")]
    assert recipes[0] == recipes[1] and recipes[1][0]["step"] == "bandpass_fir"
    again = AutoClassifier.from_pretrained(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_renamed_labels_take_their_thresholds_along(tmp_path):
    fine_tuned_folder(tmp_path / "ours")
    names = ["fibrillation", "right block", "left block"]
    config = AutoConfig.from_pretrained(
        convert_checkpoint(tmp_path / "ours", tmp_path / "converted", label_names=names)
    )
    assert config.id2label == dict(enumerate(names))
    assert config.thresholds == {"fibrillation": 0.25, "right block": None, "left block": 0.75}
    assert config.label_groups == {"rhythm": ["fibrillation"], "conduction": ["right block", "left block"]}
    with pytest.raises(CheckpointConversionError, match="3 labels"):
        convert_checkpoint(tmp_path / "ours", tmp_path / "wrong", label_names=names[:2])
    HubertECGModel(HubertECGConfig(**TINY)).save_pretrained(tmp_path / "backbone")
    with pytest.raises(CheckpointConversionError, match="no classification head"):
        convert_checkpoint(tmp_path / "backbone", tmp_path / "wrong", label_names=names)


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers` 1000000000"),
        ({"hidden_size": 10**12}, "hidden_size|instead of|size"),
        ({"hidden_size": -16}, "hidden_size"),
        ({"hidden_size": 32}, r"of another shape: .* instead of \("),
        ({"num_hidden_layers": 3}, "missing: .*layers.2"),
        ({"num_hidden_layers": 1}, "unexpected: .*layers.1"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"conv_dim": "8, 8"}, "conv_dim"),
        ({"conv_kernel": []}, "conv_kernel"),
        ({"conv_kernel": [10, 3, 3, 2, 10**7]}, "of another shape"),
        ({"intermediate_size": None, "hidden_act": "loud"}, "loud|intermediate_size"),
        ({"feat_extract_activation": ["gelu"]}, "feat_extract_activation"),
        ({"id2label": [1, 2]}, "cannot be converted"),
        ({"id2label": {"first": "AF"}}, "cannot be converted"),
        ({"problem_type": 5}, "problem_type"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value.split()[0],
)
def test_absurd_configurations(tmp_path, ours, fields, message):
    fine_tuned_folder(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text()) | fields
    if not ours:
        config["architectures"] = ["HuBERTECG"]
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointConversionError, match=message):
        convert_checkpoint(tmp_path / "folder", tmp_path / "converted")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.parametrize("architectures", [None, [], "HubertECGForSequenceClassification", [["x"]], [7], {"a": 1}])
def test_a_folder_without_its_class_is_recognised_by_its_weights(tmp_path, architectures):
    fine_tuned_folder(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text()) | {"architectures": architectures}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    folder = convert_checkpoint(tmp_path / "folder", tmp_path / "converted")
    assert type(AutoClassifier.from_pretrained(folder)) is HubertECGForSequenceClassification


def test_folders_with_several_files(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    path, model = original_file(source / "finetuned.pt", head="linear")
    original_file(source / "base_ssl.pt")
    torch.save({}, source / "optimizer.pt")
    (source / "broken.json").write_text("{")

    def converted(where, name):
        return AutoClassifier.from_pretrained(convert_checkpoint(where, tmp_path / name))

    # One file besides the companion is meant; JSON files that nobody asks for do no harm
    assert torch.equal(converted(source, "a").classifier.weight, model.classifier.weight)
    original_file(source / "other.pt")
    with pytest.raises(CheckpointConversionError, match=r"several weight files, \['finetuned.pt', 'other.pt'\]"):
        convert_checkpoint(source, tmp_path / "b")
    assert torch.equal(converted(path, "c").classifier.weight, model.classifier.weight)
    checkpoint = read_source(path)
    assert sorted(checkpoint.companions) == ["base_ssl.pt", "other.pt"]
    assert "label_embedding.0.weight" in checkpoint.companions["base_ssl.pt"].tensors
    with pytest.raises(CheckpointConversionError, match="broken.json is no JSON"):
        checkpoint.documents["broken.json"]
    # A lone companion is the checkpoint
    for name in ("finetuned.pt", "other.pt"):
        (source / name).unlink()
    assert read_source(source).tensors.keys() == checkpoint.companions["base_ssl.pt"].tensors.keys()
    # What bears the names of the Hub comes first
    fine_tuned_folder(source)
    assert converted(source, "d").config.id2label[0] == "AF"


def test_parts_of_a_checkpoint(tmp_path):
    model = fine_tuned_folder(tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(parts) > 1
    again = AutoClassifier.from_pretrained(convert_checkpoint(tmp_path / "parts", tmp_path / "converted"))
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    parts[0].unlink()
    with pytest.raises(CheckpointConversionError, match="not all parts"):
        convert_checkpoint(tmp_path / "parts", tmp_path / "wrong")


def test_the_configuration_beside_a_file(tmp_path):
    model = fine_tuned_folder(tmp_path / "folder")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    (tmp_path / "folder" / "model.safetensors").unlink()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "folder" / "weights.pt")
    for number, source in enumerate((tmp_path / "folder", tmp_path / "folder" / "weights.pt")):
        folder = convert_checkpoint(source, tmp_path / str(number))
        again = AutoClassifier.from_pretrained(folder)
        assert again.config.thresholds == {"AF": 0.25, "RBBB": None, "LBBB": 0.75}
        assert torch.equal(again.classifier[2].weight, model.classifier[2].weight)
        assert ECGFeatureExtractor.from_pretrained(folder).recipe[0]["step"] == "bandpass_fir"


class Wrapped:
    """A training script's own class around a model, pickled whole."""


def test_a_module_pickled_whole_is_read_as_its_weights(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv1d(12, 4, 3), torch.nn.BatchNorm1d(4), torch.nn.GELU())
    model.register_buffer("scratch", torch.ones(1), persistent=False)
    torch.save(model, tmp_path / "module.pt")
    read = read_source(tmp_path / "module.pt").tensors
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())
    torch.save({"model": model, "epoch": 1}, tmp_path / "module.pt")
    assert read_source(tmp_path / "module.pt").tensors.keys() == model.state_dict().keys()
    torch.save(Wrapped(), tmp_path / "module.pt")
    with pytest.raises(CheckpointConversionError, match="no weights"):
        read_source(tmp_path / "module.pt")
    torch.save({1: torch.ones(1)}, tmp_path / "module.pt")
    with pytest.raises(CheckpointConversionError, match="without names"):
        read_source(tmp_path / "module.pt")


def test_a_tokenizer_is_for_models_that_take_texts(tmp_path):
    path, _ = original_file(tmp_path / "original.pt")
    with pytest.raises(CheckpointConversionError, match="hubert_ecg takes no texts"):
        convert_checkpoint(path, tmp_path / "converted", tokenizer="google/flan-t5-base")
