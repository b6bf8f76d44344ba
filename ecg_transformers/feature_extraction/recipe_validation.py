"""Checks of a recipe before it meets a signal: names, values and order of its steps."""

import inspect
import math
from typing import Any

from .signal_steps import SIGNAL_STEPS

# parameter -> what its value must be; the same in every step that has it
_POSITIVE = "a positive finite number"
_EXPECTED = {
    "sampling_rate": _POSITIVE,
    "seconds": _POSITIVE,
    "high": _POSITIVE,
    "low": "a finite number of at least 0",
    "epsilon": "a finite number of at least 0",
    "factor": _POSITIVE,
    "millivolts_per_count": _POSITIVE,
    "num_samples": _POSITIVE,
    "order": _POSITIVE,
    "window_hz": _POSITIVE,
    "deviations": _POSITIVE,
    "harmonic_factor": _POSITIVE,
    "min_frequency": "a finite number of at least 0",
    "join_hz": "a finite number of at least 0",
    "widen_hz": "a finite number of at least 0",
}
# Steps that stand at most once in a recipe
_ONCE = ("crop", "concatenate_leads")
# Steps that take leads laid end to end
_AFTER_CONCATENATION = ("decimate",)


def validate_recipe(recipe: list[dict]) -> None:
    """Check that every step of a recipe exists, takes the parameters that it is given, and stands where it can.

    Raises:
        ValueError: naming the step, what is wrong with it, and what it takes.
    """
    if not isinstance(recipe, list | tuple) or not recipe:
        raise ValueError(f"A recipe is a list with at least one step such as {{'step': 'crop', ...}}; got {recipe!r}.")
    for position, entry in enumerate(recipe):
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), str) or entry["step"] not in SIGNAL_STEPS:
            raise ValueError(
                f"Step {position} of the recipe is {entry!r}; expected a dictionary whose 'step' is one of "
                f"{', '.join(sorted(SIGNAL_STEPS))}."
            )
        _check_parameters(position, entry)
    _check_order([entry["step"] for entry in recipe])
    _check_bands(recipe)


def _check_parameters(position: int, entry: dict[str, Any]) -> None:
    accepted = list(inspect.signature(SIGNAL_STEPS[entry["step"]]).parameters.values())[1:]
    names = {parameter.name for parameter in accepted}
    required = {parameter.name for parameter in accepted if parameter.default is inspect.Parameter.empty}
    given = set(entry) - {"step"}
    if given - names or required - given:
        raise ValueError(
            f"Step {position} of the recipe, {entry['step']!r}, takes {sorted(names)} (required: "
            f"{sorted(required)}); got {sorted(given)}."
        )
    for name in given & set(_EXPECTED):
        value, expected = entry[name], _EXPECTED[name]
        if entry["step"] == "decimate":
            expected = "a positive whole number"
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and expected.startswith("a positive")):
            raise ValueError(f"`{name}` of step {position}, {entry['step']!r}, must be {expected}; got {value!r}.")
        if entry["step"] == "decimate" and value != int(value):
            raise ValueError(f"`{name}` of step {position}, {entry['step']!r}, must be {expected}; got {value!r}.")


def _check_order(steps: list[str]) -> None:
    for name in _ONCE:
        if steps.count(name) > 1:
            raise ValueError(f"A recipe has one {name!r} step at most; this one has {steps.count(name)}: {steps}.")
    if "crop" in steps and "resample" in steps[steps.index("crop") :]:
        raise ValueError(
            f"The recipe crops before it resamples: {steps}. Put 'crop' behind the last 'resample', so that windows "
            "have one number of samples whatever the rate of a recording."
        )
    if "concatenate_leads" in steps:
        behind = steps[steps.index("concatenate_leads") + 1 :]
        wrong = [name for name in behind if name not in _AFTER_CONCATENATION]
        if wrong:
            raise ValueError(
                f"{wrong} cannot follow 'concatenate_leads', which leaves one row without leads; put them before it: "
                f"{steps}."
            )


def _check_bands(recipe: list[dict]) -> None:
    rate = None
    for position, entry in enumerate(recipe):
        if entry["step"] == "resample":
            rate = entry["sampling_rate"]
        elif entry["step"] == "decimate" and rate is not None:
            rate /= entry["factor"]
        if "low" in entry and "high" in entry and entry["low"] >= entry["high"]:
            raise ValueError(
                f"`low` of step {position}, {entry['step']!r}, must be below `high`; got {entry['low']!r} and "
                f"{entry['high']!r}."
            )
        if rate is not None and entry.get("high", 0) >= rate / 2:
            raise ValueError(
                f"`high` of step {position}, {entry['step']!r}, must be below {rate / 2:g} Hz, half the rate at that "
                f"step; got {entry['high']!r}."
            )
