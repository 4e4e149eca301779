"""Learning from batches in Triton, in its interpreter: what the reference says, by one owner of each synapse."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from test_gpu_proofs import GROUPS, SHARED, SUMMED, confine, formula_of, meetings, poisoned
from test_non_finite import extremes, scattered

from rules_of_their_own import POWER, RULES_OF_TESTS, TELLING
from support import random_sparse, with_tensors
from tritonstdp.choice import choose
from tritonstdp.inspection import gpu_module
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.kernels.batches_gpu import Samples
from tritonstdp.problems import Problem, make_problem
from tritonstdp.registry import meeting_of
from tritonstdp.rules import BOUNDS, hard_bound, soft_bound
from tritonstdp.topology import TOPOLOGIES, Dense, Local2d, OneToOne

topologies = pytest.mark.parametrize("topology", TOPOLOGIES)
elementwise = pytest.mark.parametrize("topology", [name for name in TOPOLOGIES if name not in SUMMED])
SMALL = {
    "dense": Dense(5, 9),
    "one_to_one": OneToOne(43),
    "sparse": random_sparse(7, 9, 0.4),
    "conv2d": GROUPS["conv2d"],
    "local2d": Local2d((1, 3, 3), (2, 2, 2), (3, 2), (2, 1), (1, 0)),
}


@pytest.fixture(autouse=True, scope="module")
def _swift():
    with swift_interpreter():
        yield


def run(problem: Problem, backend: str = "triton") -> Problem:
    return problem.copy().run(choose(problem.case, backend).step)


def assert_matches_reference(problem: Problem, expected: Problem | None = None) -> None:
    """To the bit, but where sums have another order."""
    found, expected = run(problem), run(problem, "reference") if expected is None else expected
    exact = problem.topology.name not in SUMMED and problem.formula.positive is not POWER
    for name, tensor in expected.outputs.items():
        tolerance = 0.0 if exact else 4 * torch.finfo(tensor.dtype).eps
        # the interpreter does not round to bfloat16 as hardware does
        tolerance = torch.finfo(tensor.dtype).eps if tensor.dtype == torch.bfloat16 else tolerance
        torch.testing.assert_close(found.outputs[name], tensor, rtol=tolerance, atol=tolerance, equal_nan=True)


EVERYTHING = {"float_spikes": True, "per_neuron": True, "dopamine": "scalar", "dtype": torch.float64}


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("stdp", {}),
        pytest.param("triplet", {"reduction": "mean", "dtype": torch.float16}, marks=pytest.mark.slow),
        ("rstdp", {"reduction": "mean", **EVERYTHING}),
    ],
    ids=["stdp", "triplet", "rstdp"],
)
@topologies
def test_a_batch_matches_the_reference(topology, rule, options):
    formula = formula_of(rule, soft_bound, hard_bound, clamp=True)
    problem = make_problem(formula, GROUPS[topology], samples=3, **options)
    assert_matches_reference(problem)
    assert not torch.equal(run(problem).weights, problem.weights), "nothing changed: the case proves nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "dtype"),
    [(33, torch.float32), pytest.param(3, torch.bfloat16, marks=pytest.mark.sweep)],
    ids=str,
)
@pytest.mark.parametrize("rule", TELLING)
@topologies
def test_rules_of_all_kinds_match_the_reference_in_every_dtype(topology, rule, samples, dtype):
    positive = POWER if rule in RULES_OF_TESTS else soft_bound
    group = (SMALL if samples == 33 else GROUPS)[topology]
    for reduction, options in (("sum", {}), ("mean", EVERYTHING)):
        formula = formula_of(rule, positive, soft_bound, clamp=reduction == "mean")
        given = {**options, "dtype": dtype, "reduction": reduction}
        assert_matches_reference(make_problem(formula, group, samples=samples, **given))


def test_signals_may_lie_further_apart_than_32_bits_say(monkeypatch):
    of = Samples.of
    monkeypatch.setattr(Samples, "of", staticmethod(lambda *arguments: of(*arguments)._replace(far=True)))
    for topology in ("dense", "one_to_one"):
        assert_matches_reference(make_problem(formula_of("stdp"), SMALL[topology], samples=3))


@pytest.mark.slow
@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("transposed", [False, True])
def test_dense_takes_either_layout_any_bound_and_dopamine_per_neuron(transposed, bound):
    if bound.startswith("power"):
        pytest.skip("each compiler has powers of its own")
    for rule, dopamine in (("stdp", "number"), ("rstdp", "pre"), ("rstdp", "post")):
        formula = formula_of(rule, BOUNDS[bound], BOUNDS[bound])
        options = {"transposed": transposed, "dopamine": dopamine, "samples": 5, "reduction": "mean"}
        assert_matches_reference(make_problem(formula, Dense(19, 37), **options))


@pytest.mark.parametrize("rate", [*(pytest.param(rate, marks=pytest.mark.slow) for rate in (0.0, 0.02)), 1.0])
@pytest.mark.parametrize("topology", ["dense", "local2d", "sparse"])
def test_items_of_few_and_of_all_spikes_give_the_same(topology, rate):
    """Where some neurons take several items, and samples several words."""
    module = gpu_module(topology, "batch")
    group, samples = (SMALL[topology], 33) if rate == 1.0 else (SHARED[topology], 2)
    problem = make_problem(formula_of("stdp"), group, rate=rate, samples=samples)
    expected = run(problem, "reference")
    for full_from in (0.0, 9.0):
        step = module.build(problem.case, module.DEFAULT._replace(full_from=full_from))
        assert torch.equal(problem.copy().run(step).weights, expected.weights)


@pytest.mark.parametrize("rule", ["stdp", "rstdp"])
@topologies
def test_each_synapse_has_one_owner_and_nothing_beside_a_tensor_is_touched(topology, rule, monkeypatch):
    problem = make_problem(formula_of(rule), GROUPS[topology], samples=3, rate=0.1, per_neuron=True)
    amid = {name: poisoned(tensor) for name, tensor in problem.tensors.items()}
    guarded = with_tensors(problem, {name: inner for name, (inner, _) in amid.items()})
    before = {name: buffer.clone() for name, (_, buffer) in amid.items()}
    with monkeypatch.context() as patch:
        confine(patch)
        found = meetings(patch)
        guarded.run(choose(guarded.case, "triton").step)
    assert found == []
    assert torch.equal(guarded.weights, run(problem).weights)
    for name, (inner, buffer) in amid.items():
        inner.copy_(problem.tensors[name])  # what may be written is put back: the rest must be as it was
        assert torch.equal(buffer.view(torch.uint8), before[name].view(torch.uint8)), name


def beside(problem: Problem, other: Problem) -> Problem:
    """A batch of a problem's sample and another's, over all else that the problem has."""
    stacked = {name: torch.stack([signal, other.signals[name]]) for name, signal in problem.signals.items()}
    return problem.replaced(**stacked, reduction="sum")


@pytest.mark.parametrize("rule", ["stdp", pytest.param("triplet_modulated", marks=pytest.mark.slow)])
@topologies
def test_a_value_that_is_not_finite_reaches_what_reads_it(topology, rule):
    formula = formula_of(rule, soft_bound, hard_bound, clamp=True)
    plain, other = (make_problem(formula, SMALL[topology], seed=seed) for seed in (0, 1))
    for _, changed in extremes(plain):
        assert_matches_reference(beside(changed, other))


@elementwise
def test_the_weight_of_a_synapse_that_is_silent_in_all_samples_keeps_its_bits(topology):
    problem = make_problem(formula_of("stdp", clamp=True), GROUPS[topology], rate=0.05, samples=2)
    problem = problem.replaced(weights=scattered(problem.weights, nan, inf, -inf, -0.0))
    spikes = (problem.signals[f"{side}_spike"].any(0).float() for side in ("pre", "post"))
    silent = ~meeting_of(topology).touched(problem.topology, *spikes).expand(problem.weights.shape)
    assert silent.any()
    found, before = (p.weights[silent].view(torch.int32) for p in (run(problem), problem))
    assert torch.equal(found, before)
