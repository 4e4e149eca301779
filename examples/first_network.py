"""A first PymoNNtorch network, which learns what inputs fire together: python first_network.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pymonntorch import Behavior, Network, NeuronGroup, Recorder, SynapseGroup

from tritonstdp import behaviors, plot


class Volleys(Behavior):
    """The first half of the inputs fires together every 20 steps, the other half as often, but at random."""

    def initialize(self, neurons):
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        neurons.spikes = torch.rand(neurons.size) < 0.05
        neurons.spikes[: neurons.size // 2] = neurons.network.iteration % 20 == 0


class LeakyIntegrateAndFire(Behavior):
    def initialize(self, neurons):
        neurons.v, neurons.spikes = neurons.vector(), neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        neurons.v = 0.9 * neurons.v + sum(synapse.I for synapse in neurons.afferent_synapses["All"])
        neurons.spikes = neurons.v > 10.0
        neurons.v[neurons.spikes] = 0.0


def main(picture: Path) -> None:
    torch.manual_seed(0)
    network = Network()
    inputs = NeuronGroup(100, network, behavior={10: Volleys(), 90: Recorder("spikes", tag="volleys")})
    outputs = NeuronGroup(20, network, behavior={30: LeakyIntegrateAndFire()})
    stdp = behaviors.SimpleSTDP(a_plus=0.02, a_minus=0.025, positive_bound="upper_bound", negative_bound="lower_bound")
    behavior = {20: behaviors.SimpleDendriticInput(), 50: stdp, 90: Recorder("weights", tag="history", gap_width=20)}
    behavior |= {40: behaviors.PreSpikeCatcher(), 41: behaviors.PostSpikeCatcher()}
    behavior |= {42: behaviors.PreTrace(tau_s=5.0), 43: behaviors.PostTrace(tau_s=5.0)}  # in the order of their numbers
    synapses = SynapseGroup(network, inputs, outputs, behavior=behavior)
    synapses.weights = torch.rand(100, 20)
    network.initialize(info=False)
    network.simulate_iterations(2000, measure_block_time=False)

    print("mean weight of inputs in volleys: {:.2f}, at random: {:.2f}".format(*synapses.weights.view(2, -1).mean(1)))
    spikes, together, apart = Figure(figsize=(8, 9), layout="constrained").subplots(3)
    plot.raster(network["volleys", 0].variables["spikes"][:200], axes=spikes)
    history, times = network["history", 0].variables["weights"], torch.arange(20, 2001, 20)
    plot.weights_over_time(history[:, :50], times=times, axes=together).set(title="fire in volleys", ylim=(0, 1))
    plot.weights_over_time(history[:, 50:], times=times, axes=apart).set(title="fire at random", ylim=(0, 1))
    spikes.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "first_network.png")))
