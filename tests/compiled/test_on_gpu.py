"""Steps on a GPU give the reference's results.

Without a GPU, ``ttsem`` runs this suite on a CPU: it executes what Triton makes of each kernel, and fails at the
kernel's line where a program reaches outside a tensor or two programs meet at one element (``.ci/gpu``).
"""

from __future__ import annotations

import pytest
import torch
from triton import knobs

from rules_of_their_own import RULES_OF_TESTS, TAGGED
from support import random_sparse
from tritonstdp.choice import choose
from tritonstdp.functional import trace_
from tritonstdp.kernels import items, scatter
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.problems import Problem, make_problem
from tritonstdp.rules import RULES, Formula, hard_bound, no_bound, soft_bound
from tritonstdp.topology import Conv2d, Dense, Local2d, OneToOne, Sparse, Topology

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.skipif(knobs.runtime.interpret, reason="Triton's interpreter would run: set TRITON_INTERPRET=0"),
]


@pytest.fixture(autouse=True)
def _small_groups_stand_for_large_ones(monkeypatch):
    monkeypatch.setattr(items, "FEWEST_LISTED", 0)
    monkeypatch.setattr(scatter, "FEWEST_SYNAPSES", 0)


@pytest.fixture(autouse=True)
def _compiled_in_this_thread(monkeypatch):
    monkeypatch.setattr("tritonstdp.choice.undisturbed", lambda build: build())  # ttsem stands for a GPU in one alone


GROUPS: dict[str, Topology] = {
    "dense": Dense(19, 37),
    "dense of a width like 1000": Dense(40, 1004),
    "dense of one row": Dense(1, 130),
    "dense of one column": Dense(300, 1),
    "dense in several segments": Dense(2050, 12),
    "one_to_one": OneToOne(1033),
    "sparse": random_sparse(23, 31, 0.3),
    "sparse csr": random_sparse(40, 17, 0.2, torch.sparse_csr),
    "sparse without synapses of most": random_sparse(64, 64, 0.004),
    "sparse with a hub": Sparse.of(torch.cat([torch.ones(1, 900), torch.eye(39, 900)]).to_sparse_csr()),
    "conv2d": Conv2d((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
    "conv2d of one place": Conv2d((3, 5, 5), (2, 1, 1), (5, 5)),
    "conv2d with gaps": Conv2d((1, 9, 9), (2, 3, 3), (2, 2), (3, 3)),
    "local2d": Local2d((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
    "local2d of one row": Local2d((1, 1, 12), (4, 1, 10), (1, 3)),
    "local2d with gaps": Local2d((1, 9, 9), (2, 3, 3), (2, 2), (3, 3)),
}
groups = pytest.mark.parametrize("group", GROUPS)


def problem_of(rule: str, group: str, positive=soft_bound, negative=soft_bound, clamp=False, **options) -> Problem:
    formula = Formula.of((RULES | RULES_OF_TESTS)[rule], positive, negative, clamp)
    return make_problem(formula, GROUPS[group], **options)


def assert_like_the_reference(problem: Problem, steps: int = 3) -> None:
    """Some steps, each with other spikes, end in the reference's bits; sums within their rounding."""
    case = problem.to(device="cuda").case
    there, here = problem.to(device="cuda").copy(), problem.copy()
    step, reference = choose(case).step, choose(problem.case, "reference").step
    assert choose(case).backend == "triton"
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        spikes = {
            name: spike[torch.randperm(len(spike), generator=generator)]
            for name, spike in problem.signals.items()
            if name.endswith("_spike")
        }
        here.replaced(**spikes).run(reference)
        there.replaced(**{name: spike.cuda() for name, spike in spikes.items()}).run(step)
    for name, tensor in there.outputs.items():
        if problem.topology.shares_weights or tensor.dtype == torch.bfloat16:
            eps = 4 * steps * torch.finfo(tensor.dtype).eps
            torch.testing.assert_close(tensor.cpu(), here.outputs[name], rtol=eps, atol=eps)
        else:
            assert torch.equal(tensor.cpu(), here.outputs[name]), name
    assert not torch.equal(here.weights, problem.weights), "nothing changed: the case proves nothing"


@pytest.mark.parametrize("rule", ["stdp", "rstdp", "triplet"])
@groups
def test_steps_are_those_of_the_reference(group, rule):
    assert_like_the_reference(problem_of(rule, group))


@pytest.mark.parametrize("rule", ["istdp", TAGGED.name, "spikes_alone"])
@pytest.mark.parametrize("group", ["dense", "one_to_one", "sparse", "conv2d", "local2d"])
def test_steps_of_other_rules_are_those_of_the_reference(group, rule):
    assert_like_the_reference(problem_of(rule, group))


@pytest.mark.parametrize("group", ["dense of a width like 1000", "one_to_one", "sparse csr", "local2d"])
def test_small_groups_take_a_pass_to_the_same_bits(group, monkeypatch):
    monkeypatch.setattr(items, "FEWEST_LISTED", 10**9)
    assert_like_the_reference(problem_of("stdp", group))


@groups
def test_batches_are_those_of_the_reference(group):
    assert_like_the_reference(problem_of("stdp", group, samples=3, reduction="mean"), steps=2)


@pytest.mark.parametrize("group", ["dense", "conv2d"])
def test_batches_of_several_words_are_those_of_the_reference(group):
    assert_like_the_reference(problem_of("rstdp", group, samples=33, float_spikes=True, per_neuron=True), steps=1)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.float64},
        {"dtype": torch.float16},
        {"dtype": torch.bfloat16},
        {"rate": 1.0, "clamp": True},
        {"rate": 0.01, "negative": hard_bound},
        {"float_spikes": True, "positive": no_bound},
        {"per_neuron": True},
    ],
    ids=lambda options: " ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items()),
)
@pytest.mark.parametrize("group", ["dense", "one_to_one", "sparse", "conv2d", "local2d"])
def test_variants_are_those_of_the_reference(group, options):
    assert_like_the_reference(problem_of("stdp", group, **options))


@pytest.mark.parametrize("dopamine", ["scalar", "pre", "post"])
def test_dopamine_may_lie_in_a_tensor_and_weights_the_other_way_round(dopamine):
    assert_like_the_reference(problem_of("rstdp", "dense", dopamine=dopamine, transposed=True))


@pytest.mark.parametrize("spikes", [torch.bool, torch.float32])
@pytest.mark.parametrize("n", [1, 1000, 5000])
def test_traces_are_those_of_the_reference(n, spikes):
    generator = torch.Generator().manual_seed(0)
    trace, spike = torch.rand(n, generator=generator), (torch.rand(n, generator=generator) < 0.5).to(spikes)
    there = trace.cuda()
    for _ in range(3):
        trace_(there, spike.cuda(), tau=10.0)
        trace_(trace, spike, tau=10.0, backend="reference")
    assert torch.equal(there.cpu(), trace)


@pytest.mark.parametrize("rate", [0.015, 0.4])
@groups
def test_currents_are_those_of_the_reference_scattered_or_gathered(group, rate):
    for float_spikes in (False, True):
        here = make_problem(PROPAGATION, GROUPS[group], rate=rate, float_spikes=float_spikes)
        there = here.to(device="cuda").copy()
        step = choose(there.case, "triton").step
        for _ in range(2):
            there.run(step)
            here.run(choose(here.case, "reference").step)
        torch.testing.assert_close(there.signals["current"].cpu(), here.signals["current"])


@groups
def test_a_captured_graph_goes_on_as_steps_would(group):
    problem = problem_of("stdp", group).to(device="cuda")
    step = choose(problem.case).step
    problem.copy().run(step)
    eager, captured = problem.copy(), problem.copy()
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured.run(step)
    except (AttributeError, RuntimeError, NotImplementedError) as reason:
        pytest.skip(f"no graph can be captured here: {reason}")
    for _ in range(3):
        eager.run(step)
        graph.replay()
    assert all(torch.equal(tensor, eager.outputs[name]) for name, tensor in captured.outputs.items())
