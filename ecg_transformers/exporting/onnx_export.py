"""Model folders as ONNX files."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..files import written_atomically
from .checking import TOLERANCE, ExportError, check_export, run_reference
from .example_records import make_check_batches
from .loading import check_destination, load_source
from .measuring import measure_on_records
from .metadata import make_metadata
from .onnx_tools import import_onnx, onnx_runner, quantize_int8, strip_traces
from .report import ExportReport
from .source import ExportableModel, ExportSource
from .tracing import free_dimensions, trace

# A protobuf message, which an ONNX file is, holds less than 2 GiB
_LARGEST_FILE = 2**31 - 2**20


def export_onnx(
    folder: str | Path,
    path: str | Path,
    *,
    features: bool = False,
    dynamic_length: bool | None = None,
    int8: bool = False,
    records: Sequence[str | Path] | None = None,
    num_records: int = 32,
    overwrite: bool = False,
) -> ExportReport:
    """Write a model folder as an ONNX file for any number of records, checked against torch.

    The file takes what the feature extractor returns: `input_values` (float32), `attention_mask` (int64) and for
    Hybrid ECG `lead_mask` (int64). It gives `logits` and `probabilities` (of a regression `values`), or `features`.
    Its metadata hold the input recipe, labels and thresholds; see [`read_export_metadata`]. Before it is written it is
    run with ONNX Runtime on batches of 1, 3 and 8 records, padded and without leads among them: no output may differ
    from torch's by more than 1e-4, times the largest absolute value of the output where that is above 1.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        path (`str` or `Path`): file to write, ending in `.onnx`.
        features (`bool`, *optional*, defaults to `False`): `get_ecg_features` of the backbone; the folder needs no
            head. Of D-BETA this is the ECG branch.
        dynamic_length (`bool`, *optional*): records of any length. Default: only if the recipe cuts no windows.
        int8 (`bool`, *optional*, defaults to `False`): quantise matrix products dynamically to 8 bits, after the
            check. What that changes is measured and reported.
        records (sequence of `str` or `Path`, *optional*): ECG files and folders to measure the difference on; with
            `int8` by default `num_records` synthetic ones.
        num_records (`int`, *optional*, defaults to 32): synthetic recordings.
        overwrite (`bool`, *optional*, defaults to `False`): replace an existing file.

    Returns:
        [`ExportReport`]

    Raises:
        ImportError: without the extra `onnx`.
        ExportError: if the model cannot be exported, the result differs, or is larger than the 2 GiB that one ONNX
            file can hold. Nothing is written.
        ValueError: if the folder cannot be exported, see [`load_source`].
        OSError: if the file exists or cannot be written.
    """
    onnx = import_onnx()
    path = check_destination(path, ".onnx", overwrite)
    source = load_source(folder, features, dynamic_length)
    batches = make_check_batches(source)
    module = source.load_for_export()
    size = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    if size > _LARGEST_FILE:
        raise ExportError(
            f"{folder} has {size / 2**30:.1f} GiB of weights and an ONNX file holds less than 2 GiB. Export a "
            "torch.export program instead."
        )
    model = _make_onnx(source, module, batches[1])
    outputs = run_reference(source.reference, batches[1])
    facts = {"opset": model.opset_imports.get("", None), "onnx_version": onnx.__version__}
    metadata = make_metadata(source, batches[1], outputs, dtype="float32", **facts)
    content = _serialized(model, metadata)
    largest = check_export(source.reference, onnx_runner(content), batches, "The ONNX model", TOLERANCE)

    if int8:
        content = quantize_int8(content)
    difference = measured_on = None
    if int8 or records is not None:
        difference, measured_on = measure_on_records(source, onnx_runner(content), records, num_records)
    if int8:
        metadata |= {"dtype": "int8", "difference_to_float32": str(difference)}
        content = _with_metadata(onnx, content, metadata)
    with written_atomically(path, "wb") as file:
        file.write(content)
    runtime = f"ONNX Runtime {version('onnxruntime')}"
    return ExportReport(path, len(content), metadata, largest, TOLERANCE, runtime, difference, measured_on)


def _make_onnx(source: ExportSource, module: ExportableModel, example: dict[str, torch.Tensor]) -> Any:
    program = trace(source, module, example)
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(example),
                output_names=list(module.output_names),
                dynamic_shapes=free_dimensions(source, example),
                optimize=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(
            f"torch {torch.__version__} cannot translate this model into ONNX: {str(error).strip().splitlines()[0]}"
        ) from error
    strip_traces(exported.model)
    return exported.model


def _serialized(model: Any, metadata: dict[str, str]) -> bytes:
    import onnx_ir

    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    return onnx_ir.to_proto(model).SerializeToString()


def _with_metadata(onnx: Any, content: bytes, metadata: dict[str, str]) -> bytes:
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which tells of its progress and of packages that no ECG model needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
