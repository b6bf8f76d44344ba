"""Two iterations of HuBERT-ECG on the embedded corpus: what `pretrain_hubert_ecg.py --preset demo` does."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .codebooks import CODEBOOKS_FILE
from .hubert_ecg_arguments import parse_cluster_arguments, parse_hubert_ecg_pretraining_arguments
from .hubert_ecg_clustering import cluster_descriptors
from .hubert_ecg_pretraining import pretrain_hubert_ecg
from .linear_probe_run import parse_probe_arguments, run_probe
from .output_folder import find_checkpoint
from .presets import (
    HUBERT_ECG_DEMO_CODES,
    HUBERT_ECG_DEMO_CORPUS,
    HUBERT_ECG_DEMO_TRAINING,
    HUBERT_ECG_SHORT_TRAINING,
    command_line,
)
from .run_arguments import parse_arguments
from .run_record import RUN_FILE, write_json

PRESET = "demo"
CODES, ITERATIONS, PROBE = ("codes-1", "codes-2"), ("iteration-1", "iteration-2"), "probe"

# With what a folder was begun
START_FILE = "demo.json"


@dataclass
class HubertECGDemoArguments:
    """The demonstration: two iterations on the synthetic corpus."""

    output_dir: str | None = field(
        default=None,
        metadata={
            "aliases": ["--output"],
            "help": "Folder for codes-1, iteration-1, codes-2, iteration-2 and probe. Parts that are there are kept, "
            "so that an interrupted demonstration goes on when the same command is given again. Required.",
        },
    )
    corpus_seed: int = field(default=0, metadata={"help": "Of the corpus: other patients."})
    seed: int = field(default=42, metadata={"help": "Of first centres, weights, masks and order."})
    short: bool = field(
        default=False, metadata={"help": "A few patients and steps, to see whether everything works; learns nothing."}
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Start over where the folder holds parts."})
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output is required: the folder for codebooks, models and figures.")
        for name in ("corpus_seed", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must be 0 or more; got {getattr(self, name)}.")


def parse_hubert_ecg_demo_arguments(arguments: Sequence[str] | None = None) -> tuple[HubertECGDemoArguments]:
    """Read the arguments of `pretrain_hubert_ecg.py --preset demo`; see `parse_arguments`."""
    return parse_arguments(
        (HubertECGDemoArguments,),
        arguments,
        "Pretrain a small HuBERT-ECG in two iterations on the synthetic corpus, without labels, in minutes on a CPU, "
        "and say what its features are worth. The commands are shown before they run; take them as a pattern for a "
        "corpus of your own.",
        usage=f"%(prog)s --preset {PRESET} --output FOLDER [options]",
    )


def hubert_ecg_demo_commands(arguments: HubertECGDemoArguments) -> list[tuple[str, Path, dict[str, Any]]]:
    """Return the four steps of the demonstration.

    Returns:
        `list` of command (`"cluster"` or `"train"`), folder that it fills, and settings by argument.
    """
    folder = Path(arguments.output_dir)
    corpus = _corpus(arguments)
    short = HUBERT_ECG_SHORT_TRAINING if arguments.short else {}
    steps: list[tuple[str, Path, dict[str, Any]]] = []
    for place, (codes, iteration) in enumerate(zip(CODES, ITERATIONS, strict=True)):
        before = folder / ITERATIONS[0]
        clustering = {**corpus, **HUBERT_ECG_DEMO_CODES[place], "seed": arguments.seed, "output": folder / codes}
        training = {**corpus, "codebooks": folder / codes, **HUBERT_ECG_DEMO_TRAINING[place]}
        training |= {**short, "seed": arguments.seed}
        if place:
            clustering["descriptors"] = before
            training["init"] = before
        steps.append(("cluster", folder / codes, clustering))
        steps.append(("train", folder / iteration, {**training, "output": folder / iteration}))
    return steps


def run_hubert_ecg_demo(arguments: HubertECGDemoArguments) -> dict[str, Any]:
    """Run the four steps, those that are done excepted, and probe both iterations beside untrained encoders.

    Args:
        arguments (`HubertECGDemoArguments`): folder and seeds.

    Returns:
        `dict`: see `LinearProbe.report`; the encoders are `iteration-1` and `iteration-2`.

    Raises:
        ValueError: if the folder holds parts of something else.
        TrainingInterrupted: if SIGTERM or Ctrl-C ended training; the same command goes on.
    """
    runs: Mapping[str, tuple[Callable[..., Any], Callable[..., tuple], str]] = {
        "cluster": (cluster_descriptors, parse_cluster_arguments, CODEBOOKS_FILE),
        "train": (pretrain_hubert_ecg, parse_hubert_ecg_pretraining_arguments, RUN_FILE),
    }
    _check_folder(arguments)
    done_before = not arguments.overwrite_output_dir
    for command, folder, settings in hubert_ecg_demo_commands(arguments):
        run, parse, last_file = runs[command]
        if done_before and (folder / last_file).exists():
            print(f"{folder} is there and kept.", flush=True)
            continue
        # What follows rests on this part, so it is made anew too
        resumed = done_before and command == "train" and find_checkpoint(folder) is not None
        done_before = False
        _show(command, settings)
        extra = {"resume_from_checkpoint": "last"} if resumed else {"overwrite_output_dir": True}
        if command == "train":
            extra["disable_tqdm"] = arguments.disable_tqdm
        run(*parse(command_line({**settings, **extra})))
    settings = {
        "model": [Path(arguments.output_dir) / name for name in ITERATIONS],
        **_corpus(arguments),
        "output_dir": Path(arguments.output_dir) / PROBE,
    }
    _show("linear_probe.py", settings)
    extra = {"overwrite_output_dir": True, "disable_tqdm": arguments.disable_tqdm}
    return run_probe(*parse_probe_arguments(command_line({**settings, **extra})))


def _check_folder(arguments: HubertECGDemoArguments) -> None:
    """Make sure that the parts in the folder are those of this demonstration, and note whose those to come are."""
    folder = Path(arguments.output_dir)
    begun = {"corpus_seed": arguments.corpus_seed, "seed": arguments.seed, "short": arguments.short}
    if not arguments.overwrite_output_dir:
        try:
            found = json.loads((folder / START_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            found = None
        parts = [name for name in (*CODES, *ITERATIONS) if (folder / name).exists()]
        if parts and found != begun:
            raise ValueError(
                f"{folder} holds {', '.join(parts)} of "
                f"{'something else' if found is None else f'the demonstration with {found}, not {begun}'}. Choose "
                "another --output, or start over with --overwrite_output_dir true."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / START_FILE, begun)


def _corpus(arguments: HubertECGDemoArguments) -> dict[str, Any]:
    options = [*HUBERT_ECG_DEMO_CORPUS["corpus_options"], f"seed={arguments.corpus_seed}"]
    if arguments.short:
        options[0] = "num_patients=50"
    return {**HUBERT_ECG_DEMO_CORPUS, "corpus_options": options}


def _show(command: str, settings: Mapping[str, Any]) -> None:
    """Print a command as it is typed."""
    script = command if command.endswith(".py") else f"{Path(sys.argv[0]).name} {command}"
    print(f"\n$ python training_scripts/{script} {shlex.join(command_line(settings))}", flush=True)
