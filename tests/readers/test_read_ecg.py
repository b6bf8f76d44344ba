import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecg_transformers import ECGReadError, ECGRecord, read_ecg, register_reader
from ecg_transformers.readers import FileContent, find_ecg_files, list_readers, registry


def test_paths_that_lead_nowhere(tmp_path, refused):
    refused(tmp_path / "absent.hea", "no such file")
    refused(tmp_path / "absent", "no such file")
    assert "find_ecg_files" in refused(tmp_path, "folder").remedy
    for path in ("", "a\0b.hea", "s3://bucket/a.hea", "http://127.0.0.1/a.hea", "x" * 5000):
        with pytest.raises(ECGReadError):
            read_ecg(path)
    with pytest.raises(ECGReadError, match="no file path"):
        read_ecg(None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_does_not_block(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "no regular file")


def test_permissions(tmp_path, write, refused, monkeypatch):
    path, _ = write.csv(tmp_path)
    if os.geteuid() == 0:

        def refuse(*arguments, **options):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(registry, "read_head", refuse)
    else:
        path.chmod(0)
    refused(path, "permission denied")


def test_unknown_kinds_of_file(tmp_path, refused):
    for name in ("a.pdf", "a.jpg", "a.ecg", "a", "a.hea.txt.bak"):
        (tmp_path / name).write_text("something")
        error = refused(tmp_path / name, "not supported")
        assert "wfdb (.hea" in error.remedy and "format=" in error.remedy
    refused(tmp_path / "a.ecg", "no format named 'xyz'", format="xyz")


def test_a_named_format_overrides_the_extension(tmp_path, write):
    path, signal = write.csv(tmp_path, name="ecg.data")
    np.testing.assert_allclose(read_ecg(path, format="text").signal, signal, atol=1e-5)


@pytest.mark.parametrize("rate", [0, -500, float("nan"), float("inf"), 1e12, "fast"])
def test_impossible_rates_of_the_caller(tmp_path, refused, rate):
    np.save(tmp_path / "a.npy", np.ones((1, 9)))
    refused(tmp_path / "a.npy", "caller gives a sampling rate", sampling_rate=rate, lead_names=["I"])


def test_lead_names_as_one_string(tmp_path, refused):
    np.save(tmp_path / "a.npy", np.ones((1, 9)))
    refused(tmp_path / "a.npy", "one string", sampling_rate=500, lead_names="I")


def test_unknown_names_in_the_file_may_be_replaced(tmp_path, write):
    header = write.wfdb(tmp_path, leads=("ECG1", "II"))
    assert read_ecg(header).lead_names == ("ECG1", "II")
    assert read_ecg(header, lead_names=["V5", "II"]).lead_names == ("V5", "II")


def test_the_error_survives_the_way_between_processes(tmp_path):
    error = ECGReadError(tmp_path / "a.hea", "a reason.", "A remedy.")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and (again.path, again.reason, again.remedy) == error.args
    assert isinstance(error, ValueError)
    assert str(ECGReadError("only a message")) == "only a message"


def test_a_new_format_is_one_function(tmp_path, monkeypatch):
    list_readers()
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))

    @register_reader("toy", extensions=(".TOY", ".csv"), sniff=lambda path, head: head.startswith(b"TOY"))
    def read_toy(path, request):
        return FileContent(np.ones((1, 9)) * 1000, 250, ["lead ii"], "uV", {"age": None, "labels": ["x"]})

    (tmp_path / "a.toy").write_bytes(b"TOY!")
    record = read_ecg(tmp_path / "a.toy")
    assert (record.lead_names, record.sampling_rate, record.signal[0, 0]) == (("II",), 250, 1.0)
    assert record.metadata["labels"] == ["x"] and "age" not in record.metadata
    (tmp_path / "b.csv").write_bytes(b"TOY!")
    assert read_ecg(tmp_path / "b.csv").metadata["format"] == "toy"
    assert find_ecg_files(tmp_path) == [tmp_path / "a.toy", tmp_path / "b.csv"]

    @register_reader("toy_record", extensions=[".rec"], sniff=lambda path, head: True)
    def read_toy_record(path, request):
        return ECGRecord(np.ones((1, 9)), 250, ["V1"])

    (tmp_path / "a.rec").write_bytes(b"1")
    assert read_ecg(tmp_path / "a.rec").lead_names == ("V1",)

    @register_reader("toy_rows", extensions=[".rows"], sniff=lambda path, head: True, rows=True, windows=True)
    def read_toy_rows(path, request):
        if request.window is not None:
            return FileContent(np.full((1, 9), request.window.start), 250, ["V1"], "mV")
        return FileContent(np.full((1, 9), request.row.row), 250, ["V1"], "mV")

    (tmp_path / "a.rows").write_bytes(b"1")
    assert read_ecg(tmp_path / "a.rows#x:7").signal[0, 0] == 7
    assert read_ecg(tmp_path / "a.rows#samples:40-49").signal.tolist() == [[40.0] * 9], "cut by the reader itself"
    assert read_ecg(tmp_path / "a.toy#samples:2-4").num_samples == 2, "cut for the reader"
    with pytest.raises(ECGReadError, match="named in files of hdf5 and parquet and toy_rows; this is toy."):
        read_ecg(tmp_path / "a.toy#x:7")
    with pytest.raises(ValueError, match="exists already"):
        register_reader("toy", extensions=(".x",), sniff=lambda path, head: True)(lambda path, request: None)
    with pytest.raises(ValueError, match="with their dot"):
        register_reader("other", extensions=("x",), sniff=lambda path, head: True)


def test_a_fault_of_a_reader_is_no_bare_traceback(tmp_path, monkeypatch, refused):
    list_readers()
    monkeypatch.setattr(registry, "_READERS", dict(registry._READERS))
    (tmp_path / "a.boom").write_bytes(b"1")
    for fault in (KeyError("x"), RecursionError(), ZeroDivisionError(), MemoryError(), OSError("disk")):

        @register_reader("boom", extensions=(".boom",), sniff=lambda path, head: True)
        def read_boom(path, request, fault=fault):
            raise fault

        refused(tmp_path / "a.boom", "damaged or not understood|not enough memory")


def test_importing_the_readers_loads_no_library():
    # The package itself imports transformers, which may load some of these; what counts is what the readers add.
    code = (
        "import sys, ecg_transformers; before = set(sys.modules); import ecg_transformers.readers as readers; "
        "readers.list_readers(); added = set(sys.modules) - before; "
        "print(added & {'wfdb', 'scipy', 'scipy.io', 'pandas', 'h5py', 'datasets'})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"


def test_find_ecg_files(tmp_path, write):
    header, _ = write.challenge(tmp_path)
    inner = tmp_path / "b" / "c"
    inner.mkdir(parents=True)
    code15 = write.code15(inner)
    sph = write.sph(inner)
    csv, _ = write.csv(inner)
    np.save(inner / "leads.npy", np.ones((2, 9)))
    np.save(inner / "labels.npy", np.ones(9))
    (inner / "labels.csv").write_text("exam_id,age,is_male,AF\n1,50,True,0\n2,51,False,1\n")
    (inner / "metadata.csv").write_text("patient_id,basal_pattern\n" + "188981,1\n" * 200)
    (inner / "numbers.csv").write_text("1,2\n" * 50)
    (inner / "bare.txt").write_text("0.1 0.2\n" * 500)
    (inner / "notes.txt").write_text("hello")
    (inner / "empty.hea").write_text("")
    (inner / "stray.dat").write_bytes(bytes(99))
    (inner / ".hidden.csv").write_text("I\n0.1\n0.2\n")
    (tmp_path / ".git").mkdir()
    write.csv(tmp_path / ".git")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    # A header without content is damaged: it is listed, so that reading it says so.
    expected = sorted([header, code15, sph, csv, inner / "leads.npy", inner / "bare.txt", inner / "empty.hea"])
    assert find_ecg_files(tmp_path) == expected
    assert find_ecg_files(tmp_path, recursive=False) == [header]
    assert find_ecg_files(str(inner)) == expected[1:]
    with pytest.raises(ECGReadError, match="no such folder"):
        find_ecg_files(tmp_path / "absent")
    with pytest.raises(ECGReadError, match="no such folder"):
        find_ecg_files(header)
