"""Once a step's tensors are known, a step refuses and computes what it would have at the first."""

import copy
import gc
import weakref
from functools import partial
from itertools import combinations, product

import pytest
import torch
from test_safety import MEMORYLESS, TOPOLOGIES, negated, problem_of_all, step

import tritonstdp as ts
from tritonstdp import binding
from tritonstdp.functional import step_
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, Rule, rstdp, soft_bound, stdp

UNEVEN = Rule(
    "uneven",
    lambda pre_spike, post_trace: pre_spike * post_trace,
    lambda post_spike, pre_trace, post_slow: post_spike * pre_trace * post_slow,
)
"""Two signals of one side, and three of the other."""


def problem_on(topology, rule=rstdp):
    return make_problem(Formula.of(rule, soft_bound, soft_bound), topology, rate=0.5)


def known(problem):
    """Take a step, after which its tensors are known; and a problem of the same kind with its own."""
    step(problem.copy(), "cpu")
    assert any(isinstance(entry, binding.Binding) for entry in problem.formula.choices.values())
    return problem


def outcome(problem, **changed):
    """What a step does: its error, or its results."""
    before = problem.copy()
    try:
        step(problem, "cpu", **changed)
    except (ValueError, TypeError) as error:
        for name, written in problem.outputs.items():
            assert torch.equal(written, before.outputs[name]), "something was written before the error"
        return f"{type(error).__name__}: {error}"
    return problem.outputs


class Named(torch.Tensor):
    pass


def doubled(tensor):
    return torch.cat([tensor.flatten()] * 2)


ODD = {
    **MEMORYLESS,
    "a shape of its own": lambda tensor: tensor[None],
    "fewer": lambda tensor: tensor.flatten()[:-1],
    "float64": torch.Tensor.double,
    "another device": lambda tensor: tensor.to("meta"),
    "requires grad": lambda tensor: tensor.float().requires_grad_(),
    "a number": lambda tensor: 1.0,
    "None": lambda tensor: None,
    "negated": lambda tensor: negated(tensor.float()),
    "strided": lambda tensor: torch.stack([tensor] * 2, -1)[..., 0],
    "expanded": lambda tensor: tensor.flatten()[:1].expand(tensor.shape),
    "behind others in its storage": lambda tensor: doubled(tensor)[tensor.numel() :].view_as(tensor),
    "a subclass": lambda tensor: tensor.as_subclass(Named),
    "nested": lambda tensor: torch.nested.nested_tensor([tensor.flatten()] * 2),
    "jagged": lambda tensor: torch.nested.nested_tensor([tensor.flatten()] * 2, layout=torch.jagged),
}


@pytest.fixture
def held(monkeypatch):
    """Whether each step since has found its tensors known."""
    found, step_for = [], binding.Binding.step_for

    def noted(*arguments):
        step = step_for(*arguments)
        found.append(step is not None)
        return step

    monkeypatch.setattr(binding.Binding, "step_for", noted)
    return found


def outcome_of_a_first_step(problem, *, monkeypatch, **changed):
    with monkeypatch.context() as patch:
        patch.setattr(binding.Binding, "step_for", lambda *_: None)
        return outcome(problem, **changed)


def assert_same(got, expected, case):
    if isinstance(expected, str):
        assert got == expected, case
    else:
        assert all(torch.equal(got[name], expected[name]) for name in expected), case


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_known_step_does_with_odd_tensors_what_a_first_one_does(topology, kind, monkeypatch):
    for name in problem_of_all(topology).tensors:
        if (topology, name) == ("sparse", "weights"):
            continue  # its tensors of values are made anew at each step
        if kind == "a number" and name in problem_of_all(topology).parameters:
            continue  # which may be one
        outcomes = []
        for run in (partial(outcome_of_a_first_step, monkeypatch=monkeypatch), outcome):
            problem = known(problem_of_all(topology))
            odd = ODD[kind](problem.tensors[name])
            result = run(problem, **{name: odd})
            outcomes.append(result if isinstance(result, str) or name not in result else {**result, name: odd.clone()})
        if kind in MEMORYLESS:  # what lies there instead may belong to another tensor, and is called shared then
            assert all("memory" in text or "one address" in text for text in outcomes), name
        else:
            assert_same(outcomes[1], outcomes[0], name)


@pytest.mark.parametrize("written", ["weights", "c"])
@pytest.mark.parametrize("topology", [name for name in TOPOLOGIES if name != "sparse"])
def test_memory_that_is_shared_later_is_refused(topology, written):
    for name in set(problem_of_all(topology).tensors) - {"weights", "c"}:
        problem = known(problem_of_all(topology))
        values, signal = problem.tensors[written], problem.tensors[name]
        room = torch.empty(values.nbytes + signal.nbytes, dtype=torch.uint8)
        held = room[: values.nbytes].view(values.dtype).view(values.shape).copy_(values)
        overlapping = room[values.nbytes - 4 :][: signal.nbytes].view(signal.dtype)
        with pytest.raises(ValueError, match=f"{written} shares memory with {name}"):
            step(problem, "cpu", **{written: held, name: overlapping})


CHANGES = {
    "weights": {
        "transposed": lambda w: w.t_(), "expanded": lambda w: w.as_strided_(w.shape, (0, 1)),
        "requires grad": lambda w: w.requires_grad_(), "storage of size 0": lambda w: w.untyped_storage().resize_(0),
        "storage cut short": lambda w: w.untyped_storage().resize_(w.nbytes - 4),
        "smaller": lambda w: w.resize_(2, 2), "of another dtype": lambda w: setattr(w, "data", w.double()),
    },
    "pre_trace": {
        "strided": lambda x: x.as_strided_(x.shape, (0,)), "requires grad": lambda x: x.requires_grad_(),
        "storage of size 0": lambda x: x.untyped_storage().resize_(0),
        "storage cut short": lambda x: x.untyped_storage().resize_(x.nbytes - 4),
        "larger": lambda x: x.resize_(50), "of another dtype": lambda x: setattr(x, "data", x.double()),
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in CHANGES for change in CHANGES[name]])
def test_a_tensor_that_is_changed_in_place_is_looked_at_again(name, change, monkeypatch, held):
    topology = ts.Dense(6, 6)
    problem = problem_on(topology)
    step(problem, "cpu"), step(problem, "cpu")
    assert held == [True]
    outcomes = []
    for run in (partial(outcome_of_a_first_step, monkeypatch=monkeypatch), outcome):
        problem = problem_on(topology)
        step(problem, "cpu")
        CHANGES[name][change](problem.tensors[name])
        changed = {name: problem.tensors[name]}
        if "storage" in change:
            with pytest.raises(ValueError, match=f"{name}.*no memory"):
                step(problem, "cpu")
        else:
            outcomes.append(run(problem, **changed))
    if outcomes:
        assert_same(outcomes[1], outcomes[0], change)


def test_steps_on_the_same_kind_of_tensors_are_known_and_give_the_same(held):
    topology, expected = ts.Dense(7, 5), None
    for rule in (stdp, rstdp):
        for _ in range(3):
            problem = problem_on(topology, rule)
            step(problem, "cpu")
            expected = expected if _ else problem.outputs
            assert all(torch.equal(problem.outputs[name], expected[name]) for name in expected)
    assert held == [True] * 4


def test_a_recurrent_group_has_the_same_spikes_and_traces_on_both_sides(held):
    topology = ts.Dense(7, 7)
    problem = problem_on(topology, stdp)
    same = {name: problem.signals[name.replace("post", "pre")] for name in ("post_spike", "post_trace")}
    apart = {name: tensor.clone() for name, tensor in same.items()}
    results = []
    for given in (same, same, apart, apart):
        other = problem.copy()
        step(other, "cpu", **given)
        results.append(other.weights)
    assert held == [True, True] and all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("wiring", ["one_to_one", "dense"])
@pytest.mark.parametrize(
    "known_as", [(), ("post_spike",), ("post_trace",), ("post_spike", "post_trace"), ("post_trace", "post_slow")]
)
def test_a_tensor_that_stands_for_another_is_looked_at_as_in_a_first_step(wiring, known_as, monkeypatch):
    """After steps that share some signals, every pair of arguments is one tensor in turn."""
    topology = {"one_to_one": ts.OneToOne(6), "dense": ts.Dense(6, 6)}[wiring]

    def shared(problem):
        return {name: problem.signals[name.replace("post", "pre")] for name in known_as}

    for first, second in combinations(problem_of_all(topology).tensors, 2):
        outcomes = []
        for run in (partial(outcome_of_a_first_step, monkeypatch=monkeypatch), outcome):
            problem = problem_of_all(topology)
            step(problem, "cpu", **shared(problem))
            problem = problem_of_all(topology)
            given = shared(problem) | {second: problem.tensors[first]}
            outcomes.append(run(problem, **given))
        assert_same(outcomes[1], outcomes[0], (first, second))


def test_signals_in_each_other_s_place_are_looked_at_as_in_a_first_step(monkeypatch):
    """After each way in which signals can share two tensors of spikes and two of traces, every two of them swapped."""
    problem = make_problem(Formula.of(triplet), ts.OneToOne(6), rate=0.5)
    names = tuple(problem.signals)
    kinds = {kind: tuple(problem.signals[f"{side}_{kind}"] for side in ("pre", "post")) for kind in ("spike", "trace")}
    for tensors in product(*(kinds["spike" if name.endswith("spike") else "trace"] for name in names)):
        for first, second in combinations(range(len(names)), 2):
            swapped = list(tensors)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            given, outcomes = dict(zip(names, swapped, strict=True)), []
            for run in (partial(outcome_of_a_first_step, monkeypatch=monkeypatch), outcome):
                step(problem.copy(), "cpu", **dict(zip(names, tensors, strict=True)))
                outcomes.append(run(problem.copy(), **given))
            assert_same(outcomes[1], outcomes[0], given)


def test_signals_of_one_side_are_not_known_by_those_of_both():
    """Float spikes and traces are of one kind: only their number on each side tells a step that gives another."""
    topology, formula = ts.OneToOne(6), Formula.of(UNEVEN)
    weights, (a, b, c, d, e) = torch.rand(6), torch.rand(5, 6)
    step_(formula, topology, weights, (a, b), (c, d, e), (), backend="cpu")
    before = weights.clone()
    with pytest.raises(ValueError, match="3 signals are given of one side, which has pre_spike, pre_trace"):
        step_(formula, topology, weights, (a, b, c), (d, e), (), backend="cpu")
    assert torch.equal(weights, before)


def test_a_formula_that_has_been_used_can_be_copied():
    problem = problem_on(ts.Dense(3, 4))
    choice = step(problem, "cpu")
    assert copy.deepcopy(choice).backend == "cpu"
    copied = copy.deepcopy(problem.formula)
    assert copied.rule.name == "rstdp" and not copied.choices


def test_a_topology_is_not_kept_alive_and_leaves_nothing_behind():
    topology = ts.Dense(3, 4)
    problem = problem_on(topology)
    step(problem, "cpu")
    formula, gone = problem.formula, weakref.ref(topology)
    bindings = [key for key, entry in formula.choices.items() if isinstance(entry, binding.Binding)]
    assert bindings
    del problem, topology
    gc.collect()
    assert gone() is None and not any(key[0] == bindings[-1][0] for key in formula.choices)


@pytest.mark.parametrize("name", ["weights", "c"])
def test_what_is_written_and_requires_grad_is_refused_without_grad_mode_too(name):
    problem = known(problem_on(ts.Dense(6, 5)))
    with torch.no_grad():
        step(problem, "cpu")
        with pytest.raises(ValueError, match=f"{name} require grad"):
            step(problem, "cpu", **{name: problem.tensors[name].clone().requires_grad_()})
