import csv
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

from ecg_transformers import load_corpus
from ecg_transformers.corpora import label_names
from ecg_transformers.training import finetune
from ecg_transformers.training.output_folder import find_checkpoint, prepare_output_dir


@pytest.fixture(scope="module")
def finished_run(corpus_folder, tiny_overrides, tmp_path_factory):
    """One run that several tests look at, and a copy of its folder to change."""
    from ecg_transformers.training import parse_finetuning_arguments

    folder = tmp_path_factory.mktemp("finished") / "run"
    arguments = ["--corpus", str(corpus_folder), "--config_overrides", tiny_overrides, "--output_dir", str(folder)]
    arguments += ["--num_train_epochs", "2", "--per_device_train_batch_size", "10", "--bootstrap_resamples", "20"]
    arguments += ["--disable_tqdm", "true", "--evaluate_untrained"]
    return finetune(*parse_finetuning_arguments(arguments))


def test_a_run_leaves_a_usable_folder(finished_run):
    folder = finished_run.output_dir
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "run.json", "metrics.json"} <= names
    assert "test_predictions.csv" in names and "training_args.bin" not in names
    assert not any(name.startswith(".") for name in names)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"]["0"] == "sinus_rhythm" and config["problem_type"] == "multi_label_classification"
    assert set(config["thresholds"]) == set(finished_run.label_names) and config["threshold_criterion"] == "f1"
    assert "auto_map" not in config
    run = json.loads((folder / "run.json").read_text())
    assert run["corpus"]["splits"]["train"]["records"] == 30
    assert run["training"]["steps"] == 6 and len(run["learning_curve"]) == 2
    assert {"training_loss", "validation_loss", "macro_auroc"} <= set(run["learning_curve"][0])
    assert run["environment"]["versions"]["torch"] == torch.__version__
    assert run["metrics"]["test"]["intervals"]["auroc"]["macro"]["num_resamples"] > 0
    assert run["metrics"]["untrained_test"]["macro_auroc"] is not None
    assert str(folder.parent) not in (folder / "run.json").read_text()


def test_the_saved_folder_gives_the_predictions_of_the_run(finished_run, corpus_folder):
    folder = finished_run.output_dir
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    test = load_corpus(corpus_folder)["test"]
    batch = extractor([test[index]["ecg"] for index in range(3)], windows="all", return_tensors="pt")
    with torch.no_grad():
        probabilities = model(batch["input_values"], batch["attention_mask"]).logits.sigmoid()
    expected = [probabilities[batch["record_index"] == index].mean(0).numpy() for index in range(3)]
    with (folder / "test_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["record_id"] for row in rows] == test["record_id"][:]
    for row, values in zip(rows, expected, strict=False):
        written = [float(row[f"{name}_probability"]) for name in finished_run.label_names]
        np.testing.assert_allclose(written, values, atol=1e-5)


def test_thresholds_come_from_validation_and_scores_use_them(finished_run):
    per_label = finished_run.test["per_label"]
    assert {name: row["threshold"] for name, row in per_label.items()} == finished_run.thresholds


def test_a_second_run_does_not_overwrite(finished_run, make_arguments):
    before = (finished_run.output_dir / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="--overwrite_output_dir"):
        finetune(*make_arguments("--output_dir", finished_run.output_dir))
    assert (finished_run.output_dir / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop_after", [3, 4])
def test_a_resumed_run_equals_the_straight_one(make_arguments, monkeypatch, workers, stop_after):
    from ecg_transformers.training import finetuning

    options = ("--num_train_epochs", 3, "--dynamic_regularizer", True, "--dropout", 0.2, "--learning_rate", 3e-3)
    options += ("--layerdrop", 0.2, "--mask_time_prob", 0.2, "--dataloader_num_workers", workers)
    straight = finetune(*make_arguments(*options, output="straight"))

    plain = finetuning.GracefulStopCallback
    with monkeypatch.context() as patch:

        class Stopped(plain):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == stop_after:
                    self.received = 15
                super().on_step_end(args, state, control, **kwargs)

        patch.setattr(finetuning, "GracefulStopCallback", Stopped)
        with pytest.raises(finetuning.TrainingInterrupted, match="--resume_from_checkpoint last"):
            finetune(*make_arguments(*options, output="resumed"))
    resumed = finetune(*make_arguments(*options, "--resume_from_checkpoint", "last", output="resumed"))

    first, second = (load_file(run.output_dir / "model.safetensors") for run in (straight, resumed))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=0)
    assert resumed.test == straight.test and resumed.thresholds == straight.thresholds


def test_a_resumed_run_remembers_its_best_evaluation(make_arguments, monkeypatch, capsys):
    """The first epoch is the best one; the run stops after it and goes on with two worse ones."""
    from ecg_transformers.training import finetuning

    options = ("--num_train_epochs", 3, "--learning_rate", 0.3, "--save_total_limit", 3)
    plain = finetuning.GracefulStopCallback
    with monkeypatch.context() as patch:

        class Stopped(plain):
            def on_evaluate(self, args, state, control, **kwargs):
                self.received = 15
                super().on_evaluate(args, state, control, **kwargs)

        patch.setattr(finetuning, "GracefulStopCallback", Stopped)
        with pytest.raises(finetuning.TrainingInterrupted):
            finetune(*make_arguments(*options))
    result = finetune(*make_arguments(*options, "--resume_from_checkpoint", "last"))
    values = [entry["macro_auroc"] for entry in result.learning_curve]
    assert len(values) == 3 and values[0] > max(values[1:])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert ["(best)" in line for line in lines] == [True, False, False]
    assert json.loads((result.output_dir / "run.json").read_text())["training"]["best_step"] == 3
    saved = load_file(result.output_dir / "model.safetensors")
    best = load_file(result.output_dir / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(saved[name], best[name]) for name in best)


def test_a_folder_with_a_noted_start_only_is_empty(make_arguments, tmp_path):
    """A run that failed before its first step leaves nothing that could be lost or resumed."""
    with pytest.raises(ValueError, match="--model_name_or_path nothing"):
        finetune(*make_arguments("--model_name_or_path", "nothing", "--config_overrides", ""))
    folder = tmp_path / "run"
    assert [path.name for path in folder.iterdir()] == ["started_with.json"]
    training_args = make_arguments()[-1]
    with pytest.raises(ValueError, match="leave the argument out"):
        prepare_output_dir(make_arguments("--resume_from_checkpoint", "last")[-1])
    assert prepare_output_dir(training_args) is None

    # A checkpoint that was cut short is something; both ways out are named, and none that leads nowhere.
    (folder / "checkpoint-1").mkdir()
    (folder / "started_with.json").write_text("{}")
    with pytest.raises(ValueError, match="holds another run .checkpoint-1, started") as refused:
        prepare_output_dir(training_args)
    assert "--resume_from_checkpoint" not in str(refused.value)
    with pytest.raises(ValueError, match="start over with --overwrite_output_dir"):
        prepare_output_dir(make_arguments("--resume_from_checkpoint", "last")[-1])
    assert prepare_output_dir(make_arguments("--overwrite_output_dir", True)[-1]) is None


def test_only_complete_checkpoints_are_found(tmp_path):
    assert find_checkpoint(tmp_path) is None
    for number, complete in ((9, True), (10, True), (11, False)):
        (tmp_path / f"checkpoint-{number}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    assert find_checkpoint(tmp_path).endswith("checkpoint-10")


def test_the_arguments_reach_the_run(corpus_folder, tiny_overrides, tmp_path):
    """What --freeze_encoder, the rate and the weights of positives ask for is what the run did."""
    from ecg_transformers.training import parse_finetuning_arguments

    arguments = ["--corpus", str(corpus_folder), "--config_overrides", tiny_overrides, "--output_dir", str(tmp_path)]
    arguments += ["--max_steps", "1", "--freeze_encoder", "--bootstrap_resamples", "0", "--disable_tqdm", "true"]
    finetune(*parse_finetuning_arguments(arguments))
    run = json.loads((tmp_path / "run.json").read_text())
    corpus = load_corpus(corpus_folder)
    names = label_names(corpus)
    weights = load_file(tmp_path / "model.safetensors")
    head = sum(tensor.numel() for name, tensor in weights.items() if name.startswith("classifier."))
    assert run["model"]["trainable_parameters"] == head < run["model"]["parameters"]
    assert run["training"]["learning_rate"] == 5e-4
    rows = corpus["train"]["labels"][:]
    expected = []
    for name in names:
        positives = sum(row[name] == 1 for row in rows)
        expected.append((len(rows) - positives) / positives if 0 < positives < len(rows) else 1.0)
    assert json.loads((tmp_path / "config.json").read_text())["pos_weight"] == pytest.approx(expected, rel=1e-5)


def test_the_rates_of_the_layers_reach_the_run(make_arguments):
    result = finetune(*make_arguments("--max_steps", 1, "--layerwise_lr_decay", 0.5, "--learning_rate", 0.08))
    state = torch.load(find_checkpoint(result.output_dir) + "/optimizer.pt", weights_only=True)
    rates = sorted({group["initial_lr"] for group in state["param_groups"]}, reverse=True)
    # Head, two transformer layers, and what is below them.
    assert rates[:4] == pytest.approx([0.08, 0.04, 0.02, 0.01])


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        (("--learning_rate", 0, "--early_stopping_patience", 1), 2),
        (("--learning_rate", 0, "--early_stopping_patience", 2), 3),
        (("--learning_rate", 0, "--early_stopping_patience", 0), 4),
        (("--metric_for_best_model", "loss", "--early_stopping_patience", 1, "--learning_rate", 1e-3), 4),
        (
            ("--metric_for_best_model", "loss", "--early_stopping_patience", 1, "--learning_rate", 1e-3)
            + ("--early_stopping_threshold", 100.0),
            2,
        ),
    ],
)
def test_early_stopping_reaches_the_run(make_arguments, options, epochs):
    """Without a rate nothing improves; with one the loss falls, but never by 100."""
    result = finetune(*make_arguments(*options, "--num_train_epochs", 4, "--bootstrap_resamples", 0))
    assert len(result.learning_curve) == epochs


@pytest.mark.parametrize("windows", ["random", "first"])
def test_the_windows_of_training_reach_the_run(make_arguments, windows):
    """Without a rate and dropout the loss of an epoch changes only if its windows do."""
    options = ("--learning_rate", 0, "--dropout", 0, "--head_dropout", 0, "--layerdrop", 0, "--eval_strategy", "no")
    # One record a step: a window then depends on the record and the epoch alone, not on the order of the records.
    options += ("--per_device_train_batch_size", 1, "--num_train_epochs", 2, "--train_windows", windows)
    first, second = (entry["training_loss"] for entry in finetune(*make_arguments(*options)).learning_curve)
    assert (second == pytest.approx(first, rel=1e-5)) == (windows == "first")


def test_resuming_with_other_records_or_settings_is_refused(finished_run, corpus_folder, tiny_overrides):
    from ecg_transformers.training import parse_finetuning_arguments

    folder = finished_run.output_dir
    arguments = ["--corpus", str(corpus_folder), "--config_overrides", tiny_overrides, "--output_dir", str(folder)]
    arguments += ["--num_train_epochs", "3", "--resume_from_checkpoint", "last", "--disable_tqdm", "true"]
    before = (folder / "metrics.json").read_bytes()
    for changes, words in (
        (["--corpus", "synthetic", "--corpus_options", "num_patients=20"], "records of train was"),
        (["--seed", "5"], "seed was 42, is 5"),
        (["--head", "mlp"], "head was None, is mlp"),
    ):
        with pytest.raises(ValueError, match=words):
            finetune(*parse_finetuning_arguments([*arguments, *changes]))
    assert (folder / "metrics.json").read_bytes() == before


def test_resuming_without_a_checkpoint(make_arguments):
    with pytest.raises(ValueError, match="no complete checkpoint"):
        finetune(*make_arguments("--resume_from_checkpoint", "last"))


@pytest.mark.parametrize("aggregation", ["mean", "max"])
def test_windows_are_combined(make_arguments, finished_run, aggregation):
    result = finetune(
        *make_arguments(
            "--model_name_or_path",
            finished_run.output_dir,
            "--num_train_epochs",
            0,
            "--window_aggregation",
            aggregation,
            "--config_overrides",
            "",
        )
    )
    same = result.test["macro_auroc"] == finished_run.test["macro_auroc"]
    assert same == (aggregation == "mean")


def test_a_fine_tuned_head_is_kept_only_for_the_same_labels(
    make_arguments, finished_run, corpus_folder, tmp_path, caplog
):
    from ecg_transformers.training.building import build_model

    model_args, *_ = make_arguments("--model_name_or_path", finished_run.output_dir, "--config_overrides", "")
    kept = build_model(model_args, finished_run.label_names, "multi_label_classification")
    assert not kept.head_is_new
    saved = load_file(finished_run.output_dir / "model.safetensors")
    torch.testing.assert_close(kept.model.state_dict()["classifier.weight"], saved["classifier.weight"])
    # As many labels, in another order: the shapes fit, the meaning does not.
    for names in (finished_run.label_names[::-1], ["a", "b"]):
        changed = build_model(model_args, names, "multi_label_classification")
        assert changed.head_is_new and changed.model.config.id2label[0] == names[0]
        weights = changed.model.state_dict()
        assert weights["classifier.weight"].shape[0] == len(names) and weights["classifier.weight"].isfinite().all()
        assert not torch.equal(weights["classifier.weight"][:2], saved["classifier.weight"][:2])
        for name, value in weights.items():
            if name.startswith("hubert_ecg."):
                torch.testing.assert_close(value, saved[name])
        assert not hasattr(changed.model.config, "thresholds")


def test_published_backbone_gets_a_head(make_arguments, golden):
    from ecg_transformers.training.building import build_model

    folder = golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint"
    model_args, *_ = make_arguments("--model_name_or_path", folder, "--config_overrides", "")
    built = build_model(model_args, ["a", "b", "c"], "multi_label_classification", [1.0, 2.0, 3.0])
    assert built.head_is_new and built.model.config.pos_weight == [1.0, 2.0, 3.0]
    assert built.model.config.hidden_dropout == 0 and built.model.config.mask_time_prob == 0
    assert not hasattr(built.model.config, "auto_map")


@pytest.mark.parametrize("kind", ["single", "regression", "regression_struct"])
def test_other_problem_types(make_arguments, corpus_folder, tmp_path, kind, capsys):
    from datasets import ClassLabel, Value

    corpus = load_corpus(corpus_folder)
    names = label_names(corpus)[:3]
    if kind == "single":
        feature = ClassLabel(names=["slow", "normal", "fast"])
        value = lambda row: 0 if row["labels"][names[1]] else 2 if row["labels"][names[2]] else 1  # noqa: E731
    elif kind == "regression":
        feature, value = Value("float32"), lambda row: None if row["fold"] == 0 else row["age"] / 50
    else:
        feature = {name: Value("float32", id="regression") for name in ("x", "y")}
        value = lambda row: {"x": row["age"] / 50, "y": None if row["fold"] == 0 else 1.0}  # noqa: E731
    for split, dataset in corpus.items():
        plain = dataset.remove_columns("ecg")
        corpus[split] = dataset.remove_columns("labels").add_column(
            "labels", [value(row) for row in plain], feature=feature
        )
    folder = tmp_path / "other"
    corpus.save_to_disk(str(folder))
    result = finetune(*make_arguments("--corpus", "folder", "--data_dir", folder, "--num_train_epochs", 1))
    config = json.loads((result.output_dir / "config.json").read_text())
    assert config["problem_type"] == result.problem_type
    counted = {"single": "3 labels", "regression": "1 value", "regression_struct": "2 values"}[kind]
    assert f" records, {counted} ({result.problem_type})." in " ".join(capsys.readouterr().out.split())
    if kind == "single":
        assert result.problem_type == "single_label_classification" and 0 <= result.test["accuracy"] <= 1
        assert result.thresholds is None
    else:
        assert result.problem_type == "regression" and result.test["mae"] > 0
        assert result.test["intervals"]["mae"]["lower"] <= result.test["mae"]
    assert (result.output_dir / "test_predictions.csv").read_text().count("\n") == len(corpus["test"]) + 1


def test_without_validation_and_test(make_arguments, corpus_folder, monkeypatch):
    from ecg_transformers import corpora

    corpus = load_corpus(corpus_folder)
    for split in ("validation", "test"):
        corpus[split] = corpus[split].select([])
    monkeypatch.setitem(corpora._registered, "training_only", lambda: corpus)
    result = finetune(*make_arguments("--corpus", "training_only", "--num_train_epochs", 1))
    assert result.test is None and result.thresholds is None
    assert (result.output_dir / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--corpus", "nothing"), "nothing"),
        (("--corpus", "folder"), "--data_dir"),
        (("--corpus", "ptbxl", "--data_dir", "/nowhere/at/all"), "no such folder"),
        (("--corpus", "table", "--train_csv", "/nowhere.csv"), "no such file"),
        (("--corpus", "synthetic", "--task", "form"), "task"),
        (("--model_name_or_path", "/nowhere/at/all"), "neither a folder nor a model"),
        (("--model_type", "resnet"), "resnet"),
        (("--size", "gigantic"), "gigantic"),
        (("--config_overrides", "hiden_size=3"), "hiden_size"),
        (("--head", "attention"), "classifier_head"),
        (("--unfreeze_last", 99), "the model has . layers"),
        (("--metric_for_best_model", "auc"), "macro_auroc"),
        (("--challenge_weights", "/nowhere.csv"), "weights"),
        (("--resume_from_checkpoint", "/nowhere/at/all"), "no complete checkpoint"),
    ],
)
def test_bad_input_is_refused_before_training(make_arguments, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(*make_arguments(*options))


def test_labels_without_positives(make_arguments, corpus_folder, tmp_path):
    corpus = load_corpus(corpus_folder)
    names = label_names(corpus)
    feature = corpus["train"].features["labels"]
    for split, dataset in corpus.items():
        empty = [dict.fromkeys(names, 0.0) for _ in range(len(dataset))]
        corpus[split] = dataset.remove_columns("labels").add_column("labels", empty, feature=feature)
    folder = tmp_path / "empty"
    corpus.save_to_disk(str(folder))
    with pytest.raises(ValueError, match="nothing to learn"):
        finetune(*make_arguments("--corpus", folder))


def test_overwriting_removes_the_old_run(make_arguments, finished_run, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished_run.output_dir, folder)
    finetune(*make_arguments("--output_dir", folder, "--overwrite_output_dir", True, "--num_train_epochs", 1))
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-3"}


def test_challenge_score_of_real_records(make_arguments, shared_data):
    folder = shared_data / "challenge-2021"
    options = ("--corpus", "challenge", "--data_dir", folder, "--challenge_weights", folder / "weights.csv")
    result = finetune(*make_arguments(*options, "--threshold_criterion", "challenge", "--num_train_epochs", 1))
    assert result.test["challenge_score"] <= 1
    assert result.test["intervals"]["challenge_score"]["num_resamples"] > 0
    assert "challenge_score" in result.learning_curve[0]


@pytest.mark.parametrize("task", ["superclass", "rhythm"])
def test_ptbxl_records(make_arguments, shared_data, task):
    options = ("--corpus", "ptbxl", "--data_dir", shared_data / "ptb-xl", "--task", task, "--num_train_epochs", 1)
    result = finetune(*make_arguments(*options))
    assert len(result.label_names) == {"superclass": 5, "rhythm": 12}[task]
    assert result.test["num_records"] > 0 and 0 <= result.test["macro_auroc"] <= 1


def test_challenge_weights_that_score_nothing(make_arguments, shared_data):
    with pytest.raises(ValueError, match="scores none of the labels"):
        finetune(*make_arguments("--challenge_weights", shared_data / "challenge-2021" / "weights.csv"))
