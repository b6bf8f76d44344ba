import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from ecg_transformers import (
    HybridECGForPreTraining,
    HybridECGForSequenceClassification,
    HybridECGModel,
    load_corpus,
)
from ecg_transformers.training import (
    AugmentationSettings,
    hybrid_ecg_demo_arguments,
    pretrain_hybrid_ecg,
    run_script,
)
from ecg_transformers.training.hybrid_ecg_arguments import parse_hybrid_ecg_pretraining_arguments
from ecg_transformers.training.hybrid_ecg_pretraining import make_trainer
from ecg_transformers.training.pretraining_building import build_for_pretraining

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts" / "pretrain_hybrid_ecg.py"
WEIGHTS = {"reconstruction_loss": 1, "contrastive_loss": 0.1}
MEASURES = {*WEIGHTS, "alignment", "uniformity"}


@pytest.fixture(scope="module")
def finished(corpus_folder, tiny_hybrid_overrides, tmp_path_factory):
    """A finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "hybrid"
    arguments = ["--corpus", corpus_folder, "--config_overrides", tiny_hybrid_overrides, "--output_dir", folder]
    arguments += ["--num_train_epochs", 2, "--per_device_train_batch_size", 10, "--use_cpu", "--picture_steps", 4]
    arguments += ["--learning_rate", 1e-3, "--mask_strategy", "multi_scale", "--align", "r_peak"]
    arguments = parse_hybrid_ecg_pretraining_arguments([*map(str, arguments), "--disable_tqdm", "true"])
    return folder, pretrain_hybrid_ecg(*arguments)


def weights(folder):
    return load_file(folder / "model.safetensors")


def run_of(folder):
    return json.loads((folder / "run.json").read_text())


def test_the_folder_holds_model_preprocessing_card_and_records(finished):
    folder, _ = finished
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= names
    assert {"run.json", "metrics.json", "README.md"} <= names and "training_args.bin" not in names
    pictures = ["reconstructions/step-000004.png", "reconstructions/final.png"]
    assert {path.name for path in (folder / "reconstructions").iterdir()} == {Path(name).name for name in pictures}
    assert run_of(folder)["model"]["pictures"] == pictures
    assert AutoFeatureExtractor.from_pretrained(folder).window_seconds == 10


def test_the_card_tells_losses_views_and_pictures(finished):
    folder, _ = finished
    card = (folder / "README.md").read_text()
    assert "- Reconstruction, weight 1: 75 % of the tokens hidden (spans of 1 and of 5 tokens, mixed)" in card
    assert "- Contrast, weight 0.1: NT-Xent at temperature 0.1" in card and "at an R peak where one is found" in card
    assert "disturbed by amplitude, powerline" in card and "summary of the paper" in card
    assert "(reconstructions/final.png)" in card and "whether it may be published" in card
    assert "| uniformity | -" in card and "| reconstruction loss |" in card and "2407.07110" in card


def test_every_part_of_the_loss_is_recorded(finished):
    folder, result = finished
    run = run_of(folder)
    assert run["kind"] == "pretraining" and run["training"]["steps"] == 6 and run["training"]["batch_size"] == 10
    assert run["corpus"]["splits"]["train"] == {"records": 30, "patients": 30}
    objective = run["model"]["objective"]
    assert objective["mask_strategy"] == "multi_scale" and objective["align"] == "r_peak"
    assert objective["view_augmentations"]["emg_mv"] == 0.05 and objective["temperature"] == 0.1
    assert len(run["learning_curve"]) == 2
    for entry in run["learning_curve"]:
        for prefix, total in (("", "validation_loss"), ("training_", "training_loss")):
            parts = sum(weight * entry[prefix + name] for name, weight in WEIGHTS.items())
            assert parts == pytest.approx(entry[total], rel=1e-3)
            assert 0 <= entry[f"{prefix}alignment"] <= 4 and -8 <= entry[f"{prefix}uniformity"] < 0
    assert set(result.validation) == {"loss", *MEASURES}
    best = min(entry["validation_loss"] for entry in run["learning_curve"])
    # The best checkpoint is the one that was saved, and validation is the same every time
    assert result.validation["loss"] == pytest.approx(best, rel=1e-5)


def test_the_folder_opens_with_the_auto_classes(finished, corpus_folder):
    folder, _ = finished
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert type(model) is HybridECGModel and not info["missing_keys"]
    record = load_corpus(str(corpus_folder))["test"][0]["ecg"]
    inputs = AutoFeatureExtractor.from_pretrained(folder)(record, return_tensors="pt")
    with torch.no_grad():
        features = model.eval().get_ecg_features(inputs.input_values, inputs.attention_mask)
    assert features.shape == (1, 16) and features.isfinite().all()
    assert set(weights(folder)) == set(AutoModelForPreTraining.from_pretrained(folder).state_dict())
    assert HybridECGForSequenceClassification.from_pretrained(folder, num_labels=3).config.num_labels == 3


@pytest.mark.parametrize("frozen", [False, True])
def test_the_result_is_fine_tuned(finished, make_arguments, tmp_path, frozen):
    """With the common script's function: all of it, or the head alone."""
    from ecg_transformers.training import finetune

    folder, _ = finished
    options = ["--model_name_or_path", folder, "--config_overrides", "", "--learning_rate", 1e-3]
    result = finetune(*make_arguments(*options, "--freeze_encoder", frozen))
    assert 0 <= result.test["macro_auroc"] <= 1
    before, after = weights(folder), weights(tmp_path / "run")
    shared = [name for name in after if name in before]
    assert shared and {name.split(".")[0] for name in shared} == {"hybrid_ecg"}
    changed = [name for name in shared if not torch.equal(before[name], after[name])]
    assert not changed if frozen else len(changed) > len(shared) / 2
    labels = json.loads((tmp_path / "run" / "config.json").read_text())["id2label"]
    assert len(labels) == 9


def test_resumed_run_equals_the_straight_one(make_hybrid_arguments, tmp_path):
    options = ["--num_train_epochs", 2, "--load_best_model_at_end", "false", "--save_total_limit", 10]
    options += ["--picture_steps", 4, "--align", "r_peak"]
    pretrain_hybrid_ecg(*make_hybrid_arguments(*options, output="straight"))
    shutil.copytree(tmp_path / "straight", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-6")
    resume = [*options, "--resume_from_checkpoint", "last"]
    pretrain_hybrid_ecg(*make_hybrid_arguments(*resume, output="resumed"))
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "resumed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    runs = [run_of(tmp_path / name) for name in ("straight", "resumed")]
    assert runs[0]["learning_curve"] == runs[1]["learning_curve"] and len(runs[0]["learning_curve"]) == 2
    names = ["reconstructions/step-000004.png", "reconstructions/final.png"]
    for folder, run in zip(("straight", "resumed"), runs, strict=True):
        assert run["model"]["pictures"] == names
        assert all((tmp_path / folder / name).is_file() for name in names)
    for changed in (["--view_seconds", 4], ["--emg_mv", 0.2], ["--contrastive_loss_weight", 0.2]):
        name = changed[0].lstrip("-")
        with pytest.raises(ValueError, match=f"{name} was .*, is {changed[1]}"):
            pretrain_hybrid_ecg(*make_hybrid_arguments(*resume, *changed, output="resumed"))


@pytest.mark.slow
def test_the_result_does_not_depend_on_workers(make_hybrid_arguments, tmp_path):
    options = ["--max_steps", 4, "--eval_strategy", "no", "--picture_steps", 0]
    pretrain_hybrid_ecg(*make_hybrid_arguments(*options, output="alone"))
    pretrain_hybrid_ecg(*make_hybrid_arguments(*options, "--dataloader_num_workers", 2, output="workers"))
    first, second = weights(tmp_path / "alone"), weights(tmp_path / "workers")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_learning_lowers_both_losses(make_hybrid_arguments):
    options = ["--num_train_epochs", 30, "--learning_rate", 5e-3, "--eval_strategy", "no", "--save_strategy", "no"]
    options += ["--contrastive_loss_weight", 1, "--picture_steps", 0]
    curve = pretrain_hybrid_ecg(*make_hybrid_arguments(*options)).learning_curve
    first, last = curve[0], curve[-1]
    assert last["training_reconstruction_loss"] < 0.95 * first["training_reconstruction_loss"]
    assert last["training_contrastive_loss"] < 0.9 * first["training_contrastive_loss"]


@pytest.mark.parametrize(("missing", "left"), [("contrastive", "reconstruction"), ("reconstruction", "contrastive")])
def test_ablations(make_hybrid_arguments, tmp_path, capsys, missing, left):
    options = [f"--{missing}_loss_weight", 0, f"--{left}_loss_weight", 1, "--max_steps", 3, "--picture_steps", 2]
    options += ["--view_seconds", 20]
    result = pretrain_hybrid_ecg(*make_hybrid_arguments(*options))
    assert result.validation[f"{left}_loss"] == pytest.approx(result.validation["loss"], rel=1e-5)
    measures = {"alignment", "uniformity"} if left == "contrastive" else set()
    assert set(result.validation) == {"loss", f"{left}_loss", *measures}
    card = (tmp_path / "run" / "README.md").read_text()
    if missing == "contrastive":
        assert "plain masked autoencoder" in card and (tmp_path / "run" / "reconstructions" / "final.png").is_file()
    else:
        # A view is not longer than the window
        assert "10 s that start anywhere" in card and "views of 10 s" in capsys.readouterr().out
        run = run_of(tmp_path / "run")
        assert run["model"]["objective"]["view_seconds"] == 10
        assert run["arguments"]["ViewArguments"]["view_seconds"] == 20
        assert "plain SimCLR" in card and not (tmp_path / "run" / "reconstructions").exists()
    assert f"- {left.capitalize().replace('Contrastive', 'Contrast')}, weight 1" in card


def test_leads_as_tokens(make_hybrid_arguments, tiny_hybrid_overrides, tmp_path):
    overrides = f"{tiny_hybrid_overrides},patch_layout=per_lead,patch_size=125"
    options = ["--config_overrides", overrides, "--mask_strategy", "lead", "--max_steps", 2]
    result = pretrain_hybrid_ecg(*make_hybrid_arguments(*options))
    assert result.validation["loss"] > 0 and (tmp_path / "run" / "reconstructions" / "final.png").is_file()
    assert "(whole leads)" in (tmp_path / "run" / "README.md").read_text()


def test_without_validation_records_a_training_record_is_drawn(make_hybrid_arguments, corpus_folder):
    model_args, data_args, view_args, training_args, _ = make_hybrid_arguments("--eval_strategy", "no")
    built = build_for_pretraining(model_args, HybridECGForPreTraining, model_args.settings())
    splits = {"train": load_corpus(str(corpus_folder))["train"]}
    trainer, _, pictures = make_trainer(built, splits, data_args, view_args, AugmentationSettings(), training_args)
    assert trainer.eval_dataset is None and pictures.name == "First training record"
    expected = built.extractor(splits["train"][0]["ecg"], return_tensors="pt")["input_values"]
    assert torch.equal(pictures.batch["input_values"], expected)


def test_another_run_does_not_overwrite_it(finished, make_hybrid_arguments, tmp_path):
    folder, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(ValueError, match="holds another run"):
        pretrain_hybrid_ecg(*make_hybrid_arguments())
    (tmp_path / "run" / "reconstructions" / "notes.txt").touch()
    options = ["--overwrite_output_dir", "true", "--max_steps", 1, "--picture_steps", 0]
    pretrain_hybrid_ecg(*make_hybrid_arguments(*options))
    # Its pictures are removed with it, what is not its own stays
    assert [path.name for path in (tmp_path / "run" / "reconstructions").iterdir()] == ["notes.txt"]


def test_going_on_from_a_checkpoint(finished, make_hybrid_arguments, tmp_path):
    folder, _ = finished
    start = ["--model_name_or_path", folder, "--config_overrides", "temperature=0.2", "--mask_ratio", 0.5]
    pretrain_hybrid_ecg(*make_hybrid_arguments(*start, "--learning_rate", 0.0))
    saved = weights(tmp_path / "run")
    assert all(torch.equal(value, saved[name]) for name, value in weights(folder).items())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["temperature"] == 0.2 and config["mask_ratio"] == 0.5
    # What was not asked for stays the checkpoint's
    assert config["mask_strategy"] == "multi_scale"


def test_parts_that_a_checkpoint_lacks_start_anew(finished, make_hybrid_arguments, tmp_path):
    folder, _ = finished
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "base")
    AutoFeatureExtractor.from_pretrained(folder).save_pretrained(tmp_path / "base")
    arguments = ["--config_overrides", "", "--max_steps", 1, "--learning_rate", 0.0]
    pretrain_hybrid_ecg(*make_hybrid_arguments("--model_name_or_path", tmp_path / "base", *arguments))
    parts = run_of(tmp_path / "run")["model"]["new_parts"]
    assert parts and "hybrid_ecg" not in parts
    before, after = weights(folder), weights(tmp_path / "run")
    for name, value in before.items():
        if name.startswith("hybrid_ecg."):
            assert torch.equal(value, after[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config_overrides", "hidden_sise=16"], "hidden_sise"),
        (["--config_overrides", "hidden_size=15"], "hidden_size"),
        (["--mask_strategy", "lead"], "per_lead"),
        (["--contrastive_loss_weight", 0, "--reconstruction_loss_weight", 0], "both 0"),
        (["--size", "huge"], "--size huge"),
        (["--model_name_or_path", "/nowhere"], "/nowhere"),
        (["--corpus", "nothing"], "nothing"),
        (["--recipe", "hubert_ecg"], "hubert_ecg"),
        (["--view_seconds", 0.1], "must hold a patch"),
        (["--mask_ratio", 1], "mask_ratio"),
        (["--contrastive_loss_weight", -1], "contrastive_loss_weight"),
        (["--reconstruction_loss_weight", "inf"], "reconstruction_loss_weight"),
    ],
)
def test_arguments_that_cannot_be_used(make_hybrid_arguments, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain_hybrid_ecg(*make_hybrid_arguments(*arguments))
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--view_seconds", 0],
        ["--picture_steps", -1],
        ["--emg_mv", -1],
    ],
)
def test_arguments_out_of_range(make_hybrid_arguments, arguments):
    with pytest.raises(ValueError, match=arguments[0]):
        make_hybrid_arguments(*arguments)


def test_the_learning_rate_follows_the_batch(tmp_path):
    def rate(*extra):
        arguments = ["--corpus", "synthetic", "--output_dir", str(tmp_path), "--use_cpu", *map(str, extra)]
        return parse_hybrid_ecg_pretraining_arguments(arguments)[3].learning_rate

    assert rate("--per_device_train_batch_size", 256) == pytest.approx(1.5e-4)
    assert rate("--per_device_train_batch_size", 16, "--gradient_accumulation_steps", 4) == pytest.approx(3.75e-5)
    assert rate("--learning_rate", 0.01) == 0.01


def test_the_demonstration_has_settings_that_can_be_changed(tmp_path):
    model_args, data_args, _, training_args, _ = hybrid_ecg_demo_arguments(tmp_path, max_steps=3, mask_ratio=0.5)
    assert data_args.corpus == "synthetic" and training_args.max_steps == 3 and model_args.mask_ratio == 0.5
    arguments = ["--preset", "demo", "--output_dir", str(tmp_path)]
    assert parse_hybrid_ecg_pretraining_arguments(arguments)[3].learning_rate == training_args.learning_rate


def test_the_optimiser_is_the_documented_one(make_hybrid_arguments):
    arguments = make_hybrid_arguments()[3]
    assert (arguments.adam_beta1, arguments.adam_beta2, arguments.weight_decay) == (0.9, 0.95, 0.01)
    assert arguments.lr_scheduler_type == "cosine" and 0 < arguments.warmup_steps < 1


# The script


def environment():
    # One thread for each process: the runs are small, and others use the machine
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def command(corpus_folder, tiny_hybrid_overrides, tmp_path):
    def make(*extra, output="run"):
        arguments = [SCRIPT, "--corpus", corpus_folder, "--config_overrides", tiny_hybrid_overrides]
        arguments += ["--output_dir", tmp_path / output, "--per_device_train_batch_size", 5, "--picture_steps", 4]
        return [*map(str, arguments), "--use_cpu", "--disable_tqdm", "true", *map(str, extra)]

    return make


def test_help_explains(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_hybrid_ecg_pretraining_arguments(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    for text in ("--align {random,r_peak}", "plain masked autoencoder", "plain SimCLR", "uniformity", "--preset demo"):
        assert text in told, text


def test_bad_input_gives_one_line(make_hybrid_arguments, capsys):
    assert run_script(pretrain_hybrid_ecg, lambda: make_hybrid_arguments("--size", "huge")) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: --size huge") and errors.count("\n") == 1


@pytest.mark.slow
def test_a_signal_leaves_a_checkpoint_to_go_on_from(command, tmp_path):
    arguments = [sys.executable, *command("--num_train_epochs", 500, "--eval_strategy", "no")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    # The first epoch writes a checkpoint, so training has begun
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "--resume_from_checkpoint last" in errors and "Traceback" not in errors
    steps = [
        int(path.parent.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*/trainer_state.json")
    ]
    assert 0 < max(steps) < 3000 and not (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "reconstructions" / "final.png").exists()


def launch(*arguments):
    start = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    start += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run([*start, *arguments], capture_output=True, text=True, env=environment(), timeout=300)


@pytest.mark.slow
def test_two_processes(command, make_hybrid_arguments, tmp_path):
    """Each has half of a batch; negatives come from both, so it learns what one process with the batch learns."""
    options = ["--num_train_epochs", 2, "--learning_rate", 1e-3, "--contrastive_loss_weight", 1]
    done = launch(*command(*options))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Saved in") == 1
    pretrain_hybrid_ecg(*make_hybrid_arguments(*options, "--eval_strategy", "no", output="alone"))
    two, one = run_of(tmp_path / "run"), run_of(tmp_path / "alone")
    assert two["environment"]["processes"] == 2 and two["training"]["steps"] == one["training"]["steps"] == 6
    for entry, expected in zip(two["learning_curve"], one["learning_curve"], strict=True):
        for name in ("loss", "reconstruction_loss", "contrastive_loss", "alignment"):
            name = f"training_{name}"
            assert entry[name] == pytest.approx(expected[name], rel=1e-3), name
    first, second = weights(tmp_path / "run"), weights(tmp_path / "alone")
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)
    assert {path.name for path in (tmp_path / "run" / "reconstructions").iterdir()} == {"step-000004.png", "final.png"}
