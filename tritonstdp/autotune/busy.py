"""Whether this machine has its cores to spare: times taken while others use them say nothing of a kernel."""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor

__all__ = ["BusyError", "check_idle", "cpu_share", "wait_until_idle"]

logger = logging.getLogger("tritonstdp")

LEAST_SHARE = 0.9
"""Of the time, for which each thread must have a core."""

_BLOCK = bytes(2**20)
_SAMPLE_SECONDS = 0.2
_PAUSE = 2.0


class BusyError(RuntimeError):
    """The machine is busy with other work, so that nothing can be timed."""


def cpu_share(threads: int, seconds: float = _SAMPLE_SECONDS) -> float:
    """How much of the time threads really run that always have work: 1 on an idle machine with a core for each.

    Parameters
    ----------
    threads : int
        How many.
    seconds : float
        For how long to find it out.

    Returns
    -------
    float
        The processor time that they got, over what they could have had.

    Examples
    --------
    >>> 0 <= cpu_share(1, 0.01) <= 1
    True
    """

    def work(_: int) -> None:
        while time.perf_counter() < begin + seconds:
            hashlib.sha256(_BLOCK)  # without the interpreter's lock

    with ThreadPoolExecutor(threads) as pool:
        begin, own_begin = time.perf_counter(), time.process_time()
        list(pool.map(work, range(threads)))
        own, passed = time.process_time() - own_begin, time.perf_counter() - begin
    return min(1.0, own / (threads * passed))


def check_idle(threads: int) -> None:
    """Take a sample.

    Parameters
    ----------
    threads : int
        How many will be timed.

    Raises
    ------
    BusyError
        If they do not have their cores for themselves.

    Examples
    --------
    >>> check_idle(1)  # doctest: +SKIP
    """
    share = cpu_share(threads)
    if share >= LEAST_SHARE:
        return
    these = "a thread" if threads == 1 else f"each of {threads} threads"
    raise BusyError(
        f"the machine is busy: {these} runs only for {share:.2f} of the time, so that no time taken now is worth "
        "keeping; end other programs, or use fewer threads (OMP_NUM_THREADS), and tune again"
    )


def wait_until_idle(threads: int, patience: float) -> None:
    """Wait until other programs have ended.

    Parameters
    ----------
    threads : int
        How many will be timed.
    patience : float
        The most seconds to wait.

    Raises
    ------
    BusyError
        If the machine is still busy by then.

    Examples
    --------
    >>> wait_until_idle(1, patience=60.0)  # doctest: +SKIP
    """
    deadline, said = time.monotonic() + patience, False
    while True:
        try:
            return check_idle(threads)
        except BusyError:
            if time.monotonic() >= deadline:
                raise
        if not said:
            logger.warning("the machine is busy: waiting up to %.0f s for its cores", patience)
            said = True
        time.sleep(_PAUSE)
