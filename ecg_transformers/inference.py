"""From files to predictions or embeddings with a model folder: what the commands `predict` and `embed` do."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from .corpora.file_workers import in_order, worker_pool
from .decisions import resolve_thresholds, summarize_groups
from .evaluation import aggregate_windows
from .feature_extraction.feature_extraction_ecg import ECGFeatureExtractor, ECGSignalWarning
from .files import printable
from .input_listing import Entry
from .model_folders import load_feature_extractor, load_model, usable_device
from .readers import ECGReadError, read_ecg
from .readers.folder import is_recording
from .record import ECGRecord

# Samples of all leads that are preprocessed at once: half an hour of twelve leads at 500 Hz, or 180 records of 10 s.
_LARGEST_BATCH = 12 * 500 * 1800

# Batches that wait for each worker process: what is done ahead stays in memory.
_AHEAD = 2

# Different warnings of worker processes that are passed on.
_MOST_WARNINGS = 20

# What a configuration tells beside the model.
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")


@dataclass
class InferenceResult:
    """What came out for one file: `values` on success, `error` otherwise.

    Args:
        path (`str`): the file; bytes of its name that are no UTF-8 are escaped (`files.printable`).
        record_id (`str`, *optional*): the record's own name.
        values (`np.ndarray`, *optional*): probabilities or regression values of shape `(labels,)`, or an embedding.
        num_windows (`int`): windows that were combined.
        leads_without_signal (`list[str]`): leads of the model that are missing, flat or void in the recording.
        error (`str`, *optional*): why there are no values; without one, the file is no recording (`left_out`).
    """

    path: str
    record_id: str | None = None
    values: np.ndarray | None = None
    num_windows: int = 0
    leads_without_signal: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def left_out(self) -> bool:
        """Whether a file of a folder turned out to be no recording."""
        return self.values is None and self.error is None


@dataclass
class ECGInference:
    """A model with its feature extractor, ready for recordings.

    Args:
        model (`PreTrainedModel`): a classifier, or a backbone for embeddings.
        extractor (`ECGFeatureExtractor`): the recipe stored with the model.
        embeddings (`bool`, *optional*, defaults to `False`): the model is a backbone, `get_ecg_features` is wanted.
        windows (`str`, *optional*): windows of longer recordings, `"first"` or `"all"`. Default: those for which the
            model's thresholds were chosen, else `"all"`.
        aggregation (`str`, *optional*): of a recording's windows, `"mean"` or `"max"`, of probabilities. Default: that
            for which the model's thresholds were chosen, else `"mean"`; embeddings are always averaged.
        thresholds (*optional*): what turns probabilities into findings, as in
            [`~decisions.resolve_thresholds`]: `None` (those stored with the model, else 0.5), `"stored"`, a criterion
            such as `"youden"`, a number, or values by label. The attribute then is an array of shape `(labels,)`, NaN
            where a label has no threshold.
        batch_size (`int`, *optional*, defaults to 32): windows in one forward pass, and files in one batch.
        read_options (`dict`, *optional*): passed to `read_ecg` (sampling rate, lead names, units of bare arrays).
    """

    model: Any
    extractor: ECGFeatureExtractor
    embeddings: bool = False
    windows: str | None = None
    aggregation: str | None = None
    thresholds: Any = None
    batch_size: int = 32
    read_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        config = self.model.config
        self.windows = self.windows or getattr(config, "eval_windows", None) or "all"
        stored = None if self.embeddings else getattr(config, "window_aggregation", None)
        self.aggregation = self.aggregation or stored or "mean"
        if not self.embeddings:
            repeated = sorted({name for name in self.label_names if self.label_names.count(name) > 1})
            if repeated:
                raise ValueError(
                    f"Several outputs of the model are called {', '.join(map(repr, repeated))}, so that their values "
                    "could not be told apart. Give each output its own name (`id2label` in config.json)."
                )
            if self.thresholds is not None and not self.has_thresholds:
                raise ValueError(
                    f"A {config.problem_type} model has no thresholds; got {self.thresholds!r}. Leave them out."
                )
            self.thresholds = resolve_thresholds(self.thresholds, self.label_names, config)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, embeddings: bool = False, device: str | None = None, **options: Any
    ) -> ECGInference:
        """Load model and extractor from a folder or Hub id.

        Raises:
            ValueError: if there is no such folder or device, or weights are missing: predictions need a trained head.
                Code that a folder brings is never run.
        """
        device = usable_device(device)
        model = load_model(folder, AutoModel if embeddings else AutoModelForSequenceClassification)
        return cls(model.to(device), load_feature_extractor(folder), embeddings, **options)

    @property
    def label_names(self) -> list[str]:
        """Names of the outputs, in their order."""
        labels = self.model.config.id2label
        return [labels[index] for index in range(len(labels))]

    @property
    def has_thresholds(self) -> bool:
        """Whether each label is decided on its own, by a threshold."""
        return self.model.config.problem_type not in ("regression", "single_label_classification")

    @property
    def undecided_labels(self) -> list[str]:
        """Labels without a threshold, for which nothing says whether a probability is a finding."""
        if not self.has_thresholds:
            return []
        return [name for name, limit in zip(self.label_names, self.thresholds, strict=True) if np.isnan(limit)]

    @property
    def label_groups(self) -> dict[str, list[str]]:
        """Groups of labels stored with the model; a label may be in several.

        Raises:
            ValueError: if there are none, or they name labels that the model does not have.
        """
        groups = getattr(self.model.config, "label_groups", None)
        if not groups:
            raise ValueError("The model has no groups of labels: its config.json has no `label_groups`.")
        unknown = {name for names in groups.values() for name in names} - set(self.label_names)
        if unknown or not all(groups.values()):
            raise ValueError(f"`label_groups` in config.json has empty groups or unknown labels: {sorted(unknown)}.")
        return {group: list(names) for group, names in groups.items()}

    def decide(self, values: np.ndarray) -> list[str]:
        """Return the labels that a row of probabilities speaks for. Undecided labels are not among them."""
        if self.model.config.problem_type == "regression":
            return []
        if self.model.config.problem_type == "single_label_classification":
            return [self.label_names[int(np.argmax(values))]]
        chosen = values > self.thresholds
        return [name for name, positive in zip(self.label_names, chosen, strict=True) if positive]

    def summarize_groups(self, values: np.ndarray) -> dict[str, dict[str, Any]]:
        """Return for each group of labels the largest of a row of probabilities and the labels that are present.

        Raises:
            ValueError: if the model has no groups.
        """
        probabilities = dict(zip(self.label_names, map(float, values), strict=True))
        return summarize_groups(self.label_groups, probabilities, self.decide(values))

    @torch.inference_mode()
    def __call__(self, records: Sequence[ECGRecord]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run recordings through extractor and model.

        Args:
            records (sequence of `ECGRecord`): recordings in mV, of any rate, length and lead order.

        Returns:
            `tuple`: values of shape `(records, labels)` — probabilities (sigmoid, or softmax for single-label models),
            regression values, or embeddings `(records, hidden)` — the number of windows of each record, and for each
            record and lead whether the lead carries signal, boolean `(records, leads)`.
        """
        device = self.model.device
        inputs = self.extractor(list(records), windows=self.windows, device=device, return_tensors="pt")
        index = inputs.pop("record_index", torch.arange(len(records))).cpu().numpy()
        lead_mask = inputs["lead_mask"].cpu().numpy().astype(bool)
        if "lead_mask" not in inspect.signature(self.model.forward).parameters:
            del inputs["lead_mask"]
        outputs, places = [], []
        for rows, length in self._equally_long(inputs):
            for chosen in rows.split(self.batch_size):
                outputs.append(self._values({name: value[chosen, ..., :length] for name, value in inputs.items()}))
                places.append(chosen)
        outputs = torch.cat(outputs)[torch.cat(places).argsort()]
        values = self._combine(outputs, index)
        first_rows = np.searchsorted(index, np.arange(len(records)))
        return values, np.bincount(index, minlength=len(records)), lead_mask[first_rows]

    def _equally_long(self, inputs: dict[str, torch.Tensor]) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield rows and their number of samples.

        Most recipes make windows of one length. Where none is cut, the extractor pads rows to the longest of the call,
        and networks that see the padding (the group norm of wav2vec 2.0) would make a record depend on its company.
        """
        samples = inputs["input_values"].shape[-1]
        rows = torch.arange(len(inputs["input_values"]), device=inputs["input_values"].device)
        if "attention_mask" not in inputs or any(entry["step"] == "crop" for entry in self.extractor.recipe):
            yield rows, samples
            return
        lengths = samples - inputs["attention_mask"].flip(-1).argmax(-1)
        for length in lengths.unique().tolist():
            yield rows[lengths == length], length

    def _values(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if self.embeddings:
            return self.model.get_ecg_features(**inputs)
        # Sigmoids of half precision tell few probabilities apart
        logits = self.model(**inputs).logits.float()
        if self.model.config.problem_type == "regression":
            return logits
        if self.model.config.problem_type == "single_label_classification":
            return logits.softmax(-1)
        return logits.sigmoid()

    def _combine(self, values: torch.Tensor, record_index: np.ndarray) -> np.ndarray:
        return aggregate_windows(values.float().cpu().numpy(), record_index, method=self.aggregation)

    def over_files(self, paths: Iterable[str | Path | Entry], workers: int = 0) -> Iterator[InferenceResult]:
        """Yield one result per file, in order; a file that cannot be read or used becomes a result with its error.

        Args:
            paths (iterable of `str`, `Path` or `Entry`): the files; a generator is read as files are needed.
            workers (`int`, *optional*, defaults to 0): processes that work ahead, see `over_batches`.

        Raises:
            OSError: if a process ended abruptly.
        """
        entries = (one if isinstance(one, Entry) else Entry(printable(str(one)), str(one)) for one in paths)
        for results in self.over_batches(entries, workers):
            yield from results

    def over_batches(self, entries: Iterable[Entry], workers: int = 0) -> Iterator[list[InferenceResult]]:
        """Yield the results of `batch_size` files at a time, in order.

        With a model on the CPU each process runs whole batches, with one thread: nothing but results travels, and the
        weights are shared with this process. With a model on another device they read, ahead of the model.

        Args:
            entries (iterable of `Entry`): the files.
            workers (`int`, *optional*, defaults to 0): processes; 0 does everything in this one.

        Raises:
            OSError: if a process ended abruptly.
        """
        iterator = iter(entries)
        batches = iter(lambda: list(islice(iterator, self.batch_size)), [])
        if not workers:
            yield from map(self._over_batch, batches)
        elif self._workers_run_the_model:
            with worker_pool(workers, _keep, (self,)) as pool:
                for results, told in in_order(pool, _infer, batches, _AHEAD * workers, _described):
                    _tell(told)
                    yield results
        else:
            with worker_pool(workers) as pool:
                read = partial(_read, options=self.read_options)
                for items, rest in in_order(pool, read, batches, _AHEAD * workers, _described):
                    results = list(self.run_batch(items))
                    while rest:
                        items, rest = pool.submit(read, rest).result()
                        results += self.run_batch(items)
                    yield results

    @property
    def _workers_run_the_model(self) -> bool:
        # Processes would have to load it to another device each.
        return self.model.device.type == "cpu"

    def _over_batch(self, entries: Sequence[Entry]) -> list[InferenceResult]:
        results: list[InferenceResult] = []
        while entries:
            items, entries = _read(entries, self.read_options)
            results += self.run_batch(items)
        return results

    def run_batch(self, batch: Sequence[tuple[str, ECGRecord | str | None]]) -> Iterator[InferenceResult]:
        """Yield one result for each of some recordings that are run together, in order.

        Args:
            batch (sequence of `tuple`): a path or name with the recording, with the reason why there is none, or with
                `None` for what is no recording. One that cannot be used becomes a result with its error.
        """
        records = [record for _, record in batch if isinstance(record, ECGRecord)]
        try:
            rows = iter(zip(*self(records), strict=True)) if records else iter(())
        except ValueError:
            # One recording that cannot be used fails the batch: find it by running them one at a time.
            rows = None
        for path, record in batch:
            if not isinstance(record, ECGRecord):
                yield InferenceResult(path, error=None if record is None else _naming(path, record))
                continue
            name = record.metadata.get("record_id")
            name = None if name is None else printable(str(name))
            try:
                row, count, leads = next(rows) if rows is not None else tuple(part[0] for part in self([record]))
            except ValueError as error:
                yield InferenceResult(path, name, error=_naming(path, str(error)))
                continue
            if leads.any():
                without = [lead for lead, usable in zip(self.extractor.lead_names, leads, strict=True) if not usable]
                yield InferenceResult(path, name, row, int(count), without)
            else:
                error = f"{path}: no lead carries a signal, all are flat, missing or hold NaN."
                yield InferenceResult(path, name, error=error)

    def fingerprint(self) -> str:
        """Return the same for models with the same weights, configuration and recipe, wherever they were loaded."""
        digest = hashlib.blake2b(digest_size=16)
        config = {name: value for name, value in self.model.config.to_dict().items() if name not in _NOT_THE_MODEL}
        for part in (config, self.extractor.to_dict()):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


def _read(
    entries: Sequence[Entry], options: dict[str, Any]
) -> tuple[list[tuple[str, ECGRecord | str | None]], Sequence[Entry]]:
    """Read files until there are enough samples to be preprocessed at once.

    Returns:
        `tuple`: names with their record, with the reason why there is none, or with `None` for what is no recording;
        and the entries that are left.
    """
    items: list[tuple[str, ECGRecord | str | None]] = []
    num_samples = 0
    for entry in entries:
        record = entry.error
        try:
            if record is None and (entry.sure or is_recording(entry.path)):
                record = read_ecg(entry.path, **options)
        except (ECGReadError, ImportError) as error:
            record = str(error)
        if isinstance(record, ECGRecord):
            num_samples += record.signal.size
        items.append((entry.name, record))
        if num_samples > _LARGEST_BATCH:
            break
    return items, entries[len(items) :]


def _naming(path: str, reason: str) -> str:
    reason = printable(reason)
    return reason if path in reason else f"{path}: {reason}"


def _described(entries: Sequence[Entry]) -> str:
    more = f" and {len(entries) - 1} more" if len(entries) > 1 else ""
    return f"{entries[0].name}{more}"


# Of a worker process: what it runs, and the warnings that it has passed on
_kept: ECGInference | None = None
_told: set[tuple[type, str]] = set()


def _keep(inference: ECGInference) -> None:
    global _kept
    # One process per core: threads of several would wait for each other. A forked one must not start any, too.
    torch.set_num_threads(1)
    _kept = inference


def _infer(entries: Sequence[Entry]) -> tuple[list[InferenceResult], list[tuple[type, str]]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ECGSignalWarning)
        results = _kept._over_batch(entries)
    new = {(one.category, str(one.message)) for one in caught} - _told
    _told.update(new)
    return results, sorted(new, key=str)


def _tell(told: Sequence[tuple[type, str]]) -> None:
    """Warn in this process of what a worker has met, each once."""
    for category, message in told:
        if len(_told) < _MOST_WARNINGS and (category, message) not in _told:
            _told.add((category, message))
            warnings.warn(message, category, stacklevel=3)
