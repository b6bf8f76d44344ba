"""Random numbers that belong to a row of a batch, whatever else is in the batch."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch


def row_uniforms(seeds: Sequence[int], purpose: str, *shape: int) -> torch.Tensor:
    """Draw uniform numbers for each row from the row's own seed.

    What a row gets does not depend on the other rows, on the number of processes or workers, or, along the first
    axis of `shape`, on how many numbers are asked for: longer padding leaves the first numbers as they were.

    Args:
        seeds (sequence of `int`): one for each row, at least 0.
        purpose (`str`): what the numbers are for; each purpose has numbers of its own.
        *shape (`int`): shape of a row's numbers; nothing for one number.

    Returns:
        `torch.Tensor` of shape `(rows, *shape)`, float32, in [0, 1).
    """
    stream = zlib.crc32(purpose.encode())
    rows = [np.random.default_rng((int(seed), stream)).random(shape, dtype=np.float32) for seed in seeds]
    return torch.from_numpy(np.array(rows, dtype=np.float32))
