import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import ecg_transformers as et
from ecg_transformers.evaluation import evaluate_zero_shot, parse_zero_shot_arguments
from ecg_transformers.evaluation.zero_shot import (
    combine_windows,
    embed_labels,
    embed_texts,
    fill_template,
    score_zero_shot,
    zero_shot_logits,
)
from ecg_transformers.pipelines.loading import load_zero_shot_model

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["sinus rhythm", "atrial fibrillation", "a wide qrs complex with a broad r wave", "st depression", "flutter"]


@pytest.fixture(scope="module")
def model_and_processor(dbeta_folder):
    return load_zero_shot_model(dbeta_folder)


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "synthetic"
    et.load_corpus("synthetic", num_patients=50, records_per_patient=2, seed=1).save_to_disk(str(folder))
    return folder


@pytest.fixture
def run(corpus_folder, dbeta_folder, tmp_path):
    def make(*extra, output="out"):
        settings = {"corpus": corpus_folder, "model": dbeta_folder, "output_dir": tmp_path / output}
        settings |= {"descriptions": "synthetic", "bootstrap_resamples": 20, "disable_tqdm": True, "device": "cpu"}
        given = {str(name).lstrip("-") for name in extra}
        arguments = [part for name, value in settings.items() if name not in given for part in (f"--{name}", value)]
        return evaluate_zero_shot(*parse_zero_shot_arguments([str(part) for part in (*arguments, *extra)]))

    return make


def read_table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("uses_mask", [True, False])
def test_a_text_does_not_depend_on_its_company(dbeta_folder, uses_mask):
    model, processor = load_zero_shot_model(dbeta_folder)
    model.config.text_encoder_uses_mask = uses_mask
    together = embed_texts(model, processor, TEXTS, batch_size=3)
    alone = torch.cat([embed_texts(model, processor, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.cdist(together, together).fill_diagonal_(9).min() > 0.01
    repeated = embed_texts(model, processor, [TEXTS[1], TEXTS[0], TEXTS[1]])
    torch.testing.assert_close(repeated, together[[1, 0, 1]], atol=1e-5, rtol=0)


def test_each_text_is_embedded_once(model_and_processor, monkeypatch):
    model, processor = model_and_processor
    rows, original = [], type(model).get_text_features

    def counted(self, input_ids, **kwargs):
        rows.append(len(input_ids))
        return original(self, input_ids, **kwargs)

    monkeypatch.setattr(type(model), "get_text_features", counted)
    embed_texts(model, processor, [*TEXTS, *TEXTS, "SINUS RHYTHM"], batch_size=2)
    assert sum(rows) == len(TEXTS) + 1 and max(rows) <= 2


def test_several_descriptions_are_averaged_and_templates_filled(model_and_processor):
    model, processor = model_and_processor
    labels = {"a": TEXTS[:3], "b": TEXTS[3]}
    found = embed_labels(model, processor, labels, "the ecg shows {} today")
    filled = embed_texts(model, processor, [f"the ecg shows {text} today" for text in TEXTS[:4]])
    torch.testing.assert_close(found, torch.stack([filled[:3].mean(0), filled[3]]), atol=1e-5, rtol=0)
    assert fill_template(None, "{x}") == "{x}" and fill_template("a {} b", "{x}") == "a {x} b"
    for template in ("no place", "{} and {}", "{name}", "{0}", "{", "{}}"):
        with pytest.raises(ValueError, match="one place for the label"):
            fill_template(template, "x")
    for texts in ([], [""], ["a", " "]):
        with pytest.raises(ValueError, match="texts that are not empty"):
            embed_texts(model, processor, texts)


@pytest.mark.parametrize("method", ["mean", "max"])
@pytest.mark.parametrize("multi_label", [True, False])
def test_windows_are_combined_by_probability(method, multi_label):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    index = torch.tensor([0, 0, 1, 2, 2, 2])
    combined = combine_windows(logits, index, method, multi_label)
    to_probabilities = torch.sigmoid if multi_label else lambda values: values.softmax(-1)
    for record in range(3):
        part = to_probabilities(logits[index == record])
        expected = part.mean(0) if method == "mean" else part.amax(0)
        if not multi_label:
            expected = expected / expected.sum()
        torch.testing.assert_close(to_probabilities(combined[record]), expected)
    # One window keeps its dot products, whatever else is in the batch.
    assert torch.equal(combined[1], logits[2])


def test_the_score_is_the_dot_product(model_and_processor):
    model, processor = model_and_processor
    records = [torch.randn(12, 5000), torch.randn(12, 12_000)]
    inputs = processor.feature_extractor(
        [record.numpy() for record in records], sampling_rate=500, windows="all", return_tensors="pt"
    )
    labels = embed_texts(model, processor, TEXTS)
    with torch.no_grad():
        ecgs = model.get_ecg_features(inputs["input_values"], attention_mask=inputs["attention_mask"])
    assert inputs["record_index"].tolist() == [0, 1, 1, 1]
    dots = (ecgs[:, None] * labels).sum(-1)
    found = zero_shot_logits(model, inputs, labels, batch_size=2)
    torch.testing.assert_close(found[0], dots[0].double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1].sigmoid(), dots[1:].double().sigmoid().mean(0), atol=1e-5, rtol=0)
    assert dots.std() > 0.1


def test_areas_equal_those_of_the_raw_dot_products():
    """Sigmoids of these dot products are all 1 in double precision; their ranks are not equal."""
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 4)) < 0.4).astype(float)
    logits = targets * 20 + rng.normal(60, 20, targets.shape)
    assert len(np.unique(1 / (1 + np.exp(-logits[:, 0])))) < 45
    targets[:7, 0] = np.nan
    targets[:, 2] = 0
    logits[::2, 1] = logits[0, 1]
    result = score_zero_shot(targets, logits, ["a", "b", "c", "d"], num_resamples=50, groups=np.arange(60) // 3)
    for column, name in ((0, "a"), (1, "b"), (3, "d")):
        known = ~np.isnan(targets[:, column])
        pair = targets[known, column], logits[known, column]
        assert result["per_label"][name]["auroc"] == pytest.approx(roc_auc_score(*pair))
        assert result["per_label"][name]["auprc"] == pytest.approx(average_precision_score(*pair))
    assert result["per_label"]["a"]["num_unknown"] == 7
    # A label without positives has no score: not 0, and not part of the mean.
    assert result["missing_labels"] == ["c"] and result["num_missing_labels"] == 1
    assert result["per_label"]["c"]["auroc"] is None and result["per_label"]["c"]["auprc"] is None
    values = [result["per_label"][name]["auroc"] for name in "abd"]
    assert result["macro_auroc"] == pytest.approx(np.mean(values))
    interval = result["intervals"]["auroc"]["macro"]
    assert interval["value"] == pytest.approx(result["macro_auroc"])
    assert interval["lower"] < interval["value"] < interval["upper"]
    alone = score_zero_shot(targets, logits, list("abcd"), num_resamples=50)["intervals"]["auroc"]["macro"]
    assert alone["lower"] != interval["lower"]
    json.dumps(result, allow_nan=False)
    assert score_zero_shot(targets, logits, num_resamples=0)["intervals"] == {}
    logits[3, 1] = np.nan
    with pytest.raises(ValueError, match="`logits` must be finite"):
        score_zero_shot(targets, logits)


def test_a_run_writes_what_it_found(run, corpus_folder, dbeta_folder, tmp_path, capsys):
    scores = run("--batch_size", 7, "--num_workers", 1)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "test_predictions.csv"}
    assert metrics["metrics"] == scores and metrics["corpus"]["split"] == "test"
    assert metrics["model"]["name"] == "dbeta" and str(tmp_path) not in json.dumps(metrics)
    assert list(metrics["texts"])[0] == "sinus_rhythm" and "P wave" in metrics["texts"]["sinus_rhythm"][0]
    test = et.load_corpus(corpus_folder)["test"]
    rows = read_table(tmp_path / "out" / "test_predictions.csv")
    assert [row["record_id"] for row in rows] == test["record_id"][:]
    names = list(metrics["texts"])
    targets = np.array([[float(row[f"{name}_true"]) for name in names] for row in rows])
    logits = np.array([[float(row[f"{name}_logit"]) for name in names] for row in rows])
    assert targets.tolist() == [[row[name] for name in names] for row in test["labels"][:]]
    for column, name in enumerate(names):
        expected = roc_auc_score(targets[:, column], logits[:, column])
        assert scores["per_label"][name]["auroc"] == pytest.approx(expected)
    probabilities = np.array([[float(row[f"{name}_probability"]) for name in names] for row in rows])
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4)
    # The pipeline gives the same scores for the same words.
    zero_shot = et.pipeline("zero-shot-ecg-classification", model=dbeta_folder, device="cpu")
    for row, answer in zip(rows, zero_shot(test.select(range(3)), candidate_labels=metrics["texts"]), strict=False):
        for entry in answer:
            assert entry["logit"] == pytest.approx(float(row[f"{entry['label']}_logit"]), abs=1e-4)
    printed = capsys.readouterr().out
    assert "AUROC [95% CI]" in printed and "Macro mean" in printed and "F1" not in printed


def test_words_change_the_scores(run, tmp_path):
    plain = run("--bootstrap_resamples", 0)
    prompted = run("--bootstrap_resamples", 0, "--prompt", "report: {}", output="prompted")
    assert plain["intervals"] == {} and prompted["per_label"] != plain["per_label"]
    texts = json.loads((tmp_path / "prompted" / "metrics.json").read_text())["texts"]
    assert all(text.startswith("report: ") for of_label in texts.values() for text in of_label)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({name: [f"shows {name}", name] for name in plain["per_label"]}))
    assert run("--bootstrap_resamples", 0, "--descriptions", own, output="own")["per_label"] != plain["per_label"]


def test_a_part_of_the_labels_is_scored(run, tmp_path, capsys):
    whole = run("--bootstrap_resamples", 0)
    texts = json.loads((tmp_path / "out" / "metrics.json").read_text())["texts"]
    chosen = list(texts)[3:0:-2]
    own = tmp_path / "own.json"
    own.write_text(json.dumps({name: texts[name] for name in chosen}))
    capsys.readouterr()
    part = run("--bootstrap_resamples", 0, "--descriptions", own, output="part")
    assert (
        f"2 of the {len(texts)} labels are described and scored, {len(texts) - 2} are left" in capsys.readouterr().out
    )
    assert list(part["per_label"]) == chosen[::-1]
    assert all(part["per_label"][name] == whole["per_label"][name] for name in chosen)
    rows = read_table(tmp_path / "part" / "test_predictions.csv")
    assert [name for name in rows[0] if name.endswith("_true")] == [f"{name}_true" for name in chosen[::-1]]


def test_results_are_not_overwritten_unasked(run, tmp_path):
    run("--bootstrap_resamples", 0)
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    with pytest.raises(ValueError, match="--overwrite_output_dir"):
        run()
    with pytest.raises(ValueError, match="There are no label descriptions"):
        run("--overwrite_output_dir", True, "--descriptions", "nothing")
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before
    run("--overwrite_output_dir", True, "--bootstrap_resamples", 0, "--prompt", "now: {}")
    assert (tmp_path / "out" / "metrics.json").read_bytes() != before


def test_splits_and_windows(run, tmp_path):
    sizes = {}
    for split in ("train", "validation", "test", "all"):
        sizes[split] = run("--split", split, "--bootstrap_resamples", 0, output=split)["num_records"]
        assert len(read_table(tmp_path / split / f"{split}_predictions.csv")) == sizes[split]
    assert sizes["all"] == sizes["train"] + sizes["validation"] + sizes["test"] == 100


def test_long_records(run, tmp_path):
    corpus = ("--corpus", "synthetic", "--corpus_options", "num_patients=10", "seconds=22", "records_per_patient=1")
    tables = {}
    for windows, aggregation in (("first", "mean"), ("all", "mean"), ("all", "max")):
        output = f"{windows}-{aggregation}"
        options = ("--eval_windows", windows, "--window_aggregation", aggregation, "--bootstrap_resamples", 0)
        run(*corpus, *options, "--split", "all", output=output)
        rows = read_table(tmp_path / output / "all_predictions.csv")
        tables[output] = np.array([[float(v) for k, v in row.items() if k.endswith("_logit")] for row in rows])
    assert np.abs(tables["first-mean"] - tables["all-mean"]).max() > 1e-3
    assert (tables["all-max"] >= tables["all-mean"] - 1e-6).all()
    assert (tables["all-max"] >= tables["first-mean"] - 1e-4).all()


@pytest.mark.parametrize("kind", ["single", "regression", "unknown"])
def test_other_corpora(run, corpus_folder, tmp_path, kind):
    from datasets import ClassLabel, Value

    corpus = et.load_corpus(corpus_folder)
    for split, dataset in corpus.items():
        rows = dataset.remove_columns("ecg")["labels"][:]
        if kind == "single":
            feature = ClassLabel(names=["sinus_rhythm", "sinus_tachycardia"])
            values = [None if index == 0 else int(row["sinus_tachycardia"]) for index, row in enumerate(rows)]
        elif kind == "regression":
            feature, values = Value("float32"), [1.0] * len(rows)
        else:
            feature, values = dataset.features["labels"], [dict.fromkeys(row, 0.0) for row in rows]
        corpus[split] = dataset.remove_columns("labels").add_column("labels", values, feature=feature)
    corpus.save_to_disk(str(tmp_path / "other"))
    if kind == "regression":
        with pytest.raises(ValueError, match="holds values"):
            run("--corpus", tmp_path / "other")
        return
    scores = run("--corpus", tmp_path / "other", "--bootstrap_resamples", 10)
    if kind == "single":
        rows = read_table(tmp_path / "out" / "test_predictions.csv")
        assert rows[0]["sinus_rhythm_true"] == "" and {row["sinus_rhythm_true"] for row in rows[1:]} == {"0", "1"}
        assert scores["per_label"]["sinus_rhythm"]["num_unknown"] == 1 and scores["macro_auroc"] is not None
    else:
        assert scores["macro_auroc"] is None and len(scores["missing_labels"]) == 9


def test_published_corpora(run, shared_data):
    options = ("--corpus", "ptbxl", "--data_dir", shared_data / "ptb-xl", "--descriptions", "ptbxl", "--split", "all")
    for task, labels in (("superclass", 5), ("subclass", 23), ("all", 71)):
        scores = run(*options, "--task", task, "--bootstrap_resamples", 0, output=task)
        assert scores["num_labels"] == labels and scores["num_records"] > 3
    folder = shared_data / "challenge-2021"
    options = ("--corpus", "challenge", "--data_dir", folder, "--descriptions", "challenge", "--split", "all")
    scores = run(*options, "--corpus_options", "label_set=scored", output="challenge")
    assert scores["num_labels"] == 26 and scores["num_missing_labels"] == len(scores["missing_labels"]) < 26


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--descriptions", "code"), "describes 6 labels, but not sinus_rhythm"),
        (("--model", "/nowhere/at/all"), "There is no model folder"),
        (("--device", "cuda:99"), "cannot be used here"),
        (("--device", "abacus"), "cannot be used here"),
        (("--corpus", "nothing"), "Unknown corpus"),
        (("--prompt", "no place"), "one place for the label"),
        (("--confidence_level", 1), "--confidence_level"),
        (("--bootstrap_resamples", -1), "--bootstrap_resamples"),
        (("--batch_size", 0), "--batch_size"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(run, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(*options)
    assert not (tmp_path / "out").exists()


def test_a_corpus_without_descriptions_of_its_own(corpus_folder, dbeta_folder, tmp_path):
    arguments = ["--corpus", corpus_folder, "--model", dbeta_folder, "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match="pass --descriptions with one of challenge, code, ptbxl, synthetic"):
        evaluate_zero_shot(*parse_zero_shot_arguments([str(part) for part in arguments]))


def test_the_script(corpus_folder, dbeta_folder, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "training_scripts" / "evaluate_zero_shot.py")]

    def call(*arguments):
        words = [*command, *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=180)

    good = ("--corpus", corpus_folder, "--descriptions", "synthetic", "--model", dbeta_folder)
    good += ("--output_dir", tmp_path / "out", "--bootstrap_resamples", 10, "--device", "cpu")
    done = call(*good)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Macro mean" in done.stdout and "record/s" in done.stderr
    again = call(*good)
    assert again.returncode == 2 and "Traceback" not in again.stderr
    assert again.stderr.strip().splitlines()[-1].startswith("error: ") and "--overwrite_output_dir" in again.stderr
    help_text = call("--help").stdout
    assert "--prompt" in help_text and "--train_windows" not in help_text and "Example:" in help_text
