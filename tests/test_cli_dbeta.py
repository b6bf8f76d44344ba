"""The commands on D-BETA folders: whole, pretraining, and classifier; inputs of shape (records, 12, samples)."""

import json

import numpy as np
import pytest
import torch

from ecg_transformers import (
    STANDARD_LEADS,
    DBetaConfig,
    DBetaForPreTraining,
    DBetaForSequenceClassification,
    DBetaModel,
    ECGFeatureExtractor,
    ECGInference,
    ECGRecord,
    read_ecg,
)
from ecg_transformers.cli import main
from ecg_transformers.readers.numpy_files import save_npz

LABELS = ["AF", "LBBB", "sinus rhythm"]
CODE_TEST_ORDER = ["I", "II", "III", "aVL", "aVF", "aVR", "V1", "V2", "V3", "V4", "V5", "V6"]
CLASSES = {"whole": DBetaModel, "pretraining": DBetaForPreTraining, "classifier": DBetaForSequenceClassification}


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Recordings of several lengths and rates; R4 is R0 in the lead order of CODE-test."""
    folder = tmp_path_factory.mktemp("records")
    for seed, (samples, rate) in enumerate([(5000, 500), (12000, 500), (4000, 400), (2000, 500)]):
        signal = 0.3 * np.random.default_rng(seed).standard_normal((12, samples))
        save_npz(ECGRecord(signal, rate, STANDARD_LEADS, {"record_id": f"R{seed}"}), folder / f"R{seed}.npz")
    first = read_ecg(folder / "R0.npz")
    rows = [STANDARD_LEADS.index(name) for name in CODE_TEST_ORDER]
    save_npz(ECGRecord(first.signal[rows], 500, CODE_TEST_ORDER, {"record_id": "R4"}), folder / "R4.npz")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same ECG encoder in every kind of folder."""
    parts = {"num_hidden_layers": 1, "num_attention_heads": 2}
    convolutions = {"conv_dim": [8] * 4, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = DBetaConfig(
        ecg_config={**parts, **convolutions, "hidden_size": 16, "intermediate_size": 32},
        text_config={"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2},
        cross_modal_config=parts,
        decoder_config={**parts, "hidden_size": 8, "fusion_layer": 0},
        hidden_size=12,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
        thresholds={"AF": 0.0, "LBBB": 1.0, "sinus rhythm": 0.5},
    )
    torch.manual_seed(0)
    pretraining = DBetaForPreTraining(config)
    # Weights as small as those of an untrained model would hardly let one record differ from another
    for weights in pretraining.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.5)
    written = {name: tmp_path_factory.mktemp(name) for name in CLASSES}
    pretraining.save_pretrained(written["pretraining"])
    pretraining.dbeta.save_pretrained(written["whole"])
    DBetaForSequenceClassification.from_pretrained(written["whole"]).save_pretrained(written["classifier"])
    for folder in written.values():
        ECGFeatureExtractor.for_model_type("dbeta").save_pretrained(folder)
    return written


@pytest.mark.parametrize("kind", CLASSES)
def test_embeddings(records, folders, tmp_path, kind):
    assert run("embed", records, "--model", folders[kind], "-o", tmp_path / "e.npz", "--batch_size", 3) == 0
    with np.load(tmp_path / "e.npz") as stored:
        embeddings, names = stored["embeddings"], stored["record_ids"].tolist()
    assert names == ["R0", "R1", "R2", "R3", "R4"] and embeddings.shape == (5, 12)
    extractor = ECGFeatureExtractor.from_pretrained(folders[kind])
    model = DBetaModel.from_pretrained(folders["whole"]).eval()
    for name, embedding in zip(names, embeddings, strict=True):
        inputs = extractor(read_ecg(records / f"{name}.npz"), windows="all", return_tensors="pt")
        assert inputs.input_values.shape == (3 if name == "R1" else 1, 12, 5000)
        with torch.no_grad():
            expected = model.get_ecg_features(inputs.input_values, inputs.attention_mask).mean(0)
        np.testing.assert_allclose(embedding, expected, atol=5e-5)
    # Leads are found by name
    np.testing.assert_allclose(embeddings[4], embeddings[0], atol=5e-5)
    assert np.abs(embeddings[1] - embeddings[0]).max() > 0.05


def test_predictions(records, folders, capsys):
    assert run("predict", records, "--model", folders["classifier"], "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["num_windows"] for row in rows] == [1, 3, 1, 1, 1]
    assert rows[0]["probabilities"] == pytest.approx(rows[4]["probabilities"], abs=5e-5)
    model = DBetaForSequenceClassification.from_pretrained(folders["classifier"]).eval()
    extractor = ECGFeatureExtractor.from_pretrained(folders["classifier"])
    for row in rows:
        inputs = extractor(read_ecg(row["path"]), windows="all", return_tensors="pt")
        with torch.no_grad():
            expected = model(inputs.input_values, inputs.attention_mask).logits.sigmoid().mean(0)
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=5e-5)
        assert "AF" in row["labels"] and "LBBB" not in row["labels"]
    for kind in ("whole", "pretraining"):
        assert run("predict", records, "--model", folders[kind]) == 1
        assert "no trained classification head" in capsys.readouterr().err


def test_results_do_not_depend_on_the_batch(records, folders):
    paths = sorted(records.glob("*.npz"))
    for kind, embeddings in (("whole", True), ("classifier", False)):
        one, many = (
            ECGInference.from_pretrained(folders[kind], embeddings=embeddings, batch_size=size) for size in (1, 32)
        )
        for left, right in zip(one.over_files(paths), many.over_files(paths), strict=True):
            assert left.error is None and left.num_windows == right.num_windows
            np.testing.assert_allclose(left.values, right.values, atol=5e-5)


@pytest.mark.parametrize("kind", CLASSES)
def test_information(folders, capsys, kind):
    assert run("info", folders[kind]) == 0
    output = capsys.readouterr().out
    assert "dbeta" in output and "12 leads, 10 s at 500 Hz" in output and "resample(sampling_rate=500)" in output
    assert ("sinus rhythm (0.500)" in output) is (kind == "classifier")
    assert ("no tokenizer" in output) is (kind != "classifier")
    assert run("info", folders[kind], "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["labels"] == (LABELS if kind == "classifier" else [])
    assert described["tokenizer"] is (None if kind == "classifier" else False)


def test_a_sheet_with_predictions(records, folders, tmp_path):
    pytest.importorskip("matplotlib")
    assert run("plot", records / "R0.npz", "--model", folders["classifier"], "-o", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
