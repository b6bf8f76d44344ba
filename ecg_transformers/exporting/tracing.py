"""Models as graphs of tensor operations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from .checking import ExportError
from .source import ExportableModel, ExportSource


def free_dimensions(source: ExportSource, example: Mapping[str, torch.Tensor]) -> dict[str, dict[int, str]]:
    """Return which dimensions of each input an export leaves free: axis -> `"batch"` or `"samples"`."""
    free: dict[str, dict[int, str]] = {name: {0: "batch"} for name in example}
    if source.dynamic_length:
        for name in ("input_values", "attention_mask"):
            free[name][example[name].ndim - 1] = "samples"
    return free


def trace(
    source: ExportSource, module: ExportableModel, example: Mapping[str, torch.Tensor]
) -> torch.export.ExportedProgram:
    """Trace a model on an example; its free dimensions are those of `free_dimensions`.

    Raises:
        ExportError: if torch cannot.
    """
    # Of the samples torch finds out itself how many a model needs
    kinds = {"batch": torch.export.Dim("batch", min=1), "samples": torch.export.Dim.DYNAMIC}
    free = free_dimensions(source, example)
    shapes = {name: {axis: kinds[kind] for axis, kind in axes.items()} for name, axes in free.items()}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, args=(), kwargs=dict(example), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(
            f"torch {torch.__version__} cannot trace this model: {str(error).strip().splitlines()[0]}"
        ) from error
    for part in program.graph_module.modules():
        for node in getattr(part, "graph", torch.fx.Graph()).nodes:
            # With paths of this machine
            node.meta.pop("stack_trace", None)
    return program
