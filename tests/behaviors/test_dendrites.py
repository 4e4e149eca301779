"""Dendritic inputs give CoNeX's currents, in either of its conventions and in a bare PymoNNtorch network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pymonntorch import Network, NeuronGroup, SynapseGroup

import tritonstdp.behaviors as ours
from support import SMALL, Connect, RandomSpikes

DENSE = SMALL["Simple"]


def network_of(wiring, dendrite, conex=None, convention="wheel", tag="", dtype=torch.float32, weights=None, **options):
    """Neurons that fire at random, whose spikes reach others, with CoNeX's axons or without."""
    network = Network(dtype=dtype, **options)
    behavior = {10: RandomSpikes(0.3)}
    ends = []
    for size in (wiring.n_pre, wiring.n_post):
        axon = {} if conex is None else {30: conex.NeuronAxon(max_delay=2)}
        ends.append(NeuronGroup(size, network, tag=tag or None, behavior=behavior | axon))
    caught = {40: ours.PreSpikeCatcher()} if convention == "main" else {}
    weights = wiring.weights(dtype) if weights is None else weights
    group = SynapseGroup(network, *ends, behavior={5: Connect(wiring, weights), **caught, 50: dendrite})
    network.initialize(info=False)
    return network, group


@pytest.mark.parametrize("convention", ["wheel", "main"])
@pytest.mark.parametrize("kind", SMALL)
def test_currents_are_conex_s_within_the_rounding_of_a_sum(kind, convention, conex):
    name = f"{kind}DendriticInput"
    wiring = SMALL[kind]
    geometry = {} if kind in ("Simple", "Sparse", "One2One") else {"stride": wiring.stride, "padding": wiring.padding}
    dendrite = getattr(ours, name)(current_coef=0.5, **geometry)
    network, group = network_of(wiring, dendrite, conex, convention, tag="inh")
    theirs = SimpleNamespace(def_dtype=torch.float32)
    current = group.I
    for _ in range(3):
        network.simulate_iteration()
        expected = -0.5 * getattr(conex, name).calculate_input(theirs, group)
        assert expected.any()
        torch.testing.assert_close(group.I, expected, rtol=1e-5, atol=1e-5)
    assert group.I is current, "a captured step finds it where it was"
    assert name in group.tags


def test_a_bare_network_s_spikes_reach_its_neurons_in_the_precision_of_the_weights():
    weights = torch.rand(DENSE.n_pre, DENSE.n_post, dtype=torch.float64)
    network, group = network_of(DENSE, ours.SimpleDendriticInput(), weights=weights)
    for _ in range(2):
        network.simulate_iteration()
        torch.testing.assert_close(group.I, weights[group.src.spikes].sum(0))


def test_an_input_of_a_user_s_own_counts():
    class Doubled(ours.SimpleDendriticInput):
        def calculate_input(self, synapse):
            return 2 * super().calculate_input(synapse)

    network, group = network_of(DENSE, Doubled(current_coef=0.5))
    network.simulate_iteration()
    torch.testing.assert_close(group.I, group.weights[group.src.spikes].sum(0))


def test_a_coefficient_is_read_at_every_step_and_may_be_one_a_neuron():
    network, group = network_of(DENSE, ours.SimpleDendriticInput())
    for coefficient in (1, 3.0, torch.rand(DENSE.n_post)):
        group.behavior[50].current_coef = coefficient
        network.simulate_iteration()
        torch.testing.assert_close(group.I, coefficient * group.weights[group.src.spikes].sum(0))


def test_what_does_not_fit_is_said_when_the_network_is_initialized():
    with pytest.raises(RuntimeError, match="SxD"):
        network_of(DENSE, ours.SimpleDendriticInput(), synapse_mode="DxS")
    with pytest.raises(RuntimeError, match=r"has 23 pre and 17 post neurons|need as many of both"):
        network_of(DENSE, ours.One2OneDendriticInput())
    conv = SMALL["Conv2d"]
    with pytest.raises(ValueError, match="its geometry needs"):
        fewer = torch.rand(1, *conv.weights(torch.float32).shape[1:])
        network_of(conv, ours.Conv2dDendriticInput(stride=conv.stride, padding=conv.padding), weights=fewer)


def test_weights_of_another_class_s_are_named():
    network, _ = network_of(SMALL["One2One"], ours.SimpleDendriticInput())
    with pytest.raises(ValueError, match="not a strided matrix"):
        network.simulate_iteration()
