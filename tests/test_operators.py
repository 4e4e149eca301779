"""``torch.compile`` takes whole steps into one graph, which computes what the calls do."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import tritonstdp as ts
from support import random_sparse
from tritonstdp import operators
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.propagation import propagate_
from tritonstdp.rules import RULES, Formula, soft_bound
from tritonstdp.topology import TOPOLOGIES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def compiled(function, backend="eager"):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def problem_of(topology, rule="stdp"):
    kind = TOPOLOGIES[topology]
    group = random_sparse(23, 17, 0.3) if topology == "sparse" else kind.example()
    return make_problem(Formula.of(RULES.get(rule, triplet), soft_bound, soft_bound), group, rate=0.4)


def update(problem):
    w_min, w_max = problem.limits
    rule = problem.formula.rule
    return ts.update_(
        rule, problem.weights, c=problem.c, w_min=w_min, w_max=w_max, positive_bound="soft_bound",
        negative_bound=soft_bound, topology=problem.topology, **problem.signals, **problem.parameters,
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["stdp", "istdp", "rstdp", "triplet"])
@pytest.mark.parametrize("topology", list(TOPOLOGIES))
def test_a_compiled_step_is_the_step(topology, rule):
    problem = problem_of(topology, rule)
    twin = problem.copy()
    update(problem)

    def step(weights, c, signals):
        update(twin.replaced(weights=weights, **signals, **({} if c is None else {"c": c})))
        return weights * 2

    doubled = compiled(step)(twin.weights, twin.c, twin.signals)
    for name, written in problem.outputs.items():
        assert torch.equal(twin.outputs[name], written)
    assert torch.equal(doubled, 2 * problem.weights)


def test_parameters_may_be_tensors_and_one_value_a_neuron():
    problem = problem_of("dense")
    n_pre, n_post = problem.topology.weights_shape
    given = {"a_plus": torch.rand(n_post), "a_minus": ts.per_pre(torch.rand(n_pre))}
    expected, got = (problem.replaced(**given).copy() for _ in range(2))
    update(expected)

    def step(weights, a_plus, values):
        return update(got.replaced(weights=weights, a_plus=a_plus, a_minus=ts.per_pre(values)))

    compiled(step)(got.weights, given["a_plus"], given["a_minus"].values)
    assert torch.equal(got.weights, expected.weights)


def neurons(weights, spikes, voltage, pre_trace, post_trace, a_plus, topology):
    """A step of a bare loop: currents, neurons, traces, learning, normalisation."""
    current = propagate_(torch.zeros_like(voltage), weights, spikes, topology=topology)
    voltage = voltage + (current - voltage) / 10
    fired = voltage > 0.5
    ts.trace_(pre_trace, spikes, tau=10.0)
    ts.trace_(post_trace, fired, tau=torch.tensor(20.0))
    ts.stdp_(weights, spikes, pre_trace, fired, post_trace, a_plus=a_plus, a_minus=0.1, topology=topology)
    ts.normalize_(weights, 3.0, topology=topology)
    return torch.where(fired, 0.0, voltage)


def outcome(step, topology, a_plus=0.1):
    torch.manual_seed(4)
    n_pre, n_post = topology.pre_shape[0], topology.post_shape[0]
    state = torch.rand(topology.weights_shape), torch.rand(n_pre) < 0.5, torch.rand(n_post)
    traces = torch.rand(n_pre), torch.rand(n_post)
    return *state, *traces, step(*state, *traces, a_plus, topology)


def assert_one_graph(topology, backend, values=(0.1,)):
    group = problem_of(topology).topology
    step = compiled(neurons, backend)
    for a_plus in values:
        expected, got = outcome(neurons, group, a_plus), outcome(step, group, a_plus)
        assert all(torch.equal(a, b) for a, b in zip(expected[:-1], got[:-1], strict=True))
        torch.testing.assert_close(got[-1], expected[-1])


def test_a_loop_s_whole_step_is_one_graph_whatever_its_numbers_are():
    assert_one_graph("dense", "aot_eager", (0.1, 0.2, 0.1))


@pytest.mark.slow
@pytest.mark.parametrize("topology", list(TOPOLOGIES))
def test_what_torch_makes_of_the_graph_gives_the_same(topology):
    assert_one_graph(topology, "inductor")


def test_the_operator_says_what_it_writes():
    spikes = torch.rand(6) < 0.5
    layout = (("trace",), ("spikes",), ("",), ("tau",), ("backend",))
    name = operators._named(ts.trace_, layout, None)
    torch.library.opcheck(operators._RUN, (torch.rand(6), None, [spikes], [10.0], name))
    layout = (("weights", "c"), ("pre_spike", "pre_trace", "post_spike", "post_trace"), ("",) * 4)
    numbers = "a_plus", "a_minus", "tau_c", "dopamine"
    name = operators._named(ts.update_, (*layout, numbers, ("rule",)), "rstdp")
    read = [spikes, torch.rand(6), spikes[:5], torch.rand(5)]
    torch.library.opcheck(operators._RUN, (torch.rand(6, 5), torch.zeros(6, 5), read, [0.1, 0.1, 9.0, 0.5], name))


@pytest.mark.slow
def test_a_name_says_what_is_called_in_every_process(tmp_path):
    script = tmp_path / "names.py"
    script.write_text(
        "import tritonstdp as ts\nfrom tritonstdp import operators\n"
        "def bound(w, w_min, w_max):\n    return 2 * (w_max - w)\n"
        "layout = (('weights', 'c'), (), (), (), ('rule', 'positive_bound', 'topology'))\n"
        "print(operators._named(ts.update_, layout, ts.RULES['stdp'], bound, ts.Dense(3, 4)))\n"
        "print(operators._named(ts.update_, layout, 'stdp', max, None))\n"
    )
    runs = [subprocess.run([sys.executable, script], capture_output=True, text=True, check=True) for _ in range(2)]
    (first, unknown), (again, other) = (run.stdout.splitlines() for run in runs)
    assert first == again, "a graph that torch has kept finds its step"
    assert unknown != other, "what can't be read is nobody else's"


def test_errors_of_a_step_are_its_own_and_a_graph_from_elsewhere_is_named():
    with pytest.raises(ValueError, match="stdp needs post_trace"):
        compiled(
            lambda w, s, x: ts.update_("stdp", w, pre_spike=s, pre_trace=x, post_spike=s, a_plus=1.0, a_minus=1.0)
        )(torch.rand(3, 3), torch.ones(3) > 0, torch.rand(3))
    with pytest.raises(RuntimeError, match="'stdp_ 0', which this process has not traced"):
        operators._RUN(torch.rand(2, 2), None, [], [], "stdp_ 0")
