"""Masked language modelling for T5 tokens."""

from __future__ import annotations

from typing import Any

import torch

IGNORED_LABEL = -100  # what the cross entropy of torch leaves out

# T5 has no mask token. Ours, in place of BERT's [MASK], is the sentinel with which T5 marks its first gap.
MASK_TOKEN = "<extra_id_0>"


class ReportMasker:
    """Hide tokens of reports and remember what they were, as BERT does (arXiv 1810.04805).

    Of all tokens that are neither special nor padding a share is chosen; of those 80 % become the mask token, 10 %
    another token and 10 % stay. The other token is any that is not special (BERT's collator in transformers draws
    from all).

    Args:
        tokenizer: a T5 tokenizer.
        probability (`float`, *optional*, defaults to 0.25): of choosing a token; D-BETA's.
        mask_token (`str`, *optional*, defaults to `"<extra_id_0>"`): must be one token of the tokenizer.

    Raises:
        ValueError: if the tokenizer lacks the mask token, or the probability is outside [0, 1].

    Example:
        >>> masker = ReportMasker(tokenizer)
        >>> input_ids, labels = masker(batch.input_ids, batch.attention_mask, generator=generator)
    """

    def __init__(self, tokenizer: Any, probability: float = 0.25, mask_token: str = MASK_TOKEN):
        if not 0 <= probability <= 1:
            raise ValueError(f"The probability of masking a token lies in [0, 1]; got {probability}.")
        vocabulary = tokenizer.get_vocab()
        if mask_token not in vocabulary:
            raise ValueError(
                f"The tokenizer has no token {mask_token!r} to mask with. T5 tokenizers have it; "
                "train_report_tokenizer makes one from reports."
            )
        self.probability = probability
        self.mask_token_id = vocabulary[mask_token]
        special = {*tokenizer.all_special_ids, self.mask_token_id}
        # Versions of transformers differ in whether sentinels count as special.
        special |= {number for token, number in vocabulary.items() if token.startswith("<extra_id_")}
        self.special_ids = torch.tensor(sorted(special))
        self.ordinary_ids = torch.tensor(sorted(set(vocabulary.values()) - special))
        if not len(self.ordinary_ids):
            raise ValueError("The tokenizer has special tokens only.")

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        uniforms: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask a batch.

        Args:
            input_ids (`torch.Tensor` of shape `(records, tokens)`): the reports.
            attention_mask (`torch.Tensor` of the same shape): 1 for tokens, 0 for padding.
            uniforms (`torch.Tensor` of shape `(records, tokens, 3)`, *optional*): numbers in [0, 1) that decide on
                each token: whether it is chosen, what becomes of it, and which other token.
            generator (`torch.Generator`, *optional*): draws the numbers where they are not given.

        Returns:
            `tuple` of two `torch.Tensor` of shape `(records, tokens)`: the corrupted numbers, and the labels: the
            original number where a token was chosen, -100 elsewhere.
        """
        if uniforms is None:
            uniforms = torch.rand(*input_ids.shape, 3, generator=generator)
        choice, fate, other = uniforms.unbind(-1)
        ordinary = attention_mask.bool() & ~torch.isin(input_ids, self.special_ids)
        chosen = ordinary & (choice < self.probability)
        labels = input_ids.masked_fill(~chosen, IGNORED_LABEL)
        index = (other * len(self.ordinary_ids)).long().clamp(max=len(self.ordinary_ids) - 1)
        corrupted = torch.where(chosen & (fate < 0.8), self.mask_token_id, input_ids)
        corrupted = torch.where(chosen & (fate >= 0.9), self.ordinary_ids[index], corrupted)
        return corrupted, labels
