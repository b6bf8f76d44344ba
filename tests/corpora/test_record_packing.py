import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from mixed_exports import TOLD, recording, write_mixed

from ecg_transformers import label_names, load_corpus, pack_records, problem_type, read_ecg
from ecg_transformers.cli import main
from ecg_transformers.corpora import record_packing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "exports"
    write_mixed(folder)
    return folder


@pytest.fixture(scope="module")
def thirty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thirty") / "exports"
    folder.mkdir()
    for number in range(30):
        recording(number, seconds=1, age=20.0 + number).save(folder / f"e{number:02d}.npz")
    lines = [
        f"e{n:02d},p{n // 3},{n % 2},{'' if n == 4 else n % 3 // 2},{'test' if n > 20 else ''}" for n in range(30)
    ]
    (folder / "labels.csv").write_text("\n".join(["file,patient_id,AF,MI,split", *lines]) + "\n")
    return folder


def rows_of(corpus):
    return {row["record_id"]: row for split in corpus.values() for row in split}


def without_recording(row):
    return {name: value for name, value in row.items() if name != "ecg"}


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_parquet_holds_what_the_folder_does(exports, tmp_path, capsys):
    assert run("convert-records", exports, "--to", "parquet", "-o", tmp_path / "packed", "--workers", 1) == 1
    told = capsys.readouterr()
    assert "8 records" in told.out and "dicom, 12 leads, 500 Hz" in told.out
    assert "3 files could not be read" in told.err and "Traceback" not in told.err
    listed = list(csv.DictReader((tmp_path / "packed" / "errors.csv").open()))
    assert [row["file"] for row in listed] == ["a/cut.npz", "broken.xml", "stack.npy"] and all(
        row["remedy"] for row in listed
    )
    packed = rows_of(load_corpus(tmp_path / "packed"))
    loose = rows_of(load_corpus(exports, skip_unreadable=True))
    assert set(packed) == set(TOLD)
    for name, row in packed.items():
        assert without_recording(row) == without_recording(loose[name])
        np.testing.assert_array_equal(row["ecg"].signal, loose[name]["ecg"].signal)
        assert row["ecg"].lead_names == loose[name]["ecg"].lead_names
        told = {**loose[name]["ecg"].metadata, "source": row["ecg"].metadata["source"]}
        assert row["ecg"].metadata == told and str(exports) not in json.dumps(row["ecg"].metadata)
    assert str(exports).encode() not in b"".join(file.read_bytes() for file in (tmp_path / "packed").iterdir())


def test_labels_splits_and_shards(thirty, tmp_path):
    report = pack_records(thirty, tmp_path / "packed", labels_csv="labels.csv", shard_mb=0.03, workers=2)
    files = sorted(path.name for path in (tmp_path / "packed").glob("*.parquet"))
    assert report.num_records == 30 and report.errors is None and report.num_parts == len(files)
    assert files[:2] == ["test-00000.parquet", "test-00001.parquet"] and files[-1] > "train-00004.parquet"
    assert not (tmp_path / "packed" / "errors.csv").exists()
    packed = load_corpus(tmp_path / "packed")
    loose = load_corpus(thirty, labels_csv="labels.csv")
    assert packed["train"].features == loose["train"].features and label_names(packed) == ["AF", "MI"]
    assert packed.num_rows["test"] == 9 and packed.num_rows == loose.num_rows
    one, other = rows_of(packed), rows_of(loose)
    assert {name: without_recording(row) for name, row in one.items()} == {
        name: without_recording(row) for name, row in other.items()
    }
    assert one["e04"]["labels"] == {"AF": 0.0, "MI": None} and one["e05"]["age"] == 25.0


@pytest.mark.parametrize(("form", "ending"), [("npz", ".npz"), ("wfdb", ".hea")])
def test_single_files_with_their_table(exports, thirty, tmp_path, form, ending):
    report = pack_records(thirty, tmp_path / form, to=form, labels_csv="labels.csv")
    assert report.num_records == 30 and len(list((tmp_path / form).glob(f"*{ending}"))) == 30
    again = load_corpus("folder", data_dir=tmp_path / form, labels_csv="records.csv")
    loose = load_corpus(thirty, labels_csv="labels.csv")
    assert problem_type(again) == "multi_label_classification"
    one, other = rows_of(again), rows_of(loose)
    for name, row in one.items():
        assert without_recording(row) == without_recording(other[name])
        tolerance = 0 if form == "npz" else 0.00051
        assert np.abs(row["ecg"].signal - other[name]["ecg"].signal).max() <= tolerance
    assert again.num_rows == loose.num_rows
    mixed = pack_records(exports, tmp_path / "mixed", to=form)
    assert mixed.num_errors == 3 and (tmp_path / "mixed" / "b" / f"dicom{ending}").is_file()
    assert read_ecg(tmp_path / "mixed" / "a" / f"hl7{ending}").sampling_rate == 500


def test_names_that_clash_or_do_not_fit(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number, name in enumerate(["é 1.npz", "é_1.npz", "x.npz"]):
        recording(number, seconds=1).save(source / name)
    recording(5, seconds=1).save(source / "x.hea")
    pack_records(source, tmp_path / "out", to="wfdb")
    with open(tmp_path / "out" / "records.csv", newline="") as file:
        table = {row["record_id"]: row["file"] for row in csv.DictReader(file)}
    assert table == {"x.hea": "x.hea", "x.npz": "x_2.hea", "é 1": "__1.hea", "é_1": "__1_2.hea"}
    for number, name in ((5, "x.hea"), (2, "x_2.hea"), (0, "__1.hea"), (1, "__1_2.hea")):
        assert np.abs(read_ecg(tmp_path / "out" / name).signal - recording(number, seconds=1).signal).max() < 0.00051


def test_quality_travels(thirty, tmp_path):
    pack_records(thirty, tmp_path / "packed", quality=True)
    corpus = load_corpus(tmp_path / "packed", min_quality=0.5)
    assert all(len(row["leads"]) == 12 and row["score"] >= 0.5 for row in corpus["train"]["quality"])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("form", ["parquet", "npz"])
def test_an_interrupted_conversion_goes_on(thirty, tmp_path, monkeypatch, form):
    monkeypatch.setattr(record_packing, "_FILES_PER_PART", 7)
    options = {"to": form, "labels_csv": "labels.csv", "shard_mb": 0.03, "workers": 1}
    whole = pack_records(thirty, tmp_path / "whole", **options)
    working = record_packing.facts_of_record
    calls = []

    def stopping(record):
        calls.append(record.metadata["record_id"])
        if len(calls) == 17:
            raise Stopped
        return working(record)

    monkeypatch.setattr(record_packing, "facts_of_record", stopping)
    with pytest.raises(Stopped):
        pack_records(thirty, tmp_path / "out", **options)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert "conversion.jsonl" in left and "records.csv" not in left
    # Half a line, as a loss of power leaves it
    with open(tmp_path / "out" / "conversion.jsonl", "a") as file:
        file.write('{"start": 9')
    resumed = pack_records(thirty, tmp_path / "out", **options)
    done = len(calls) - 17
    assert 0 < resumed.num_resumed < 17 and done == 30 - resumed.num_resumed
    assert resumed.num_records == whole.num_records == 30 and resumed.kinds == whole.kinds
    files = {
        str(path.relative_to(tmp_path / "whole")): path.read_bytes()
        for path in (tmp_path / "whole").rglob("*")
        if path.is_file()
    }
    assert files == {
        str(path.relative_to(tmp_path / "out")): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    again = pack_records(thirty, tmp_path / "out", **options)
    assert again.num_resumed == 30 and len(calls) == 17 + done and again.num_records == 30


def test_a_finished_conversion_stays_as_it_is(thirty, exports, tmp_path, capsys):
    for form in ("parquet", "npz"):
        out = tmp_path / form
        pack_records(exports, out, to=form)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert out / "errors.csv" in before and (form == "parquet" or out / "records.csv" in before)
        assert run("convert-records", exports, "--to", form, "-o", out, "--workers", 0) == 1
        assert "at least 1; got 0" in capsys.readouterr().err
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert run("convert-records", exports, "--to", form, "-o", out) == 1
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="at least 1; got 0"):
        pack_records(thirty, tmp_path / "new", workers=0)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["npz", "wfdb", "parquet"])
def test_starting_over_leaves_nothing_of_an_interrupted_conversion(thirty, tmp_path, monkeypatch, form):
    """Also not what was written but not yet noted: files of an unfinished part, or a shard that just got its name."""
    out = tmp_path / "out"
    working = record_packing._Progress.add
    noted = []

    def stopping(progress, part):
        if len(noted) == 1:
            raise Stopped
        noted.append(part)
        working(progress, part)

    monkeypatch.setattr(record_packing, "_FILES_PER_PART", 7)
    monkeypatch.setattr(record_packing._Progress, "add", stopping)
    with pytest.raises(Stopped):
        pack_records(thirty, out, to=form, shard_mb=0.03, workers=1)
    assert len([path for path in out.iterdir() if path.suffix in (".npz", ".hea", ".parquet")]) > len(noted)
    monkeypatch.undo()
    few = tmp_path / "few"
    few.mkdir()
    recording(1, seconds=1).save(few / "x.npz")
    assert pack_records(few, out, overwrite=True).num_records == 1
    assert {path.name for path in out.iterdir()} == {"conversion.jsonl", "train-00000.parquet"}


@pytest.mark.parametrize("form", ["parquet", "npz", "wfdb"])
def test_rows_of_a_file(tmp_path, form):
    source = tmp_path / "in"
    source.mkdir()
    signals = np.stack([recording(number, seconds=2).signal.T + 1 for number in range(3)])
    with h5py.File(source / "exams.hdf5", "w") as file:
        file["parts/tracings"] = signals
    names = [f"exams.hdf5#parts/tracings:{number}" for number in range(3)]
    (source / "t.csv").write_text("\n".join(["file,AF", *(f"{name},1" for name in names)]) + "\n")
    options = {"labels_csv": "t.csv", "sampling_rate": 250, "lead_names": "standard"}
    report = pack_records(source, tmp_path / "out", to=form, **options)
    assert report.num_records == 3 and report.num_errors == 0
    if form == "parquet":
        corpus = load_corpus(tmp_path / "out", split=(1, 0, 0))
    else:
        corpus = load_corpus(tmp_path / "out", labels_csv="records.csv", split=(1, 0, 0))
        ending = "npz" if form == "npz" else "hea"
        stem = "exams.hdf5_parts_tracings_" if form == "npz" else "exams_hdf5_parts_tracings_"
        assert [path.name for path in sorted((tmp_path / "out").glob(f"*.{ending}"))] == [
            f"{stem}{number}.{ending}" for number in range(3)
        ]
    assert corpus["train"]["record_id"][:] == names
    for row, expected in zip(corpus["train"], signals, strict=True):
        assert np.abs(row["ecg"].signal - expected.T).max() < (0.00051 if form == "wfdb" else 1e-7)
    # The digest notices a file that changed.
    with h5py.File(source / "exams.hdf5", "a") as file:
        file["more"] = signals
    with pytest.raises(ValueError, match="conversion of other files"):
        pack_records(source, tmp_path / "out", to=form, **options)


def test_other_content_is_not_overwritten(thirty, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no conversion wrote"):
        pack_records(thirty, tmp_path)
    out = tmp_path / "out"
    pack_records(thirty, out)
    capsys.readouterr()
    assert run("convert-records", out, "-o", tmp_path / "again") == 1
    assert "holds a saved data set (or Parquet files), which load_corpus opens" in capsys.readouterr().err
    assert run("info", out) == 1
    assert "Parquet files, which load_corpus opens" in (told := capsys.readouterr().err) and "#ecg:0" in told
    assert run("convert-records", thirty, "-o", tmp_path / "notes.txt") == 1
    assert "notes.txt is a file. Name a new or empty folder." in capsys.readouterr().err
    assert run("convert-records", thirty, "-o", out, "--to", "npz") == 1
    assert "pass --overwrite to start over" in capsys.readouterr().err
    assert run("convert-records", thirty, "-o", out, "--to", "npz", "--overwrite") == 0
    assert not list(out.glob("*.parquet")) and len(list(out.glob("*.npz"))) == 30
    for target in (thirty, thirty / "packed", thirty.parent):
        with pytest.raises(ValueError, match="outside of the folder"):
            pack_records(thirty, target)
    with pytest.raises(ValueError, match="is no folder"):
        pack_records(thirty / "e00.npz", tmp_path / "new")
    with pytest.raises(ValueError, match="Only Parquet"):
        pack_records(thirty, tmp_path / "new", to="npz", quality=True)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="None of the 1 files"):
        pack_records(tmp_path / "bad", tmp_path / "new")


def test_memory_does_not_grow_with_the_folder(tmp_path):
    """Groups of records are written as they fill: what a shard holds is never in memory as a whole."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(260):
        recording(number, seconds=1).save(source / f"{number:03d}.npz")
    pack_records(source, tmp_path / "out", workers=1)
    (file,) = (tmp_path / "out").glob("*.parquet")
    groups = pq.ParquetFile(file).metadata
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [100, 100, 60]


@pytest.mark.slow
def test_ctrl_c_leaves_whole_shards(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3000):
        recording(number % 50, seconds=2).save(source / f"{number:04d}.npz")
    command = [
        sys.executable,
        "-m",
        "ecg_transformers.cli",
        "convert-records",
        str(source),
        "-o",
        str(tmp_path / "out"),
    ]
    command += ["--shard_mb", "3", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    progress = tmp_path / "out" / "conversion.jsonl"
    while not progress.is_file() or len(progress.read_text().splitlines()) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on from here" in told and "Traceback" not in told
    assert all(pq.ParquetFile(file).metadata.num_rows for file in (tmp_path / "out").glob("*.parquet"))
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0 and "3000 records" in finished.stdout and "earlier run" in finished.stdout
    assert sum(load_corpus(tmp_path / "out").num_rows.values()) == 3000
