"""What `predict` and `embed` share: files through a model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .messages import in_options, tell_leads_without_signal, tell_left_out
from .options import CommandError, add_file_options, read_options

if TYPE_CHECKING:
    from ..inference import ECGInference, InferenceResult


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add inputs, model, output and how to run it."""
    parser.add_argument("inputs", nargs="+", help="ECG files, or folders of them (searched with their subfolders)")
    parser.add_argument("--model", required=True, help="folder or Hub id of the model")
    parser.add_argument("--output", "-o", help="file to write (by its ending); without it a table on the screen")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per record, instead of a table")
    parser.add_argument("--batch_size", type=int, default=32, help="windows per forward pass (default: 32)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--windows",
        choices=["all", "first"],
        help="recordings longer than the model's window: all windows, combined, or the first one (default: as the "
        "model's thresholds were chosen, else all)",
    )
    add_file_options(parser)


def load_inference(arguments: argparse.Namespace, embeddings: bool) -> ECGInference:
    """Load the model that the options name.

    Raises:
        ValueError: if model, device and choices do not fit together.
    """
    from ..inference import ECGInference

    if arguments.batch_size < 1:
        raise CommandError(f"--batch_size must be at least 1; got {arguments.batch_size}.")
    if not embeddings:
        _check_choices(arguments)
    return ECGInference.from_pretrained(
        arguments.model,
        embeddings=embeddings,
        device=arguments.device,
        windows=arguments.windows,
        aggregation=None if embeddings else arguments.aggregation,
        thresholds=None if embeddings else arguments.thresholds,
        batch_size=arguments.batch_size,
        read_options=read_options(arguments),
    )


def _check_choices(arguments: argparse.Namespace) -> None:
    """Refuse what a model folder's config.json does not allow before its weights are loaded."""
    from types import SimpleNamespace

    from transformers import AutoConfig

    from ..inference import ECGInference

    if not (Path(arguments.model) / "config.json").is_file():
        return
    config = AutoConfig.from_pretrained(arguments.model)
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        described = ECGInference(SimpleNamespace(config=config), None, thresholds=arguments.thresholds)
        if arguments.groups:
            _ = described.label_groups


def run_over_files(arguments: argparse.Namespace, inference: ECGInference) -> tuple[list[InferenceResult], int]:
    """Run all files; files that cannot be used are told and counted."""
    from tqdm import tqdm

    from ..inference import list_ecg_files

    files = list_ecg_files(arguments.inputs, tell_left_out)
    results = list(tqdm(inference.over_files(files), total=len(files), unit="record", disable=len(files) < 2))
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"not used: {in_options(result.error, arguments.option_names)}", file=sys.stderr)
    used = [result for result in results if not result.error]
    tell_leads_without_signal(used)
    return used, len(failed)
