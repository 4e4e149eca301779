"""What each rank holds of a group learns to the bits of the group."""

from __future__ import annotations

import pytest
import torch

import tritonstdp as ts
from sharded import Group, alone, compared, on_ranks
from tritonstdp import RULES, Conv2d, Dense, Local2d, OneToOne, Sparse
from tritonstdp.distributed import shard, slices

# none of these sizes can be shared out evenly among 2, 3 and 4 ranks, and the last one has slices without a channel
GROUPS = {
    "dense": Dense(30, 47),
    "one_to_one": OneToOne(47),
    "csc": Sparse.random(50, 47, 600),
    "csr": Sparse.random(50, 47, 600, torch.sparse_csr),
    "conv2d": Conv2d((2, 9, 8), (5, 5, 7), (3, 2), (2, 1), (1, 0)),
    "local2d": Local2d((2, 9, 8), (3, 5, 9), (3, 2), (2, 1), (1, 1)),
    "two_channels": Conv2d((2, 6, 6), (2, 4, 4), 3),
}


def test_two_ranks_end_in_the_bits_of_one_process_on_every_topology(tmp_path):
    groups = [Group("stdp", topology) for topology in GROUPS.values()]
    wholes = alone(groups, 60)
    assert on_ranks(2, tmp_path, compared, groups, 60, wholes) == [[], []]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("topology", GROUPS)
def test_ranks_end_in_the_bits_of_one_process_by_every_rule(topology, size, tmp_path):
    groups = [
        Group(rule, GROUPS[topology], float_spikes=float_spikes) for rule in RULES for float_spikes in (False, True)
    ]
    groups += [Group("stdp", GROUPS[topology], dtype=dtype) for dtype in (torch.float64, torch.bfloat16)]
    wholes = alone(groups, 200)
    assert on_ranks(size, tmp_path, compared, groups, 200, wholes, seconds=600) == [[]] * size


@pytest.fixture
def _as_rank(monkeypatch):
    return lambda rank, size: monkeypatch.setattr(slices, "this_rank", lambda: (rank, size))


@pytest.mark.parametrize("topology", [*GROUPS.values()], ids=[*GROUPS])
@pytest.mark.parametrize("size", [1, 3, 60])
def test_the_parts_are_the_group_and_as_even_as_can_be(topology, size, _as_rank):
    values, neurons = torch.rand(topology.weights_shape), torch.arange(1, 1 + topology.post_shape[0])
    again, of_posts, sizes = torch.zeros_like(values), torch.zeros_like(neurons), []
    for rank in range(size):
        _as_rank(rank, size)
        own = shard(values, topology=topology)
        own.part.weights.put(again, own.weights)
        own.part.post.put(of_posts, own.post(neurons))
        assert torch.equal(own.neurons_of(rank), own.post(neurons) - 1)
        start, stop = own.bounds[rank]
        sizes.append(stop - start)
    assert torch.equal(again, values) and torch.equal(of_posts, neurons)
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == topology.units


def test_nobody_holds_more_than_a_part_of_what_a_function_makes(_as_rank):
    every = torch.rand(6, 7) * (torch.rand(6, 7) < 0.5)
    for make in (lambda start, stop: every[:, start:stop], lambda start, stop: every[:, start:stop].to_sparse_csc()):
        _as_rank(1, 3)
        part = shard(make, topology=Dense(6, 7))
        current = part.propagate_(torch.zeros(2), torch.ones(6, dtype=torch.bool), backend="cpu")
        torch.testing.assert_close(current, every[:, 2:4].sum(0))
    with pytest.raises(ValueError, match=r"make\(2, 4\) gives weights of shape \(6, 7\): the part has \(6, 2\)"):
        shard(lambda start, stop: every, topology=Dense(6, 7))
    with pytest.raises(TypeError, match="pass the topology of the group"):
        shard(lambda start, stop: every)


def test_a_time_constant_a_pre_neuron_is_refused_where_some_see_padding(_as_rank):
    group = Local2d((1, 4, 4), (1, 4, 4), 3, padding=1)
    rule = ts.Rule("timed", lambda pre_spike, *, tau: pre_spike / tau, lambda post_spike: post_spike, positive=("tau",))
    part = shard(torch.zeros(group.weights_shape), topology=group)
    silent = torch.zeros(16, dtype=torch.bool)
    with pytest.raises(ValueError, match="tau is given one value a pre neuron, and the group has padding"):
        part.update_(rule, pre_spike=part.pre(silent), post_spike=silent, tau=ts.per_pre(torch.ones(part.n_pre)))
