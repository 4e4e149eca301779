"""A simulation that is saved and resumed ends as one that never stopped: python save_and_resume.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pymonntorch import Behavior, Network, NeuronGroup, Recorder, SynapseGroup

import tritonstdp as ts
from tritonstdp import behaviors, plot


class RandomSpikes(Behavior):
    def initialize(self, neurons):
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        neurons.spikes = torch.rand(neurons.size) < 0.05


def build() -> tuple[Network, SynapseGroup]:
    torch.manual_seed(0)
    network = Network()
    ends = [NeuronGroup(n, network, behavior={10: RandomSpikes()}) for n in (60, 40)]
    behavior = {20: behaviors.PreSpikeCatcher(), 21: behaviors.PostSpikeCatcher()}
    behavior |= {22: behaviors.PreTrace(tau_s=20.0), 23: behaviors.PostTrace(tau_s=20.0)}
    bounds = {"positive_bound": "upper_bound", "negative_bound": "lower_bound"}
    behavior |= {30: behaviors.SimpleSTDP(a_plus=0.02, a_minus=0.021, **bounds), 90: Recorder("weights", tag="history")}
    synapses = SynapseGroup(network, *ends, behavior=behavior)
    synapses.weights = torch.rand(60, 40)
    network.initialize(info=False)
    return network, synapses


def main(picture: Path) -> None:
    network, never_stopped = build()
    network.simulate_iterations(300, measure_block_time=False)

    with tempfile.TemporaryDirectory() as folder:
        first, _ = build()
        first.simulate_iterations(120, measure_block_time=False)
        ts.save(first, Path(folder) / "step_120.safetensors")  # whole or not at all
        resumed, synapses = build()  # as the same script would in another process
        ts.load(resumed, Path(folder) / "step_120.safetensors")
    resumed.simulate_iterations(180, measure_block_time=False)

    print(f"step {resumed.iteration}: equal to the last bit: {torch.equal(synapses.weights, never_stopped.weights)}")
    one, two = Figure(figsize=(8, 5), layout="constrained").subplots(2, sharex=True)
    for axes, of, title in ((one, network, "never stopped"), (two, resumed, "saved at step 120, and resumed")):
        plot.weights_over_time(of["history", 0].variables["weights"][:, :6, 0], axes=axes).set(title=title, ylim=(0, 1))
    two.axvline(120, color="black", linestyle=":")
    one.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "save_and_resume.png")))
