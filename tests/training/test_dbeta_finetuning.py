"""Fine-tuning the ECG branch of a two-tower model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ecg_transformers import DBetaForSequenceClassification, ECGFeatureExtractor, convert_checkpoint
from ecg_transformers.training import finetune, parse_finetuning_arguments
from ecg_transformers.training.building import build_model


@pytest.fixture(scope="module")
def arguments(corpus_folder, tmp_path_factory):
    def make(*options):
        folder = tmp_path_factory.mktemp("dbeta") / "run"
        settings = {"corpus": corpus_folder, "output_dir": folder, "bootstrap_resamples": 0, "disable_tqdm": "true"}
        settings |= {"per_device_train_batch_size": 10, "num_train_epochs": 1, "use_cpu": "true"}
        given = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        return parse_finetuning_arguments([*given, *map(str, options)])

    return make


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    return convert_checkpoint(golden / "dbeta" / "pretraining", tmp_path_factory.mktemp("dbeta") / "converted")


def test_from_scratch(arguments):
    options = ("--model_type", "dbeta", "--size", "tiny", "--layerdrop", 0.1, "--dropout", 0.2)
    done = finetune(*arguments(*options, "--layerwise_lr_decay", 0.8, "--pos_weight", "auto"))
    config = json.loads((done.output_dir / "config.json").read_text())
    assert config["architectures"] == ["DBetaForSequenceClassification"] and config["ecg_only"] is True
    ecg = config["ecg_config"]
    assert ecg["layerdrop"] == 0.1
    assert ecg["hidden_dropout"] == ecg["attention_dropout"] == ecg["feat_proj_dropout"] == 0.2
    assert len(config["pos_weight"]) == len(done.label_names) and max(config["pos_weight"]) > 1
    assert not [name for name in load_file(done.output_dir / "model.safetensors") if "text" in name]
    recipe = json.loads((done.output_dir / "preprocessor_config.json").read_text())["recipe"]
    assert recipe == ECGFeatureExtractor.for_model_type("dbeta").recipe


def test_from_the_whole_model(arguments, converted):
    options = ("--model_name_or_path", converted, "--learning_rate", 1e-2)
    before = load_file(converted / "model.safetensors")

    def changed(*more):
        after = load_file(finetune(*arguments(*options, *more)).output_dir / "model.safetensors")
        assert after.keys() - {"classifier.weight", "classifier.bias"} <= before.keys()
        return {name for name in after if name not in before or not torch.equal(before[name], after[name])}

    assert changed("--freeze_encoder") == {"classifier.weight", "classifier.bias"}
    partly = changed("--unfreeze_last", 1)
    assert {"dbeta.ecg_projection.weight", "dbeta.ecg_pooler.dense.weight", "classifier.weight"} <= partly
    assert all(
        name.startswith(("classifier.", "dbeta.ecg_encoder.layers.1.", "dbeta.ecg_projection.", "dbeta.ecg_pooler."))
        for name in partly
    )


def test_the_head_of_the_whole_model(arguments, converted):
    overrides = "ecg_config.activation_dropout=0.3,classifier_hidden_size=7"
    model_args, *_ = arguments("--model_name_or_path", converted, "--head", "mlp", "--config_overrides", overrides)
    built = build_model(model_args, ["a", "b"], "multi_label_classification", [1.0, 2.0])
    assert type(built.model) is DBetaForSequenceClassification and built.head_is_new
    assert built.model.classifier[0].out_features == 7
    ecg = built.model.config.ecg_config
    assert (ecg.hidden_dropout, ecg.activation_dropout) == (0.0, 0.3)
    for overrides, message in (
        ("ecg_config.depth=3", "ecg_config.depth"),
        ("text_config=3", "text_config.<field>"),
        ("ecg_config.num_attention_heads=5", "num_attention_heads"),
    ):
        model_args, *_ = arguments("--model_name_or_path", converted, "--config_overrides", overrides)
        with pytest.raises(ValueError, match=message):
            build_model(model_args, ["a", "b"], "multi_label_classification")
