"""`Trainer` for pretraining with several losses: logs each part, and knows the tri-stage schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

# name -> (sum over what was measured, how much was measured)
Measures = Mapping[str, tuple[torch.Tensor, torch.Tensor | float]]


def tri_stage_factor(
    step: int,
    total: int,
    warmup: float = 0.1,
    hold: float = 0.4,
    first: float = 0.01,
    last: float = 0.05,
) -> float:
    """Return the factor on the learning rate: up in a straight line, held, then down exponentially.

    fairseq's tri-stage schedule with the shares 10 / 40 / 50 % and the end at 5 % with which fairseq-signals
    pretrains the model that D-BETA builds on (`examples/m3ae`); it starts at 1 %, fairseq's default.

    Args:
        step (`int`): steps taken.
        total (`int`): steps of the run.
        warmup (`float`, *optional*, defaults to 0.1): share of the steps in which the rate rises.
        hold (`float`, *optional*, defaults to 0.4): share in which it stays.
        first (`float`, *optional*, defaults to 0.01): factor at the start.
        last (`float`, *optional*, defaults to 0.05): factor at the end.
    """
    rising, holding = warmup * total, hold * total
    if step < rising:
        return first + (1 - first) * step / rising
    if step <= rising + holding:
        return 1.0
    falling = max(total - rising - holding, 1)
    return math.exp(math.log(last) * min((step - rising - holding) / falling, 1.0))


class PretrainingTrainer(Trainer):
    """`Trainer` for models whose output holds several losses.

    Every `…_loss` of the model's output is logged beside `loss`, in training as the mean since the last log and in
    evaluation over all records (weighted by records), on several processes over all of them.

    Args:
        measure (callable, *optional*): from the model's output and the batch to more numbers to log: name -> (sum,
            count).
        finish (mapping, *optional*): name -> function from the mean of a measure to what is logged.
        tri_stage (`bool`, *optional*, defaults to `False`): use `tri_stage_factor` in place of the arguments'
            schedule and warm-up.
        eval_collator (callable, *optional*): collator for evaluation; `data_collator` by default.
    """

    def __init__(
        self,
        *args: Any,
        measure: Callable[[Any, Mapping[str, torch.Tensor]], Measures] | None = None,
        finish: Mapping[str, Callable[[float], float]] | None = None,
        tri_stage: bool = False,
        eval_collator: Callable | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.measure = measure
        self.finish = dict(finish or {})
        self.tri_stage = tri_stage
        self.eval_collator = eval_collator
        self._sums: dict[str, dict[str, torch.Tensor]] = {"train": {}, "eval": {}}
        tied = getattr(self.model, "all_tied_weights_keys", None)
        if tied and not self.model._keys_to_ignore_on_save:
            # Files hold tied weights once. Unsaid, loading the best checkpoint warns of missing ones.
            self.model._keys_to_ignore_on_save = set(tied)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Create the schedule of the learning rate."""
        if not self.tri_stage or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = LambdaLR(
            self.optimizer if optimizer is None else optimizer, lambda step: tri_stage_factor(step, num_training_steps)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_eval_dataloader(self, eval_dataset=None):
        """Return the loader of a validation split; see `Trainer.get_eval_dataloader`."""
        training_collator = self.data_collator
        self.data_collator = self.eval_collator or training_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss and note its parts."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self._note("train" if model.training else "eval", outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def _note(self, phase: str, outputs: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        records = len(inputs["input_values"])
        noted: dict[str, tuple[Any, Any]] = {
            name: (value.detach().mean() * records, records)
            for name, value in outputs.items()
            if name.endswith("_loss") and value is not None
        }
        if self.measure is not None:
            noted.update(self.measure(outputs, inputs))
        sums = self._sums[phase]
        for name, (total, count) in noted.items():
            pair = torch.stack(
                [torch.as_tensor(part, dtype=torch.float32, device=self.args.device) for part in (total, count)]
            )
            sums[name] = sums[name] + pair if name in sums else pair

    def _take_means(self, phase: str) -> dict[str, float]:
        """Return the means over all processes of what was noted, and forget it."""
        sums, self._sums[phase] = self._sums[phase], {}
        if not sums:
            return {}
        names = sorted(sums)
        table = self.accelerator.reduce(torch.stack([sums[name] for name in names]), "sum")
        means = {name: float(total / count) for name, (total, count) in zip(names, table, strict=True) if count > 0}
        return {name: self.finish[name](mean) if name in self.finish else mean for name, mean in means.items()}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; a training loss together with its parts."""
        if "loss" in logs:
            logs = {**logs, **self._take_means("train")}
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        """Evaluate; the parts of the loss are metrics."""
        self._sums["eval"] = {}
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        means = self._take_means("eval")
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in means.items()})
        return output
