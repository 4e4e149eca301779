"""What each rank holds of a group learns to the bits of the group."""

from __future__ import annotations

import pytest
import torch

from sharded import Group, alone, compared, on_ranks
from tritonstdp import RULES, Conv2d, Dense, Local2d, OneToOne, Sparse

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
