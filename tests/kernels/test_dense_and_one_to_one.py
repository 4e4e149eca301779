"""Dense and one-to-one steps: the same bits on every backend, and the numbers of the formulas written out."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rules_of_their_own import POWER, SPIKES_ALONE, TAGGED, WEIGHTED
from support import stepped
from tritonstdp import Dense, OneToOne
from tritonstdp.functional import per_post, stdp_
from tritonstdp.kernels.dense import cpu
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.rules import BOUNDS, RULES, Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp

FORMULAS = [
    Formula.of(stdp, soft_bound, soft_bound),
    Formula.of(stdp, hard_bound, no_bound, True),
    Formula.of(istdp),
    Formula.of(istdp, no_bound, soft_bound, True),
    Formula.of(rstdp, soft_bound, hard_bound),
    Formula.of(rstdp, no_bound, soft_bound, True),
    Formula.of(triplet, POWER, soft_bound),
    Formula.of(TAGGED, hard_bound, POWER, True),
    Formula.of(WEIGHTED, soft_bound, POWER),
    Formula.of(SPIKES_ALONE),
]


def run(problem, backend):
    done = problem.copy()
    stepped(done, backend)
    return done


def assert_same_bits(problem, backend):
    expected, got = run(problem, "reference"), run(problem, backend)
    for name, tensor in expected.outputs.items():
        assert torch.equal(got.outputs[name], tensor), name


sizes = st.sampled_from([0, 1, 7, 8, 33])
formulas = st.sampled_from(FORMULAS)


def options(dtypes=(torch.float32, torch.float64), rates=(0.0, 0.05, 0.3, 1.0)):
    """What :func:`make_problem` takes."""
    return st.fixed_dictionaries({
        "rate": st.sampled_from(rates), "dtype": st.sampled_from(dtypes), "float_spikes": st.booleans(),
        "dopamine": st.sampled_from(["number", "scalar", "pre", "post"]), "per_neuron": st.booleans(),
        "seed": st.integers(0, 100),
    })  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(formula=formulas, n_pre=sizes, n_post=sizes, transposed=st.booleans(), options=options())
def test_compiled_loops_give_the_bits_of_the_reference(formula, n_pre, n_post, transposed, options):
    assert_same_bits(make_problem(formula, Dense(n_pre, n_post), transposed=transposed, **options), "cpu")


@pytest.mark.parametrize("transposed", [False, True], ids=["pre", "post"])
@pytest.mark.parametrize("rule", [stdp, rstdp], ids=lambda rule: rule.name)
def test_rows_that_are_fetched_ahead_give_the_bits_of_the_reference(rule, transposed):
    for n in (cpu.CHUNK - 1, cpu.CHUNK, 2 * cpu.CHUNK + 7):
        sizes = (n, 5) if transposed else (5, n)
        formula = Formula.of(rule, soft_bound, soft_bound)
        problem = make_problem(formula, Dense(*sizes), rate=0.5, transposed=transposed)
        expected, done = run(problem, "reference"), problem.copy()
        done.run(cpu.build(done.case, cpu.Config(cached_bytes=0)))
        for name, tensor in expected.outputs.items():
            assert torch.equal(done.outputs[name], tensor), (n, name)


@settings(max_examples=20, deadline=None)
@given(
    # one word, parts of words, and several blocks, of which some are visited synapse by synapse and others whole
    formula=formulas, n=st.sampled_from([0, 1, 63, 64, 71, 1024, 2500]),
    options=options(rates=(0.0, 0.01, 0.03, 0.3, 1.0)),
)  # fmt: skip
def test_the_compiled_one_to_one_loop_gives_the_bits_of_the_reference(formula, n, options):
    assert_same_bits(make_problem(formula, OneToOne(n), **options), "cpu")


@settings(max_examples=20, deadline=None)
@given(
    formula=formulas, n_pre=sizes, n_post=sizes, transposed=st.booleans(),
    # bfloat16 is proved to a tolerance elsewhere: the interpreter truncates it where hardware rounds
    options=options(dtypes=(torch.float32, torch.float64, torch.float16)),
)  # fmt: skip
def test_triton_gives_the_bits_of_the_reference(formula, n_pre, n_post, transposed, options):
    assert_same_bits(make_problem(formula, Dense(n_pre, n_post), transposed=transposed, **options), "triton")
    assert_same_bits(make_problem(formula, OneToOne(n_pre), **options), "triton")


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_weights_that_skip_memory_are_updated_where_they_are(backend):
    whole = torch.rand(20, 30)
    before = whole.clone()
    problem = make_problem(Formula.of(stdp), Dense(10, 10))
    expected = problem.weights.clone()
    whole[::2, ::3] = expected
    view = whole[::2, ::3]
    stepped(problem.replaced(weights=view), backend)
    assert torch.equal(view, run(problem, "reference").weights)
    untouched = torch.ones_like(whole, dtype=torch.bool)
    untouched[::2, ::3] = False
    assert torch.equal(whole[untouched], before[untouched])


@pytest.mark.parametrize("bound", BOUNDS)
@pytest.mark.parametrize("rule", RULES)
def test_the_reference_computes_the_formulas_of_the_papers(rule, bound):
    if rule not in ("stdp", "istdp", "rstdp") or bound not in ("soft_bound", "hard_bound", "no_bound"):
        pytest.skip("registered by another test")
    problem = make_problem(Formula.of(RULES[rule], BOUNDS[bound], BOUNDS[bound]), Dense(9, 11), dtype=torch.float64)
    w, (low, high) = problem.weights.clone(), problem.limits
    s, x, q, y = (signal.double() for signal in problem.signals.values())
    given = problem.parameters
    factor = {"soft_bound": (w - low) * (high - w), "hard_bound": ((w > low) & (w < high)).double()}.get(bound, 1.0)
    expected_c = None
    if rule == "istdp":
        inhibition = given["sign"] * torch.outer(s, given["alpha"] - y)
        expected = w + given["lr"] * factor * (inhibition + torch.outer(x, q))
    else:
        change = factor * (given["a_plus"] * torch.outer(x, q) - given["a_minus"] * torch.outer(s, y))
        expected = w + change
        if rule == "rstdp":
            expected_c = problem.c * (1 - 1 / given["tau_c"]) + change
            expected = w + expected_c * given["dopamine"]
    done = run(problem, "reference")
    torch.testing.assert_close(done.weights, expected, rtol=1e-12, atol=1e-12)
    if expected_c is not None:
        torch.testing.assert_close(done.c, expected_c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bound", [no_bound, POWER])
def test_the_reference_reads_every_signal_and_parameter_at_its_neuron(bound):
    problem = make_problem(Formula.of(TAGGED, bound), Dense(4, 5), dtype=torch.float64, rate=0.5, per_neuron=True)
    problem = problem.replaced(dopamine=per_post(torch.rand(5).double()))
    value = {**problem.signals, **{n: getattr(v, "values", v) for n, v in problem.parameters.items()}}
    sides = {name: getattr(v, "side", None) for name, v in problem.parameters.items()}
    assert sides["a2_minus"] == sides["a2_plus"] == "pre" and sides["a3_minus"] == sides["a3_plus"] == "post"
    done = run(problem, "reference")
    for i, j in product(range(4), range(5)):
        here = {name: v[i].item() for name, v in value.items() if name.startswith("pre") or sides.get(name) == "pre"}
        there = {name: v[j].item() for name, v in value.items() if name.startswith("post") or sides.get(name) == "post"}
        at = {**value, **here, **there}
        w, c, (low, high) = problem.weights[i, j].item(), problem.c[i, j].item(), problem.limits
        up = at["post_spike"] * at["pre_trace"] * (at["a2_plus"] + at["a3_plus"] * at["post_slow"])
        down = at["pre_spike"] * at["post_trace"] * (at["a2_minus"] + at["a3_minus"] * at["pre_slow"])
        dw = up * ((high - w) * (at["mu"] * w - low) if bound is POWER else 1) - down
        c = c - c / at["tau_tag"] + dw * (high - w)
        assert done.c[i, j].item() == pytest.approx(c, abs=1e-12)
        assert done.weights[i, j].item() == pytest.approx(w + c * at["dopamine"], abs=1e-12)


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
def test_a_clamp_clips_what_was_touched_and_nothing_else(backend):
    weights = torch.full((2, 2), 1.5)
    pre, post = torch.tensor([True, False]), torch.tensor([False, False])
    stdp_(weights, pre, torch.zeros(2), post, torch.zeros(2), a_plus=0.1, a_minus=0.1, clamp=True, backend=backend)
    assert weights.tolist() == [[1.0, 1.0], [1.5, 1.5]]


def test_a_dense_step_on_a_cpu_adds_no_full_size_temporary():
    n = 1000
    problem = make_problem(Formula.of(stdp, soft_bound, soft_bound), Dense(n, n), rate=0.02)
    run(problem, "cpu")
    with torch.profiler.profile(profile_memory=True) as profile:
        stepped(problem, "cpu")
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert allocated < 0.02 * problem.weights.nbytes


def test_two_threads_give_the_bits_of_one():
    threads = torch.get_num_threads()
    problem = make_problem(Formula.of(stdp, soft_bound, soft_bound), Dense(1100, 1000), rate=0.02)
    try:
        torch.set_num_threads(2)
        together = run(problem, "cpu")
        torch.set_num_threads(1)
        alone = run(problem, "cpu")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together.weights, alone.weights)
