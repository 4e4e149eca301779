"""Passes over small groups, which only a GPU takes by itself: kernels are inspected with the lists of large groups."""

from __future__ import annotations

import pytest

from tritonstdp.inspection import compile_launch, gpu_module, launches
from tritonstdp.kernels import items
from tritonstdp.machine_code import TARGETS, usage
from tritonstdp.problems import make_problem
from tritonstdp.rules import RULES, Formula, soft_bound
from tritonstdp.topology import TOPOLOGIES


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("topology", ["dense", "one_to_one", "sparse", "local2d"])
def test_a_pass_over_a_small_group_is_one_launch_that_spills_nothing(topology, target, monkeypatch):
    monkeypatch.setattr(items, "fewest_listed", lambda device: 2**62)
    for rule in ("stdp", "triplet"):
        formula = Formula.of(RULES[rule], soft_bound, soft_bound)
        problem = make_problem(formula, TOPOLOGIES[topology].uneven_example())
        [launched] = launches(problem, gpu_module(topology).DEFAULT)
        used = usage(compile_launch(launched, TARGETS[target]))
        assert (used["spills"], used["local"]) == (0, 0)
