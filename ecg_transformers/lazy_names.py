"""Public names that are loaded from their modules on first use, so that importing a package stays cheap."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package whose public names live in its modules.

    Args:
        package (`str`): `__name__` of the package.
        modules (mapping of `str` to `str`): public name -> relative module that defines it, such as `".record"`.

    Example:
        ```python
        __getattr__, __dir__ = lazy_names(__name__, {"ECGRecord": ".record"})
        ```
    """

    def get_attribute(name: str) -> Any:
        if name not in modules:
            known = ", ".join(sorted(modules))
            raise AttributeError(f"module {package!r} has no attribute {name!r}; public names: {known}")
        value = getattr(importlib.import_module(modules[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return get_attribute, list_names
