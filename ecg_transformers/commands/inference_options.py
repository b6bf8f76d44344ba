"""What `predict` and `embed` share: files through a model."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import printable
from .messages import Sample, in_options, tell_leads_without_signal, tell_left_out
from .options import CommandError, add_file_options, check_ending, read_options

if TYPE_CHECKING:
    from ..inference import ECGInference, InferenceResult
    from ..input_listing import InputListing

# Files that could not be used, named on the screen; all are in the table of errors.
_MOST_TOLD = 10

AT_SCALE = """
A table is written whole or not at all. Until then its rows are in parts beside it (OUTPUT.parts): an interrupted
run goes on from the last part when the same command is given again, and refuses to go on with another model, other
files or other options (--overwrite starts anew). Files that cannot be used are listed in OUTPUT.errors.csv (such as
table.parquet.errors.csv; its columns: path, reason), the others go on; the exit code is then 1.
"""


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add inputs, model, output and how to run it."""
    parser.add_argument(
        "inputs",
        nargs="+",
        help="ECG files, folders of them (searched with their subfolders), Parquet files of recordings "
        "(convert-records), or parts of files (FILE#DATASET:ROW)",
    )
    parser.add_argument(
        "--path_column",
        help="the inputs are tables (CSV or Parquet) with this column of paths, which start at the table's folder; "
        "the results are listed under what the column says",
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of the model")
    parser.add_argument("--output", "-o", help="file to write (by its ending); without it a table on the screen")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per record, instead of a table")
    parser.add_argument(
        "--batch_size", type=int, default=32, help="files at a time, and windows per forward pass (default: 32)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes: on a CPU each runs the model, with one thread; with a GPU they read ahead of it; 0 for none "
        "beside this one (default: the number of cores, at most 8; 0 for few files)",
    )
    parser.add_argument(
        "--files_per_part",
        type=int,
        default=1000,
        help="what an interruption can lose at most of --output; a part also ends after a minute (default: 1000)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew, whatever parts an interrupted run has left; of the same command, too",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--windows",
        choices=["all", "first"],
        help="recordings longer than the model's window: all windows, combined, or the first one (default: as the "
        "model's thresholds were chosen, else all)",
    )
    add_file_options(parser)


def check_output(arguments: argparse.Namespace, endings: tuple[str, ...]) -> None:
    """Make sure that `--output` can be written and replaces neither an input nor any recording.

    Raises:
        CommandError: otherwise.
    """
    from ..input_listing import is_recording_or_packed
    from ..readers.row_reference import referenced_file

    check_ending(arguments.output, endings)
    output = Path(arguments.output)
    if not output.exists():
        return
    for entry in arguments.inputs:
        file = referenced_file(entry)
        if os.path.exists(file) and output.samefile(file):
            raise CommandError(f"--output {output} is an input, which it would replace; name another file.")
    if is_recording_or_packed(output):
        raise CommandError(f"--output {output} holds a recording, which it would replace; name another file.")


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


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def run_inference(
    arguments: argparse.Namespace,
    inference: ECGInference,
    columns: Callable[[int], Any],
    show: Callable[[Any, InferenceResult], None],
    noun: str,
) -> int:
    """Run the inputs and write or print what comes out; files that cannot be used are told.

    Args:
        arguments (`Namespace`): of the command.
        inference (`ECGInference`): the model.
        columns (callable): the number of values of a result -> how results stand in a table.
        show (callable): prints one result, with these columns, where no table is written.
        noun (`str`): what a result is called.

    Returns:
        `int`: the exit code, 1 if a file could not be used.
    """
    from ..input_listing import InputListing
    from ..resumable_results import parts_folder

    output = Path(arguments.output) if arguments.output else None
    own = [] if output is None else [output, _errors_path(output), parts_folder(output)]
    listing = InputListing(arguments.inputs, arguments.path_column, own)
    total, digest = listing.survey(digest=output is not None)
    workers = _workers(arguments.workers, total)
    tally = _Tally([printable(folder) for folder in listing.folders], arguments.option_names)
    if output is None:
        with _bar(total, 0, hidden=sys.stdout.isatty()) as bar:
            for results in inference.over_batches(listing, workers):
                for result in results:
                    tally.add(result)
                    if result.values is not None:
                        _show_one(arguments, columns(len(result.values)), result, show)
                    elif result.error:
                        tally.tell_error(result)
                bar.update(len(results))
        tally.tell()
        return 1 if tally.failed else 0
    try:
        return _run_to_file(arguments, inference, listing, (total, digest, workers), tally, columns, noun)
    except Terminated:
        print("terminated", file=sys.stderr)
        return 143


def _run_to_file(
    arguments: argparse.Namespace,
    inference: ECGInference,
    listing: InputListing,
    plan: tuple[int, str, int],
    tally: _Tally,
    columns: Callable[[int], Any],
    noun: str,
) -> int:
    from ..result_tables import write_errors, write_table
    from ..resumable_results import ResumableResults

    total, digest, workers = plan
    output, errors = Path(arguments.output), _errors_path(Path(arguments.output))
    described = _description(arguments, inference, digest)
    with ResumableResults(output, described, arguments.files_per_part, arguments.overwrite) as parts, _terminating():
        entries = iter(listing)
        if parts.num_resumed:
            parts.check_names(entry.name for entry in islice(entries, parts.done))
            print(f"going on after {parts.num_resumed} of {total} files", file=sys.stderr)
        try:
            with _bar(total, parts.done) as bar:
                for results in inference.over_batches(entries, workers):
                    parts.add(results)
                    bar.update(len(results))
            parts.write_part()
        except BaseException:
            # The disk may be full, which is then the error that is told
            with suppress(OSError):
                parts.write_part()
            print(
                f"{parts.done} of {total} files are done and kept in {parts.folder}; the same command goes on from "
                "there",
                file=sys.stderr,
            )
            raise
        parts.check_complete(total)
        size = 0
        for result in parts:
            tally.add(result)
            if result.values is not None:
                size = len(result.values)
            elif result.error and tally.failed <= _MOST_TOLD:
                tally.tell_error(result)
        write_errors(errors, ((one.path, tally.reason(one)) for one in parts if one.error))
        if tally.failed > _MOST_TOLD:
            print(f"not used: {tally.failed} files; all are listed in {errors}", file=sys.stderr)
        elif tally.failed:
            print(f"what was not used is listed in {errors}", file=sys.stderr)
        if noun == "embedding" and not tally.used:
            parts.remove()
            kept = "the older file of that name stays as it is" if output.exists() else "it is not written"
            raise CommandError(f"No record could be used, so there are no embeddings for {output}: {kept}.")
        shape = columns(size)
        write_table(output, shape, lambda: (one for one in parts if one.values is not None))
        tally.tell()
        of_size = f" of {size} values" if noun == "embedding" else ""
        print(f"{tally.used} {noun}{'' if tally.used == 1 else 's'}{of_size} written to {output}", file=sys.stderr)
        if arguments.json:
            for result in parts:
                if result.values is not None:
                    print(json.dumps(shape.row(result)))
        parts.remove()
    return 1 if tally.failed else 0


def _description(arguments: argparse.Namespace, inference: ECGInference, digest: str) -> dict[str, Any]:
    """Return what the results depend on. Workers, device and batches change the last digit at most."""
    described = {
        "model": inference.fingerprint(),
        "inputs": digest,
        "command": arguments.command,
        "windows": inference.windows,
        **{name: getattr(arguments, name) for name in ("sampling_rate", "lead_names", "units")},
    }
    if not inference.embeddings:
        thresholds = [None if math.isnan(value) else value for value in inference.thresholds]
        described |= {"aggregation": inference.aggregation, "thresholds": thresholds, "groups": arguments.groups}
    return described


def _show_one(arguments: argparse.Namespace, shape: Any, result: InferenceResult, show: Callable) -> None:
    if arguments.json:
        print(json.dumps(shape.row(result)))
    else:
        show(shape, result)


def _errors_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.errors.csv")


def _workers(chosen: int | None, total: int) -> int:
    from ..corpora.file_workers import choose_workers

    if chosen is None:
        chosen = choose_workers(None, total)
        # One that works while this one waits gains nothing
        return 0 if chosen == 1 else chosen
    if chosen < 0:
        raise CommandError(f"--workers must be 0 or more; got {chosen}.")
    return chosen


def _bar(total: int, done: int, hidden: bool = False) -> Any:
    from tqdm import tqdm

    # In a log a line now and then
    seconds = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, initial=done, unit="file", disable=hidden or total < 2, mininterval=seconds, maxinterval=seconds
    )


@contextmanager
def _terminating() -> Iterator[None]:
    """End as with Ctrl-C when the process is asked to, by a batch system for example."""

    def end(*_: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Tally:
    """What is told at the end, counted along the way: few names, however many files there are."""

    def __init__(self, folders: Sequence[str], names: Collection[str]):
        self.folders, self.names = folders, names
        self.used = self.failed = 0
        self.lacking = Sample()
        self.left_out = {folder: Sample() for folder in folders}

    def add(self, result: InferenceResult) -> None:
        if result.left_out:
            folder = next(one for one in self.folders if Path(result.path).is_relative_to(one))
            self.left_out[folder].add(os.path.relpath(result.path, folder))
        elif result.error:
            self.failed += 1
        else:
            self.used += 1
            if result.leads_without_signal:
                self.lacking.add(f"{Path(result.path).name} ({len(result.leads_without_signal)})")

    def reason(self, result: InferenceResult) -> str:
        return in_options(result.error, self.names)

    def tell_error(self, result: InferenceResult) -> None:
        print(f"not used: {self.reason(result)}", file=sys.stderr)

    def tell(self) -> None:
        for folder, names in self.left_out.items():
            if names.count:
                tell_left_out(folder, names)
        tell_leads_without_signal(self.lacking, self.used)
