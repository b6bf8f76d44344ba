import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.cluster import MiniBatchKMeans
from transformers import AutoModelForPreTraining

from ecg_transformers import ECGFeatureExtractor, HubertECGConfig, HubertECGForPreTraining, load_corpus
from ecg_transformers.training import (
    CodebookSet,
    TrainingInterrupted,
    cluster_descriptors,
    parse_cluster_arguments,
    parse_hubert_ecg_pretraining_arguments,
    pretrain_hubert_ecg,
    run_hubert_ecg_command,
)
from ecg_transformers.training.callbacks import GracefulStopCallback

SCRIPT = Path(__file__).parents[2] / "training_scripts" / "pretrain_hubert_ecg.py"


@pytest.fixture(scope="module")
def codebooks(corpus_folder, tmp_path_factory):
    """Codebooks of 6 and 9 codes over MFCC of the small corpus."""
    folder = tmp_path_factory.mktemp("codes") / "codes"
    arguments = ["--corpus", corpus_folder, "--clusters", 6, 9, "--output", folder]
    return cluster_descriptors(*parse_cluster_arguments([*map(str, arguments)]))


@pytest.fixture
def make(corpus_folder, codebooks, tiny_overrides, tmp_path):
    def make(*extra, output="run"):
        settings = {
            "corpus": corpus_folder,
            "codebooks": codebooks.output_dir,
            "config_overrides": tiny_overrides,
            "output": tmp_path / output,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 10,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        given = {extra[index].lstrip("-") for index in range(0, len(extra), 2)}
        pairs = [(f"--{name}", value) for name, value in settings.items() if name not in given]
        return parse_hubert_ecg_pretraining_arguments(
            [str(part) for pair in pairs for part in pair] + [*map(str, extra)]
        )

    return make


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_equal_runs(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# Clustering


def test_codebooks_are_written_with_a_report(codebooks, capsys):
    folder = codebooks.output_dir
    names = {path.name for path in folder.iterdir()}
    assert names == {"codebooks.json", "codebooks.safetensors", "report.json", "codebooks.png"}
    opened = CodebookSet.load(folder)
    assert opened.sizes == [6, 9] and opened.descriptors["kind"] == "mfcc"
    assert opened.descriptors["recipe"] == ECGFeatureExtractor.for_model_type("hubert_ecg").recipe
    assert all(book.normalize for book in opened.codebooks) and opened.facts["records"] == 30
    report = json.loads((folder / "report.json").read_text())["codebooks"]
    for entry, book in zip(report, opened.codebooks, strict=True):
        assert entry["codes"] == len(book) and entry["rows"] == 30 * 93 and entry["inertia"] == book.inertia
        assert 1 < entry["effective_codes"] <= len(book) and -1 <= entry["silhouette"] <= 1
    assert report[1]["inertia"] < report[0]["inertia"]


def test_clustering_does_not_depend_on_workers(codebooks, corpus_folder, tmp_path):
    arguments = ["--corpus", corpus_folder, "--clusters", 6, 9, "--report", "false", "--output", tmp_path / "codes"]
    found = cluster_descriptors(*parse_cluster_arguments([*map(str, arguments), "--num_workers", "1"]))
    for one, other in zip(found.codebooks.codebooks, codebooks.codebooks.codebooks, strict=True):
        assert torch.equal(one.centers, other.centers)


def test_streams_are_clustered(codebooks, corpus_folder, tmp_path):
    arguments = ["--corpus", corpus_folder, "--clusters", 6, "--streaming", "true", "--output", tmp_path / "codes"]
    found = cluster_descriptors(*parse_cluster_arguments([*map(str, arguments)]))
    assert found.codebooks.facts["records"] == "streamed" and found.report["codebooks"][0]["rows"] == 30 * 93
    # The same rows in another order
    assert found.codebooks.codebooks[0].inertia == pytest.approx(codebooks.codebooks.codebooks[0].inertia, rel=0.1)
    few = cluster_descriptors(
        *parse_cluster_arguments([*map(str, arguments), "--max_records", "7", "--overwrite_output_dir", "true"])
    )
    assert few.report["codebooks"][0]["rows"] == 7 * 93


def test_files_without_any_labels_are_clustered(tmp_path):
    for row in load_corpus("synthetic", num_patients=8, records_per_patient=1)["train"]:
        row["ecg"].save(tmp_path / f"{row['record_id']}.npz")
    command = ["cluster", "--corpus", "folder", "--data_dir", tmp_path, "--clusters", "3", "--output", tmp_path / "c"]
    assert run_hubert_ecg_command([*map(str, command)]) == 0


def test_replaced_codebooks_leave_nothing_of_the_old_ones(codebooks, corpus_folder, tmp_path):
    folder = tmp_path / "codes"
    shutil.copytree(codebooks.output_dir, folder)
    (folder / "teacher").mkdir()
    arguments = ["--corpus", corpus_folder, "--clusters", 3, "--report", "false", "--output", folder]
    cluster_descriptors(*parse_cluster_arguments([*map(str, arguments), "--overwrite_output_dir", "true"]))
    assert {path.name for path in folder.iterdir()} == {"codebooks.json", "codebooks.safetensors"}


def test_marked_waves_tell_how_pure_codes_are(shared_data, tmp_path):
    arguments = ["--corpus", "ludb", "--data_dir", shared_data / "ludb", "--clusters", 20, "--descriptors", "mixed"]
    arguments += ["--corpus_options", "split=[0.8,0.1,0.1]", "--output", tmp_path / "codes"]
    found = cluster_descriptors(*parse_cluster_arguments([*map(str, arguments)]))
    purity = found.report["codebooks"][0]["purity"]
    assert purity["classes"] == ["none", "P", "QRS", "T"] and purity["shards"] > 500
    table = np.array(purity["table"])
    assert table.shape == (20, 4) and table.sum() == purity["shards"]
    assert purity["purity"] == pytest.approx(table.max(1).sum() / table.sum())
    assert purity["most_frequent_class"] == pytest.approx(table.sum(0).max() / table.sum())
    # Shards are as long as beats: their codes hardly know which wave is in the middle
    assert 0.5 < purity["most_frequent_class"] <= purity["purity"] < 0.7


def test_codebooks_of_the_original_are_imported(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(300, 39))
    joblib.dump(MiniBatchKMeans(7, n_init=1, random_state=0).fit(rows), tmp_path / "k.pkl")
    command = ["cluster", "--import_kmeans", tmp_path / "k.pkl", "--output", tmp_path / "codes"]
    assert run_hubert_ecg_command([*map(str, command), "--normalize_targets", "false"]) == 0
    (book,) = CodebookSet.load(tmp_path / "codes").codebooks
    assert len(book) == 7 and not book.normalize
    command[-1] = tmp_path / "others"
    assert run_hubert_ecg_command([*map(str, command), "--descriptors", "mixed"]) == 2
    assert "over 39 values, mixed descriptors have 29" in capsys.readouterr().err


# Training


def test_a_run_learns_and_leaves_its_records(make, codebooks):
    result = pretrain_hubert_ecg(*make("--num_train_epochs", 6, "--learning_rate", 5e-3))
    curve = result.learning_curve
    assert curve[-1]["validation_loss"] < curve[0]["validation_loss"]
    run = json.loads((result.output_dir / "run.json").read_text())
    assert run["model"]["codes"] == [6, 9] and run["model"]["descriptors"]["kind"] == "mfcc"
    for place in (1, 2):
        assert 0 <= result.validation[f"masked_accuracy_{place}"] <= 1
        assert 1 <= result.validation[f"predicted_codes_{place}"] <= codebooks.codebooks.sizes[place - 1]
        assert f"unused_codes_{place}" in result.validation
    card = (result.output_dir / "README.md").read_text()
    assert "masked accuracy 1" in card and "codes" in card
    model = AutoModelForPreTraining.from_pretrained(result.output_dir)
    assert isinstance(model, HubertECGForPreTraining) and model.config.vocab_sizes == [6, 9]


def test_a_resumed_run_equals_the_straight_one(make, tmp_path):
    extra = ["--num_train_epochs", 3, "--dynamic_regularizer", "true", "--augmentations", "emg", "lead_mask"]
    pretrain_hubert_ecg(*make(*extra, output="straight"))
    interrupt(make(*extra, output="resumed"))
    pretrain_hubert_ecg(*make(*extra, "--resume_from_checkpoint", "last", output="resumed"))
    assert_equal_runs(tmp_path / "straight", tmp_path / "resumed")


def test_a_resumed_stream_equals_the_straight_one(make, tmp_path):
    extra = ["--streaming", "true", "--max_steps", 7, "--shuffle_buffer", 8, "--eval_strategy", "steps"]
    extra += ["--eval_steps", 5]
    straight = pretrain_hubert_ecg(*make(*extra, output="straight"))
    assert straight.learning_curve and "streamed" in (straight.output_dir / "README.md").read_text()
    interrupt(make(*extra, output="resumed"))
    pretrain_hubert_ecg(*make(*extra, "--resume_from_checkpoint", "last", output="resumed"))
    assert_equal_runs(tmp_path / "straight", tmp_path / "resumed")


def interrupt(arguments):
    """Run as if Ctrl-C came in the fourth step."""
    original = GracefulStopCallback.on_step_end

    def stop(self, args, state, control, **kwargs):
        if state.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GracefulStopCallback, "on_step_end", stop)
        with pytest.raises(TrainingInterrupted):
            pretrain_hubert_ecg(*arguments)


def test_a_second_iteration_keeps_the_encoder_alone(make, codebooks, corpus_folder, tmp_path):
    dropless = ",hidden_dropout=0,final_dropout=0"
    first = make("--config_overrides", make()[0].config_overrides + dropless, output="first")
    pretrain_hubert_ecg(*first)
    arguments = ["--corpus", corpus_folder, "--descriptors", tmp_path / "first", "--layer", 1, "--clusters", 5]
    found = cluster_descriptors(*parse_cluster_arguments([*map(str, arguments), "--output", str(tmp_path / "codes")]))
    assert found.codebooks.descriptors["kind"] == "hidden_states" and (tmp_path / "codes" / "teacher").is_dir()

    extra = ["--init", tmp_path / "first", "--codebooks", tmp_path / "codes", "--config_overrides", "layerdrop=0"]
    untouched = pretrain_hubert_ecg(*make(*extra, "--num_train_epochs", 0, output="untouched"))
    before, after = weights(tmp_path / "first"), weights(untouched.output_dir)
    for name, value in after.items():
        assert torch.equal(value, before[name]) == name.startswith("hubert_ecg."), name
    config = json.loads((untouched.output_dir / "config.json").read_text())
    assert config["vocab_sizes"] == [5] and config["hidden_dropout"] == 0.1 == config["final_dropout"]
    assert config["layerdrop"] == 0

    second = pretrain_hubert_ecg(*make(*extra, output="second"))
    assert "masked_accuracy" in second.validation
    run = json.loads((second.output_dir / "run.json").read_text())
    assert run["model"]["base_model"] == "first" and run["model"]["descriptors"]["layer"] == 1
    card = (second.output_dir / "README.md").read_text()
    assert "license: unknown" in card and "`first`, a folder whose card names no licence" in card
    # The teacher gives the same targets wherever its first folder is now
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    kept = ["--init", second.output_dir, "--keep_heads", "true", "--num_train_epochs", 0]
    third = weights(pretrain_hubert_ecg(*make(*extra[2:], *kept, output="third")).output_dir)
    for name, value in weights(second.output_dir).items():
        assert torch.equal(third[name], value), name
    # and with what the model sees disturbed, the targets stay those of the record itself
    extra = ["--init", tmp_path / "elsewhere", *extra[2:], "--num_train_epochs", 1, "--augmentations", "emg"]
    assert "masked_accuracy" in pretrain_hubert_ecg(*make(*extra, output="disturbed")).validation


def test_what_cannot_be_used_is_told_before_training(make, corpus_folder, tmp_path, capsys):
    for extra, message in (
        (["--streaming", "true"], "--streaming has no end: say how long to train with --max_steps"),
        (["--codebooks", tmp_path], "holds no codebooks"),
        (["--keep_heads", "true"], "--keep_heads needs a checkpoint"),
        (["--streaming", "true", "--max_steps", 3, "--probe", "true"], "does not go with --streaming"),
        (["--config_overrides", "vocab_sizes=[3,4]"], r"the codebooks have \[6, 9\] codes"),
        (["--recipe", "hubert_ecg_filter_first"], "made with another preprocessing than the model's"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrain_hubert_ecg(*make(*extra))
    for command, message in (
        ([], "no command was given"),
        (["fit"], "'fit' is no command"),
        (["cluster", "--clusters", "1", "--output", "x"], "--clusters takes numbers of 2 or more"),
        (["cluster"], "--output is required"),
        (["cluster", "--descriptors", "mfc", "--output", str(tmp_path / "x")], "none of time_frequency, mfcc, mixed"),
        (["cluster", "--like", "x", "--recipe", "y", "--output", "z"], "--like and --recipe both say"),
        (["cluster", "--output", str(corpus_folder / "dataset_dict.json")], "is a file; name a folder"),
        (
            ["train", "--codebooks", "x", "--output", "x", "--early_stopping_patience", "2", "--eval_strategy", "no"],
            "needs evaluation",
        ),
        (["train", "--output", "x"], "--codebooks is required"),
    ):
        assert run_hubert_ecg_command(command) == 2
        assert message in capsys.readouterr().err
    assert run_hubert_ecg_command(["--help"]) == 0 and "cluster --help" in capsys.readouterr().out
    target = ["cluster", "--corpus", str(corpus_folder), "--output", str(tmp_path / "there"), "--clusters", "3"]
    assert run_hubert_ecg_command(target) == 0 and run_hubert_ecg_command(target) == 2
    assert "--overwrite_output_dir replaces them" in capsys.readouterr().err


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}


def test_killed_and_resumed(make, corpus_folder, codebooks, tiny_overrides, tmp_path):
    """A run whose process is killed outright goes on from its last checkpoint to where a whole one ends."""
    pretrain_hubert_ecg(*make("--num_train_epochs", 8, output="straight"))
    command = [sys.executable, SCRIPT, "train", "--corpus", corpus_folder, "--codebooks", codebooks.output_dir]
    command += ["--config_overrides", tiny_overrides, "--output", tmp_path / "run", "--num_train_epochs", 8]
    command += ["--per_device_train_batch_size", 10, "--use_cpu", "--disable_tqdm", "true"]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "run" / "config.json").exists()
    pretrain_hubert_ecg(*make("--num_train_epochs", 8, "--resume_from_checkpoint", "last"))
    assert_equal_runs(tmp_path / "straight", tmp_path / "run")


@pytest.mark.parametrize("source", ["rows", "stream"])
def test_two_processes(source, corpus_folder, codebooks, tiny_overrides, tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [SCRIPT, "train", "--corpus", corpus_folder, "--codebooks", codebooks.output_dir]
    command += ["--config_overrides", tiny_overrides, "--output", tmp_path / "run", "--max_steps", 6]
    command += ["--per_device_train_batch_size", 5, "--use_cpu", "--disable_tqdm", "true"]
    if source == "stream":
        command += ["--streaming", "true", "--eval_strategy", "steps", "--eval_steps", 3]
    done = subprocess.run(
        [*launch, *map(str, command)], capture_output=True, text=True, env=environment(), timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Saved in") == 1
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["environment"]["processes"] == 2 and run["training"]["steps"] == 6
    assert run["learning_curve"]
    for entry in run["learning_curve"]:
        assert entry["training_loss"] == pytest.approx(entry["training_masked_loss"], rel=1e-3)


def test_codes_at_the_rate_of_a_model(corpus_folder, tmp_path, tiny_overrides):
    """A model of 50 Hz: five convolutions whose stride is 32 in all."""
    torch.manual_seed(0)
    sizes = dict(entry.split("=") for entry in tiny_overrides.split(",") if "=" in entry and "[" not in entry)
    config = HubertECGConfig(
        **{name: int(value) for name, value in sizes.items()},
        conv_dim=[8] * 4,
        conv_kernel=[10, 3, 3, 2],
        conv_stride=[4, 2, 2, 2],
        vocab_sizes=[5],
    )
    model = tmp_path / "model"
    HubertECGForPreTraining(config).save_pretrained(model)
    ECGFeatureExtractor.for_model_type("hubert_ecg", config=config).save_pretrained(model)
    cluster = ["cluster", "--corpus", corpus_folder, "--clusters", 4, "--report", "false", "--output"]
    train = ["train", "--corpus", corpus_folder, "--init", model, "--max_steps", 1, "--use_cpu", "--output"]
    for name, extra, code in (("usual", [], 2), ("alike", ["--like", model], 0)):
        codes = tmp_path / f"{name}-codes"
        assert run_hubert_ecg_command([*map(str, [*cluster, codes, *extra])]) == 0
        assert run_hubert_ecg_command([*map(str, [*train, tmp_path / name, "--codebooks", codes])]) == code
