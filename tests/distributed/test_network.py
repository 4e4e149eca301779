"""A PymoNNtorch network on several ranks ends in the bits of one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup

from sharded import on_ranks
from tritonstdp import behaviors
from tritonstdp.distributed import ExchangeError, shard_network


class Inputs(Behavior):
    def initialize(self, neurons):
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        neurons.spikes = torch.rand(neurons.size) < 0.2


class Cells(Behavior):
    def initialize(self, neurons):
        neurons.v, neurons.threshold = neurons.vector("rand"), neurons.vector("normal(mean=3.0, std=0.3)")
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        noise = torch.rand(neurons.size)
        neurons.v = 0.9 * neurons.v + 0.1 * noise + sum(synapse.I for synapse in neurons.afferent_synapses["All"])
        neurons.spikes = neurons.v > neurons.threshold
        neurons.v[neurons.spikes] = 0.0
        if getattr(neurons, "fails_at", None) == neurons.network.iteration:
            raise ValueError("a cell burst")


class Weights(Behavior):
    def initialize(self, synapse):
        synapse.weights = 0.1 * synapse.matrix("rand", density=0.5) + 0.01 * synapse.matrix("normal(mean=1.0, std=0.1)")


def _synapses(network, src, dst, learning, of_axons, weights=None):
    behavior = {20: behaviors.SimpleDendriticInput(backend="cpu"), 60: learning}
    if weights is None:
        behavior[5] = Weights()
    elif weights.layout is not torch.strided:
        behavior[20] = behaviors.SparseDendriticInput(backend="cpu")
    if not of_axons:
        behavior |= {50: behaviors.PreSpikeCatcher(), 51: behaviors.PostSpikeCatcher()}
        behavior |= {
            52: behaviors.PreTrace(tau_s=9.0, backend="cpu"),
            53: behaviors.PostTrace(tau_s=9.0, backend="cpu"),
        }
    group = SynapseGroup(network, src, dst, behavior=behavior)
    if weights is not None:
        group.weights = weights
    return group


def _axon(there):
    return {31: behaviors.SpikeTrace(tau_s=9.0, backend="cpu"), 32: behaviors.NeuronAxon()} if there else {}


def _network(of_axons):
    torch.manual_seed(0)
    network = Network(behavior={})
    inputs = NeuronGroup(33, network, behavior={10: Inputs(), **_axon(of_axons)}, tag="inputs")
    cells = NeuronGroup(37, network, behavior={30: Cells(), **_axon(of_axons)}, tag="cells")
    rule = {"a_plus": 0.01, "a_minus": 0.01, "backend": "cpu", "positive_bound": "soft_bound"}
    sparse = torch.rand(33, 37) * 0.3 * (torch.rand(33, 37) < 0.4)
    groups = [
        _synapses(network, inputs, cells, behaviors.SparseSTDP(**rule), of_axons, sparse.to_sparse_csc()),
        _synapses(network, cells, cells, behaviors.SimpleSTDP(**rule), of_axons),
    ]
    return network, inputs, cells, groups


def _simulated(of_axons, is_dealt_out, whole_inputs=False, fails_at=None, steps=60):
    network, inputs, cells, groups = _network(of_axons)
    if is_dealt_out:
        shard_network(network, whole=[inputs] if whole_inputs else (), timeout=20)
    if dist.is_initialized() and dist.get_rank() == 1:
        cells.fails_at = fails_at
    network.initialize(info=False)
    network.simulate_iterations(steps, measure_block_time=False)
    return [group.weights.to_dense() for group in groups] + [cells.v[None]]


@pytest.mark.parametrize(("of_axons", "whole_inputs", "size"), [(False, False, 2), (True, False, 3), (False, True, 3)])
def test_ranks_end_in_the_weights_of_one_process(of_axons, whole_inputs, size, tmp_path):
    alone = _simulated(of_axons, False)
    parts = on_ranks(size, tmp_path, _simulated, of_axons, True, whole_inputs)
    for one, *many in zip(alone, *parts, strict=True):
        assert torch.equal(torch.cat(many, 1), one)
    for before, after in zip(_simulated(of_axons, False, steps=1)[:2], alone[:2], strict=True):
        assert (before != after).float().mean() > 0.1, "there is something to learn"


def test_a_trace_that_is_disabled_stands_still_for_all_neurons_as_well():
    weights = []
    for is_dealt_out in (False, True):
        network, _, cells, groups = _network(of_axons=True)
        if is_dealt_out:
            shard_network(network)
        network.initialize(info=False)
        network.simulate_iterations(20, measure_block_time=False)
        cells.behavior[31].behavior_enabled = False
        network.simulate_iterations(20, measure_block_time=False)
        weights.append(groups[1].weights)
    assert torch.equal(*weights)


def test_a_rank_that_fails_in_a_step_is_named_by_all(tmp_path):
    others = on_ranks(2, tmp_path, _simulated, False, True, False, 17)
    assert isinstance(others[1], ValueError)
    assert (
        isinstance(others[0], ExchangeError)
        and "rank 1 has failed" in str(others[0])
        and "a cell burst" in str(others[0])
    )


DRAWS = {
    "rand_like": lambda neurons: torch.rand_like(neurons.v),
    "normal": lambda neurons: torch.normal(neurons.v, 1.0),
    "randperm": lambda neurons: torch.randperm(neurons.size),
    "randint": lambda neurons: torch.randint(0, neurons.size, (4,)),
    "geometric_": lambda neurons: torch.empty(neurons.size).geometric_(0.5),
    "binomial": lambda neurons: torch.binomial(neurons.v.abs(), torch.full((neurons.size,), 0.5)),
    "dropout": lambda neurons: torch.nn.functional.dropout(neurons.v),
    "uniform_": lambda neurons: torch.nn.init.uniform_(torch.empty(neurons.size)),
    "multinomial": lambda neurons: torch.multinomial(neurons.v.abs() + 1, 2),
}


class Jitter(Behavior):
    def forward(self, neurons):
        DRAWS[self.parameter("draw", None)](neurons)


def _with_jitter():
    said = {}
    for name in DRAWS:
        network, _, cells, _ = _network(False)
        cells.add_behavior(29, Jitter(draw=name), initialize=False)
        shard_network(network, timeout=20)
        network.initialize(info=False)
        with pytest.raises(ValueError, match="would draw") as raised:
            network.simulate_iteration()
        said[name] = str(raised.value)
    return said


def test_draws_that_would_depend_on_the_number_of_ranks_are_refused(tmp_path):
    for said in on_ranks(2, tmp_path, _with_jitter):
        for name in DRAWS:
            assert f"{name} would draw other numbers" in said[name]


def _drawn_without_a_word(draw, n):
    network = Network()
    NeuronGroup(n, network, behavior={1: Cells(), 2: draw})
    shard_network(network, timeout=20)
    network.initialize(info=False)


class ByShape(Behavior):
    def initialize(self, neurons):
        torch.rand(neurons.v.shape)


class ByLength(Behavior):
    def initialize(self, neurons):
        torch.randn(len(neurons.v))


@pytest.mark.parametrize("draw", [ByShape(), ByLength()])
def test_a_draw_of_as_many_numbers_as_a_large_slice_has_neurons_is_refused(draw, tmp_path):
    for folder, n in (("large", 200), ("small", 20)):
        (tmp_path / folder).mkdir()
        for given in on_ranks(2, tmp_path / folder, _drawn_without_a_word, draw, n):
            assert n == 20 if given is None else "would draw other numbers" in str(given)


class Encoder(Behavior):
    def initialize(self, neurons):
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        neurons.spikes = torch.bernoulli(torch.full((neurons.size,), 0.2)).bool()


def _encoded(is_dealt_out):
    network, inputs, _, groups = _network(False)
    inputs.add_behavior(11, Encoder(), initialize=False)
    if is_dealt_out:
        shard_network(network, whole=[inputs], timeout=20)
    network.initialize(info=False)
    network.simulate_iterations(10, measure_block_time=False)
    return groups[1].weights


def test_a_group_that_each_rank_has_whole_draws_as_it_likes(tmp_path):
    assert torch.equal(torch.cat(on_ranks(2, tmp_path, _encoded, True), 1), _encoded(False))


class Unlike(Behavior):
    def forward(self, neurons):
        torch.rand(2 + 100 * dist.get_rank())


def _drawing_unlike():
    network, _, cells, _ = _network(False)
    cells.add_behavior(29, Unlike(), initialize=False)
    shard_network(network, timeout=20)
    network.initialize(info=False)
    network.simulate_iterations(3, measure_block_time=False)


def test_ranks_that_have_drawn_otherwise_are_named(tmp_path):
    for error in on_ranks(2, tmp_path, _drawing_unlike):
        assert isinstance(error, ExchangeError) and "the ranks disagree on the seed (rank 0; rank 1)" in str(error)


def _drawn_by_rows(is_dealt_out):
    torch.manual_seed(0)
    network = Network()
    cells = NeuronGroup(7, network, behavior={1: Rows()})
    if is_dealt_out:
        shard_network(network, timeout=20)
    network.initialize(info=False)
    return cells.drawn


class Rows(Behavior):
    def initialize(self, neurons):
        n = neurons.size
        neurons.drawn = torch.cat(
            [torch.rand(3, n), torch.randn(20, n), torch.rand((2, n)), torch.normal(0, 1, (2, n))]
        )


def test_sizes_one_by_one_or_in_a_tuple_draw_what_one_process_draws(tmp_path):
    assert torch.equal(torch.cat(on_ranks(2, tmp_path, _drawn_by_rows, True), 1), _drawn_by_rows(False))


def test_one_process_goes_on_after_an_interruption():
    network, _, cells, _ = _network(False)
    shard_network(network)
    network.initialize(info=False)
    cells.fails_at = 3
    with pytest.raises(ValueError, match="a cell burst"):
        network.simulate_iterations(5, measure_block_time=False)
    network.simulate_iterations(5, measure_block_time=False)


def test_what_can_t_be_dealt_out_is_refused():
    network, _, _, groups = _network(False)
    groups[0].weights = torch.rand(4, 33)
    with pytest.raises(ValueError, match=r"shape \(4, 33\): as the network is dealt out, they are \(33, 37\)"):
        shard_network(network)
    network, inputs, cells, _ = _network(False)
    SynapseGroup(network, inputs, cells.subGroup(torch.arange(37) < 5), tag="some")
    with pytest.raises(ValueError, match="some is of a part of cells: connect whole groups"):
        shard_network(network)
    assert type(cells.size) is int and "src" not in cells.afferent_synapses["All"][0].__dict__
    with pytest.raises(ValueError, match="mode SxD"):
        shard_network(Network(synapse_mode="DxS"))
    network, *_ = _network(False)
    network.initialize(info=False)
    with pytest.raises(ValueError, match="initialized already"):
        shard_network(network)
