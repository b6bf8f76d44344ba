"""The command `embed`: feature vectors of recordings."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from .inference_options import add_inference_options, load_inference, run_over_files
from .options import CommandError, check_ending


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    embed = commands.add_parser(
        "embed",
        help="turn ECG files into feature vectors",
        description="Run a model's backbone over ECG files and store a vector per record: .npz (arrays `embeddings`, "
        "`paths`, `record_ids`) or .csv.",
    )
    add_inference_options(embed)
    embed.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers embed`."""
    import numpy as np

    from ..files import written_atomically

    if arguments.output:
        check_ending(arguments.output, (".npz", ".csv"))
    elif not arguments.json:
        raise CommandError("Say where the embeddings go: --output embeddings.npz (or .csv), or --json.")
    inference = load_inference(arguments, embeddings=True)
    results, num_failed = run_over_files(arguments, inference)
    if not results:
        raise CommandError("No record could be used; nothing is written.")
    embeddings = np.stack([result.values for result in results])
    if arguments.output and Path(arguments.output).suffix == ".npz":
        with written_atomically(Path(arguments.output), mode="wb") as file:
            np.savez(
                file,
                embeddings=embeddings,
                paths=np.array([result.path for result in results]),
                record_ids=np.array([result.record_id or "" for result in results]),
            )
    elif arguments.output:
        with written_atomically(Path(arguments.output), newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "record_id", *(f"feature_{column}" for column in range(embeddings.shape[1]))])
            for result in results:
                writer.writerow([result.path, result.record_id, *(f"{value:.7g}" for value in result.values)])
    if arguments.output:
        count = f"{len(results)} embedding{'' if len(results) == 1 else 's'}"
        print(f"{count} of {embeddings.shape[1]} values: {arguments.output}", file=sys.stderr)
    if arguments.json:
        for result in results:
            values = [round(float(value), 7) for value in result.values]
            print(json.dumps({"path": result.path, "record_id": result.record_id, "embedding": values}))
    return 1 if num_failed else 0
