"""`ecg-classification` and `ecg-feature-extraction` over all models, against the models called by hand."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForSequenceClassification, TrainingArguments

import ecg_transformers as et
from ecg_transformers.cli import main
from ecg_transformers.registration import MODELS
from ecg_transformers.training.data import ECGCollator
from ecg_transformers.training.trainer import ECGTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))
from tiny_models import build

CLASSIFY, EMBED = "ecg-classification", "ecg-feature-extraction"
LABELS = {0: "AF", 1: "LBBB", 2: "sinus rhythm"}
TYPES = [entry.model_type for entry in MODELS]


@pytest.fixture(scope="module")
def records():
    """Of 10 s and 20 s, of two rates, one with its leads in another order."""
    corpus = et.load_corpus("synthetic", num_patients=12, records_per_patient=1, seed=4)
    first, second, third, fourth = (corpus["train"][index]["ecg"] for index in range(4))
    return [
        first,
        et.ECGRecord(np.concatenate([second.signal, third.signal], axis=1), 500, second.lead_names),
        et.ECGRecord(third.signal[:, ::2], 250, third.lead_names),
        et.ECGRecord(fourth.signal[::-1], 500, fourth.lead_names[::-1]),
    ]


@pytest.fixture(scope="module")
def corpus(records):
    from datasets import Dataset, Features, Value

    features = Features({"ecg": et.ECG(), "age": Value("int64")})
    return Dataset.from_dict({"ecg": records, "age": [1, 2, 3, 4]}, features=features)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, records):
    """Model type -> folder of a tiny classifier whose probabilities tell recordings apart."""
    made = {}
    for entry in MODELS:
        model = build(entry, "AutoModelForSequenceClassification")
        model.config.id2label, model.config.label2id = LABELS, {name: index for index, name in LABELS.items()}
        extractor = et.ECGFeatureExtractor.for_model_type(entry.model_type, config=model.config)
        folder = made[entry.model_type] = tmp_path_factory.mktemp("pipelines") / entry.model_type
        spread_out(model, extractor(records, return_tensors="pt"))
        model.save_pretrained(folder)
        extractor.save_pretrained(folder)
    return made


def spread_out(model, inputs):
    """Scale the head so that the logits of recordings lie around 0, some on either side."""
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        logits = model(**accepted(model.forward, inputs)).logits
        # The mean over recordings of the last layer's output goes to its bias
        scale = 1 / logits.std(0).clamp(min=1e-6)
        head.weight *= scale[:, None]
        head.bias.copy_((head.bias - logits.mean(0)) * scale)


def accepted(function, inputs):
    return {name: value for name, value in inputs.items() if name in inspect.signature(function).parameters}


@pytest.fixture(scope="module")
def classify(folders):
    return et.pipeline(CLASSIFY, folders["deepecg_sl"], device="cpu")


@pytest.fixture(scope="module")
def embed(folders):
    return et.pipeline(EMBED, folders["deepecg_sl"], device="cpu")


def scores(answer):
    return {entry["label"]: entry["score"] for entry in answer}


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(one, other, atol=1e-5)
        else:
            assert scores(one) == pytest.approx(scores(other), abs=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_answers_are_those_of_the_model_and_of_the_commands(model_type, folders, records, tmp_path, capsys):
    folder = folders[model_type]
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    head = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    backbone = AutoModel.from_pretrained(folder).eval()
    probabilities, features = [], []
    for record in records:
        inputs = extractor(record, windows="all", return_tensors="pt")
        with torch.no_grad():
            probabilities.append(head(**accepted(head.forward, inputs)).logits.sigmoid().mean(0).numpy())
            given = accepted(backbone.get_ecg_features, inputs)
            features.append(backbone.get_ecg_features(**given).mean(0).numpy())
    assert np.ptp(np.stack(probabilities), axis=0).min() > 0.05, "the fixture tells recordings apart"

    for make in (et.pipeline, transformers.pipeline):
        classify, embed = (make(task, model=str(folder), device="cpu") for task in (CLASSIFY, EMBED))
        for answer, expected in zip(classify(records, batch_size=3), probabilities, strict=True):
            assert scores(answer) == pytest.approx(dict(zip(LABELS.values(), expected, strict=True)), abs=1e-4)
            assert [entry["score"] for entry in answer] == sorted(scores(answer).values(), reverse=True)
            assert all(entry["present"] is (entry["score"] > 0.5) for entry in answer)
        found = embed(records, batch_size=3)
        assert all(vector.dtype == np.float32 and vector.ndim == 1 for vector in found)
        np.testing.assert_allclose(np.stack(found), np.stack(features), atol=1e-5)

    paths = [record.save(tmp_path / f"{index}.npz") for index, record in enumerate(records)]
    arguments = [*map(str, paths), "--model", str(folder), "--json", "--device", "cpu"]
    answers = classify(paths)
    assert main(["predict", *arguments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for answer, row in zip(answers, rows, strict=True):
        assert scores(answer) == pytest.approx(row["probabilities"], abs=1e-4)
        assert {entry["label"] for entry in answer if entry["present"]} == set(row["labels"])
    assert main(["embed", *arguments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(np.stack(embed(paths)), [row["embedding"] for row in rows], atol=1e-5)


def test_the_scores_are_those_of_the_test_metrics(folders, corpus, tmp_path):
    """What the fine-tuning script scores is what the folder predicts afterwards."""
    folder = folders["hubert_ecg"]
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    extractor = et.ECGFeatureExtractor.from_pretrained(folder)
    rows = [{"ecg": row["ecg"], "labels": [0.0, 1.0, 0.0]} for row in corpus]
    for method in ("mean", "max"):
        trainer = ECGTrainer(
            model,
            TrainingArguments(tmp_path, use_cpu=True, remove_unused_columns=False, per_device_eval_batch_size=3),
            data_collator=ECGCollator(extractor, list(LABELS.values()), model.config.problem_type, "all"),
            window_aggregation=method,
        )
        expected = 1 / (1 + np.exp(-trainer.predict(rows).predictions))
        found = et.pipeline(CLASSIFY, folder, device="cpu", aggregation=method)(corpus)
        for answer, row in zip(found, expected, strict=True):
            assert scores(answer) == pytest.approx(dict(zip(LABELS.values(), row, strict=True)), abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"batch_size": 8, "num_workers": 2}])
def test_batches_and_kinds_of_input_change_nothing(classify, embed, records, corpus, tmp_path, options):
    path = records[0].save(tmp_path / "record.npz")
    for run in (classify, embed):
        alone = [run(record) for record in records]
        assert_same(run(records, **options), alone)
        assert_same(run([path, str(path), {"ecg": records[0]}], **options), [alone[0]] * 3)
        array = torch.from_numpy(records[0].signal * 1000)
        assert_same([run(array, sampling_rate=500, units="uV", **options)], alone[:1])
        for inputs in (corpus, corpus["ecg"]):
            answers = run(inputs, **options)
            assert not isinstance(answers, list) and len(answers) == len(records)
            assert_same(list(answers), alone)
        for inputs in (corpus.to_iterable_dataset(), (record for record in records), iter(records)):
            answers = run(inputs, **options)
            with pytest.raises(TypeError):
                len(answers)
            assert_same(list(answers), alone)
        assert run([], **options) == []


def test_windows_and_aggregation(classify, embed, records):
    long = records[1]
    inputs = classify.extractor(long, windows="all", return_tensors="pt")
    with torch.no_grad():
        windows = classify.model(**accepted(classify.model.forward, inputs)).logits.sigmoid()
        features = embed.model.get_ecg_features(**accepted(embed.model.get_ecg_features, inputs)).numpy()
    assert windows.shape == (2, 3) and (windows[0] - windows[1]).abs().min() > 1e-3

    def named(values):
        return pytest.approx(dict(zip(LABELS.values(), values.tolist(), strict=True)), abs=1e-5)

    assert scores(classify(long)) == named(windows.mean(0))
    assert scores(classify(long, aggregation="max")) == named(windows.amax(0))
    assert scores(classify(long, windows="first")) == named(windows[0])
    assert_same([embed(long), embed(long, windows="first")], [features.mean(0), features[0]])


def changed(folders, tmp_path, of="deepecg_sl", name="changed", **config):
    folder = tmp_path / name
    shutil.copytree(folders[of], folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    return folder


def test_thresholds_decide(classify, folders, records, tmp_path):
    record = records[0]
    found = scores(classify(record))

    def present(answer):
        return {entry["label"]: entry["present"] for entry in answer}

    assert set(present(classify(record, thresholds=0)).values()) == {True}
    assert set(present(classify(record, thresholds=1.0)).values()) == {False}
    given = {"AF": found["AF"] + 1e-4, "LBBB": found["LBBB"] - 1e-4}
    expected = {"AF": False, "LBBB": True, "sinus rhythm": None}
    assert present(classify(record, thresholds=given)) == expected
    path = tmp_path / "limits.json"
    path.write_text(json.dumps(given))
    assert present(classify(record, thresholds=path)) == expected
    with pytest.raises(ValueError, match="no stored thresholds"):
        classify(record, thresholds="youden")
    with pytest.raises(ValueError, match="which the model does not predict"):
        classify(record, thresholds={"flutter": 0.5})

    # What training stores: thresholds of a criterion, and the windows and aggregation for which they were chosen
    stored = changed(
        folders,
        tmp_path,
        thresholds={"AF": 0.0, "LBBB": None, "sinus rhythm": 1.0},
        threshold_criterion="youden",
        window_aggregation="max",
        eval_windows="first",
        label_groups={"rhythm": ["AF", "sinus rhythm"], "conduction": ["LBBB"]},
    )
    stored = et.pipeline(CLASSIFY, stored, device="cpu")
    expected = {"AF": True, "LBBB": None, "sinus rhythm": False}
    assert present(stored(record)) == present(stored(record, thresholds="youden")) == expected
    assert set(present(stored(record, thresholds=0.0)).values()) == {True}
    assert_same([stored(records[1])], [classify(records[1], windows="first")])
    assert_same([stored(records[1], windows="all")], [classify(records[1], aggregation="max")])

    groups = stored([record, records[2]], groups=True)
    for answer, probabilities in zip(groups, map(scores, classify([record, records[2]])), strict=True):
        assert {entry["label"]: entry["labels"] for entry in answer} == {"rhythm": ["AF"], "conduction": []}
        highest = {
            "rhythm": max(probabilities["AF"], probabilities["sinus rhythm"]),
            "conduction": probabilities["LBBB"],
        }
        assert scores(answer) == pytest.approx(highest, abs=1e-5)
        assert answer[0]["score"] >= answer[1]["score"]
    with pytest.raises(ValueError, match="no groups of labels"):
        classify(record, groups=True)


def test_defaults_of_the_pipeline_and_of_the_call(classify, folders, records):
    everything = classify(records[0])
    assert classify(records[0], top_k=2) == everything[:2]
    built = et.pipeline(CLASSIFY, folders["deepecg_sl"], device="cpu", top_k=1, thresholds=0.0, batch_size=4)
    assert_same(built(records), [classify(record, top_k=1) for record in records])
    assert [entry["present"] for entry in built(records[0], top_k=3)] == [True] * 3
    assert [entry["present"] for entry in built(records[0], top_k=3, thresholds=1)] == [False] * 3


@pytest.mark.parametrize("model_type", TYPES)
def test_values_and_classes(model_type, folders, records, tmp_path):
    extractor = et.ECGFeatureExtractor.from_pretrained(folders[model_type])
    inputs = extractor(records[1], windows="all", return_tensors="pt")
    for kind in ("regression", "single_label_classification"):
        folder = changed(folders, tmp_path, model_type, kind, problem_type=kind)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = model(**accepted(model.forward, inputs)).logits
        run = et.pipeline(CLASSIFY, folder, device="cpu")
        answer = run(records, batch_size=2)[1]
        if kind == "regression":
            assert [(entry["label"], set(entry)) for entry in answer] == [
                (name, {"label", "score"}) for name in LABELS.values()
            ]
            assert [entry["score"] for entry in answer] == pytest.approx(logits.mean(0).tolist(), abs=1e-4)
            with pytest.raises(ValueError, match="`top_k` chooses labels"):
                run(records[0], top_k=1)
        else:
            expected = dict(zip(LABELS.values(), logits.softmax(-1).mean(0).tolist(), strict=True))
            assert scores(answer) == pytest.approx(expected, abs=1e-5)
            assert [entry["present"] for entry in answer] == [True, False, False]
        with pytest.raises(ValueError, match="has no thresholds"):
            run(records[0], thresholds=0.5)


def test_a_bad_recording_is_named_or_left_out(classify, embed, records, tmp_path):
    broken = tmp_path / "broken.hea"
    broken.write_text("no header")
    flat = et.ECGRecord(np.zeros((12, 5000)), 500, et.STANDARD_LEADS, {"record_id": "flat-1"})
    microvolts = records[0].signal * 1000
    for options in ({}, {"batch_size": 3}, {"batch_size": 2, "num_workers": 1}):
        with pytest.raises(et.ECGReadError, match="broken.hea"):
            classify([records[0], broken], **options)
        with pytest.raises(ValueError, match="flat-1: no lead carries a signal"):
            classify([records[0], flat], **options)
        with pytest.raises(ValueError, match="recording 1, counted from 0: .*span"):
            classify([records[0], microvolts], sampling_rate=500, **options)
        with pytest.raises(ValueError, match="recording 1, counted from 0: Pass `sampling_rate="):
            classify([records[0], microvolts], **options)
    for run in (classify, embed):
        mixed = [records[0], broken, flat, records[1], microvolts, 3]
        with pytest.warns(UserWarning, match="answer is None") as told:
            answers = run(mixed, on_error="warn", batch_size=2, sampling_rate=500)
        assert_same([answers[0], answers[3]], run([records[0], records[1]]))
        assert [answers[index] for index in (1, 2, 4, 5)] == [None] * 4
        told = " ".join(str(one.message) for one in told)
        assert all(words in told for words in ("broken.hea", "flat-1", "recording 4", "recording 5"))
        with pytest.warns(UserWarning, match="answer is None"):
            assert run(broken, on_error="warn") is None


def test_a_row_that_cannot_be_decoded(classify, records, tmp_path):
    from datasets import Dataset, Features

    paths = [str(record.save(tmp_path / f"{index}.npz")) for index, record in enumerate(records[:3])]
    rows = Dataset.from_dict({"ecg": paths}, features=Features({"ecg": et.ECG()}))
    Path(paths[1]).write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"1\.npz"):
        list(classify(rows, batch_size=2))
    with pytest.warns(UserWarning, match=r"1\.npz"):
        answers = list(classify(rows, batch_size=2, on_error="warn"))
    assert answers[1] is None
    assert_same([answers[0], answers[2]], classify([records[0], records[2]]))


def test_a_file_whose_reader_is_not_installed(classify, records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(200))
    with pytest.warns(UserWarning, match=r"a\.dcm: .*pydicom"):
        answers = classify([str(tmp_path / "a.dcm"), records[0]], on_error="warn")
    assert answers[0] is None and answers[1]
    with pytest.raises(ValueError, match=r"a\.dcm: .*pydicom"):
        classify(str(tmp_path / "a.dcm"))


def test_the_device_without_values(folders):
    with pytest.raises(ValueError, match="'meta' cannot be used here"):
        et.pipeline(CLASSIFY, folders["hybrid_ecg"], device="meta")


@pytest.mark.parametrize(
    ("task", "inputs", "options", "words"),
    [
        (CLASSIFY, "folder", {}, "this is a folder. List its records with find_ecg_files"),
        (CLASSIFY, 3, {}, "got int"),
        (CLASSIFY, "record", {"windows": "some"}, "`windows` is 'all' or 'first'"),
        (CLASSIFY, "record", {"aggregation": "sum"}, "`aggregation` is 'mean' or 'max'"),
        (CLASSIFY, "record", {"on_error": "skip"}, "`on_error` is 'raise' or 'warn'"),
        (CLASSIFY, "record", {"top_k": 0}, "`top_k` must be at least 1"),
        (CLASSIFY, "record", {"top_k": "2"}, "`top_k` must be at least 1, a whole number; got '2'"),
        (EMBED, "record", {"windws": "all"}, "has no option `windws`"),
        (CLASSIFY, "record", {"thresholds": 1.5}, "between 0 and 1"),
        (EMBED, "record", {"aggregation": "max"}, "always averaged"),
        (EMBED, "record", {"return_tensors": "tf"}, "`return_tensors` is 'np' or 'pt'"),
    ],
)
def test_bad_arguments_are_explained(classify, embed, records, tmp_path, task, inputs, options, words):
    known = {"record": records[0], "folder": tmp_path}
    run = classify if task == CLASSIFY else embed
    with pytest.raises((ValueError, TypeError), match=words):
        run(known.get(inputs, inputs), **options)


def test_features_as_tensors_and_in_half_precision(embed, folders, records):
    vectors = embed(records, return_tensors="pt", batch_size=2)
    assert all(isinstance(vector, torch.Tensor) and vector.dtype == torch.float32 for vector in vectors)
    np.testing.assert_array_equal(torch.stack(vectors), np.stack(embed(records, batch_size=2)))
    for model_type, folder in folders.items():
        half = et.pipeline(CLASSIFY, folder, device="cpu", dtype=torch.bfloat16)
        assert half.model.dtype == torch.bfloat16
        inputs = half.extractor(records[0], windows="all", return_tensors="pt")
        with torch.no_grad():
            logits = half.model(**accepted(half.model.forward, inputs)).logits
        expected = dict(zip(LABELS.values(), logits.float().sigmoid().mean(0).tolist(), strict=True))
        assert scores(half(records[0])) == pytest.approx(expected, abs=1e-5), model_type


@pytest.mark.parametrize("make", [et.pipeline, transformers.pipeline])
def test_folders_that_do_not_do(make, folders, tmp_path):
    backbone = tmp_path / "backbone"
    AutoModel.from_pretrained(folders["hybrid_ecg"]).save_pretrained(backbone)
    with pytest.raises(ValueError, match="backbone holds no trained classification head .* Fine-tune it first"):
        make(CLASSIFY, model=str(backbone))
    with pytest.raises(ValueError, match="other is neither|does not recognize"):
        make(CLASSIFY, model=str(changed(folders, tmp_path, name="other", model_type="unheard_of")))
    model = AutoModel.from_pretrained(folders["hybrid_ecg"])
    with pytest.raises(ValueError, match="HybridECGModel has no classification head"):
        make(CLASSIFY, model=model)
    with pytest.raises(ValueError, match="pass feature_extractor="):
        make(EMBED, model=build(MODELS[0], "AutoModel"))
    with pytest.raises(ValueError, match="Expected an ECGFeatureExtractor"):
        make(EMBED, model=model, feature_extractor=transformers.ViTImageProcessor())


def test_loaded_models_and_folders_without_a_recipe(folders, records, tmp_path, classify):
    model = AutoModelForSequenceClassification.from_pretrained(folders["deepecg_sl"]).train()
    extractor = AutoFeatureExtractor.from_pretrained(folders["deepecg_sl"])
    for given in ({}, {"feature_extractor": extractor}, {"processor": extractor}):
        run = et.pipeline(CLASSIFY, model, device="cpu", **given)
        assert not model.training
        assert_same([run(records[0])], [classify(records[0])])
    # A head is no hindrance to features
    folder = changed(folders, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    for make in (et.pipeline, transformers.pipeline):
        assert_same([make(CLASSIFY, model=str(folder), device="cpu")(records[0])], [classify(records[0])])
    vector = et.pipeline(EMBED, model, device="cpu")(records[0])
    assert_same([vector], [et.pipeline(EMBED, folder, device="cpu")(records[0])])
    classify.save_pretrained(tmp_path / "saved")
    assert "custom_pipelines" not in (tmp_path / "saved" / "config.json").read_text()
    assert_same([et.pipeline(CLASSIFY, tmp_path / "saved", device="cpu")(records[0])], [classify(records[0])])


@pytest.mark.parametrize("kind", ["text encoder", "pretraining", "published"])
def test_features_of_folders_without_a_classifier(kind, records, tmp_path, request):
    """With a text encoder and a processor, from pretraining, and as published: remote code and no recipe."""
    if kind == "text encoder":
        folder = request.getfixturevalue("dbeta_folder")
    elif kind == "published":
        folder = request.getfixturevalue("golden") / "hubert_ecg" / "hub_checkpoint" / "checkpoint"
    else:
        folder = tmp_path / "pretraining"
        entry = next(entry for entry in MODELS if entry.model_type == "deepecg_ssl")
        build(entry, "AutoModelForPreTraining").save_pretrained(folder)
    model, extractor = AutoModel.from_pretrained(folder).eval(), et.ECGFeatureExtractor.from_pretrained(folder)
    inputs = extractor(records[0], windows="all", return_tensors="pt")
    with torch.no_grad():
        expected = model.get_ecg_features(**accepted(model.get_ecg_features, inputs)).mean(0).numpy()
    for make in (et.pipeline, transformers.pipeline):
        assert_same([make(EMBED, model=str(folder), device="cpu")(records[0])], [expected])
        with pytest.raises(ValueError, match="no trained classification head"):
            make(CLASSIFY, model=str(folder), device="cpu")


@pytest.mark.parametrize("task", [CLASSIFY, EMBED])
def test_code_in_the_folder_is_never_run(task, folders, tmp_path, records, classify, embed):
    marker = tmp_path / "marker"
    classes = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoFeatureExtractor")
    remote = {"auto_map": {name: "evil.Evil" for name in classes}}
    folder = changed(folders, tmp_path, **remote)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass")
    recipe = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe | remote))
    expected = {CLASSIFY: classify, EMBED: embed}[task](records[0])
    for make in (et.pipeline, transformers.pipeline):
        assert_same([make(task, model=str(folder), device="cpu")(records[0])], [expected])
        with pytest.raises(ValueError, match="trust_remote_code"):
            make(task, model=str(folder), trust_remote_code=True)
    custom = {"custom_pipelines": {task: {"impl": "evil.Evil", "pt": ["AutoModel"], "type": "text"}}}
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | custom))
    assert_same([et.pipeline(task, folder, device="cpu")(records[0])], [expected])
    assert not marker.exists()


def test_real_files(shared_data, folders):
    """Formats, rates and lengths of real recordings, against the model called by hand."""
    patterns = ("ptb-xl/records100/**/*.hea", "sph-h5/SPH00001.h5", "cpsc2018-mat/A1980.mat", "ptbdb/s0010_re.hea")
    paths = [sorted(shared_data.glob(pattern))[0] for pattern in patterns]
    folder = folders["hybrid_ecg"]
    extractor = et.ECGFeatureExtractor.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    answers = et.pipeline(CLASSIFY, folder, device="cpu")(paths, batch_size=3)
    for path, answer in zip(paths, answers, strict=True):
        inputs = extractor(et.read_ecg(path), windows="all", return_tensors="pt")
        with torch.no_grad():
            expected = model(**accepted(model.forward, inputs)).logits.sigmoid().mean(0).tolist()
        assert scores(answer) == pytest.approx(dict(zip(LABELS.values(), expected, strict=True)), abs=1e-5)
