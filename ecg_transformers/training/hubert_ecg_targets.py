"""What HuBERT-ECG is pretrained on: rows of the model, the tokens to hide, and the codes to find for them.

Codes come with the batch. Those of shards (the first iteration) are computed from the preprocessed leads where the
batch is made; those of a teacher (later iterations) from the rows, by a frozen model, where the trained one is.
"""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from torch import nn
from torch.utils.data import IterableDataset

from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor
from ..feature_extraction.signal_steps import SignalBatch, apply_recipe
from ..models.hubert_ecg.configuration_hubert_ecg import HubertECGConfig
from ..models.hubert_ecg.modeling_hubert_ecg import HubertECGModel, find_real_tokens
from .augmentation_settings import AugmentationSettings, augment_records
from .codebooks import CodebookSet
from .data import CorpusSplit, joint_seed
from .row_randomness import row_uniforms
from .shard_descriptors import DESCRIPTORS, INPUT_RATE, INPUT_SAMPLES, NUM_SHARDS, describe_shards, real_shards

# Folder of the frozen model beside the codebooks that were made with it.
TEACHER_FOLDER = "teacher"

_JOINING = "concatenate_leads"


class NamedSplit(CorpusSplit):
    """One split of a corpus whose random numbers follow from the records' names, not from their places.

    So a record is treated alike in whatever order and from whatever source (a file in memory, a stream) it comes.

    Args:
        dataset (`datasets.Dataset`): a split.
        seed (`int`, *optional*, defaults to 0): seed of the run.
    """

    def __init__(self, dataset: Any, seed: int = 0):
        super().__init__(dataset, seed, ("ecg", "record_id"))

    def _with_seed(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        return with_named_seed(row, self.seed, self.epoch, index)


def with_named_seed(row: dict[str, Any], seed: int, epoch: int, index: int) -> dict[str, Any]:
    """Return a row with its `window_seed`, from its `record_id`, or its place where it has none."""
    name = row.get("record_id")
    number = index if name is None else zlib.crc32(str(name).encode())
    return {**row, "window_seed": int(np.random.SeedSequence((seed, epoch, number)).generate_state(1)[0])}


class NamedStream(IterableDataset):
    """A split that is read one record after the other, with the seeds of `NamedSplit`.

    Args:
        stream (`datasets.IterableDataset`): a split.
        seed (`int`, *optional*, defaults to 0): seed of the run.
        shuffle_buffer (`int`, *optional*, defaults to 0): records among which the next one is drawn.
        repeat (`bool`, *optional*, defaults to `False`): begin again at the end, for ever, each time with other
            windows and, with a buffer, in another order. A run that is resumed reads again what it has seen, and so
            finds its place.
    """

    def __init__(self, stream: Any, seed: int = 0, shuffle_buffer: int = 0, repeat: bool = False):
        self.stream = stream.select_columns(["ecg", "record_id"])
        if shuffle_buffer:
            self.stream = self.stream.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.seed = seed
        self.repeat = repeat

    def share(self, process: int, processes: int) -> NamedStream:
        """Return the part of one of several processes: shards of its own, or else every so many-th record."""
        part = copy.copy(self)
        part.stream = split_dataset_by_node(self.stream, rank=process, world_size=processes)
        return part

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for epoch in itertools.count() if self.repeat else range(1):
            self.stream.set_epoch(epoch)
            empty = True
            for index, row in enumerate(self.stream):
                empty = False
                yield with_named_seed(row, self.seed, epoch, index)
            if empty:
                return


class LeadsAndRows:
    """The model's preprocessing in two halves: leads of 5 s at 500 Hz, and from them the model's rows.

    Args:
        extractor (`ECGFeatureExtractor`): the model's; its recipe has a step `concatenate_leads`.

    Raises:
        ValueError: if it has none, or its leads are not 5 s at 500 Hz before it.
    """

    def __init__(self, extractor: ECGFeatureExtractor):
        steps = [entry["step"] for entry in extractor.recipe]
        if _JOINING not in steps:
            raise ValueError(
                f"Shards are cut from the leads before they are laid end to end; the recipe {steps} has no step "
                f"{_JOINING!r}. HuBERT-ECG's recipes have it."
            )
        place = steps.index(_JOINING)
        self.rest = copy.deepcopy(extractor.recipe[place:])
        self.leads = ECGFeatureExtractor(
            recipe=copy.deepcopy(extractor.recipe[:place]), lead_names=extractor.lead_names
        )
        samples = round(self.leads.sampling_rate * (self.leads.window_seconds or 0))
        if self.leads.sampling_rate != INPUT_RATE or samples != INPUT_SAMPLES:
            raise ValueError(
                f"Shards are cut from {INPUT_SAMPLES} samples at {INPUT_RATE} Hz; the recipe makes {samples} samples "
                f"at {self.leads.sampling_rate:g} Hz before {_JOINING!r}."
            )

    def __call__(
        self, records: Sequence[Any], windows: str = "first", generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Preprocess records.

        Args:
            records (sequence of `ECGRecord`): of any rate and length.
            windows (`str`, *optional*, defaults to `"first"`): `"first"`, `"random"` or `"all"`.
            generator (`torch.Generator`, *optional*): of random windows.

        Returns:
            `tuple` of `torch.Tensor`: leads `(rows, 12, 2500)`, which of their samples are real `(rows, 2500)`, the
            model's rows `(rows, samples)` and which of theirs are real `(rows, samples)`.
        """
        features = self.leads(records, windows=windows, generator=generator, return_tensors="pt")
        leads, real = features["input_values"], features["attention_mask"].bool()
        batch = SignalBatch(leads, float(self.leads.sampling_rate), real, torch.arange(len(leads)))
        rows = apply_recipe(batch, self.rest)
        return leads, real, rows.signal.to(torch.float32), rows.valid


def draw_token_mask(seeds: Sequence[int], allowed: torch.Tensor, probability: float) -> torch.Tensor:
    """Choose the tokens that a model does not see, one by one, as many as `probability` says of those allowed.

    The fraction of a token is rounded up or down at random. A row's choice depends on its seed alone.

    Args:
        seeds (sequence of `int`): of the rows.
        allowed (`torch.BoolTensor` of shape `(rows, tokens)`): tokens that may be masked: the real ones.
        probability (`float`): share of the tokens to mask.

    Returns:
        `torch.BoolTensor` of shape `(rows, tokens)`.
    """
    numbers = row_uniforms(seeds, "token mask", allowed.shape[1] + 1)
    wanted = (allowed.sum(1) * probability + numbers[:, 0]).long()
    ranks = numbers[:, 1:].masked_fill(~allowed, -1.0).argsort(1, descending=True).argsort(1)
    return ranks < wanted[:, None]


def check_recipe(codebooks: CodebookSet | None, extractor: ECGFeatureExtractor) -> None:
    """Make sure that descriptors are computed in training as they were for clustering.

    Raises:
        ValueError: if the model's recipe is another one than that of the codebooks.
    """
    recipe = codebooks.descriptors.get("recipe") if codebooks is not None else None
    if recipe is not None and recipe != extractor.recipe:
        raise ValueError(
            "The codebooks were made with another preprocessing than the model's, so their codes would not mean the "
            f"same: {_differing(recipe, extractor.recipe)}. Cluster with `--like` the model, or train with `--recipe`."
        )


def _differing(first: Sequence[Any], second: Sequence[Any]) -> str:
    if len(first) != len(second):
        return f"{len(first)} steps and {len(second)}"
    one, other = next((one, other) for one, other in zip(first, second, strict=True) if one != other)
    return f"{one} and {other}"


class HubertECGCollator:
    """Turn rows of a corpus into a batch for `HubertECGForPreTraining`.

    Args:
        extractor (`ECGFeatureExtractor`): the model's.
        config (`HubertECGConfig`): of the model: which tokens are real, and `mask_time_prob`.
        codebooks (`CodebookSet`, *optional*): over shard descriptors; gives `labels`. Codes of a teacher are added
            where the model is, see `Teacher`.
        windows (`str`, *optional*, defaults to `"random"`): `"random"` or `"first"`.
        augmentations (`AugmentationSettings`, *optional*): disturb what the model sees. Codes are those of the
            undisturbed records.

    Raises:
        ValueError: for another choice of windows, a model that does not make 93 tokens of a row, or codebooks whose
            descriptors were made with another recipe.
    """

    def __init__(
        self,
        extractor: ECGFeatureExtractor,
        config: HubertECGConfig,
        codebooks: CodebookSet | None = None,
        windows: str = "random",
        augmentations: AugmentationSettings | None = None,
    ):
        if windows not in ("first", "random"):
            raise ValueError(f"windows must be 'first' or 'random'; got {windows!r}.")
        self.preprocess = LeadsAndRows(extractor)
        self.config = config
        self.codebooks = codebooks
        self.windows = windows
        self.augmentations = augmentations or AugmentationSettings()
        self.shard_rate = int(extractor.sampling_rate)
        samples = 12 * 5 * self.shard_rate
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            samples = (samples - kernel) // stride + 1
        check_recipe(codebooks, extractor)
        if codebooks is not None and samples != NUM_SHARDS:
            raise ValueError(
                f"The model makes {samples} tokens of a row, but there are codes for {NUM_SHARDS} shards. Its "
                "convolutions must be those of HuBERT-ECG at the recipe's rate."
            )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            rows (sequence of mappings): `ecg` (an `ECGRecord`), `window_seed` (`int`) and, where they are known
                already, `codes` `(codebooks, tokens)`.

        Returns:
            `dict[str, torch.Tensor]`: `input_values` `(records, samples)`, `attention_mask` where a record is padded,
            `mask_time_indices` `(records, tokens)`, with codebooks `labels` `(records, codebooks, tokens)`, -100 where
            a shard or token is not all real, and with augmentations but no codebooks `undisturbed_values`, for a
            teacher.
        """
        seeds, records = [row["window_seed"] for row in rows], [row["ecg"] for row in rows]
        leads, real, values, valid = self._preprocess(records, seeds)
        undisturbed = values
        disturbed = augment_records(records, self.augmentations, seeds)
        if self.augmentations.augmentations:
            values = self._preprocess(disturbed, seeds)[2]
        tokens = find_real_tokens(valid, self.config)
        batch = {
            "input_values": values,
            "mask_time_indices": draw_token_mask(seeds, tokens, self.config.mask_time_prob),
        }
        # Without padding the mask says nothing, and attention without a mask is faster.
        if not valid.all():
            batch["attention_mask"] = valid.long()
        if "codes" in rows[0]:
            batch["labels"] = torch.from_numpy(np.stack([row["codes"] for row in rows]))
        elif self.codebooks is None and values is not undisturbed:
            batch["undisturbed_values"] = undisturbed
        elif self.codebooks is not None:
            described = describe_shards(leads, self.codebooks.descriptors["kind"], self.shard_rate)
            known = (tokens & real_shards(real, self.shard_rate))[:, None]
            batch["labels"] = self.codebooks.assign(described).masked_fill(~known, -100)
        return batch

    def _preprocess(self, records: Sequence[Any], seeds: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Preprocess records in the windows that the seeds decide."""
        return self.preprocess(records, self.windows, torch.Generator().manual_seed(joint_seed(seeds)))


class Teacher(nn.Module):
    """A frozen HuBERT-ECG whose hidden states are the descriptors of tokens.

    Only the layers that are needed are kept.

    Args:
        model (`HubertECGModel`): at least `layer + 1` layers.
        layer (`int`): number of the encoder layer, from 0, whose output describes the tokens.
    """

    def __init__(self, model: HubertECGModel, layer: int):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.layer = layer

    @classmethod
    def load(cls, folder: str | Path, layer: int, revision: str | None = None) -> Teacher:
        """Open a HuBERT-ECG, pretrained or fine-tuned, as a teacher.

        Raises:
            ValueError: if there is no HuBERT-ECG, or it has no such layer.
        """
        from .arguments import ModelArguments
        from .building import load_config, load_weights

        arguments = ModelArguments(model_name_or_path=str(folder), revision=revision)
        config = load_config(arguments)
        if not isinstance(config, HubertECGConfig):
            raise ValueError(
                f"{folder} holds a {config.model_type} model; targets come from the layers of a hubert_ecg."
            )
        if not 0 <= layer < config.num_hidden_layers:
            raise ValueError(f"--layer {layer}: {folder} has the layers 0 to {config.num_hidden_layers - 1}.")
        config.num_hidden_layers = layer + 1
        model, _ = load_weights(arguments, config, HubertECGModel)
        return cls(model, layer)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode: a teacher says the same thing every time."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the descriptors of rows, `(rows, tokens, hidden_size)`."""
        outputs = self.model(input_values, attention_mask=attention_mask, output_hidden_states=True)
        return outputs.hidden_states[self.layer + 1]

    @torch.no_grad()
    def labels(self, batch: Mapping[str, torch.Tensor], codebooks: CodebookSet) -> torch.Tensor:
        """Return the codes of a batch, `(rows, codebooks, tokens)`, -100 where a token is not all real."""
        mask = batch.get("attention_mask")
        labels = codebooks.assign(self(batch.get("undisturbed_values", batch["input_values"]), mask))
        if mask is not None:
            labels = labels.masked_fill(~self.model.get_token_mask(mask)[:, None], -100)
        return labels


def open_targets(folder: str | Path) -> tuple[CodebookSet, Teacher | None]:
    """Open codebooks, and the teacher beside them where their descriptors are hidden states.

    Raises:
        ValueError: if the folder holds no codebooks, or codebooks of descriptors that this package does not know.
    """
    codebooks = CodebookSet.load(folder)
    kind = codebooks.descriptors.get("kind")
    if kind in DESCRIPTORS:
        return codebooks, None
    if kind != "hidden_states":
        raise ValueError(f"{folder}: descriptors are {', '.join(DESCRIPTORS)} or hidden_states; found {kind!r}.")
    layer = codebooks.descriptors.get("layer")
    if not isinstance(layer, int):
        raise ValueError(f"{folder}: codebooks over hidden states name the layer; found {layer!r}.")
    if not (Path(folder) / TEACHER_FOLDER).is_dir():
        raise ValueError(
            f"{folder} lacks the folder {TEACHER_FOLDER!r} with the model whose hidden states were clustered. Copy it "
            "too, or cluster again."
        )
    return codebooks, Teacher.load(Path(folder) / TEACHER_FOLDER, layer)
