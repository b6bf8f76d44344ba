"""The output folder of a run: guarded against overwriting, searched for checkpoints, filled in one step."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import torch

from .arguments import FinetuningArguments
from .run_record import METRICS_FILE, PREDICTIONS_FILE, RUN_FILE, move_files
from .trainer import ECGTrainer

_RESULTS = ("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "training_args.bin")
_RESULTS += (RUN_FILE, METRICS_FILE, PREDICTIONS_FILE)


def prepare_output_dir(arguments: FinetuningArguments) -> str | None:
    """Make sure that the output folder may be written, and find the checkpoint to go on from.

    Args:
        arguments (`FinetuningArguments`): `output_dir`, `overwrite_output_dir`, `resume_from_checkpoint`.

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
                raise ValueError(
                    f"There is no complete checkpoint in {folder} to resume from; leave the argument out."
                )
            return found
        if not (Path(resume) / "trainer_state.json").is_file():
            raise ValueError(f"--resume_from_checkpoint {resume} is no complete checkpoint folder.")
        return resume
    remains = sorted(folder.glob("checkpoint-*")) if folder.is_dir() else []
    remains += [folder / name for name in _RESULTS if (folder / name).exists()]
    if remains and not arguments.overwrite_output_dir:
        raise ValueError(
            f"{folder} holds another run ({', '.join(path.name for path in remains[:4])}). Choose another "
            "--output_dir, go on "
            "with --resume_from_checkpoint last, or start over with --overwrite_output_dir."
        )
    # Every process has to look before the first one removes anything.
    if arguments.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()
    if arguments.process_index == 0:
        for path in remains:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
    return None


def find_checkpoint(folder: Path) -> str | None:
    """Return the last complete checkpoint in a folder. One whose writing was cut short lacks `trainer_state.json`."""
    complete = {}
    for path in Path(folder).glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and (path / "trainer_state.json").is_file():
            complete[int(number[1])] = path
    return str(complete[max(complete)]) if complete else None


def save_model_folder(trainer: ECGTrainer, folder: Path) -> None:
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
