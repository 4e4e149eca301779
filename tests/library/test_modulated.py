"""Reward-modulated rules: each feeds an eligibility trace with its plain rule's change, and dopamine moves weights."""

import pytest
import torch

from tritonstdp import Dense
from tritonstdp.functional import step_
from tritonstdp.problems import make_problem
from tritonstdp.rules import RULES, Formula, soft_bound

MODULATED = {"rstdp": "stdp", "istdp_modulated": "istdp", "oja_modulated": "oja", "triplet_modulated": "triplet"}


def test_each_modulated_rule_has_a_plain_one():
    assert {name for name, rule in RULES.items() if rule.modulated and name in MODULATED} == set(MODULATED)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", MODULATED)
def test_eligibility_takes_the_change_and_decays_and_the_weight_moves_by_its_product_with_dopamine(name, backend):
    plain, modulated = (Formula.of(RULES[n], soft_bound, soft_bound) for n in (MODULATED[name], name))
    problem = make_problem(modulated, Dense(9, 7), dtype=torch.float64)
    after = problem.copy()
    topology, w, c, pre, post, _, *limits = problem.arguments
    step_(modulated, topology, after.weights, pre, post, tuple(after.parameters.values()), *limits, after.c, backend)
    alone = w.clone()
    step_(plain, topology, alone, pre, post, [problem.parameters[n] for n in plain.parameters], *limits, None, backend)
    expected_c = c - c / problem.parameters["tau_c"] + (alone - w)
    torch.testing.assert_close(after.c, expected_c, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(after.weights, w + expected_c * problem.parameters["dopamine"], rtol=1e-12, atol=1e-14)
