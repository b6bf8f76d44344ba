"""`predict` and `embed` where folders change, files cannot be opened, or names and outputs are unfortunate."""

import ast
import csv
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import ecg_transformers
from ecg_transformers import STANDARD_LEADS, ECGRecord, find_ecg_files
from ecg_transformers.cli import main
from ecg_transformers.corpora.file_workers import in_order, worker_pool
from ecg_transformers.inference import ECGInference
from ecg_transformers.input_listing import InputListing
from ecg_transformers.readers import parquet_files
from ecg_transformers.readers.folder import is_recording

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_predict_at_scale import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), ["AF", "LBBB", "sinus rhythm"])


@pytest.fixture
def folder(tmp_path):
    """Three recordings in each of two subfolders."""
    for seed in range(6):
        place = tmp_path / "records" / "ab"[seed // 3]
        place.mkdir(parents=True, exist_ok=True)
        signal = 0.3 * np.random.default_rng(seed).standard_normal((12, 500))
        ECGRecord(signal, 100, STANDARD_LEADS, {"record_id": f"R{seed}"}).save(place / f"R{seed}.npz")
    return tmp_path / "records"


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_files_that_go_and_come_during_a_run(folder, model, tmp_path, monkeypatch, capsys):
    output, away = tmp_path / "p.csv", tmp_path / "away"
    command = (folder, "--model", model, "-o", output, "--batch_size", 1, "--workers", 0)
    run_batch = ECGInference.run_batch

    # What is left of "b" is that it cannot be listed.
    def takes_away(self, batch):
        if not away.exists():
            (folder / "b").rename(away)
        return run_batch(self, batch)

    monkeypatch.setattr(ECGInference, "run_batch", takes_away)
    assert predict(*command) == 1
    told = capsys.readouterr().err
    assert "had 6 entries when the run began and 4 were found" in told and "--overwrite" in told
    assert not output.exists() and (tmp_path / "p.csv.parts").is_dir()
    away.rename(folder / "b")

    # Of the interrupted run: "0" comes when the survey is over, and is gone when it is to go on.
    survey, batches = InputListing.survey, iter(range(9))

    def interrupted(self, batch):
        if next(batches) == 4:
            raise KeyboardInterrupt
        return run_batch(self, batch)

    def brings(self, digest=True):
        found = survey(self, digest)
        shutil.copytree(folder / "b", folder / "0")
        return found

    monkeypatch.setattr(ECGInference, "run_batch", run_batch)
    with monkeypatch.context() as patch:
        patch.setattr(InputListing, "survey", brings)
        patch.setattr(ECGInference, "run_batch", interrupted)
        assert predict(*command, "--overwrite") == 130
    assert "4 of 6 files are done" in capsys.readouterr().err
    shutil.rmtree(folder / "0")
    assert predict(*command) == 1
    told = capsys.readouterr().err
    assert f"entry 1 is {folder}/0/R3.npz there and {folder}/a/R0.npz now" in told and "--overwrite" in told
    assert predict(*command, "--overwrite") == 0
    assert [row["record_id"] for row in rows(output)] == [f"R{seed}" for seed in range(6)]


def test_links_and_names(folder, model, tmp_path, capsys):
    (folder / "a" / "R1a.npz").symlink_to(folder / "nowhere.npz")
    (folder / "a" / "circle").symlink_to(folder / "a" / "circle")
    odd = os.fsencode(folder / "b" / "R5")
    os.rename(odd + b".npz", odd + b"\xe9.npz")
    shutil.copyfile(odd + b"\xe9.npz", odd + b"\xe9.bad.npz")
    with open(odd + b"\xe9.bad.npz", "r+b") as file:
        file.truncate(1000)
    for ending, workers in (("csv", 0), ("parquet", 2)):
        output = tmp_path / f"p.{ending}"
        assert predict(folder, "--model", model, "-o", output, "--workers", workers, "--batch_size", 2) == 1
        errors = rows(tmp_path / f"p.{ending}.errors.csv")
        found = [row["path"].removeprefix(f"{folder}/") for row in errors]
        assert found == ["a/R1a.npz", "a/circle", r"b/R5\xe9.bad.npz"]
        assert errors[0]["reason"] == f"The link {folder}/a/R1a.npz leads to nothing that can be opened."
        assert rf"{folder}/b/R5\xe9.bad.npz" in errors[2]["reason"]
    assert [row["path"] for row in rows(tmp_path / "p.csv")] == pq.read_table(output)["path"].to_pylist()
    assert rows(tmp_path / "p.csv")[-1]["path"] == rf"{folder}/b/R5\xe9.npz"
    with pytest.warns(UserWarning, match="R1a.npz leads to nothing that can be opened. It is left out"):
        assert len(find_ecg_files(folder)) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_what_may_not_be_opened(folder, monkeypatch):
    """In a process without the rights of root."""
    assert is_recording(folder / "a" / "R1.npz")
    (folder / "a" / "R1.npz").chmod(0)
    (folder / "b").chmod(0)
    folder.parent.chmod(0o755)
    # The folders above are nobody else's, too
    monkeypatch.chdir(folder.parent)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            found = [(one.path, one.error) for one in InputListing(["records"]) if one.error or is_recording(one.path)]
            os.write(writing, repr(found).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    (folder / "b").chmod(0o755)
    assert ast.literal_eval(os.read(reading, 10_000).decode()) == [
        *((f"records/a/R{seed}.npz", None) for seed in range(3)),
        ("records/b", "The folder records/b cannot be listed: Permission denied."),
    ]


def test_labels_of_one_name(tmp_path, folder, capsys):
    model = save_model(tmp_path / "model", ["AF", "LBBB", "AF"])
    assert predict(folder, "--model", model) == 1
    assert "Several outputs of the model are called 'AF'" in capsys.readouterr().err
    assert main(["embed", str(folder), "--model", str(model), "-o", str(tmp_path / "e.npz")]) == 0


def test_outputs_that_are_refused(folder, tmp_path, capsys):
    signal = np.random.default_rng(6).standard_normal((500, 12))
    np.savetxt(folder / "R6.csv", signal, delimiter=",", header=",".join(STANDARD_LEADS), comments="")
    (tmp_path / "list.csv").write_text("file\nrecords/a/R0.npz\n")
    before = {path: path.read_bytes() for path in (folder / "R6.csv", folder / "a" / "R0.npz", tmp_path / "list.csv")}
    # Refused before the model is looked for
    for command, output, words in (
        (["predict", tmp_path / "list.csv", "--path_column", "file"], tmp_path / "list.csv", "is an input"),
        (["predict", folder], folder / "R6.csv", "holds a recording"),
        (["embed", folder], folder / "a" / "R0.npz", "holds a recording"),
        (["predict", folder], tmp_path / "nowhere" / "p.csv", "does not exist; create it first"),
    ):
        assert main([*map(str, command), "--model", "no model", "-o", str(output)]) == 1
        assert words in capsys.readouterr().err
    (tmp_path / "p.csv").mkdir()
    assert predict(folder, "--model", "no model", "-o", tmp_path / "p.csv") == 1
    assert "p.csv is a folder; name a file" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_outputs_in_the_folder_are_replaced(folder, model):
    for _ in range(2):
        for ending in ("npz", "csv", "parquet", "jsonl"):
            output = folder / f"e.{ending}"
            assert main(["embed", str(folder / "a"), "--model", str(model), "-o", str(output)]) == 0, ending
        for ending in ("csv", "parquet", "jsonl", "json"):
            assert predict(folder / "a", "--model", model, "-o", folder / f"p.{ending}") == 0, ending


def test_reasons_name_the_file(folder, model):
    ECGRecord(np.zeros((12, 500)), 100, STANDARD_LEADS, {"record_id": 7}).save(folder / "flat.npz")
    ECGRecord(np.ones((12, 1)), 100, STANDARD_LEADS, {"record_id": "s1"}).save(folder / "short.npz")
    results = list(ECGInference.from_pretrained(model).over_files(find_ecg_files(folder)))
    assert [Path(result.path).name for result in results if result.error] == ["flat.npz", "short.npz"]
    assert all(result.path in result.error for result in results[-2:])
    assert results[-1].record_id == "s1" and "s1" in results[-1].error


def end(number: int) -> int:
    if number == 5:
        os._exit(9)
    return number


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_what_ends_a_worker_is_named():
    found = []
    with pytest.raises(OSError, match=r"The first thing not done: <5>\. Use fewer workers; .*batch_size=1"):
        with worker_pool(1) as pool:
            found.extend(in_order(pool, end, range(9), 2, lambda number: f"<{number}>"))
    # Results before it may be lost to the pool's end
    assert found == list(range(len(found)))


def test_large_groups_of_rows(folder, tmp_path, monkeypatch):
    assert main(["convert-records", str(folder), "-o", str(tmp_path / "packed"), "--workers", "1"]) == 0
    shard = tmp_path / "packed" / "train-00000.parquet"
    assert pq.ParquetFile(shard).num_row_groups == 1
    monkeypatch.setattr(parquet_files, "_LARGEST_PIECE", 100_000)
    monkeypatch.setattr(parquet_files, "_LAST_GROUP", {})
    seen = []
    for number in (0, 1, 3, 5, 4, 2, 0):
        record = ecg_transformers.read_ecg(f"{shard}#ecg:{number}")
        assert record.metadata["record_id"].endswith(f"/R{number}")
        (rows_of_group,) = parquet_files._LAST_GROUP.values()
        assert len(rows_of_group.piece) < 6
        seen.append(id(rows_of_group))
    # Read once on the way forward
    assert seen[0] == seen[1] == seen[2] == seen[3]
