"""Random lead masking: a model that has seen leads go missing can do without them."""

from __future__ import annotations

import torch


def mask_leads(
    input_values: torch.Tensor,
    probability: float = 0.5,
    keep_one: bool = False,
    uniforms: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Set each lead of each record to zero with a probability of its own, as in the pretraining of D-BETA and ECG-FM.

    Args:
        input_values (`torch.Tensor` of shape `(records, leads, samples)`): the records.
        probability (`float`, *optional*, defaults to 0.5): of losing a lead.
        keep_one (`bool`, *optional*, defaults to `False`): leave one lead where all would go. The originals let all
            go, with 12 leads at 0.5 once in 4096 records.
        uniforms (`torch.Tensor` of shape `(records, leads)`, *optional*): numbers in [0, 1) that decide: a lead whose
            number is below `probability` goes.
        generator (`torch.Generator`, *optional*): draws the numbers where they are not given.

    Returns:
        `torch.Tensor`: a masked copy.

    Raises:
        ValueError: for another shape, or a probability outside [0, 1].

    Example:
        >>> masked = mask_leads(batch.input_values, generator=torch.Generator().manual_seed(0))
    """
    if input_values.ndim != 3:
        raise ValueError(f"Lead masking takes (records, leads, samples); got shape {tuple(input_values.shape)}.")
    if not 0 <= probability <= 1:
        raise ValueError(f"The probability of masking a lead lies in [0, 1]; got {probability}.")
    shape = input_values.shape[:2]
    if uniforms is None:
        uniforms = torch.rand(shape, generator=generator)
    elif uniforms.shape != shape:
        raise ValueError(f"`uniforms` needs the shape {tuple(shape)}; got {tuple(uniforms.shape)}.")
    kept = uniforms >= probability
    if keep_one:
        last = torch.zeros_like(kept).scatter_(1, uniforms.argmax(1, keepdim=True), True)
        kept |= last & ~kept.any(1, keepdim=True)
    # Not a product: NaN times zero is NaN.
    return input_values.masked_fill(~kept.to(input_values.device)[..., None], 0.0)
