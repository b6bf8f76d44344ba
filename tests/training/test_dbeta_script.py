import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts" / "pretrain_dbeta.py"


def environment():
    # One thread for each process: the runs are small, and others use the machine.
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def command(corpus_folder, tiny_dbeta_overrides, tmp_path):
    def make(*extra, output="run"):
        arguments = [SCRIPT, "--corpus", corpus_folder, "--config_overrides", tiny_dbeta_overrides]
        arguments += ["--output_dir", tmp_path / output, "--vocab_size", 300, "--per_device_train_batch_size", 5]
        return [*map(str, arguments), "--use_cpu", "--disable_tqdm", "true", *map(str, extra)]

    return make


def test_help_explains_and_bad_input_gives_one_line(command):
    done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, env=environment())
    assert done.returncode == 0 and "--negative_embedder" in done.stdout and "google/flan-t5-small" in done.stdout
    done = subprocess.run(
        [sys.executable, *command("--tokenizer", "/nowhere")], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "error: No tokenizer can be loaded from '/nowhere'" in done.stderr


def test_a_signal_leaves_a_checkpoint_to_go_on_from(command, tmp_path):
    arguments = [sys.executable, *command("--num_train_epochs", 200, "--eval_strategy", "no")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    # The first epoch writes a checkpoint, so training has begun.
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "--resume_from_checkpoint last" in errors and "Traceback" not in errors
    steps = [
        int(path.parent.name.split("-")[1]) for path in (tmp_path / "run").glob("checkpoint-*/trainer_state.json")
    ]
    assert 0 < max(steps) < 1200 and not (tmp_path / "run" / "config.json").exists()


def test_two_processes_equal_one_with_the_joined_batch(command, tmp_path):
    dropout = [f"ecg_config.{name}=0" for name in ("hidden_dropout", "attention_dropout", "feat_proj_dropout")]
    dropout += ["text_config.dropout_rate=0", "cross_modal_config.hidden_dropout_prob=0"]
    dropout += ["cross_modal_config.attention_probs_dropout_prob=0"]
    base = command()
    overrides = ",".join([base[base.index("--config_overrides") + 1], *dropout])
    # Adam would blow up the rounding of gradients that are zero but for it.
    options = ["--config_overrides", overrides, "--optim", "sgd", "--learning_rate", 0.05, "--num_train_epochs", 2]
    options += ["--schedule", "trainer", "--warmup_steps", 0, "--load_best_model_at_end", "false"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    two = subprocess.run(
        [*launch, *command(*options, output="two")], capture_output=True, text=True, env=environment(), timeout=240
    )
    assert two.returncode == 0, two.stderr[-3000:]
    one = subprocess.run(
        [sys.executable, *command(*options, "--per_device_train_batch_size", 10, output="one")],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=180,
    )
    assert one.returncode == 0, one.stderr[-3000:]
    assert two.stdout.count("Saved in") == 1

    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert [run["environment"]["processes"] for run in runs] == [1, 2]
    assert runs[0]["training"]["steps"] == runs[1]["training"]["steps"] == 6
    names = ("training_loss", "training_mlm_loss", "training_mem_loss", "training_etm_loss", "training_ets_loss")
    for first, second in zip(*(run["learning_curve"] for run in runs), strict=True):
        # Not the validation losses: what is compared within a batch depends on the batch.
        assert [first[name] for name in names] == pytest.approx([second[name] for name in names], abs=2e-5)
        assert first["training_etm_accuracy"] == pytest.approx(second["training_etm_accuracy"])
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in first.items():
        assert value.numpy() == pytest.approx(second[name].numpy(), abs=1e-5), name
