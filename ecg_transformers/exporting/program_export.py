"""Model folders as programs of `torch.export`."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..files import written_atomically
from .checking import BFLOAT16_TOLERANCE, TOLERANCE, Runner, check_export, run_reference
from .example_records import make_check_batches
from .loading import check_destination, load_source
from .measuring import measure_on_records
from .metadata import PROGRAM_METADATA, make_metadata
from .report import ExportReport
from .tracing import trace

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export_program(
    folder: str | Path,
    path: str | Path,
    *,
    features: bool = False,
    dynamic_length: bool | None = None,
    dtype: str = "float32",
    records: Sequence[str | Path] | None = None,
    num_records: int = 32,
    overwrite: bool = False,
) -> ExportReport:
    """Write a model folder as a program of `torch.export`, which opens without this package or transformers.

    Inputs, outputs and their check are those of [`export_onnx`]; in bfloat16 the program is compared with the model in
    bfloat16, and the difference to float32 is measured. The metadata are the extra file `metadata.json`.

    Args:
        folder (`str` or `Path`): a model folder or Hub id.
        path (`str` or `Path`): file to write, ending in `.pt2`.
        features (`bool`, *optional*, defaults to `False`): `get_ecg_features` of the backbone.
        dynamic_length (`bool`, *optional*): records of any length. Default: only if the recipe cuts no windows.
        dtype (`str`, *optional*, defaults to `"float32"`): `"float32"` or `"bfloat16"`, of weights and arithmetic;
            inputs and outputs are float32.
        records (sequence of `str` or `Path`, *optional*): ECG files and folders to measure the difference on; in
            bfloat16 by default `num_records` synthetic ones.
        num_records (`int`, *optional*, defaults to 32): synthetic recordings.
        overwrite (`bool`, *optional*, defaults to `False`): replace an existing file.

    Returns:
        [`ExportReport`]

    Raises:
        ExportError: if the model cannot be exported or the result differs. Nothing is written.
        ValueError: if the folder cannot be exported, see [`load_source`], or the dtype is unknown.
        OSError: if the file exists or cannot be written.

    Example:
        ```python
        program = torch.export.load("model.pt2").module()
        probabilities = program(input_values=values, attention_mask=mask)["probabilities"]
        ```
    """
    if dtype not in _DTYPES:
        raise ValueError(f"`dtype` is one of {', '.join(_DTYPES)}; got {dtype!r}.")
    path = check_destination(path, ".pt2", overwrite)
    source = load_source(folder, features, dynamic_length)
    batches = make_check_batches(source)
    module = source.load_for_export(_DTYPES[dtype])
    program = trace(source, module, batches[1])
    metadata = make_metadata(source, batches[1], run_reference(source.reference, batches[1]), dtype=dtype)
    exact = dtype == "float32"
    tolerance = TOLERANCE if exact else BFLOAT16_TOLERANCE
    run = program_runner(_saved(program, metadata))
    largest = check_export(source.reference if exact else module, run, batches, "The program", tolerance)
    difference = measured_on = None
    if not exact or records is not None:
        difference, measured_on = measure_on_records(source, run, records, num_records)
    if not exact:
        metadata["difference_to_float32"] = str(difference)
    content = _saved(program, metadata)
    with written_atomically(path, "wb") as file:
        file.write(content)
    checked_with = f"torch {torch.__version__}"
    return ExportReport(path, len(content), metadata, largest, tolerance, checked_with, difference, measured_on)


def _saved(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    extra = {PROGRAM_METADATA: json.dumps(metadata, ensure_ascii=False)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def program_runner(content: bytes) -> Runner:
    """Return a function that runs a saved program.

    Args:
        content (`bytes`): the file.
    """
    module = torch.export.load(io.BytesIO(content)).module()

    @torch.inference_mode()
    def run(inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in module(**inputs).items()}

    return run
