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
# OOPSLA 2014, https://doi.org/10.1145/2660193.2660195), as 64-bit two's complement numbers.
_INCREMENT, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _mix(numbers: torch.Tensor) -> torch.Tensor:
    """Scramble int64 numbers by the output function of splitmix64."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        # Shifts of int64 copy the sign; the generator's do not.
        numbers = (numbers ^ ((numbers >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return numbers ^ ((numbers >> 31) & ((1 << 33) - 1))


def hashed_uniforms(
    seeds: Sequence[int],
    purposes: Sequence[str],
    count: int,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """Draw many uniform numbers for each row from the row's own seed, all rows at once and on any device.

    The numbers are those of `splitmix64`, started at a point that seed and purpose decide. Like `row_uniforms`, a
    row's numbers depend neither on the other rows nor on how many are asked for; nor on the device, nor on the other
    purposes. `row_uniforms` draws row by row on the CPU, which takes longer than the numbers themselves.

    Args:
        seeds (sequence of `int`): one for each row, at least 0.
        purposes (sequence of `str`): what the numbers are for; each purpose has numbers of its own.
        count (`int`): numbers for each row and purpose.
        device (`str` or `torch.device`, *optional*): where to draw.

    Returns:
        `torch.Tensor` of shape `(rows, purposes, count)`, float32, in [0, 1), multiples of 2^-24.
    """
    keys = torch.tensor([_signed(int(seed) & (1 << 64) - 1) for seed in seeds], dtype=torch.int64)
    streams = torch.tensor([zlib.crc32(purpose.encode()) for purpose in purposes], dtype=torch.int64)
    starts = _mix(_mix(keys * _signed(_INCREMENT))[:, None] + _mix(streams + 1)).to(device)
    steps = torch.arange(1, count + 1, device=device) * _signed(_INCREMENT)
    bits = (_mix(starts[..., None] + steps) >> 40) & 0xFFFFFF
    return bits.to(torch.float32) * 2.0**-24
