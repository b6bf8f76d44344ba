"""The command `demo`: the whole way on an embedded corpus."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add the command to those of `ecg-transformers`."""
    demo = commands.add_parser(
        "demo",
        help="the whole way on an embedded corpus, in a few minutes on a CPU",
        description="Build the synthetic corpus, train a small HuBERT-ECG, evaluate it on held-out patients, write "
        "the model folder with its card, load it in a new process, predict one record and draw it.",
    )
    demo.add_argument("--output_dir", default="outputs/demo", help="(default: outputs/demo)")
    demo.add_argument("--short", action="store_true", help="a few steps only: checks the way, learns little")
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers demo`."""
    from ..demo import run as run_demo
    from ..training import TrainingInterrupted

    try:
        return run_demo(Path(arguments.output_dir), short=arguments.short)
    except TrainingInterrupted:
        print("interrupted; run the command again to start over", file=sys.stderr)
        return 130
