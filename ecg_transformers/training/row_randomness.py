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


# Increment and multipliers of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
# OOPSLA 2014, https://doi.org/10.1145/2660193.2660195)
_INCREMENT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LOW_BITS = 0xFFFFFF


def hashed_uniforms(
    seeds: Sequence[int],
    purposes: Sequence[str],
    count: int,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """Draw many uniform numbers for each row from the row's own seed, all rows at once and on any device.

    The numbers are those of `splitmix64`, two out of each, started at a point that seed and purpose decide. Like those
    of `row_uniforms`, a row's numbers depend neither on the other rows nor on how many are asked for; nor on the
    device, nor on the other purposes. `row_uniforms` draws row by row on the CPU.

    Args:
        seeds (sequence of `int`): one for each row, at least 0.
        purposes (sequence of `str`): what the numbers are for; each purpose has numbers of its own.
        count (`int`): numbers for each row and purpose.
        device (`str` or `torch.device`, *optional*): where to draw.

    Returns:
        `torch.Tensor` of shape `(rows, purposes, count)`, float32, in [0, 1), multiples of 2^-24.
    """
    keys = np.array([int(seed) & (1 << 64) - 1 for seed in seeds], dtype=np.uint64)
    streams = np.array([zlib.crc32(purpose.encode()) for purpose in purposes], dtype=np.uint64)
    starts = _mix(_mix(keys * np.uint64(_INCREMENT))[:, None] + _mix(streams + np.uint64(1)))
    if torch.device("cpu" if device is None else device).type != "cpu":
        return _draw_in_torch(starts, count, device)
    mixed = _mix(starts[..., None] + np.arange(1, (count + 3) // 2, dtype=np.uint64) * np.uint64(_INCREMENT))
    bits = np.stack([mixed >> np.uint64(40), mixed >> np.uint64(16) & np.uint64(_LOW_BITS)], axis=-1)
    bits = bits.reshape(*starts.shape, 2 * mixed.shape[-1])[..., :count]
    return torch.from_numpy(bits.astype(np.float32) * np.float32(2.0**-24))


def _mix(numbers: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers by the output function of splitmix64."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(_FIRST)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(_SECOND)
    return numbers ^ numbers >> np.uint64(31)


def _draw_in_torch(starts: np.ndarray, count: int, device: str | torch.device) -> torch.Tensor:
    """Draw the same numbers in torch, whose integers are signed: products wrap alike, shifts copy the sign."""

    def signed(number: int) -> int:
        return number - (1 << 64) if number >> 63 else number

    def shifted(numbers: torch.Tensor, shift: int) -> torch.Tensor:
        return (numbers >> shift) & ((1 << (64 - shift)) - 1)

    steps = torch.arange(1, (count + 3) // 2, device=device) * signed(_INCREMENT)
    numbers = torch.from_numpy(starts.view(np.int64)).to(device)[..., None] + steps
    numbers = (numbers ^ shifted(numbers, 30)) * signed(_FIRST)
    numbers = (numbers ^ shifted(numbers, 27)) * signed(_SECOND)
    numbers = numbers ^ shifted(numbers, 31)
    bits = torch.stack([shifted(numbers, 40), shifted(numbers, 16) & _LOW_BITS], dim=-1)
    return bits.flatten(-2)[..., :count].to(torch.float32) * 2.0**-24
