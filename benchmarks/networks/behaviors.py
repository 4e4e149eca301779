"""What the networks have in common: behaviors for PymoNNtorch, the rule, and the recording of spikes."""

from __future__ import annotations

from math import exp
from typing import Any

import torch
from pymonntorch import Behavior
from torch import Tensor

import tritonstdp as ts
from tritonstdp.rules import Rule

BACKEND = "cpu"
"""Compiled loops or an error: what is measured is never a fallback."""


def _on_pre(pre_spike: Any, post_trace: Any) -> Any:
    return pre_spike * post_trace


def _on_post(post_spike: Any, pre_trace: Any) -> Any:
    return post_spike * pre_trace


def _depress_then_potentiate(
    potentiation: Any, depression: Any, w: Any, w_min: Any, w_max: Any, *, a_plus: Any, a_minus: Any
) -> Any:
    lost = depression * a_minus * (w - w_min)
    return potentiation * a_plus * (w_max - (w - lost)) - lost


MULTIPLICATIVE = Rule("multiplicative", _on_pre, _on_post, _depress_then_potentiate)
"""Multiplicative STDP as simulators do it where both neurons spike: ``w -= a_minus y (w - w_min)`` on the pre spike,
and then, with the weight that is left, ``w += a_plus x (w_max - w)`` on the post spike."""


def sampled(tau: float, dt: float) -> float:
    """The time constant by which a trace of Euler's steps decays as ``exp(-t / tau)`` does.

    Examples
    --------
    >>> tau = sampled(20.0, 0.1)
    >>> round((1 - 0.1 / tau) ** 200, 6), round(exp(-1), 6)
    (0.367879, 0.367879)
    """
    return dt / (1 - exp(-dt / tau))


class TimeResolution(Behavior):
    """The length of a step, ``dt``, as ``network.dt``."""

    def initialize(self, network: Any) -> None:
        network.dt = self.parameter("dt", 1.0)


class Weights(Behavior):
    """Weights that were drawn before: ``values``, dense or sparse."""

    def initialize(self, synapse: Any) -> None:
        synapse.weights = self.parameter("values")


class Axon(Behavior):
    """The latest spikes of a neuron group: each synapse group's catcher finds those of ``delay`` steps ago.

    ``src_delay`` and ``dst_delay`` of a synapse group, in steps, say how old the spikes are that it sees.
    """

    def initialize(self, neurons: Any) -> None:
        self.steps = [neurons.vector(dtype=torch.bool) for _ in range(self.parameter("delay") + 1)]
        neurons.axon = self

    def forward(self, neurons: Any) -> None:
        self.get_spike(neurons, 0).copy_(neurons.spikes)

    def get_spike(self, neurons: Any, delay: int) -> Tensor:
        """The spikes of ``delay`` steps ago, where they are kept."""
        return self.steps[(neurons.network._iteration - delay) % len(self.steps)]


class Delays(Behavior):
    """How many steps spikes take from the pre neurons, and from the post neurons."""

    def initialize(self, synapse: Any) -> None:
        synapse.src_delay, synapse.dst_delay = self.parameter("src"), self.parameter("dst")


class Propagation(Behavior):
    """Adds the weights of the pre neurons that spiked to ``synapse.dst``'s attribute of the name ``onto``."""

    def initialize(self, synapse: Any) -> None:
        self.onto = self.parameter("onto")

    def forward(self, synapse: Any) -> None:
        ts.propagate_(getattr(synapse.dst, self.onto), synapse.weights, synapse.pre_spike, backend=BACKEND)


class Raster(Behavior):
    """The spikes of so many ``steps``, a row a step."""

    def initialize(self, neurons: Any) -> None:
        self.spikes = torch.full((self.parameter("steps"), neurons.size), False)
        self.step = 0

    def forward(self, neurons: Any) -> None:
        self.spikes[self.step] = neurons.spikes
        self.step += 1
