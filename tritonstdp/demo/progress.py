"""The progress bar of a demo: how far it is, how fast, and what share of the time goes into learning."""

from __future__ import annotations

import time
from typing import Any

from rich import progress as rich_progress

from tritonstdp.demo.network import STEPS, DigitNetwork

__all__ = ["Progress"]

REFRESH_EVERY = 20


class Progress:
    """A progress bar over images shown to a network; a context manager.

    Parameters
    ----------
    title : str
        What stands before the bar.
    n_images : int
        The images to be shown.
    network : DigitNetwork
        The network, which knows the time that learning took.
    """

    def __init__(self, title: str, n_images: int, network: DigitNetwork) -> None:
        self.network = network
        self.n_images = n_images
        self.done = 0
        self.bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.TaskProgressColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("{task.fields[speed]}  {task.fields[note]}"),
        )
        self.task = self.bar.add_task(title, total=n_images, speed="", note="")

    def __enter__(self) -> Progress:
        self.bar.start()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._refresh()
        self.bar.stop()

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.perf_counter() - self.started

    def advance(self) -> None:
        """Count one image."""
        self.done += 1
        if self.done % REFRESH_EVERY == 0:
            self._refresh()

    def note(self, text: str) -> None:
        """Say something at the end of the line."""
        self.bar.update(self.task, note=text)

    def _refresh(self) -> None:
        seconds = self.seconds
        speed = f"{self.done * STEPS / seconds:,.0f} steps/s, {self.network.learning_seconds / seconds:.0%} learning"
        self.bar.update(self.task, completed=self.done, speed=speed)
