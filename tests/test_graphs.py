"""A captured iteration does what an iteration does; what can't be captured is named."""

from __future__ import annotations

import random

import pytest
import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup

import tritonstdp as ts
import tritonstdp.behaviors as ours
from tritonstdp import graphs as module


class Neurons(Behavior):
    """Replaces, writes, shares and swaps its tensors, as users' behaviors do."""

    def initialize(self, neurons):
        neurons.v = torch.rand(neurons.size)
        neurons.spikes = neurons.v > 1
        neurons.before, neurons.last = torch.zeros(neurons.size), torch.ones(neurons.size)
        neurons.history = torch.zeros(2, neurons.size)
        neurons.seen = neurons.history[0]
        self.drive = torch.full((), 0.3)

    def forward(self, neurons):
        synapses = neurons.afferent_synapses["All"]
        neurons.v = neurons.v * 0.9 + self.drive
        for synapse in synapses:
            neurons.v += 0.1 * synapse.I
        neurons.spikes = neurons.v > 1
        neurons.before, neurons.last = neurons.last, neurons.before
        neurons.last += neurons.spikes
        neurons.history = neurons.history.roll(1, 0)
        neurons.history[0] = neurons.v
        neurons.seen = neurons.history[0]
        neurons.v = torch.where(neurons.spikes, 0.0, neurons.v)


class Weights(Behavior):
    def initialize(self, synapse):
        synapse.weights = torch.rand(synapse.src.size, synapse.dst.size)


def network_of(more: Behavior | None = None) -> Network:
    torch.manual_seed(0)
    network = Network()
    cells = NeuronGroup(7, network, tag="cells", behavior={20: Neurons()} | ({30: more} if more else {}))
    caught = {40: ours.PreSpikeCatcher(), 41: ours.PostSpikeCatcher()}
    traces = {42: ours.PreTrace(tau_s=10.0), 43: ours.PostTrace(tau_s=10.0)}
    learning = {44: ours.SimpleSTDP(a_plus=0.1, a_minus=0.1, positive_bound="soft_bound")}
    SynapseGroup(
        network, cells, cells, behavior={1: Weights(), 10: ours.SimpleDendriticInput(), **caught, **traces, **learning}
    )
    network.initialize(info=False)
    network.simulate_iteration()
    return network


def state_of(network: Network) -> dict[tuple[int, str], torch.Tensor]:
    owners = enumerate((*network.NeuronGroups, *network.SynapseGroups))
    return {(k, n): v.clone() for k, o in owners for n, v in vars(o).items() if isinstance(v, torch.Tensor)}


def test_an_iteration_in_place_does_what_an_iteration_does_and_every_tensor_stays_where_it_was():
    network, expected = network_of(), network_of()
    places = {(k, n): t.data_ptr() for k, o in enumerate((*network.NeuronGroups, *network.SynapseGroups))
              for n, t in vars(o).items() if isinstance(t, torch.Tensor)}  # fmt: skip
    for _ in range(12):
        module.iterate_in_place(network)
        expected.simulate_iteration()
        found, wanted = state_of(network), state_of(expected)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert wanted[0, "last"].any()
    now = {(k, n): t.data_ptr() for k, o in enumerate((*network.NeuronGroups, *network.SynapseGroups))
           for n, t in vars(o).items() if isinstance(t, torch.Tensor)}  # fmt: skip
    assert now == places


def test_a_network_of_this_package_s_behaviors_has_no_obstacle():
    network, expected = network_of(), network_of()
    assert module.obstacles(network) == []
    expected.simulate_iteration()
    assert network.iteration == expected.iteration
    found, wanted = state_of(network), state_of(expected)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted), "it is an iteration like any other"


def obstacle(act) -> Behavior:
    class Obstacle(Behavior):
        def initialize(self, neurons):
            self.count, self.kept = 0, torch.zeros(1)

        def forward(self, neurons):
            act(self, neurons)

    return Obstacle()


def growing(self, neurons):
    self.kept = torch.cat([self.kept, neurons.v])


def counting(self, neurons):
    self.count += 1


def listing(self, neurons):
    self.rows = [neurons.v.clone()]


def test_the_usual_reset_is_no_obstacle():
    def reset(self, neurons):
        neurons.v[neurons.spikes] = 0.0
        self.kept.fill_(torch.nan)

    assert module.obstacles(network_of(obstacle(reset))) == []


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda self, neurons: neurons.v.mul_(neurons.network.iteration % 2), "reads network.iteration"),
        (lambda self, neurons: neurons.v.add_(neurons.iteration), "reads network.iteration"),
        (lambda self, neurons: neurons.v.unique_consecutive(), "waits for the device"),
        (lambda self, neurons: neurons.v.add_(random.random()), "random numbers are drawn on the host"),
        (listing, "is a list whose tensors change"),
        (lambda self, neurons: neurons.v.sum().item(), "Obstacle of cells waits for the device"),
        (lambda self, neurons: neurons.v[neurons.spikes], "Obstacle of cells waits for the device"),
        (lambda self, neurons: neurons.spikes.nonzero(), "Obstacle of cells waits for the device"),
        (lambda self, neurons: neurons.v.to("meta"), "Obstacle of cells moves a tensor between devices"),
        (growing, "Obstacle.kept changes its shape"),
        (counting, "count changes from 1 to 2 in Python"),
    ],
)
def test_what_keeps_a_network_from_being_captured_is_named(act, said):
    network = network_of(obstacle(act))
    [found] = module.obstacles(network)
    assert said in found and ": keep" in found
    assert type(network.iteration) is int


def test_a_network_on_a_cpu_is_refused():
    network = network_of()
    with pytest.raises(ValueError, match="the network is on cpu"):
        ts.capture(network)


class FakeGraph:
    """What a CUDA graph is to the code that captures one: it replays what ran meanwhile."""

    def __init__(self) -> None:
        self.registered, self.captured = [], None

    def register_generator_state(self, generator):
        self.registered.append(generator)

    def replay(self):
        self.captured()


def test_a_captured_network_goes_on_as_one_that_runs(monkeypatch):
    class Nothing:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def wait_stream(self, other):
            pass

    network, expected = network_of(), network_of()
    for name in ("Stream", "stream", "current_stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, Nothing)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    network.device = "cuda"
    run = module.iterate_in_place

    def captured(which):
        """Run for as long as the graph is captured would change nothing on a GPU."""
        which.iteration += 1

    monkeypatch.setattr(module, "iterate_in_place", captured)
    replayed = ts.capture(network, warm_up=2)
    replayed._graph.captured = lambda: (run(network), setattr(network, "iteration", network.iteration - 1))
    replayed.simulate_iterations(5)
    for _ in range(2 + 1 + 5):
        expected.simulate_iteration()
    found, wanted = state_of(network), state_of(expected)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert network.iteration == expected.iteration
