"""Convolutional steps: every backend sums the same contributions, and CoNeX's own class agrees."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonstdp import Conv2d
from tritonstdp.functional import step_
from tritonstdp.problems import make_problem
from tritonstdp.registry import choose
from tritonstdp.rules import BOUNDS, Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp

SQUARE = Conv2d((2, 8, 9), (3, 6, 7), 3)
STRIDED = Conv2d((3, 9, 7), (2, 5, 3), (3, 2), stride=2, padding=(1, 0))
POINTWISE = Conv2d((3, 4, 5), (5, 4, 5), 1)
WIDE = Conv2d((2, 4, 70), (3, 3, 35), (2, 3), stride=(1, 2), padding=(0, 1))
PADDED = Conv2d((1, 7, 6), (4, 7, 6), (3, 5), padding=(1, 2))
DIVIDED = Conv2d((2, 8, 9), (3, 6, 7), 3, divisor=1000)
MULTIPLIED = Conv2d((2, 8, 9), (3, 6, 7), 3, divisor=-0.75)
CASES = [
    (Formula.of(stdp, soft_bound, soft_bound), SQUARE),
    (Formula.of(stdp, hard_bound, no_bound, True), STRIDED),
    (Formula.of(istdp), PADDED),
    (Formula.of(istdp, no_bound, soft_bound, True), POINTWISE),
    (Formula.of(rstdp, soft_bound, hard_bound), STRIDED),
    (Formula.of(rstdp, no_bound, soft_bound, True), PADDED),
    (Formula.of(rstdp, soft_bound, soft_bound), DIVIDED),
    (Formula.of(stdp, soft_bound, soft_bound), MULTIPLIED),
]
LARGER = [(Formula.of(rule, soft_bound, soft_bound), WIDE) for rule in (stdp, rstdp)]
RATES = [0.0, 0.05, 0.3, 1.0]


def run(problem, backend):
    done = problem.copy()
    step_(
        done.formula, done.topology, done.weights, done.pre_spike, done.pre_trace, done.post_spike, done.post_trace,
        done.parameters, *done.limits, done.c, done.decay, done.dopamine, backend,
    )  # fmt: skip
    return done


def silenced(problem, rate):
    if rate == 0:
        problem.pre_spike.zero_(), problem.post_spike.zero_()
    return problem


def assert_close(problem, backend, tolerance):
    expected, got = run(problem, "reference"), run(problem, backend)
    for name, tensor in expected.outputs.items():
        torch.testing.assert_close(got.outputs[name], tensor, rtol=tolerance, atol=tolerance / 10, msg=name)


@settings(max_examples=40, deadline=None)
@given(case=st.sampled_from(CASES + LARGER), rate=st.sampled_from(RATES), seed=st.integers(0, 1000))
def test_compiled_loops_agree_with_the_reference(case, rate, seed):
    assert_close(silenced(make_problem(*case, rate=rate, seed=seed), rate), "cpu", 1e-6)


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=["stdp", "rstdp"])
def test_compiled_loops_take_float_spikes_in_double_precision(case):
    for rate in RATES:
        assert_close(make_problem(*case, rate=rate, dtype=torch.float64, float_spikes=True), "cpu", 1e-13)


@settings(max_examples=12, deadline=None)
@given(
    case=st.sampled_from(CASES), rate=st.sampled_from(RATES), float_spikes=st.booleans(),
    dopamine=st.sampled_from(["number", "scalar"]), seed=st.integers(0, 1000),
    dtype_and_tolerance=st.sampled_from(
        # Triton's interpreter truncates to bfloat16 where hardware rounds
        [(torch.float32, 1e-6), (torch.float64, 1e-13), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
    ),
)  # fmt: skip
def test_triton_agrees_with_the_reference(case, rate, float_spikes, dopamine, seed, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    problem = make_problem(*case, rate=rate, dtype=dtype, float_spikes=float_spikes, dopamine=dopamine, seed=seed)
    assert_close(silenced(problem, rate), "triton", tolerance)


@pytest.mark.parametrize(
    "topology",
    [SQUARE, STRIDED, POINTWISE, PADDED, DIVIDED, MULTIPLIED],
    ids=["square", "strided", "1x1", "padded", "divisor 1000", "divisor -0.75"],
)
@pytest.mark.parametrize("rule", [stdp, istdp, rstdp], ids=lambda rule: rule.name)
def test_the_reference_is_a_weight_gradient_over_the_weight_divisor(rule, topology):
    problem = make_problem(Formula.of(rule, soft_bound, soft_bound), topology, dtype=torch.float64)
    w, (low, high) = problem.weights, problem.limits

    def summed(pre, post):
        return torch.nn.grad.conv2d_weight(
            pre.double().view(1, *topology.src_shape), w.shape, post.double().view(1, *topology.dst_shape),
            topology.stride, topology.padding,
        )  # fmt: skip

    bound = (w - low) * (high - w) / topology.weight_divisor
    potentiation = summed(problem.pre_trace, problem.post_spike) * bound
    if rule is istdp:
        lr, alpha, sign = problem.parameters
        depression = summed(problem.pre_spike, (alpha - problem.post_trace) * sign) * bound
        expected = w + lr * (depression + potentiation)
    else:
        a_plus, a_minus = problem.parameters
        change = potentiation * a_plus - summed(problem.pre_spike, problem.post_trace) * bound * a_minus
        expected = w + change
        if rule is rstdp:
            expected = w + (problem.c * (1 - 1 / problem.decay[0]) + change) * problem.dopamine
    torch.testing.assert_close(run(problem, "reference").weights, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_a_clamp_clips_every_weight(backend):
    problem = make_problem(Formula.of(stdp, hard_bound, no_bound, True), STRIDED)
    problem.weights[0, 0, 0, 0] = 3.0
    problem.pre_spike.zero_(), problem.post_spike.zero_()
    assert run(problem, backend).weights[0, 0, 0, 0] == torch.tensor(problem.limits[1])


@pytest.mark.parametrize("rewarded", [False, True], ids=["stdp", "rstdp"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_two_hundred_steps_end_where_conex_does(conex, rewarded, backend):
    learning = conex.behaviors.synapses.learning
    kind = learning.Conv2dRSTDP if rewarded else learning.Conv2dSTDP
    problem = make_problem(Formula.of(rstdp if rewarded else stdp, soft_bound, soft_bound), SQUARE)
    problem.weights.clamp_(*problem.limits)
    problem = replace(problem, dopamine=0.01)  # reward at every step lets weights explode where it is large
    synapse, behavior = conex_pair(kind, problem)
    for seed in range(200):
        signals = make_problem(problem.formula, SQUARE, seed=seed, rate=0.1)
        synapse.signals = signals
        behavior.forward(synapse)
        step_(
            problem.formula, SQUARE, problem.weights, signals.pre_spike, signals.pre_trace, signals.post_spike,
            signals.post_trace, problem.parameters, *problem.limits, problem.c, problem.decay, problem.dopamine,
            backend,
        )  # fmt: skip
    assert problem.weights.isfinite().all()
    torch.testing.assert_close(problem.weights, synapse.weights, rtol=1e-6, atol=1e-7)


def conex_pair(kind, problem):
    """A CoNeX behavior and a synapse that hands it the signals of a problem."""
    behavior = kind.__new__(kind)
    behavior.a_plus, behavior.a_minus = problem.parameters
    behavior.w_min, behavior.w_max = problem.limits
    behavior.tau_c = problem.decay[0] if problem.decay else None
    behavior.p_bound = behavior.n_bound = BOUNDS["soft_bound"]
    behavior.def_dtype = problem.weights.dtype
    behavior.weight_divisor = problem.topology.weight_divisor
    synapse = SimpleNamespace(
        weights=problem.weights.clone(), c=None if problem.c is None else problem.c.clone(),
        src_shape=problem.topology.src_shape, dst_shape=problem.topology.dst_shape,
        stride=problem.topology.stride, padding=problem.topology.padding,
        network=SimpleNamespace(dopamine_concentration=problem.dopamine),
    )  # fmt: skip
    behavior.get_spike_and_trace = lambda synapse: (
        synapse.signals.pre_spike, synapse.signals.post_spike, synapse.signals.pre_trace, synapse.signals.post_trace,
    )  # fmt: skip
    return synapse, behavior


def resident_bytes(which):
    """The memory that the process has now ("VmRSS"), or had at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read as Linux tells it")
def test_a_step_needs_less_than_four_times_the_memory_of_its_weights():
    formula = Formula.of(stdp, soft_bound, soft_bound)
    run(make_problem(formula, Conv2d((1, 6, 6), (1, 2, 2), 5)), "cpu")  # compiled, without much memory
    problem = make_problem(formula, Conv2d((512, 6, 6), (512, 2, 2), 5), rate=1.0)
    step = choose(problem.case, "cpu").step
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is there now
    before = resident_bytes("VmRSS")
    problem.run(step)
    needed = resident_bytes("VmHWM") - before
    assert 0 < needed <= 4 * problem.weights.nbytes


def test_triton_keeps_its_sums_after_the_first_step(monkeypatch):
    problem = make_problem(*CASES[4])
    expected = run(problem, "triton")

    def refuse(*args, **kwargs):
        raise AssertionError("allocates")

    monkeypatch.setattr(torch, "empty", refuse)
    assert torch.equal(run(problem, "triton").weights, expected.weights)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (((1, 8, 8), (4, 7, 6), 3), r"gives height and width \(6, 6\)"),
        (((1, 8, 8), (4, 6, 6), 3, 2), "does not fit"),
        (((1, 2, 2), (4, 0, 0), 3), "at least 1"),
        (((1, 8, 8), (4, 6, 6), 3, 0), "at least 1"),
        (((0, 8, 8), (4, 6, 6), 3), "at least 1"),
        (((1, 8, 8), (4, 4, 4), 3, 1, -1), "padding"),
        (((8, 8), (6, 6), 3), "channels, height, width"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(geometry, message):
    with pytest.raises(ValueError, match=message):
        Conv2d(*geometry)


def test_weights_of_another_shape_are_refused_before_anything_changes():
    problem = make_problem(*CASES[0])
    weights = torch.ones(3, 2, 3, 4)
    with pytest.raises(ValueError, match="weights has shape"):
        step_(
            problem.formula, SQUARE, weights, problem.pre_spike, problem.pre_trace, problem.post_spike,
            problem.post_trace, problem.parameters,
        )  # fmt: skip
    assert torch.equal(weights, torch.ones(3, 2, 3, 4))
