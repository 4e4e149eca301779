"""Compiling where nothing interrupts: numba could not be used again after half a compilation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

Built = TypeVar("Built")


def undisturbed(build: Callable[[], Built]) -> Built:
    """Build something in a thread of its own, which no signal reaches, and without what is set for this thread alone.

    Parameters
    ----------
    build : callable
        Makes it. An interrupt meanwhile is raised at once, and the thread goes on to its end.

    Returns
    -------
    object
        What ``build`` returns; what it raises is raised.

    Examples
    --------
    >>> undisturbed(lambda: 1)
    1
    """
    built: Future[Built] = Future()

    def run() -> None:
        try:
            built.set_result(build())
        except BaseException as error:
            built.set_exception(error)

    Thread(target=run, name="tritonstdp compiles").start()
    return built.result()
