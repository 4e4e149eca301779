"""A driver for a GPU that is not there: kernels are compiled for it, and launches end where they would reach it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tritonstdp.registry import BACKENDS


class Launched(NamedTuple):
    """What would have been launched: of which source, in how many programs, with which arguments."""

    source: Any
    kernel: str
    programs: int
    arguments: tuple[Any, ...]


class FakeDriver:
    """Compiles for an H100, and keeps what would be launched there; without ``keeps``, nothing."""

    def __init__(self) -> None:
        self.launched: list[Launched] = []
        self.keeps = True
        self.utils = self

    def take(self) -> list[Launched]:
        """What has been launched since the last time."""
        taken, self.launched = self.launched, []
        return taken

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, ...]:
        return None, name, 32, 0, 1024

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):  # type: ignore[no-untyped-def]
            if self.keeps:
                self.launched.append(Launched(source, function, x * y * z, arguments))

        return launch


@contextmanager
def fake_driver() -> Iterator[FakeDriver]:
    """Let launches, of tensors on the CPU, meet a driver without a GPU meanwhile."""
    [backend] = [backend for backend in BACKENDS if backend.name == "triton"]
    before, refuse, fake = driver._active, backend.refuse, FakeDriver()
    driver.set_active(fake)  # type: ignore[arg-type]
    object.__setattr__(backend, "refuse", lambda case: refuse(case._replace(device="cuda")))
    try:
        yield fake
    finally:
        driver._active = before
        object.__setattr__(backend, "refuse", refuse)
