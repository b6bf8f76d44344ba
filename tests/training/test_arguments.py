import json
import re

import numpy as np
import pytest

from ecg_transformers.training import parse_finetuning_arguments
from ecg_transformers.training.arguments import DataArguments
from ecg_transformers.training.run_arguments import parse_overrides
from ecg_transformers.training.task import load_splits


def test_defaults(tmp_path):
    model, data, evaluation, training = parse_finetuning_arguments(["--output_dir", str(tmp_path)])
    assert model.from_scratch and model.model_type == "hubert_ecg"
    assert data.corpus == "synthetic" and data.options() == {}
    assert evaluation.eval_windows == "all"
    assert training.learning_rate is None
    assert (training.weight_decay, training.warmup_steps, training.per_device_train_batch_size) == (0.01, 0.08, 64)
    assert training.save_strategy == training.eval_strategy == training.logging_strategy == "epoch"
    assert not training.remove_unused_columns and training.report_to == []


def test_saving_follows_evaluation(tmp_path):
    *_, training = parse_finetuning_arguments(
        ["--output_dir", str(tmp_path), "--eval_strategy", "steps", "--eval_steps", "7"]
    )
    assert training.save_strategy == "steps" and training.save_steps == 7 and training.logging_steps == 7


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_file_of_arguments_and_overrides(tmp_path, suffix):
    path = tmp_path / f"run{suffix}"
    settings = {"output_dir": str(tmp_path / "out"), "corpus": "ptbxl", "learning_rate": 1e-4, "num_train_epochs": 3}
    settings |= {"corpus_options": ["a=1"], "bf16": True}
    if suffix == ".json":
        path.write_text(json.dumps(settings))
    else:
        lines = [f"{key}: {json.dumps(value)}" for key, value in settings.items() if key != "learning_rate"]
        path.write_text("\n".join([*lines, "learning_rate: 1e-4"]))
    _, data, _, training = parse_finetuning_arguments([str(path), "--num_train_epochs", "5", "--task", "form"])
    assert data.corpus == "ptbxl" and data.options() == {"task": "form", "a": 1}
    assert training.learning_rate == 1e-4 and training.num_train_epochs == 5 and training.bf16


def test_unknown_name_in_the_file(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"output_dir": "x", "lerning_rate": 1}')
    with pytest.raises(ValueError, match="lerning_rate .did you mean learning_rate"):
        parse_finetuning_arguments([str(path)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trian_csv", "a.csv"], "Unknown option --trian_csv (did you mean --train_csv?); --help lists"),
        (["--lerning-rate=1"], "Unknown option --lerning_rate (did you mean --learning_rate?); --help lists"),
        (["--qqq", "--bf61"], "Unknown option --qqq, --bf61 (did you mean --bf16?); --help lists"),
        (["run.yaml"], "Not understood: run.yaml. Options start with --; a file of arguments stands first."),
    ],
)
def test_unknown_options_on_the_command_line(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_finetuning_arguments(["--use_cpu", "--output_dir", "x", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output_dir is required"),
        (["--fp16"], "--fp16 does not work"),
        (["--tf32", "true"], "--tf32 does not work"),
        (["--freeze_encoder", "--unfreeze_last", "2"], "contradict"),
        (["--layerwise_lr_decay", "1.5"], "factor in"),
        (["--dropout", "1"], "probability"),
        (["--threshold_criterion", "challenge"], "--challenge_weights"),
        (["--remove_unused_columns", "true"], "must stay False"),
        (["--corpus_options", "three"], "key=value"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, arguments, message):
    output = ["--output_dir", str(tmp_path), "--use_cpu"] if arguments else []
    with pytest.raises(ValueError, match=message):
        parse_finetuning_arguments([*output, *arguments])


def test_corpus_options():
    arguments = DataArguments(task="form", sampling_rate=100.0, corpus_options=["split=[0.5, 0.25, 0.25]", "name=x=y"])
    assert arguments.options() == {
        "task": "form",
        "sampling_rate": 100,
        "split": [0.5, 0.25, 0.25],
        "name": "x=y",
    }
    with pytest.raises(ValueError, match="twice"):
        DataArguments(task="form", corpus_options=["task=all"])


def test_errors_of_a_corpus_name_its_options_as_the_scripts_spell_them(tmp_path):
    for number in range(4):
        np.save(tmp_path / f"r{number}.npy", np.random.default_rng(number).normal(size=(12, 500)).astype(np.float32))
    table = tmp_path / "records.csv"
    table.write_text("filename,AF\n" + "".join(f"r{number}.npy,{number % 2}\n" for number in range(5)))
    arguments = {"corpus": "table", "data_dir": str(tmp_path), "train_csv": "records.csv", "sampling_rate": 100}
    arguments["label_start_index"] = 1
    options = ["lead_names=standard", "units=mV", "split=[0.5, 0.25, 0.25]"]
    with pytest.raises(ValueError, match=r"1 of 5 .*\(On the command line: .*--corpus_options skip_missing=VALUE\)$"):
        load_splits(DataArguments(**arguments, corpus_options=options))
    corpus = load_splits(DataArguments(**arguments, corpus_options=[*options, "skip_missing=True"]))
    assert sum(map(len, corpus.values())) == 4
    table.write_text("filename\nr0.npy\n")
    with pytest.raises(ValueError, match=r"line: --label_start_index VALUE, --corpus_options label_columns=VALUE\)$"):
        load_splits(DataArguments(**arguments, corpus_options=options))
    with pytest.raises(ValueError, match=r"needs train_csv=.*line: --train_csv VALUE\)$"):
        load_splits(DataArguments(corpus="table"))


def test_overrides():
    assert parse_overrides("a=1, b=[32, 64],c=x,d=0.5,e=true") == {
        "a": 1,
        "b": [32, 64],
        "c": "x",
        "d": 0.5,
        "e": True,
    }
    assert parse_overrides('{"a": 1}') == {"a": 1} and parse_overrides(None) == {}
    with pytest.raises(ValueError, match="key=value"):
        parse_overrides("a")


@pytest.mark.parametrize(("given", "expected"), [([], None), ([""], True), (["true"], True), (["false"], False)])
def test_convolution_has_three_states(tmp_path, given, expected):
    flag = ["--train_convolution", *filter(None, given)] if given else []
    assert parse_finetuning_arguments(["--output_dir", str(tmp_path), *flag])[0].train_convolution is expected


def test_help_can_be_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_finetuning_arguments(["--help"])
    assert "--layerwise_lr_decay" in capsys.readouterr().out


def test_a_preset_gives_defaults_that_a_file_and_arguments_change(tmp_path):
    from ecg_transformers.training import dbeta_demo_arguments, parse_dbeta_pretraining_arguments

    path = tmp_path / "run.json"
    path.write_text('{"max_steps": 7, "vocab_size": 250}')
    command = [str(path), "--preset", "demo", "--output_dir", str(tmp_path / "x"), "--vocab_size", "260"]
    model, corpus, reports, training, augmentations = parse_dbeta_pretraining_arguments(command)
    assert (model.size, reports.statements, training.learning_rate) == ("tiny", "one", 3e-3)
    assert (training.max_steps, reports.vocab_size) == (7, 260)
    assert corpus.options() == {"num_patients": 600, "records_per_patient": 2}
    same = dbeta_demo_arguments(tmp_path / "x", max_steps=7, vocab_size=260)
    assert same[:3] == (model, corpus, reports) and same[3].learning_rate == training.learning_rate
    assert same[4] == augmentations and not augmentations.augmentations
    with pytest.raises(ValueError, match="--preset large: there are demo"):
        parse_dbeta_pretraining_arguments(["--preset", "large", "--output_dir", "x"])


def test_streams_are_for_runs_that_take_them():
    with pytest.raises(ValueError, match="reads records by index; leave `streaming` out"):
        load_splits(DataArguments(corpus="synthetic", corpus_options=["streaming=True"]))
