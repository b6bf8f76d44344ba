"""What ECG pipelines share: which inputs they take, and batches of recordings instead of padded tensors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from ..feature_extraction.feature_extraction_ecg import MILLIVOLTS_PER_UNIT, ECGFeatureExtractor
from ..readers import read_ecg
from ..record import ECGRecord

# Windows in one forward pass; a long recording has many.
LARGEST_BATCH = 64
_KINDS = "the path of an ECG file, an ECGRecord, an array of shape (leads, samples), or a row with the column `ecg`"


class ECGPipeline(Pipeline):
    """Base of the pipelines over recordings.

    Recordings are read one by one (by `num_workers` processes if asked), and preprocessed and run in batches of
    `batch_size`, so recordings of different lengths, rates and leads share a batch.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.model.eval()

    @property
    def extractor(self) -> ECGFeatureExtractor:
        """The preprocessing of the model."""
        return self.feature_extractor

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Run the pipeline; see the class. A list gives a list; a data set or generator gives an iterator."""
        inputs = _as_pipeline_input(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        return super().__call__(inputs, **kwargs)

    def preprocess(
        self,
        inputs: Any,
        sampling_rate: float | None = None,
        lead_names: Sequence[str] | None = None,
        units: str | None = None,
    ) -> dict[str, list]:
        """Read one recording; what cannot be read becomes its error, for the process that runs the model to judge."""
        try:
            record, name = self._read(inputs, sampling_rate, lead_names, units)
        except (ValueError, OSError, ImportError) as error:
            record, name = error, os.fspath(inputs) if isinstance(inputs, (str, os.PathLike)) else None
        return {"records": [record], "names": [name]}

    def _preprocess_numbered(self, item: tuple[int, Any], **parameters: Any) -> dict[str, list]:
        index, inputs = item
        found = self.preprocess(inputs, **parameters)
        return {**found, "names": [name or f"recording {index}, counted from 0" for name in found["names"]]}

    def _read(
        self, inputs: Any, sampling_rate: float | None, lead_names: Sequence[str] | None, units: str | None
    ) -> tuple[ECGRecord, str | None]:
        if isinstance(inputs, Exception):
            raise inputs
        # A record counts as a mapping once `datasets` knows the `ECG` feature.
        if isinstance(inputs, Mapping) and not isinstance(inputs, ECGRecord) and "ecg" in inputs:
            inputs = inputs["ecg"]
        if isinstance(inputs, ECGRecord):
            name = inputs.metadata.get("record_id")
            return inputs, None if name is None else str(name)
        if isinstance(inputs, (str, os.PathLike)):
            record = read_ecg(inputs, sampling_rate=sampling_rate, lead_names=lead_names, units=units)
            return record, os.fspath(inputs)
        if isinstance(inputs, (np.ndarray, torch.Tensor)):
            return self._record_of_array(inputs, sampling_rate, lead_names, units or "mV"), None
        raise ValueError(f"Expected {_KINDS}; got {type(inputs).__name__}.")

    def _record_of_array(
        self, array: Any, sampling_rate: float | None, lead_names: Sequence[str] | None, units: str
    ) -> ECGRecord:
        array = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array
        if sampling_rate is None:
            raise ValueError("Pass `sampling_rate=` (Hz) with arrays: their rate cannot be told from the samples.")
        if units not in MILLIVOLTS_PER_UNIT:
            raise ValueError(f"Unknown unit {units!r}; expected one of {', '.join(MILLIVOLTS_PER_UNIT)}.")
        if lead_names is None and (array.ndim != 2 or len(array) != len(self.extractor.lead_names)):
            raise ValueError(
                f"Pass `lead_names=`: without them an array has one row for each of {self.extractor.lead_names}; got "
                f"shape {array.shape}."
            )
        signal = np.asarray(array, dtype=np.float64) * MILLIVOLTS_PER_UNIT[units]
        return ECGRecord(signal, sampling_rate, tuple(lead_names or self.extractor.lead_names))

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> PipelineIterator:
        """Batch recordings as lists; transformers' own would pad tensors of equal rank."""
        if hasattr(inputs, "__len__"):
            dataset: Any = PipelineDataset(_Numbered(inputs), self._preprocess_numbered, preprocess_params)
        else:
            # Several processes would each read the whole stream.
            num_workers = min(num_workers, 1)
            dataset = PipelineIterator(_Counted(inputs), self._preprocess_numbered, preprocess_params)
        loader = DataLoader(dataset, num_workers=num_workers, batch_size=batch_size, collate_fn=_joined)
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return _Answers(outputs, self.postprocess, postprocess_params, inputs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save model and processor.

        The pipeline itself is not noted in `config.json`: a folder that names a custom pipeline demands
        `trust_remote_code` even where the task is registered.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        (self.processor or self.feature_extractor).save_pretrained(save_directory, **kwargs)


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Make sure that an argument is one of some words, or not given.

    Raises:
        ValueError: otherwise.
    """
    if value is not None and value not in known:
        raise ValueError(f"`{name}` is {' or '.join(map(repr, known))}; got {value!r}.")


def check_top_k(top_k: int | None) -> None:
    """Make sure that a number of answers is at least 1, or not given.

    Raises:
        ValueError: otherwise.
    """
    if top_k is not None and not (isinstance(top_k, Integral) and top_k >= 1):
        raise ValueError(f"`top_k` must be at least 1, a whole number; got {top_k!r}.")


def only_given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is `None`, so that the defaults of the pipeline and of its functions hold."""
    return {name: value for name, value in parameters.items() if value is not None}


class _Answers(PipelineIterator):
    """Answers one by one; as many as there are recordings, where that is known."""

    def __init__(self, loader: Any, infer: Any, params: dict[str, Any], recordings: Any):
        super().__init__(loader, infer, params)
        self.recordings = recordings

    def __len__(self) -> int:
        return len(self.recordings)


def _joined(items: Sequence[Mapping[str, list]]) -> dict[str, list]:
    return {name: [entry for item in items for entry in item[name]] for name in items[0]}


@dataclass
class _Numbered:
    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.items[index]


@dataclass
class _Counted:
    items: Any

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return enumerate(self.items)


class _Items(Dataset):
    """Recordings by number, read when asked for."""

    def __init__(self, items: Any):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except (ValueError, OSError, ImportError) as error:
            # A row that cannot be decoded; what becomes of it is the pipeline's business.
            return error


class _Stream(IterableDataset):
    """Recordings one after the other."""

    def __init__(self, items: Any):
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def _as_pipeline_input(inputs: Any) -> Any:
    """Bring what people have to the kinds that transformers' `Pipeline` tells apart: list, data set, single input."""
    if isinstance(inputs, (np.ndarray, torch.Tensor)) and inputs.ndim == 3:
        return list(inputs)
    if isinstance(inputs, (list, tuple)):
        return list(inputs)
    if "datasets" in sys.modules:
        import datasets

        if isinstance(inputs, (datasets.DatasetDict, datasets.IterableDatasetDict)):
            raise ValueError(f"Choose one split of the corpus, such as corpus['test']; it has {', '.join(inputs)}.")
        if isinstance(inputs, (datasets.Dataset, datasets.IterableDataset)):
            columns = inputs.column_names
            if columns is not None and "ecg" not in columns:
                raise ValueError(f"A data set of recordings has a column `ecg`; found {', '.join(columns)}.")
            if isinstance(inputs, datasets.Dataset):
                return _Items(inputs.select_columns(["ecg"]))
            return _Stream(inputs)
    if isinstance(inputs, Iterator):
        return _Stream(inputs)
    if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
        return _Items(inputs)
    return inputs
