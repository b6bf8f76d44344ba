"""Corpora as streams: rows one after the other, features and splits as those of the corpus itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import DatasetDict, IterableDataset, IterableDatasetDict

# Workers and processes share the shards of a stream among them; this many suit any power of two up to 16.
_NUM_SHARDS = 16


def stream_corpus(corpus: DatasetDict) -> IterableDatasetDict:
    """Return a corpus as a stream.

    A corpus holds references to its records, not the records, so all of it can be streamed: the same splits, the same
    order (with one worker), the same features. Records are read as they come.

    Args:
        corpus (`datasets.DatasetDict`): any corpus.

    Returns:
        `datasets.IterableDatasetDict`: each split in up to 16 shards, so that several workers and processes can share
        it.
    """
    streams = IterableDatasetDict()
    for split, data in corpus.items():
        if len(data):
            streams[split] = data.to_iterable_dataset(num_shards=min(_NUM_SHARDS, len(data)))
        else:
            # `datasets` makes no shards of nothing.
            streams[split] = IterableDataset.from_generator(_no_rows, features=data.features, split=split)
    return streams


def _no_rows() -> Iterator[dict[str, Any]]:
    yield from ()
