"""What a network's ranks have saved, other ranks or one process go on with, and the other way round, to the same bits."""

from __future__ import annotations

import pytest
import torch
from distributed import test_network, test_network_topologies

from sharded import on_ranks
from tritonstdp import load, save
from tritonstdp.distributed import shard_network

STEPS = 15


def _topologies(of_axons):
    network, cells, groups = test_network_topologies._network(of_axons)
    return network, [network["image", 0]], [*groups, *cells]


def _sparse(layout, of_axons=False):
    network, inputs, cells, groups = test_network._network(of_axons)
    groups[0].weights = groups[0].weights.to_sparse_coo() if layout == "coo" else groups[0].weights
    return network, [inputs], [*groups, cells]


def _state_of(each):
    return each.weights.to_dense() if hasattr(each, "weights") else each.v


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
    return [_state_of(each) for each in kept]


def _alone(make, arguments, *_):
    network, kept = _ready(make, arguments, False, False)
    network.simulate_iterations(2 * STEPS, measure_block_time=False)
    return [_state_of(each) for each in kept]


def _are_parts(parts, whole):
    return [
        any(torch.equal(joined, one) for joined in (torch.cat(many, int(one.dim() == 2)), many[0]))
        for one, *many in zip(whole, *parts, strict=True)
    ]


@pytest.mark.parametrize(
    ("make", "arguments", "writers", "readers", "is_whole"),
    [(_topologies, (True,), 2, 3, False), (_sparse, ("csc",), 3, 2, True), (_topologies, (False,), 3, 1, False)],
)
def test_other_ranks_and_one_process_go_on_to_the_same_bits(make, arguments, writers, readers, is_whole, tmp_path):
    for name in ("written", "read"):
        (tmp_path / name).mkdir()
    case = make, arguments, tmp_path / "saved"
    on_ranks(writers, tmp_path / "written", _written, *case, True, is_whole)
    alone = _alone(*case)
    assert all(_are_parts(on_ranks(readers, tmp_path / "read", _read, *case, True, is_whole), alone))
    assert all(_are_parts([_read(*case, False)], alone))


@pytest.mark.parametrize(("make", "arguments", "is_whole"), [(_topologies, (True,), True), (_sparse, ("coo",), False)])
def test_ranks_go_on_with_what_one_process_has_saved(make, arguments, is_whole, tmp_path):
    case = make, arguments, tmp_path / "saved"
    _written(*case, False)
    assert all(_are_parts(on_ranks(2, tmp_path, _read, *case, True, is_whole), _alone(*case)))
