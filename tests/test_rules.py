"""Bounds, rules and their names."""

import pytest
import torch

from tritonstdp.rules import (
    BOUNDS,
    RULES,
    Formula,
    hard_bound,
    no_bound,
    resolve_bound,
    resolve_rule,
    soft_bound,
    stdp,
    target_trace,
    updated_trace,
)


def test_bounds_are_those_of_conex(conex):
    from conex.behaviors.synapses import learning

    weights = torch.linspace(-0.5, 1.5, 41)
    for name in ("soft_bound", "hard_bound", "no_bound"):
        ours, theirs = (torch.as_tensor(b[name](weights, 0.0, 1.0)) for b in (BOUNDS, learning.BOUNDS))
        assert torch.equal(ours, theirs)


def test_a_bound_is_a_name_a_function_or_none():
    assert resolve_bound("soft_bound") is soft_bound
    assert resolve_bound(hard_bound) is hard_bound
    assert resolve_bound(None) is no_bound


def test_an_unknown_bound_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match=r"'sotf_bound'.*hard_bound.*no_bound.*soft_bound"):
        resolve_bound("sotf_bound")
    with pytest.raises(TypeError, match="3"):
        resolve_bound(3)


def test_an_unknown_rule_is_refused_with_the_names_that_exist():
    with pytest.raises(ValueError, match=r"'hebb'.*istdp.*rstdp.*stdp"):
        resolve_rule("hebb")
    assert resolve_rule("stdp") is resolve_rule(stdp) is RULES["stdp"]


def test_a_formula_of_the_same_parts_is_the_same_object():
    assert Formula.of(stdp, soft_bound) is Formula.of(stdp, soft_bound)
    assert Formula.of(stdp, soft_bound) is not Formula.of(stdp, hard_bound)


def test_traces_decay_towards_zero_and_rise_by_their_scale():
    assert updated_trace(0.0, 1.0, 2.0, 10.0, 1.0) == 1.8
    assert 0 < updated_trace(1.0, 0.0, 1.0, 10.0, 1.0) < 1


def test_the_target_trace_is_twice_rate_times_time_constant():
    assert target_trace(rho=10.0, tau=50.0) == 1.0
