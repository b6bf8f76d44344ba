"""What runs of every kind need around training: exit codes, interruption, durations."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import logging


class TrainingInterrupted(Exception):
    """A signal ended the run; a checkpoint was written from which it can go on.

    Args:
        signal_number (`int`): of the signal.
        checkpoint (`str`, *optional*): folder of the checkpoint.
    """

    def __init__(self, signal_number: int, checkpoint: str | None):
        self.signal_number = signal_number
        self.checkpoint = checkpoint
        if checkpoint:
            text = f"checkpoint {checkpoint}. Go on with the same command and --resume_from_checkpoint last."
        else:
            text = "no checkpoint was reached. Start again with the same command."
        super().__init__(f"Stopped by signal {signal_number}; {text}")


def run_script(
    run: Callable[..., Any], parse: Callable[[], tuple], interrupted: str = "interrupted before training had begun"
) -> int:
    """Parse the command line, run, and turn what goes wrong into a message and an exit code.

    Args:
        run (callable): takes what `parse` returns.
        parse (callable): reads the command line.
        interrupted (`str`, *optional*): what to say after Ctrl-C where nothing was saved.

    Returns:
        `int`: 0; 2 for arguments and files that cannot be used; 130 after Ctrl-C; 128 plus the signal's number where
        training was interrupted and a checkpoint written.
    """
    try:
        run(*parse())
    except TrainingInterrupted as interruption:
        print(interruption, file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        leave_process_group()
    return 0


def leave_process_group() -> None:
    """End the communication with the run's other processes, if there are any.

    Its threads would else outlive the interpreter, and now and then abort a run that has finished.
    """
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def without_bars_of_saving() -> Iterator[None]:
    """Hide the bars that transformers draws for every saved checkpoint; they tear the progress line apart."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class Clock:
    """Durations of the parts of a run."""

    def __init__(self):
        self.start = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Time the block as a part of the run."""
        start = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - start, 2)

    def finish(self) -> dict[str, float]:
        """Return the seconds of the parts and the `total` so far."""
        return {**self.seconds, "total": round(time.monotonic() - self.start, 2)}
