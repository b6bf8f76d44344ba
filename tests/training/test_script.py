import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts" / "finetune_classification.py"


def environment(**changes):
    # One thread for each process: the runs are small, and others use the machine.
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **changes}


@pytest.fixture
def command(corpus_folder, tiny_overrides, tmp_path):
    def make(*extra, output="run"):
        arguments = [str(SCRIPT), "--corpus", str(corpus_folder), "--config_overrides", tiny_overrides]
        arguments += ["--output_dir", str(tmp_path / output), "--per_device_train_batch_size", "5", "--use_cpu"]
        return [*arguments, "--bootstrap_resamples", "10", "--disable_tqdm", "true", *map(str, extra)]

    return make


def test_bad_input_gives_one_line_and_a_code(command):
    done = subprocess.run(
        [sys.executable, *command("--model_name_or_path", "/nowhere/at/all")],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "error: --model_name_or_path /nowhere/at/all" in done.stderr


def test_a_signal_leaves_a_checkpoint_to_go_on_from(command, tmp_path):
    arguments = [sys.executable, *command("--num_train_epochs", 100, "--eval_strategy", "no")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    # The first epoch writes a checkpoint, so training has begun.
    deadline = time.monotonic() + 90
    while not list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "--resume_from_checkpoint last" in errors and "Traceback" not in errors
    states = {}
    for path in (tmp_path / "run").glob("checkpoint-*/trainer_state.json"):
        states[int(path.parent.name.split("-")[1])] = json.loads(path.read_text())
    assert max(states) < 600 and states[max(states)]["global_step"] == max(states)
    assert not (tmp_path / "run" / "config.json").exists()


def test_two_processes_equal_one_with_the_joined_batch(command, tmp_path):
    options = [
        "--num_train_epochs",
        2,
        "--train_windows",
        "first",
        "--dropout",
        0,
        "--head_dropout",
        0,
        "--layerdrop",
        0,
    ]
    # Adam would blow up the rounding of gradients that are zero but for it.
    options += ["--learning_rate", 0.1, "--optim", "sgd"]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    two = subprocess.run(
        [*launch, *command(*options, output="two")], capture_output=True, text=True, env=environment(), timeout=180
    )
    assert two.returncode == 0, two.stderr[-3000:]
    one = subprocess.run(
        [sys.executable, *command(*options, "--per_device_train_batch_size", 10, output="one")],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert one.returncode == 0, one.stderr[-3000:]
    assert two.stdout.count("Saved in") == 1

    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert [run["environment"]["processes"] for run in runs] == [1, 2]
    assert runs[0]["training"]["steps"] == runs[1]["training"]["steps"] == 6
    for first, second in zip(*(run["learning_curve"] for run in runs), strict=True):
        # Not the validation loss: processes repeat records to fill their last batch, and its mean counts them.
        assert first["training_loss"] == pytest.approx(second["training_loss"], abs=1e-5)
        assert first["macro_auroc"] == pytest.approx(second["macro_auroc"], abs=1e-6)
    tables = [(tmp_path / name / "test_predictions.csv").read_text().splitlines() for name in ("one", "two")]
    assert len(tables[0]) == len(tables[1]) == 11
    for first, second in zip(*tables, strict=True):
        first, second = first.split(","), second.split(",")
        assert first[:2] == second[:2]
        if first[0] != "record_id":
            assert [float(cell) for cell in first[2:]] == pytest.approx([float(cell) for cell in second[2:]], abs=1e-5)
