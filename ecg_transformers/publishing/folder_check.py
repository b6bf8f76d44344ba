"""Whether a folder opens elsewhere as it does here: in a fresh process, with this package or without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers.utils import logging

from . import folder_probe

_PACKAGE = __name__.partition(".")[0]
_SECONDS = 10.0
_SAMPLING_RATE = 500.0
# Two findings that differ in rhythm and shape
_FINDINGS = (["sinus_rhythm"], ["atrial_fibrillation", "left_bundle_branch_block"])
# Where tensors lie in memory decides about the last digits
_TOLERANCE = 1e-5


class FolderCheckError(ValueError):
    """A folder does not open elsewhere, or gives other outputs there; the message says what differs."""


@dataclass(frozen=True)
class FolderToCheck:
    """What is compared.

    Args:
        source (`Path`): the folder that is published, opened here.
        published (`Path`): what is made of it, opened elsewhere.
        auto_classes (sequence of `str`): Auto classes of transformers to open both with.
        window_seconds (`float`, *optional*): of the recipe; the recordings are at least as long.
    """

    source: Path
    published: Path
    auto_classes: Sequence[str]
    window_seconds: float | None = None


def check_folders(folders: Sequence[FolderToCheck], without_package: bool) -> int:
    """Open folders in a fresh process, run them on two synthetic recordings, and compare with their sources here.

    The Hub is switched off in the process (`HF_HUB_OFFLINE`). With `without_package` it cannot import this package
    either, and runs the code in the folders; the folders are then opened here too, where the package's own classes
    must be taken.

    Args:
        folders (sequence of [`FolderToCheck`]): one process opens them all.
        without_package (`bool`): whether the folders bring their code.

    Returns:
        `int`: number of values that were compared.

    Raises:
        FolderCheckError: if one does not open, weights are missing, or outputs differ or are NaN.
    """
    with tempfile.TemporaryDirectory(prefix="ecg-transformers-check-") as place:
        place = Path(place)
        records = str(place / "records.npz")
        _write_records(records, max([_SECONDS, *(folder.window_seconds or 0 for folder in folders)]))
        with _quiet():
            expected = [_run_here(folder, folder.source, records) for folder in folders]
            if without_package:
                for folder, values in zip(folders, expected, strict=True):
                    _compare(folder, values, _run_here(folder, folder.published, records))
        outputs = [str(place / f"{number}.safetensors") for number in range(len(folders))]
        _run_elsewhere(folders, outputs, records, without_package, place)
        return sum(
            _compare(folder, values, load_file(output))
            for folder, values, output in zip(folders, expected, outputs, strict=True)
        )


def _write_records(path: str, seconds: float) -> None:
    from ..corpora.synthetic_generator import generate_record

    records = [
        generate_record(findings, seed, sampling_rate=_SAMPLING_RATE, seconds=seconds)
        for seed, findings in enumerate(_FINDINGS)
    ]
    np.savez(
        path,
        signals=np.stack([record.signal for record in records]),
        sampling_rate=_SAMPLING_RATE,
        lead_names=np.array(records[0].lead_names),
    )


class _quiet:
    """Silence the bars and warnings of transformers; what matters of them is checked."""

    def __enter__(self):
        self.before = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_):
        logging.set_verbosity(self.before[0])
        if self.before[1]:
            logging.enable_progress_bar()


def _run_here(folder: FolderToCheck, path: Path, records: str) -> dict[str, torch.Tensor]:
    try:
        return folder_probe.run_folder(str(path), folder.auto_classes, records, remote_code=False)
    except Exception as error:
        # What a folder holds can fail in any way
        raise FolderCheckError(f"{path} does not open: {error}") from error


def _run_elsewhere(
    folders: Sequence[FolderToCheck], outputs: Sequence[str], records: str, without_package: bool, place: Path
) -> None:
    jobs = [
        {"folder": str(Path(folder.published).resolve()), "auto_classes": list(folder.auto_classes), "output": output}
        for folder, output in zip(folders, outputs, strict=True)
    ]
    content = {"package": _PACKAGE, "remote_code": without_package, "records": records, "jobs": jobs}
    (place / "jobs.json").write_text(json.dumps(content), encoding="utf-8")
    (place / "probe.py").write_bytes(Path(folder_probe.__file__).read_bytes())
    environment = {
        **os.environ,
        # Else a folder that lacks something could take it from the network or a cache of code
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(place / "modules"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not without_package:
        here = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    process = subprocess.run(
        [sys.executable, "probe.py", "jobs.json"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if process.returncode:
        where = f"in a process without {_PACKAGE}" if without_package else "in a fresh process"
        lines = process.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"it ended with {process.returncode}"
        if process.returncode < 0:
            reason = f"it was ended by signal {-process.returncode} (out of memory?)"
        names = ", ".join(str(folder.source) for folder in folders)
        raise FolderCheckError(f"What would be published of {names} does not open {where}: {reason}")


def _compare(folder: FolderToCheck, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> int:
    if expected.keys() != found.keys():
        raise FolderCheckError(
            f"What would be published of {folder.source} gives other outputs than the folder: "
            f"{sorted(expected.keys() ^ found.keys())}."
        )
    count = 0
    for name, value in expected.items():
        other = found[name]
        if value.isnan().any():
            raise FolderCheckError(
                f"{folder.source} gives NaN for `{name}` on a synthetic record: the weights are damaged, or training "
                "went wrong."
            )
        # Infinite values stand for what is left out, and must agree
        same = value.shape == other.shape and torch.allclose(
            value.float(), other.float(), rtol=_TOLERANCE, atol=_TOLERANCE * _size(value)
        )
        if not same:
            raise FolderCheckError(
                f"What would be published of {folder.source} gives another `{name}` than the folder on the same "
                f"record: {_difference(value, other)}."
            )
        count += value.numel()
    return count


def _size(value: torch.Tensor) -> float:
    finite = value.float()[value.float().isfinite()]
    return max(1.0, float(finite.abs().max())) if finite.numel() else 1.0


def _difference(value: torch.Tensor, other: torch.Tensor) -> str:
    if value.shape != other.shape:
        return f"shape {tuple(other.shape)} instead of {tuple(value.shape)}"
    return f"largest difference {float((value.float() - other.float()).abs().max()):.3g}"
