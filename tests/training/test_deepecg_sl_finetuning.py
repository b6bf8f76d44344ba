"""Fine-tuning a network whose layers keep running statistics."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ecg_transformers import (
    DeepECGSLConfig,
    DeepECGSLForSequenceClassification,
    ECGFeatureExtractor,
    ECGInference,
    load_corpus,
)
from ecg_transformers.labels import describe_deepecg_head
from ecg_transformers.training import finetune, parse_finetuning_arguments

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "stage_depths": [1, 2, 1, 1, 2, 1],
    "stage_channels": [4, 4, 8, 8, 8, 8],
    "stem_channels": 4,
    "hidden_size": 8,
}


@pytest.fixture(scope="module")
def run(corpus_folder, tmp_path_factory):
    def run(*options, output="run"):
        folder = tmp_path_factory.mktemp(output) / "run"
        settings = {"corpus": corpus_folder, "output_dir": folder, "bootstrap_resamples": 0, "disable_tqdm": "true"}
        settings |= {"per_device_train_batch_size": 10, "num_train_epochs": 2, "use_cpu": "true"}
        arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        return finetune(*parse_finetuning_arguments([*arguments, *map(str, options)]))

    return run


@pytest.fixture(scope="module")
def scratch(run):
    return run("--model_type", "deepecg_sl", "--size", "tiny", "--layerdrop", 0.25)


def test_from_scratch(scratch):
    config = json.loads((scratch.output_dir / "config.json").read_text())
    assert config["model_type"] == "deepecg_sl" and config["drop_path_rate"] == 0.25
    assert config["stage_channels"] == [8, 16, 32] and set(config["thresholds"]) == set(scratch.label_names)
    weights = load_file(scratch.output_dir / "model.safetensors")
    # Of the better of two epochs of three steps
    assert weights["deepecg_sl.stem.norm.num_batches_tracked"] in (3, 6)
    recipe = json.loads((scratch.output_dir / "preprocessor_config.json").read_text())["recipe"]
    assert recipe == ECGFeatureExtractor.for_model_type("deepecg_sl").recipe
    assert scratch.test["macro_auroc"] is not None


def test_a_frozen_network_keeps_its_statistics(scratch, run):
    options = ("--model_name_or_path", scratch.output_dir, "--learning_rate", 1e-2)
    before = load_file(scratch.output_dir / "model.safetensors")
    frozen = load_file(run(*options, "--freeze_encoder").output_dir / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], frozen[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    partly = load_file(run(*options, "--unfreeze_last", 1).output_dir / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], partly[name])}
    assert {"deepecg_sl.stages.2.blocks.0.convolution.norm.running_mean", "deepecg_sl.final.conv.weight"} <= changed
    assert all(name.startswith(("classifier.", "deepecg_sl.stages.2.", "deepecg_sl.final.")) for name in changed)


def test_other_labels_than_those_of_the_checkpoint(run, tmp_path):
    fields, _ = describe_deepecg_head("deepecg_sl", 77)
    model = DeepECGSLForSequenceClassification(DeepECGSLConfig(**SMALL, **fields))
    model.save_pretrained(tmp_path)
    ECGFeatureExtractor.for_model_type("deepecg_sl").save_pretrained(tmp_path)
    result = run("--model_name_or_path", tmp_path, "--max_steps", 1)
    config = json.loads((result.output_dir / "config.json").read_text())
    assert list(config["id2label"].values()) == result.label_names and len(result.label_names) < 77
    assert "label_groups" not in config and "threshold_source" not in config
    assert config["threshold_criterion"] == "f1" and set(config["thresholds"]) == set(result.label_names)
    # A network with a head keeps the regularisation that it was trained with
    assert config["drop_path_rate"] == 0.304


def test_two_processes_evaluate_the_model_that_is_saved(corpus_folder, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    options = {"corpus": corpus_folder, "output_dir": tmp_path / "run", "model_type": "deepecg_sl", "size": "tiny"}
    options |= {"per_device_train_batch_size": 5, "num_train_epochs": 1, "bootstrap_resamples": 0, "use_cpu": "true"}
    # Without evaluation nothing is loaded at the end, which would make the processes alike
    options |= {"disable_tqdm": "true", "learning_rate": 0.01, "eval_strategy": "no"}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    script = str(ROOT / "training_scripts" / "finetune_classification.py")
    done = subprocess.run([*launch, script, *arguments], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]

    inference = ECGInference.from_pretrained(tmp_path / "run", device="cpu")
    test = load_corpus(corpus_folder)["test"]
    probabilities, _, _ = inference([test[index]["ecg"] for index in range(len(test))])
    with (tmp_path / "run" / "test_predictions.csv").open() as file:
        rows = {row["record_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(test) == 10
    for name, values in zip(test["record_id"], probabilities, strict=True):
        written = [float(rows[name][f"{label}_probability"]) for label in inference.label_names]
        assert written == pytest.approx(values.tolist(), abs=1e-5)
