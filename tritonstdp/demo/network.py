"""The spiking network of both demos: pixels that fire at random, and neurons that compete for what they see.

Each part is a small PymoNNtorch behavior; what learns is a behavior of :mod:`tritonstdp.behaviors`. A step is one
millisecond. An image lasts ``STEPS`` of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup
from torch import Tensor

from tritonstdp.behaviors import BaseLearning, PostSpikeCatcher, PostTrace, PreSpikeCatcher, PreTrace
from tritonstdp.functional import explain

__all__ = ["STEPS", "DigitNetwork", "backend_for"]

STEPS = 25
PEAK_RATE = 0.8
TOTAL_WEIGHT = 25.0
TRACE_TAU = 3.0
LEARNING_KEY = 54


class PoissonPixels(Behavior):
    """A pixel fires in a step with a probability in proportion to its intensity; when an image is over, none does.

    Parameters
    ----------
    peak_rate : float
        The probability of a spike in a step for a pixel of intensity 1.
    generator : torch.Generator
        Where the spikes come from: one of the CPU, whatever the device.
    """

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        self.peak_rate = self.parameter("peak_rate", None, required=True)
        self.generator = self.parameter("generator", None, required=True)
        self.silence = neurons.spikes = neurons.vector(dtype=torch.bool)
        self.coming = iter(())

    def show(self, image: Tensor, steps: int) -> None:
        """Draw the spikes of an image, intensities ``(n_pixels,)`` from 0 to 1, for so many steps."""
        chances = torch.rand(steps, len(image), generator=self.generator)
        self.coming = iter((chances < self.peak_rate * image).to(self.device).unbind())

    def forward(self, neurons: Any) -> None:
        neurons.spikes = next(self.coming, self.silence)


class Weights(Behavior):
    """Random weights at first, which carry the spikes across: the current of a neuron sums those that reach it.

    Parameters
    ----------
    total : float
        The sum of a neuron's weights.
    generator : torch.Generator
        Where the first weights come from: one of the CPU, whatever the device.
    """

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        weights = torch.rand(synapse.matrix_dim(), generator=self.parameter("generator", None, required=True))
        synapse.weights = (weights * self.parameter("total", None, required=True) / weights.sum(0)).to(self.device)
        synapse.dst.current = synapse.dst.vector()

    def forward(self, synapse: Any) -> None:
        synapse.dst.current = synapse.src.spikes.to(synapse.weights.dtype) @ synapse.weights


class LeakyIntegration(Behavior):
    """The membrane potential: it keeps the share ``leak`` from one step to the next, and adds the current."""

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        self.leak = self.parameter("leak", None, required=True)
        neurons.potential = neurons.vector()

    def forward(self, neurons: Any) -> None:
        neurons.potential.mul_(self.leak).add_(neurons.current)


class WinnerTakesAll(Behavior):
    """Of the neurons above threshold the furthest fires, and by inhibition resets all potentials, its own included."""

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons: Any) -> None:
        excess = neurons.potential - neurons.threshold
        neurons.spikes = (excess > 0) & (excess == excess.max())
        neurons.potential.masked_fill_(neurons.spikes.any(), 0.0)


class AdaptiveThreshold(Behavior):
    """Homeostasis: each spike makes the next one harder, so that no neuron wins all the time.

    Parameters
    ----------
    rest : float
        The threshold of a neuron that has long been silent.
    rise : float
        What a spike adds to it.
    tau : float
        The time constant, in steps, with which it comes back.
    """

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        self.rest = self.parameter("rest", None, required=True)
        self.rise = self.parameter("rise", None, required=True)
        self.tau = self.parameter("tau", None, required=True)
        neurons.threshold = neurons.vector() + self.rest

    def forward(self, neurons: Any) -> None:
        neurons.threshold += neurons.spikes * self.rise
        neurons.threshold -= (neurons.threshold - self.rest) / self.tau


class SpikeCount(Behavior):
    """Counts each neuron's spikes into ``neurons.response``."""

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        neurons.response = neurons.vector()

    def forward(self, neurons: Any) -> None:
        neurons.response += neurons.spikes


class Normalization(Behavior):
    """Every so many steps, scales the weights that reach a neuron back to their total: its synapses compete.

    Parameters
    ----------
    total : float
        The sum of a neuron's weights.
    every : int
        The steps from one scaling to the next.
    """

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.total = self.parameter("total", None, required=True)
        self.every = self.parameter("every", None, required=True)

    def forward(self, synapse: Any) -> None:
        if synapse.network.iteration % self.every == 0:
            synapse.weights *= self.total / synapse.weights.sum(0)


class DigitNetwork(Network):
    """Pixels, neurons that compete, and plastic synapses from all of the ones to all of the others.

    Parameters
    ----------
    n_pixels, n_neurons : int
        The sizes of the two groups.
    learning : BaseLearning
        What learns, for instance ``SimpleSTDP(a_plus=0.1, a_minus=0.01)``.
    threshold_rise : float
        What a spike adds to a neuron's threshold.
    seed : int
        The seed of the first weights and of the pixels' spikes.
    device : str
        Where the network lives.
    backend : str, optional
        The backend of the traces; give ``learning`` the same.

    Examples
    --------
    >>> from tritonstdp.behaviors import SimpleSTDP
    >>> network = DigitNetwork(6, 4, SimpleSTDP(a_plus=0.1, a_minus=0.01), threshold_rise=0.1, seed=0)
    >>> network.present(torch.ones(6)).shape, network.iteration
    (torch.Size([4]), 50)
    """

    def __init__(
        self,
        n_pixels: int,
        n_neurons: int,
        learning: BaseLearning,
        *,
        threshold_rise: float,
        seed: int,
        device: str = "cpu",
        backend: str | None = None,
    ) -> None:
        super().__init__(device=device)
        self.dopamine_concentration = 0.0
        generator = torch.Generator().manual_seed(seed)
        NeuronGroup(
            n_pixels, self, tag="pixels", behavior={10: PoissonPixels(peak_rate=PEAK_RATE, generator=generator)}
        )
        NeuronGroup(
            n_neurons,
            self,
            tag="neurons",
            behavior={
                30: LeakyIntegration(leak=0.9),
                40: WinnerTakesAll(),
                41: AdaptiveThreshold(rest=12.0, rise=threshold_rise, tau=1e5),
                42: SpikeCount(),
            },
        )
        SynapseGroup(
            self,
            src="pixels",
            dst="neurons",
            tag="synapses",
            behavior={
                20: Weights(total=TOTAL_WEIGHT, generator=generator),
                50: PreSpikeCatcher(),
                51: PostSpikeCatcher(),
                52: PreTrace(tau_s=TRACE_TAU, backend=backend),
                53: PostTrace(tau_s=TRACE_TAU, backend=backend),
                LEARNING_KEY: learning,
                60: Normalization(total=TOTAL_WEIGHT, every=STEPS),
            },
        )
        self.initialize(info=False)
        self.learning_seconds, self.learning_steps = 0.0, 0
        # nothing moves while no pixel fires, but kernels are compiled
        self.present(torch.zeros(n_pixels))
        self.compile_seconds = self.learning_seconds
        self.learning_seconds, self.learning_steps = 0.0, 0

    def step(self) -> None:
        """Simulate one step, and note the time that learning took of it (on a GPU: that of its launch)."""
        milliseconds = self.simulate_iteration(measure_behavior_execution_time=True)
        self.learning_seconds += milliseconds[LEARNING_KEY] / 1000
        self.learning_steps += self.synapses.behavior[LEARNING_KEY].behavior_enabled

    def present(self, image: Tensor) -> Tensor:
        """Show an image to the network at rest.

        Parameters
        ----------
        image : Tensor
            Intensities from 0 to 1, ``(n_pixels,)``, on the CPU.

        Returns
        -------
        Tensor
            How often each neuron has fired, ``(n_neurons,)``, on the CPU.
        """
        synapses, neurons = self.synapses, self.neurons
        for state in (neurons.potential, neurons.response, synapses.pre_trace, synapses.post_trace):
            state.zero_()
        if hasattr(synapses, "c"):
            synapses.c.zero_()
        self.pixels.PoissonPixels.show(image, STEPS)
        for _ in range(STEPS):
            self.step()
        return neurons.response.cpu().clone()

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Hold the weights for a while. Homeostasis goes on meanwhile, and the thresholds are put back at the end."""
        plasticity = [behavior for behavior in self.synapses.behavior.values() if not isinstance(behavior, Weights)]
        threshold = self.neurons.threshold.clone()
        for behavior in plasticity:
            behavior.behavior_enabled = False
        try:
            yield
        finally:
            for behavior in plasticity:
                behavior.behavior_enabled = True
            self.neurons.threshold = threshold


def backend_for(rule: str, device: str, backend: str | None = None) -> str:
    """Which backend learns by a rule in the network: the one that is asked for, or the fastest.

    Raises
    ------
    ValueError
        If none can, or not that one.

    Examples
    --------
    >>> backend_for("stdp", "cpu")
    'cpu'
    """
    return explain(rule, "dense", device=device, clamp=True, backend=backend).backend
