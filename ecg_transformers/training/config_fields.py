"""Fields of configurations by name, those of their parts too: `"ecg_config.hidden_dropout"`."""

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig


def _owner(config: PreTrainedConfig, name: str) -> tuple[Any, str]:
    """Return the configuration that holds a field, `None` if there is no such part, and the field's own name."""
    *parts, field = name.split(".")
    for part in parts:
        config = getattr(config, part, None)
        if not isinstance(config, PreTrainedConfig):
            return None, field
    return config, field


def has_field(config: PreTrainedConfig, name: str) -> bool:
    """Tell whether a configuration has a field.

    Args:
        config (`PreTrainedConfig`): with or without parts.
        name (`str`): the field; of a part, with the part's name and a dot before it.
    """
    owner, field = _owner(config, name)
    return owner is not None and hasattr(owner, field)


def get_field(config: PreTrainedConfig, name: str, default: Any = None) -> Any:
    """Return the value of a field, or the default if there is none."""
    owner, field = _owner(config, name)
    return default if owner is None else getattr(owner, field, default)


def set_field(config: PreTrainedConfig, name: str, value: Any) -> None:
    """Set a field.

    Raises:
        ValueError: if there is no such field, or the value does not fit it.
    """
    owner, field = _owner(config, name)
    if owner is None or not hasattr(owner, field):
        raise ValueError(f"{type(config).__name__} has no field {name!r}.")
    if isinstance(getattr(owner, field), PreTrainedConfig):
        raise ValueError(f"{name!r} is a part of {type(config).__name__}; name one of its fields, as {name}.<field>.")
    try:
        setattr(owner, field, value)
    except (AttributeError, TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"{name}={value!r} does not fit {type(owner).__name__}: {error}") from error


def check_fields(config: PreTrainedConfig) -> None:
    """Let a configuration and its parts check that their fields fit together.

    Raises:
        ValueError: if they do not.
    """
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    for part in (*parts, config):
        if hasattr(part, "validate_architecture"):
            part.validate_architecture()
