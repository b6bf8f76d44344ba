"""Codebooks: cluster centres of descriptors, and the codes that they give to the shards or tokens of a record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save

from ..files import written_atomically
from ..joblib_files import load_joblib_without_running
from ..restricted_unpickling import AttributeBag
from .run_record import write_json

CODEBOOKS_FILE, CENTERS_FILE = "codebooks.json", "codebooks.safetensors"

# Floor of the norm of a row; a row of zeros stays one.
_NORM_FLOOR = 1e-12


def prepare_rows(descriptors: torch.Tensor, normalize: bool) -> torch.Tensor:
    """Return descriptors as codebooks see them: NaN (skewness of a constant shard) becomes 0 (ours), rows unit length.

    Args:
        descriptors (`torch.Tensor` of shape `(..., values)`): see `describe_shards`.
        normalize (`bool`): whether rows are scaled to unit L2 norm.

    Returns:
        `torch.Tensor` of the same shape, float32.
    """
    rows = descriptors.to(torch.float32).nan_to_num(nan=0.0)
    if not normalize:
        return rows
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=_NORM_FLOOR)


@dataclass(frozen=True)
class Codebook:
    """Cluster centres, and whether rows are scaled to unit length before they are compared with them.

    HuBERT-ECG fits its centres on rows of unit length and then labels rows as they are (`normalize=False`), so its
    targets are not those of its clusters. Here rows are scaled in both unless that is asked for.

    Args:
        centers (`torch.Tensor` of shape `(codes, values)`): float32.
        normalize (`bool`, *optional*, defaults to `True`): scale rows before assigning codes.
        inertia (`float`, *optional*): mean squared distance of a sample's rows to their centres, as far as known.
    """

    centers: torch.Tensor
    normalize: bool = True
    inertia: float | None = None

    def __post_init__(self):
        if self.centers.ndim != 2 or not self.centers.isfinite().all():
            raise ValueError(f"Centres are finite and of shape (codes, values); got {tuple(self.centers.shape)}.")

    def __len__(self) -> int:
        return len(self.centers)

    def assign(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Return the nearest centre of each row, the first one of several: one matrix product for all rows.

        Args:
            descriptors (`torch.Tensor` of shape `(..., values)`): on any device.

        Returns:
            `torch.LongTensor` of shape `(...)`.

        Raises:
            ValueError: if the rows have another number of values than the centres.
        """
        if descriptors.shape[-1] != self.centers.shape[1]:
            raise ValueError(
                f"The codebook is over {self.centers.shape[1]} values, the descriptors have {descriptors.shape[-1]}: "
                "it was made for another kind of descriptors."
            )
        rows = prepare_rows(descriptors, self.normalize)
        # Rows that are not scaled reach thousands, where single precision would not tell close centres apart
        dtype = torch.float32 if self.normalize else torch.float64
        rows, centers = rows.to(dtype), self.centers.to(device=rows.device, dtype=dtype)
        return (centers.square().sum(-1) - 2 * (rows @ centers.T)).argmin(-1)


@dataclass(frozen=True)
class CodebookSet:
    """Codebooks over the same descriptors, an ensemble, with what is needed to compute these.

    Args:
        codebooks (sequence of `Codebook`): in the order of the model's heads.
        descriptors (`dict`): JSON: how to compute the descriptors, such as `{"kind": "mfcc", "sampling_rate": 100}`.
        facts (`dict`, *optional*): JSON: corpus, seed, what the clustering measured.
    """

    codebooks: Sequence[Codebook]
    descriptors: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> list[int]:
        """Codes of each codebook: the model's `vocab_sizes`."""
        return [len(codebook) for codebook in self.codebooks]

    def assign(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Return the codes of `(records, tokens, values)`: `(records, codebooks, tokens)`, as the model takes them."""
        return torch.stack([codebook.assign(descriptors) for codebook in self.codebooks], dim=1)

    def save(self, folder: str | Path) -> None:
        """Write `codebooks.json` and `codebooks.safetensors` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        centers = {f"centers.{place}": book.centers.contiguous().cpu() for place, book in enumerate(self.codebooks)}
        with written_atomically(folder / CENTERS_FILE, "wb") as file:
            file.write(save(centers))
        entries = [
            {"codes": len(book), "normalize": book.normalize, "inertia": book.inertia} for book in self.codebooks
        ]
        description = {"format_version": 1, "descriptors": dict(self.descriptors), "codebooks": entries}
        write_json(folder / CODEBOOKS_FILE, {**description, "facts": dict(self.facts)})

    @classmethod
    def load(cls, folder: str | Path) -> CodebookSet:
        """Open what `save` wrote.

        Raises:
            ValueError: if the folder holds no codebooks, or damaged ones.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / CODEBOOKS_FILE).read_text(encoding="utf-8"))
            centers = load_file(folder / CENTERS_FILE)
            books = [
                Codebook(centers[f"centers.{place}"], bool(entry["normalize"]), entry["inertia"])
                for place, entry in enumerate(description["codebooks"])
            ]
            if not books or not isinstance(description["descriptors"].get("kind"), str):
                raise ValueError("it names no codebooks, or not what their descriptors are")
            return cls(books, description["descriptors"], description.get("facts", {}))
        except (OSError, AttributeError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise ValueError(
                f"{folder} holds no codebooks ({CODEBOOKS_FILE} and {CENTERS_FILE}): {type(error).__name__}: {error}. "
                "`pretrain_hubert_ecg.py cluster` writes them."
            ) from error


def import_codebook(path: str | Path, normalize: bool = False) -> Codebook:
    """Read a k-means model that the code published with HuBERT-ECG saved with joblib. Nothing in the file is run.

    Args:
        path (`str` or `Path`): the file, uncompressed.
        normalize (`bool`, *optional*, defaults to `False`): scale rows before assigning codes. The original does not.

    Returns:
        `Codebook`: its inertia is that of the original's fit, by row.

    Raises:
        ValueError: if the file is no such model, or would run something.
        FileNotFoundError: if there is no such file.
    """
    estimator = load_joblib_without_running(path)
    attributes = vars(estimator) if isinstance(estimator, AttributeBag) else {}
    centers = attributes.get("cluster_centers_")
    if not isinstance(centers, np.ndarray) or centers.ndim != 2 or centers.dtype.kind != "f":
        raise ValueError(
            f"{path} holds {type(estimator).__name__ if not attributes else estimator}, not a k-means model with its "
            "cluster centres."
        )
    inertia, labels = attributes.get("inertia_"), attributes.get("labels_")
    known = isinstance(labels, np.ndarray) and len(labels) and isinstance(inertia, float)
    return Codebook(torch.from_numpy(centers.astype(np.float32)), normalize, inertia / len(labels) if known else None)
