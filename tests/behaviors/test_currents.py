"""Currents are gathered as CoNeX gathers them, to its bits, and where nobody wrote nothing is moved."""

from __future__ import annotations

import copy

import pytest
import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup

import tritonstdp.behaviors as ours

N = 13
KINDS = ("Proximal", "Distal", "Apical")
GATHERED = ("I", "I_proximal", "I_distal", "I_apical")


class Membrane(Behavior):
    """What currents read of a neuron."""

    def initialize(self, neurons):
        neurons.v = neurons.vector("uniform")
        neurons.threshold, neurons.v_rest, neurons.tau, neurons.R = 1.0, 0.25, 20.0, 2.0

    def forward(self, neurons):
        pass


class Current(Behavior):
    """A current of its own at each step, which arrives with a delay; silent while ``behavior_enabled`` is off."""

    def initialize(self, synapse):
        self.draws = torch.Generator().manual_seed(self.parameter("seed", 0))
        synapse.dst_delay = torch.randint(self.parameter("delays", 1), (N,), generator=self.draws)
        synapse.I = torch.zeros(N)

    def forward(self, synapse):
        synapse.I = torch.randn(N, generator=self.draws) * (torch.rand(N, generator=self.draws) < 0.5)


def network_of(module, groups=("Proximal",), delays=1, structure=None, **computation):
    torch.manual_seed(5)
    network = Network()
    behavior = {
        1: Membrane(),
        20: module.SimpleDendriteStructure(**(structure or {})),
        30: module.SimpleDendriteComputation(**computation),
    }
    neurons = NeuronGroup(N, network, behavior=behavior)
    for seed, kind in enumerate(groups):
        SynapseGroup(network, neurons, neurons, tag=kind, behavior={10: Current(seed=seed, delays=delays)})
    network.initialize(info=False)
    return network, neurons


def gathered(network, neurons, steps=9):
    """What the neurons read at each step."""
    read = []
    for _ in range(steps):
        network.simulate_iteration()
        read.append({name: torch.as_tensor(getattr(neurons, name)).clone() for name in GATHERED})
    return read


def assert_alike(conex, steps=9, change=lambda network, neurons: None, **options):
    networks = [network_of(module, **options) for module in (conex, ours)]
    for _ in range(2):
        expected, got = (gathered(*one, steps=steps) for one in networks)
        for theirs, mine in zip(expected, got, strict=True):
            assert all(torch.equal(theirs[name].expand_as(mine[name]), mine[name]) for name in GATHERED)
        for one in networks:
            change(*one)
    return expected


LONG = {f"{kind}_max_delay": 4 for kind in KINDS}


@pytest.mark.parametrize("delays", [1, 4])
@pytest.mark.parametrize("groups", [("Proximal",), ("Proximal", "Apical"), (*KINDS, *KINDS), ()])
def test_currents_are_conex_s_bit_for_bit(groups, delays, conex):
    read = assert_alike(conex, groups=groups, delays=delays, structure=LONG)
    assert any(one["I"].any() for one in read) == ("Proximal" in groups)


@pytest.mark.parametrize(
    "computation",
    [
        {"I_tau": 5.0},
        {"apical_provocativeness": 0.7},
        {"distal_provocativeness": 0.9, "I_tau": 3.0},
        {"apical_provocativeness": 0.7, "distal_provocativeness": 2.0},
    ],
    ids=str,
)
def test_currents_of_other_kinds_prime_as_conex_s_do(computation, conex):
    read = assert_alike(conex, groups=KINDS, structure=LONG, delays=3, **computation)
    assert any((one["I"] != one["I_proximal"]).any() for one in read)


@pytest.mark.parametrize(
    "structure", [{}, {"Distal_max_delay": 0, "Apical_max_delay": 0}, {"Apical_max_delay": 3, "Proximal_max_delay": 2}]
)
def test_what_is_kept_by_default_is_what_conex_keeps(structure, conex):
    assert_alike(conex, structure=structure)
    (_, theirs), (_, mine) = (network_of(module, structure=structure) for module in (conex, ours))
    for kind in KINDS:
        for name in (f"{kind.lower()}_max_delay", f"{kind.lower()}_min_delay"):
            assert getattr(theirs.behavior[20], name) == getattr(mine.behavior[20], name)
        assert len(getattr(theirs, f"{kind.lower()}_input")) == len(getattr(mine, f"{kind.lower()}_input"))


def test_groups_that_fall_silent_and_delays_that_change_are_followed(conex):
    def change(network, neurons):
        for group in network.SynapseGroups:
            group.dst_delay = (group.dst_delay + 1) % 3
            group.I = torch.zeros(N)
            group.behavior[10].behavior_enabled = False
        network.SynapseGroups[0].dst_delay[:2] = 2

    assert_alike(conex, groups=("Proximal", "Distal"), delays=1, structure=LONG, change=change)


def test_what_another_behavior_writes_into_the_currents_to_come_arrives(conex):
    def change(network, neurons):
        neurons.apical_input[1] += 1.0

    read = assert_alike(conex, change=change, steps=5)
    assert read[0]["I_apical"].all() and not read[1]["I_apical"].any()


def test_gathered_currents_are_one_tensor_from_step_to_step():
    network, neurons = network_of(ours, groups=KINDS)
    network.simulate_iteration()
    before = {name: getattr(neurons, name) for name in GATHERED}
    network.simulate_iterations(3)
    assert all(getattr(neurons, name) is tensor for name, tensor in before.items()), "a captured step finds them"


def test_a_network_s_copy_gathers_for_itself():
    network, neurons = network_of(ours, groups=KINDS, structure=LONG, delays=3)
    gathered(network, neurons)
    twin = copy.deepcopy(network)
    expected = gathered(network, neurons)
    got = gathered(twin, twin.NeuronGroups[0])
    assert all(torch.equal(a[name], b[name]) for a, b in zip(expected, got, strict=True) for name in GATHERED)


def test_a_network_made_for_inference_goes_on_outside():
    with torch.inference_mode():
        network, neurons = network_of(ours, groups=KINDS)
        network.simulate_iteration()
    _, twin = network_of(ours, groups=KINDS)
    expected = gathered(twin.network, twin, steps=6)[1:]
    got = gathered(network, neurons, steps=5)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(expected, got, strict=True) for name in GATHERED)


def test_the_shortest_delay_is_read_off_the_synapses():
    _, neurons = network_of(ours, groups=("Proximal", "Proximal"), structure=LONG)
    for group, delay in zip(neurons.afferent_synapses["Proximal"], (3, 2), strict=True):
        group.dst_delay = torch.full((N,), delay)
    neurons.behavior[20].update_min_delay(neurons)
    assert neurons.behavior[20].proximal_min_delay == 2


def test_delays_that_are_not_kept_are_refused_and_what_would_keep_them_is_said():
    with pytest.raises(ValueError, match="distal_min_delay is 3 and Distal_max_delay 2"):
        network_of(ours, structure={"distal_min_delay": 3, "Distal_max_delay": 2})
    network, _ = network_of(ours, groups=("Proximal",), delays=3)
    with pytest.raises(ValueError, match=r"dst_delay of 2 steps, and 1 are kept: .*Proximal_max_delay=3"):
        network.simulate_iteration()
    network, _ = network_of(ours, groups=("Apical",), structure={"Apical_max_delay": 0, "Distal_max_delay": 0})
    with pytest.raises(ValueError, match="is Apical, and Apical_max_delay is 0"):
        network.simulate_iteration()
