"""Make `datasets` know the `ECG` feature, without importing `datasets` for those who do not use it."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HOST = "datasets"


def register_ecg_feature() -> None:
    """Register the `ECG` feature now if `datasets` is imported, otherwise as soon as it is.

    Importing `datasets` costs about a second, so it is not done for its own sake. Calling this twice is harmless.
    """
    if _HOST in sys.modules:
        _register_now()
    elif not any(isinstance(finder, _PostImportFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PostImportFinder())


def _register_now() -> None:
    # Importing the module registers the feature; the second time nothing happens. Whoever imports `datasets` for its
    # own sake must not fail because of us.
    try:
        importlib.import_module(".ecg_feature", __package__)
    except Exception as error:
        warnings.warn(f"The ECG feature could not be registered with `datasets`: {error!r}.", stacklevel=2)


class _PostImportFinder(MetaPathFinder):
    """Waits for the import of `datasets`, lets the ordinary finders do it, and steps aside."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _HOST:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _PostImportLoader(spec.loader, self)
                return spec
        return None


class _PostImportLoader(Loader):
    """Runs the real loader, then registers the feature."""

    def __init__(self, loader: Loader, finder: _PostImportFinder):
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # What is kept in the module afterwards is the real loader, as without us.
        module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register_now()
