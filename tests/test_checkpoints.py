"""What is saved, loaded and continued ends in the bits of what never stopped; what does not fit is refused whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pymonntorch import Behavior, Network, NeuronDimension, NeuronGroup, SynapseGroup

import tritonstdp as ts
import tritonstdp.behaviors as ours
from support import SMALL, Connect, Dopamine, RandomSpikes, import_conex, values_of
from tritonstdp import checkpoints as module
from tritonstdp.state import attributes, owners

pytest.importorskip("safetensors")

BOUNDS = {"positive_bound": "soft_bound", "negative_bound": "soft_bound"}
STDP = {"a_plus": 0.02, "a_minus": 0.024, **BOUNDS}
ROOT = Path(__file__).parents[1]


class Noise(Behavior):
    """Draws from all that draws random numbers, and keeps state of each kind."""

    def initialize(self, neurons):
        self.generator = torch.Generator().manual_seed(4)
        self.recent, self.calls, self.by_name = [], 0, {}

    def forward(self, neurons):
        drawn = torch.rand(neurons.size, generator=self.generator) + torch.rand(neurons.size)
        neurons.I += 0.2 * drawn + 0.1 * random.random() + 0.1 * np.random.rand()
        self.calls += 1
        self.recent = [*self.recent, drawn][-2:]
        self.by_name[f"step {self.calls % 3}"] = self.calls, drawn.sum()
        if self.calls == 4:
            self.latest = drawn


def caught(tau=12.0):
    return {
        40: ours.PreSpikeCatcher(), 41: ours.PostSpikeCatcher(), 42: ours.PreTrace(tau_s=tau), 43: ours.PostTrace(tau_s=tau)
    }  # fmt: skip


def network_of(max_delay=1, dtype=torch.float32, size=23) -> Network:
    """Neurons of CoNeX between this package's traces, axons, dendrites, and every topology's learning."""
    conex = import_conex()
    torch.manual_seed(0)
    network = Network(behavior={1: conex.TimeResolution(dt=1), 2: Dopamine(torch.tensor)}, dtype=dtype)

    def cells(size, tag):
        behavior = {
            20: ours.SimpleDendriteStructure(Proximal_max_delay=2, Distal_max_delay=0, Apical_max_delay=0),
            21: ours.SimpleDendriteComputation(I_tau=3.0),
            22: Noise(),
            23: conex.LIF(R=6.0, threshold=1.0, tau=8.0, v_reset=0.0, v_rest=0.0),
            24: conex.Fire(),
            25: ours.SpikeTrace(tau_s=10.0),
            26: ours.NeuronAxon(max_delay=max_delay),
        }
        return NeuronGroup(size, network, tag=tag, behavior=behavior)

    src, dst, one = cells(size, "src"), cells(17, "dst"), cells(19, "one")
    image, maps = cells(NeuronDimension(depth=2, height=7, width=6), "image"), cells(NeuronDimension(depth=3, height=4, width=5), "maps")
    plan = [
        ("Simple", src, dst, ours.SimpleSTDP(**STDP), ours.SimpleDendriticInput()),
        ("Simple", src, dst, ours.SimpleRSTDP(tau_c=5.0, **STDP), ours.SimpleDendriticInput()),
        ("Sparse", src, dst, ours.SparseRSTDP(tau_c=5.0, **STDP), ours.SparseDendriticInput()),
        ("One2One", one, one, ours.One2OneSTDP(**STDP), ours.One2OneDendriticInput()),
        ("Conv2d", image, maps, ours.Conv2dRSTDP(tau_c=5.0, **STDP), ours.Conv2dDendriticInput(stride=(2, 1), padding=(1, 0))),
        ("Local2d", image, maps, ours.Local2dSTDP(**STDP), ours.Local2dDendriticInput(stride=(2, 1), padding=(1, 0))),
    ]  # fmt: skip
    for k, (kind, *ends, rule, dendrite) in enumerate(plan):
        behavior = {3: Connect(SMALL[kind]), 10: dendrite, **caught(), 50: rule}
        SynapseGroup(network, *ends, tag=f"Proximal,{kind}_{k}", behavior=behavior)
    network.initialize(info=False, warnings=False)
    for group in network.SynapseGroups:
        group.src_delay = torch.arange(group.src.size) % max_delay
    return network


def small(learning=None, dtype=torch.float32, size=5, more=None) -> Network:
    """Neurons that fire at random, with two groups that share what they catch."""
    torch.manual_seed(0)
    network = Network(dtype=dtype)
    cells = NeuronGroup(size, network, tag="cells", behavior={10: RandomSpikes()} | ({11: more} if more else {}))
    for k in range(2):
        rule = learning or ours.SimpleSTDP(**STDP)
        SynapseGroup(network, cells, cells, tag=f"group_{k}", behavior={5: Weights(), **caught(), 50: rule})
        learning = None
    network.initialize(info=False)
    return network


class Weights(Behavior):
    def initialize(self, synapse):
        synapse.weights = torch.rand(synapse.src.size, synapse.dst.size, dtype=synapse.network.def_dtype)


def run(network, steps):
    for _ in range(steps):
        network.simulate_iteration()


def bits(network) -> dict[tuple[int, str], object]:
    """All tensors, numbers and containers of a network, in a form that compares by bits."""

    def of(value):
        if isinstance(value, torch.Tensor):
            values = values_of(value).detach().contiguous().view(-1)
            return str(value.dtype), tuple(value.shape), values.view(torch.uint8).tolist()
        if isinstance(value, torch.Generator):
            return value.get_state().tolist()
        if isinstance(value, dict):
            return {key: of(each) for key, each in value.items()}
        return [of(each) for each in value] if isinstance(value, (list, tuple)) else repr(value)

    kept = (torch.Tensor, torch.Generator, int, float, str, type(None), list, tuple, dict)
    return {
        (k, name): of(value)
        for k, owner in enumerate(owners(network))
        for _, name, value in attributes(owner)
        if isinstance(value, kept) and module._can_be_kept(value)
    }


def seed(number):
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.mark.parametrize("max_delay", [1, 3])
@pytest.mark.parametrize("has_run", [False, True])
def test_continued_it_ends_in_the_bits_of_what_never_stopped(tmp_path, max_delay, has_run):
    expected = network_of(max_delay)
    seed(1)
    run(expected, 7)
    ts.save(expected, tmp_path / "x")
    run(expected, 6)
    network = network_of(max_delay)
    seed(2)
    run(network, 7 if has_run else 0)  # to the same step, so that what is keyed by the step could be taken for fresh
    ts.load(network, tmp_path / "x")
    run(network, 6)
    found, wanted = bits(network), bits(expected)
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if found[key] != wanted[key]] == []
    assert network.iteration == 13 and any(group.dst.spikes.any() for group in network.SynapseGroups)
    assert random.random() and torch.equal(torch.get_rng_state(), torch.get_rng_state())
