"""Callbacks: random windows per epoch, the dynamic regulariser, stopping without loss, readable progress."""

import copy
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState, ProgressCallback
from transformers.utils import logging

from .data import CorpusSplit

logger = logging.get_logger(__name__)


class CropEpochCallback(TrainerCallback):
    """Tell the training data which epoch it is, so that every epoch sees other windows.

    Args:
        dataset (`CorpusSplit`): the training split.
    """

    def __init__(self, dataset: CorpusSplit):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Set the epoch before its batches are made, on a resumed run as well."""
        self.dataset.set_epoch(int(state.epoch or 0))


class DynamicRegularizerCallback(TrainerCallback, ExportableState):
    """Regularise more while validation stagnates, and less while it improves.

    HuBERT-ECG's pretraining multiplies weight decay by 5 and adds 0.05 to dropout "on penalty" and does the reverse
    otherwise, with floors 0.01 and 0.1 (medRxiv 10.1101/2024.11.14.24317328). What a penalty is, and where the
    increase ends, is not published; ours: an evaluation is penalised if its validation loss is not at least
    `min_improvement` better than the best so far. (The training loss has no say: its mean since the last evaluation
    is lost when a run is interrupted, and the resumed run would not equal the straight one.) A value that starts
    below its floor stays where it is until the first penalty.

    The callback changes the optimizer's groups that decay, and the dropout of all modules. Its state is part of the
    checkpoints.

    Args:
        weight_decay_factor (`float`, *optional*, defaults to 5.0): multiplier of the weight decay.
        dropout_step (`float`, *optional*, defaults to 0.05): added to the dropout probabilities.
        weight_decay_floor (`float`, *optional*, defaults to 0.01): lowering ends here.
        dropout_floor (`float`, *optional*, defaults to 0.1): lowering ends here.
        weight_decay_ceiling (`float`, *optional*, defaults to 0.25): raising ends here (ours).
        dropout_ceiling (`float`, *optional*, defaults to 0.3): raising ends here (ours).
        min_improvement (`float`, *optional*, defaults to 1e-3): of the validation loss; the difference that makes a
            checkpoint the best one in HuBERT-ECG's pretraining.
    """

    def __init__(
        self,
        weight_decay_factor: float = 5.0,
        dropout_step: float = 0.05,
        weight_decay_floor: float = 0.01,
        dropout_floor: float = 0.1,
        weight_decay_ceiling: float = 0.25,
        dropout_ceiling: float = 0.3,
        min_improvement: float = 1e-3,
    ):
        self.weight_decay_factor = weight_decay_factor
        self.dropout_step = dropout_step
        self.weight_decay_floor = weight_decay_floor
        self.dropout_floor = dropout_floor
        self.weight_decay_ceiling = weight_decay_ceiling
        self.dropout_ceiling = dropout_ceiling
        self.min_improvement = min_improvement
        self.best_loss: float | None = None
        self.weight_decay: float | None = None
        self.dropout: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores."""
        arguments = (
            "weight_decay_factor",
            "dropout_step",
            "weight_decay_floor",
            "dropout_floor",
            "weight_decay_ceiling",
            "dropout_ceiling",
            "min_improvement",
        )
        attributes = ("best_loss", "weight_decay", "dropout")
        return {
            "args": {name: getattr(self, name) for name in arguments},
            "attributes": {name: copy.copy(getattr(self, name)) for name in attributes},
        }

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        """Take the starting values, or, on a resumed run, set those of the checkpoint."""
        if self.weight_decay is None:
            self.weight_decay = args.weight_decay
            self.dropout = {name: get() for name, get, _ in dropout_settings(model)}
        else:
            self._apply(model, optimizer)

    def on_evaluate(self, args, state, control, metrics=None, model=None, optimizer=None, **kwargs):
        """Penalise or reward the evaluation."""
        loss = (metrics or {}).get("eval_loss")
        if loss is None or self.weight_decay is None or optimizer is None:
            return
        improved = self.best_loss is None or loss < self.best_loss - self.min_improvement
        if improved:
            self.best_loss = loss
            factor, floor = self.weight_decay_factor, self.weight_decay_floor
            self.weight_decay = min(self.weight_decay, max(self.weight_decay / factor, floor))
            for name, value in self.dropout.items():
                self.dropout[name] = min(value, max(value - self.dropout_step, self.dropout_floor))
        else:
            factor, ceiling = self.weight_decay_factor, self.weight_decay_ceiling
            self.weight_decay = max(self.weight_decay, min(self.weight_decay * factor, ceiling))
            for name, value in self.dropout.items():
                self.dropout[name] = max(value, min(value + self.dropout_step, self.dropout_ceiling))
        self._apply(model, optimizer)

    def _apply(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for name, _, set_value in dropout_settings(model):
            if name in self.dropout:
                set_value(self.dropout[name])
        for group in optimizer.param_groups:
            if group.get("decays", group["weight_decay"] > 0):
                group["weight_decay"] = self.weight_decay


def dropout_settings(model: nn.Module) -> list[tuple[str, Any, Any]]:
    """List the dropout probabilities of a model: name, a function that reads it, a function that sets it.

    Besides `nn.Dropout` modules these are the numbers that attention modules pass on to the attention function.
    """
    settings = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            attribute = "p"
        elif isinstance(getattr(module, "dropout", None), float):
            attribute = "dropout"
        else:
            continue
        settings.append(
            (
                name,
                lambda module=module, attribute=attribute: float(getattr(module, attribute)),
                lambda value, module=module, attribute=attribute: setattr(module, attribute, value),
            )
        )
    return settings


class GracefulStopCallback(TrainerCallback):
    """On SIGTERM or Ctrl-C, finish the step, write a checkpoint and stop; a second Ctrl-C stops at once.

    All processes of a distributed run stop after the same step: they agree on it at the end of every step.

    Attributes:
        received (`int`, *optional*): the number of the signal, once one has come.
    """

    def __init__(self):
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Take over the two signals."""
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:
            logger.info("Not in the main thread: signals stop the run at once, without a checkpoint.")

    def _handle(self, number, frame):
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = number
            print("\nStopping after this step, with a checkpoint ...", file=sys.stderr, flush=True)

    def restore_handlers(self) -> None:
        """Give the signals back to whoever handled them before."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _stop_if_asked(self, args, control) -> None:
        asked = self.received
        if args.world_size > 1 and torch.distributed.is_initialized():
            flag = torch.tensor(asked or 0, device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            asked = self.received = int(flag) or None
        if asked is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_step_end(self, args, state, control, **kwargs):
        """Stop if a signal has come."""
        self._stop_if_asked(args, control)

    def on_evaluate(self, args, state, control, **kwargs):
        """Stop if a signal has come during evaluation."""
        self._stop_if_asked(args, control)

    def on_epoch_end(self, args, state, control, **kwargs):
        """Do not evaluate an epoch that was cut short: the run that goes on evaluates it when it is complete."""
        if self.received is not None and (state.epoch or 0) % 1:
            control.should_evaluate = control.should_log = control.should_save = False

    def on_train_end(self, args, state, control, **kwargs):
        """Let the signals do what they did before."""
        self.restore_handlers()


class ReadableProgressCallback(ProgressCallback):
    """Progress, and one line per evaluation with the figures that matter.

    In a terminal progress is a bar; elsewhere (a log file) it is a line every `seconds_between_lines`.

    Args:
        metric (`str`, *optional*): name of the metric that picks the best checkpoint, without `eval_`.
        seconds_between_lines (`float`, *optional*, defaults to 10.0): for output that is no terminal.
        also (sequence of `str`, *optional*): more metrics to show.
    """

    def __init__(self, metric: str | None = None, seconds_between_lines: float = 10.0, also: Sequence[str] = ()):
        super().__init__()
        self.metric = metric
        self.also = tuple(also)
        self.seconds_between_lines = seconds_between_lines
        self.training_loss: float | None = None
        self._start = self._last_line = (0.0, 0)

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar."""
        self._start = self._last_line = (time.monotonic(), state.global_step)
        if sys.stderr.isatty() and not args.disable_tqdm:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar, or write a line if the last one is old."""
        if self.training_bar is not None:
            super().on_step_end(args, state, control, **kwargs)
        now = time.monotonic()
        if self.training_bar is None and not args.disable_tqdm:
            if now - self._last_line[0] >= self.seconds_between_lines:
                rate = (state.global_step - self._start[1]) / (now - self._start[0])
                left = (state.max_steps - state.global_step) / rate
                self._write(
                    state, f"step {state.global_step} of {state.max_steps}, {rate:.3g} steps/s, {left:.0f} s left"
                )

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        """Show a second bar in a terminal."""
        if sys.stderr.isatty() and not args.disable_tqdm:
            super().on_prediction_step(args, state, control, eval_dataloader, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Keep the training loss for the next line."""
        if logs and "loss" in logs:
            self.training_loss = float(logs["loss"])
            if args.eval_strategy == "no":
                self._write(state, f"epoch {state.epoch:.4g}: training loss {self.training_loss:.4f}")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Write the line."""
        super().on_evaluate(args, state, control, **kwargs)
        metrics = metrics or {}
        figures = [] if self.training_loss is None else [f"training loss {self.training_loss:.4f}"]
        figures.append(f"validation loss {metrics.get('eval_loss', float('nan')):.4f}")
        value = metrics.get(f"eval_{self.metric}")
        if self.metric not in (None, "loss") and value is not None:
            figures.append(f"{self.metric.replace('_', ' ')} {value:.4f}")
            # Also those before an interruption: a resumed run starts with a new callback.
            before = [
                entry[f"eval_{self.metric}"]
                for entry in state.log_history
                if entry["step"] < state.global_step and entry.get(f"eval_{self.metric}") is not None
            ]
            better = (lambda other: value > other) if args.greater_is_better else (lambda other: value < other)
            if value == value and all(better(other) for other in before if other == other):
                figures[-1] += " (best)"
        for name in self.also:
            value = metrics.get(f"eval_{name}")
            if value is not None and name != self.metric:
                figures.append(f"{name.replace('_', ' ')} {value:.4f}")
        self._write(state, f"epoch {state.epoch or 0:.4g}, step {state.global_step}: {', '.join(figures)}")

    def _write(self, state, line: str) -> None:
        self._last_line = (time.monotonic(), state.global_step)
        if not state.is_world_process_zero:
            return
        if self.training_bar is not None:
            self.training_bar.write(line, file=sys.stdout)
            sys.stdout.flush()
        else:
            print(line, flush=True)

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        if self.training_bar is not None:
            super().on_train_end(args, state, control, **kwargs)
