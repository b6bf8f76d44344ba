"""The output folder of a run: guarded against overwriting, searched for checkpoints, filled in one step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from .arguments import DataArguments, FinetuningArguments, ModelArguments
from .run_arguments import RunArguments
from .run_record import METRICS_FILE, PREDICTIONS_FILE, RUN_FILE, move_files, to_plain, write_json
from .task import ClassificationTask

# What a run was started with, so that nothing else is taken for its continuation.
START_FILE = "started_with.json"

# Of pretraining runs: pictures of reconstructions
PICTURES_FOLDER = "reconstructions"
LAST_PICTURE = "final.png"

_RESULTS = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "training_args.bin")
_RESULTS += ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")
_RESULTS += (RUN_FILE, METRICS_FILE, PREDICTIONS_FILE, START_FILE, "learning_curve.png")


def prepare_output_dir(arguments: RunArguments) -> str | None:
    """Make sure that the output folder may be written, and find the checkpoint to go on from.

    Args:
        arguments (`RunArguments`): `output_dir`, `overwrite_output_dir`, `resume_from_checkpoint`.

    Returns:
        `str` or `None`: the checkpoint.

    Raises:
        ValueError: if the folder holds another run and nothing was said about it, or there is no such checkpoint.
    """
    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; give a folder.")
    resume = arguments.resume_from_checkpoint
    if resume is not None and resume.lower() not in ("false", "no"):
        if resume.lower() in ("last", "true"):
            found = find_checkpoint(folder)
            if found is None:
                remedy = "start over with --overwrite_output_dir" if _remains(folder) else "leave the argument out"
                raise ValueError(f"There is no complete checkpoint in {folder} to resume from; {remedy}.")
            return found
        if not (Path(resume) / "trainer_state.json").is_file():
            raise ValueError(f"--resume_from_checkpoint {resume} is no complete checkpoint folder.")
        return resume
    remains = _remains(folder)
    if remains and not arguments.overwrite_output_dir:
        go_on = "go on with --resume_from_checkpoint last, " if find_checkpoint(folder) else ""
        raise ValueError(
            f"{folder} holds another run ({', '.join(path.name for path in remains[:4])}). Choose another "
            f"--output_dir, {go_on}or start over with --overwrite_output_dir."
        )
    # Every process has to look before the first one removes anything.
    if arguments.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
    if arguments.process_index == 0:
        for path in _found(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    return None


def _remains(folder: Path) -> list[Path]:
    """List what a run left in a folder that would be a loss; nothing if it only noted its start, or drew."""
    found = _found(folder)
    return [] if all(path.name == START_FILE or path.parent.name == PICTURES_FOLDER for path in found) else found


def _found(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = sorted(folder.glob("checkpoint-*")) + [folder / name for name in _RESULTS if (folder / name).exists()]
    pictures = folder / PICTURES_FOLDER
    return [*found, *sorted(pictures.glob("step-*.png")), *pictures.glob(LAST_PICTURE)]


def find_checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint in a folder. One whose writing was cut short lacks `trainer_state.json`."""
    complete = {}
    for path in Path(folder).glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and (path / "trainer_state.json").is_file():
            complete[int(number[1])] = path
    return str(complete[max(complete)]) if complete else None


def check_continuation(
    checkpoint: str | None,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: FinetuningArguments,
    task: ClassificationTask,
) -> None:
    """Note what a run starts with, or check that a resumed run goes on with the same records, labels and model.

    Args:
        checkpoint (`str`, *optional*): the checkpoint to go on from; without it this is the start.
        model_args, data_args, training_args: the arguments of the run.
        task (`ClassificationTask`): the loaded corpus.

    Raises:
        ValueError: if a resumed run differs from its start, naming what differs. Files may have moved, and settings of
            the optimisation may change.
    """
    records = {}
    for split, targets in task.targets.items():
        names = "\n".join(str(name) for name in task.column(split, "record_id"))
        records[split] = hashlib.sha256(names.encode() + targets.tobytes()).hexdigest()[:16]
    now = to_plain(
        {
            **dataclasses.asdict(model_args),
            "train_windows": data_args.train_windows,
            "pos_weight": data_args.pos_weight,
            "max_pos_weight": data_args.max_pos_weight,
            # Of a path the last part: the file may travel with the folder.
            "model_name_or_path": model_args.model_name_or_path and Path(model_args.model_name_or_path).name,
            "label_fraction": _label_fraction(data_args),
            "seed": training_args.seed,
            "labels": task.label_names,
            **{f"records of {split}": digest for split, digest in records.items()},
        }
    )
    check_start(checkpoint, training_args, now)


def check_start(checkpoint: str | None, arguments: RunArguments, now: dict[str, Any]) -> None:
    """Note what a run starts with, or check that a resumed run starts with the same.

    Args:
        checkpoint (`str`, *optional*): the checkpoint to go on from; without it this is the start.
        arguments (`RunArguments`): the output folder.
        now (`dict`): JSON: what must not change.

    Raises:
        ValueError: if a resumed run differs from its start, naming what differs.
    """
    if checkpoint is None:
        if arguments.process_index == 0:
            write_json(Path(arguments.output_dir) / START_FILE, now)
        return
    path = Path(checkpoint).parent / START_FILE
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in now if before.get(name) != now[name]]
    if different:
        pairs = [f"{name} was {_shortened(before.get(name))}, is {_shortened(now[name])}" for name in different]
        raise ValueError(
            f"{checkpoint} belongs to a run with other settings ({'; '.join(pairs)}). Resume with the same records, "
            "labels or reports, model and seed, or start anew in another --output_dir."
        )


def _label_fraction(arguments: DataArguments) -> str | None:
    if arguments.label_fraction == 1:
        return None
    return f"{arguments.label_fraction:g} with seed {arguments.label_fraction_seed}"


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def save_model_folder(trainer: Trainer, folder: Path) -> None:
    """Write model and extractor beside the folder's files, then move them in."""
    staging = folder / ".saving"
    if trainer.is_world_process_zero():
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(staging))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        # A pickle, which a model folder should not hold; run.json tells the arguments.
        (staging / "training_args.bin").unlink(missing_ok=True)
        move_files(staging, folder)
