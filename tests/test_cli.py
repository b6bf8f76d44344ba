import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from ecg_transformers import (
    STANDARD_LEADS,
    ECGFeatureExtractor,
    ECGRecord,
    HubertECGConfig,
    HubertECGForSequenceClassification,
    HubertECGModel,
    read_ecg,
)
from ecg_transformers.cli import build_parser, main
from ecg_transformers.commands.messages import in_options
from ecg_transformers.inference import ECGInference
from ecg_transformers.input_listing import list_ecg_files
from ecg_transformers.readers.numpy_files import save_npz
from ecg_transformers.registration import MODELS
from ecg_transformers.training.codebooks import Codebook, CodebookSet

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 5,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
LABELS = ["AF", "LBBB", "sinus rhythm"]


def recording(samples: int, seed: int, rate: float = 500) -> ECGRecord:
    signal = 0.3 * np.random.default_rng(seed).standard_normal((12, samples))
    return ECGRecord(signal, rate, STANDARD_LEADS, {"record_id": f"R{seed}", "age": 60.0, "sex": "female"})


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for seed, (samples, rate) in enumerate([(5000, 500), (10000, 500), (2570, 257), (2000, 500)]):
        save_npz(recording(samples, seed, rate), folder / f"R{seed}.npz")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = HubertECGConfig(
        **TINY,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
    )
    config.thresholds = {"AF": 0.0, "LBBB": 1.0, "sinus rhythm": 0.5}
    HubertECGForSequenceClassification(config).save_pretrained(folder)
    ECGFeatureExtractor.for_model_type("hubert_ecg").save_pretrained(folder)
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_every_command_explains_itself(capsys):
    assert run() == 2
    assert "examples:" in capsys.readouterr().out
    parser = build_parser()
    told = {}
    for command in ("predict", "embed", "plot", "convert", "label-reports", "info", "demo"):
        with pytest.raises(SystemExit) as stopped:
            parser.parse_args([command, "--help"])
        told[command] = capsys.readouterr().out
        assert stopped.value.code == 0 and "usage:" in told[command]
    assert all(entry.model_type in told["convert"] for entry in MODELS)
    assert "--threshold " not in told["predict"]
    assert run("--version") == 0
    assert "transformers" in capsys.readouterr().out


def test_predictions_equal_extractor_and_model(records, model, capsys):
    assert run("predict", records, "--model", model, "--json", "--batch_size", 2) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["record_id"] for row in rows] == ["R0", "R1", "R2", "R3"]
    assert [row["num_windows"] for row in rows] == [2, 4, 2, 1]
    extractor = ECGFeatureExtractor.from_pretrained(model)
    network = HubertECGForSequenceClassification.from_pretrained(model).eval()
    for row in rows:
        inputs = extractor(read_ecg(row["path"]), windows="all", return_tensors="pt")
        with torch.no_grad():
            logits = network(inputs.input_values, inputs.attention_mask).logits
        expected = logits.sigmoid().mean(0).tolist()
        assert list(row["probabilities"]) == LABELS
        np.testing.assert_allclose(list(row["probabilities"].values()), expected, atol=2e-6)
        assert "AF" in row["labels"] and "LBBB" not in row["labels"]


def test_predictions_as_files(records, model, tmp_path, capsys):
    for name in ("p.csv", "p.json", "p.jsonl"):
        assert run("predict", records, "--model", model, "-o", tmp_path / name, "--windows", "first") == 0
    table = list(csv.DictReader((tmp_path / "p.csv").open()))
    listed = json.loads((tmp_path / "p.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(table) == 4 and listed == lines
    assert float(table[1]["AF"]) == listed[1]["probabilities"]["AF"]
    assert table[1]["labels"].split(";") == listed[1]["labels"]
    assert all(row["num_windows"] == 1 for row in listed)
    assert not capsys.readouterr().out


def test_values_of_a_regression_are_no_decisions(records, model, tmp_path, capsys):
    folder = tmp_path / "age"
    torch.manual_seed(0)
    config = HubertECGConfig(**TINY, id2label={0: "labels"}, label2id={"labels": 0}, problem_type="regression")
    HubertECGForSequenceClassification(config).save_pretrained(folder)
    ECGFeatureExtractor.for_model_type("hubert_ecg").save_pretrained(folder)
    record = records / "R0.npz"
    assert run("predict", record, "--model", folder, "-o", tmp_path / "a.csv") == 0
    assert "1 prediction written" in capsys.readouterr().err
    with (tmp_path / "a.csv").open() as file:
        header, row = csv.reader(file)
    assert header == ["path", "record_id", "num_windows", "leads_without_signal", "labels"]
    extractor, network = ECGFeatureExtractor.from_pretrained(folder), ECGInference.from_pretrained(folder).model
    inputs = extractor(read_ecg(record), windows="all", return_tensors="pt")
    with torch.no_grad():
        expected = network(inputs.input_values, inputs.attention_mask).logits.mean().item()
    assert float(row[-1]) == pytest.approx(expected, abs=2e-6)
    assert run("predict", record, "--model", folder) == 0
    (line,) = capsys.readouterr().out.splitlines()
    path, name, value = line.rsplit(" ", 2)
    assert path == f"{record}:" and name == "labels" and float(value) == pytest.approx(expected, rel=1e-4)
    assert run("predict", record, "--model", folder, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert "undecided" not in described and "labels" not in described and list(described["values"]) == ["labels"]


def test_a_table_for_reading_and_one_threshold(records, model, capsys):
    assert run("predict", records / "R0.npz", "--model", model, "--thresholds", "0.999999") == 0
    output = capsys.readouterr().out
    assert "no label above its threshold" in output and "sinus rhythm" in output


def test_bad_files_are_reported_and_the_others_go_on(records, model, tmp_path, capsys):
    (tmp_path / "bad.npz").write_bytes((records / "R0.npz").read_bytes()[:1000])
    (tmp_path / "worse.npz").write_bytes(b"no archive")
    flat = recording(5000, 9)
    save_npz(ECGRecord(flat.signal * 1e6, 500, STANDARD_LEADS, {"record_id": "huge"}), tmp_path / "huge.npz")
    save_npz(flat, tmp_path / "good.npz")
    silent = np.zeros((12, 5000), dtype=np.float32)
    save_npz(ECGRecord(silent, 500, STANDARD_LEADS, {"record_id": "silent"}), tmp_path / "silent.npz")
    half = flat.signal.copy()
    half[6:] = 0
    save_npz(ECGRecord(half, 500, STANDARD_LEADS, {"record_id": "half"}), tmp_path / "half.npz")
    assert run("predict", tmp_path, "--model", model, "--json") == 1
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["record_id"] for row in rows] == ["R9", "half"]
    assert [row["leads_without_signal"] for row in rows] == [[], list(STANDARD_LEADS[6:])]
    assert "silent.npz: no lead carries a signal" in captured.err
    assert "bad.npz" in captured.err and "worse.npz" in captured.err
    assert "huge.npz" in captured.err and "Traceback" not in captured.err


def test_what_is_left_out_and_where_leads_miss_is_told(model, tmp_path, capsys):
    for seed in range(8):
        record = recording(2500, seed)
        leads = slice(None) if seed == 0 else slice(0, 12 - (seed + 1) // 2)
        part = ECGRecord(record.signal[leads], 500, STANDARD_LEADS[leads], record.metadata)
        save_npz(part, tmp_path / f"R{seed}.npz")
    assert run("predict", tmp_path, "--model", model) == 0
    told = capsys.readouterr().err
    assert (
        "in 7 of 8 records" in told
        and "leads): R1.npz (1), R2.npz (1), R3.npz (2), R4.npz (2), R5.npz (3) and 2 more" in told
    )
    assert "left out" not in told
    (tmp_path / "LICENSE.txt").write_text("as you like")
    (tmp_path / "labels.csv").write_text("record,AF\nR1,1\nR2,0\n")
    for command in (("embed", "--model", model, "--json"), ("info",)):
        assert run(command[0], tmp_path, *command[1:]) == 0
        assert f"left out of {tmp_path}, no ECG: 2 files (LICENSE.txt, labels.csv)\n" in capsys.readouterr().err
    assert run("predict", tmp_path / "R1.npz", "--model", model) == 0
    assert "records" not in capsys.readouterr().err


def test_embeddings(records, model, tmp_path, capsys):
    assert run("embed", records, "--model", model, "-o", tmp_path / "e.npz") == 0
    stored = np.load(tmp_path / "e.npz")
    assert stored["embeddings"].shape == (4, 16) and stored["record_ids"].tolist() == ["R0", "R1", "R2", "R3"]
    network = HubertECGModel.from_pretrained(model).eval()
    inputs = ECGFeatureExtractor.from_pretrained(model)(recording(2000, 3), return_tensors="pt")
    with torch.no_grad():
        hidden = network(inputs.input_values, inputs.attention_mask).last_hidden_state
    mask = network.get_token_mask(inputs.attention_mask)
    assert not mask.all()
    np.testing.assert_allclose(stored["embeddings"][3], hidden[mask].mean(0), atol=1e-5)
    assert run("embed", records, "--model", model, "-o", tmp_path / "e.csv") == 0
    rows = list(csv.reader((tmp_path / "e.csv").open()))
    np.testing.assert_allclose(np.array(rows[4][2:], dtype=float), stored["embeddings"][3], rtol=1e-5)
    capsys.readouterr()
    assert run("embed", records / "R0.npz", "--model", model, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["embedding"]) == 16
    assert run("embed", records / "R0.npz", "--model", model, "-o", tmp_path / "one.npz") == 0
    assert "1 embedding of 16 values" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["predict", "nowhere", "--model", "{model}"], "does not exist"),
        (
            ["predict", "{empty}", "--model", "{model}"],
            "looks like an ECG (.asc, .b64, .base64, .bdf, .csv, .dat, .dcm",
        ),
        (["predict", "{records}", "--model", "{empty}"], "config.json"),
        (["predict", "{records}", "--model", "{model}", "-o", "a.xlsx"], "ends in .csv or .json"),
        (["predict", "{records}", "--model", "{model}", "-o", "no/folder/a.csv"], "does not exist; create it"),
        (["predict", "{records}", "--model", "{model}", "--thresholds", "7"], "between 0 and 1"),
        (["predict", "{records}", "--model", "{model}", "--batch_size", "0"], "at least 1"),
        (["predict", "{records}", "--model", "{backbone}"], "no trained classification head"),
        (["predict", "{records}", "--model", "{model}/nowhere"], "no model folder"),
        (["predict", "{records}", "--model", "{model}", "--device", "gpu"], "'gpu' cannot be used"),
        (["embed", "{records}", "--model", "{model}"], "--output embeddings.npz"),
        (["plot", "{records}/R0.npz", "-o", "a.docx"], "png"),
        (["plot", "nowhere.hea"], "nowhere.hea"),
        (["convert", "nowhere", "x"], "nowhere"),
        (["info", "nowhere"], "does not exist"),
    ],
)
def test_errors_without_traceback(records, model, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    backbone = tmp_path / "backbone"
    HubertECGModel.from_pretrained(model).save_pretrained(backbone)
    ECGFeatureExtractor.for_model_type("hubert_ecg").save_pretrained(backbone)
    places = {"records": records, "model": model, "empty": tmp_path / "empty", "backbone": backbone}
    assert run(*(argument.format(**places) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert words in captured.err and "Traceback" not in captured.err


def test_info_of_records_and_models(records, model, capsys):
    assert run("info", records / "R2.npz", model) == 0
    output = capsys.readouterr().out
    assert "12 leads, 10 s, 2570 samples at 257 Hz" in output and "age          60.0" in output
    assert "hubert_ecg" in output and "sinus rhythm (0.500)" in output and "recipe step  decimate(factor=5)" in output
    assert run("info", model, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    network = HubertECGForSequenceClassification.from_pretrained(model)
    assert described["parameters"] == sum(parameter.numel() for parameter in network.parameters())


def test_info_of_many_records_in_a_file(records, tmp_path, capsys):
    assert run("convert-records", records, "-o", tmp_path / "packed") == 0
    (shard,) = (tmp_path / "packed").glob("*.parquet")
    capsys.readouterr()
    assert run("info", shard) == 0
    output = capsys.readouterr().out
    assert "4 records" in output and "labels       none" in output and "12 leads, 10 s, 5000 samples" in output
    assert run("info", f"{shard}#ecg:2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["sampling_rate"] == 257
    assert run("plot", shard) == 1
    assert "#ecg:0" in capsys.readouterr().err
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert run("info", tmp_path / "bad.parquet") == 1
    assert "no Parquet file, or damaged" in capsys.readouterr().err


def test_standard_leads_of_an_array(tmp_path, capsys):
    np.save(tmp_path / "bare.npy", recording(1000, 3).signal)
    options = ("--sampling_rate", 500, "--units", "mV", "--json", "--lead_names")
    assert run("info", tmp_path / "bare.npy", *options, "standard") == 0
    told = json.loads(capsys.readouterr().out)
    assert [*told["leads"]] == [*"I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()]


def test_info_of_one_lead_and_of_codebooks(tmp_path, capsys):
    save_npz(ECGRecord(recording(500, 1).signal[:1], 500, ("I",)), tmp_path / "one.npz")
    assert run("info", tmp_path / "one.npz") == 0
    assert "one.npz: 1 lead, 1 s, 500 samples at 500 Hz" in capsys.readouterr().out
    descriptors = {"kind": "hidden_states", "layer": 4, "model": "first", "sampling_rate": 100, "recipe": []}
    books = [Codebook(torch.eye(6)[:size]) for size in (3, 5)]
    CodebookSet(books, descriptors, {"seed": 7}).save(tmp_path / "codes")
    assert run("info", tmp_path / "codes") == 0
    output = capsys.readouterr().out
    assert "codes: 2 codebooks" in output and "codes        3, 5\n" in output
    assert "hidden_states (model first, layer 4), 6 values, at 100 Hz" in output
    assert run("info", tmp_path / "codes", "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["codebooks"] == [3, 5] and described["facts"] == {"seed": 7}
    (tmp_path / "codes" / "codebooks.safetensors").unlink()
    assert run("info", tmp_path / "codes") == 1
    assert "holds no codebooks" in capsys.readouterr().err


def test_plot_with_predictions(records, model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert run("plot", records / "R0.npz", "--model", model, "-o", tmp_path / "sheet.png") == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(tmp_path / "sheet.png")


def test_one_bad_record_does_not_spoil_its_batch(model):
    inference = ECGInference.from_pretrained(model, batch_size=8)
    good = recording(5000, 1)
    values, counts, leads = inference([good, recording(2000, 2)])
    assert values.shape == (2, 3) and counts.tolist() == [2, 1] and leads.shape == (2, 12) and leads.all()
    np.testing.assert_allclose(values[0], inference([good])[0][0], atol=1e-6)


def test_files_are_listed_once_per_record(shared_data):
    files = list_ecg_files([shared_data / "challenge-2021" / "cpsc2018", shared_data / "mit-bih" / "100"])
    assert len(files) == 11 and all(path.suffix == ".hea" for path in files[:-1])


def test_the_installed_command_runs():
    command = [sys.executable, "-m", "ecg_transformers.cli", "info", "nowhere"]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert process.returncode == 1 and process.stderr.startswith("ecg-transformers info: ")


@pytest.fixture(scope="module")
def grouped_model(model, tmp_path_factory):
    """The same network with a label that nothing decides, and groups."""
    folder = tmp_path_factory.mktemp("grouped")
    network = HubertECGForSequenceClassification.from_pretrained(model)
    network.config.thresholds = {"AF": 0.0, "LBBB": None, "sinus rhythm": 1.0}
    network.config.threshold_criterion = "youden"
    network.config.label_groups = {"rhythm": ["AF", "sinus rhythm"], "conduction": ["LBBB"]}
    network.save_pretrained(folder)
    ECGFeatureExtractor.from_pretrained(model).save_pretrained(folder)
    return folder


def test_labels_without_a_threshold_are_undecided(records, grouped_model, tmp_path, capsys):
    for choice in ([], ["--thresholds", "stored"], ["--thresholds", "youden"]):
        assert run("predict", records, "--model", grouped_model, "--json", *choice) == 0
        captured = capsys.readouterr()
        rows = [json.loads(line) for line in captured.out.splitlines()]
        assert all(row["labels"] == ["AF"] and row["undecided"] == ["LBBB"] and "groups" not in row for row in rows)
        assert "neither found nor excluded: LBBB" in captured.err
    assert run("predict", records, "--model", grouped_model, "-o", tmp_path / "p.csv", "--thresholds", "0") == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert all(row["labels"] == ";".join(LABELS) and row["undecided"] == "" for row in rows)
    assert "excluded" not in capsys.readouterr().err
    assert run("predict", records / "R0.npz", "--model", grouped_model) == 0
    output = capsys.readouterr().out
    assert "(no threshold)" in output and "nan" not in output
    assert run("info", grouped_model) == 0
    assert "LBBB, sinus rhythm (1.000)" in capsys.readouterr().out
    assert run("plot", records / "R0.npz", "--model", grouped_model, "-o", tmp_path / "sheet.svg") == 0


def test_thresholds_from_a_file_and_by_criterion(records, model, grouped_model, tmp_path, capsys):
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"LBBB": 0.0, "sinus rhythm": None}))
    assert run("predict", records / "R0.npz", "--model", grouped_model, "--json", "--thresholds", path) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["labels"] == ["LBBB"] and row["undecided"] == ["AF", "sinus rhythm"]
    for folder, choice, message in (
        (grouped_model, "f1", "chosen by 'youden', not 'f1'"),
        (model, "youden", "chosen by None, not 'youden'"),
        (model, "1.5", "between 0 and 1; got 1.5"),
        (model, tmp_path / "absent.json", "cannot be read"),
    ):
        assert run("predict", records / "R0.npz", "--model", folder, "--thresholds", choice) == 1
        assert message in capsys.readouterr().err


def test_choices_are_checked_before_weights_are_loaded(records, model, tmp_path, capsys):
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    for choice, words in ((("--thresholds", "1.5"), "between 0 and 1"), (("--groups",), "no groups of labels")):
        assert run("predict", records / "R0.npz", "--model", tmp_path, *choice) == 1
        assert words in capsys.readouterr().err


def test_advice_is_of_use_at_a_prompt(model, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.csv").write_bytes(b"\0\1\2")
    (tmp_path / "a.unknown").write_bytes(b"some text")
    np.savetxt(tmp_path / "a.csv", np.random.default_rng(0).normal(size=(500, 2)), delimiter=",")
    (tmp_path / "names.txt").write_text("a\nb\n")
    (tmp_path.parent / "table.csv").write_text("file,AF\na.csv,1\nabsent,0\n")
    out = tmp_path.parent / "packed"
    for command, words in (
        (("plot", tmp_path / "folder"), "Give one of the files in it."),
        (("info", tmp_path / "text.csv"), "rename it to the ending of its format"),
        (("info", tmp_path / "a.unknown"), "rename the file"),
        (("info", tmp_path / "a.csv"), 'Pass --sampling_rate in Hz, --lead_names with 2 names and --units "mV"'),
        (("convert", model, tmp_path / "new", "--label_names", tmp_path / "names.txt"), "`--label_names` holds 2"),
        (("convert", model, model.parent), "is not empty; pass --overwrite to replace"),
        (("convert-records", tmp_path, "-o", out, "--sampling_rate", -5), "`--sampling_rate`"),
        (("convert-records", tmp_path, "-o", out, "--labels_csv", tmp_path.parent / "table.csv"), "--skip_missing"),
        (("label-reports", tmp_path / "a.csv", "--model", model, "-o", out), "--text_column"),
    ):
        assert run(*command) == 1
        told = capsys.readouterr().err
        assert words in told and "format=" not in told and "find_ecg_files" not in told
        assert set(re.findall(r"--(\w+)", told)) <= option_names(command[0]), told


def option_names(command):
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as told:
        build_parser().parse_args([command, "--help"])
    return set(re.findall(r"--(\w+)", told.getvalue()))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('Pass sampling_rate= in Hz and units="mV".', 'Pass --sampling_rate in Hz and --units "mV".'),
        ("Name them with lead_names=.", "Name them with --lead_names."),
        ("`file_units` is a unit", "`--units` is a unit"),
        ("`overwrite` or overwrite=True, or signals=False", "`--overwrite` or --overwrite, or --no_signals"),
        ("`columns=[]` leaves them out", "`--columns` leaves them out"),
        # No options of this command
        ("`file_rate`, other_units=3, drop=True", "`file_rate`, other_units=3, drop=True"),
    ],
)
def test_arguments_become_options(message, expected):
    names = {"sampling_rate", "lead_names", "units", "overwrite", "no_signals", "columns"}
    assert in_options(message, names) == expected
    assert in_options(expected, names) == expected


def test_arguments_become_keys_and_values():
    message = 'Pass skip=True, or units="mV" and rate= in Hz, for `skip`.'
    expected = 'Pass --one_options skip=true, or --one_options units="mV" and --one_options rate=… in Hz, for `skip`.'
    assert in_options(message, {"skip", "units", "rate"}, "--one_options") == expected


def test_groups_of_labels(records, model, grouped_model, tmp_path, capsys):
    assert run("predict", records, "--model", grouped_model, "--groups", "-o", tmp_path / "p.json") == 0
    rows = json.loads((tmp_path / "p.json").read_text())
    for row in rows:
        probabilities = row["probabilities"]
        assert row["groups"] == {
            "rhythm": {"probability": max(probabilities["AF"], probabilities["sinus rhythm"]), "labels": ["AF"]},
            "conduction": {"probability": probabilities["LBBB"], "labels": []},
        }
    assert run("predict", records, "--model", grouped_model, "--groups", "-o", tmp_path / "p.csv") == 0
    table = list(csv.DictReader((tmp_path / "p.csv").open()))
    for row, expected in zip(table, rows, strict=True):
        assert float(row["group: rhythm"]) == expected["groups"]["rhythm"]["probability"]
        assert float(row["LBBB"]) == float(row["group: conduction"])
    capsys.readouterr()
    assert run("predict", records / "R0.npz", "--model", grouped_model, "--groups") == 0
    assert "  rhythm: 0." in capsys.readouterr().out
    assert run("predict", records / "R0.npz", "--model", model, "--groups") == 1
    assert "no groups of labels" in capsys.readouterr().err


def test_thresholds_from_python(records, grouped_model):
    inference = ECGInference.from_pretrained(grouped_model, thresholds={"AF": 0.0, "LBBB": 0.0})
    assert inference.undecided_labels == ["sinus rhythm"]
    values, _, _ = inference([read_ecg(records / "R0.npz")])
    assert inference.decide(values[0]) == ["AF", "LBBB"]
    assert inference.summarize_groups(values[0])["rhythm"]["labels"] == ["AF"]
    inference.model.config.problem_type = "regression"
    with pytest.raises(ValueError, match="regression model has no thresholds"):
        ECGInference(inference.model, inference.extractor, thresholds=0.5)
    assert ECGInference(inference.model, inference.extractor).undecided_labels == []
