"""Exported models on a CPU: speed, size and outputs of ONNX files and programs against the model in torch.

Every model type is exported as a classifier with random weights, in the width and with the input of the published
model but few layers, or as given. Each row is a form of the same model: records per processor second, the same as a
multiple of the model in torch in float32 (SDPA, with the attention mask, as `predict` runs it), size on disk, and the
probabilities' distance to float32 on synthetic records. Random weights tell nothing of accuracy: measure your own
folders.

    python benchmarks/exported_models.py                               # under three minutes of processor time
    python benchmarks/exported_models.py --layers 12 --models dbeta    # as published
    python benchmarks/exported_models.py --folders outputs/my-model    # your own models
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

import ecg_transformers as et
from ecg_transformers.exporting import export_onnx, export_program
from ecg_transformers.exporting.checking import run_reference
from ecg_transformers.exporting.example_records import join_rows, make_record, rows_of
from ecg_transformers.exporting.loading import load_source
from ecg_transformers.exporting.measuring import measure_on_records
from ecg_transformers.exporting.onnx_tools import onnx_runner, quantize_int8
from ecg_transformers.exporting.program_export import program_runner
from ecg_transformers.registration import MODELS

_CONFIGURATIONS: dict[str, Callable] = {
    "hubert_ecg": lambda layers, **labels: et.HubertECGConfig.from_size("small", num_hidden_layers=layers, **labels),
    "dbeta": lambda layers, **labels: et.DBetaConfig(
        ecg_only=True, ecg_config={"num_hidden_layers": layers}, **labels
    ),
    "deepecg_ssl": lambda layers, **labels: et.DeepECGSSLConfig(num_hidden_layers=layers, **labels),
    # The depth of a convolutional network is part of its variant
    "deepecg_sl": lambda layers, **labels: et.DeepECGSLConfig.from_variant("b0_v2", **labels),
    "hybrid_ecg": lambda layers, **labels: et.HybridECGConfig(num_hidden_layers=layers, **labels),
}


def build_folder(model_type: str, layers: int, folder: Path) -> Path:
    """Save a classifier with random weights and the recipe of its type."""
    torch.manual_seed(0)
    config = _CONFIGURATIONS[model_type](layers, num_labels=9, problem_type="multi_label_classification")
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        # So that the probabilities of records differ
        model.classifier.weight.normal_(std=0.2)
    model.save_pretrained(folder)
    et.ECGFeatureExtractor.for_model_type(model_type).save_pretrained(folder)
    return folder


def compare_speed(
    run: Callable, reference: Callable, inputs: Mapping[str, torch.Tensor], seconds: float
) -> tuple[float, float]:
    """Return the records per second of `run`, and how many times faster than `reference` it is.

    Both take turns, after one call each to warm up. Seconds are those of the processor, so other programs that run
    beside count little; of several threads they add up. The median over the turns is taken.
    """
    spent: dict[Callable, list[float]] = {reference: [], run: []}
    for function in spent:
        function(inputs)
    start = time.process_time()
    while len(spent[run]) < 3 or time.process_time() - start < 2 * seconds:
        for function, times in spent.items():
            before = time.process_time()
            function(inputs)
            times.append(time.process_time() - before)
    fast, slow = statistics.median(spent[run]), statistics.median(spent[reference])
    return len(inputs["input_values"]) / fast, slow / fast


def forms(folder: Path, work: Path) -> Iterator[tuple[str, bytes, Callable]]:
    """Yield the name, content and runner of each form of a model."""
    report = export_onnx(folder, work / "model.onnx", overwrite=True)
    content = report.path.read_bytes()
    yield "ONNX", content, onnx_runner(content)
    content = quantize_int8(content)
    yield "ONNX int8", content, onnx_runner(content)
    for name, dtype in (("program", "float32"), ("program bf16", "bfloat16")):
        report = export_program(folder, work / "model.pt2", dtype=dtype, num_records=1, overwrite=True)
        content = report.path.read_bytes()
        yield name, content, program_runner(content)


def measure(name: str, folder: Path, arguments: argparse.Namespace, work: Path) -> None:
    """Print a row for each form of a model."""
    source = load_source(folder, features=False)
    inputs = join_rows([rows_of(source, make_record(source, 4 * row)) for row in range(arguments.batch_size)])

    def torch_runner(values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return run_reference(source.reference, values)

    size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    print(f"{name:14} {'folder':13} {'':9} {'':7}   {size / 1e6:8.1f} MB", flush=True)
    for form, content, run in forms(folder, work):
        rate, ratio = compare_speed(run, torch_runner, inputs, arguments.seconds)
        found, _ = measure_on_records(source, run, arguments.records, arguments.num_records)
        print(
            f"{name:14} {form:13} {rate:9.1f} {ratio:7.2f} x {len(content) / 1e6:8.1f} MB "
            f"{found.largest:9.1e} {found.mean:9.1e} {100 * found.share_changed:8.2f} %",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    types = [entry.model_type for entry in MODELS]
    parser.add_argument("--models", nargs="+", default=types, choices=types)
    parser.add_argument("--layers", type=int, default=2, help="of the transformers (default: 2)")
    parser.add_argument("--folders", nargs="+", help="model folders instead")
    parser.add_argument("--records", nargs="+", help="ECG files or folders for the difference (default: synthetic)")
    parser.add_argument("--num_records", type=int, default=8, help="synthetic ones (default: 8)")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=0.5, help="least duration of a measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    print(f"batch {arguments.batch_size}, CPU, {arguments.threads} thread(s); differences in probability")
    print(
        f"{'model':14} {'form':13} {'records/s':>9} {'ratio':>9} {'size':>11} {'largest':>9} {'mean':>9} "
        f"{'decisions':>10}"
    )
    with tempfile.TemporaryDirectory() as work:
        if arguments.folders:
            for folder in arguments.folders:
                measure(Path(folder).name, Path(folder), arguments, Path(work))
            return
        for model_type in arguments.models:
            folder = build_folder(model_type, arguments.layers, Path(work, model_type))
            measure(model_type, folder, arguments, Path(work))


if __name__ == "__main__":
    main()
