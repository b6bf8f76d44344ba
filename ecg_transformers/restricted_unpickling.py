"""Reading third-party torch checkpoints without running anything in them.

A pickle is a program. The reader here gives that program only containers, numbers and tensors to build; a class it
does not know becomes an `AttributeBag`, which keeps the attributes of the object and none of its behaviour; a call of
anything else ends the reading.
"""

from __future__ import annotations

import collections
import pickle
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class UnsafePickleError(ValueError):
    """A pickle calls something that reading a checkpoint does not need."""


class _BagType(type):
    """Type of the stand-ins for unknown classes. Creating an object is allowed, calling the name is not.

    A pickle creates plain objects through `__new__`, which does not come here. It calls a name only where a class or a
    function asked for that call (`__reduce__`), and that is how code is smuggled in.
    """

    def __call__(cls, *args: Any, **kwargs: Any):
        raise UnsafePickleError(
            f"it calls `{cls.qualified_name}`, which is no part of a checkpoint's data and may run anything"
        )

    def __setattr__(cls, name: str, value: Any):
        raise UnsafePickleError(f"it changes the class `{cls.qualified_name}`")


class AttributeBag(metaclass=_BagType):
    """Stand-in for an object of an unknown class: `vars(bag)` are its attributes, `qualified_name` is its class."""

    qualified_name = "object"

    def __new__(cls, *args: Any, **kwargs: Any):
        """Create an empty bag whatever the arguments."""
        return object.__new__(cls)

    def __repr__(self) -> str:
        return f"<attributes of a {self.qualified_name}>"


class _Allowed:
    """A function that a pickle may call; unlike the function itself, it cannot be altered from within the pickle."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any):
        raise UnsafePickleError(f"it changes the function `{self._function.__qualname__}`")


def _reconstruct_object(cls: type, base: type, state: Any) -> AttributeBag:
    """What `copyreg._reconstructor` does in pickles of protocol 0 and 1, for unknown plain classes only."""
    if not isinstance(cls, _BagType) or base is not object:
        raise UnsafePickleError(f"it builds a `{getattr(cls, '__name__', cls)}` on top of `{base}`")
    return cls.__new__(cls)


class _NumberType:
    """A NumPy type of plain numbers. A pickle completes types step by step, and could make them lie about objects."""

    __slots__ = ("_dtype",)

    def __init__(self, name: Any = None, *_: Any):
        dtype = np.dtype(name) if isinstance(name, str) else None
        if dtype is None or dtype.kind not in "biufc":
            raise UnsafePickleError(f"it holds NumPy data of type {name!r}, which are not plain numbers")
        self._dtype = dtype

    def __setstate__(self, state: tuple):
        order, *parts = state[1:5]
        if order not in ("<", ">", "|", "=") or parts != [None, None, None]:
            raise UnsafePickleError("it holds NumPy data of a type that is composed of others")
        self._dtype = self._dtype.newbyteorder(order)

    @staticmethod
    def resolve(value: Any) -> np.dtype:
        if not isinstance(value, _NumberType):
            raise UnsafePickleError("it holds NumPy data that are not plain numbers")
        return value._dtype


def _numpy_number(dtype: Any, data: bytes) -> np.generic:
    dtype = _NumberType.resolve(dtype)
    if not isinstance(data, bytes):
        raise UnsafePickleError("it holds a NumPy scalar that is not a plain number")
    return np.frombuffer(data, dtype=dtype, count=1)[0]


class _PlainArray(np.ndarray):
    """An array of numbers whose content comes from a pickle."""

    def __setstate__(self, state: tuple):
        version, shape, dtype, in_columns, data = state
        if not isinstance(data, bytes):
            raise UnsafePickleError("it holds a NumPy array that is not of plain numbers")
        super().__setstate__((version, shape, _NumberType.resolve(dtype), in_columns, data))


def _empty_array(*args: Any) -> np.ndarray:
    return np.ndarray.__new__(_PlainArray, (0,), "b")


def _path_text(*parts: Any) -> str:
    """What a path in a pickle becomes: training settings hold many, and none of them means anything here."""
    if not all(isinstance(part, str) for part in parts):
        raise UnsafePickleError("it holds a path that is not made of text")
    return "/".join(parts).replace("//", "/")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode(encoding)


_FUNCTIONS = {
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.device": torch.device,
    "copyreg._reconstructor": _reconstruct_object,
    "copy_reg._reconstructor": _reconstruct_object,
    "numpy.dtype": _NumberType,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
    "numpy.core.multiarray._reconstruct": _empty_array,
    "numpy._core.multiarray._reconstruct": _empty_array,
    "_codecs.encode": _encode,
    **{
        f"{module}.{kind}": _path_text
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}

# Built-in and C types: a pickle can create such objects, and cannot alter the types
_TYPES = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "torch.Size": torch.Size,
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("builtins", "__builtin__")
        for kind in (object, set, frozenset, bytearray, complex, int, float, bool, str, list, tuple, dict)
    },
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler that builds containers, numbers and tensors, and stand-ins for objects of every other class."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name in the pickle stands for."""
        qualified_name = f"{module}.{name}"
        if qualified_name in _TYPES:
            return _TYPES[qualified_name]
        if qualified_name in _FUNCTIONS:
            return _Allowed(_FUNCTIONS[qualified_name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _BagType(name.rpartition(".")[2] or "object", (AttributeBag,), {"qualified_name": qualified_name})


# torch.load takes a module; it subclasses its `Unpickler` to find storages
_pickle_module = types.SimpleNamespace(
    Unpickler=RestrictedUnpickler,
    load=lambda file, **options: RestrictedUnpickler(file, **options).load(),
    __name__="restricted_pickle",
)


# Weights hardly compress; a program and its debug records do, and are small
_MOST_INFLATION, _ROOM_FOR_TEXT = 10, 2**26


def check_inflation(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive whose entries are many times its size, before they fill the memory.

    Raises:
        UnsafePickleError: if so.
    """
    size, inflated = path.stat().st_size, sum(entry.file_size for entry in archive.infolist())
    if inflated > _MOST_INFLATION * size + _ROOM_FOR_TEXT:
        raise UnsafePickleError(
            f"{path} is refused: its {size:,} bytes would become {inflated:,}, which no weights do. Nothing in it was "
            "read. Fetch it again from its origin."
        )


def load_without_running(path: str | Path) -> Any:
    """Read a file written by `torch.save`, without running anything that it contains.

    Args:
        path (`str` or `Path`): a `.pt`, `.pth`, `.ckpt` or `.bin` file, in the zip or the older format.

    Returns:
        The object saved, tensors on the CPU, objects of unknown classes as [`AttributeBag`], paths as text.

    Raises:
        UnsafePickleError: if the pickle calls anything but what builds containers, numbers and tensors; the message
            names it. Nothing has been run. Also for an archive that inflates to many times its size.
        ValueError: if the file is no whole torch checkpoint.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_inflation(path, archive)
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise UnsafePickleError(
                    f"{path} is a TorchScript program; `load_torchscript_parameters` reads its parameters."
                )
    elif tarfile.is_tarfile(path):
        raise ValueError(f"{path} is in the tar format of torch before 0.4. Save it again with a current torch.")
    try:
        return torch.load(path, map_location="cpu", pickle_module=_pickle_module, weights_only=False)
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{path} is refused: {error}. Nothing in it was run. If you trust its origin, ask for the weights as "
            "safetensors, or as a plain state dictionary."
        ) from None
    except Exception as error:
        # A damaged pickle can fail in any way, and all of them mean the same to the reader
        raise ValueError(
            f"{path} cannot be read as a torch checkpoint: {type(error).__name__}: {error}. The file is damaged, cut "
            "off or of another format; fetch it again."
        ) from error
