"""Make `datasets` know the `ECG` feature, without importing `datasets` for those who do not use it."""

from __future__ import annotations

import importlib
import warnings

from ..post_import import call_after_import


def register_ecg_feature() -> None:
    """Register the `ECG` feature now if `datasets` is imported, otherwise as soon as it is.

    Importing `datasets` costs about a second, so it is not done for its own sake. Calling this twice is harmless.
    """
    call_after_import("datasets", _register_now)


def _register_now() -> None:
    # Importing the module registers the feature; the second time nothing happens. Whoever imports `datasets` for its
    # own sake must not fail because of us.
    try:
        importlib.import_module(".ecg_feature", __package__)
    except Exception as error:
        warnings.warn(f"The ECG feature could not be registered with `datasets`: {error!r}.", stacklevel=2)
