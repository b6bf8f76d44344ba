"""Work on many files in several processes, in order, with bounded memory."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

# Fewer items than this are done before processes have started, or a progress bar is seen.
_FEW = 64
# More processes than this wait for the disk.
_MOST_WORKERS = 8
# Items that a process takes at a time, and such pieces that wait for each process: what is done ahead stays in memory.
_PIECE, _AHEAD = 8, 3

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_in_workers(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    *,
    workers: int | None = None,
    description: str = "",
    unit: str = "record",
) -> Iterator[_Result]:
    """Yield the results of a function over many items in their order; only a few are held at a time.

    Args:
        function (callable): called with one item. With several processes it is a function of a module, or a
            `functools.partial` of one, and so are its results: they travel between processes.
        items (sequence): what to apply it to.
        workers (`int`, *optional*): processes. By default the number of cores, at most 8, and none but this one for
            few items or where processes cannot be forked.
        description (`str`, *optional*): what the progress bar says.
        unit (`str`, *optional*, defaults to `"record"`): what the progress bar counts.

    Yields:
        The result of each item.

    Raises:
        ValueError: if `workers` is below 1.
        OSError: if a process ended abruptly.
    """
    workers = choose_workers(workers, len(items))
    bar = tqdm(total=len(items), desc=description, unit=unit, disable=len(items) < _FEW)
    with bar:
        if workers == 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        pieces = (items[start : start + _PIECE] for start in range(0, len(items), _PIECE))
        with worker_pool(workers) as pool:
            for results in in_order(pool, functools.partial(_apply, function), pieces, _AHEAD * workers):
                for result in results:
                    yield result
                    bar.update()


@contextmanager
def worker_pool(
    workers: int, initializer: Callable[..., None] | None = None, arguments: tuple = ()
) -> Iterator[ProcessPoolExecutor]:
    """Open processes that end with this one, however it ends; what waits at the end of the block is dropped.

    Args:
        workers (`int`): processes.
        initializer (callable, *optional*): called in each of them first, with `arguments`.

    Raises:
        OSError: within the block, if a process ended abruptly.
    """
    context = multiprocessing.get_context("fork" if _can_fork() else "spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(initializer, arguments))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise _ended_abruptly() from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_order(
    pool: ProcessPoolExecutor,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    ahead: int,
    describe: Callable[[_Item], str] = str,
) -> Iterator[_Result]:
    """Yield the results of a function over items in their order; at most `ahead` are worked on or held.

    Args:
        pool (`ProcessPoolExecutor`): of `worker_pool`.
        function (callable): called with an item.
        items (iterable): what to apply it to.
        ahead (`int`): items that are worked on or wait.
        describe (callable, *optional*): names an item in the error.

    Raises:
        OSError: if a process ended abruptly; it names what was waited for.
    """
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= ahead:
                yield waiting[0][1].result()
                waiting.popleft()
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
    except BrokenProcessPool as error:
        broken = (item for item, future in waiting if not future.done() or future.exception() is not None)
        first = next(broken, None)
        raise _ended_abruptly("" if first is None else f" The first thing not done: {describe(first)}.") from error


def _ended_abruptly(what: str = "") -> OSError:
    return OSError(
        f"A worker process ended abruptly, for example for want of memory.{what} Use fewer workers; if it ends each "
        "time, one worker and one at a time (batch_size=1, workers=1) tell at which file."
    )


def choose_workers(workers: int | None, count: int) -> int:
    """Return how many processes to use for a number of items.

    Raises:
        ValueError: if `workers` is below 1.
    """
    if workers is None:
        if count < _FEW or not _can_fork():
            return 1
        return max(1, min(_num_cores(), _MOST_WORKERS))
    if int(workers) != workers or workers < 1:
        raise ValueError(f"`workers` is a number of processes, at least 1; got {workers!r}.")
    return int(workers)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _can_fork() -> bool:
    # Elsewhere than on Linux, system libraries do not survive forking.
    return sys.platform == "linux"


def _start(initializer: Callable[..., None] | None, arguments: tuple) -> None:
    # Ctrl-C goes to the whole group of processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What that one does with a polite end is not inherited.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _end_with_parent() -> None:
    # A process that waits for work does not notice that the one that gives it was killed.
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _apply(function: Callable[[_Item], _Result], piece: Sequence[_Item]) -> list[_Result]:
    return [function(item) for item in piece]
