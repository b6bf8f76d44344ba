"""Samples that a recording does not have: NaN at its ends, and gaps within."""

import torch

# Gaps that are bridged whatever the recipe, in seconds (ours): one lost sample at 100 Hz, five at 500 Hz. A QRS
# complex lasts eight times as long, so the line over the gap invents no wave and hides none.
LONGEST_BRIDGED_GAP = 0.01


def recorded_part(signal: torch.Tensor) -> slice:
    """Return the samples from the first to the last at which any row of `(rows, samples)` is not NaN.

    The slice is empty if all is NaN.
    """
    if not bool(signal[:, [0, -1]].isnan().all(0).any()):
        return slice(0, signal.shape[-1])
    there = (~signal.isnan()).any(0).nonzero().flatten()
    return slice(int(there[0]), int(there[-1]) + 1) if len(there) else slice(0, 0)


def bridge_gaps(signal: torch.Tensor, longest: int | None = None) -> torch.Tensor:
    """Fill gaps by the straight line between the samples beside them, at the ends by the nearest sample.

    Args:
        signal (`torch.Tensor` of shape `(..., samples)`): NaN where a sample is missing.
        longest (`int`, *optional*): samples of the longest gap to fill. Without it all are filled.

    Returns:
        `torch.Tensor` of the same shape. Longer gaps, and rows of nothing but NaN, stay NaN.
    """
    missing = signal.isnan()
    size = signal.shape[-1]
    position = torch.arange(size, device=signal.device).expand_as(missing)
    before = torch.where(missing, -1, position).cummax(-1).values
    after = torch.where(missing, size, position).flip(-1).cummin(-1).values.flip(-1)
    from_left = signal.gather(-1, before.clamp(min=0))
    from_right = signal.gather(-1, after.clamp(max=size - 1))
    weight = (position - before) / (after - before).clamp(min=1)
    line = from_left + (from_right - from_left) * weight.to(signal.dtype)
    line = torch.where(before < 0, from_right, torch.where(after == size, from_left, line))
    filled = missing & (after - before <= (size if longest is None else longest) + 1)
    return torch.where(filled, line, signal)
