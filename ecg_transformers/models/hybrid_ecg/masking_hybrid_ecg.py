"""Which tokens of a record are masked: a score per token, and the tokens with the highest scores.

Every strategy masks the same number of tokens. They differ in which tokens share a score: none, those of a span, or
those of a lead.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .configuration_hybrid_ecg import HybridECGConfig


def make_mask_noise(
    config: HybridECGConfig,
    samples: int,
    records: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Draw a score for each token, by `config.mask_strategy`; [`choose_masked`] masks the highest.

    Tokens of one span share their score, so spans are masked whole, except for one that is cut to reach the exact
    number. Spans begin at a random phase, and in each lead anew where tokens are per lead.

    Args:
        config ([`HybridECGConfig`]): geometry of the tokens, and strategy.
        samples (`int`): samples of the records. The scores of a record's first tokens do not depend on it, so
            padding a record leaves its mask as it is.
        records (`int`, *optional*): number of records; not needed with `seeds`.
        seeds (sequence of `int`, *optional*): one for each record, from which alone its scores are drawn.
        generator (`torch.Generator`, *optional*): random numbers on `device`; torch's own if neither this nor `seeds`
            is given.
        device (`torch.device`, *optional*): of the result.

    Returns:
        `torch.FloatTensor` of shape `(records, tokens)`, in [0, 1).

    Raises:
        ValueError: unless exactly one of `records` and `seeds` is given.

    Example:
        ```python
        >>> from ecg_transformers import HybridECGConfig
        >>> from ecg_transformers.models.hybrid_ecg.masking_hybrid_ecg import make_mask_noise

        >>> make_mask_noise(HybridECGConfig(mask_strategy="span"), samples=2500, seeds=[3, 4]).shape
        torch.Size([2, 50])
        ```
    """
    if (records is None) == (seeds is None):
        raise ValueError("Pass either `records`, the number of records, or `seeds`, one for each of them.")
    shape = (1 + 2 * (samples // config.patch_size), config.token_rows)
    if seeds is None:
        uniforms = torch.rand(records, *shape, generator=generator, device=device)
    else:
        rows = [torch.rand(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
        uniforms = (torch.stack(rows) if rows else torch.empty(0, *shape)).to(device)
    return _scores(config, uniforms)


def make_fixed_noise(config: HybridECGConfig, samples: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Return scores that are the same for each record, call and device.

    Args:
        config ([`HybridECGConfig`]): geometry of the tokens, and strategy.
        samples (`int`): samples of the records.
        device (`torch.device`, *optional*): of the result.

    Returns:
        `torch.FloatTensor` of shape `(1, tokens)`, in [0, 1).
    """
    steps, rows = 1 + 2 * (samples // config.patch_size), config.token_rows
    return _scores(config, fixed_uniforms(steps * rows, device).view(1, steps, rows))


def fixed_uniforms(count: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Return numbers in [0, 1) that look random and are the same on every device: a hash of the position.

    The mixing steps are the finaliser of MurmurHash3.
    """
    low = 0xFFFFFFFF
    values = torch.arange(1, count + 1, device=device)
    values = ((values ^ (values >> 16)) * 0x85EBCA6B) & low
    values = ((values ^ (values >> 13)) * 0xC2B2AE35) & low
    values = values ^ (values >> 16)
    # A float32 holds 24 bits exactly
    return (values >> 8).float() / 2**24


def _scores(config: HybridECGConfig, uniforms: torch.Tensor) -> torch.Tensor:
    """Turn uniform numbers `(records, 1 + 2 * times, rows)` into scores `(records, rows * times)`.

    Of each row the first number is its phase, or its score as a whole lead; then score and kind of span alternate.
    """
    phase, scores, kinds = uniforms[:, :1], uniforms[:, 1::2], uniforms[:, 2::2]
    if config.mask_strategy == "lead":
        scores = phase.expand_as(scores)
    elif config.mask_strategy != "random" and scores.shape[1]:
        lengths = torch.full_like(scores, config.mask_span_length)
        if config.mask_strategy == "multi_scale":
            lengths = lengths.masked_fill(kinds >= config.mask_long_span_share, config.mask_short_span_length)
        # The first span is cut, so that spans begin anywhere; at least one token of it is left
        cut = (phase * lengths[:, :1]).floor()
        ends = torch.cat([lengths[:, :1] - cut, lengths[:, 1:]], dim=1).cumsum(dim=1)
        times = torch.arange(scores.shape[1], device=scores.device)
        span = (ends[:, None] <= times[:, None, None]).sum(dim=2)
        scores = scores.gather(1, span)
    return scores.transpose(1, 2).flatten(1)


@dataclass
class MaskedTokens:
    """Which tokens of a batch are masked, and where the others go.

    Args:
        masked (`torch.BoolTensor` of shape `(records, tokens)`): true where a real token is masked.
        kept (`torch.LongTensor` of shape `(records, kept)`): indices of the tokens that are not, in their order.
        kept_mask (`torch.BoolTensor` of shape `(records, kept)`): false where a record keeps fewer, so that the index
            is a filling.
        place (`torch.LongTensor` of shape `(records, tokens)`): place of each token among its record's kept ones; of
            others any place.
        visible (`torch.BoolTensor` of shape `(records, tokens)`): true where a real token is kept.
    """

    masked: torch.Tensor
    kept: torch.Tensor
    kept_mask: torch.Tensor
    place: torch.Tensor
    visible: torch.Tensor


def count_masked(tokens: int, mask_ratio: float) -> int:
    """Return how many of a number of real tokens are masked: the share, rounded half up, but never all of them."""
    return max(min(math.floor(tokens * mask_ratio + 0.5), tokens - 1), 0)


def choose_masked(noise: torch.Tensor, mask_ratio: float, real: torch.Tensor) -> MaskedTokens:
    """Mask the share `mask_ratio` of each record's real tokens: those with the highest scores.

    Of equal scores the earlier token is masked first.

    Args:
        noise (`torch.FloatTensor` of shape `(records, tokens)`): finite scores.
        mask_ratio (`float`): share of the real tokens; [`count_masked`] tells the number.
        real (`torch.BoolTensor` of shape `(records, tokens)`): tokens that may be masked or kept; others are neither.

    Returns:
        [`MaskedTokens`]
    """
    tokens = noise.shape[1]
    counts = [count_masked(count, mask_ratio) for count in range(tokens + 1)]
    order = noise.masked_fill(~real, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    count = torch.tensor(counts, device=noise.device)[real.sum(dim=1)]
    masked = rank < count[:, None]
    visible = real & ~masked
    most = tokens - counts[-1]
    kept = (~visible).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    return MaskedTokens(masked, kept, visible.gather(1, kept), (visible.cumsum(dim=1) - 1).clamp(min=0), visible)


__all__ = ["MaskedTokens", "choose_masked", "count_masked", "make_fixed_noise", "make_mask_noise"]
