"""Launches that are bound once: what Triton asks of arguments at every launch is asked once for those of a kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

WIDEST_BYTES = 16
"""Of an access; Triton compiles another kernel for a tensor that does not start at a multiple of it."""


def starts_apart(*tensors: Tensor) -> bool:
    """Whether a tensor does not start where the widest access may, as most do."""
    bits = 0
    for tensor in tensors:
        bits |= tensor.data_ptr()
    return bits % WIDEST_BYTES != 0


def nothing(*arguments: Any) -> None:
    """The step of what has no elements."""


class Launch:
    """A kernel, its grid, and the arguments and options that each of its launches shares.

    The first launch compiles it by way of Triton, and later ones call what was compiled: their tensors must be of the
    same dtypes, and no argument of theirs a number that Triton specialises on. In Triton's interpreter, all launches
    are alike.

    Parameters
    ----------
    kernel : JITFunction
        The kernel.
    programs : int
        How many are launched.
    device : torch.device
        Where; launches go there, whatever device is the current one.
    settled : tuple
        The kernel's last arguments.
    options : dict
        Triton's options.
    """

    def __init__(
        self, kernel: Any, programs: int, device: torch.device, settled: tuple[Any, ...], **options: Any
    ) -> None:
        self.kernel, self.programs, self.settled, self.options = kernel, programs, settled, options
        self._run: Any = None
        self._index, self._module = device.index, torch.get_device_module(device)

    def __call__(self, unusual: bool, *arguments: Any) -> None:
        """Launch with the kernel's first arguments; ``unusual`` says that they are not of the kind of all others."""
        if self._index is not None and self._module.current_device() != self._index:
            with self._module.device(self._index):
                self(unusual, *arguments)
        elif self._run is None or unusual or knobs.runtime.launch_enter_hook.calls:
            compiled = self.kernel[(self.programs,)](*arguments, *self.settled, **self.options)
            if compiled is not None and not unusual:
                self._compiled = compiled  # which unloads its code when it goes
                self._function, self._metadata = compiled.function, compiled.packed_metadata
                self._run = compiled.run
        else:
            stream = driver.active.get_current_stream(self._index or 0)
            self._run(
                self.programs, 1, 1, stream, self._function, self._metadata, None, None, None,
                *arguments, *self.settled,
            )  # fmt: skip
