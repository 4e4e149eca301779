"""Networks of convolutions, local and one-to-one connections, and of float spikes, on several ranks."""

from __future__ import annotations

import random

import pytest
import torch
import torch.distributed as dist
from behaviors.test_conex_network import arguments_of, connection, population
from pymonntorch import Behavior, Network, NeuronDimension, NeuronGroup, SynapseGroup

from sharded import on_ranks
from support import import_conex
from tritonstdp import behaviors, load, save
from tritonstdp.distributed import ExchangeError, shard_network
from tritonstdp.places import with_values

BACKEND = {"backend": "cpu"}  # in Triton's interpreter, as tests have it, a plain process would take a GPU's kernels
RULE = {"a_plus": 0.02, "a_minus": 0.02, "positive_bound": "soft_bound", **BACKEND}


class Cells(Behavior):
    """Neurons that fire by what arrives and by chance, with a value where spikes have one."""

    def __init__(self, kind=torch.bool):
        super().__init__()
        self.kind = kind

    def initialize(self, neurons):
        neurons.v, neurons.spikes = neurons.vector("rand"), neurons.vector(dtype=self.kind)

    def forward(self, neurons):
        noise = torch.rand(neurons.size)
        arriving = sum(synapse.I for synapse in neurons.afferent_synapses["All"])
        neurons.v = 0.9 * neurons.v + 0.4 * noise + 0.1 * arriving
        fired = neurons.v > 1.5
        neurons.spikes = fired if self.kind is torch.bool else fired * noise
        neurons.v[fired] = 0.0


class SynapseInit(Behavior):
    """What CoNeX's of that name sets, and weights of a shape that is said for all neurons, as by its initializers."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def initialize(self, synapse):
        for side, neurons in (("src", synapse.src), ("dst", synapse.dst)):
            setattr(synapse, f"{side}_shape", (neurons.depth, neurons.height, neurons.width))
            setattr(synapse, f"{side}_delay", neurons.vector("zeros", dtype=torch.long))
        synapse.kernel_shape = (3, 4, 5, 2, 3, 2)
        if self.shape:
            synapse.weights = 0.4 * synapse.tensor("rand", dim=self.shape)


def _network(of_axons, kind=torch.bool, channels=3):
    torch.manual_seed(0)
    network = Network()
    caught = {50: behaviors.PreSpikeCatcher, 51: behaviors.PostSpikeCatcher}
    traced = {52: behaviors.PreTrace, 53: behaviors.PostTrace}

    def cells(tag, *shape):
        size = NeuronDimension(**dict(zip(("depth", "height", "width"), shape, strict=True)))
        axon = {31: behaviors.SpikeTrace(tau_s=9.0, **BACKEND), 32: behaviors.NeuronAxon(max_delay=2)}
        of_group = torch.bool if tag == "maps" else kind  # so that there are two kinds where one is not bool
        return NeuronGroup(size, network, behavior={30: Cells(of_group), **(axon if of_axons else {})}, tag=tag)

    def synapses(prefix, src, dst, rule, init, **geometry):
        dendrite = getattr(behaviors, f"{prefix}DendriticInput")(**geometry, **BACKEND)
        norm = 0.25 if prefix == "One2One" else 2.0
        normalization = behaviors.WeightNormalization(norm=norm, every=25)
        behavior = {5: init, 15: normalization, 20: dendrite, 60: getattr(behaviors, prefix + rule)(**RULE)}
        if not of_axons:
            behavior |= {key: make() for key, make in caught.items()}
            behavior |= {key: make(tau_s=9.0, **BACKEND) for key, make in traced.items()}
        return SynapseGroup(network, src, dst, behavior=behavior, tag=f"{prefix} {src.tag} {dst.tag}")

    image, relay = cells("image", 2, 7, 6), cells("relay", 1, 4, 5 * channels)
    maps, geometry = cells("maps", channels, 4, 5), {"stride": (2, 1), "padding": (1, 0)}
    groups = [
        synapses("Conv2d", image, maps, "STDP", SynapseInit(channels, 2, 3, 2), **geometry),
        synapses("Local2d", image, maps, "STDP", SynapseInit(), **geometry),
        synapses("Simple", relay, maps, "STDP", SynapseInit(20 * channels, 20 * channels)),
        synapses("One2One", maps, relay, "STDP", SynapseInit(20 * channels)),
        synapses("One2One", relay, maps, "STDP", SynapseInit(20 * channels)),
    ]
    groups[1].weights = 0.4 * torch.rand(channels, 20, 12)
    return network, [image, relay, maps], groups


def _simulated(is_dealt_out, of_axons, whole=(), kind=torch.bool, channels=3, steps=60):
    network, cells, groups = _network(of_axons, kind, channels)
    if is_dealt_out:
        shard_network(network, whole=[network[tag, 0] for tag in whole], timeout=20)
    network.initialize(info=False)
    network.simulate_iterations(steps, measure_block_time=False)
    dealt = [each for each in (*groups, *cells) if getattr(each, "dst", each).tag not in whole]
    return [each.weights if hasattr(each, "weights") else each.v for each in dealt]


@pytest.mark.parametrize(
    ("size", "of_axons", "whole", "kind", "channels"),
    [
        (1, False, (), torch.bool, 3),
        (2, False, ("image",), torch.float32, 3),
        (3, True, (), torch.bool, 2),
        (3, True, ("relay",), torch.bool, 3),
    ],
)
def test_ranks_end_in_the_bits_of_one_process(size, of_axons, whole, kind, channels, tmp_path):
    start, alone = (_simulated(False, of_axons, whole, kind, channels, steps) for steps in (1, 60))
    parts = on_ranks(size, tmp_path, _simulated, True, of_axons, whole, kind, channels)
    for before, one, *many in zip(start, alone, *parts, strict=True):
        assert torch.equal(torch.cat(many, int(one.dim() == 2)), one)  # along a dense group's columns
        assert (before != one).float().mean() > 0.1, "there is something to learn"


def test_a_slice_has_the_shape_of_its_channels(tmp_path):
    assert on_ranks(2, tmp_path, _shapes) == [
        ((1, 4, 5), (1, 2, 3, 2), (1, 20, 12), 20, (2, 7, 6), 30, 30),
        ((2, 4, 5), (2, 2, 3, 2), (2, 20, 12), 40, (2, 7, 6), 30, 30),
    ]


def _shapes():
    _, (_, relay, maps), (conv, local, _, into_relay, _) = _ready(of_axons=False)
    assert len(maps.z) == maps.size and conv.dst_shape[0] == maps.depth == local.kernel_shape[0]
    shapes = conv.dst_shape, tuple(conv.weights.shape), tuple(local.weights.shape), maps.size, conv.src_shape
    return (*shapes, relay.size, into_relay.pre_spike.numel())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, torch.rand(3, 20, 12, 1, 1)), r"shape \(3, 20, 12, 1, 1\): as the network is dealt out"),
        ((0, torch.rand(4, 2, 3, 2)), r"channels of maps, whose number is said to be 3 and 4"),
        (
            (2, torch.rand(59, 60)),
            r"shape \(59, 60\): as the network is dealt out, they are \(60, 60\), dense or sparse",
        ),
        ((3, torch.rand(59)), r"shape \(59,\): as the network is dealt out, they are \(60,\), one-to-one"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_changed(weights, message):
    network, (_, _, maps), groups = _network(of_axons=False)
    groups[weights[0]].weights = weights[1]
    given = [getattr(group, "weights", None) for group in groups]
    with pytest.raises(ValueError, match=message):
        shard_network(network)
    assert type(maps.size) is int and all(group.src in network.NeuronGroups for group in groups)
    assert all(getattr(group, "weights", None) is before for group, before in zip(groups, given, strict=True))


def test_channels_that_nobody_has_told_of_are_refused():
    network = Network()
    cells = NeuronGroup(60, network, tag="cells")
    synapses = SynapseGroup(network, cells, cells, behavior={20: behaviors.Conv2dDendriticInput()})
    with pytest.raises(ValueError, match="channels of cells, whose number is not known: make its 60 neurons by Neuron"):
        shard_network(network)
    synapses.weights = torch.rand(7, 1, 1, 1)
    with pytest.raises(ValueError, match="whose number is said to be 7"):
        shard_network(network)


def test_a_network_is_dealt_out_once():
    network, *_ = _network(of_axons=False)
    shard_network(network)
    with pytest.raises(ValueError, match="dealt out already: call shard_network once"):
        shard_network(network)


def test_one_to_one_connections_of_unequal_groups_are_refused():
    network = Network()
    groups = NeuronGroup(3, network), NeuronGroup(4, network)
    SynapseGroup(network, *groups, behavior={20: behaviors.One2OneDendriticInput()})
    with pytest.raises(ValueError, match="3 pre and 4 post neurons: one-to-one connections need as many of both"):
        shard_network(network)


class Late(Behavior):
    def initialize(self, synapse):
        synapse.weights = torch.rand(4, 1, 1, 1)


def test_weights_of_a_kind_that_nobody_has_told_of_are_refused_when_they_are_set():
    network = Network()
    cells = NeuronGroup(4, network)
    SynapseGroup(network, cells, cells, behavior={5: Late()})
    shard_network(network)
    with pytest.raises(ValueError, match=r"shape \(4, 1, 1, 1\).*whose names begin with One2One, Local2d or Conv2d"):
        network.initialize(info=False)


class Scattered(Behavior):
    """Draws the places of sparse weights as CoNeX's WeightInitializer does."""

    def initialize(self, synapse):
        n_pre, n_post = synapse.matrix_dim()
        places = torch.tensor(random.sample(range(n_pre * n_post), n_pre * n_post // 2))
        synapse.weights = torch.zeros(n_pre * n_post).index_fill(0, places, 1.0).view(n_pre, n_post)


def _with_scattered():
    network = Network()
    cells = NeuronGroup(4, network)
    SynapseGroup(network, cells, cells, behavior={5: Scattered()}, tag="scattered")
    shard_network(network)
    network.initialize(info=False)


def test_weights_that_python_draws_for_a_slice_are_refused(tmp_path):
    for error in on_ranks(2, tmp_path, _with_scattered):
        assert isinstance(error, ValueError) and "weights of scattered are drawn by Python's random" in str(error)


class Changing(Behavior):
    def initialize(self, neurons):
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons):
        neurons.spikes = neurons.spikes.float()


def test_spikes_that_change_their_dtype_are_refused():
    network = Network()
    NeuronGroup(4, network, behavior={1: Changing()}, tag="cells")
    shard_network(network)
    network.initialize(info=False)
    with pytest.raises(TypeError, match=r"cells.spikes are torch.float32 in this step, and were torch.bool"):
        network.simulate_iteration()


def test_what_is_kept_whole_has_to_be_a_group_of_the_network():
    network = Network()
    with pytest.raises(ValueError, match="whole holds 'cells': give neuron groups of the network"):
        shard_network(network, whole=["cells"])


def _resumed(folder, of_axons, kind):
    network, cells, groups = _ready(of_axons, kind)
    network.simulate_iterations(20, measure_block_time=False)
    for _ in range(2):
        save(network, folder)
    network.simulate_iterations(20, measure_block_time=False)
    again, other_cells, other_groups = _ready(of_axons, kind)
    again.simulate_iterations(3, measure_block_time=False)
    load(again, folder)
    again.simulate_iterations(20, measure_block_time=False)
    pairs = zip((*cells, *groups), (*other_cells, *other_groups), strict=True)
    return all(torch.equal(*(each.v if hasattr(each, "v") else each.weights for each in pair)) for pair in pairs)


def _ready(of_axons, kind=torch.bool):
    network, cells, groups = _network(of_axons, kind)
    shard_network(network, timeout=20)
    network.initialize(info=False)
    return network, cells, groups


@pytest.mark.parametrize(("of_axons", "kind"), [(True, torch.bool), (False, torch.float32)])
def test_ranks_go_on_with_what_as_many_have_saved(of_axons, kind, tmp_path):
    assert on_ranks(2, tmp_path, _resumed, tmp_path / "saved", of_axons, kind) == [True, True]
    names = sorted(path.name for path in (tmp_path / "saved").iterdir())
    assert names == ["1-rank-0-of-2.safetensors", "1-rank-1-of-2.safetensors", "checkpoint.json"]


def _one_can_t_write(folder):
    network, *_ = _ready(of_axons=False)
    if dist.get_rank() == 1:
        network.image_note = torch.complex(torch.ones(3), torch.ones(3)).conj()
    save(network, folder)


def test_all_ranks_get_to_know_that_one_can_t_save(tmp_path):
    others = on_ranks(2, tmp_path, _one_can_t_write, tmp_path / "saved")
    assert isinstance(others[1], TypeError) and isinstance(others[0], ExchangeError)
    assert "rank 1 has failed" in str(others[0]) and "image_note is" in str(others[0])


def test_a_network_that_is_dealt_out_is_saved_once_it_is_initialized(tmp_path):
    network, *_ = _network(of_axons=False)
    shard_network(network)
    with pytest.raises(ValueError, match=r"call network\.initialize\(\) before you save"):
        save(network, tmp_path / "saved")


def network_of_conex(are_ours):
    """A network of CoNeX's behaviors, with delays; learning and dendritic inputs ours, or its own as well."""
    conex = import_conex()
    of, backend = (behaviors, BACKEND) if are_ours else (conex, {})
    random.seed(3)
    torch.manual_seed(3)
    dopamine = [conex.Payoff(initial_payoff=0.05), conex.Dopamine(tau_dopamine=4.0, initial_dopamine_concentration=0.4)]
    network = conex.Neocortex(dt=1, behavior=conex.prioritize_behaviors(dopamine))
    image, features, relay = (
        population(conex, network, NeuronDimension(depth=depth, height=size, width=size))
        for depth, size in ((2, 6), (3, 4), (48, 1))
    )
    kernel = {"weight_shape": (3, 2, 3, 3), "kernel_shape": (3, 2, 3, 3)}
    local = {"weight_shape": (3, 16, 18), "kernel_shape": (3, 4, 4, 2, 3, 3)}
    plan = [
        ("Simple", "STDP", image, relay, {}),
        ("Simple", "iSTDP", relay, features, {}),
        ("One2One", "RSTDP", features, relay, {"weight_shape": (48,)}),
        ("Conv2d", "STDP", image, features, kernel),
        ("Local2d", "RSTDP", image, features, local),
    ]
    groups = []
    for prefix, rule, src, dst, shapes in plan:
        dendrite = getattr(of, f"{prefix}DendriticInput")(**backend)
        learning = getattr(of, prefix + rule)(**arguments_of(rule), **backend)
        weights = {"mode": "rand", "scale": 0.5, **shapes}
        groups.append(connection(conex, network, src, dst, weights, dendrite, learning, conex.DelayInitializer(mode=2)))
    return network, groups


def _of_conex(is_dealt_out, are_ours):
    network, groups = network_of_conex(are_ours)
    if is_dealt_out:
        shard_network(network, timeout=20)
    network.initialize(info=False)
    network.simulate_iterations(60, measure_block_time=False)
    return [group.weights for group in groups]


@pytest.mark.slow
@pytest.mark.parametrize("are_ours", [True, False])
@pytest.mark.parametrize("size", [2, 3])
def test_a_network_of_conex_is_dealt_out_by_one_line(size, are_ours, tmp_path):
    parts = on_ranks(size, tmp_path, _of_conex, True, are_ours)
    for one, *many in zip(_of_conex(False, are_ours), *parts, strict=True):
        assert torch.equal(torch.cat(many, int(one.dim() == 2)), one)


def _eligibilities(is_dealt_out):
    torch.manual_seed(0)
    network = Network()
    image = NeuronGroup(NeuronDimension(depth=2, height=5, width=5), network, behavior={})
    maps = NeuronGroup(NeuronDimension(depth=3, height=3, width=3), network, behavior={})
    cells = NeuronGroup(27, network)
    sparse = torch.rand(50, 27) * (torch.rand(50, 27) < 0.4)
    plan = [
        ("Sparse", image, cells, sparse.to_sparse_csr()),
        ("Sparse", image, cells, sparse.to_sparse_csc()),
        ("Simple", image, cells, torch.rand(50, 27)),
        ("One2One", cells, maps, torch.rand(27)),
        ("Conv2d", image, maps, torch.rand(3, 2, 3, 3)),
        ("Local2d", image, maps, torch.rand(3, 9, 18)),
    ]
    groups = []
    for prefix, src, dst, weights in plan:
        learning = getattr(behaviors, f"{prefix}RSTDP")(a_plus=0.1, a_minus=0.1, tau_c=9.0, init_c_mode="rand")
        groups.append(SynapseGroup(network, src, dst, behavior={5: learning}))
        groups[-1].weights, groups[-1].dst_shape = weights, (3, 3, 3)
    if is_dealt_out:
        shard_network(network, timeout=20)
    network.initialize(info=False)
    return [with_values(group.weights, group.c).to_dense() for group in groups]


def test_eligibility_that_begins_at_random_is_that_of_one_process(tmp_path):
    parts = on_ranks(2, tmp_path, _eligibilities, True)
    for one, *many in zip(_eligibilities(False), *parts, strict=True):
        assert one.std() > 0.1
        assert torch.equal(torch.cat(many, int(one.dim() == 2)), one)
