import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from ecg_transformers.restricted_unpickling import UnsafePickleError, load_without_running
from ecg_transformers.torchscript_parameters import is_torchscript, load_torchscript_parameters


class Part(nn.Module):
    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3).to(dtype))
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("nothing", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.to(x.dtype).T + self.steps


class Network(nn.Module):
    sizes: list[int]
    table: dict[str, torch.Tensor]

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList([Part(dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16)])
        self.conv = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))
        # A view of a larger storage, which a file keeps whole
        self.conv[0].weight = nn.Parameter(torch.randn(3, 4, 3)[:, ::2])
        self.shared = self.conv[1]
        self.sizes = [1, 2]
        self.table = {"a": torch.zeros(1)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = x + part(x).sum()
        return self.shared(self.conv(x[None])) + self.sizes[0] + self.table["a"]


@pytest.fixture(params=["scripted", "traced"])
def file(request, tmp_path):
    network = Network().eval()
    if request.param == "scripted":
        program = torch.jit.script(network)
    else:
        program = torch.jit.trace(network, torch.randn(2, 3))
    program.save(tmp_path / "network.pt")
    return tmp_path / "network.pt"


def test_parameters_and_buffers_are_those_of_the_program(file):
    assert is_torchscript(file)
    found = load_torchscript_parameters(file)
    expected = torch.jit.load(file).state_dict()
    assert {"parts.2.weight", "conv.0.weight", "conv.1.running_var", "shared.weight"} <= set(expected)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
        assert not found[name].requires_grad


def test_other_files_are_no_torchscript(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    (tmp_path / "text.pt").write_text("no archive")
    assert not is_torchscript(tmp_path / "state.pt") and not is_torchscript(tmp_path / "text.pt")
    with pytest.raises(FileNotFoundError):
        load_torchscript_parameters(tmp_path / "absent.pt")


def test_a_frozen_program_has_no_parameters(tmp_path):
    torch.jit.freeze(torch.jit.script(Part(torch.float32).eval())).save(tmp_path / "frozen.pt")
    with pytest.raises(ValueError, match="frozen or optimised"):
        load_torchscript_parameters(tmp_path / "frozen.pt")


def rewrite(file, target, replace, drop=()):
    """Copy an archive with other content in some of its entries, named without the root."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        root = old.namelist()[0].split("/")[0]
        for name in old.namelist():
            inner = name.removeprefix(root + "/")
            if inner not in drop:
                new.writestr(name, replace.get(inner, old.read(name)))
    return target


class Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_nothing_is_run(file, tmp_path):
    marker = tmp_path / "it ran"
    for function in (os.system, eval, torch.jit.load, torch.hub.load):
        tree = pickle.dumps(Call(function, f"touch '{marker}'"), protocol=2)
        evil = rewrite(file, tmp_path / "evil.pt", {"data.pkl": tree})
        with pytest.raises(UnsafePickleError, match="Nothing in it was run"):
            load_torchscript_parameters(evil)
        assert not marker.exists()
    # A program that is no program shows that the code is not even opened
    with zipfile.ZipFile(file) as archive:
        code = [name.partition("/")[2] for name in archive.namelist() if "/code/" in name]
    assert code
    broken = rewrite(file, tmp_path / "code.pt", dict.fromkeys(code, b"import os"))
    assert load_torchscript_parameters(broken).keys() == load_torchscript_parameters(file).keys()
    without = rewrite(file, tmp_path / "bare.pt", {}, drop=code)
    assert load_torchscript_parameters(without).keys() == load_torchscript_parameters(file).keys()


def test_damage_is_an_error(file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        tree = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    cases = {
        "bytes": {"data/0": b"\x00"},
        "endian": {"byteorder": b"big"},
        "tree": {"data.pkl": tree[:100]},
        "root": {"data.pkl": pickle.dumps({"weight": 1}, protocol=2)},
        "storage": {"data.pkl": tree.replace(b"FloatStorage", b"FlootStorage")},
        "type": {"data.pkl": tree.replace(b"torch\nFloatStorage", b"torch\nHalfStorage")},
    }
    for name, replaced in cases.items():
        assert replaced.get("data.pkl") != tree, name
        with pytest.raises(ValueError, match="cannot be read as a TorchScript file"):
            load_torchscript_parameters(rewrite(file, tmp_path / f"{name}.pt", replaced))
    with pytest.raises(ValueError, match="cannot be read as a TorchScript file"):
        load_torchscript_parameters(rewrite(file, tmp_path / "gone.pt", {}, drop=("data/0",)))
    short = tmp_path / "short.pt"
    short.write_bytes(file.read_bytes()[:2000])
    assert not is_torchscript(short)


class Loop:
    """A module inside itself."""

    def __init__(self):
        self.child = self


def test_modules_without_end(file, tmp_path):
    loop = rewrite(file, tmp_path / "loop.pt", {"data.pkl": pickle.dumps(Loop(), protocol=2)})
    with pytest.raises(ValueError, match="no end"):
        load_torchscript_parameters(loop)
    laugh = Loop()
    laugh.child = None
    for _ in range(40):
        above = Loop()
        above.child, above.other = laugh, laugh
        laugh = above
    bomb = rewrite(file, tmp_path / "bomb.pt", {"data.pkl": pickle.dumps(laugh, protocol=2)})
    with pytest.raises(ValueError, match="no end"):
        load_torchscript_parameters(bomb)


@pytest.mark.parametrize("entry", ["data.pkl", "data/0"])
@pytest.mark.parametrize("kind", ["program", "weights"])
def test_an_archive_that_inflates_without_measure_is_refused(tmp_path, kind, entry):
    whole, bomb = tmp_path / "whole.pt", tmp_path / "bomb.pt"
    if kind == "program":
        torch.jit.script(Network().eval()).save(whole)
    else:
        torch.save(Network().state_dict(), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(2**27) if name.endswith(f"/{entry}") else source.read(name))
    assert bomb.stat().st_size < 2**19
    with pytest.raises(UnsafePickleError, match="bytes would become 134,"):
        (load_torchscript_parameters if kind == "program" else load_without_running)(bomb)


def test_a_compressed_archive_is_read(tmp_path, file):
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    found, expected = load_torchscript_parameters(tmp_path / "c.pt"), load_torchscript_parameters(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
