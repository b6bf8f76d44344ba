"""`predict` and `embed` over many files: lazily listed, in worker processes, resumable."""

import csv
import importlib.util
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ecg_transformers
from ecg_transformers import (
    STANDARD_LEADS,
    ECGFeatureExtractor,
    ECGRecord,
    HubertECGConfig,
    HubertECGForSequenceClassification,
    find_ecg_files,
    inference,
)
from ecg_transformers.cli import main
from ecg_transformers.inference import ECGInference, InferenceResult
from ecg_transformers.input_listing import InputListing
from ecg_transformers.readers.folder import is_recording
from ecg_transformers.resumable_results import ResumableResults

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [8] * 5,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
NUM_FILES = 48


def save_model(folder: Path, labels: list[str]) -> Path:
    torch.manual_seed(0)
    config = HubertECGConfig(
        **TINY,
        id2label=dict(enumerate(labels)),
        label2id={name: index for index, name in enumerate(labels)},
        problem_type="multi_label_classification",
    )
    HubertECGForSequenceClassification(config).save_pretrained(folder)
    ECGFeatureExtractor.for_model_type("hubert_ecg").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), ["AF", "LBBB", "sinus rhythm"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of two formats, rates and lengths in subfolders, one damaged, and a file that is no ECG."""
    root = tmp_path_factory.mktemp("records")
    for seed in range(NUM_FILES):
        rate = (100, 125)[seed % 2]
        signal = 0.3 * np.random.default_rng(seed).standard_normal((12, 5 * rate + 10 * (seed % 3)))
        place = root / f"{seed // 16}"
        place.mkdir(exist_ok=True)
        ending = ".hea" if seed % 3 else ".npz"
        ECGRecord(signal, rate, STANDARD_LEADS, {"record_id": f"R{seed}"}).save(place / f"R{seed:02d}{ending}")
    (root / "1" / "bad.npz").write_bytes(b"no archive")
    (root / "1" / "LICENSE.txt").write_text("as you like")
    return root


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def in_child(arguments: list[str], told: Path, halt_after: int | None) -> None:
    torch.set_num_threads(1)
    # A test session in the background of a shell ignores Ctrl-C, and so would this process.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write = ResumableResults.write_part

    def write_and_halt(self) -> None:
        before = len(self.parts)
        write(self)
        if before < len(self.parts) == halt_after:
            os.kill(os.getpid(), signal.SIGSTOP)

    # Whoever watches from outside may be too late: all is done in a third of a second.
    ResumableResults.write_part = write_and_halt
    with told.open("w") as file, redirect_stderr(file):
        code = main(arguments)
    # Leaves neither the test session's exit hooks nor its captured output behind
    os._exit(code)


class Run:
    """The command in a process of its own, which halts (not its workers) when it has written some parts."""

    def __init__(self, folder, model, output, *options, halt_after=None):
        self.output, self.told = output, output.with_suffix(".log")
        arguments = ["predict", folder, "--model", model, "-o", output, "--batch_size", 2, "--files_per_part", 4]
        arguments = [str(one) for one in (*arguments, *options)]
        self.process = multiprocessing.get_context("fork").Process(
            target=in_child, args=(arguments, self.told, halt_after)
        )
        self.process.start()
        while halt_after and Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert self.process.is_alive(), self.told.read_text()
            time.sleep(0.001)

    def workers(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = path.read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == self.process.pid:
                found.append(int(path.parent.name))
        return found

    def end(self, how: signal.Signals | None = None) -> int:
        if how is not None:
            os.kill(self.process.pid, how)
        os.kill(self.process.pid, signal.SIGCONT)
        self.process.join(120)
        assert self.process.exitcode is not None
        return self.process.exitcode


@pytest.fixture(scope="module")
def undisturbed(folder, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed") / "p.parquet"
    # With one thread, as the others: the last digit depends on how many there are.
    assert Run(folder, model, output, "--workers", 0).end() == 1
    output.with_suffix(".log").unlink()
    assert sorted(path.name for path in output.parent.iterdir()) == ["p.parquet", "p.parquet.errors.csv"]
    return output


linux = pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks at /proc")


@linux
@pytest.mark.parametrize(
    ("how", "workers", "code"),
    [(signal.SIGKILL, 2, -9), (signal.SIGKILL, 0, -9), (signal.SIGTERM, 2, 143), (signal.SIGINT, 0, 130)],
)
def test_an_interrupted_run_goes_on(folder, model, undisturbed, tmp_path, capsys, how, workers, code):
    output = tmp_path / "p.parquet"
    run = Run(folder, model, output, "--workers", workers, halt_after=3)
    forked = run.workers()
    assert len(forked) == workers
    assert run.end(how) == code and not output.exists()
    if how != signal.SIGKILL:
        assert "the same command goes on from there" in run.told.read_text()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in forked):
        assert time.monotonic() < deadline, "worker processes outlive the run"
        time.sleep(0.01)
    again = Run(folder, model, output, "--workers", workers)
    assert again.end() == 1
    told = again.told.read_text()
    done = int(told.partition("going on after ")[2].split()[0])
    assert 12 <= done <= NUM_FILES and f"going on after {done} of {NUM_FILES + 2} files" in told
    assert output.read_bytes() == undisturbed.read_bytes()
    errors = "p.parquet.errors.csv"
    assert output.with_name(errors).read_bytes() == undisturbed.with_name(errors).read_bytes()
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob(".*"))


@linux
def test_a_worker_that_is_killed_ends_the_run_and_it_goes_on(folder, model, undisturbed, tmp_path):
    output = tmp_path / "p.parquet"
    run = Run(folder, model, output, "--workers", 2, halt_after=1)
    os.kill(run.workers()[0], signal.SIGKILL)
    assert run.end() == 1
    assert "A worker process ended abruptly" in run.told.read_text() and not output.exists()
    assert Run(folder, model, output, "--workers", 0).end() == 1
    assert output.read_bytes() == undisturbed.read_bytes()


@linux
def test_what_an_interrupted_run_does_not_go_on_with(folder, model, tmp_path, capsys):
    records = tmp_path / "records"
    shutil.copytree(folder, records)
    output = tmp_path / "p.csv"
    run = Run(records, model, output, "--workers", 0, halt_after=2)
    run.end(signal.SIGKILL)
    other = save_model(tmp_path / "other", ["AF", "LBBB", "SR"])
    command = (records, "--model", model, "-o", output, "--workers", 0)
    for options, words in (
        (("--windows", "first"), "`--windows`"),
        (("--thresholds", 0.2), "`--thresholds`"),
        (("--sampling_rate", 100), "`--sampling_rate`"),
        (("--model", other), "`--model`"),
    ):
        assert predict(*command, *options) == 1
        told = capsys.readouterr().err
        assert f"differs in {words}. " in told and "--overwrite" in told
    os.utime(records / "0" / "R05.hea", ns=(1, 1))
    assert predict(*command) == 1 and "`inputs`" in capsys.readouterr().err
    assert predict(*command, "--overwrite") == 1
    assert "going on" not in capsys.readouterr().err
    with output.open() as file:
        assert len(list(csv.DictReader(file))) == NUM_FILES


@linux
def test_one_process_at_a_time_writes_an_output(folder, model, tmp_path, capsys):
    output = tmp_path / "p.csv"
    run = Run(folder, model, output, "--workers", 2, halt_after=1)
    assert predict(folder, "--model", model, "-o", output) == 1
    assert "Another process is writing" in capsys.readouterr().err
    run.end(signal.SIGKILL)
    # The lock is gone with the process, also where its workers are not yet
    with ResumableResults(output, {}, overwrite=True) as results:
        assert results.done == 0


def test_workers_and_batches_change_no_result(folder, model, undisturbed, tmp_path, capsys):
    output = tmp_path / "p.parquet"
    assert predict(folder, "--model", model, "-o", output, "--batch_size", 7, "--workers", 2) == 1
    told = capsys.readouterr().err
    assert f"left out of {folder}, no ECG: 1 file (1/LICENSE.txt)" in told and "bad.npz" in told
    expected, found = pq.read_table(undisturbed).to_pydict(), pq.read_table(output).to_pydict()
    paths = [str(path) for path in find_ecg_files(folder) if path.name != "bad.npz"]
    assert expected["path"] == found["path"] == paths and len(paths) == NUM_FILES
    for name in ("AF", "LBBB", "sinus rhythm"):
        np.testing.assert_allclose(found.pop(name), expected.pop(name), atol=2e-6)
    assert found == expected
    with output.with_name("p.parquet.errors.csv").open() as file:
        (error,) = csv.DictReader(file)
    assert error["path"] == str(folder / "1" / "bad.npz") and "bad.npz" in error["reason"]
    # A table of errors of old does not stay beside a table without any
    assert predict(folder / "0", "--model", model, "-o", output) == 0
    assert not output.with_name("p.parquet.errors.csv").exists()


@pytest.mark.parametrize("largest", [1, inference._LARGEST_BATCH])
def test_workers_that_only_read(folder, model, undisturbed, monkeypatch, largest):
    """As with a model on a GPU, here with one on the CPU; also where each recording is a batch of its own."""
    monkeypatch.setattr(ECGInference, "_workers_run_the_model", property(lambda self: False))
    monkeypatch.setattr(inference, "_LARGEST_BATCH", largest)
    expected = pq.read_table(undisturbed).to_pydict()
    found = list(ECGInference.from_pretrained(model, batch_size=7).over_files(InputListing([folder]), workers=2))
    assert [one.error is None for one in found if not one.left_out].count(False) == 1
    found = [one for one in found if one.values is not None]
    assert [one.path for one in found] == expected["path"]
    np.testing.assert_allclose([one.values[0] for one in found], expected["AF"], atol=2e-6)


def test_the_document_runs(folder, model, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).resolve().parent.parent / "docs" / "deploying.md").read_text()
    section = text.partition("## A folder of files\n")[2].partition("\n## ")[0]
    commands, python = re.findall(r"^```(?:bash|python)\n(.*?)^```", section, flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    Path("exports").symlink_to(folder / "0")
    Path("folder").symlink_to(model)
    Path("list.csv").write_text("file\nexports/R03.npz\n")
    for command in commands.splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert pq.read_table("predictions.parquet").num_rows == 16 and Path("predictions.csv").is_file()
    assert pq.read_table("features.parquet").num_rows == 16
    capsys.readouterr()
    exec(python, {"et": ecg_transformers})
    assert len(capsys.readouterr().out.splitlines()) == 16


def test_all_formats_say_the_same(folder, model, undisturbed, tmp_path):
    expected = pq.read_table(undisturbed).to_pydict()
    for ending in ("csv", "jsonl", "json"):
        assert predict(folder, "--model", model, "-o", tmp_path / f"p.{ending}", "--workers", 0) == 1
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert json.loads((tmp_path / "p.json").read_text()) == lines
    with (tmp_path / "p.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(expected)
    for row, (line, cells) in enumerate(zip(lines, table, strict=True)):
        assert line["path"] == cells["path"] == expected["path"][row]
        assert line["labels"] == expected["labels"][row] and ";".join(line["labels"]) == cells["labels"]
        assert line["probabilities"]["AF"] == float(cells["AF"]) == pytest.approx(expected["AF"][row], abs=2e-6)


def test_tables_of_paths(folder, model, undisturbed, tmp_path, capsys):
    expected = dict(zip(*(pq.read_table(undisturbed)[name].to_pylist() for name in ("record_id", "AF")), strict=True))
    names = ["0/R03.npz", "1/R25.hea", "2/R44", "nowhere.npz", "0/R03.npz"]
    table = folder / "list.csv"
    table.write_text("patient;file\n" + "".join(f"p;{name}\n" for name in names))
    pq.write_table(pa.table({"file": names}), folder / "list.parquet")
    try:
        for source in (table, folder / "list.parquet"):
            output = tmp_path / "p.csv"
            assert predict(source, "--path_column", "file", "--model", model, "-o", output) == 1
            with output.open() as file:
                rows = list(csv.DictReader(file))
            assert [row["path"] for row in rows] == [*names[:3], names[4]]
            for row in rows:
                assert float(row["AF"]) == pytest.approx(expected[row["record_id"]], abs=2e-6)
            assert "nowhere.npz" in output.with_name("p.csv.errors.csv").read_text()
        capsys.readouterr()
        assert predict(table, "--path_column", "path", "--model", model) == 1
        assert "no column 'path' (`--path_column`); it has patient, file" in capsys.readouterr().err
        table.write_text("file\n0/R03.npz\n \n")
        assert predict(table, "--path_column", "file", "--model", model) == 1
        assert "Row 2 of the table" in capsys.readouterr().err
    finally:
        table.unlink()
        (folder / "list.parquet").unlink()


def test_packed_records(folder, model, undisturbed, tmp_path):
    assert main(["convert-records", str(folder), "-o", str(tmp_path / "packed"), "--workers", "1"]) == 1
    assert predict(tmp_path / "packed", "--model", model, "-o", tmp_path / "p.parquet") == 0
    expected, found = pq.read_table(undisturbed), pq.read_table(tmp_path / "p.parquet")
    shard = tmp_path / "packed" / "train-00000.parquet"
    assert found["path"].to_pylist() == [f"{shard}#ecg:{row}" for row in range(NUM_FILES)]
    np.testing.assert_allclose(found["LBBB"], expected["LBBB"], atol=2e-6)


def test_an_output_in_the_folder_is_no_input(folder, model, tmp_path):
    records = tmp_path / "records"
    shutil.copytree(folder / "0", records)
    for _ in range(2):
        assert predict(records, "--model", model, "-o", records / "p.csv") == 0
        with (records / "p.csv").open() as file:
            assert len(list(csv.reader(file))) == 17
    # The second run found the table of the first one
    assert InputListing([records], leave_out=[records / "p.csv"]).survey()[0] == 16
    assert InputListing([records]).survey()[0] == 17


def test_labels_called_as_other_columns(folder, tmp_path):
    model = save_model(tmp_path / "model", ["path", "labels", "label: path"])
    record = folder / "0" / "R00.npz"
    for ending in ("csv", "parquet"):
        assert predict(record, "--model", model, "-o", tmp_path / f"p.{ending}") == 0
    found = pq.read_table(tmp_path / "p.parquet").to_pylist()[0]
    assert list(found)[-3:] == ["label: path", "label: labels", "label: label: path"]
    values = list(ECGInference.from_pretrained(model).over_files([record]))[0].values
    np.testing.assert_allclose([found[name] for name in list(found)[-3:]], values, atol=1e-6)
    with (tmp_path / "p.csv").open() as file:
        assert next(csv.reader(file)) == list(found)


def test_embeddings_of_many_files(folder, model, tmp_path, capsys):
    for ending in ("npz", "parquet", "jsonl"):
        output = str(tmp_path / f"e.{ending}")
        assert main(["embed", str(folder), "--model", str(model), "-o", output, "--workers", "2"]) == 1
    stored = np.load(tmp_path / "e.npz")
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.schema.field("embedding").type.list_size == 16
    values = np.stack(table["embedding"].to_numpy())
    backbone = ECGInference.from_pretrained(model, embeddings=True)
    expected = [one for one in backbone.over_files(find_ecg_files(folder)) if one.error is None]
    np.testing.assert_allclose(values, [one.values for one in expected], atol=1e-6)
    np.testing.assert_array_equal(stored["embeddings"], values)
    assert stored["paths"].tolist() == table["path"].to_pylist() == [one.path for one in expected]
    assert stored["record_ids"].tolist() == [one.record_id for one in expected]
    lines = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["embedding"] for line in lines], values, atol=1e-7)
    assert f"{NUM_FILES} embeddings of 16 values" in capsys.readouterr().err
    output = tmp_path / "none.npz"
    assert main(["embed", str(folder / "1" / "bad.npz"), "--model", str(model), "-o", str(output)]) == 1
    told = capsys.readouterr().err
    assert f"listed in {output}.errors.csv" in told and f"no embeddings for {output}: it is not written." in told
    assert sorted(path.name for path in tmp_path.glob("none*")) == ["none.npz.errors.csv"]


def test_folders_are_listed_in_the_order_of_their_paths(shared_data):
    listing = InputListing([shared_data])
    found = [entry.path for entry in listing if entry.sure or is_recording(entry.path)]
    assert found == sorted(found, key=Path) == [str(path) for path in find_ecg_files(shared_data)]
    count, digest = listing.survey()
    assert count == sum(1 for _ in listing) and InputListing([shared_data]).survey() == (count, digest)


def test_parts_hold_what_was_found(tmp_path):
    results = [
        InferenceResult("a", "A", np.array([0.25, 1.0], dtype=np.float32), 3, ["V1", "V2"]),
        InferenceResult("b", error="why"),
        InferenceResult("c"),
        InferenceResult("d\u00e9", None, np.array([0.5, 0.0], dtype=np.float32), 1),
    ]
    output = tmp_path / "x.csv"
    with ResumableResults(output, {"a": [0.5, None]}, files_per_part=2) as parts:
        parts.add(results[:1])
        assert parts.done == 0
        parts.add(results[1:3])
        parts.add(results[3:])
        assert parts.done == 3
    with ResumableResults(output, {"a": [0.5, None]}) as parts:
        assert parts.num_resumed == 3
        parts.add(results[3:])
        parts.write_part()
        found = list(parts)
        parts.remove()
    assert [(one.path, one.record_id, one.num_windows, one.error, one.left_out) for one in found] == [
        (one.path, one.record_id, one.num_windows, one.error, one.left_out) for one in results
    ]
    assert [one.leads_without_signal for one in found] == [["V1", "V2"], [], [], []]
    np.testing.assert_array_equal(found[0].values, results[0].values)
    np.testing.assert_array_equal(found[3].values, results[3].values)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="files_per_part"):
        ResumableResults(output, {}, files_per_part=0)


@pytest.mark.slow
def test_two_thousand_files(shared_data, tmp_path):
    place = Path(__file__).resolve().parent.parent / "benchmarks" / "predict.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_predict", place)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.make_model(tmp_path / "model", "hubert_ecg")
    figures = {}
    for count in (500, 2000):
        benchmark.make_files(tmp_path / str(count), count, str(shared_data))
        command = ["predict", tmp_path / str(count), "--model", tmp_path / "model", "--windows", "first"]
        command = [str(one) for one in (*command, "--batch_size", 64, "--workers", 2, "-o")]
        figures[count] = benchmark.in_child("command", *command, str(tmp_path / f"{count}.parquet"))["megabytes"]
    output = tmp_path / "2000.parquet"
    expected = output.read_bytes()
    assert pq.read_table(output).num_rows == 2000
    for few, many in zip(figures[500], figures[2000], strict=True):
        # 1500 records of 240 kB would be 360 MB.
        assert many < few + 40, figures
    output.unlink()
    kept, resumed = benchmark.kill_and_go_on([*command, str(output), "--files_per_part", "100"], output, 2000)
    assert 1000 <= kept == resumed < 2000 and output.read_bytes() == expected
