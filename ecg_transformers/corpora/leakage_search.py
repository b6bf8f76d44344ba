"""Searching two sets of fingerprints for pairs that agree, in bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from tqdm.auto import tqdm

from .signal_fingerprint import SEARCH_SIMILARITY, fingerprint_similarity

# Rows of either side that are compared at a time: a matrix of 32 MB.
_ROWS, _COLUMNS = 1024, 8192
# Pairs of such a block that are looked at closely, 0.5 kB each; if there are more (thousands of copies of one signal),
# only the best of each row and column.
_MAX_PAIRS = 50_000
# Fewer pairs than this are compared within a few seconds.
_PROGRESS_FROM = 300_000_000


def best_partners(one: np.ndarray, other: np.ndarray, device: str | None = None) -> list[tuple[int, int, float]]:
    """Return the best partner of each fingerprint that has one.

    Amplitudes are compared first, which no shift in time changes: the similarity at any shift is at most the product
    of the amplitudes, so no pair is lost by it. Of the pairs of the real files that were tried one in 20,000 passes.

    Args:
        one (`np.ndarray` of shape `(rows, 2 * frequencies)`): real and imaginary parts of fingerprints, float16.
        other (`np.ndarray` of the same width): the fingerprints to compare with.
        device (`str`, *optional*): `"cpu"` or `"cuda"`; by default a GPU if there is one.

    Returns:
        `list[tuple[int, int, float]]`: row of `one`, row of `other`, similarity, for each row of either side with a
        partner that agrees to 0.99 or better (`SEARCH_SIMILARITY`); at most as many as there are rows.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    best_of_one, best_of_other = _Best(len(one)), _Best(len(other))
    total = len(one) * len(other)
    with tqdm(
        total=total, desc="Comparing fingerprints", unit="pair", unit_scale=True, disable=total < _PROGRESS_FROM
    ) as progress:
        for begin in range(0, len(one), _ROWS):
            queries = _complex(one[begin : begin + _ROWS])
            query_sizes = torch.from_numpy(np.abs(queries)).to(device)
            for start in range(0, len(other), _COLUMNS):
                keys = _complex(other[start : start + _COLUMNS])
                scores = query_sizes @ torch.from_numpy(np.abs(keys)).to(device).T
                rows, columns = _candidates(scores)
                if len(rows):
                    similarity = fingerprint_similarity(queries[rows], keys[columns])
                    best_of_one.offer(begin + rows, start + columns, similarity)
                    best_of_other.offer(start + columns, begin + rows, similarity)
                progress.update(len(queries) * len(keys))
    found = {(row, column): value for row, column, value in best_of_one.found()}
    found |= {(row, column): value for column, row, value in best_of_other.found()}
    return [(row, column, value) for (row, column), value in sorted(found.items())]


def _candidates(scores: torch.Tensor) -> np.ndarray:
    """Return the rows and columns of scores that are worth a closer look, `(2, pairs)`."""
    # Fingerprints are kept in half precision, so a product may be a little too small.
    near = scores >= SEARCH_SIMILARITY - 0.001
    if int(near.sum()) <= _MAX_PAIRS:
        return torch.nonzero(near).T.cpu().numpy()
    pairs = []
    for axis in (1, 0):
        values, others = scores.max(dim=axis)
        own = torch.nonzero(values >= SEARCH_SIMILARITY - 0.001)[:, 0]
        pairs.append(torch.stack([own, others[own]] if axis == 1 else [others[own], own]))
    return torch.unique(torch.cat(pairs, dim=1), dim=1).cpu().numpy()


class _Best:
    """The best partner of each row so far."""

    def __init__(self, num_rows: int):
        self.values = np.full(num_rows, SEARCH_SIMILARITY, dtype=np.float32)
        self.partners = np.full(num_rows, -1, dtype=np.int64)

    def offer(self, rows: np.ndarray, partners: np.ndarray, values: np.ndarray) -> None:
        # Of several offers to a row in one call the last counts, which is the greatest.
        order = np.argsort(values, kind="stable")
        rows, partners, values = rows[order], partners[order], values[order]
        better = values > self.values[rows]
        self.values[rows[better]] = values[better]
        self.partners[rows[better]] = partners[better]

    def found(self) -> list[tuple[int, int, float]]:
        rows = np.flatnonzero(self.partners >= 0)
        return [(int(row), int(self.partners[row]), float(self.values[row])) for row in rows]


def _complex(rows: np.ndarray) -> np.ndarray:
    real, imaginary = np.split(rows.astype(np.float32), 2, axis=1)
    return real + np.complex64(1j) * imaginary
