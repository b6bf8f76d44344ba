"""What the features of a frozen encoder are worth: a linear classifier on them, beside one on untrained encoders."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..evaluation.comparison import PairedAUROC
from ..evaluation.score_inputs import mean_of_known, one_hot
from ..feature_extraction.ecg_leads import OTHER_LEADS, STANDARD_LEADS, canonical_lead_name
from ..feature_extraction.feature_extraction_ecg import ECGFeatureExtractor, ECGSignalWarning
from ..inference import ECGInference
from ..record import ECGRecord
from .arguments import CorpusArguments, DataArguments
from .task import SPLITS, ClassificationTask, load_task, without_labels

logger = logging.get_logger(__name__)

# Inverse strengths of the L2 penalty from which the validation records choose; where there are none, the other (ours)
PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
DEFAULT_PENALTY = 0.1
DROP_IN = ("test", "all")


@dataclass
class ProbeSettings:
    """How encoders are probed.

    Args:
        windows (`str`, *optional*, defaults to `"all"`): windows of longer records, whose features are averaged:
            `"all"` or `"first"`.
        batch_size (`int`, *optional*, defaults to 32): records in one forward pass.
        num_resamples (`int`, *optional*, defaults to 1000): resamples of patients behind the intervals; 0 leaves them
            out.
        level (`float`, *optional*, defaults to 0.95): coverage of the intervals.
        seed (`int`, *optional*, defaults to 0): of the resamples.
        drop_leads (sequence of `str`, *optional*): leads that records lose.
        drop_in (`str`, *optional*, defaults to `"test"`): records that lose them: `"test"` (the classifier has seen
            all leads) or `"all"` (it is fitted without them).
        disable_tqdm (`bool`, *optional*, defaults to `False`): no progress bars.

    Raises:
        ValueError: for leads that are none.
    """

    windows: str = "all"
    batch_size: int = 32
    num_resamples: int = 1000
    level: float = 0.95
    seed: int = 0
    drop_leads: Sequence[str] = field(default_factory=tuple)
    drop_in: str = "test"
    disable_tqdm: bool = False

    def __post_init__(self):
        unknown = [name for name in self.drop_leads if canonical_lead_name(name) is None]
        if unknown:
            raise ValueError(
                f"Leads to drop are names such as V1 or aVF; got {unknown}. Known: "
                f"{', '.join((*STANDARD_LEADS, *OTHER_LEADS))}."
            )
        self.drop_leads = tuple(dict.fromkeys(canonical_lead_name(name) for name in self.drop_leads))
        if self.drop_in not in DROP_IN:
            raise ValueError(f"Leads are dropped in 'test' or 'all' records; got {self.drop_in!r}.")


class LinearProbe:
    """Fit linear classifiers on the features of frozen encoders, all on the same records, and compare them.

    Features are standardised by the training records. Each label gets a logistic regression of its own
    (scikit-learn's, L2); the strength of the penalty, one for all labels of an encoder, is that of `PENALTIES` with
    the best macro AUROC on the validation records, 0.1 where there are none. Scores are those of the test records,
    intervals are drawn over patients, and differences are paired: both sides are scored on the same resamples.

    Args:
        task (`ClassificationTask`): records and labels, multi-label or single-label (a class against the rest).
        settings (`ProbeSettings`, *optional*): the rest.

    Raises:
        ValueError: if the task is a regression, or the splits train and test cannot be scored.

    Example:
        >>> probe = LinearProbe(load_task(DataArguments(corpus="synthetic")))
        >>> probe.add("trained", model, extractor)
        >>> probe.add_untrained("trained", model.config, extractor, seeds=[0, 1, 2])
        >>> print(format_probe(probe.report()))
    """

    def __init__(self, task: ClassificationTask, settings: ProbeSettings | None = None):
        self.task = task
        self.settings = settings or ProbeSettings()
        if task.problem_type == "regression":
            raise ValueError(
                f"The corpus holds values ({', '.join(task.label_names[:5])}), and the linear probe scores labels by "
                "AUROC; training_scripts/finetune_classification.py --freeze_encoder fits a linear head to values."
            )
        if not task.can_rank("test"):
            raise ValueError("The linear probe is scored on test records, and no label has both classes among them.")
        self.targets = {split: _columns(task, split) for split in SPLITS if task.has_records(split)}
        self._scores: dict[str, np.ndarray] = {}
        self._facts: dict[str, dict[str, Any]] = {}

    @property
    def names(self) -> list[str]:
        """Names of the encoders that were added."""
        return list(self._facts)

    def add(self, name: str, model: PreTrainedModel, extractor: ECGFeatureExtractor) -> None:
        """Probe an encoder.

        Args:
            name (`str`): what it is called in the report.
            model (`PreTrainedModel`): a model of this package, with or without a head; its weights stay as they are.
            extractor (`ECGFeatureExtractor`): its preprocessing.

        Raises:
            ValueError: if features are not finite, or the model does not read a lead that is to be dropped.
        """
        check_dropped_leads(self.settings.drop_leads, name, extractor)
        scores, facts = self._probe(name, model, extractor)
        self._facts[name] = facts
        self._scores.update({(name, kind): value for kind, value in scores.items()})

    def add_untrained(
        self,
        name: str,
        config: PreTrainedConfig,
        extractor: ECGFeatureExtractor,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        """Probe randomly initialised encoders of a configuration, against which the encoder `name` is compared.

        Args:
            name (`str`): the encoder that was added.
            config (`PreTrainedConfig`): its configuration.
            extractor (`ECGFeatureExtractor`): its preprocessing.
            seeds (sequence of `int`): one encoder each; AUROCs are averaged over them.
            device (`torch.device`, *optional*, defaults to `"cpu"`): where they run.
        """
        runs = []
        for place, seed in enumerate(seeds, 1):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = AutoModel.from_config(copy.deepcopy(config))
            runs.append(self._probe(f"{name}, untrained {place} of {len(seeds)}", model.to(device), extractor)[0])
        for kind in runs[0] if runs else ():
            self._scores[name, f"untrained {kind}"] = np.stack([run[kind] for run in runs])
        self._facts[name]["untrained_seeds"] = list(seeds)

    def report(self) -> dict[str, Any]:
        """Compare what was added.

        Returns:
            `dict`, valid JSON: `label_names`, `records` and `patients` by split, `fit` (in words), `level`, `models`
            (name -> `macro_auroc`, `per_label`, `penalty`; with untrained encoders `untrained`, `untrained_seeds` and
            `above_untrained`; from the second encoder on `above_first`), and with dropped leads `dropped_leads`,
            `dropped_in` and per model `macro_auroc_dropped`, `cost`, from the second on `cost_above_first`, and
            `untrained_dropped`. Intervals are `{"value", "lower", "upper", "num_resamples"}`.
        """
        settings, task = self.settings, self.task
        compared = PairedAUROC(
            self.targets["test"],
            self._scores,
            label_names=task.label_names,
            groups=task.patient_groups("test"),
            num_resamples=settings.num_resamples,
            level=settings.level,
            seed=settings.seed,
        )
        first = self.names[0]
        models = {}
        for name in self.names:
            full = (name, "all leads")
            entry = {
                "macro_auroc": compared.macro(full),
                "per_label": compared.per_label(full),
                **self._facts[name],
            }
            if (name, "untrained all leads") in self._scores:
                entry["untrained"] = compared.macro((name, "untrained all leads"))
                entry["untrained_per_label"] = compared.per_label((name, "untrained all leads"))
                entry["above_untrained"] = compared.difference(full, (name, "untrained all leads"))
            if name != first:
                entry["above_first"] = compared.difference(full, (first, "all leads"))
            if settings.drop_leads:
                dropped = (name, "dropped")
                entry["macro_auroc_dropped"] = compared.macro(dropped)
                entry["cost"] = compared.difference(full, dropped)
                if name != first:
                    entry["cost_above_first"] = compared.difference_of_differences(
                        (full, dropped), ((first, "all leads"), (first, "dropped"))
                    )
                if (name, "untrained dropped") in self._scores:
                    entry["untrained_dropped"] = compared.macro((name, "untrained dropped"))
            models[name] = entry
        return {
            "label_names": task.label_names,
            "records": {split: len(rows) for split, rows in self.targets.items()},
            "patients": {split: len(set(task.patient_groups(split).tolist())) for split in self.targets},
            "fit": _fit_in_words("validation" in self.targets),
            "level": settings.level,
            "windows": settings.windows,
            **(
                {"dropped_leads": list(settings.drop_leads), "dropped_in": settings.drop_in}
                if settings.drop_leads
                else {}
            ),
            "models": models,
        }

    def _probe(
        self, name: str, model: PreTrainedModel, extractor: ECGFeatureExtractor
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        settings = self.settings
        with _evaluating(model.base_model) as encoder:
            inference = ECGInference(encoder, extractor, True, settings.windows, batch_size=settings.batch_size)
            features = {split: self._features(inference, split, f"{name}: {split}") for split in self.targets}
            scores, penalty = fit_linear(features, self.targets)
            found = {"all leads": scores}
            if settings.drop_leads:
                splits = self.targets if settings.drop_in == "all" else ("test",)
                without = {
                    split: self._features(inference, split, f"{name}: {split}, fewer leads", settings.drop_leads)
                    for split in splits
                }
                chosen = None if settings.drop_in == "all" else penalty
                found["dropped"], _ = fit_linear({**features, **without}, self.targets, chosen)
        return found, {
            "model_type": model.config.model_type,
            "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
            "num_features": features["train"].shape[1],
            "penalty": penalty,
        }

    def _features(self, inference: ECGInference, split: str, description: str, drop: Sequence[str] = ()) -> np.ndarray:
        rows = self.task.corpus[split].select_columns(["ecg"])
        pieces = []
        with (
            tqdm(
                total=len(rows), desc=description, unit="record", disable=self.settings.disable_tqdm, file=sys.stderr
            ) as progress,
            warnings.catch_warnings(),
        ):
            if drop:
                # That they are missing is what is asked.
                warnings.simplefilter("ignore", ECGSignalWarning)
            for start in range(0, len(rows), inference.batch_size):
                records = rows[start : start + inference.batch_size]["ecg"]
                pieces.append(inference([drop_leads(record, drop) for record in records])[0])
                progress.update(len(records))
        features = np.concatenate(pieces).astype(np.float64)
        if not np.isfinite(features).all():
            bad = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
            raise ValueError(
                f"{description}: the features of record {bad} hold NaN or infinity. Training may have diverged (a "
                "smaller --learning_rate), or the record cannot be used (`ecg-transformers quality`)."
            )
        return features


def fit_linear(
    features: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray], penalty: float | None = None
) -> tuple[np.ndarray, float]:
    """Fit a logistic regression per label on standardised features, and score the test records.

    Args:
        features (mapping): split -> `(records, features)`; `train`, `test` and, to choose the penalty, `validation`.
        targets (mapping): split -> `(records, labels)` of 0, 1 and NaN (unknown, left out of the fit).
        penalty (`float`, *optional*): inverse strength of the L2 penalty (scikit-learn's `C`). Default: see
            `LinearProbe`.

    Returns:
        `tuple`: scores of the test records `(records, labels)`, 0 for labels with one class in training, and the
        penalty.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features["train"])
    inputs = {split: scaler.transform(values) for split, values in features.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        if penalty is None:
            penalty = DEFAULT_PENALTY
            if "validation" in inputs:
                penalty = _choose_penalty(inputs, targets)
        scores = _fit_labels(inputs["train"], targets["train"], inputs["test"], penalty)
    stopped = sum(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    if stopped:
        logger.warning(f"{stopped} logistic regressions of the linear probe stopped before they had converged.")
    return scores, penalty


def _choose_penalty(inputs: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> float:
    from ..evaluation.ranking import curve_areas, rank_label

    once = np.ones((len(targets["validation"]), 1))
    means = []
    for penalty in PENALTIES:
        scores = _fit_labels(inputs["train"], targets["train"], inputs["validation"], penalty)
        areas = [
            curve_areas(rank_label(target, score), once)[0][0]
            for target, score in zip(targets["validation"].T, scores.T, strict=True)
        ]
        means.append(float(mean_of_known(np.array(areas))))
    # Where no label can be ranked there is nothing to choose by.
    return PENALTIES[int(np.argmax(means))] if np.isfinite(means).all() else DEFAULT_PENALTY


def _fit_labels(train: np.ndarray, targets: np.ndarray, rows: np.ndarray, penalty: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros((len(rows), targets.shape[1]))
    for label in range(targets.shape[1]):
        known = ~np.isnan(targets[:, label])
        if len(set(targets[known, label].tolist())) < 2:
            continue
        fitted = LogisticRegression(C=penalty, max_iter=2000).fit(train[known], targets[known, label])
        scores[:, label] = fitted.decision_function(rows)
    return scores


def check_dropped_leads(names: Sequence[str], model_name: str, extractor: ECGFeatureExtractor) -> None:
    """Check that a model reads the leads that records are to lose: without others its features stay as they are.

    Raises:
        ValueError: naming the leads that it does not read.
    """
    known = [canonical_lead_name(name) for name in extractor.lead_names]
    strange = [name for name in names if canonical_lead_name(name) not in known]
    if strange:
        raise ValueError(
            f"{model_name} does not read {', '.join(strange)}, so dropping that tells nothing; it reads "
            f"{', '.join(extractor.lead_names)}."
        )


def drop_leads(record: ECGRecord, names: Sequence[str]) -> ECGRecord:
    """Return a record without some leads; limb leads that I and II give are derived again by the feature extractor.

    Raises:
        ValueError: if no lead is left.
    """
    if not names:
        return record
    kept = [row for row, name in enumerate(record.lead_names) if name not in names]
    if not kept:
        raise ValueError(f"A record with the leads {list(record.lead_names)} has none left without {list(names)}.")
    leads = [record.lead_names[row] for row in kept]
    return ECGRecord(record.signal[kept], record.sampling_rate, leads, dict(record.metadata))


def load_probe_task(arguments: Any, data_args: CorpusArguments, corpus: Any = None) -> ClassificationTask | None:
    """Load the labels that a pretraining run's `--probe` needs, before training starts.

    Args:
        arguments (`PretrainingArguments`): `probe`.
        data_args (`CorpusArguments`): the corpus of the run.
        corpus (*optional*): what the run has loaded of it; used where it holds the labels.

    Returns:
        `ClassificationTask`; `None` without `--probe`, and on processes other than the first.

    Raises:
        ValueError: if the corpus has no labels, values instead of labels, or no test records.
    """
    if not arguments.probe or arguments.process_index:
        return None
    own = {entry.name for entry in fields(CorpusArguments)}
    labelled = DataArguments(**{name: getattr(data_args, name) for name in own})
    loaded_whole = without_labels(data_args) == data_args
    try:
        task = load_task(labelled, corpus if loaded_whole else None)
        LinearProbe(task)
    except ValueError as error:
        raise ValueError(f"--probe: {error}") from error
    return task


def probe_pretrained(model: PreTrainedModel, extractor: Any, task: ClassificationTask, arguments: Any) -> dict:
    """Probe the encoder that a run has made beside untrained ones: what `--probe` prints and records.

    Args:
        model (`PreTrainedModel`): with or without pretraining heads.
        extractor (`ECGFeatureExtractor`): its preprocessing.
        task (`ClassificationTask`): see `load_probe_task`.
        arguments (`PretrainingArguments`): `probe_untrained`, `per_device_eval_batch_size`, `disable_tqdm`.

    Returns:
        `dict`: see `LinearProbe.report`.
    """
    settings = ProbeSettings(batch_size=arguments.per_device_eval_batch_size, disable_tqdm=arguments.disable_tqdm)
    probe = LinearProbe(task, settings)
    probe.add("pretrained", model, extractor)
    if arguments.probe_untrained:
        probe.add_untrained(
            "pretrained", model.config, extractor, range(arguments.probe_untrained), device=model.device
        )
    return probe.report()


def _fit_in_words(has_validation: bool) -> str:
    penalties = f"the best of {', '.join(map(str, PENALTIES))} on validation" if has_validation else DEFAULT_PENALTY
    return f"logistic regression per label on standardised features, C {penalties}."


def _columns(task: ClassificationTask, split: str) -> np.ndarray:
    targets = task.targets[split]
    if task.problem_type == "single_label_classification":
        return one_hot(np.where(targets < 0, np.nan, targets), len(task.label_names))
    return np.asarray(targets, dtype=np.float64)


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Hold a model in evaluation mode."""
    training = model.training
    try:
        yield model.eval()
    finally:
        model.train(training)
