"""Kept codes for HuBERT-ECG's pretraining, and what kept rows follow from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .codebooks import CodebookSet
from .hubert_ecg_arguments import StreamCorpusArguments
from .hubert_ecg_targets import HubertECGCollator, NamedSplit, Teacher
from .pretraining_run import digest_records
from .row_cache import RowCache
from .task import corpus_name

_BATCH_SIZE = 100


def digest_weights(model: torch.nn.Module) -> str:
    """Return a fingerprint of a model's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def digest_codebooks(codebooks: CodebookSet) -> str:
    """Return a fingerprint of the centres, and of how rows are scaled."""
    digest = hashlib.sha256()
    for book in codebooks.codebooks:
        digest.update(f"{tuple(book.centers.shape)} {book.normalize}".encode())
        digest.update(book.centers.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def corpus_of_cache(data_args: StreamCorpusArguments, dataset: Any) -> dict[str, Any]:
    """Return what tells the records of a corpus, and their order, from others."""
    if hasattr(dataset, "__len__"):
        records = digest_records(dataset)
    else:
        names = [str(row["record_id"]) for row in dataset.select_columns(["record_id"]).take(100)]
        records = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    return {
        "corpus": corpus_name(data_args),
        "data_dir": data_args.data_dir,
        "options": data_args.options(),
        "records": records,
    }


class CachedTargets(NamedSplit):
    """A split whose rows bring their codes, which were computed once.

    Args:
        split (`NamedSplit`): the records.
        cache (`RowCache`): complete; one row of codes for each record.
        codebooks (`int`): how many codes a token has.
    """

    def __init__(self, split: NamedSplit, cache: RowCache, codebooks: int):
        super().__init__(split.dataset, split.seed)
        self.cache, self.codebooks = cache, codebooks

    def _with_seed(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        codes = self.cache[index].astype(np.int64).reshape(self.codebooks, -1)
        return {**super()._with_seed(row, index), "codes": codes}


def keep_targets(
    splits: Mapping[str, NamedSplit],
    folder: str,
    data_args: StreamCorpusArguments,
    collator: HubertECGCollator,
    codebooks: CodebookSet,
    teacher: Teacher | None,
    device: torch.device,
    quiet: bool = False,
) -> dict[str, CachedTargets]:
    """Compute the codes of all records of some splits, or find them computed, and return splits that bring them.

    Args:
        splits (mapping): the records; they are read once, in their order.
        folder (`str`): of the caches.
        data_args (`StreamCorpusArguments`): the corpus.
        collator (`HubertECGCollator`): with windows `"first"`.
        codebooks (`CodebookSet`): of the codes.
        teacher (`Teacher`, *optional*): where the codes are over hidden states.
        device (`torch.device`): where the teacher runs.
        quiet (`bool`, *optional*, defaults to `False`): do not say where the caches are.
    """
    kept = {}
    for name, split in splits.items():
        recipe = {
            "rows": "codes",
            **codebooks.descriptors,
            "codebooks": digest_codebooks(codebooks),
            # They decide which tokens are real
            "convolutions": [list(collator.config.conv_kernel), list(collator.config.conv_stride)],
            **({} if teacher is None else {"weights": digest_weights(teacher)}),
            **corpus_of_cache(data_args, split.dataset),
        }
        cache = RowCache(folder, recipe)
        if not quiet:
            told = "read from" if cache.complete else "kept in"
            print(f"Codes of {name} records are {told} {cache.folder}.", flush=True)
        if not cache.complete:
            batches = cache.fill(lambda skip, split=split: _codes(split, skip, collator, codebooks, teacher, device))
            with tqdm(total=len(split), desc=f"Codes of {name} records", unit=" records") as bar:
                for codes in batches:
                    bar.update(len(codes))
        kept[name] = CachedTargets(split, cache, len(codebooks.codebooks))
    return kept


def _codes(
    split: NamedSplit,
    skip: int,
    collator: HubertECGCollator,
    codebooks: CodebookSet,
    teacher: Teacher | None,
    device: torch.device,
) -> Iterator[np.ndarray]:
    """Compute the codes of the batches after some."""
    if teacher is not None:
        teacher.to(device)
    rest: Sequence[int] = range(skip * _BATCH_SIZE, len(split))
    for batch in DataLoader(torch.utils.data.Subset(split, rest), batch_size=_BATCH_SIZE, collate_fn=collator):
        if teacher is not None:
            moved = {name: value.to(device) for name, value in batch.items()}
            batch = {**batch, "labels": teacher.labels(moved, codebooks)}
        # Codes are few: half the size, and -100 where there is none
        most = np.int16 if max(codebooks.sizes) <= np.iinfo(np.int16).max else np.int32
        yield batch["labels"].flatten(1).cpu().numpy().astype(most)
