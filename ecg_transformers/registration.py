"""The one table of models: what exists, and how transformers and datasets come to know it."""


def register_all() -> None:
    """Register every model of the package with the Auto classes."""
