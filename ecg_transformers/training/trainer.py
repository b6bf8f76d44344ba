"""`Trainer` with layer-wise parameter groups, and evaluation of records that have several windows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import Trainer

from .layer_groups import parameter_groups


def aggregate_logits(
    logits: torch.Tensor,
    record_index: torch.Tensor,
    method: str = "mean",
    problem_type: str = "multi_label_classification",
) -> torch.Tensor:
    """Combine the logits of a record's windows so that the probabilities are those of the combined probabilities.

    HuBERT-ECG combines probabilities, not logits, by mean or maximum. The result here is their logit (or, with
    single-label problems, the logarithm of the class probabilities), so that whoever expects logits gets them. It is
    computed from logarithms: a probability that rounds to 1 keeps its rank. The maximum over windows of class
    probabilities is scaled back to a sum of 1. Regression values are combined as they are.

    Args:
        logits (`torch.Tensor` of shape `(rows, labels)`): one row per window.
        record_index (`torch.Tensor` of shape `(rows,)`): for each row the record it belongs to, 0, 1, 2, ...
        method (`str`, *optional*, defaults to `"mean"`): `"mean"` or `"max"`.
        problem_type (`str`, *optional*): as in `config.problem_type`.

    Returns:
        `torch.Tensor` of shape `(records, labels)`, float64 (float32 where the device has no float64).

    Raises:
        ValueError: if the method or the problem type is unknown.
    """
    if method not in ("mean", "max"):
        raise ValueError(f"The windows of a record are combined by 'mean' or 'max'; got {method!r}.")
    values = logits.float() if logits.device.type == "mps" else logits.double()
    if problem_type == "regression":
        return _reduce(values, record_index, method)
    if problem_type == "single_label_classification":
        values = functional.log_softmax(values, dim=-1)
        combined = _reduce(values, record_index, "max") if method == "max" else _log_mean(values, record_index)
        return functional.log_softmax(combined, dim=-1)
    if problem_type != "multi_label_classification":
        raise ValueError(f"Unknown problem type {problem_type!r}.")
    if method == "max":
        return _reduce(values, record_index, "max")
    present = _log_mean(functional.logsigmoid(values), record_index)
    absent = _log_mean(functional.logsigmoid(-values), record_index)
    return present - absent


def _reduce(values: torch.Tensor, record_index: torch.Tensor, method: str) -> torch.Tensor:
    count = int(record_index.max()) + 1
    index = record_index[:, None].expand_as(values)
    empty = values.new_zeros(count, values.shape[1])
    return empty.scatter_reduce(0, index, values, "amax" if method == "max" else "mean", include_self=False)


def _log_mean(log_values: torch.Tensor, record_index: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean of exponentials per record."""
    highest = _reduce(log_values, record_index, "max")
    return highest + _reduce((log_values - highest[record_index]).exp(), record_index, "mean").log()


class ECGTrainer(Trainer):
    """`Trainer` whose evaluation knows windows and whose optimizer knows layers.

    With a collator that gives several windows per record, `prediction_step` runs all windows and returns one row of
    logits per record; a record's windows are always in one batch. The loss is the mean over windows.

    Args:
        eval_collator (callable, *optional*): collator for evaluation and prediction; `data_collator` by default.
        window_aggregation (`str`, *optional*, defaults to `"mean"`): see `aggregate_logits`.
        layerwise_lr_decay (`float`, *optional*, defaults to 1.0): see `parameter_groups`.
    """

    def __init__(
        self,
        *args: Any,
        eval_collator: Callable | None = None,
        window_aggregation: str = "mean",
        layerwise_lr_decay: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.eval_collator = eval_collator
        self.window_aggregation = window_aggregation
        self.layerwise_lr_decay = layerwise_lr_decay

    @contextmanager
    def _evaluation_collator(self) -> Iterator[None]:
        training_collator = self.data_collator
        if self.eval_collator is not None:
            self.data_collator = self.eval_collator
        try:
            yield
        finally:
            self.data_collator = training_collator

    def get_eval_dataloader(self, eval_dataset=None):
        """Return the loader of a validation split; see `Trainer.get_eval_dataloader`."""
        with self._evaluation_collator():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset):
        """Return the loader of a test split; see `Trainer.get_test_dataloader`."""
        with self._evaluation_collator():
            return super().get_test_dataloader(test_dataset)

    def create_optimizer(self, model=None):
        """Create the optimizer over `parameter_groups`."""
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            trained = self.model if model is None else model
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, trained)
            if "params" not in settings and "optimizer_dict" not in settings:
                groups = parameter_groups(
                    trained, self.args.learning_rate, self.args.weight_decay, self.layerwise_lr_decay
                )
                self.optimizer_cls_and_kwargs = (optimizer_class, {**settings, "params": groups})
                try:
                    return super().create_optimizer(model)
                finally:
                    self.optimizer_cls_and_kwargs = None
        return super().create_optimizer(model)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Predict a batch; rows that are windows of one record become one row."""
        if "record_index" not in inputs:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(dict(inputs))
        record_index, labels = inputs.pop("record_index"), inputs["labels"]
        inputs["labels"] = labels[record_index]
        loss, logits, _ = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if prediction_loss_only:
            return loss, None, None
        logits = logits[0] if isinstance(logits, (tuple, list)) else logits
        problem_type = self.accelerator.unwrap_model(model).config.problem_type
        return loss, aggregate_logits(logits, record_index, self.window_aggregation, problem_type), labels
