"""What commands share to serve their user: errors that are the user's to mend, and progress that a file can take."""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich import progress as rich_progress
from rich.console import Console

from tritonstdp.storage import replace_whole

__all__ = ["Progress", "UserError", "free_bytes", "require_memory", "write_output"]

LINE_SECONDS = 5.0
"""Where nobody watches, progress is one line about so often."""


class UserError(Exception):
    """Something that was asked for and can't be had; the message says in one line what, and what to do.

    :func:`tritonstdp.cli.main` prints it and exits with 2. Every other exception is a fault, and shows its traceback.

    Examples
    --------
    >>> raise UserError("no shape fits sparse: give N_PRExN_POSTxSYNAPSES")
    Traceback (most recent call last):
    tritonstdp.terminal.UserError: no shape fits sparse: give N_PRExN_POSTxSYNAPSES
    """


def free_bytes(device: str) -> float:
    """The memory that is free on a device; infinite where the system does not say.

    Parameters
    ----------
    device : str
        The device.

    Returns
    -------
    float
        Bytes.

    Examples
    --------
    >>> free_bytes("cpu") > 0
    True
    """
    module = getattr(torch, torch.device(device).type)
    if hasattr(module, "mem_get_info"):
        return module.mem_get_info(device)[0]
    found = [
        _number_in("/proc/meminfo", r"MemAvailable:\s*(\d+)", 1024),
        _number_in("/sys/fs/cgroup/memory.max", r"(\d+)"),
    ]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found)


def _number_in(path: str, pattern: str, unit: int = 1) -> float:
    with suppress(OSError):
        found = re.search(pattern, Path(path).read_text())
        return unit * int(found.group(1)) if found else math.inf
    return math.inf


def require_memory(what: str, needed: int, device: str = "cpu") -> None:
    """Refuse what would fill a device's memory, before any of it is taken.

    Parameters
    ----------
    what : str
        What needs the memory.
    needed : int
        About the least number of bytes that it takes.
    device : str
        Where.

    Raises
    ------
    UserError
        If so much is not free.

    Examples
    --------
    >>> require_memory("a small network", 1000)
    """
    free = free_bytes(device)
    if needed > free:
        raise UserError(
            f"{what} takes about {needed / 2**30:,.1f} GiB of memory, and {device} has {free / 2**30:,.1f} GiB free"
        )


def write_output(path: Path, content: bytes) -> None:
    """Write what a command was asked for, all at once: the file that was there stays until the new one is whole.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.
    content : bytes
        What will be in it.

    Raises
    ------
    UserError
        If it can't be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_output(Path(folder) / "rows.json", b"[]")
    ...     print((Path(folder) / "rows.json").read_text())
    []
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(Path(os.path.realpath(path)), content, private=False)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}") from None


class Progress:
    """How far a command is, on stderr: a live bar on a terminal, and plain lines at a steady rate anywhere else.

    Parameters
    ----------
    title : str
        What is being done.
    steps : sequence
        What there is to do; iterating over the progress goes through it. The text of a step names it.

    Examples
    --------
    >>> [n * n for n in Progress("squaring", [1, 2, 3])]
    [1, 4, 9]
    """

    def __init__(self, title: str, steps: Sequence[Any]) -> None:
        self.title, self.steps = title, steps
        self.began = self.said = time.monotonic()
        self.console = Console(stderr=True)
        self.bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __iter__(self) -> Iterator[Any]:
        task = self.bar.add_task(self.title, total=len(self.steps), note="")
        with self.bar:
            for at, step in enumerate(self.steps):
                self.at = at
                self.bar.update(task, completed=at, note=str(step))
                self.note("")
                yield step

    def note(self, text: str) -> None:
        """Say how far the present step is, if it is time to."""
        if self.console.is_terminal:
            self.bar.update(self.bar.task_ids[0], note=f"{self.steps[self.at]} {text}")
            return
        now = time.monotonic()
        if now - self.said < LINE_SECONDS:
            return
        self.said = now
        words = f"{self.title} {self.at + 1} of {len(self.steps)}: {self.steps[self.at]} {text}".rstrip()
        print(f"{words} ({now - self.began:.0f} s)", file=sys.stderr, flush=True)
