"""The command `convert`: model folders from original checkpoints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..registration import MODELS

DESCRIPTION = """Convert an original checkpoint into a folder that the Auto classes of transformers open:
config.json, model.safetensors, preprocessor_config.json, and the tokenizer's files where
the model takes texts. No code stored in the checkpoint is run, nothing is downloaded
unless --tokenizer names a Hub id, and weights that do not fit exactly are an error.

sources:
  a .pt, .pth or .ckpt file that holds its configuration (HuBERT-ECG, DeepECG-SSL, ECG-FM)
  a TorchScript file or a state dict (DeepECG-SL; sizes are read off the weights)
  a folder with a fine-tuned .pt and the base_ssl.pt that it was trained from
    (DeepECG-SSL)
  a .pt file with its config.json beside it, or the folder of both (D-BETA; a
    t5_config.json beside them describes a text encoder other than flan-t5-base)
  a folder as on the Hub: config.json and model.safetensors or pytorch_model.bin
  a model folder of this package: labels, thresholds and recipe are kept

examples:
  ecg-transformers convert hubert_ecg_small.pt hubert-ecg-small
  ecg-transformers convert efficientnetv2_77.pt deepecg-sl-77
  ecg-transformers convert wcr_77_classes/ deepecg-ssl-77
  ecg-transformers convert dbeta-original/ dbeta --tokenizer google/flan-t5-base
  ecg-transformers convert finetuned.pt my-model --label_names labels.txt
"""


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    convert = commands.add_parser(
        "convert",
        help="bring an original checkpoint into a model folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    convert.add_argument("source", help="original file or folder")
    convert.add_argument("destination", help="folder to write")
    convert.add_argument(
        "--model_type",
        help=f"{', '.join(entry.model_type for entry in MODELS)} (default: found out from the weights)",
    )
    convert.add_argument("--label_names", help="text file with one label per line, in the order of the outputs")
    convert.add_argument(
        "--recipe",
        help="input recipe, if not that in the source folder or the model type's first, e.g. hubert_ecg_filter_first",
    )
    convert.add_argument(
        "--tokenizer",
        help="for models that take texts (D-BETA): folder or Hub id of the tokenizer, e.g. google/flan-t5-base "
        "(default: that in the source folder; without one the model is written and a note says what is missing)",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the model in an existing destination")
    convert.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers convert`."""
    from transformers.utils import logging

    from ..conversion import convert_checkpoint

    notes: list[str] = []
    progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        folder = convert_checkpoint(
            arguments.source,
            arguments.destination,
            model_type=arguments.model_type,
            overwrite=arguments.overwrite,
            label_names=arguments.label_names,
            recipe=arguments.recipe,
            tokenizer=arguments.tokenizer,
            on_note=notes.append,
        )
    finally:
        if progress:
            logging.enable_progress_bar()
    print(folder)
    for path in sorted(Path(folder).iterdir()):
        print(f"  {path.name}  {path.stat().st_size:,} bytes")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return 0
