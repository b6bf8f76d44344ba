"""Alignment and uniformity of embeddings: what a contrastive loss does to them.

Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere"
(arXiv 2005.10242): alignment is how close the two views of a record are, uniformity how evenly records spread over the
sphere. Lower is better for both; embeddings that have collapsed to a point have the best alignment, 0, and the worst
uniformity, 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

# From what `measure_views` sums up to the measures of the paper
FINISH_MEASURES = {"uniformity": math.log}


def alignment(first: torch.Tensor, second: torch.Tensor, alpha: float = 2.0) -> torch.Tensor:
    """Return the mean over records of the distance of their two views to the power `alpha`.

    Args:
        first, second (`torch.Tensor` of shape `(records, size)`): L2-normalised embeddings of the views.
        alpha (`float`, *optional*, defaults to 2): the paper's; then the value lies in [0, 4].

    Returns:
        `torch.Tensor`: a number; NaN without records.
    """
    return (first - second).norm(dim=-1).pow(alpha).mean()


def uniformity(embeds: torch.Tensor, t: float = 2.0) -> torch.Tensor:
    """Return the logarithm of the mean over pairs of different records of `exp(-t d^2)` with their distance `d`.

    Args:
        embeds (`torch.Tensor` of shape `(records, size)`): L2-normalised.
        t (`float`, *optional*, defaults to 2): the paper's; then the value lies in [-8, 0].

    Returns:
        `torch.Tensor`: a number; NaN with fewer than two records.
    """
    return _potentials(embeds, t).mean().log()


def measure_views(view_embeds: torch.Tensor) -> Mapping[str, tuple[torch.Tensor, int]]:
    """Sum up a batch for its `alignment` and `uniformity`, so that batches can be pooled.

    Args:
        view_embeds (`torch.Tensor` of shape `(records, 2, size)`): L2-normalised.

    Returns:
        `dict`: name -> (sum, count). The mean of `alignment` is the measure; that of `uniformity` its exponential (see
        `FINISH_MEASURES`), over the pairs of different records within a batch, of the first views and of the second
        ones. Without a pair its count is 0.
    """
    view_embeds = view_embeds.detach().float()
    first, second = view_embeds.unbind(1)
    records = len(first)
    potentials = torch.cat([_potentials(first, 2.0), _potentials(second, 2.0)])
    return {
        "alignment": (alignment(first, second) * records, records),
        "uniformity": (potentials.sum(), len(potentials)),
    }


def _potentials(embeds: torch.Tensor, t: float) -> torch.Tensor:
    # By matrix products distances of near points would come out wrong.
    squared = torch.cdist(embeds, embeds, compute_mode="donot_use_mm_for_euclid_dist").square()
    above = torch.ones_like(squared, dtype=torch.bool).triu(1)
    return squared[above].mul(-t).exp()
