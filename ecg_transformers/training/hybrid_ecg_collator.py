"""Batches for the pretraining of Hybrid ECG: a record with masked tokens, and two disturbed views of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..feature_extraction.ecg_leads import arrange_leads
from ..feature_extraction.feature_extraction_ecg import (
    LARGEST_MEDIAN_SPAN,
    SMALLEST_MEDIAN_SPAN,
    ECGFeatureExtractor,
    ECGSignalWarning,
)
from ..models.hybrid_ecg.configuration_hybrid_ecg import HybridECGConfig
from ..models.hybrid_ecg.masking_hybrid_ecg import make_mask_noise
from ..record import ECGRecord
from .augmentation_settings import AugmentationSettings, augment_records
from .augmentations import random_starts
from .segment_pairs import with_window
from .view_sampling import sample_views


class HybridECGCollator:
    """Turn rows of a corpus into a batch for `HybridECGForPreTraining`.

    A record is cut to the recipe's window. What is rebuilt is this window, undisturbed; the views that are contrasted
    are parts of it, disturbed. Both cutting and disturbing come before the recipe, on the signal in mV, so filters and
    scaling see what they would see of such a recording (a window of a longer recording is therefore scaled by itself).
    Everything random follows from the row's seed, whatever else is in the batch.

    A view that cannot be an ECG any more, such as a piece of a line after its electrode fell off, is replaced by its
    undisturbed piece, or else by the whole window.

    Args:
        extractor (`ECGFeatureExtractor`): the model's.
        config (`HybridECGConfig`): the model's. With `contrastive_loss_weight` 0 there are no views.
        view_seconds (`float`, *optional*, defaults to 5): length of a view; not more than the window.
        align (`str`, *optional*, defaults to `"random"`): see `sample_views`.
        augmentations (`AugmentationSettings`, *optional*): of the views; none by default.
        windows (`str`, *optional*, defaults to `"random"`): which window of a longer recording: `"random"` or
            `"first"`.

    Raises:
        ValueError: for an unknown choice of windows, or views shorter than a patch.

    Example:
        >>> collate = HybridECGCollator(extractor, model.config)
        >>> outputs = model(**collate([{"ecg": record, "window_seed": 0}, ...]))
    """

    def __init__(
        self,
        extractor: ECGFeatureExtractor,
        config: HybridECGConfig,
        view_seconds: float = 5.0,
        align: str = "random",
        augmentations: AugmentationSettings | None = None,
        windows: str = "random",
    ):
        if windows not in ("first", "random"):
            raise ValueError(f"windows must be 'first' or 'random'; got {windows!r}.")
        patch_seconds = config.patch_size / extractor.sampling_rate
        if config.contrastive_loss_weight and not view_seconds >= patch_seconds:
            raise ValueError(
                f"A view must hold a patch, which has {config.patch_size} samples at {extractor.sampling_rate:g} Hz, "
                f"{patch_seconds:g} s; got views of {view_seconds:g} s."
            )
        self.extractor = extractor
        self.config = config
        window = extractor.window_seconds
        self.view_seconds = view_seconds if window is None else min(view_seconds, window)
        self.view_extractor = with_window(extractor, self.view_seconds)
        self.align = align
        self.augmentations = augmentations or AugmentationSettings()
        self.windows = windows

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            rows (sequence of mappings): `ecg` (an `ECGRecord`) and, for reproducible choices, `window_seed` (`int`).

        Returns:
            `dict[str, torch.Tensor]`: `input_values` `(records, leads, samples)` and `lead_mask` `(records, leads)`;
            if something is rebuilt (`reconstruction_loss_weight` above 0) `noise` `(records, tokens)`; with views
            `view_values` `(records, 2, leads, samples)`; where there is padding also `attention_mask`
            `(records, samples)` and `view_attention_mask` `(records, 2, samples)`.
        """
        seeds = [row["window_seed"] if "window_seed" in row else int(torch.randint(2**31, ())) for row in rows]
        records = [self._cut_window(row["ecg"], seed) for row, seed in zip(rows, seeds, strict=True)]
        features = self.extractor(records, return_tensors="pt")
        mask = features["attention_mask"]
        batch = {"input_values": features["input_values"], "lead_mask": features["lead_mask"]}
        # Without padding the mask says nothing, and attention without a mask is faster.
        if not mask.all():
            batch["attention_mask"] = mask
        if self.config.reconstruction_loss_weight:
            batch["noise"] = make_mask_noise(self.config, mask.shape[-1], seeds=seeds)
        if self.config.contrastive_loss_weight:
            batch |= self._make_views(records, seeds)
        return batch

    def _cut_window(self, record: ECGRecord, seed: int) -> ECGRecord:
        if self.extractor.window_seconds is None:
            return record
        # Two samples more than the window: of a rate that is no multiple, resampling must not leave one too few.
        length = math.ceil(self.extractor.window_seconds * record.sampling_rate) + 2
        if record.num_samples <= length:
            return record
        start = 0
        if self.windows == "random":
            start = random_starts([seed], "window", [record.num_samples], length)[0]
        signal = record.signal[:, start : start + length]
        return ECGRecord(signal, record.sampling_rate, record.lead_names, {**record.metadata})

    def _make_views(self, records: Sequence[ECGRecord], seeds: Sequence[int]) -> dict[str, torch.Tensor]:
        cut = sample_views(records, self.view_seconds, self.align, seeds=seeds)
        shown = []
        for number, pieces in enumerate(cut):
            disturbed = augment_records(pieces, self.augmentations, [_seed_of_view(seed, number) for seed in seeds])
            for choices in zip(disturbed, pieces, records, strict=True):
                usable = [choice for choice in choices if spans_like_an_ecg(choice, self.extractor.lead_names)]
                # Without any the extractor says what is wrong with the record.
                shown.append((usable or choices[-1:])[0])
        with warnings.catch_warnings():
            # That leads are hidden is meant; of what the records lack the extractor has told.
            warnings.simplefilter("ignore", ECGSignalWarning)
            features = self.view_extractor(shown, return_tensors="pt")
        values, mask = (
            features[name].unflatten(0, (len(cut), len(records))).transpose(0, 1).contiguous()
            for name in ("input_values", "attention_mask")
        )
        return {"view_values": values} | ({} if mask.all() else {"view_attention_mask": mask})


def spans_like_an_ecg(record: ECGRecord, lead_names: Sequence[str]) -> bool:
    """Tell whether `ECGFeatureExtractor` takes the amplitudes of a piece of a record for those of an ECG in mV.

    Args:
        record (`ECGRecord`): the piece.
        lead_names (sequence of `str`): the leads that count.

    Returns:
        `bool`: whether a lead carries signal, and the median span of those that do is within the extractor's limits.
    """
    signal, _ = arrange_leads(record.signal, record.lead_names, lead_names)
    known = np.isfinite(signal)
    signal = signal[known.any(axis=1)]
    if not len(signal):
        return False
    spans = np.nanmax(signal, axis=1) - np.nanmin(signal, axis=1)
    spans = spans[spans > 0]
    return len(spans) > 0 and SMALLEST_MEDIAN_SPAN <= float(np.median(spans)) <= LARGEST_MEDIAN_SPAN


def _seed_of_view(seed: int, number: int) -> int:
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
