"""Pairs of segments of a patient, which the pretraining of DeepECG-SSL tells from those of other patients.

CMSC contrasts adjacent segments of a recording (Kiyasseh et al., arXiv 2005.13249). ECG-FM, pretrained in the same
way, reads 5 s, half of a common recording; what DeepECG-SSL's own pretraining took for a segment is not published.
Hence the default here, the two halves of 10 s. Pairs of two recordings of a patient are the other choice.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from ..models.deepecg_ssl.configuration_deepecg_ssl import DeepECGSSLConfig
from ..models.deepecg_ssl.modeling_deepecg_ssl import draw_negatives, draw_span_mask, find_real_tokens
from .augmentation_settings import AugmentationSettings, augment_records
from .data import CorpusSplit, joint_seed
from .lead_masking import mask_leads
from .row_randomness import row_uniforms
from .task import patient_numbers

KINDS = ("halves", "records")


class SegmentPairs(CorpusSplit):
    """One split of a corpus, each row with what makes a pair of segments.

    Args:
        dataset (`datasets.Dataset`): a split.
        seed (`int`, *optional*, defaults to 0): seed of the run.
        kind (`str`, *optional*, defaults to `"halves"`): `"halves"`: a row is a recording, which the collator cuts in
            two; `"records"`: a row is a patient with two or more recordings, of which each epoch draws two. Patients
            with one recording are left out.

    Raises:
        ValueError: for another kind, or if no patient has two recordings.

    Attributes:
        source (`datasets.Dataset`): the split with all its columns.
        patients (`np.ndarray`): a number for each recording, equal for those of one patient.
        num_patients (`int`): patients that take part.
        num_left_out (`int`): recordings that do not.
    """

    def __init__(self, dataset: Any, seed: int = 0, kind: str = "halves"):
        if kind not in KINDS:
            raise ValueError(f"Pairs of segments are one of {', '.join(KINDS)}; got {kind!r}.")
        super().__init__(dataset, seed, ("ecg",))
        self.source = dataset
        self.kind = kind
        self.patients = patient_numbers(dataset)
        if kind == "halves":
            self.rows_of_patient = None
            self.num_patients, self.num_left_out = len(set(self.patients.tolist())), 0
            return
        order = np.argsort(self.patients, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self.patients[order])) + 1)
        self.rows_of_patient = [rows for rows in groups if len(rows) > 1]
        if not self.rows_of_patient:
            raise ValueError(
                f"None of the {len(groups)} patients has two recordings, so there are no pairs of recordings; pair "
                "the halves of each recording instead."
            )
        self.num_patients = len(self.rows_of_patient)
        self.num_left_out = len(self.patients) - sum(map(len, self.rows_of_patient))

    def __len__(self) -> int:
        return len(self.patients) if self.rows_of_patient is None else len(self.rows_of_patient)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows with `ecgs` (one or two `ECGRecord`), `patient` (`int`) and `window_seed` (`int`)."""
        rows = [self._with_seed({}, int(index)) for index in indices]
        chosen = [self._choose(int(index), row["window_seed"]) for index, row in zip(indices, rows, strict=True)]
        numbers = [number for pair in chosen for number in pair]
        ecgs = iter(self.dataset[numbers]["ecg"])
        return [
            {**row, "ecgs": [next(ecgs) for _ in pair], "patient": int(self.patients[pair[0]])}
            for row, pair in zip(rows, chosen, strict=True)
        ]

    def _choose(self, index: int, seed: int) -> list[int]:
        if self.rows_of_patient is None:
            return [index]
        rows = self.rows_of_patient[index]
        return [int(row) for row in np.random.default_rng((seed, 1)).choice(rows, 2, replace=False)]


class SegmentPairCollator:
    """Turn rows of `SegmentPairs` into a batch for `DeepECGSSLForPreTraining`.

    A batch has two rows for each pair, one after the other. Which leads are hidden comes from the pair's own seed, so
    it does not depend on the rest of the batch.

    Args:
        extractor (`ECGFeatureExtractor`): the model's.
        segment_seconds (`float`, *optional*, defaults to 5): length of a half; the extractor's window becomes twice as
            long. Pairs of recordings have the extractor's own window.
        lead_mask_probability (`float`, *optional*, defaults to 0.5): of zeroing a lead, see `mask_leads`.
        keep_one_lead (`bool`, *optional*, defaults to `False`): never zero all leads.
        windows (`str`, *optional*, defaults to `"random"`): which window of a longer recording: `"random"` or
            `"first"`.
        masks_for (`DeepECGSSLConfig`, *optional*): draw masked tokens and negatives too, from the batch's seeds, as
            evaluation needs; in training the model draws them.
        augmentations (`AugmentationSettings`, *optional*): disturb each recording, before it is cut in two.

    Raises:
        ValueError: for an unknown choice of windows or a segment without length.

    Example:
        >>> collate = SegmentPairCollator(extractor)
        >>> outputs = model(**collate([{"ecgs": [record], "patient": 0, "window_seed": 0}, ...]))
    """

    def __init__(
        self,
        extractor: ECGFeatureExtractor,
        segment_seconds: float = 5.0,
        lead_mask_probability: float = 0.5,
        keep_one_lead: bool = False,
        windows: str = "random",
        masks_for: DeepECGSSLConfig | None = None,
        augmentations: AugmentationSettings | None = None,
    ):
        if windows not in ("first", "random"):
            raise ValueError(f"windows must be 'first' or 'random'; got {windows!r}.")
        if not segment_seconds > 0:
            raise ValueError(f"A segment needs a length in seconds; got {segment_seconds}.")
        self.extractor = extractor
        self.extractor_of_both = with_window(extractor, 2 * segment_seconds)
        self.lead_mask_probability = lead_mask_probability
        self.keep_one_lead = keep_one_lead
        self.windows = windows
        self.masks_for = masks_for
        self.augmentations = augmentations or AugmentationSettings()

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            rows (sequence of mappings): `ecgs` (one `ECGRecord` to cut in two, or two), `patient` (`int`), and, for
                reproducible choices, `window_seed` (`int`).

        Returns:
            `dict[str, torch.Tensor]`: `input_values` `(2 pairs, leads, samples)` with leads zeroed; `attention_mask`
            `(2 pairs, samples)`, where a segment is shorter than the longest can be; `patient_ids` and `segments`
            `(2 pairs,)`; and with `masks_for` `mask_time_indices` and `negative_indices`.
        """
        seeds = [row["window_seed"] if "window_seed" in row else int(torch.randint(2**31, ())) for row in rows]
        cut = all(len(row["ecgs"]) == 1 for row in rows)
        ecgs = augment_records(
            [ecg for row in rows for ecg in row["ecgs"]],
            self.augmentations,
            [2 * seed + place for row, seed in zip(rows, seeds, strict=True) for place in range(len(row["ecgs"]))],
        )
        features = (self.extractor_of_both if cut else self.extractor)(
            ecgs,
            windows=self.windows,
            generator=torch.Generator().manual_seed(joint_seed(seeds)),
            return_tensors="pt",
        )
        values, mask = features["input_values"], features["attention_mask"]
        if cut:
            values, mask = cut_in_halves(values, mask)
        uniforms = row_uniforms(seeds, "leads", 2, values.shape[1]).flatten(0, 1)
        batch = {"input_values": mask_leads(values, self.lead_mask_probability, self.keep_one_lead, uniforms)}
        # Without padding the mask says nothing, and attention without a mask is faster.
        if not mask.all():
            batch["attention_mask"] = mask
        batch["patient_ids"] = torch.tensor([row["patient"] for row in rows]).repeat_interleave(2)
        batch["segments"] = torch.tensor([0, 1]).repeat(len(rows))
        if self.masks_for is not None:
            batch |= self._draw_masks(mask, joint_seed([*seeds, 1]))
        return batch

    def _draw_masks(self, mask: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
        config = self.masks_for
        generator = torch.Generator().manual_seed(seed)
        masked = draw_span_mask(
            find_real_tokens(mask, config),
            config.mask_time_prob,
            config.mask_time_length,
            config.mask_time_min_masks,
            generator,
        )
        negatives = draw_negatives(masked.sum(dim=1), config.num_negatives, generator)
        return {"mask_time_indices": masked, "negative_indices": negatives}


def with_window(extractor: ECGFeatureExtractor, seconds: float) -> ECGFeatureExtractor:
    """Return an extractor that cuts windows of another length; one whose recipe cuts none stays as it is."""
    recipe = copy.deepcopy(extractor.recipe)
    for step in recipe:
        if step["step"] == "crop":
            step["seconds"] = seconds
    return ECGFeatureExtractor(recipe=recipe, lead_names=extractor.lead_names)


def cut_in_halves(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the real part of each row in two halves of the same length.

    Args:
        values (`torch.Tensor` of shape `(rows, leads, samples)`): padded at the end.
        mask (`torch.Tensor` of shape `(rows, samples)`): nonzero where a sample is real.

    Returns:
        `tuple` of `torch.Tensor`: `(2 rows, leads, samples // 2)`, the first half of a row and then its second, with
        zeros behind a half that is shorter than the others, and its mask `(2 rows, samples // 2)` (int64). Of an odd
        number of real samples the last is left out.
    """
    rows, leads, samples = values.shape
    halves = (mask != 0).sum(dim=1) // 2
    place = torch.arange(samples // 2, device=values.device)
    real = (place < halves[:, None])[:, None].expand(-1, 2, -1)
    start = torch.stack([torch.zeros_like(halves), halves], dim=1)
    source = (start[..., None] + place).clamp(max=samples - 1)
    taken = values[:, None].expand(-1, 2, -1, -1).gather(3, source[:, :, None].expand(-1, -1, leads, -1))
    taken = taken.masked_fill(~real[:, :, None], 0.0)
    return taken.flatten(0, 1), real.flatten(0, 1).long()
