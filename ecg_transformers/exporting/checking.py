"""Whether an export computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from .source import ExportableModel

# Largest difference of an export in float32: absolute where values are within ±1, as probabilities are, and relative
# to the largest absolute value of that output beyond
TOLERANCE = 1e-4
# In bfloat16 one unit in the last place is 2^-8 of the value; a program may round in another order
BFLOAT16_TOLERANCE = 2.0**-6

# Named arrays in, named arrays out: what a session of ONNX Runtime or a program computes
Runner = Callable[[Mapping[str, torch.Tensor]], Mapping[str, np.ndarray]]


class ExportError(ValueError):
    """A model could not be exported, or its export computes something else; nothing was written."""


@torch.inference_mode()
def run_reference(model: ExportableModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Run a model as torch does."""
    return {name: value.numpy() for name, value in model(**inputs).items()}


def check_export(
    reference: ExportableModel,
    run: Runner,
    batches: Sequence[Mapping[str, torch.Tensor]],
    what: str,
    tolerance: float,
) -> dict[str, float]:
    """Compare an export with the model on batches of several sizes.

    Args:
        reference ([`ExportableModel`]): the model.
        run (callable): the export.
        batches (sequence of mappings): inputs.
        what (`str`): what the export is, for the message.
        tolerance (`float`): largest difference allowed, in units of the larger of 1 and the largest
            absolute value of the output.

    Returns:
        `dict[str, float]`: for each output the largest difference, in these units.

    Raises:
        ExportError: if the export does not run, or its outputs have other shapes or differ by more.
    """
    largest = dict.fromkeys(reference.output_names, 0.0)
    for inputs in batches:
        expected = run_reference(reference, inputs)
        shape = tuple(inputs["input_values"].shape)
        try:
            found = run(inputs)
        except Exception as error:
            # ONNX Runtime and programs have errors of many classes
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"{what} does not run for input_values of shape {shape}, as torch does: {reason}. Nothing was written."
            ) from error
        for name in largest:
            if found[name].shape != expected[name].shape:
                raise ExportError(
                    f"{what} gives {name} of shape {found[name].shape} for input_values of shape {shape}; torch "
                    f"gives {expected[name].shape}. Nothing was written."
                )
            scale = max(1.0, float(np.abs(expected[name]).max()))
            difference = float(np.abs(found[name] - expected[name]).max()) / scale
            # Not "greater": NaN must not pass
            if not difference <= tolerance:
                raise ExportError(
                    f"{what} differs from torch by {difference:.2g} in {name} for input_values of shape {shape}, "
                    f"relative to the larger of 1 and the largest value; allowed is {tolerance:.2g}. Nothing was "
                    "written. Please report this with the versions that `ecg-transformers --version` prints."
                )
            largest[name] = max(largest[name], difference)
    return largest
