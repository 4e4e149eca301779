"""What the time model says of groups of usual sizes on an H100, once their kernels are compiled for it."""

from __future__ import annotations

import pytest
import torch

from tritonstdp.autotune.cost import GPUS, estimated_pass, rank
from tritonstdp.inspection import gpu_module
from tritonstdp.rules import Formula, soft_bound, stdp
from tritonstdp.topology import Conv2d, Dense, Local2d, OneToOne, Sparse

MAPS = (8, 32, 32), (16, 28, 28), 5
RATES = (0.005, 0.02, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "microseconds"),
    [
        (Dense(4000, 4000), (12, 20, 45)),
        (Dense(10_000, 10_000), (40, 90, 280)),
        (Sparse.random(10_000, 10_000, 1_000_000), (8, 8, 8)),
        (Conv2d(*MAPS), (10, 10, 10)),
        (Local2d(*MAPS), (8, 8, 10)),
        (OneToOne(1_000_000), (9, 9, 9)),
    ],
    ids=str,
)
def test_a_step_is_estimated_below_a_pass_over_all_synapses(topology, microseconds):
    formula = Formula.of(stdp, soft_bound, soft_bound)
    [found], _ = rank([gpu_module(topology.name).DEFAULT], formula, topology, torch.float32, "sm_90", RATES)
    assert found.spills == 0
    whole = estimated_pass(GPUS["sm_90"], topology, 4, modulated=False)
    for rate, seconds, most in zip(RATES, found.seconds, microseconds, strict=True):
        assert 1e6 * seconds <= most
        # there, few fetches hold no synapse that a spike reaches, and who spiked is listed before
        assert seconds < whole or (topology.name, rate) == ("local2d", 0.1)
