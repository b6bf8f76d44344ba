import argparse
import builtins
import collections
import importlib
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch

from ecg_transformers.restricted_unpickling import AttributeBag, UnsafePickleError, load_without_running


class Call:
    """Pickles as a call of a function; the usual way to smuggle code into a checkpoint."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Settings:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class SlotSettings:
    __slots__ = ("width",)

    def __init__(self, width):
        self.width = width


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "it ran"


def save(path, content, **options):
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.system, "touch {}"),
        (builtins.eval, "open({!r}, 'w')"),
        (builtins.exec, "open({!r}, 'w')"),
        (open, "{}"),
        (importlib.import_module, "antigravity"),
        (os.mkdir, "{}"),
        (torch.load, "{}"),
        (getattr, None),
        (pickle.loads, None),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_calls_are_refused_and_nothing_runs(tmp_path, marker, zipped, function, arguments):
    filled = () if arguments is None else (arguments.format(str(marker)),)
    content = {"model_state_dict": {"weight": torch.ones(2)}, "extra": Call(function, *filled)}
    path = save(tmp_path / "file.pt", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError, match=rf"calls `[\w.]+\.{function.__name__}`") as caught:
        load_without_running(path)
    assert str(path) in str(caught.value)
    assert not marker.exists()


def test_a_dangerous_name_used_as_a_class_is_inert(tmp_path, marker):
    # NEWOBJ of posix.system: no object of the real function is ever made
    payload = b"\x80\x02}X\x01\x00\x00\x00acposix\nsystem\nX" + len(f"touch {marker}").to_bytes(4, "little")
    payload += f"touch {marker}".encode() + b"\x85\x81s."
    path = save(tmp_path / "file.pt", {})
    replace_pickle(path, payload)
    assert isinstance(load_without_running(path)["a"], AttributeBag)
    assert not marker.exists()


def replace_pickle(path, payload):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, payload if name.endswith("data.pkl") else content)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x0b\x00\x00\x00__wrapped__K\x01sb.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b.",
        b"\x80\x02cevil\nName\nN}X\x08\x00\x00\x00__call__K\x01s\x86b.",
        b"\x80\x02ccollections\nOrderedDict\nN}X\x04\x00\x00\x00copyK\x01s\x86b.",
        b"\x80\x02ccopyreg\n_reconstructor\nccollections\nOrderedDict\nc__builtin__\ndict\nN\x87R.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00i8\x85R"
        b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}K\x08K\x08K\x00tb.",
        b"\x80\x02cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85X\x01\x00\x00\x00b\x87R"
        b"(K\x01K\x01\x85NNX\x01\x00\x00\x00atb.",
    ],
    ids=[
        "attribute of a function",
        "defaults",
        "class",
        "built-in type",
        "other base",
        "object dtype",
        "composed dtype",
        "array of no type",
    ],
)
def test_a_pickle_cannot_alter_what_it_uses(tmp_path, payload):
    before = torch._utils._rebuild_tensor_v2.__defaults__
    path = save(tmp_path / "file.pt", {})
    replace_pickle(path, payload)
    with pytest.raises(ValueError, match="file.pt") as caught:
        load_without_running(path)
    if b"numpy" in payload:
        assert "NumPy" in str(caught.value)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    assert not hasattr(torch._utils._rebuild_tensor_v2, "__wrapped__")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_objects_become_their_attributes(tmp_path, zipped, protocol):
    weights = collections.OrderedDict(a=torch.arange(6.0).reshape(2, 3).T, b=torch.tensor([1, 2], dtype=torch.int64))
    content = {
        "config": Settings(width=3, names=["x"], inner=argparse.Namespace(rate=0.5), dtype=torch.float16),
        "state": weights,
        "parameter": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "loss": np.float64(0.25),
        "shape": torch.Size([1, 2]),
        "groups": {1, 2},
        "defaults": collections.defaultdict(list, a=[1]),
        "array": np.arange(12, dtype=np.int16).reshape(3, 4).T,
        "random state": np.random.RandomState(3).get_state(),
        "folder": pathlib.PurePosixPath("/data/runs") / "7",
    }
    path = tmp_path / "file.pt"
    save(path, content, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    read = load_without_running(path)
    config = read["config"]
    assert isinstance(config, AttributeBag)
    assert config.qualified_name == f"{__name__}.Settings"
    assert vars(config)["width"] == 3 and vars(config)["names"] == ["x"] and vars(config)["dtype"] is torch.float16
    assert vars(vars(config)["inner"]) == {"rate": 0.5}
    for name, tensor in weights.items():
        assert torch.equal(read["state"][name], tensor)
    assert torch.equal(read["parameter"], content["parameter"])
    assert read["loss"] == 0.25
    np.testing.assert_array_equal(read["array"], content["array"])
    assert read["array"].dtype == np.int16 and read["array"].flags.f_contiguous
    np.testing.assert_array_equal(read["random state"][1], content["random state"][1])
    assert read["folder"] == "/data/runs/7" and type(read["folder"]) is str
    assert read["shape"] == (1, 2) and read["groups"] == {1, 2} and read["defaults"] == {"a": [1]}


def test_arrays_of_objects_are_refused(tmp_path, marker):
    path = save(tmp_path / "file.pt", {"array": np.array([Call(os.system, f"touch {marker}")], dtype=object)})
    with pytest.raises(UnsafePickleError, match="not plain numbers|calls `"):
        load_without_running(path)
    assert not marker.exists()


def test_slots_are_attributes_too(tmp_path):
    path = save(tmp_path / "file.pt", {"config": SlotSettings(4)})
    assert vars(load_without_running(path)["config"]) == {"width": 4}


def test_damaged_files(tmp_path):
    whole = save(tmp_path / "whole.pt", {"weight": torch.ones(1000)}).read_bytes()
    cases = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint", "zeros": bytes(100)}
    for name, content in cases.items():
        path = tmp_path / f"{name}.pt"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.pt"):
            load_without_running(path)
    with pytest.raises(FileNotFoundError, match="absent.pt"):
        load_without_running(tmp_path / "absent.pt")


def test_programs_are_refused(tmp_path):
    path = tmp_path / "program.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    with pytest.raises(UnsafePickleError, match="TorchScript"):
        load_without_running(path)
