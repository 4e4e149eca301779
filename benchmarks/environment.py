"""The conditions of every figure: how many threads, on which core, and with which allocator settings.

They are read when libraries are loaded, so a process sets them and starts itself anew.
"""

from __future__ import annotations

import os
import subprocess
import sys

MARK = "TRITONSTDP_BENCHMARK"

TUNED_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": "0",
}
"""Keeps freed memory, so that the large temporaries of eager torch don't fault their pages in anew at every step."""


def settings(threads: int = 1, tuned_allocator: bool = True) -> dict[str, str]:
    """The variables for a number of threads, and for an allocator at its best for eager torch or as it comes."""
    count = str(threads)
    xla = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={count}"
    variables = {name: count for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    variables |= {"XLA_FLAGS": xla, "JAX_PLATFORMS": "cpu", MARK: f"{threads} {tuned_allocator}"}
    return variables | (TUNED_ALLOCATOR if tuned_allocator else {})


def environment(threads: int = 1, tuned_allocator: bool = True) -> dict[str, str]:
    """This process's environment with those settings, and nothing of other ones."""
    kept = {name: value for name, value in os.environ.items() if name not in TUNED_ALLOCATOR}
    return kept | settings(threads, tuned_allocator)


def restart_pinned(threads: int = 1, tuned_allocator: bool = True) -> None:
    """Go on in a process with the settings, pinned to as many cores as it has threads; at once where that is so."""
    if os.environ.get(MARK) == f"{threads} {tuned_allocator}":
        return
    _pin(threads)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(threads, tuned_allocator))


def run_pinned(arguments: list[str], threads: int = 1, tuned_allocator: bool = True) -> None:
    """Run ``python ARGUMENTS`` with the settings, pinned; raises ``CalledProcessError`` where it fails."""
    subprocess.run(
        [sys.executable, *arguments],
        env=environment(threads, tuned_allocator),
        preexec_fn=lambda: _pin(threads),
        check=True,
    )


def _pin(threads: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])
