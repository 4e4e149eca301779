"""What a network's ranks have saved, others or one process go on with, and the other way round, to the same bits."""

from __future__ import annotations

import pytest
import torch
from distributed import test_network, test_network_topologies
from pymonntorch import Behavior, Network, NeuronGroup, Recorder

from sharded import on_ranks
from tritonstdp import behaviors, load, save
from tritonstdp.distributed import shard_network
from tritonstdp.places import with_values

STEPS = 15


def _topologies(of_axons):
    network, cells, groups = test_network_topologies._network(of_axons)
    return network, [network["image", 0]], [*groups, *cells]


class Remembering(Behavior):
    """State that is a view of other state, as many numbers as there are neurons, and a table that is not of neurons."""

    def initialize(self, neurons):
        neurons.recent, neurons.count = neurons.vector_buffer(2), int(neurons.size)
        neurons.now, neurons.table = neurons.recent[0], torch.rand(12)

    def forward(self, neurons):
        neurons.recent[1] = neurons.now
        neurons.now.copy_(neurons.v)
        neurons.spent = neurons.v + neurons.recent[1]  # which is not there before the first step


def _modulated(layout):
    """Sparse and dense connections whose eligibility begins at random, and a recording."""
    torch.manual_seed(0)
    network = Network()
    network.dopamine_concentration = 0.5
    inputs = NeuronGroup(24, network, behavior={10: test_network.Inputs()}, tag="inputs")
    recorder = Recorder(variables=["n.v"], tag="recorder")
    behavior = {30: test_network.Cells(), 31: Remembering(), 32: recorder}
    cells = NeuronGroup(24, network, behavior=behavior, tag="cells")
    rule = {"a_plus": 0.05, "a_minus": 0.05, "tau_c": 9.0, "init_c_mode": "rand", "backend": "cpu"}
    weights = torch.rand(24, 24) * 0.3 * (torch.rand(24, 24) < 0.4)
    sparse = weights.to_sparse(layout=layout)
    groups = [
        test_network._synapses(network, inputs, cells, behaviors.SparseRSTDP(**rule), False, sparse),
        test_network._synapses(network, cells, cells, behaviors.SimpleRSTDP(**rule), False),
    ]
    return network, [inputs], [*groups, cells]


def _states_of(each):
    if not hasattr(each, "weights"):
        recorded = (
            [each.recent, each.spent[None], each["recorder", 0].variables["n.v"]] if "count" in each.__dict__ else []
        )
        return [each.v, *recorded]
    c = getattr(each, "c", each.weights)
    return [each.weights.to_dense(), c if c.dim() == each.weights.dim() else with_values(each.weights, c).to_dense()]


def _ready(make, arguments, is_dealt_out, is_whole):
    network, whole, kept = make(*arguments)
    if is_dealt_out:
        shard_network(network, whole=whole if is_whole else (), timeout=20)
    network.initialize(info=False)
    return network, kept


def _written(make, arguments, folder, is_dealt_out=True, is_whole=False):
    network, _ = _ready(make, arguments, is_dealt_out, is_whole)
    network.simulate_iterations(STEPS, measure_block_time=False)
    save(network, folder)


def _read(make, arguments, folder, is_dealt_out=True, is_whole=False):
    network, kept = _ready(make, arguments, is_dealt_out, is_whole)
    load(network, folder)
    network.simulate_iterations(STEPS, measure_block_time=False)
    return [state for each in kept for state in _states_of(each)]


def _alone(make, arguments, *_):
    network, kept = _ready(make, arguments, False, False)
    network.simulate_iterations(2 * STEPS, measure_block_time=False)
    return [state for each in kept for state in _states_of(each)]


def _are_parts(parts, whole):
    return [
        any(torch.equal(joined, one) for joined in (torch.cat(many, int(one.dim() == 2)), many[0]))
        for one, *many in zip(whole, *parts, strict=True)
    ]


@pytest.mark.parametrize(
    ("make", "arguments", "writers", "readers", "is_whole"),
    [
        (_topologies, (True,), 2, 3, False),
        (_modulated, (torch.sparse_csc,), 2, 3, True),
        (_topologies, (False,), 3, 1, False),
    ],
)
def test_other_ranks_and_one_process_go_on_to_the_same_bits(make, arguments, writers, readers, is_whole, tmp_path):
    for name in ("written", "read"):
        (tmp_path / name).mkdir()
    case = make, arguments, tmp_path / "saved"
    on_ranks(writers, tmp_path / "written", _written, *case, True, is_whole)
    alone = _alone(*case)
    assert all(_are_parts(on_ranks(readers, tmp_path / "read", _read, *case, True, is_whole), alone))
    assert all(_are_parts([_read(*case, False)], alone))


@pytest.mark.parametrize(
    ("make", "arguments", "is_whole"), [(_topologies, (True,), True), (_modulated, (torch.sparse_coo,), False)]
)
def test_ranks_go_on_with_what_one_process_has_saved(make, arguments, is_whole, tmp_path):
    case = make, arguments, tmp_path / "saved"
    _written(*case, False)
    assert all(_are_parts(on_ranks(2, tmp_path, _read, *case, True, is_whole), _alone(*case)))
