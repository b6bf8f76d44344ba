"""The command `embed`: feature vectors of recordings."""

from __future__ import annotations

import argparse
from typing import Any

from .inference_options import AT_SCALE, add_inference_options, check_output, load_inference, run_inference
from .options import CommandError


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    embed = commands.add_parser(
        "embed",
        help="turn ECG files into feature vectors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Run a model's backbone over ECG files and store a vector per record.

.npz     arrays embeddings, paths, record_ids
.parquet path, record_id, num_windows, leads_without_signal, embedding (a list of fixed size)
.csv     path, record_id, feature_0, feature_1, ...
.jsonl   an object per record: path, record_id, embedding
"""
        + AT_SCALE,
    )
    add_inference_options(embed)
    embed.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers embed`."""
    if arguments.output:
        check_output(arguments, (".npz", ".csv", ".parquet", ".jsonl"))
    elif not arguments.json:
        raise CommandError("Say where the embeddings go: --output embeddings.npz (or .csv), or --json.")
    from ..result_tables import EmbeddingColumns

    inference = load_inference(arguments, embeddings=True)
    # Without an output there is JSON
    return run_inference(arguments, inference, EmbeddingColumns, print, "embedding")
