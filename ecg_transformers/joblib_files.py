"""Reading arrays and settings from joblib files without running anything in them."""

from __future__ import annotations

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .restricted_unpickling import AttributeBag, RestrictedUnpickler, UnsafePickleError, _Allowed, _NumberType

# joblib writes an array as an object of this class, then its numbers, between two parts of the pickle.
_ARRAY_CLASS = "joblib.numpy_pickle.NumpyArrayWrapper"


def _stand_in(*_: Any) -> AttributeBag:
    return AttributeBag.__new__(AttributeBag)


# What estimators hold besides numbers: the state of their random numbers.
_IGNORED_CALLS = ("numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__bit_generator_ctor")


class _JoblibUnpickler(pickle._Unpickler):
    """The restricted reading of torch checkpoints, on Python's own unpickler, which arrays can interrupt."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BufferedReader, size: int):
        super().__init__(file)
        self._file, self._size = file, size
        self._names = RestrictedUnpickler(io.BytesIO())

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _IGNORED_CALLS:
            return _Allowed(_stand_in)
        return self._names.find_class(module, name)

    def load_build(self):
        super().load_build()
        built = self.stack[-1]
        if isinstance(built, AttributeBag) and built.qualified_name == _ARRAY_CLASS:
            self.stack[-1] = self._read_array(vars(built))

    dispatch[pickle.BUILD[0]] = load_build

    def _read_array(self, wrapper: dict[str, Any]) -> np.ndarray:
        dtype = _NumberType.resolve(wrapper.get("dtype"))
        shape = wrapper.get("shape")
        if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
            raise UnsafePickleError(f"it holds an array of shape {shape!r}")
        if wrapper.get("numpy_array_alignment_bytes") is not None:
            self._file.read(self._file.read(1)[0])
        wanted = math.prod(shape) * dtype.itemsize
        if wanted > self._size:
            raise ValueError(f"an array of {wanted:,} bytes does not fit into a file of {self._size:,}")
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise ValueError("it ends within an array")
        order = "F" if wrapper.get("order") == "F" else "C"
        return np.frombuffer(data, dtype=dtype).reshape(shape, order=order).copy()


def load_joblib_without_running(path: str | Path) -> Any:
    """Read an uncompressed file written by `joblib.dump`, without running anything that it contains.

    Args:
        path (`str` or `Path`): the file.

    Returns:
        The object saved: arrays of numbers as arrays, objects of unknown classes, estimators among them, as
        `AttributeBag`.

    Raises:
        UnsafePickleError: if the pickle calls anything but what builds containers and numbers; nothing has been run.
        ValueError: if the file is compressed, damaged or no joblib file.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no joblib file {path}.")
    with open(path, "rb") as file:
        if file.read(1) != b"\x80":
            raise ValueError(
                f"{path} is no uncompressed joblib file. Load it where it comes from and save it with "
                "joblib.dump(estimator, path, compress=0)."
            )
        file.seek(0)
        try:
            return _JoblibUnpickler(file, path.stat().st_size).load()
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path} is refused: {error}. Nothing in it was run.") from None
        except Exception as error:
            # A damaged pickle can fail in any way, and all of them mean the same to the reader
            raise ValueError(
                f"{path} cannot be read as a joblib file: {type(error).__name__}: {error}. It is damaged or cut off; "
                "fetch it again."
            ) from error
