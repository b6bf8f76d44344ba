"""The command `ecg-transformers`: predict, embed, plot, convert, label-reports, info, demo."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .cli_messages import in_options, tell_leads_without_signal, tell_left_out
from .report_labelling_command import add_label_reports

DESCRIPTION = """Electrocardiogram foundation models on the command line.

examples:
  ecg-transformers info record.hea
  ecg-transformers plot record.hea -o sheet.png
  ecg-transformers predict records/ --model my-model --output predictions.csv
  ecg-transformers embed records/ --model hubert-ecg-base --output embeddings.npz
  ecg-transformers convert hubert_ecg_small.pt hubert-ecg-small
  ecg-transformers label-reports reports.csv --model bert --output labels.csv
  ecg-transformers demo
"""


CONVERT_DESCRIPTION = """Convert an original checkpoint into a folder that the Auto classes of transformers open:
config.json, model.safetensors, preprocessor_config.json, and the tokenizer's files where
the model takes texts. No code stored in the checkpoint is run, nothing is downloaded
unless --tokenizer names a Hub id, and weights that do not fit exactly are an error.

sources:
  a .pt, .pth or .ckpt file that holds its configuration (HuBERT-ECG, DeepECG)
  a .pt file with its config.json beside it, or the folder of both (D-BETA; a
    t5_config.json beside them describes a text encoder other than flan-t5-base)
  a folder as on the Hub: config.json and model.safetensors or pytorch_model.bin
  a model folder of this package: labels, thresholds and recipe are kept

examples:
  ecg-transformers convert hubert_ecg_small.pt hubert-ecg-small
  ecg-transformers convert dbeta-original/ dbeta --tokenizer google/flan-t5-base
  ecg-transformers convert finetuned.pt my-model --label_names labels.txt
"""


class CommandError(Exception):
    """Something that the user can mend; shown without a traceback, exit code 1."""


def _file_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files without rate, leads or unit (CSV, .npy)")
    group.add_argument("--sampling_rate", type=float, help="samples per second (Hz) of files that do not say")
    group.add_argument("--lead_names", nargs="+", metavar="LEAD", help="names of the rows or columns, e.g. I II V1")
    group.add_argument("--units", choices=["mV", "uV", "V", "nV"], help="unit of files that do not say")


def _read_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("sampling_rate", "lead_names", "units")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", help="ECG files, or folders of them (searched with their subfolders)")
    parser.add_argument("--model", required=True, help="folder or Hub id of the model")
    parser.add_argument("--output", "-o", help="file to write (by its ending); without it a table on the screen")
    parser.add_argument("--json", action="store_true", help="print JSON, one object per record, instead of a table")
    parser.add_argument("--batch_size", type=int, default=32, help="windows per forward pass (default: 32)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--windows",
        choices=["all", "first"],
        help="recordings longer than the model's window: all windows, combined, or the first one (default: as the "
        "model's thresholds were chosen, else all)",
    )
    _file_arguments(parser)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command, with all its subcommands."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("ecg-transformers", description=DESCRIPTION, formatter_class=formatter)
    parser.add_argument("--version", action="store_true", help="print versions and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="diagnose ECG files with a fine-tuned model",
        description="Run a fine-tuned model over ECG files. Probabilities above the thresholds stored with the model "
        "(else 0.5) become labels; labels whose threshold is unknown are listed as undecided. Unreadable files are "
        "reported, the others go on; the exit code is then 1.",
    )
    _model_arguments(predict)
    predict.add_argument(
        "--aggregation", choices=["mean", "max"], help="over windows (default: the model's, else mean)"
    )
    predict.add_argument(
        "--thresholds",
        "--threshold",
        help="'stored', the criterion by which the stored ones were chosen (e.g. youden), one number for all labels, "
        "or a JSON file of label: value (default: the stored ones, else 0.5)",
    )
    predict.add_argument(
        "--groups", action="store_true", help="also the model's groups of labels: the largest probability in each"
    )
    predict.set_defaults(run=run_predict)

    embed = commands.add_parser(
        "embed",
        help="turn ECG files into feature vectors",
        description="Run a model's backbone over ECG files and store a vector per record: .npz (arrays `embeddings`, "
        "`paths`, `record_ids`) or .csv.",
    )
    _model_arguments(embed)
    embed.set_defaults(run=run_embed)

    plot = commands.add_parser(
        "plot",
        help="draw a 12-lead sheet",
        description="Draw a recording as the standard sheet: 25 mm/s, 10 mm/mV, 3 x 4 leads and a rhythm strip.",
    )
    plot.add_argument("input", help="ECG file")
    plot.add_argument(
        "--output", "-o", help="picture to write: .png, .pdf or .svg (default: RECORD.png in the current folder)"
    )
    plot.add_argument("--model", help="also predict with this model and print the result on the sheet")
    plot.add_argument(
        "--layout",
        default="3x4+1",
        choices=["3x4+1", "3x4", "6x2+1", "6x2", "12x1+1", "12x1"],
        help="(default: 3x4+1)",
    )
    plot.add_argument("--speed", type=float, default=25, metavar="MM_PER_SECOND", help="paper speed (default: 25)")
    plot.add_argument("--gain", type=float, default=10, metavar="MM_PER_MV", help="amplitude scale (default: 10)")
    plot.add_argument("--start", type=float, default=0, metavar="SECONDS", help="where the sheet begins (default: 0)")
    plot.add_argument("--title", help="heading (default: what the file tells)")
    _file_arguments(plot)
    plot.set_defaults(run=run_plot)

    convert = commands.add_parser(
        "convert",
        help="bring an original checkpoint into a model folder",
        formatter_class=formatter,
        description=CONVERT_DESCRIPTION,
    )
    convert.add_argument("source", help="original file or folder")
    convert.add_argument("destination", help="folder to write")
    convert.add_argument("--model_type", help="such as hubert_ecg, dbeta (default: found out from the weights)")
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
    convert.set_defaults(run=run_convert)

    add_label_reports(commands)

    info = commands.add_parser(
        "info",
        help="tell what ECG files or a model folder contain",
        description="Tell what ECG files contain (leads, rate, length, amplitudes, patient, labels), or what a model "
        "folder is (type, size, labels, input recipe).",
    )
    info.add_argument("inputs", nargs="+", help="ECG files, folders of them, or model folders")
    info.add_argument("--json", action="store_true", help="print JSON, one object per input")
    _file_arguments(info)
    info.set_defaults(run=run_info)

    demo = commands.add_parser(
        "demo",
        help="the whole way on an embedded corpus, in a few minutes on a CPU",
        description="Build the synthetic corpus, train a small HuBERT-ECG, evaluate it on held-out patients, write "
        "the model folder with its card, load it in a new process, predict one record and draw it.",
    )
    demo.add_argument("--output_dir", default="outputs/demo", help="(default: outputs/demo)")
    demo.add_argument("--short", action="store_true", help="a few steps only: checks the way, learns little")
    demo.set_defaults(run=run_demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        _print_versions()
        return 0
    if not arguments.command:
        parser.print_help()
        return 2
    # Where in the package a warning comes from helps nobody at a prompt.
    previous, warnings.formatwarning = warnings.formatwarning, lambda message, *_, **__: f"warning: {message}\n"
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (CommandError, ValueError, OSError, ImportError) as error:
        # The errors of the package name the value, what was expected and the remedy.
        print(f"ecg-transformers {arguments.command}: {in_options(str(error))}", file=sys.stderr)
        return 1
    finally:
        warnings.formatwarning = previous


def _print_versions() -> None:
    from importlib.metadata import version

    for package in ("ecg-transformers", "transformers", "torch", "datasets", "wfdb", "numpy"):
        print(f"{package} {version(package)}")


def _load_inference(arguments: argparse.Namespace, embeddings: bool):
    from .inference import ECGInference

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
        read_options=_read_options(arguments),
    )


def _check_choices(arguments: argparse.Namespace) -> None:
    """Refuse what a model folder's config.json does not allow before its weights are loaded."""
    from types import SimpleNamespace

    from transformers import AutoConfig

    from .inference import ECGInference

    if not (Path(arguments.model) / "config.json").is_file():
        return
    config = AutoConfig.from_pretrained(arguments.model)
    if any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        described = ECGInference(SimpleNamespace(config=config), None, thresholds=arguments.thresholds)
        if arguments.groups:
            _ = described.label_groups


def _run_over_files(arguments: argparse.Namespace, inference) -> tuple[list, int]:
    from tqdm import tqdm

    from .inference import list_ecg_files

    files = list_ecg_files(arguments.inputs, tell_left_out)
    results = list(tqdm(inference.over_files(files), total=len(files), unit="record", disable=len(files) < 2))
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"not used: {in_options(result.error)}", file=sys.stderr)
    used = [result for result in results if not result.error]
    tell_leads_without_signal(used)
    return used, len(failed)


def run_predict(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers predict`."""
    from .decisions import summarize_groups

    if arguments.output:
        _check_ending(arguments.output, (".csv", ".json", ".jsonl"))
    inference = _load_inference(arguments, embeddings=False)
    names = inference.label_names
    groups = inference.label_groups if arguments.groups else {}
    results, num_failed = _run_over_files(arguments, inference)
    key = "values" if inference.model.config.problem_type == "regression" else "probabilities"
    rows = []
    for result in results:
        row = {
            "path": result.path,
            "record_id": result.record_id,
            "num_windows": result.num_windows,
            "leads_without_signal": result.leads_without_signal,
            "labels": inference.decide(result.values),
            "undecided": inference.undecided_labels,
            key: {name: round(float(value), 6) for name, value in zip(names, result.values, strict=True)},
        }
        if groups:
            row["groups"] = summarize_groups(groups, row[key], row["labels"])
        rows.append(row)
    if inference.undecided_labels:
        undecided = ", ".join(inference.undecided_labels)
        print(f"without a threshold, so neither found nor excluded: {undecided}", file=sys.stderr)
    if arguments.output:
        _write_predictions(Path(arguments.output), rows, key, names, list(groups))
        print(f"{len(rows)} predictions written to {arguments.output}", file=sys.stderr)
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
    elif not arguments.output:
        thresholds = dict(zip(names, inference.thresholds, strict=True)) if inference.has_thresholds else {}
        for row in rows:
            _print_prediction(row, row[key], thresholds)
    return 1 if num_failed else 0


def _print_prediction(row: dict, values: dict[str, float], thresholds: dict[str, float]) -> None:
    found = ", ".join(row["labels"]) or ("no label above its threshold" if thresholds else "")
    print(f"{row['path']}: {found}")
    if row["leads_without_signal"]:
        print(f"  without signal: {' '.join(row['leads_without_signal'])}")
    width = max(map(len, values))
    for group, summary in row.get("groups", {}).items():
        print(f"  {group}: {summary['probability']:.4f}{', '.join(['', *summary['labels']])}")
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        note = "  *" if name in row["labels"] else ""
        if name in row["undecided"]:
            note = "  (no threshold)"
        elif thresholds:
            note = f"  (threshold {thresholds[name]:.3f}){note}"
        print(f"  {name:<{width}}  {value:8.4f}{note}")


def _write_predictions(path: Path, rows: list[dict], key: str, names: list[str], groups: list[str]) -> None:
    from .files import written_atomically

    listed = ("leads_without_signal", "labels", "undecided")
    with written_atomically(path, newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            columns = [f"group: {group}" for group in groups]
            writer.writerow(["path", "record_id", "num_windows", *listed, *columns, *names])
            for row in rows:
                head = [row["path"], row["record_id"], row["num_windows"], *(";".join(row[name]) for name in listed)]
                summary = [row["groups"][group]["probability"] for group in groups]
                writer.writerow([*head, *summary, *row[key].values()])
        elif path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            json.dump(rows, file, indent=1)


def run_embed(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers embed`."""
    import numpy as np

    from .files import written_atomically

    if arguments.output:
        _check_ending(arguments.output, (".npz", ".csv"))
    elif not arguments.json:
        raise CommandError("Say where the embeddings go: --output embeddings.npz (or .csv), or --json.")
    inference = _load_inference(arguments, embeddings=True)
    results, num_failed = _run_over_files(arguments, inference)
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
        print(f"{len(results)} embeddings of {embeddings.shape[1]} values: {arguments.output}", file=sys.stderr)
    if arguments.json:
        for result in results:
            values = [round(float(value), 7) for value in result.values]
            print(json.dumps({"path": result.path, "record_id": result.record_id, "embedding": values}))
    return 1 if num_failed else 0


def _check_ending(path: str, endings: tuple[str, ...]) -> None:
    if Path(path).suffix not in endings:
        raise CommandError(f"--output {path}: expected a name that ends in {' or '.join(endings)}.")
    if not Path(path).resolve().parent.is_dir():
        raise CommandError(
            f"--output {path}: the folder {Path(path).resolve().parent} does not exist; create it first."
        )


def run_plot(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers plot`."""
    from .readers import read_ecg
    from .visualization import plot_ecg

    record = read_ecg(arguments.input, **_read_options(arguments))
    output = arguments.output or f"{Path(arguments.input).stem}.png"
    predictions = None
    if arguments.model:
        from .inference import ECGInference

        inference = ECGInference.from_pretrained(arguments.model)
        values, _, leads = inference([record])
        if not leads.any():
            raise CommandError(f"{arguments.input}: no lead carries a signal, so there is nothing to predict from.")
        named = zip(inference.label_names, values[0].tolist(), inference.thresholds.tolist(), strict=True)
        predictions = sorted(named, key=lambda item: -item[1])
    plot_ecg(
        record,
        output,
        title=arguments.title,
        predictions=predictions,
        layout=arguments.layout,
        start_seconds=arguments.start,
        speed_mm_per_second=arguments.speed,
        gain_mm_per_mv=arguments.gain,
    )
    print(output)
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers convert`."""
    from transformers.utils import logging

    from .conversion import convert_checkpoint

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


def run_info(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers info`."""
    from .inference import list_ecg_files
    from .information import describe_model, describe_record, format_description
    from .readers import ECGReadError, read_ecg

    failed = 0
    for entry in arguments.inputs:
        if (Path(entry) / "config.json").is_file():
            descriptions = [describe_model(entry)]
        else:
            descriptions = []
            for path in list_ecg_files([entry], tell_left_out):
                try:
                    descriptions.append(describe_record(read_ecg(path, **_read_options(arguments)), path))
                except ECGReadError as error:
                    failed += 1
                    print(f"not readable: {in_options(str(error))}", file=sys.stderr)
        for description in descriptions:
            print(json.dumps(description) if arguments.json else format_description(description))
    return 1 if failed else 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Run `ecg-transformers demo`."""
    from .demo import run
    from .training import TrainingInterrupted

    try:
        return run(Path(arguments.output_dir), short=arguments.short)
    except TrainingInterrupted:
        print("interrupted; run the command again to start over", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
