"""The command line of `pretrain_hubert_ecg.py`: `cluster`, `train`, and the demonstration of both."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .hubert_ecg_arguments import COMMANDS, parse_cluster_arguments, parse_hubert_ecg_pretraining_arguments
from .hubert_ecg_clustering import cluster_descriptors
from .hubert_ecg_demo import PRESET, parse_hubert_ecg_demo_arguments, run_hubert_ecg_demo
from .hubert_ecg_pretraining import pretrain_hubert_ecg
from .run_control import run_script


def run_hubert_ecg_command(arguments: Sequence[str] | None = None) -> int:
    """Run `cluster`, `train` or `--preset demo` from the command line; see `run_script`.

    Args:
        arguments (sequence of `str`, *optional*): the command line without the program's name; `sys.argv` by default.

    Returns:
        `int`: the exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, tuple[Callable[..., Any], Callable[..., tuple]]] = {
        "cluster": (cluster_descriptors, parse_cluster_arguments),
        "train": (pretrain_hubert_ecg, parse_hubert_ecg_pretraining_arguments),
    }
    if arguments and arguments[0] in commands:
        run, parse = commands[arguments[0]]
        said = "interrupted: nothing was written" if arguments[0] == "cluster" else None
        return run_script(run, lambda: parse(arguments[1:]), **({"interrupted": said} if said else {}))
    preset, rest = _take_preset(arguments)
    if preset == PRESET:
        return run_script(
            run_hubert_ecg_demo, lambda: parse_hubert_ecg_demo_arguments(rest), "interrupted: the same command goes on"
        )
    program = Path(sys.argv[0]).name
    text = (
        f"usage: {program} {{{','.join(COMMANDS)}}} ...\n"
        f"       {program} --preset {PRESET} --output FOLDER\n\n"
        "  cluster  turn descriptors of a corpus into codebooks, the targets of pretraining\n"
        "  train    pretrain HuBERT-ECG to find the codes of hidden tokens\n\n"
        "A first iteration clusters descriptors of shards, a later one hidden states of the model before it. The\n"
        f"preset {PRESET} does both twice on the synthetic corpus, in minutes, and shows the commands. Each command\n"
        f"explains itself: {program} cluster --help"
    )
    if arguments and arguments[0] in ("-h", "--help"):
        print(text)
        return 0
    if preset is not None:
        said = f"--preset {preset}: there is {PRESET}"
    else:
        said = f"{arguments[0]!r} is no command" if arguments else "no command was given"
    print(f"{text}\n\nerror: {said}; the first argument is one of {', '.join(COMMANDS)}.", file=sys.stderr)
    return 2


def _take_preset(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the value of `--preset`, and the other arguments."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", const="")
    known, rest = parser.parse_known_args(arguments)
    return known.preset, rest
