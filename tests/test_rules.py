"""Bounds, rules and their names."""

from dataclasses import replace

import pytest
import torch

from rules_of_their_own import POWER, SPIKES_ALONE, TAGGED
from tritonstdp.library import triplet
from tritonstdp.rules import (
    BOUNDS,
    RULES,
    Formula,
    Rule,
    difference,
    hard_bound,
    istdp,
    modulated,
    nearest_trace,
    no_bound,
    resolve_bound,
    resolve_rule,
    rewarded,
    rstdp,
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


def test_a_nearest_trace_forgets_earlier_spikes():
    trace, spike = torch.tensor([3.0, 3.0, 3.0]), torch.tensor([0.0, 1.0, 0.5])
    torch.testing.assert_close(nearest_trace(trace, spike, 2.0, 10.0, 1.0), torch.tensor([2.7, 1.8, 0.9]))


def test_the_target_trace_is_twice_rate_times_time_constant():
    assert target_trace(rho=10.0, tau=50.0) == 1.0


# what a rule reads


def test_a_rule_says_by_names_what_it_reads():
    assert (triplet.pre, triplet.post) == (
        ("pre_spike", "pre_slow", "pre_trace"),
        ("post_spike", "post_trace", "post_slow"),
    )
    assert triplet.parameters == triplet.spike_parameters == ("a2_minus", "a3_minus", "a2_plus", "a3_plus")
    assert (SPIKES_ALONE.pre, SPIKES_ALONE.post) == (("pre_spike",), ("post_spike",))
    assert (stdp.parameters, stdp.spike_parameters) == (("a_plus", "a_minus"), ())
    assert TAGGED.eligibility_parameters == ("tau_tag",) and TAGGED.modulated and not triplet.modulated


def test_spikes_come_first_whether_they_are_read_or_not():
    rule = Rule(
        "silent", lambda pre_trace, post_trace: 0 * pre_trace, lambda post_trace, post_spike: post_spike * post_trace
    )
    assert (rule.pre, rule.post) == (("pre_spike", "pre_trace"), ("post_spike", "post_trace"))


def test_a_parameter_that_the_change_reads_as_well_is_not_one_of_a_spike():
    """It is read once a weight, also where a weight serves many spikes."""

    def change(potentiation, depression, *, a3_plus):
        return a3_plus * (potentiation - depression)

    rule = replace(triplet, name="twice_read", change=change)
    assert rule.parameters == triplet.parameters
    assert rule.spike_parameters == ("a2_minus", "a3_minus", "a2_plus")


def test_arguments_that_have_a_value_are_not_read():
    def on_pre(pre_spike, post_trace, scale=2.0, *, a, b=3.0):
        return pre_spike * post_trace * scale * a * b

    assert replace(triplet, name="with_values", on_pre=on_pre).parameters == ("a", "a2_plus", "a3_plus")


def test_a_step_s_parameters_are_the_rule_s_then_its_bounds_then_its_eligibility_s():
    def shifted(w, w_min, w_max, *, by, mu):
        return w_max - w + by * mu

    formula = Formula.of(modulated(istdp, "rewarded_istdp"), POWER, shifted)
    assert formula.parameters == ("alpha", "sign", "lr", "mu", "by", "tau_c", "dopamine")
    assert formula.bound_parameters == ("mu", "by")
    assert [formula.parameters[k] for k in formula.positive_at] == ["tau_c"]
    assert Formula.of(triplet).parameters == triplet.parameters


def test_a_change_is_a_difference_unless_a_rule_says_another():
    assert triplet.change is difference and stdp.change is not difference
    p, d, above, below = torch.rand(4, 9)
    assert torch.equal(difference(p, d, above, below), p * above - d * below)


def test_a_modulated_rule_is_the_rule_with_an_eligibility():
    rule = modulated(triplet, "rewarded_triplet")
    assert (rule.on_pre, rule.on_post, rule.change) == (triplet.on_pre, triplet.on_post, triplet.change)
    assert rule.eligibility is rewarded and rule.positive == ("tau_c",) and rule.name == "rewarded_triplet"
    assert rule.parameters == triplet.parameters and rule.eligibility_parameters == ("tau_c",)
    assert rstdp.functions == modulated(stdp, "again").functions
    c, dw = torch.rand(2, 9)
    assert torch.equal(rewarded(c, dw, tau_c=7.0), c + (-c / 7.0 + dw))
    for twice in (rstdp, TAGGED):
        with pytest.raises(ValueError, match=f"rule '{twice.name}' is modulated already"):
            modulated(twice, "twice")


# rules that are refused


def on_pre(pre_spike, post_trace, *, a):
    return pre_spike * post_trace * a


def on_post(post_spike, pre_trace):
    return post_spike * pre_trace


PARTS = {"name": "wrong", "on_pre": on_pre, "on_post": on_post}


def named(value):
    """An id without addresses, which differ between processes."""
    return value if isinstance(value, str) else ",".join(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "a rule's name is '': give it a text"),
        ({"name": 3}, "a rule's name is 3: give it a text"),
        (
            {"on_pre": lambda spike, post_trace: spike},
            r"on_pre of rule 'wrong' reads spike: its arguments are named pre_\.\.\. and post_\.\.\. for signals, "
            r"w, w_min, w_max, and parameters stand behind a \*",
        ),
        (
            {"on_post": lambda post_spike, gain: post_spike * gain},
            r"on_post .* reads gain: .* parameters stand behind a \*",
        ),
        (
            {"change": lambda potentiation, depression, positive, negative, rate: rate * potentiation},
            r"change .* reads rate: its arguments are named potentiation, depression, positive, negative, w, w_min",
        ),
        (
            {"change": lambda potentiation, pre_trace: potentiation * pre_trace},
            "change .* reads pre_trace: .* are named potent",
        ),
        (
            {"eligibility": lambda c, dw, post_trace: c + dw},
            "eligibility .* reads post_trace: its arguments are named c, dw, w",
        ),
        ({"eligibility": lambda c, dw, tau: c + dw}, r"eligibility .* reads tau: .* parameters stand behind a \*"),
        ({"on_pre": lambda pre_spike, *, w_max: pre_spike}, "on_pre .* has a parameter w_max: the name is taken"),
        ({"on_pre": lambda pre_spike, *, dopamine: pre_spike}, "has a parameter dopamine: the name is taken"),
        ({"on_pre": lambda pre_spike, *, clamp: pre_spike}, "has a parameter clamp: the name is taken"),
        ({"on_pre": lambda pre_spike, *, reduction: pre_spike}, "has a parameter reduction: the name is taken"),
        ({"on_pre": lambda pre_spike, *, post_gain: pre_spike}, "has a parameter post_gain: the name is taken"),
        (
            {"eligibility": lambda c, dw, *, a: c + dw},
            "rule 'wrong': a is a parameter of the change and of the eligibility",
        ),
        ({"positive": ("tau",)}, r"positive of rule 'wrong' is \('tau',\): name some of a"),
        ({"positive": "a"}, "positive of rule 'wrong' is 'a'"),
        ({"on_pre": lambda *given: 0}, "takes any number of arguments: name those that it reads"),
        ({"on_pre": lambda pre_spike, **given: 0}, "takes any number of arguments"),
        ({"on_pre": None}, "None does not say what it takes: pass a function"),
    ],
    ids=named,
)
def test_a_rule_that_reads_what_there_is_not_is_refused(changes, message):
    with pytest.raises(TypeError, match=message):
        Rule(**PARTS | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"on_pre": lambda post_trace: post_trace},
            "on_pre of rule 'wrong' does not read pre_spike: it reads post_trace",
        ),
        (
            {"on_pre": lambda pre_spike, w, *, a: pre_spike * a - w},
            "on_pre must be 0 where pre_spike is",
        ),
        ({"on_post": lambda post_spike, pre_trace: post_spike + pre_trace}, "on_post must be 0 where post_spike is"),
        (
            {"change": lambda potentiation, w: potentiation - w},
            "change must be 0 where potentiation and depression are",
        ),
        ({"on_pre": lambda pre_spike, post_trace: pre_spike**2 * post_trace}, "on_pre .* not linear in the spike"),
        ({"on_post": lambda post_spike: post_spike**3}, "on_post .* not linear in the spike"),
        (
            {"change": lambda potentiation, depression, positive: (potentiation - depression) * positive},
            "change .* must read each bound as a factor of its own contribution alone",
        ),
    ],
    ids=named,
)
def test_a_rule_that_needs_no_spike_or_counts_one_twice_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Rule(**PARTS | changes)


def test_a_bound_s_parameters_stand_behind_a_star():
    with pytest.raises(TypeError, match=r"bound <lambda> does not take \(w, w_min, w_max\)"):
        Formula.of(stdp, lambda w, w_min, w_max, mu: w * mu)
    assert Formula.of(stdp, lambda low, weight, high, *, mu: weight * mu).bound_parameters == ("mu",)


@pytest.mark.parametrize(
    ("rule", "bound", "name"),
    [
        (stdp, lambda w, w_min, w_max, *, a_plus: w * a_plus, "a_plus"),
        (triplet, lambda w, w_min, w_max, *, a3_minus, mu: w * a3_minus * mu, "a3_minus"),
        (rstdp, lambda w, w_min, w_max, *, tau_c: w * tau_c, "tau_c"),
        (stdp, lambda w, w_min, w_max, *, dopamine: w * dopamine, "dopamine"),
        (stdp, lambda w, w_min, w_max, *, topology: w * topology, "topology"),
    ],
    ids=["rule", "one of several", "eligibility", "dopamine", "step"],
)
def test_a_bound_whose_parameter_is_taken_is_refused(rule, bound, name):
    for bounds in ((bound, no_bound), (no_bound, bound)):
        with pytest.raises(TypeError, match=f"bound <lambda> has a parameter {name}: {rule.name} or a step takes it"):
            Formula.of(rule, *bounds)


@pytest.mark.parametrize("name", ["positive", "negative", "potentiation", "depression", "dw", "pre_gain"])
def test_a_parameter_may_not_be_called_what_functions_read(name):
    scope = {}
    exec(f"def on_post(post_spike, pre_trace, *, {name}): return post_spike * pre_trace * {name}", scope)
    exec(f"def bound(w, w_min, w_max, *, {name}): return w * {name}", scope)
    with pytest.raises(TypeError, match=f"has a parameter {name}: the name is taken"):
        Rule("named", lambda pre_spike: 0.0 * pre_spike, scope["on_post"])
    with pytest.raises(TypeError, match=f"bound bound has a parameter {name}: stdp or a step takes it"):
        Formula.of(stdp, scope["bound"])


def test_rules_that_differ_in_what_must_be_positive_are_two():
    strict = Rule("timed", lambda pre_spike: 0.0 * pre_spike, _timed, positive=("tau",))
    loose = replace(strict, positive=())
    assert Formula.of(strict) is not Formula.of(loose)
    assert Formula.of(loose).rule.positive == ()


def _timed(post_spike, pre_trace, *, tau):
    return post_spike * pre_trace / tau


@pytest.mark.parametrize(
    "weigh",
    [
        lambda post_spike, pre_trace: post_spike * torch.sqrt(pre_trace),
        lambda post_spike, pre_trace: post_spike * torch.log(pre_trace),
        lambda post_spike, w, w_min, w_max: post_spike * ((w - w_min) / (w_max - w_min)) ** 0.3,
        lambda post_spike, pre_trace: post_spike * torch.exp(1000 * pre_trace),
    ],
    ids=["sqrt", "log", "power", "exp"],
)
def test_what_is_no_number_everywhere_is_still_silent_without_a_spike(weigh):
    assert Rule("partly", lambda pre_spike: 0.0 * pre_spike, weigh).post[0] == "post_spike"


def test_a_misspelt_spike_is_named():
    with pytest.raises(ValueError, match="'typo' does not read pre_spike: it reads pre_spikes, post_trace"):
        Rule("typo", lambda pre_spikes, post_trace: pre_spikes * post_trace, _timed)


@pytest.mark.parametrize("positive", [None, "tau", (1,), ("other",)])
def test_what_must_be_positive_is_named_by_parameters(positive):
    with pytest.raises(TypeError, match="positive of rule 'timed' is"):
        Rule("timed", lambda pre_spike: 0.0 * pre_spike, _timed, positive=positive)


def test_only_a_rule_is_modulated():
    with pytest.raises(TypeError, match="'stdp' is no Rule"):
        modulated("stdp", "mine")
