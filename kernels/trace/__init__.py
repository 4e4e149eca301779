"""Spike traces: raised by the spikes of a step, then decayed, in one pass and in place."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


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
    scalars : bool
        Whether scale, time constant and step length are numbers.
    topology, layout, dopamine : str
        What a backend asks of any case (:class:`tritonstdp.kernels.protocol.Case`), the same for every trace.
    """

    dtype: torch.dtype
    device: str
    bool_spikes: bool = True
    scalars: bool = True
    topology: str = "trace"
    layout: str = "contiguous"
    dopamine: str = "number"


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

    def __call__(self, trace: Tensor, spikes: Tensor, scale: Any, tau: Any, dt: Any) -> None: ...
