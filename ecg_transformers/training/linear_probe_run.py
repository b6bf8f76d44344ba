"""A linear probe from arguments to a table: what `training_scripts/linear_probe.py` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..inference import ECGInference
from .arguments import DataArguments
from .linear_probe import DROP_IN, LinearProbe, ProbeSettings, check_dropped_leads
from .linear_probe_report import format_probe
from .run_arguments import parse_arguments
from .run_control import Clock
from .run_record import METRICS_FILE, describe_arguments, describe_environment, write_json
from .task import load_task


@dataclass
class ProbeCorpusArguments(DataArguments):
    """Which recordings and which labels."""

    # A classifier on fixed features sees no random windows, and its penalty is not weighted.
    train_windows: str = field(default="first", init=False)
    pos_weight: str = field(default="none", init=False)
    max_pos_weight: float | None = field(default=None, init=False)


@dataclass
class ProbeArguments:
    """Which encoders, and how they are judged."""

    model: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders or Hub ids of models, pretrained or fine-tuned; several are compared on the same "
            "records, each with the first. Required."
        },
    )
    untrained: int = field(
        default=3,
        metadata={"help": "Randomly initialised encoders of each model's configuration to set beside it; 0: none."},
    )
    drop_leads: list[str] = field(
        default_factory=list,
        metadata={"help": "Also score records without these leads, such as V1 V2 V3, and tell what that costs."},
    )
    drop_leads_in: str = field(
        default="test",
        metadata={
            "help": "'test': the classifier was fitted with all leads, only the test records lack some; 'all': it is "
            "fitted without them too.",
            "choices": list(DROP_IN),
        },
    )
    eval_windows: str = field(
        default="all",
        metadata={
            "help": "Windows of a record longer than the model's whose features are averaged: 'all' or the 'first'.",
            "choices": ["first", "all"],
        },
    )
    bootstrap_resamples: int = field(
        default=1000, metadata={"help": "Resamples (of patients) behind the confidence intervals; 0 leaves them out."}
    )
    confidence_level: float = field(default=0.95, metadata={"help": "Coverage of the confidence intervals."})
    seed: int = field(default=0, metadata={"help": "Of the resamples."})
    batch_size: int = field(default=32, metadata={"help": "Records in one batch."})
    device: str | None = field(
        default=None, metadata={"help": "cpu, cuda, cuda:1, mps. Default: cuda if there is one, else cpu."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder for metrics.json; by default none."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Replace the results of an earlier probe in the folder."}
    )
    disable_tqdm: bool = field(default=False, metadata={"help": "No progress bars."})

    def __post_init__(self):
        if not self.model:
            raise ValueError("--model is required: one or more folders or Hub ids; see --help.")
        if len(set(self.model)) < len(self.model):
            raise ValueError(f"--model names a folder twice: {self.model}.")
        if not 0 < self.confidence_level < 1:
            raise ValueError(f"--confidence_level lies between 0 and 1; got {self.confidence_level}.")
        for name, least in (("untrained", 0), ("bootstrap_resamples", 0), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} must be at least {least}; got {getattr(self, name)}.")
        self.settings()

    def settings(self) -> ProbeSettings:
        """Return how encoders are probed."""
        return ProbeSettings(
            self.eval_windows,
            self.batch_size,
            self.bootstrap_resamples,
            self.confidence_level,
            self.seed,
            self.drop_leads,
            self.drop_leads_in,
            self.disable_tqdm,
        )


def parse_probe_arguments(arguments: Sequence[str] | None = None) -> tuple[ProbeCorpusArguments, ProbeArguments]:
    """Read the arguments of a linear probe.

    Args:
        arguments (sequence of `str`, *optional*): the command line without the program's name; `sys.argv` by default.
            The first one may be a `.json` or `.yaml` file with the same names.

    Returns:
        `tuple` of `ProbeCorpusArguments` and `ProbeArguments`.

    Raises:
        ValueError: if the file cannot be read, names unknown arguments, or a value is out of range.
    """
    description = (
        "Score the features of frozen encoders by a linear classifier (macro AUROC on the test records, bootstrap "
        "intervals over patients), beside untrained encoders of the same configuration, and compare several models on "
        "the same records. Example: --model runs/hybrid runs/mae --corpus ptbxl --data_dir ptb-xl --task superclass"
    )
    return parse_arguments(
        (ProbeCorpusArguments, ProbeArguments),
        arguments,
        description,
        usage="%(prog)s [run.yaml] --model FOLDER [FOLDER ...] [options]",
    )


def run_probe(corpus_args: ProbeCorpusArguments, arguments: ProbeArguments) -> dict[str, Any]:
    """Probe models on a corpus, print the table, and write it where a folder is given.

    Args:
        corpus_args (`ProbeCorpusArguments`): which recordings and labels.
        arguments (`ProbeArguments`): models, dropped leads, output folder.

    Returns:
        `dict`: see `LinearProbe.report`.

    Raises:
        ValueError: for arguments, files or models that cannot be used, and for leads to drop that a model does not
            read.
    """
    clock = Clock()
    results = None if arguments.output_dir is None else Path(arguments.output_dir) / METRICS_FILE
    if results is not None and results.exists() and not arguments.overwrite_output_dir:
        raise ValueError(
            f"{results.parent} holds results already ({METRICS_FILE}). Choose another --output_dir, or replace them "
            "with --overwrite_output_dir."
        )
    with clock.measure("loading"):
        # Models first: they are soon read, a corpus may not be.
        models = {
            name: ECGInference.from_pretrained(folder, embeddings=True, device=arguments.device)
            for name, folder in zip(_short_names(arguments.model), arguments.model, strict=True)
        }
        for name, inference in models.items():
            check_dropped_leads(arguments.settings().drop_leads, name, inference.extractor)
        probe = LinearProbe(load_task(corpus_args), arguments.settings())
    with clock.measure("probing"):
        for name, inference in models.items():
            probe.add(name, inference.model, inference.extractor)
            if arguments.untrained:
                seeds = range(arguments.untrained)
                probe.add_untrained(name, inference.model.config, inference.extractor, seeds, inference.model.device)
    with clock.measure("intervals"):
        report = probe.report()
    seconds = clock.finish()
    print(format_probe(report), flush=True)
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            results,
            {
                "format_version": 1,
                "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "arguments": describe_arguments(corpus_args, arguments),
                "environment": describe_environment(),
                "corpus": probe.task.facts,
                "metrics": report,
                "seconds": seconds,
            },
        )
        print(f"Saved {results} after {seconds['total']:.0f} s.", flush=True)
    return report


def _short_names(folders: Sequence[str]) -> list[str]:
    """Return the last part of each path, or the paths where these are equal."""
    names = [Path(folder).name if Path(folder).is_dir() else folder for folder in folders]
    return names if len(set(names)) == len(names) else list(folders)
