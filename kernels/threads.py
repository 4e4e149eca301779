"""When a compiled loop runs on several threads, so that all around it stays as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import numba
import torch
from numba.np.ufunc import parallel as numba_threads

from tritonstdp.kernels.compilation import undisturbed

logger = logging.getLogger("tritonstdp")


class Shared(NamedTuple):
    """How threads share a step by its post neurons.

    Attributes
    ----------
    parallel_work : int
        Synapses above which several threads share a step. Below, one thread takes less than about half a millisecond
        where 2 % spike.
    tasks : int
        Parts into which threads divide the post neurons.
    """

    parallel_work: int
    tasks: int = 16


_in_use = Lock()
_forked = False
_logged = False


def max_threads() -> int:
    """The number of threads that numba started with; more can't be asked for."""
    config: Any = numba.config
    return config.NUMBA_NUM_THREADS


def _notice_fork() -> None:
    global _in_use, _forked
    _in_use = Lock()
    _forked = _forked or getattr(numba_threads, "_is_initialized", True)


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_notice_fork)


def _may_start() -> bool:
    """Whether threads would come: a forked process has none of those that its parent had started."""
    global _logged
    if _forked and not _logged:
        _logged = True
        logger.warning("this process was forked from one whose threads had started: its loops run on one thread")
    return not _forked


def by_work(compile_loop: Callable[[bool], Callable[..., None]], parallel_work: float) -> Callable[[int], Any]:
    """Choose between the serial and the parallel variant of a loop, which give the same bits.

    One parallel loop runs at a time, since not each of numba's threading layers takes two: a thread of Python that
    finds another in such a loop runs its own serially, and so does a process forked from one that had started threads.
    The number of threads is torch's; numba's own setting is as before after the step.

    Parameters
    ----------
    compile_loop : callable
        ``compile_loop(parallel)``; the parallel variant is compiled when it is first needed.
    parallel_work : float
        Synapses above which it is needed, where torch may use several threads. A second thread gains little where the
        serial step takes less than a millisecond, and costs many where another process has its core.

    Returns
    -------
    callable
        ``choose(synapses)`` returns the loop.
    """
    serial = compile_loop(False)
    compiled: list[Callable[..., None]] = []

    def in_threads(*arguments: Any) -> None:
        lock = _in_use
        if torch.get_num_threads() == 1 or not _may_start() or not lock.acquire(blocking=False):
            return serial(*arguments)
        try:
            if not compiled:
                compiled.append(undisturbed(lambda: compile_loop(True)))
            _run(compiled[0], arguments)
        finally:
            lock.release()

    def choose(synapses: int) -> Callable[..., None]:
        return serial if synapses <= parallel_work else in_threads

    return choose


def _run(loop: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(min(torch.get_num_threads(), max_threads()))
    try:
        loop(*arguments)
    finally:
        numba.set_num_threads(before)
