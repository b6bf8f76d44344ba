"""The packages of the extra `onnx`, and what is done with them to a finished graph."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .checking import Runner

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def import_onnx() -> ModuleType:
    """Return the package `onnx`, having made sure that the other two are there.

    Raises:
        ImportError: naming the extra.
    """
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"ONNX files need {', '.join(_PACKAGES)}, of which {name} cannot be imported ({error}): "
                "pip install 'ecg-transformers[onnx]'. A torch.export program needs none of them."
            ) from error
    return importlib.import_module("onnx")


def strip_traces(model: Any) -> None:
    """Remove from a graph what the exporter notes of its making: stack traces with paths of this machine.

    Args:
        model (`onnx_ir.Model`): changed in place.
    """
    model.graph.metadata_props.clear()
    for function in [model.graph, *model.functions.values()]:
        for node in function.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


def onnx_runner(content: bytes) -> Runner:
    """Return a function that runs an ONNX model on one thread of the CPU for every thread that torch uses.

    Args:
        content (`bytes`): the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Warnings of the optimizer, which are of no use to users
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(names, found, strict=True))

    return run


def quantize_int8(content: bytes) -> bytes:
    """Return an ONNX model whose matrix products are computed in 8 bits.

    Weights are quantised per column, activations when they are computed. Convolutions stay in float32: ONNX Runtime
    has no fast ones of this kind.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(content)
    # Of weights that the quantiser transposes it keeps the old shape
    del model.graph.value_info[:]
    logger = logging.getLogger()
    level = logger.level
    # It advises steps that the exporter has done already
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
            before.write_bytes(model.SerializeToString())
            quantize_dynamic(
                before, after, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
            )
            return after.read_bytes()
    finally:
        logger.setLevel(level)
