"""Labels of reports: reading tables, running a tiny BERT, resuming."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from ecg_transformers import HubertECGConfig, HubertECGForSequenceClassification
from ecg_transformers.cli import main
from ecg_transformers.labels import report_thresholds
from ecg_transformers.report_labelling import ReportLabeller, label_reports
from ecg_transformers.report_tables import ReportTable

LABELS = ["fibrillation", "bloc de branche", "sinus rhythm"]
WORDS = (
    "rythme sinusal fibrillation auriculaire bloc de branche gauche élévation du segment st sinus rhythm normal ecg"
)
LONGEST = 24


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A stock BERT of random weights whose vocabulary is letters and a few words."""
    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyzéèêàçûô"
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS.split(),
        *letters,
        *(f"##{one}" for one in letters),
    ]
    backend = Tokenizer(
        models.WordPiece({word: row for row, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
        id2label=dict(enumerate(LABELS)),
        label2id={name: row for row, name in enumerate(LABELS)},
        problem_type="multi_label_classification",
    )
    config.thresholds = {"fibrillation": 0.5, "bloc de branche": None, "sinus rhythm": 0.45}
    model = BertForSequenceClassification(config)
    # Random weights of the usual size would call all reports the same, and without a bias most labels one thing.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
        inputs = tokenizer(make_reports(50), truncation=True, max_length=LONGEST, padding=True, return_tensors="pt")
        model.classifier.bias -= model.eval()(**inputs).logits.median(0).values
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_reports(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    words = WORDS.split()
    return [" ".join(random.choice(words, random.integers(1, 15))).capitalize() for _ in range(count)]


def write_table(path, reports, delimiter=",", **columns):
    names = [*columns, "report"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        for row, report in enumerate(reports):
            writer.writerow([*(values[row] for values in columns.values()), report])
    return path


def read_output(path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def one_by_one(folder, reports) -> np.ndarray:
    """Probabilities of each report alone, by the classes of transformers only."""
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = []
    for report in reports:
        inputs = tokenizer(report, truncation=True, max_length=LONGEST, return_tensors="pt")
        with torch.no_grad():
            rows.append(model(**inputs).logits[0].sigmoid().numpy())
    return np.stack(rows)


def test_labels_and_probabilities_are_those_of_the_model(bert, tmp_path, capsys):
    reports = make_reports(50)
    names = [f"records/{row}.hea" for row in range(50)]
    table = write_table(tmp_path / "reports.csv", reports, filename=names, age=list(range(50)))
    expected = one_by_one(bert, reports)
    common = [
        "label-reports",
        str(table),
        "--model",
        str(bert),
        "--batch_size",
        "7",
        "--part_size",
        "20",
        "--device",
        "cpu",
    ]
    assert main([*common, "--output", str(tmp_path / "labels.csv")]) == 0
    told = capsys.readouterr()
    assert "50 of 50 reports labelled" in told.out and "left empty: bloc de branche" in told.err
    rows = read_output(tmp_path / "labels.csv")
    assert list(rows[0]) == ["filename", "age", "error", *LABELS]
    assert [row["filename"] for row in rows] == names and [row["age"] for row in rows] == list(map(str, range(50)))
    assert [row["fibrillation"] for row in rows] == [str(int(value > 0.5)) for value in expected[:, 0]]
    assert [row["sinus rhythm"] for row in rows] == [str(int(value > 0.45)) for value in expected[:, 2]]
    assert {row["bloc de branche"] for row in rows} == {""}
    assert len({row["fibrillation"] for row in rows}) == 2, "the example says nothing if all reports are alike"
    assert {path.name for path in tmp_path.iterdir()} == {"reports.csv", "labels.csv"}

    assert main([*common, "-o", str(tmp_path / "p.csv"), "--values", "probabilities", "--columns", "filename"]) == 0
    rows = read_output(tmp_path / "p.csv")
    assert list(rows[0]) == ["filename", "error", *LABELS]
    found = np.array([[float(row[name]) for name in LABELS] for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_thresholds(bert, tmp_path):
    reports = make_reports(30, seed=1)
    table = write_table(tmp_path / "reports.csv", reports)
    expected = one_by_one(bert, reports)
    (tmp_path / "limits.json").write_text(json.dumps({"fibrillation": 0.3, "bloc de branche": 0.6}))
    for given, limits in (("0.7", [0.7] * 3), (str(tmp_path / "limits.json"), [0.3, 0.6, None])):
        output = tmp_path / "labels.csv"
        assert (
            main(
                [
                    "label-reports",
                    str(table),
                    "--model",
                    str(bert),
                    "-o",
                    str(output),
                    "--thresholds",
                    given,
                    "--overwrite",
                ]
            )
            == 0
        )
        for column, (name, limit) in enumerate(zip(LABELS, limits, strict=True)):
            cells = ["" if limit is None else str(int(value > limit)) for value in expected[:, column]]
            assert [row[name] for row in read_output(output)] == cells
    labeller = ReportLabeller.from_pretrained(bert, thresholds="stored")
    np.testing.assert_array_equal(labeller.thresholds, [0.5, np.nan, 0.45])
    for wrong, words in (("youden", "chosen by None"), (1.5, "between 0 and 1"), ({"x": 0.5}, "does not predict")):
        with pytest.raises(ValueError, match=words):
            ReportLabeller.from_pretrained(bert, thresholds=wrong)


def test_the_published_thresholds_of_deepecg(bert, tmp_path, golden, capsys):
    facts = json.loads((golden / "deepecg_sl" / "labels" / "labels.json").read_text(encoding="utf-8"))
    published = {
        name: entry["threshold"] for name, entry in facts["text_classifier_thresholds"].items() if "threshold" in entry
    }
    assert report_thresholds() == published and set(published) == set(facts["efficientnet_output_order"])
    # A classifier of these 77 findings, here with random weights
    model = BertForSequenceClassification.from_pretrained(bert)
    names = facts["efficientnet_output_order"][::-1]
    model.config.id2label, model.config.label2id = (
        dict(enumerate(names)),
        {name: row for row, name in enumerate(names)},
    )
    model.config.num_labels, model.config.thresholds = 77, None
    BertForSequenceClassification(model.config).save_pretrained(tmp_path / "bert77")
    PreTrainedTokenizerFast.from_pretrained(bert).save_pretrained(tmp_path / "bert77")
    reports = make_reports(5)
    table, output = write_table(tmp_path / "reports.csv", reports), tmp_path / "labels.csv"
    command = ["label-reports", str(table), "-o", str(output), "--thresholds", "deepecg", "--model"]
    assert main([*command, str(tmp_path / "bert77")]) == 0
    for row, values in zip(read_output(output), one_by_one(tmp_path / "bert77", reports), strict=True):
        assert {name: row[name] for name in names} == {
            name: str(int(value > published[name])) for name, value in zip(names, values, strict=True)
        }
    assert main([*command, str(bert), "--overwrite"]) == 1
    assert "which the model does not predict" in capsys.readouterr().err


def test_french_and_english_in_any_form_of_unicode(bert):
    labeller = ReportLabeller.from_pretrained(bert)
    composed = "Élévation du segment ST, bloc de branche gauche"
    decomposed = unicodedata.normalize("NFD", composed)
    assert composed != decomposed
    values, _ = labeller([composed, decomposed, "Normal ECG"])
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_allclose(values, one_by_one(bert, [composed, composed, "Normal ECG"]), atol=1e-6)
    assert np.abs(values[0] - values[2]).max() > 0.01


@pytest.mark.parametrize("kind", ["semicolon", "tab", "tsv", "bom", "latin-1", "crlf"])
def test_tables_of_all_kinds(tmp_path, kind):
    reports = ['Rythme sinusal; "normal", dit-il', "Bloc de\nbranche", "Élévation"]
    path = tmp_path / ("a.tsv" if kind == "tsv" else "a.csv")
    delimiter = {"semicolon": ";", "tab": "\t", "tsv": "\t"}.get(kind, ",")
    write_table(path, reports, delimiter, id=["a", "b", "ç"])
    content = path.read_bytes()
    if kind == "bom":
        path.write_bytes(b"\xef\xbb\xbf" + content)
    elif kind == "latin-1":
        path.write_bytes(content.decode().encode("latin-1"))
    elif kind == "crlf":
        assert b"\r\n" in content
    else:
        path.write_bytes(content.replace(b"\r\n", b"\n"))
    rows = list(ReportTable(path, encoding="latin-1" if kind == "latin-1" else "utf-8"))
    assert [row.report for row in rows] == reports and [row.cells["id"] for row in rows] == ["a", "b", "ç"]
    assert [row.error for row in rows] == [None] * 3
    # The second report has a line break.
    assert [row.line for row in rows] == [2, 4, 5]


def test_bad_rows_are_reported_and_cost_nothing_else(bert, tmp_path, capsys):
    good = make_reports(4, seed=2)
    lines = [
        "id,report,site",
        f"a,{good[0]},x",
        "b,   ,x",
        "c,one field too,many,x",
        "d,too few",
        "",
        f"e,{good[1]},x",
        'f,"a quote" in the middle,x',
    ]
    content = "\n".join(lines).encode() + b"\ng,rythme r\xe9gulier,x\n" + f"h,{good[2]},x\ni,{good[3]},x\n".encode()
    (tmp_path / "reports.csv").write_bytes(content)
    output = tmp_path / "labels.csv"
    assert (
        main(
            [
                "label-reports",
                str(tmp_path / "reports.csv"),
                "--model",
                str(bert),
                "-o",
                str(output),
                "--part_size",
                "3",
            ]
        )
        == 1
    )
    told = capsys.readouterr()
    assert "4 of 9 reports labelled" in told.out
    rows = read_output(output)
    reasons = [
        "",
        "has no report",
        "has 4 fields, the header 3",
        "has 2 fields",
        "",
        "is no row of a table",
        "is not written in utf-8",
        "",
        "",
    ]
    assert len(rows) == 9
    for row, reason in zip(rows, reasons, strict=True):
        assert reason in row["error"] and bool(reason) == bool(row["error"])
        assert (row["fibrillation"] in ("0", "1")) != bool(reason)
        told_reason = row["error"].replace("say its encoding", "use --encoding")
        assert not reason or f"not labelled: {told_reason}" in told.err
    assert [row["id"] for row in rows] == ["a", "b", "", "", "e", "", "g", "h", "i"]
    assert [row["error"].split()[1] for row in rows if row["error"]] == ["3", "4", "5", "8", "9"]
    expected = one_by_one(bert, good)[:, 0] > 0.5
    assert [row["fibrillation"] for row in rows if not row["error"]] == [str(int(value)) for value in expected]


def test_a_quotation_mark_that_is_never_closed_is_an_error(bert, tmp_path, capsys):
    (tmp_path / "reports.csv").write_text('id,report\na,normal\nb,"open\nc,normal\nd,normal\n')
    assert (
        main(["label-reports", str(tmp_path / "reports.csv"), "--model", str(bert), "-o", str(tmp_path / "l.csv")])
        == 1
    )
    assert "opened in or behind line 3 and never closed" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"reports.csv"}


def test_long_reports_are_cut_and_counted(bert, tmp_path, capsys):
    exact = " ".join(["normal"] * (LONGEST - 2))
    reports = [exact, f"{exact} ecg", "normal", f"{exact} ecg ecg ecg"]
    labeller = ReportLabeller.from_pretrained(bert)
    assert labeller.max_length == LONGEST
    values, cut = labeller(reports)
    assert cut.tolist() == [False, True, False, True]
    np.testing.assert_allclose(values, one_by_one(bert, reports), atol=1e-6)
    table = write_table(tmp_path / "reports.csv", reports)
    assert (
        main(["label-reports", str(table), "--model", str(bert), "-o", str(tmp_path / "l.csv"), "--part_size", "2"])
        == 0
    )
    assert "longer than 24 tokens, so cut: 2 reports" in capsys.readouterr().err


def test_batches_hold_reports_of_like_length_and_equal_ones_once(bert, monkeypatch):
    labeller = ReportLabeller.from_pretrained(bert, batch_size=8)
    reports = make_reports(60, seed=3) * 2
    lengths, forward = [], labeller._forward

    def watched(encoded):
        lengths.append([len(row["input_ids"]) for row in encoded])
        return forward(encoded)

    monkeypatch.setattr(labeller, "_forward", watched)
    done = []
    values, _ = labeller(reports, done.append)
    np.testing.assert_allclose(values, one_by_one(bert, reports), atol=1e-5)
    assert sum(done) == 120 and sum(map(len, lengths)) == len(set(reports))
    flat = [length for batch in lengths for length in batch]
    assert flat == sorted(flat, reverse=True) and max(map(len, lengths)) == 8


def test_single_label_models_choose_one_class(bert, tmp_path):
    reports = make_reports(20, seed=4)
    labeller = ReportLabeller.from_pretrained(bert, single_label=True)
    values, _ = labeller(reports)
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-6)
    chosen = labeller.decide(values)
    assert [row.index(1) for row in chosen] == values.argmax(1).tolist() and {sum(row) for row in chosen} == {1}
    with pytest.raises(ValueError, match="exclude each other have no thresholds"):
        ReportLabeller.from_pretrained(bert, single_label=True, thresholds=0.5)


def test_names_from_a_file(bert, tmp_path, capsys):
    table = write_table(tmp_path / "reports.csv", make_reports(3))
    (tmp_path / "names.txt").write_text("FA\nBBG\nRS\n", encoding="utf-8")
    command = ["label-reports", str(table), "--model", str(bert), "-o", str(tmp_path / "l.csv"), "--thresholds", "0.5"]
    assert main([*command, "--label_names", str(tmp_path / "names.txt")]) == 0
    assert list(read_output(tmp_path / "l.csv")[0]) == ["error", "FA", "BBG", "RS"]
    (tmp_path / "names.txt").write_text("FA\nFA\nRS\n")
    assert main([*command, "--label_names", str(tmp_path / "names.txt")]) == 1
    assert "3 outputs and needs as many names, each once; got 3, 2 of them different" in capsys.readouterr().err


def fail_after(monkeypatch, count):
    """Let the model fail after some batches."""
    forward, calls = ReportLabeller._forward, []

    def failing(self, encoded):
        calls.append(len(encoded))
        if len(calls) > count:
            raise KeyboardInterrupt
        return forward(self, encoded)

    monkeypatch.setattr(ReportLabeller, "_forward", failing)
    return calls


def test_an_interrupted_run_goes_on_where_it_stopped(bert, tmp_path, monkeypatch, capsys):
    table = write_table(tmp_path / "reports.csv", make_reports(40, seed=5), id=list(range(40)))
    command = ["label-reports", str(table), "--model", str(bert), "--part_size", "6", "--batch_size", "100"]
    straight, output = tmp_path / "straight.csv", tmp_path / "labels.csv"
    assert main([*command, "-o", str(straight)]) == 0
    with monkeypatch.context() as patched:
        fail_after(patched, 3)
        assert main([*command, "-o", str(output)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert not output.exists()
    parts = sorted((tmp_path / "labels.csv.parts").glob("part-*"))
    assert [path.name for path in parts] == [f"part-{row:06d}.json" for row in range(3)]
    with monkeypatch.context() as patched:
        calls = fail_after(patched, 1000)
        assert main([*command, "-o", str(output)]) == 0
    assert len(calls) == 4  # 7 parts, 3 of them done
    assert "18 of them by the interrupted run" in capsys.readouterr().out
    assert output.read_bytes() == straight.read_bytes()
    assert not (tmp_path / "labels.csv.parts").exists()


def test_a_killed_run_loses_and_repeats_nothing(bert, tmp_path):
    """SIGKILL between and within parts; the next run finishes with the same file."""
    reports = make_reports(3000, seed=6)
    table = write_table(
        tmp_path / "reports.csv", [f"{report} {row % 97}" for row, report in enumerate(reports)], id=list(range(3000))
    )
    output, straight = tmp_path / "labels.csv", tmp_path / "straight.csv"
    options = ["--model", str(bert), "--part_size", "40", "--batch_size", "2", "--values", "probabilities"]
    command = [sys.executable, "-m", "ecg_transformers.cli", "label-reports", str(table), "-o", str(output), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parts = tmp_path / "labels.csv.parts"
    kept: dict[str, int] = {}
    for more in (2, 3):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        enough, deadline = len(kept) + more, time.monotonic() + 120
        while len(list(parts.glob("part-*"))) < enough and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None, "it must not have finished before it is killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not output.exists()
        found = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")}
        assert len(found) >= enough
        assert kept.items() <= found.items(), "parts that were done have been done again"
        kept = found
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{40 * len(kept)} of them by the interrupted run" in finished.stdout
    labeller = ReportLabeller.from_pretrained(bert, batch_size=64)
    label_reports(labeller, ReportTable(table), straight, values="probabilities", progress=False)
    rows, expected = read_output(output), read_output(straight)
    assert [row["id"] for row in rows] == list(map(str, range(3000)))
    for name in LABELS:
        np.testing.assert_allclose([float(r[name]) for r in rows], [float(r[name]) for r in expected], atol=1e-5)
    assert not parts.exists()


def test_a_run_with_other_input_or_settings_is_not_gone_on_with(bert, tmp_path, monkeypatch):
    reports = make_reports(20, seed=7)
    table = write_table(tmp_path / "reports.csv", reports)
    output = tmp_path / "labels.csv"

    def run(thresholds=None, **options):
        labeller = ReportLabeller.from_pretrained(bert, thresholds=thresholds)
        return label_reports(labeller, ReportTable(table), output, part_size=5, progress=False, **options)

    with monkeypatch.context() as patched:
        fail_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(ValueError, match="interrupted run that differs in model"):
        run(thresholds=0.6)
    with pytest.raises(ValueError, match="interrupted run that differs in values"):
        run(values="probabilities")
    write_table(tmp_path / "reports.csv", [*reports[:-1], "normal"])
    with pytest.raises(ValueError, match="interrupted run that differs in table"):
        run()
    result = run(overwrite=True)
    assert result.num_resumed == 0 and result.num_rows == 20
    with pytest.raises(ValueError, match="labels.csv exists; replace it with overwrite=True"):
        run()
    before = output.read_bytes()
    with monkeypatch.context() as patched:
        fail_after(patched, 2)
        with pytest.raises(KeyboardInterrupt):
            run(thresholds=0.6, overwrite=True)
    assert output.read_bytes() == before, "the old output stays until the new one is whole"
    # Going on needs no word about the old output: the run that it interrupts had it.
    assert run(thresholds=0.6).num_resumed == 10
    assert output.read_bytes() != before


def test_other_weights_are_another_model(bert, tmp_path):
    labeller = ReportLabeller.from_pretrained(bert)
    before = labeller.fingerprint()
    assert ReportLabeller.from_pretrained(bert, batch_size=3).fingerprint() == before
    with torch.no_grad():
        labeller.model.classifier.bias[0] += 1
    assert labeller.fingerprint() != before


def test_a_folder_of_somebody_else_is_left_alone(bert, tmp_path):
    table = write_table(tmp_path / "reports.csv", ["normal"])
    folder = tmp_path / "labels.csv.parts"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="thesis.txt.*no part of a run"):
        label_reports(
            ReportLabeller.from_pretrained(bert), ReportTable(table), tmp_path / "labels.csv", overwrite=True
        )
    assert (folder / "thesis.txt").read_text() == "years of work"


def ecg_model(folder):
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = HubertECGConfig(**tiny, conv_dim=[8] * 5, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    HubertECGForSequenceClassification(config).save_pretrained(folder)


def test_models_that_label_no_reports(bert, tmp_path):
    ecg_model(tmp_path / "ecg")
    with pytest.raises(
        ValueError, match="hubert_ecg model, which reads input_values, not texts.*AutoModelForSequenceClassification"
    ):
        ReportLabeller.from_pretrained(tmp_path / "ecg")
    model = BertForSequenceClassification.from_pretrained(bert)
    model.save_pretrained(tmp_path / "no_tokenizer")
    with pytest.raises(ValueError, match="no tokenizer that fits: it knows 5 tokens, the model has"):
        ReportLabeller.from_pretrained(tmp_path / "no_tokenizer")
    model.config.problem_type = "regression"
    with pytest.raises(ValueError, match="is a regression"):
        ReportLabeller(model, None)
    model.bert.save_pretrained(tmp_path / "headless")
    PreTrainedTokenizerFast.from_pretrained(bert).save_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="no trained classification head .classifier.bias"):
        ReportLabeller.from_pretrained(tmp_path / "headless")
    with pytest.raises(ValueError, match="There is no model folder"):
        ReportLabeller.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match="device 'tpu9' cannot be used"):
        ReportLabeller.from_pretrained(bert, device="tpu9")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        ReportLabeller.from_pretrained(bert, batch_size=0)


@pytest.mark.parametrize(
    "options,words",
    [
        (("--text_column", "texte"), r"no column 'texte'; its columns are \['id', 'report', 'error'\].*--text_column"),
        (("--columns", "id", "name"), r"no columns \['name'\]"),
        ((), r"\['error'\] of the table have names of the output's; leave them out with --columns"),
        (("--columns", "id", "--part_size", "0"), "part_size must be at least 1"),
        (("--columns", "id", "-o", "/nowhere/at/all.csv"), "folder /nowhere/at does not exist"),
        (("--columns", "id", "-o", "TABLE"), "is the table of reports itself"),
        (("--delimiter", "||"), "one character"),
        (("--encoding", "utf-99"), "Unknown encoding 'utf-99'"),
        (("--label_names", "/nowhere.txt"), "--label_names /nowhere.txt cannot be read"),
    ],
)
def test_errors_name_value_and_remedy(bert, tmp_path, capsys, options, words):
    table = write_table(tmp_path / "reports.csv", ["normal"], id=["a"])
    table.write_text("id,report,error\na,normal,b\n")
    options = [str(table) if option == "TABLE" else option for option in options]
    command = ["label-reports", str(table), "--model", str(bert), "-o", str(tmp_path / "l.csv"), *options]
    assert main(command) == 1
    assert re.search(words, capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"reports.csv"}


def test_tables_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="There is no table"):
        ReportTable(tmp_path / "nothing.csv")
    (tmp_path / "twice.csv").write_text("report,id,id\n")
    with pytest.raises(ValueError, match=r"same name: \['id'\]"):
        ReportTable(tmp_path / "twice.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match="no column 'report'"):
        ReportTable(tmp_path / "empty.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0" * 128 + b"DICM\2\0\0\0UL\4\0", r"no text table: it holds zero bytes and begins with b'\\x00"),
        ("report\nnormal\n".encode("utf-16"), "not written in utf-8.*; try --encoding utf-16\\."),
        ("report\nétat normal\n".encode("utf-16-le"), "try --encoding utf-16-le"),
        ("report\nnormal\n".encode("utf-16-be"), "try --encoding utf-16-be"),
        ("report,âge\nnormal,60\n".encode("latin-1"), "header .*not written in utf-8.*use --encoding.*latin-1"),
    ],
)
def test_the_wrong_kind_of_file(bert, tmp_path, capsys, content, words):
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    assert main(["label-reports", str(table), "--model", str(bert), "-o", str(tmp_path / "out.csv")]) == 1
    told = capsys.readouterr().err
    assert re.search(words, told) and "\0" not in told and told.count("\n") == 1
    encoding = told.split("--encoding ")[-1].strip(" .\n") if "try" in words else None
    if encoding:
        assert ReportTable(table, encoding=encoding).columns == ["report"]


def test_a_table_without_rows(bert, tmp_path):
    (tmp_path / "header.csv").write_text("report\n")
    with pytest.raises(ValueError, match="has no rows"):
        label_reports(ReportLabeller.from_pretrained(bert), ReportTable(tmp_path / "header.csv"), tmp_path / "l.csv")


def test_the_output_is_a_table_that_the_corpus_reads(bert, tmp_path):
    """Labels of reports train a model: the columns behind `error` are the labels."""
    from ecg_transformers import STANDARD_LEADS, ECGRecord, load_corpus
    from ecg_transformers.readers.numpy_files import save_npz

    reports = make_reports(8, seed=8)
    for row in range(8):
        signal = 0.3 * np.random.default_rng(row).standard_normal((12, 1000))
        save_npz(ECGRecord(signal, 100, STANDARD_LEADS), tmp_path / f"{row}.npz")
    table = write_table(tmp_path / "reports.csv", reports, filename=[f"{row}.npz" for row in range(8)])
    labeller = ReportLabeller.from_pretrained(bert, thresholds=0.5)
    label_reports(labeller, ReportTable(table), tmp_path / "labels.csv", progress=False)
    corpus = load_corpus(
        "table", data_dir=tmp_path, train_csv="labels.csv", ecg_dir=str(tmp_path), label_start_index=2
    )
    expected = one_by_one(bert, reports) > 0.5
    found = {row["record_id"]: row["labels"] for split in corpus.values() for row in split.remove_columns("ecg")}
    assert found == {
        str(row): dict(zip(LABELS, labels.astype(float).tolist(), strict=True)) for row, labels in enumerate(expected)
    }
