"""What a convolution divides its sums by: the given divisor and nothing else, on every backend."""

import pytest
import torch

from support import stepped
from tritonstdp import Conv2d
from tritonstdp.problems import make_problem
from tritonstdp.rules import RULES, Formula, soft_bound

BACKENDS = ("reference", "triton", "cpu")
GEOMETRY = ((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0))


def changed(problem, topology, backend):
    done = problem.copy().replaced(topology=topology)
    stepped(done, backend)
    return done.weights if done.c is None else done.c


@pytest.mark.parametrize("divisor", [1, 7, 0.5, -3.0, 10_000])
@pytest.mark.parametrize("rule", ["stdp", "rstdp", "triplet"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_divisor_scales_the_change_that_the_number_of_positions_would_give(backend, rule, divisor):
    by_positions, given = Conv2d(*GEOMETRY), Conv2d(*GEOMETRY, divisor=divisor)
    assert given.positions == by_positions.positions == 20
    problem = make_problem(Formula.of(RULES[rule], soft_bound, soft_bound), by_positions, dtype=torch.float64)
    start = problem.weights
    if problem.c is not None:
        problem.c.zero_()
        start = problem.c
    expected = start + (changed(problem, by_positions, "reference") - start) * 20 / divisor
    torch.testing.assert_close(changed(problem, given, backend), expected, rtol=1e-11, atol=1e-11)
