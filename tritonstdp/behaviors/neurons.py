"""Traces and axons of neurons under CoNeX's names, as its wheel has them: one pass each, and no tensor made anew.

Add them in this order behind what makes neurons fire. Learning and dendritic inputs find what the axon gives.
"""

from __future__ import annotations

from typing import Any

import torch
from pymonntorch import Behavior
from torch import Tensor

from tritonstdp.behaviors.synapse import attribute_of, is_closed
from tritonstdp.functional import trace_
from tritonstdp.kernels.spikes import carry_lists

__all__ = ["NeuronAxon", "SpikeTrace"]


class SpikeTrace(Behavior):
    """Keep the trace of the neurons' spikes as ``neurons.trace``.

    Parameters
    ----------
    tau_s : float
        The time constant, in the unit of ``network.dt``; a network without ``dt`` has steps of 1.
    backend : str, optional
        "triton", "cpu" or "reference", and no other.

    Raises
    ------
    ValueError
        At ``initialize``, if ``tau_s`` is None.

    Examples
    --------
    >>> SpikeTrace(tau_s=10.0).tag
    'SpikeTrace'
    """

    def __init__(self, tau_s: Any, *args: Any, backend: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, tau_s=tau_s, backend=backend, **kwargs)

    def initialize(self, neurons: Any) -> None:
        self.tau_s = self.parameter("tau_s", None)
        if self.tau_s is None:
            raise ValueError("SpikeTrace needs tau_s, the time constant of the trace: pass tau_s=...")
        self.backend = self.parameter("backend", None)
        neurons.trace = neurons.vector(0.0)

    def forward(self, neurons: Any) -> None:
        dt = attribute_of(attribute_of(neurons, "network"), "dt", 1.0)
        if attribute_of(neurons, "spikes") is None:
            raise ValueError(f"{neurons.tag} has no spikes: set neurons.spikes in one of its behaviors")
        if is_closed(neurons.trace):
            neurons.trace = neurons.trace.clone()
        trace_(neurons.trace, neurons.spikes, tau=self.tau_s, dt=dt, backend=self.backend)


_KINDS = ("Proximal", "Distal", "Apical")


class NeuronAxon(Behavior):
    """Keep the spikes, and the trace if there is one, of the last steps, and give them with a delay.

    Parameters
    ----------
    max_delay : int
        The number of steps that are kept; the longest delay is one less.
    proximal_min_delay, distal_min_delay, apical_min_delay : int
        The shortest delay of each kind of synapses.
    have_trace : bool, optional
        Whether the trace is kept; by default where the neurons have one.

    Attributes
    ----------
    spike_history, trace_history : Tensor
        ``(max_delay, n)``: row ``d`` is what was ``d`` steps ago.

    Examples
    --------
    >>> NeuronAxon(max_delay=3).tag
    'NeuronAxon'
    """

    _row: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        *args: Any,
        max_delay: int = 1,
        proximal_min_delay: int = 0,
        distal_min_delay: int = 0,
        apical_min_delay: int = 0,
        have_trace: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"max_delay": max_delay, "have_trace": have_trace}
        shortest = dict(zip(_shortest(), (proximal_min_delay, distal_min_delay, apical_min_delay), strict=True))
        super().__init__(*args, **given, **shortest, **kwargs)

    def initialize(self, neurons: Any) -> None:
        self.max_delay = self.parameter("max_delay", 1)
        for name in _shortest():
            setattr(self, name, self.parameter(name, 0))
        have_trace = self.parameter("have_trace", None)
        self.have_trace = hasattr(neurons, "trace") if have_trace is None else have_trace
        if isinstance(self.max_delay, bool) or not isinstance(self.max_delay, int) or self.max_delay < 1:
            raise ValueError(f"max_delay is {self.max_delay!r}: give the number of steps to keep, an int from 1")
        if self.have_trace and not hasattr(neurons, "trace"):
            raise ValueError(f"{neurons.tag} has no trace: add SpikeTrace before NeuronAxon, or leave have_trace out")
        self.spike_history = neurons.vector_buffer(self.max_delay, dtype=torch.bool)
        if self.have_trace:
            self.trace_history = neurons.vector_buffer(self.max_delay)
        neurons.axon = self

    @property
    def row(self) -> Tensor:
        """The spikes of this step, as they lie in the history, with lists that all that read them share."""
        history = self.spike_history
        if self._row is None or self._row[0] is not history:
            self._row = history, history[0]
            carry_lists(self._row[1])
        return self._row[1]

    def update_min_delay(self, neurons: Any) -> None:
        """Read the shortest delay of each kind of synapses off the synapses."""
        for kind, name in zip(_KINDS, _shortest(), strict=True):
            if synapses := neurons.efferent_synapses.get(kind, []):
                setattr(self, name, torch.cat([synapse.src_delay for synapse in synapses]).min())

    def get_spike(self, neurons: Any, delay: Tensor) -> Tensor:
        """The spikes that arrive with a delay of so many steps, one a neuron."""
        return _delayed(self.spike_history, delay)

    def get_spike_trace(self, neurons: Any, delay: Tensor) -> Tensor:
        """The trace likewise."""
        return _delayed(self.trace_history, delay)

    def forward(self, neurons: Any) -> None:
        self._push("spike_history", neurons.spikes)
        if self.have_trace:
            self._push("trace_history", neurons.trace)

    def _push(self, name: str, newest: Tensor) -> None:
        """Move all rows of a history on by one, in place where it may be written, and put the newest in front."""
        history: Tensor = self.__dict__[name]
        if newest.numel() != history.shape[1]:
            raise ValueError(
                f"{newest.numel()} values are given to an axon of {history.shape[1]} neurons: give one a neuron"
            )
        if is_closed(history):
            history = history.clone()
            setattr(self, name, history)
        if len(history) > 1:
            history[1:] = history[:-1].clone()
            history[0].copy_(newest)
        else:
            history.copy_(newest)  # which takes half as long as a view of the row


def _shortest() -> list[str]:
    return [f"{kind.lower()}_min_delay" for kind in _KINDS]


def _delayed(history: Tensor, delay: Tensor) -> Tensor:
    return history.gather(0, delay.unsqueeze(0)).squeeze(0)
