"""Spike catchers and spike traces on a synapse group, as CoNeX's main branch has them, each in one pass.

Catchers take the spikes from the axon where the neurons have one, delayed as it delays them, and from
``neurons.spikes`` in a bare PymoNNtorch network. Add catchers, then traces, then learning.
"""

from __future__ import annotations

from typing import Any

from pymonntorch import Behavior

from tritonstdp.behaviors.synapse import attribute_of, caught_spikes, keep
from tritonstdp.functional import trace_

__all__ = ["PostSpikeCatcher", "PostTrace", "PreSpikeCatcher", "PreTrace"]


class PreSpikeCatcher(Behavior):
    """Keep the spikes of the pre neurons of this step as ``synapse.pre_spike``.

    Raises
    ------
    ValueError
        At ``initialize``, if the neurons have neither an axon nor ``spikes``.

    Examples
    --------
    >>> PreSpikeCatcher().tag
    'PreSpikeCatcher'
    """

    initialize_last = True

    def initialize(self, synapse: Any) -> None:
        self.forward(synapse)

    def forward(self, synapse: Any) -> None:
        keep(synapse, "pre_spike", caught_spikes(synapse, "src"))


class PostSpikeCatcher(Behavior):
    """Keep the spikes of the post neurons of this step as ``synapse.post_spike``.

    Raises
    ------
    ValueError
        At ``initialize``, if the neurons have neither an axon nor ``spikes``.

    Examples
    --------
    >>> PostSpikeCatcher().tag
    'PostSpikeCatcher'
    """

    initialize_last = True

    def initialize(self, synapse: Any) -> None:
        self.forward(synapse)

    def forward(self, synapse: Any) -> None:
        keep(synapse, "post_spike", caught_spikes(synapse, "dst"))


class _Trace(Behavior):
    """One trace of one side of a synapse group."""

    side = ""
    neurons = ""

    def __init__(
        self,
        tau_s: Any,
        *args: Any,
        spike_scale: Any = 1.0,
        nearest: bool = False,
        signal: str | None = None,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        signal = f"{self.side}_trace" if signal is None else signal
        if not isinstance(signal, str) or not signal.startswith(f"{self.side}_") or signal == f"{self.side}_spike":
            raise ValueError(f"signal is {signal!r}: name a trace of these neurons, as {self.side}_slow")
        super().__init__(
            *args, tau_s=tau_s, spike_scale=spike_scale, nearest=nearest, signal=signal, backend=backend, **kwargs
        )

    def initialize(self, synapse: Any) -> None:
        self.tau_s = self.parameter("tau_s", None)
        if self.tau_s is None:
            raise ValueError(f"{type(self).__name__} needs tau_s, the time constant of the trace: pass tau_s=...")
        self.spike_scale = self.parameter("spike_scale", 1.0)
        self.nearest = self.parameter("nearest", False)
        self.signal = self.parameter("signal", f"{self.side}_trace")
        self.backend = self.parameter("backend", None)
        setattr(synapse, self.signal, getattr(synapse, self.neurons).vector(0.0))

    def forward(self, synapse: Any) -> None:
        trace_(
            getattr(synapse, self.signal),
            getattr(synapse, f"{self.side}_spike"),
            tau=self.tau_s,
            dt=attribute_of(attribute_of(synapse, "network"), "dt", 1.0),
            scale=self.spike_scale,
            nearest=self.nearest,
            backend=self.backend,
        )


class PreTrace(_Trace):
    """Keep the trace of the pre neurons' spikes as ``synapse.pre_trace``; to be placed after ``PreSpikeCatcher``.

    Parameters
    ----------
    tau_s : float
        The time constant, in the unit of ``network.dt`` (CoNeX: milliseconds). A network without ``dt``, as
        PymoNNtorch's own, has steps of 1.
    spike_scale : float
        What one spike adds.
    nearest : bool
        Whether a spike sets the trace instead of adding to it, so that spikes pair with the nearest earlier one alone.
    signal : str
        The name of the trace on the group, for rules that read several: ``pre_trace``, or another that starts alike.
    backend : str, optional
        "triton", "cpu" or "reference", and no other.

    Raises
    ------
    ValueError
        If ``signal`` is no name of a pre trace; at ``initialize``, if ``tau_s`` is None.

    Examples
    --------
    >>> PreTrace(tau_s=10.0).tag
    'PreTrace'
    """

    side, neurons = "pre", "src"


class PostTrace(_Trace):
    """Keep the trace of the post neurons' spikes as ``synapse.post_trace``; to be placed after ``PostSpikeCatcher``.

    Parameters
    ----------
    tau_s, spike_scale, nearest, signal, backend
        As for :class:`PreTrace`.

    Raises
    ------
    ValueError
        As :class:`PreTrace`.

    Examples
    --------
    >>> PostTrace(tau_s=10.0).tag
    'PostTrace'
    """

    side, neurons = "post", "dst"
