"""Diehl & Cook's network: neurons that compete for images learn prototypes of them by STDP alone.

From Diehl & Cook, "Unsupervised learning of digit recognition using spike-timing-dependent plasticity", Front. Comput.
Neurosci. 9:99 (2015), as BindsNET defines it in ``bindsnet.models.DiehlAndCook2015`` with the settings of its example
``eth_mnist.py``, so that the two can be compared spike by spike.

Diehl & Cook's own are the architecture (Poisson pixels, all to all onto excitatory neurons, each with one inhibitory
neuron that inhibits all other excitatory ones), thresholds that rise with each spike and decay slowly, STDP on the
excitatory neurons' inputs, whose sum is normalized after each image, and classes that are assigned to neurons after
learning, by what they respond to. BindsNET's are neurons driven by currents instead of conductances, one spike a
step at most, traces that a spike sets to 1, depression on pre spikes at a fixed rate, and its numbers: 250 ms an image
with no rest between two (states are reset instead), 128 Hz for the brightest pixel, and no repetition of images that
evoke fewer than five spikes.

Potentials are in mV above rest, times in ms and in steps, which are the same.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup
from torch import Tensor

from tritonstdp import propagate_, trace_
from tritonstdp.behaviors import SimpleSTDP

STEPS = 250
PEAK_RATE = 0.128
FIRST_WEIGHTS = 0.3
WEIGHT_SUM_PER_PIXEL = 0.1
EXCITATION, INHIBITION = 22.5, 120.0
THRESHOLD_RISE, THRESHOLD_TAU = 0.05, 1e7
TRACE_TAU = 20.0
A_PLUS, A_MINUS = 1e-2, 1e-4


def encode(image: Tensor) -> Tensor:
    """Draw an image's spikes: a pixel fires in a step with a probability in proportion to its intensity.

    Parameters
    ----------
    image : Tensor
        Intensities from 0 to 1, ``(n_pixels,)``.

    Returns
    -------
    Tensor
        bool ``(250, n_pixels)``.
    """
    return torch.rand(STEPS, len(image)) < PEAK_RATE * image


def first_weights(n_pixels: int, n_neurons: int, generator: torch.Generator) -> Tensor:
    """The weights before learning, uniform from 0 to 0.3, ``(n_pixels, n_neurons)``."""
    return FIRST_WEIGHTS * torch.rand(n_pixels, n_neurons, generator=generator)


class PixelSpikes(Behavior):
    """Pixels that fire as was drawn before."""

    def show(self, spikes: Tensor) -> None:
        """Fire in the coming steps as ``spikes``, ``(steps, n_pixels)``, say."""
        self.coming = iter(spikes.unbind())

    def forward(self, neurons: Any) -> None:
        neurons.spikes.copy_(next(self.coming))


class Propagation(Behavior):
    """Spikes of the step before become currents: those of a neuron's inputs that fired, weighted."""

    initialize_last = True

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        synapse.weights = self.parameter("weights", None, required=True)
        self.backend = self.parameter("backend", None)
        # kept here, since PymoNNtorch takes long to find a group's neurons
        self.current, self.spikes = synapse.dst.current, synapse.src.spikes

    def forward(self, synapse: Any) -> None:
        propagate_(self.current.zero_(), synapse.weights, self.spikes, backend=self.backend)


class LateralInhibition(Behavior):
    """Each spike of an excitatory neuron makes its inhibitory partner fire, which inhibits all other excitatory ones.

    A partner fires one step after the excitatory neuron and is felt another step later. It is not integrated: a single
    spike carries it from any potential that it can have past its threshold (by 22.5 mV of 20), nothing else does, and
    it can fire again after 3 steps, the excitatory neuron after 6. Inhibition has one strength, so that the sum over
    all others is that over all, less the partner's.
    """

    initialize_last = True

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.strength = torch.tensor(self.parameter("strength", None, required=True))
        synapse.src.spikes = self.spikes = synapse.src.vector()
        excitatory = synapse.dst
        self.current, self.excitatory_spikes, self.latest = excitatory.current, excitatory.spikes, excitatory.latest

    def forward(self, synapse: Any) -> None:
        fired = self.latest[-2] is not None
        if fired:
            self.current.addcmul_(self.spikes - self.spikes.sum(), self.strength)
        if fired or self.latest[-1] is not None:
            self.spikes.copy_(self.excitatory_spikes)


class LeakyIntegrateAndFire(Behavior):
    """Potentials that leak, add up currents, and where they reach the threshold are reset and rest for a while.

    ``neurons.latest`` tells who has reached it in each of the latest steps: bool ``(n,)``, or None for nobody.
    """

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        # torch takes a tensor of one number three times faster than the number
        self.decay = torch.tensor(math.exp(-1 / self.parameter("tau", None, required=True)))
        self.reset = self.parameter("reset", None, required=True)
        self.refractory = self.parameter("refractory", None, required=True)
        neurons.threshold = neurons.vector() + self.parameter("threshold", None, required=True)
        neurons.potential, neurons.current, neurons.awake = neurons.vector(), neurons.vector(), neurons.vector()
        neurons.latest = deque(maxlen=self.refractory + 1)
        self.rest(neurons)

    def rest(self, neurons: Any) -> None:
        """Forget all spikes and currents."""
        neurons.potential.zero_()
        neurons.awake.fill_(1.0)
        neurons.latest.extend([None] * (self.refractory + 1))

    def forward(self, neurons: Any) -> None:
        potential, spikes, awake = neurons.potential, neurons.spikes, neurons.awake
        rested = neurons.latest[0]
        if rested is not None:
            awake.masked_fill_(rested, 1.0)
        potential.mul_(self.decay).addcmul_(neurons.current, awake)
        torch.ge(potential, neurons.threshold, out=spikes)
        if not torch.count_nonzero(spikes).item():
            neurons.latest.append(None)
            return
        potential.masked_fill_(spikes, self.reset)
        awake.masked_fill_(spikes, 0.0)
        neurons.latest.append(spikes.clone())


class AdaptiveThreshold(Behavior):
    """Homeostasis: reaching the threshold raises it, and it comes back slowly."""

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        self.rise = self.parameter("rise", None, required=True)
        self.decay = torch.tensor(math.exp(-1 / self.parameter("tau", None, required=True)))
        self.lowest = neurons.threshold.clone()
        neurons.theta = neurons.vector()

    def forward(self, neurons: Any) -> None:
        if neurons.latest[-1] is not None:
            neurons.theta.add_(neurons.spikes, alpha=self.rise)
        torch.add(self.lowest, neurons.theta.mul_(self.decay), out=neurons.threshold)


class OneSpike(Behavior):
    """Of the neurons that reach the threshold in a step, one by lot sends its spike."""

    def initialize(self, neurons: Any) -> None:
        super().initialize(neurons)
        self.senders: list[Tensor] = []
        self.waiting = neurons.vector()

    def forward(self, neurons: Any) -> None:
        if neurons.latest[-1] is not None:
            # a race, as torch.multinomial draws, at half its cost
            sender = (neurons.spikes / self.waiting.exponential_()).argmax(0, keepdim=True)
            neurons.spikes.zero_().scatter_(0, sender, True)
            self.senders.append(sender)


class Traces(Behavior):
    """Traces that a spike sets to 1 and that decay exponentially, of both sides in one tensor and by one call."""

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        decay = math.exp(-1 / self.parameter("tau", None, required=True))
        self.backend = self.parameter("backend", None)
        # trace_ multiplies by 1 - 1 / tau in a step, after it has set what fired
        self.tau, self.scale = 1 / (1 - decay), 1 / decay
        sizes = synapse.src.size, synapse.dst.size
        self.spikes, self.traces = torch.zeros(sum(sizes), dtype=torch.bool), torch.zeros(sum(sizes))
        synapse.src.spikes, synapse.dst.spikes = synapse.pre_spike, synapse.post_spike = self.spikes.split(sizes)
        synapse.pre_trace, synapse.post_trace = self.traces.split(sizes)

    def rest(self) -> None:
        """Forget all spikes."""
        self.spikes.zero_()
        self.traces.zero_()

    def forward(self, synapse: Any) -> None:
        trace_(self.traces, self.spikes, tau=self.tau, scale=self.scale, nearest=True, backend=self.backend)


class DiehlCook(Network):
    """Pixels, excitatory neurons that learn, and inhibitory neurons by which these compete.

    Parameters
    ----------
    weights : Tensor
        The weights at first, ``(n_pixels, n_neurons)``; changed in place.
    backend : str, optional
        The backend of tritonstdp that is to be used, and no other.

    Examples
    --------
    >>> network = DiehlCook(first_weights(784, 400, torch.Generator().manual_seed(0)))
    >>> network.present(encode(torch.ones(784)), learn=True).shape
    torch.Size([400])
    """

    def __init__(self, weights: Tensor, backend: str | None = None) -> None:
        super().__init__()
        n_pixels, n_neurons = weights.shape
        self.weight_sum = WEIGHT_SUM_PER_PIXEL * n_pixels
        NeuronGroup(n_pixels, self, tag="pixels", behavior={20: PixelSpikes()})
        NeuronGroup(
            n_neurons,
            self,
            tag="excitatory",
            behavior={
                30: LeakyIntegrateAndFire(tau=100.0, threshold=13.0, reset=5.0, refractory=5),
                31: AdaptiveThreshold(rise=THRESHOLD_RISE, tau=THRESHOLD_TAU),
                32: OneSpike(),
            },
        )
        NeuronGroup(n_neurons, self, tag="inhibitory")
        SynapseGroup(
            self,
            src="pixels",
            dst="excitatory",
            tag="synapses",
            behavior={
                10: Propagation(weights=weights, backend=backend),
                50: Traces(tau=TRACE_TAU, backend=backend),
                51: SimpleSTDP(a_plus=A_PLUS, a_minus=A_MINUS, clamp=True, backend=backend),
            },
        )
        SynapseGroup(
            self,
            src="inhibitory",
            dst="excitatory",
            tag="competition",
            behavior={11: LateralInhibition(strength=INHIBITION)},
        )
        self.initialize(info=False)

    @property
    def weights(self) -> Tensor:
        """The weights, ``(n_pixels, n_neurons)``."""
        return self.synapses.weights

    def present(self, spikes: Tensor, learn: bool) -> Tensor:
        """Show an image to the network at rest.

        Parameters
        ----------
        spikes : Tensor
            The image's spikes, bool ``(steps, n_pixels)``.
        learn : bool
            Whether weights and thresholds change meanwhile.

        Returns
        -------
        Tensor
            How often each excitatory neuron has fired, int64 ``(n_neurons,)``.
        """
        self.begin(spikes, learn)
        self._simulate(len(spikes))
        if learn:
            sums = self.weights.sum(0)
            self.weights.mul_(self.weight_sum / sums.masked_fill_(sums == 0, 1.0))
        senders = torch.cat([torch.tensor([], dtype=torch.long), *self.excitatory.OneSpike.senders])
        return torch.bincount(senders, minlength=self.excitatory.size)

    def begin(self, spikes: Tensor, learn: bool) -> None:
        """Forget the last image, but neither weights nor thresholds, and get ready to show one; see :meth:`present`."""
        self.excitatory.LeakyIntegrateAndFire.rest(self.excitatory)
        self.excitatory.OneSpike.senders = []
        self.inhibitory.spikes.zero_()
        self.synapses.Traces.rest()
        self.pixels.PixelSpikes.show(spikes)
        for behavior in (self.excitatory.AdaptiveThreshold, self.synapses.Traces, self.synapses.SimpleSTDP):
            behavior.behavior_enabled = learn
        if learn:  # what normalization has lifted above 1; a step clamps the synapses alone that it touches
            self.weights.clamp_(0.0, 1.0)

    def _simulate(self, steps: int) -> None:
        """PymoNNtorch's loop over behaviors, less what it looks up anew in every step: a third of the time here."""
        behaviors = [(b.forward, owner) for _, owner, b in self.sorted_behavior_execution_list if b.behavior_enabled]
        for _ in range(steps):
            for forward, owner in behaviors:
                forward(owner)
        self.iteration += steps
