"""A CoNeX network that learns by tritonstdp: one import changes. python conex_by_one_import.py [PICTURE]"""

import sys
import tempfile
import time
from pathlib import Path

import conex
import torch
from matplotlib.figure import Figure
from pymonntorch import NeuronGroup, Recorder, SynapseGroup

from tritonstdp.behaviors import SimpleSTDP  # instead of: from conex.behaviors.synapses import SimpleSTDP
from tritonstdp.plot import raster, weights_over_time

SOME_WEIGHTS = "n.weights[:20, :20]"


def population(network: conex.Neocortex, size: int, tag: str) -> NeuronGroup:
    behaviors = [
        conex.SimpleDendriteStructure(), conex.SimpleDendriteComputation(), conex.InherentNoise(scale=0.3),
        conex.LIF(R=4.0, threshold=1.0, tau=8.0, v_reset=0.0, v_rest=0.0), conex.Fire(),
        conex.SpikeTrace(tau_s=10.0), conex.NeuronAxon(),
    ]  # fmt: skip
    behavior = conex.prioritize_behaviors(behaviors) | {900: Recorder("spikes", tag=f"{tag}_spikes")}
    return NeuronGroup(size, network, tag=tag, behavior=behavior)


def simulate(learning: type, size: int = 1000, steps: int = 200) -> tuple[conex.Neocortex, float]:
    torch.manual_seed(0)
    network = conex.Neocortex(dt=1)
    inputs, outputs = population(network, size, "inputs"), population(network, size, "outputs")
    rule = learning(a_plus=0.1, a_minus=0.08, positive_bound="soft_bound", negative_bound="soft_bound")
    weights, dendrite = conex.WeightInitializer(mode="rand"), conex.SimpleDendriticInput(current_coef=0.002)
    behavior = conex.prioritize_behaviors([conex.SynapseInit(), weights, dendrite, rule])
    behavior[900] = Recorder(SOME_WEIGHTS, tag="history", auto_annotate=False)
    SynapseGroup(network, inputs, outputs, tag="Proximal", behavior=behavior)
    network.initialize(info=False)
    network.simulate_iterations(10, measure_block_time=False)  # compiles
    began = time.perf_counter()
    network.simulate_iterations(steps, measure_block_time=False)
    return network, time.perf_counter() - began


def main(picture: Path) -> None:
    network, seconds = simulate(SimpleSTDP)
    theirs, their_seconds = simulate(conex.SimpleSTDP)
    weights, wanted = (each.SynapseGroups[0].weights for each in (network, theirs))
    print(f"{their_seconds:.2f} s with CoNeX's class, {seconds:.2f} s with tritonstdp's")
    print(f"the same weights, bit for bit: {'yes' if torch.equal(weights, wanted) else 'no'}")

    spikes, history = Figure(figsize=(8, 7), layout="constrained").subplots(2)
    raster(network["outputs_spikes", 0].variables["spikes"][:, :100], axes=spikes)
    weights_over_time(network["history", 0].variables[SOME_WEIGHTS], axes=history)
    spikes.figure.savefig(picture)


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "conex_by_one_import.png")))
