"""Reading the parameters of a TorchScript file; its program is neither run, nor compiled, nor kept.

The file is a zip archive: `data.pkl` describes the module as a tree of objects, `data/` holds the numbers of its
tensors, `code/` its program. Only the first two are opened here, with the unpickler that runs nothing.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from .restricted_unpickling import AttributeBag, RestrictedUnpickler, UnsafePickleError, check_inflation

_TREE, _CONSTANTS = "/data.pkl", "/constants.pkl"
_MOST_MODULES = 100_000

_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}


class _Typed:
    """Function of TorchScript pickles that gives a value its type; the value is all that is needed."""

    def __call__(self, value: Any, *types: Any) -> Any:
        return value


_TYPED_VALUES = {
    f"torch.jit._pickle.{name}": _Typed()
    for name in ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")
}


class _TreeUnpickler(RestrictedUnpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(root + _TREE)))
        self._archive, self._root = archive, root
        self._storages: dict[str, torch.storage.TypedStorage] = {}

    def find_class(self, module: str, name: str) -> Any:
        typed = _TYPED_VALUES.get(f"{module}.{name}")
        return super().find_class(module, name) if typed is None else typed

    def persistent_load(self, identity: Any) -> torch.storage.TypedStorage:
        kind, storage_class, key, _, count = identity
        dtype = _STORAGES.get(getattr(storage_class, "qualified_name", None))
        if kind != "storage" or dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            raise ValueError(f"it refers to {identity!r}, which is no storage of numbers")
        if key not in self._storages:
            self._storages[key] = self._read_storage(key, dtype, count * dtype.itemsize)
        found = self._storages[key]
        if found.dtype != dtype or found._untyped_storage.nbytes() != count * dtype.itemsize:
            raise ValueError(f"storage {key} is described in two ways")
        return found

    def _read_storage(self, key: str, dtype: torch.dtype, num_bytes: int) -> torch.storage.TypedStorage:
        entry = self._archive.getinfo(f"{self._root}/data/{key}")
        if entry.file_size != num_bytes:
            raise ValueError(f"storage {key} has {entry.file_size} bytes instead of {num_bytes}")
        if num_bytes:
            untyped = torch.frombuffer(bytearray(self._archive.read(entry)), dtype=torch.uint8).untyped_storage()
        else:
            untyped = torch.UntypedStorage(0)
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def is_torchscript(path: str | Path) -> bool:
    """Tell whether a file was written by `torch.jit.save`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(_CONSTANTS) for name in archive.namelist())


def load_torchscript_parameters(path: str | Path) -> dict[str, torch.Tensor]:
    """Read parameters and buffers of a TorchScript file, without running or compiling its program.

    Args:
        path (`str` or `Path`): a file written by `torch.jit.save`, scripted or traced.

    Returns:
        `dict[str, torch.Tensor]`: as the state dictionary of the module that was scripted or traced, on the CPU. Plain
            tensor attributes are included, since TorchScript keeps them like buffers.

    Raises:
        UnsafePickleError: if the description of the module calls anything but what builds containers, numbers and
            tensors. Nothing has been run. Also if the archive inflates to many times its size.
        ValueError: if the file is damaged, or holds no parameters because freezing made them constants of the program.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_inflation(path, archive)
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            root = next(name for name in sorted(names) if name.endswith(_CONSTANTS)).removesuffix(_CONSTANTS)
            order = archive.read(f"{root}/byteorder") if f"{root}/byteorder" in names else b"little"
            if order.strip() != sys.byteorder.encode():
                raise ValueError(f"its numbers are {order.decode()} endian, those of this machine {sys.byteorder}")
            tree = _TreeUnpickler(archive, root).load()
        tensors = _tensors_of(tree)
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} is refused: {error}. Nothing in it was run. If you trust its origin, ask for the weights as "
            "safetensors, or as a plain state dictionary."
        ) from None
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        # A damaged pickle can fail in any way, and all of them mean the same to the reader
        raise ValueError(
            f"{path} cannot be read as a TorchScript file: {type(error).__name__}: {error}. The file is damaged, cut "
            "off or of another format; fetch it again."
        ) from error
    if not tensors:
        raise ValueError(
            f"{path} is a TorchScript file without parameters: it was frozen or optimised, which makes them constants "
            "of its program and drops their names. Ask for the file from before that, or for a state dictionary."
        )
    return tensors


def _tensors_of(tree: Any) -> dict[str, torch.Tensor]:
    if not isinstance(tree, AttributeBag):
        raise pickle.UnpicklingError(f"it describes a {type(tree).__name__}, not a module")
    found: dict[str, torch.Tensor] = {}
    num_modules = 0

    def visit(bag: AttributeBag, prefix: str, above: tuple[AttributeBag, ...]) -> None:
        # Modules may be shared, which is harmless, but neither without end nor to multiply
        nonlocal num_modules
        num_modules += 1
        if any(bag is other for other in above) or num_modules > _MOST_MODULES:
            raise pickle.UnpicklingError(f"its modules have no end, at `{prefix}`")
        for name, value in vars(bag).items():
            if isinstance(value, torch.Tensor):
                found[prefix + name] = value.detach()
            elif isinstance(value, AttributeBag):
                visit(value, f"{prefix}{name}.", (*above, bag))

    visit(tree, "", ())
    return found


__all__ = ["is_torchscript", "load_torchscript_parameters"]
