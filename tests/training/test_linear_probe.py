import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Value
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoFeatureExtractor, AutoModel

from ecg_transformers import load_corpus
from ecg_transformers.inference import ECGInference
from ecg_transformers.training import (
    DataArguments,
    LinearProbe,
    ProbeSettings,
    format_probe,
    parse_probe_arguments,
    pretrain_dbeta,
    pretrain_deepecg_ssl,
    run_probe,
)
from ecg_transformers.training.linear_probe import PENALTIES, drop_leads, fit_linear
from ecg_transformers.training.pretraining_arguments import parse_deepecg_ssl_pretraining_arguments
from ecg_transformers.training.task import load_task

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts" / "linear_probe.py"


@pytest.fixture(scope="module")
def finished(corpus_folder, tiny_ssl_overrides, tmp_path_factory):
    """A run with `--probe` and the same one without, not to be changed."""
    folder = tmp_path_factory.mktemp("probed")
    results = {}
    for name, probe in (("probed", True), ("plain", False)):
        arguments = ["--corpus", corpus_folder, "--config_overrides", tiny_ssl_overrides, "--use_cpu"]
        arguments += ["--output_dir", folder / name, "--num_train_epochs", 1, "--per_device_train_batch_size", 10]
        arguments += ["--probe", probe, "--probe_untrained", 2, "--disable_tqdm", "true"]
        arguments = parse_deepecg_ssl_pretraining_arguments([*map(str, arguments)])
        results[name] = pretrain_deepecg_ssl(*arguments)
    return folder, results


@pytest.fixture(scope="module")
def task(corpus_folder):
    return load_task(DataArguments(corpus=str(corpus_folder)))


def load(folder):
    return AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)


def features_of(folder, records):
    model, extractor = load(folder)
    inputs = extractor(list(records), return_tensors="pt")
    with torch.no_grad():
        return model.get_ecg_features(inputs.input_values, inputs.attention_mask).numpy()


def quiet(**changes):
    return ProbeSettings(num_resamples=20, disable_tqdm=True, **changes)


def test_the_probe_is_a_logistic_regression_on_standardised_features(finished, task):
    folder, _ = finished
    probe = LinearProbe(task, quiet())
    probe.add("trained", *load(folder / "plain"))
    entry = probe.report()["models"]["trained"]
    features = {split: features_of(folder / "plain", task.corpus[split]["ecg"]) for split in ("train", "test")}
    label = int(np.argmax((task.targets["test"] == 1).sum(0)))
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=entry["penalty"], max_iter=2000))
    fitted.fit(features["train"], task.targets["train"][:, label])
    expected = roc_auc_score(task.targets["test"][:, label], fitted.decision_function(features["test"]))
    assert entry["per_label"][task.label_names[label]] == pytest.approx(expected)
    assert entry["penalty"] in PENALTIES and entry["num_features"] == 16
    known = [value for value in entry["per_label"].values() if value is not None]
    assert entry["macro_auroc"]["value"] == pytest.approx(np.mean(known))


def test_validation_chooses_the_penalty():
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((5, 2))
    features = {split: rng.standard_normal((n, 5)) for split, n in (("train", 60), ("validation", 500), ("test", 9))}
    targets = {
        split: (x @ weights + rng.standard_normal((len(x), 2)) > 0).astype(float) for split, x in features.items()
    }
    scores, penalty = fit_linear(features, targets)
    areas = []
    for candidate in PENALTIES:
        models = [
            make_pipeline(StandardScaler(), LogisticRegression(C=candidate)).fit(features["train"], target)
            for target in targets["train"].T
        ]
        scored = [model.decision_function(features["validation"]) for model in models]
        areas.append(np.mean([roc_auc_score(t, s) for t, s in zip(targets["validation"].T, scored, strict=True)]))
    assert penalty == PENALTIES[int(np.argmax(areas))] and scores.shape == (9, 2)
    without = {split: features[split] for split in ("train", "test")}
    assert fit_linear(without, targets)[1] == 0.1
    targets["train"][:, 0] = 1
    targets["train"][:3, 1] = np.nan
    scores, _ = fit_linear(features, targets, 1.0)
    assert (scores[:, 0] == 0).all() and scores[:, 1].std() > 0
    scaled = StandardScaler().fit(features["train"])
    fitted = LogisticRegression().fit(scaled.transform(features["train"][3:]), targets["train"][3:, 1])
    assert scores[:, 1] == pytest.approx(fitted.decision_function(scaled.transform(features["test"])), abs=1e-3)


def test_the_option_prints_and_records_the_probe(finished):
    folder, results = finished
    report = results["probed"].probe
    entry = report["models"]["pretrained"]
    assert json.loads((folder / "probed" / "metrics.json").read_text())["probe"] == report
    assert report["records"] == {"train": 30, "validation": 10, "test": 10} and entry["untrained_seeds"] == [0, 1]
    gain = entry["macro_auroc"]["value"] - entry["untrained"]["value"]
    assert entry["above_untrained"]["value"] == pytest.approx(gain)
    assert entry["above_untrained"]["lower"] <= gain <= entry["above_untrained"]["upper"]
    card = (folder / "probed" / "README.md").read_text()
    assert "| Macro mean |" in card and "pretraining has not seen" in card
    assert results["plain"].probe is None and "Macro mean" not in (folder / "plain" / "README.md").read_text()
    # Probing does not touch what is trained
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("probed", "plain")]
    assert weights[0] == weights[1]


def test_models_are_compared_on_the_same_records(finished, task, tmp_path, corpus_folder, capsys):
    folder, _ = finished
    arguments = ["--model", folder / "probed", folder / "plain", "--corpus", corpus_folder, "--untrained", 0]
    arguments += ["--drop_leads", "v1", "V2", "III", "--bootstrap_resamples", 20, "--disable_tqdm", "true"]
    arguments = [*map(str, arguments), "--device", "cpu", "--output_dir", str(tmp_path / "results")]
    report = run_probe(*parse_probe_arguments(arguments))
    first, second = report["models"]["probed"], report["models"]["plain"]
    # The two are the same encoder
    for key in ("above_first", "cost_above_first"):
        assert second[key]["value"] == second[key]["lower"] == second[key]["upper"] == 0
    assert first["cost"]["value"] == pytest.approx(
        first["macro_auroc"]["value"] - first["macro_auroc_dropped"]["value"]
    )
    printed = capsys.readouterr().out
    assert "Dropped: V1 V2 III, in test records only" in printed and "above probed" in printed
    saved = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert saved["metrics"] == report and saved["arguments"]["ProbeArguments"]["model"] == ["probed", "plain"]
    with pytest.raises(ValueError, match="holds results already"):
        run_probe(*parse_probe_arguments(arguments))


def test_leads_are_dropped_from_what_the_encoder_sees(finished, task, recwarn):
    folder, _ = finished
    record = task.corpus["test"][0]["ecg"]
    fewer = drop_leads(record, ["V1", "aVF"])
    assert fewer.lead_names == ("I", "II", "III", "aVR", "aVL", "V2", "V3", "V4", "V5", "V6")
    assert np.array_equal(fewer.signal[5], record.signal[record.lead_names.index("V2")])
    with pytest.raises(ValueError, match="none left"):
        drop_leads(record, record.lead_names)
    found = {}
    for drop_in in ("test", "all"):
        probe = LinearProbe(task, quiet(drop_leads=["V1", "V2", "V3"], drop_in=drop_in))
        probe.add("x", *load(folder / "plain"))
        found[drop_in] = probe.report()["models"]["x"]
    assert found["test"]["macro_auroc"] == found["all"]["macro_auroc"]
    assert found["test"]["macro_auroc_dropped"] != found["all"]["macro_auroc_dropped"]
    assert not [warning for warning in recwarn if "Missing leads" in str(warning.message)]


@pytest.mark.parametrize(("leads", "named"), [(["V4", "V7"], "V7"), (["vx"], "VX"), (["X1"], "X1")])
def test_leads_that_a_model_does_not_read_are_not_dropped(finished, task, leads, named):
    folder, _ = finished
    arguments = ["--model", str(folder / "plain"), "--corpus", "no corpus", "--device", "cpu", "--drop_leads", *leads]
    for told in (lambda: run_probe(*parse_probe_arguments(arguments)), lambda: _added(folder, task, leads)):
        with pytest.raises(ValueError, match="I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6") as error:
            told()
        assert named in str(error.value).split("tells")[0]


def _added(folder, task, leads):
    LinearProbe(task, quiet(drop_leads=leads)).add("x", *load(folder / "plain"))


def test_bars_number_the_untrained_encoders(finished, task, capsys):
    folder, _ = finished
    probe, (model, extractor) = LinearProbe(task, ProbeSettings(num_resamples=0)), load(folder / "plain")
    probe.add("x", model, extractor)
    probe.add_untrained("x", model.config, extractor, [4, 7])
    bars = capsys.readouterr().err
    assert "x, untrained 1 of 2: train" in bars and "x, untrained 2 of 2: test" in bars and "x: test" in bars


def test_untrained_encoders_are_those_of_their_seeds(finished, task):
    folder, _ = finished
    model, extractor = load(folder / "plain")
    state = torch.random.get_rng_state()
    reports = []
    for seeds in ([0], [1], [0, 1]):
        probe = LinearProbe(task, quiet())
        probe.add("x", model.train(), extractor)
        probe.add_untrained("x", model.config, extractor, seeds)
        reports.append(probe.report()["models"]["x"]["untrained"]["value"])
    assert reports[0] != reports[1] and reports[2] == pytest.approx(np.mean(reports[:2]))
    assert model.training and torch.equal(state, torch.random.get_rng_state())
    assert "untrained" in format_probe(probe.report())


def test_windows_of_a_longer_record_are_averaged(finished):
    folder, _ = finished
    corpus = load_corpus("synthetic", num_patients=20, records_per_patient=1, seed=2, seconds=20, sampling_rate=250)
    corpus.save_to_disk(str(folder / "long"))
    task = load_task(DataArguments(corpus=str(folder / "long")))
    model, extractor = load(folder / "plain")
    records = task.corpus["test"]["ecg"]
    inputs = extractor(list(records), windows="all", return_tensors="pt")
    with torch.no_grad():
        windows = model.get_ecg_features(inputs.input_values, inputs.attention_mask).numpy()
    assert len(windows) == 2 * len(records)
    features = LinearProbe(task, quiet())._features(ECGInference(model, extractor, True, "all"), "test", "x")
    assert features == pytest.approx(windows.reshape(len(records), 2, -1).mean(1), abs=1e-5)


def test_corpora_that_cannot_be_probed(make_ssl_arguments, make_pretraining_arguments, corpus_folder, tmp_path):
    unlabelled = load_corpus(str(corpus_folder)).remove_columns("labels")
    unlabelled.save_to_disk(str(tmp_path / "unlabelled"))
    with pytest.raises(ValueError, match="--probe: .*labels"):
        pretrain_deepecg_ssl(*make_ssl_arguments("--corpus", tmp_path / "unlabelled", "--probe", "true"))
    ages = load_corpus(str(corpus_folder))
    ages = ages.remove_columns("labels").map(lambda row: {"labels": row["age"]}, remove_columns=["age"])
    ages = ages.cast_column("labels", Value("float32"))
    ages.save_to_disk(str(tmp_path / "ages"))
    with pytest.raises(ValueError, match="--probe: The corpus holds values"):
        pretrain_dbeta(*make_pretraining_arguments("--corpus", tmp_path / "ages", "--probe", "true"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_dbeta_is_probed_too(make_pretraining_arguments):
    result = pretrain_dbeta(*make_pretraining_arguments("--max_steps", 1, "--probe", "true", "--probe_untrained", 1))
    assert result.probe["models"]["pretrained"]["model_type"] == "dbeta"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model is required"),
        (["--model", "a", "a"], "twice"),
        (["--model", "a", "--drop_leads", "X1"], "X1"),
        (["--model", "a", "--untrained", "-1"], "--untrained"),
        (["--model", "a", "--batch_size", "0"], "--batch_size"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_probe_arguments(arguments)


def test_the_script_says_in_one_line_what_is_wrong(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, str(SCRIPT), "--model", str(tmp_path / "no" / "folder")]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "There is no model folder" in done.stderr
