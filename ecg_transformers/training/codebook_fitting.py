"""Fitting codebooks to a stream of descriptors in bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from .codebooks import Codebook, prepare_rows

logger = logging.getLogger(__name__)

# Rows that a step of the clustering sees: 100 records of 93 shards, as the original's.
BATCH_ROWS = 9300

# Rows kept from the whole stream, on which the clustering is measured.
SAMPLE_ROWS = 20_000

# Attempts to place the first centres, the best of which is taken; the original's number.
NUM_STARTS = 20


class RowSample:
    """A uniform sample of a stream of rows, of fixed size (reservoir sampling, Vitter 1985, algorithm R).

    Args:
        size (`int`): rows to keep.
        seed (`int`): of the choice.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seen = size, 0
        self._random = np.random.default_rng(seed)
        self._rows: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        """Show `(rows, values)` to the sample."""
        if self._rows is None:
            self._rows = np.empty((self.size, rows.shape[1]), dtype=rows.dtype)
        numbers = self.seen + np.arange(len(rows))
        places = np.where(numbers < self.size, numbers, (self._random.random(len(rows)) * (numbers + 1)).astype(int))
        kept = places < self.size
        # Of several rows for one place the last stays, as if they had come one after the other.
        self._rows[places[kept]] = rows[kept]
        self.seen += len(rows)

    @property
    def rows(self) -> np.ndarray:
        """The sample, `(up to size, values)`."""
        if self._rows is None:
            raise ValueError("The stream held no rows.")
        return self._rows[: min(self.seen, self.size)]


def fit_codebooks(
    batches: Callable[[], Iterable[torch.Tensor]],
    sizes: Sequence[int],
    *,
    normalize: bool = True,
    seed: int = 0,
    epochs: int = 1,
    batch_rows: int = BATCH_ROWS,
) -> tuple[list[Codebook], np.ndarray]:
    """Fit one codebook of each size with scikit-learn's `MiniBatchKMeans`, in one pass over the descriptors per epoch.

    The first rows, ten for each code and at least `batch_rows`, place the centres (the best of 20 attempts, then ten
    passes over these rows); each further `batch_rows` move them. At any time the memory holds these rows, a batch and
    a sample, however long the stream.

    Rows are always scaled to unit length for fitting, as the original's are. (Settings of the original: k-means++, 20
    attempts, batches of 100 records, no reassignment.)

    Args:
        batches (callable): returns an iterable over tensors `(..., values)`; called once per epoch.
        sizes (sequence of `int`): codes of each codebook.
        normalize (`bool`, *optional*, defaults to `True`): scale rows in assigning codes too; see `Codebook`.
        seed (`int`, *optional*, defaults to 0): of first centres and sample.
        epochs (`int`, *optional*, defaults to 1): passes over the stream.
        batch_rows (`int`, *optional*, defaults to 9300): rows of a step.

    Returns:
        `tuple` of the codebooks in the order of `sizes`, their `inertia` measured on the sample, and the sample
        `(rows, values)` of scaled rows.

    Raises:
        ValueError: if a size is below 2 or above the number of rows, or rows have different numbers of values.
    """
    from sklearn.cluster import MiniBatchKMeans

    if not sizes or min(sizes) < 2:
        raise ValueError(f"A codebook has at least 2 codes; got sizes {list(sizes)}.")
    if epochs < 1 or batch_rows < 1:
        raise ValueError(f"Fitting needs at least one pass and one row a step; got {epochs} and {batch_rows}.")
    first_rows = max(batch_rows, 10 * max(sizes))
    settings = {"n_init": NUM_STARTS, "max_iter": 10, "batch_size": batch_rows, "random_state": seed}
    settings |= {"reassignment_ratio": 0.0, "max_no_improvement": None}
    models = [MiniBatchKMeans(size, **settings) for size in sizes]
    sample = RowSample(SAMPLE_ROWS, seed)
    started = False

    def step(rows: np.ndarray) -> None:
        for model in models:
            model.partial_fit(rows)

    for epoch in range(epochs):
        waiting: list[np.ndarray] = []
        for batch in batches():
            rows = prepare_rows(batch.reshape(-1, batch.shape[-1]), True).cpu().numpy()
            if epoch == 0:
                sample.add(rows)
            waiting.append(rows)
            wanted = batch_rows if started else first_rows
            if sum(map(len, waiting)) < wanted:
                continue
            rows, waiting = np.concatenate(waiting), []
            if not started:
                for model in models:
                    model.fit(rows)
                started = True
                continue
            whole = len(rows) // batch_rows * batch_rows
            for begin in range(0, whole, batch_rows):
                step(rows[begin : begin + batch_rows])
            waiting = [rows[whole:]]
        rest = np.concatenate(waiting) if waiting else np.empty((0, 1))
        if not started:
            if len(rest) < max(sizes):
                raise ValueError(
                    f"{len(rest)} rows of descriptors are too few for {max(sizes)} codes. Take more records or fewer "
                    "codes."
                )
            if len(rest) < 10 * max(sizes):
                logger.warning(
                    "Only %d rows of descriptors for %d codes: many will hold little.", len(rest), max(sizes)
                )
            for model in models:
                model.fit(rest)
            started = True
        elif len(rest):
            step(rest)
    kept = torch.from_numpy(sample.rows)
    books = []
    for model in models:
        centers = torch.from_numpy(np.ascontiguousarray(model.cluster_centers_, dtype=np.float32))
        inertia = float(torch.cdist(kept, centers).amin(-1).square().mean())
        books.append(Codebook(centers, normalize, inertia))
    return books, sample.rows
