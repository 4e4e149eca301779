"""Catchers and traces have CoNeX's meaning, with axons and in a bare PymoNNtorch network."""

from __future__ import annotations

import copy
import gc
import weakref

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
    caught, take = [], traces_module._Catch.take
    monkeypatch.setattr(traces_module._Catch, "take", lambda *of: caught.append(of) or take(*of))
    network, _ = network_of(traces(), traces(), traces(9.0))
    caught.clear()
    network.simulate_iteration()
    assert len(caught) == 2, "one a side"


def bare(n: int = 2, more=(), recurrent: bool = False) -> tuple[Network, list[SynapseGroup]]:
    """Neurons whose spikes a test sets by hand, and groups with catchers and traces between them."""
    network = Network()
    ends = [NeuronGroup(4, network, behavior={}) for _ in range(2)]
    for neurons in ends:
        neurons.spikes = torch.zeros(4, dtype=torch.bool)
    groups = groups_between(ends, *[traces() | dict(more)] * n, network=network)
    network.initialize(info=False)
    return network, groups


def test_groups_that_are_driven_by_hand_see_what_the_neurons_do_now():
    _, groups = bare()
    for spike in (True, False, True):
        for group in groups:
            group.src.spikes = torch.tensor([spike] * 4)
            group.behavior[40].forward(group)
            assert group.pre_spike.tolist() == [spike] * 4
            spike = not spike


def test_what_one_group_has_masked_is_not_what_the_next_one_catches():
    _, (first, second) = bare()
    first.src.spikes = torch.ones(4, dtype=torch.bool)
    first.behavior[40].forward(first)
    first.pre_spike.zero_()
    second.behavior[40].forward(second)
    assert second.pre_spike.all()


@pytest.mark.parametrize("how", ["disabled", "removed"])
@pytest.mark.parametrize("which", [40, 42])
def test_a_behavior_that_no_longer_runs_leaves_its_group_as_it_was(which, how):
    network, (first, second) = network_of(traces(), traces())
    advance(network, (first, second), (7.0, 7.0))
    for group in (first, second):
        before = group.pre_spike.clone(), group.pre_trace.clone()
        if how == "disabled":
            group.behavior[which].behavior_enabled = False
        else:
            group.remove_behavior(which)
        for _ in range(3):
            network.simulate_iteration()
        kept = (group.pre_spike, group.pre_trace)[(40, 42).index(which)]
        assert torch.equal(kept, before[(40, 42).index(which)])


def test_a_trace_that_begins_later_begins_with_nothing():
    network, groups = network_of(traces(), traces())
    advance(network, groups, (7.0, 7.0))
    groups[1].behavior[42].initialize(groups[1])
    assert not groups[1].pre_trace.any() and groups[0].pre_trace.any()


def test_what_may_be_others_is_not_shared():
    class Twice(ours.PreTrace):
        def forward(self, synapse):
            super().forward(synapse)
            synapse.pre_trace *= 2

    own = {42: Twice(tau_s=7.0), 43: ours.PostTrace(tau_s=7.0)}
    two = traces() | {50: ours.PreTrace(tau_s=7.0, signal="pre_slow")}
    network, groups = network_of(own, traces(), two, traces(torch.tensor(7.0)))
    network.simulate_iteration()
    tensors = [group.pre_trace for group in groups] + [groups[2].pre_slow]
    assert len({tensor.data_ptr() for tensor in tensors}) == 4
    assert groups[1].pre_trace is groups[2].pre_trace


def test_a_trace_may_be_disabled_before_the_network_is_initialized():
    network = Network()
    ends = [NeuronGroup(n, network, behavior={1: RandomSpikes()}) for n in (3, 4)]
    groups = groups_between(ends, traces(), traces(), network=network)
    groups[0].behavior[42].behavior_enabled = False
    network.initialize(info=False)
    for _ in range(5):
        network.simulate_iteration()
    assert not groups[0].pre_trace.any() and groups[1].pre_trace.any()


def test_a_network_that_is_dropped_is_freed():
    network, groups = network_of(traces(), traces())
    network.simulate_iteration()
    alive = weakref.ref(groups[0]), weakref.ref(network)
    del network, groups
    gc.collect()
    assert [one() for one in alive] == [None, None]


def test_an_axon_s_history_may_be_replaced(conex):
    for make in (conex.NeuronAxon, ours.NeuronAxon):
        network = Network()
        neurons = NeuronGroup(3, network, behavior={1: RandomSpikes(1.0), 5: make()})
        network.initialize(info=False)
        neurons.axon.spike_history = neurons.vector_buffer(1, dtype=torch.bool)
        delay = torch.zeros(3, dtype=torch.long)
        before = neurons.axon.get_spike(neurons, delay)
        network.simulate_iteration()
        assert neurons.axon.get_spike(neurons, delay).all() and not before.any()


@pytest.mark.parametrize("max_delay", [1, 3])
def test_axons_and_traces_of_neurons_are_conex_s(max_delay, conex):
    network = Network()
    network.dt = 1
    neurons = []
    for library in (conex, ours):
        behavior = {1: RandomSpikes(), 2: library.SpikeTrace(tau_s=5.0), 3: library.NeuronAxon(max_delay=max_delay)}
        neurons.append(NeuronGroup(6, network, behavior=behavior))
    network.initialize(info=False)
    delay = torch.arange(6) % max_delay
    for _ in range(5):
        torch.manual_seed(network.iteration)
        network.simulate_iteration()
        theirs, mine = neurons
        theirs.spikes.copy_(mine.spikes)
    for _ in range(6):
        spikes = torch.rand(6) < 0.4
        for each in neurons:
            each.spikes = spikes.clone()
            each.behavior[2].forward(each)
            each.behavior[3].forward(each)
    found, wanted = ((n.axon.get_spike(n, delay), n.axon.spike_history) for n in (mine, theirs))
    assert all(map(torch.equal, found, wanted))


def test_an_axon_that_does_not_fit_is_refused():
    neurons = NeuronGroup(3, Network(), behavior={})
    for wrong in (0, 2.0, True):
        with pytest.raises(ValueError, match="max_delay is"):
            ours.NeuronAxon(max_delay=wrong).initialize(neurons)
    with pytest.raises(ValueError, match="has no trace: add SpikeTrace"):
        ours.NeuronAxon(have_trace=True).initialize(neurons)
