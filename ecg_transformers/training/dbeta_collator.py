"""Batches for the pretraining of D-BETA: records with their own or a mismatched report, both partly hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .augmentation_settings import AugmentationSettings, augment_records
from .data import joint_seed
from .lead_masking import mask_leads
from .negative_sampling import NegativeReports
from .reports import clean_report, split_statements
from .row_randomness import row_uniforms
from .text_masking import MASK_TOKEN, ReportMasker

# The original cuts reports to two tokens fewer than its largest text.
MAX_TEXT_SIZE = 256
STATEMENTS = ("all", "one")


class DBetaPretrainingCollator:
    """Turn rows of a corpus with reports into a batch for `DBetaForPreTraining`.

    The order matters: a report is cleaned, then swapped for a mismatched one, and only then tokenised and corrupted,
    so what the model reads and what it has to restore are of the report that `is_aligned` speaks of. (The public
    implementation corrupts the original report after the swap, which undoes it.)

    All random choices but the window come from the row's own seed, so they do not depend on the rest of the batch.

    Args:
        extractor (`ECGFeatureExtractor`): the model's.
        tokenizer: the model's, a T5 tokenizer.
        negatives (`NegativeReports`, *optional*): the bank for mismatched reports; without it none is swapped.
        negative_share (`float`, *optional*, defaults to 0.5): probability of a mismatched report.
        mlm_probability (`float`, *optional*, defaults to 0.25): of hiding a token, see `ReportMasker`.
        mask_token (`str`, *optional*, defaults to `"<extra_id_0>"`): see `ReportMasker`.
        lead_mask_probability (`float`, *optional*, defaults to 0.5): of zeroing a lead, see `mask_leads`.
        keep_one_lead (`bool`, *optional*, defaults to `False`): never zero all leads.
        windows (`str`, *optional*, defaults to `"random"`): which window of a longer record: `"random"` or `"first"`.
        statements (`str`, *optional*, defaults to `"all"`): `"one"` takes one statement of each report at random, as
            ConVIRT takes a sentence (arXiv 2010.00747; here commas separate too), so that the text encoder learns
            what a finding means by itself; D-BETA takes `"all"`, the whole report.
        max_text_size (`int`, *optional*, defaults to 256): reports are cut to two tokens fewer, `</s>` included.
        count_tokens (callable, *optional*): from samples to ECG tokens (`config.ecg_config.count_tokens`). With it the
            batch says by `noise` which ECG tokens are removed, and that too belongs to the row.
        augmentations (`AugmentationSettings`, *optional*): disturb the records, before the extractor.

    Raises:
        ValueError: for a share outside [0, 1] or an unknown choice of windows.

    Example:
        >>> collate = DBetaPretrainingCollator(extractor, tokenizer, NegativeReports(reports, TfidfEmbedder(reports)))
        >>> batch = collate([{"ecg": record, "report": "Sinus rhythm.", "window_seed": 0}, ...])
        >>> outputs = model(**batch)
    """

    def __init__(
        self,
        extractor: Any,
        tokenizer: Any,
        negatives: NegativeReports | None = None,
        negative_share: float = 0.5,
        mlm_probability: float = 0.25,
        mask_token: str = MASK_TOKEN,
        lead_mask_probability: float = 0.5,
        keep_one_lead: bool = False,
        windows: str = "random",
        statements: str = "all",
        max_text_size: int = MAX_TEXT_SIZE,
        count_tokens: Callable[[int], int] | None = None,
        augmentations: AugmentationSettings | None = None,
    ):
        if windows not in ("first", "random"):
            raise ValueError(f"windows must be 'first' or 'random'; got {windows!r}.")
        if statements not in STATEMENTS:
            raise ValueError(f"statements must be {' or '.join(map(repr, STATEMENTS))}; got {statements!r}.")
        if not 0 <= negative_share <= 1:
            raise ValueError(f"The share of mismatched reports lies in [0, 1]; got {negative_share}.")
        if max_text_size < 4:
            raise ValueError(f"max_text_size must leave room for a token and the end; got {max_text_size}.")
        self.extractor = extractor
        self.tokenizer = tokenizer
        self.negatives = negatives
        self.negative_share = negative_share
        self.masker = ReportMasker(tokenizer, mlm_probability, mask_token)
        self.lead_mask_probability = lead_mask_probability
        self.keep_one_lead = keep_one_lead
        self.windows = windows
        self.statements = statements
        self.max_text_size = max_text_size
        self.count_tokens = count_tokens
        self.augmentations = augmentations or AugmentationSettings()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            rows (sequence of mappings): `ecg` (an `ECGRecord`), `report` (`str`), and, for reproducible choices,
                `window_seed` (`int`).

        Returns:
            `dict[str, torch.Tensor]`: `input_values` `(records, leads, samples)` with leads zeroed; `attention_mask`
            `(records, samples)`, where a record is shorter than the window; `input_ids` and `text_attention_mask`
            `(records, text tokens)`, the corrupted report; `labels` of that shape, the hidden tokens, -100 elsewhere;
            `is_aligned` `(records,)`, 1 for a record's own report and 0 for a mismatched one; and with `count_tokens`
            `noise` `(records, ECG tokens)`.
        """
        seeds = [row["window_seed"] if "window_seed" in row else int(torch.randint(2**31, ())) for row in rows]
        reports, is_aligned = self.choose_reports([row["report"] for row in rows], seeds)
        if self.statements == "one":
            reports = self.pick_statements(reports, seeds)
        text = self.tokenizer(
            reports,
            padding=True,
            # The model pools the first token.
            padding_side="right",
            truncation=True,
            max_length=self.max_text_size - 2,
            return_tensors="pt",
        )
        uniforms = row_uniforms(seeds, "text", text.input_ids.shape[1], 3)
        input_ids, labels = self.masker(text.input_ids, text.attention_mask, uniforms)

        features = self.extractor(
            augment_records([row["ecg"] for row in rows], self.augmentations, seeds),
            windows=self.windows,
            generator=torch.Generator().manual_seed(joint_seed(seeds)),
            return_tensors="pt",
        )
        values = features["input_values"]
        values = mask_leads(
            values,
            self.lead_mask_probability,
            self.keep_one_lead,
            row_uniforms(seeds, "leads", values.shape[1]),
        )
        batch = {"input_values": values}
        # Without padding the mask says nothing, and attention without a mask is faster.
        if not features["attention_mask"].all():
            batch["attention_mask"] = features["attention_mask"]
        batch.update(
            input_ids=input_ids, text_attention_mask=text.attention_mask, labels=labels, is_aligned=is_aligned
        )
        if self.count_tokens is not None:
            batch["noise"] = row_uniforms(seeds, "tokens", self.count_tokens(values.shape[-1]))
        return batch

    def choose_reports(self, reports: Sequence[str], seeds: Sequence[int]) -> tuple[list[str], torch.Tensor]:
        """Clean the reports and swap some of them.

        Args:
            reports (sequence of `str`): those of the records.
            seeds (sequence of `int`): one for each record.

        Returns:
            `tuple` of the reports, `list[str]`, and a `torch.Tensor` of shape `(records,)`: 1.0 where the report is
            the record's own, else 0.0.
        """
        cleaned = [clean_report(report) for report in reports]
        is_aligned = torch.ones(len(cleaned))
        if self.negatives is None:
            return cleaned, is_aligned
        chance, choice = row_uniforms(seeds, "report", 2).unbind(-1)
        swapped = (chance < self.negative_share).nonzero().flatten()
        drawn = self.negatives.draw([cleaned[row] for row in swapped.tolist()], choice[swapped])
        for row, report in zip(swapped.tolist(), drawn, strict=True):
            cleaned[row] = report
        is_aligned[swapped] = 0.0
        return cleaned, is_aligned

    def pick_statements(self, reports: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Return one statement of each report, drawn uniformly."""
        picked = []
        for report, uniform in zip(reports, row_uniforms(seeds, "statement").tolist(), strict=True):
            statements = split_statements(report)
            picked.append(statements[min(int(uniform * len(statements)), len(statements) - 1)])
        return picked
