"""What a network's ranks have saved, others or one process go on with, and the other way round, to the same bits."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from distributed import test_network, test_network_topologies
from pymonntorch import Behavior, Network, NeuronGroup, Recorder, SynapseGroup

from sharded import on_ranks
from tritonstdp import behaviors, load, save
from tritonstdp.distributed import ExchangeError, shard_network
from tritonstdp.places import parts_of, with_values

STEPS = 15


def _topologies(of_axons):
    network, cells, groups = test_network_topologies._network(of_axons)
    return network, [network["image", 0]], [*groups, *cells]


def _of_conex(are_ours):
    network, groups = test_network_topologies.network_of_conex(are_ours)
    return network, [], groups


class Remembering(Behavior):
    """State that is a view of other state, as many numbers as there are neurons, and a table that is not of neurons."""

    def initialize(self, neurons):
        neurons.recent, neurons.count = neurons.vector_buffer(2), int(neurons.size)
        neurons.now, neurons.table = neurons.recent[0], torch.rand(12)

    def forward(self, neurons):
        neurons.recent[1] = neurons.now
        neurons.now.copy_(neurons.v)
        if not hasattr(neurons, "late"):  # what is not there before the first step
            neurons.late = neurons.vector_buffer(2)
            neurons.latest = neurons.late[1]
        neurons.latest += neurons.v
        neurons.spent = neurons.v + neurons.recent[1]


def _modulated(layout):
    """Sparse and dense connections whose eligibility begins at random, and a recording."""
    torch.manual_seed(0)
    network = Network()
    network.dopamine_concentration = 0.5
    inputs = NeuronGroup(24, network, behavior={10: test_network.Inputs()}, tag="inputs")
    behavior = {30: test_network.Cells(), 31: Remembering(), 32: Recorder(variables=["n.v"])}
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
        recorded = [recorder.variables["n.v"] for recorder in each["Recorder"]]
        return [each.v, *([each.recent, each.late, each.spent[None]] if hasattr(each, "late") else []), *recorded]
    c = getattr(each, "c", parts_of(each.weights)[0])
    return [each.weights.to_dense(), with_values(each.weights, c).to_dense()]


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
    addresses = [parts_of(group.weights)[0].data_ptr() for group in network.SynapseGroups]
    load(network, folder)
    assert addresses == [parts_of(group.weights)[0].data_ptr() for group in network.SynapseGroups], "in place"
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
        (_topologies, (False,), 2, 3, False),
        (_modulated, (torch.sparse_csc,), 2, 3, True),
        (_topologies, (True,), 3, 1, False),
        pytest.param(_of_conex, (True,), 2, 3, False, marks=pytest.mark.slow),
        pytest.param(_of_conex, (False,), 3, 2, False, marks=pytest.mark.slow),
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
    ("make", "arguments", "is_whole"),
    [
        (_topologies, (True,), True),
        (_modulated, (torch.sparse_coo,), False),
        pytest.param(_of_conex, (False,), False, marks=pytest.mark.slow),
    ],
)
def test_ranks_go_on_with_what_one_process_has_saved(make, arguments, is_whole, tmp_path):
    case = make, arguments, tmp_path / "saved"
    _written(*case, False)
    assert all(_are_parts(on_ranks(2, tmp_path, _read, *case, True, is_whole), _alone(*case)))


def _small(connected=None, size=24):
    network = Network()
    inputs = NeuronGroup(12, network, tag="inputs")
    cells = NeuronGroup(size, network, tag="cells")
    synapses = SynapseGroup(network, inputs, cells, tag="synapses")
    connected = torch.ones(12, size) if connected is None else connected
    synapses.weights = connected.to_sparse_csr()
    return network, inputs, cells, synapses


def _small_and_ready(is_dealt_out, **given):
    network, inputs, cells, synapses = _small(**given)
    if is_dealt_out:
        shard_network(network, whole=[inputs], timeout=20)
    network.initialize(info=False)
    cells.v = cells.vector("rand")
    return network, cells, synapses


def _add_mean(network, cells, synapses):
    cells.mean = 1.0 + dist.get_rank()


def _add_note(network, cells, synapses):
    network.note = torch.full((5,), dist.get_rank())


def _add_what_may_be_of_either_side(network, cells, synapses):
    synapses.late = torch.zeros(12)


def _add_views(network, cells, synapses):
    cells.late = cells.vector_buffer(2)
    cells.latest = cells.late.t()


def _add_something_on_one_rank(network, cells, synapses):
    if dist.get_rank():
        cells.extra = 1.0


def _change_nothing(network, cells, synapses):
    pass


UNFIT = [
    (_add_mean, {}, r"cells\.mean is 1\.0, 2\.0 on the ranks"),
    (_add_note, {}, r"Network_1\.note is another one on other ranks, and not known to be a slice"),
    (_add_what_may_be_of_either_side, {}, r"synapses\.late may be cut in several ways, which one step before"),
    (_add_views, {}, r"cells\.latest is a view of another tensor, and none in the network that"),
    (_add_something_on_one_rank, {}, r"cells\.extra is of another kind on other ranks"),
    (_change_nothing, {"connected": torch.eye(12, 24)}, r"synapses\.weights connects other neurons in the network"),
    (_change_nothing, {"size": 25}, r"there is cells \(NeuronGroup of 25 neurons\) in the network where it has cells"),
]


def _written_small(folder):
    for k, (change, _, _) in enumerate(UNFIT):
        network, cells, synapses = _small_and_ready(True)
        change(network, cells, synapses)
        save(network, folder / str(k))


def _read_small(folder):
    network, cells, _ = _small_and_ready(True, connected=torch.ones(12, 24).tril(12 * (dist.get_rank() != 1)))
    before = cells.v.clone()
    with pytest.raises((ValueError, ExchangeError)) as raised:
        load(network, folder)
    return str(raised.value), torch.equal(cells.v, before)


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path):
    for name in ("written", "read"):
        (tmp_path / name).mkdir()
    assert on_ranks(2, tmp_path / "written", _written_small, tmp_path / "saved") == [None, None]
    for k, (_, given, message) in enumerate(UNFIT):
        network, cells, synapses = _small_and_ready(False, **given)
        before = cells.v.clone(), synapses.weights.values().clone()
        with pytest.raises(ValueError, match=message):
            load(network, tmp_path / "saved" / str(k))
        assert torch.equal(cells.v, before[0]) and torch.equal(synapses.weights.values(), before[1])
        assert not hasattr(cells, "late") and not hasattr(network, "note")
    for said, is_unchanged in on_ranks(3, tmp_path / "read", _read_small, tmp_path / "saved" / str(len(UNFIT) - 1)):
        assert "synapses.weights connect" in said and is_unchanged


def test_a_damaged_file_is_named(tmp_path):
    network, *_ = _small_and_ready(True)
    save(network, tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-3])
    plain, *_ = _small_and_ready(False)
    with pytest.raises(ValueError, match="is damaged"):
        load(plain, tmp_path)
