"""The command `export`: ONNX files and `torch.export` programs of model folders."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .options import CommandError

DESCRIPTION = """Write a model folder as an ONNX file, as a torch.export program, or both. They run without
this package: feed them what its feature extractor, or your own implementation of the
recipe stored in the file, makes of recordings.

inputs: input_values (float32), attention_mask (int64: 1 real sample, 0 padding) and, for
Hybrid ECG, lead_mask (int64: 1 where a lead carries signal). Any number of records. The
length is that of the recipe's window; with --dynamic_length, or where the recipe cuts no
windows, any.
outputs: logits and probabilities (sigmoid, or softmax of single-label models; values of a
regression), or with --features what embed gives. Of D-BETA the ECG branch is exported;
zero-shot classification with texts is not.

Each export is run before it is written, on batches of 1, 3 and 8 records with padding
and absent leads. It must agree with torch to 1e-4 (absolute for values within 1, else
relative to the largest); if it does not, nothing is written.

metadata (ONNX: metadata_props; program: the extra file metadata.json): the whole
preprocessor_config.json, labels, thresholds, licence, versions. Show them with
"ecg-transformers info FILE".

examples:
  ecg-transformers export my-model --onnx model.onnx
  ecg-transformers export my-model --onnx model-int8.onnx --int8 --records exports/
  ecg-transformers export my-model --program model.pt2 --dtype bfloat16
  ecg-transformers export hubert-ecg-base --onnx features.onnx --features
"""


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    export = commands.add_parser(
        "export",
        help="write a model as ONNX or torch.export program",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    export.add_argument("folder", help="folder or Hub id of the model")
    export.add_argument("--onnx", metavar="FILE", help="ONNX file to write (.onnx); needs the extra onnx")
    export.add_argument("--program", metavar="FILE", help="torch.export program to write (.pt2)")
    export.add_argument("--features", action="store_true", help="the backbone's features instead of a head's outputs")
    export.add_argument("--dynamic_length", action="store_true", help="records of any length, not only of the window")
    export.add_argument(
        "--int8",
        action="store_true",
        help="with --onnx: quantise matrix products dynamically to 8 bits, for CPUs; the difference is measured",
    )
    export.add_argument(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the --program (default: float32); of bfloat16 the difference is measured",
    )
    export.add_argument(
        "--records",
        nargs="+",
        metavar="PATH",
        help="ECG files or folders on which the difference to float32 is measured (default: synthetic records, where "
        "--int8 or --dtype bfloat16 makes one)",
    )
    export.add_argument("--overwrite", action="store_true", help="replace existing files")
    export.add_argument("--json", action="store_true", help="print JSON, one object per file")
    export.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers export`."""
    from ..exporting import export_onnx, export_program

    if not (arguments.onnx or arguments.program):
        raise CommandError("Say what to write: --onnx FILE, --program FILE, or both.")
    if arguments.int8 and not arguments.onnx:
        raise CommandError("--int8 is for --onnx FILE. A program gets smaller and faster by --dtype bfloat16.")
    if arguments.dtype != "float32" and not arguments.program:
        raise CommandError(
            f"--dtype {arguments.dtype} is for --program FILE: ONNX Runtime computes little in it on CPUs. For --onnx "
            "there is --int8."
        )
    shared = {
        "features": arguments.features,
        "dynamic_length": arguments.dynamic_length or None,
        "records": arguments.records,
        "overwrite": arguments.overwrite,
    }
    if arguments.onnx:
        _print_report(export_onnx(arguments.folder, arguments.onnx, int8=arguments.int8, **shared), arguments.json)
    if arguments.program:
        _print_report(
            export_program(arguments.folder, arguments.program, dtype=arguments.dtype, **shared), arguments.json
        )
    return 0


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        told = {"path": str(report.path), "size": report.size, "largest_difference": report.largest}
        if report.difference is not None:
            told |= {"difference": vars(report.difference), "measured_on": report.measured_on}
        print(json.dumps(told | {"metadata": report.metadata}))
        return
    print(f"{report.path}  {report.size:,} bytes")
    for kind in ("inputs", "outputs"):
        parts = []
        for name, described in json.loads(report.metadata[kind]).items():
            parts.append(f"{name} ({', '.join(map(str, described['shape']))}) {described['dtype']}")
        print(f"  {kind:<8} {', '.join(parts)}")
    found = ", ".join(f"{value:.1e} ({name})" for name, value in report.largest.items())
    print(f"  checked  with {report.checked_with}: largest difference {found}; allowed {report.tolerance:.0e}")
    if report.difference is not None:
        print(f"  {report.metadata['dtype']:<8} against float32 on {report.measured_on}: {report.difference}")
