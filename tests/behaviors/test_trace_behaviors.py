"""Catchers and traces have CoNeX's meaning, with axons and in a bare PymoNNtorch network."""

from __future__ import annotations

import pytest
import torch
from pymonntorch import Network, NeuronGroup, SynapseGroup

import tritonstdp.behaviors as ours
from support import SMALL, Connect, RandomSpikes, side_by_side

DENSE = SMALL["Simple"]


@pytest.mark.parametrize("dt", [None, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bare_network_catches_spikes_and_traces_them(dt, dtype):
    network = Network(dtype=dtype)
    if dt is not None:
        network.dt = dt
    ends = [NeuronGroup(n, network, behavior={1: RandomSpikes()}) for n in (DENSE.n_pre, DENSE.n_post)]
    behaviors = {
        40: ours.PreSpikeCatcher(),
        41: ours.PostSpikeCatcher(),
        42: ours.PreTrace(tau_s=7.0, spike_scale=0.3, backend="cpu"),
        43: ours.PostTrace(tau_s=9.0, backend="cpu"),
    }
    group = SynapseGroup(network, *ends, behavior=behaviors)
    network.initialize(info=False)
    pre, post = torch.zeros(DENSE.n_pre, dtype=dtype), torch.zeros(DENSE.n_post, dtype=dtype)
    for _ in range(20):
        network.simulate_iteration()
        for trace, spikes, scale, tau in ((pre, ends[0].spikes, 0.3, 7.0), (post, ends[1].spikes, 1.0, 9.0)):
            trace += spikes * scale
            trace -= (trace / tau) * (1.0 if dt is None else dt)
        assert torch.equal(group.pre_spike, ends[0].spikes) and torch.equal(group.post_spike, ends[1].spikes)
        assert torch.equal(group.pre_trace, pre) and torch.equal(group.post_trace, post)


def test_caught_spikes_stay_as_they_were_when_the_neurons_go_on():
    network = Network()
    ends = [NeuronGroup(n, network, behavior={1: RandomSpikes()}) for n in (DENSE.n_pre, DENSE.n_post)]
    group = SynapseGroup(network, *ends, behavior={5: Connect(DENSE), 40: ours.PreSpikeCatcher()})
    network.initialize(info=False)
    network.simulate_iteration()
    before = group.pre_spike.clone()
    ends[0].spikes.logical_not_()
    assert torch.equal(group.pre_spike, before)


def test_catchers_follow_the_delays_of_the_axon():
    network, (group,) = side_by_side(DENSE, ours.SimpleSTDP(0.1, 0.1), convention="synapse", max_delay=3)
    group.src_delay, group.dst_delay = torch.arange(DENSE.n_pre) % 3, torch.arange(DENSE.n_post) % 2
    history = []
    for _ in range(5):
        network.simulate_iteration()
        history.insert(0, (group.src.spikes.clone(), group.dst.spikes.clone()))
    pre = [history[int(delay)][0][i] for i, delay in enumerate(group.src_delay)]
    post = [history[int(delay)][1][i] for i, delay in enumerate(group.dst_delay)]
    assert torch.equal(group.pre_spike, torch.stack(pre)) and torch.equal(group.post_spike, torch.stack(post))
