"""The command `info`: what files, model folders and folders of codebooks contain."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from .messages import Sample, in_options, tell_left_out
from .options import add_file_options, read_options


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    info = commands.add_parser(
        "info",
        help="tell what ECG files, a model folder or codebooks contain",
        description="Tell what ECG files contain (leads, rate, length, amplitudes, patient, labels), what is in a "
        "Parquet file of recordings, what a model folder or an exported model is (type, size, labels, input "
        "recipe), or a folder of codebooks.",
    )
    info.add_argument(
        "inputs",
        nargs="+",
        help="ECG files, folders of them, model folders, exported models (.onnx, .pt2), or folders of codebooks",
    )
    info.add_argument("--json", action="store_true", help="print JSON, one object per input")
    add_file_options(info)
    info.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers info`."""
    from ..information import describe_codebooks, describe_model, describe_parquet, describe_record, format_description
    from ..input_listing import list_ecg_files
    from ..readers import ECGReadError, read_ecg

    failed = 0
    for entry in arguments.inputs:
        if (Path(entry) / "config.json").is_file():
            descriptions = [describe_model(entry)]
        elif (Path(entry) / "codebooks.json").is_file():
            descriptions = [describe_codebooks(entry)]
        elif Path(entry).suffix in (".onnx", ".pt2") and Path(entry).is_file():
            from ..exporting import describe_export

            descriptions = [describe_export(entry)]
        elif Path(entry).suffix == ".parquet" and Path(entry).is_file():
            descriptions = [describe_parquet(entry)]
        else:
            descriptions = []
            for path in list_ecg_files([entry], _tell_left_out):
                try:
                    descriptions.append(describe_record(read_ecg(path, **read_options(arguments)), path))
                except ECGReadError as error:
                    failed += 1
                    print(f"not readable: {in_options(str(error), arguments.option_names)}", file=sys.stderr)
        for description in descriptions:
            print(json.dumps(description) if arguments.json else format_description(description))
    return 1 if failed else 0


def _tell_left_out(folder: Path, others: list[Path]) -> None:
    tell_left_out(folder, Sample(os.path.relpath(path, folder) for path in others))
