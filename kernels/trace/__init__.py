"""Spike traces: raised by the spikes of a step, then decayed, in one pass and in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tritonstdp.rules import nearest_trace, updated_trace


class TraceCase(NamedTuple):
    """What a trace kernel is chosen by and specialised on.

    Attributes
    ----------
    dtype : torch.dtype
        The trace's dtype.
    device : str
        The type of the trace's device.
    bool_spikes : bool
        Whether the spikes are bool; they have the trace's dtype otherwise.
    given : tuple of str
        How scale, time constant and step length are given: each as a "number", or all as "tensor".
    nearest : bool
        Whether a spike replaces what earlier ones have left.
    topology, layout, limits : str
        What a backend asks of any case (:class:`tritonstdp.kernels.protocol.Case`), the same for every trace.
    """

    dtype: torch.dtype
    device: str
    bool_spikes: bool = True
    given: tuple[str, ...] = ("number",) * 3
    nearest: bool = False
    topology: str = "trace"
    layout: str = "contiguous"
    limits: str = "number"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of what is given."""
        return "scale", "tau", "dt"

    @property
    def formula(self) -> Callable[..., Any]:
        """What becomes of a trace."""
        return nearest_trace if self.nearest else updated_trace


class TraceStep(Protocol):
    """One step of a group's traces, in place; the arguments have been checked by then.

    Parameters
    ----------
    trace : Tensor
        The trace to update, contiguous.
    spikes : Tensor
        Of the same shape, contiguous; bool, or of the trace's dtype.
    scale, tau, dt : float
        As for :func:`tritonstdp.rules.updated_trace`. The reference takes tensors as well.
    """

    def __call__(self, trace: Tensor, spikes: Tensor, scale: Any, tau: Any, dt: Any, /) -> None: ...
