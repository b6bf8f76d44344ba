"""Functions that run as soon as a module is imported, for what only its users need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def call_after_import(module: str, function: Callable[[], None]) -> None:
    """Call a function now if a module is imported, otherwise as soon as it is.

    Args:
        module (`str`): full name, such as `"datasets"`.
        function (callable): takes nothing. Asking for the same function twice before the import calls it once.
    """
    if module in sys.modules:
        function()
        return
    finder = next((entry for entry in sys.meta_path if isinstance(entry, _PostImportFinder)), None)
    if finder is None:
        finder = _PostImportFinder()
        sys.meta_path.insert(0, finder)
    waiting = finder.waiting.setdefault(module, [])
    if function not in waiting:
        waiting.append(function)


class _PostImportFinder(MetaPathFinder):
    """Waits for the import of modules, lets the ordinary finders do it, and steps aside when all have come."""

    def __init__(self):
        self.waiting: dict[str, list[Callable[[], None]]] = {}

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self.waiting:
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

    def finish(self, module: str) -> None:
        """Call what has waited for a module."""
        functions = self.waiting.pop(module, [])
        if not self.waiting and self in sys.meta_path:
            sys.meta_path.remove(self)
        for function in functions:
            function()


class _PostImportLoader(Loader):
    """Runs the real loader, then what has waited for the module."""

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
        self._finder.finish(module.__name__)
