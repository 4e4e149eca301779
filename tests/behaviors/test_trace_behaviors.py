"""Catchers and traces have CoNeX's meaning, with axons and in a bare PymoNNtorch network."""

from __future__ import annotations

import copy

import pytest
import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup

import tritonstdp.behaviors as ours
import tritonstdp.behaviors.traces as traces_module
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


def groups_between(ends, *behaviors, network) -> list[SynapseGroup]:
    """Groups between two groups of neurons that learn alike."""
    caught = {40: ours.PreSpikeCatcher, 41: ours.PostSpikeCatcher}
    return [
        SynapseGroup(network, *ends, behavior={k: make() for k, make in caught.items()} | dict(of_group))
        for of_group in behaviors
    ]


def traces(tau: float = 7.0, at: int = 42, **settings) -> dict[int, ours.PreTrace]:
    return {at: ours.PreTrace(tau_s=tau, **settings), at + 1: ours.PostTrace(tau_s=tau, **settings)}


def network_of(*behaviors, recurrent=False):
    """A network whose groups share their neurons."""
    network = Network()
    ends = [NeuronGroup(n, network, behavior={1: RandomSpikes()}) for n in (DENSE.n_pre, DENSE.n_post)]
    groups = groups_between([ends[0]] * 2 if recurrent else ends, *behaviors, network=network)
    network.initialize(info=False)
    return network, groups


def advance(network, groups, taus, steps: int = 6, start=None) -> list[torch.Tensor]:
    """Let a network go on, and follow the traces of its groups from their spikes, one by one."""
    expected = [torch.zeros_like(group.pre_trace) for group in groups] if start is None else start
    for _ in range(steps):
        network.simulate_iteration()
        for trace, group, tau in zip(expected, groups, taus, strict=True):
            assert torch.equal(group.pre_spike, group.src.spikes)
            trace += group.pre_spike * 1.0
            trace -= trace / tau
            assert torch.equal(group.pre_trace, trace)
    return expected


def test_groups_that_share_neurons_share_what_they_catch_and_trace():
    network, groups = network_of(traces(), traces(), traces(9.0))
    advance(network, groups, (7.0, 7.0, 9.0))
    first, second, other = groups
    assert first.pre_spike is second.pre_spike is other.pre_spike and first.post_spike is second.post_spike
    assert first.pre_trace is second.pre_trace and first.post_trace is second.post_trace
    assert first.pre_trace is not other.pre_trace


def test_a_recurrent_group_catches_its_neurons_once():
    network, [group] = network_of(traces(), recurrent=True)
    advance(network, [group], (7.0,))
    assert group.pre_spike is group.post_spike and group.pre_trace is group.post_trace


@pytest.mark.parametrize("part", ["attribute", "tensor", "disabled"])
def test_a_trace_that_is_changed_parts_from_the_others(part):
    network, groups = network_of(traces(), traces())
    before = [trace.clone() for trace in advance(network, groups, (7.0, 7.0))]
    trace = groups[1].behavior[42]
    taus = (7.0, 3.0 if part == "attribute" else 7.0)
    if part == "attribute":
        trace.tau_s = 3.0
    elif part == "tensor":
        groups[1].pre_trace = torch.zeros_like(before[1])
        before[1].zero_()
    else:
        trace.behavior_enabled = False
        network.simulate_iteration()
        before[0] += groups[0].pre_spike * 1.0
        before[0] -= before[0] / 7.0
        trace.behavior_enabled = True
    advance(network, groups, taus, start=before)


def test_what_changes_between_two_groups_is_seen_by_the_second_alone():
    class Flip(Behavior):
        def forward(self, neurons):
            neurons.spikes = ~neurons.spikes

    network = Network()
    ends = [NeuronGroup(5, network, behavior={1: RandomSpikes(), 45: Flip()}) for _ in range(2)]
    early = SynapseGroup(network, *ends, behavior={40: ours.PreSpikeCatcher()})
    late = SynapseGroup(network, *ends, behavior={50: ours.PreSpikeCatcher()})
    network.initialize(info=False)
    network.simulate_iteration()
    assert torch.equal(early.pre_spike, ~late.pre_spike)


def test_learning_before_and_after_a_trace_keep_their_order():
    network, groups = network_of(traces(), {**traces(at=62), 60: ours.SimpleSTDP(a_plus=0.1, a_minus=0.1)})
    for group in groups:
        group.weights = torch.zeros(DENSE.n_pre, DENSE.n_post)
    advance(network, groups, (7.0, 7.0))
    assert groups[0].pre_trace is not groups[1].pre_trace


def test_a_network_that_is_copied_or_begun_anew_shares_nothing_with_what_was():
    network, groups = network_of(traces(), traces())
    advance(network, groups, (7.0, 7.0))
    twin = copy.deepcopy(network)
    kept = groups[0].pre_trace.clone()
    advance(twin, twin.SynapseGroups, (7.0, 7.0), start=[kept.clone(), kept.clone()])
    assert torch.equal(groups[0].pre_trace, kept)
    network.initialize(info=False)
    assert not groups[0].pre_trace.any() and groups[0].pre_trace is groups[1].pre_trace
    advance(network, groups, (7.0, 7.0))


def test_each_spike_is_caught_once_a_step_for_all_groups(monkeypatch):
    caught = []
    arriving = traces_module.arriving_spikes
    monkeypatch.setattr(
        traces_module,
        "arriving_spikes",
        lambda neurons, synapse, side: caught.append(side) or arriving(neurons, synapse, side),
    )
    network, _ = network_of(traces(), traces(), traces(9.0))
    caught.clear()
    network.simulate_iteration()
    assert sorted(caught) == ["dst", "src"]
