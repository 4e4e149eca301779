"""Convolutional steps: every backend sums the same contributions, and CoNeX's own class agrees."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rules_of_their_own import POWER, SPIKES_ALONE, TAGGED, WEIGHTED
from support import stepped
from tritonstdp import Conv2d
from tritonstdp.choice import choose
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.rules import BOUNDS, Formula, Rule, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp


def of_one_side(post_spike, post_trace, w):
    return post_spike * (post_trace - w)


ONE_SIDED = Rule("one_sided", SPIKES_ALONE.on_pre, of_one_side)
"""A contribution that reads nothing of the neurons that its spike meets."""

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
    (Formula.of(triplet, POWER, soft_bound), PADDED),
    (Formula.of(TAGGED, hard_bound, POWER, True), STRIDED),
    (Formula.of(WEIGHTED, soft_bound, POWER), SQUARE),
    (Formula.of(SPIKES_ALONE), PADDED),
    (Formula.of(ONE_SIDED), STRIDED),
]
LARGER = [(Formula.of(rule, soft_bound, soft_bound), WIDE) for rule in (stdp, rstdp, triplet, WEIGHTED)]
RATES = [0.0, 0.05, 0.3, 1.0]


def run(problem, backend):
    done = problem.copy()
    stepped(done, backend)
    return done


def silenced(problem, rate):
    if rate == 0:
        problem.signals["pre_spike"].zero_(), problem.signals["post_spike"].zero_()
    return problem


def assert_close(problem, backend, tolerance):
    """Within the rounding of a sum, which is as large as what was summed (here about 1), however small what is left."""
    expected, got = run(problem, "reference"), run(problem, backend)
    for name, tensor in expected.outputs.items():
        torch.testing.assert_close(got.outputs[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


@settings(max_examples=24, deadline=None)
@given(case=st.sampled_from(CASES + LARGER), rate=st.sampled_from(RATES), seed=st.integers(0, 1000))
def test_compiled_loops_agree_with_the_reference(case, rate, seed):
    per_neuron = case[1] in (PADDED, SQUARE)  # with each case either way, twice as many loops would be compiled
    assert_close(silenced(make_problem(*case, rate=rate, per_neuron=per_neuron, seed=seed), rate), "cpu", 1e-6)


@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[8]], ids=["stdp", "rstdp", "triplet"])
def test_compiled_loops_take_float_spikes_in_double_precision(case):
    for rate in RATES:
        assert_close(make_problem(*case, rate=rate, dtype=torch.float64, float_spikes=True), "cpu", 1e-13)


@settings(max_examples=20, deadline=None)
@given(
    case=st.sampled_from(CASES), rate=st.sampled_from(RATES), float_spikes=st.booleans(),
    dopamine=st.sampled_from(["number", "scalar"]), per_neuron=st.booleans(), seed=st.integers(0, 1000),
    dtype_and_tolerance=st.sampled_from(
        # Triton's interpreter truncates to bfloat16 where hardware rounds
        [(torch.float32, 1e-6), (torch.float64, 1e-13), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
    ),
)  # fmt: skip
def test_triton_agrees_with_the_reference(case, rate, float_spikes, dopamine, per_neuron, seed, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    options = {"float_spikes": float_spikes, "dopamine": dopamine, "per_neuron": per_neuron}
    problem = make_problem(*case, rate=rate, dtype=dtype, seed=seed, **options)
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
    s, x, q, y = problem.signals.values()
    value = problem.parameters

    def summed(pre, post):
        return torch.nn.grad.conv2d_weight(
            pre.double().view(1, *topology.src_shape), w.shape, post.double().view(1, *topology.dst_shape),
            topology.stride, topology.padding,
        )  # fmt: skip

    bound = (w - low) * (high - w) / topology.weight_divisor
    potentiation = summed(x, q) * bound
    if rule is istdp:
        depression = summed(s, (value["alpha"] - y) * value["sign"]) * bound
        expected = w + value["lr"] * (depression + potentiation)
    else:
        change = potentiation * value["a_plus"] - summed(s, y) * bound * value["a_minus"]
        expected = w + change
        if rule is rstdp:
            expected = w + (problem.c * (1 - 1 / value["tau_c"]) + change) * value["dopamine"]
    torch.testing.assert_close(run(problem, "reference").weights, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_a_clamp_clips_every_weight(backend):
    problem = make_problem(Formula.of(stdp, hard_bound, no_bound, True), STRIDED)
    problem.weights[0, 0, 0, 0] = 3.0
    assert run(silenced(problem, 0), backend).weights[0, 0, 0, 0] == torch.tensor(problem.limits[1])


@pytest.mark.parametrize("rewarded", [False, True], ids=["stdp", "rstdp"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_two_hundred_steps_end_where_conex_does(conex, rewarded, backend):
    learning = conex.behaviors.synapses.learning
    kind = learning.Conv2dRSTDP if rewarded else learning.Conv2dSTDP
    problem = make_problem(Formula.of(rstdp if rewarded else stdp, soft_bound, soft_bound), SQUARE)
    problem.weights.clamp_(*problem.limits)
    if rewarded:
        problem = problem.replaced(dopamine=0.01)  # reward at every step lets weights explode where it is large
    synapse, behavior = conex_pair(kind, problem)
    for seed in range(200):
        synapse.signals = make_problem(problem.formula, SQUARE, seed=seed, rate=0.1).signals
        behavior.forward(synapse)
        stepped(problem.replaced(**synapse.signals), backend)
    assert problem.weights.isfinite().all()
    torch.testing.assert_close(problem.weights, synapse.weights, rtol=1e-6, atol=1e-7)


def conex_pair(kind, problem):
    """A CoNeX behavior and a synapse that hands it the signals of a problem."""
    behavior = kind.__new__(kind)
    behavior.a_plus, behavior.a_minus = problem.parameters["a_plus"], problem.parameters["a_minus"]
    behavior.w_min, behavior.w_max = problem.limits
    behavior.tau_c = problem.parameters.get("tau_c")
    behavior.p_bound = behavior.n_bound = BOUNDS["soft_bound"]
    behavior.def_dtype = problem.weights.dtype
    behavior.weight_divisor = problem.topology.weight_divisor
    synapse = SimpleNamespace(
        weights=problem.weights.clone(), c=None if problem.c is None else problem.c.clone(),
        src_shape=problem.topology.src_shape, dst_shape=problem.topology.dst_shape,
        stride=problem.topology.stride, padding=problem.topology.padding,
        network=SimpleNamespace(dopamine_concentration=problem.parameters.get("dopamine")),
    )  # fmt: skip
    order = "pre_spike", "post_spike", "pre_trace", "post_trace"
    behavior.get_spike_and_trace = lambda synapse: tuple(synapse.signals[name] for name in order)
    return synapse, behavior


def resident_bytes(which):
    """The memory that the process has now ("VmRSS"), or had at most ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read as Linux tells it")
@pytest.mark.parametrize(
    ("rule", "most"), [(stdp, 4), (triplet, 4), (WEIGHTED, 6)], ids=lambda r: getattr(r, "name", r)
)
def test_a_step_needs_memory_in_proportion_to_its_weights(rule, most):
    formula = Formula.of(rule, soft_bound, soft_bound)
    run(make_problem(formula, Conv2d((1, 6, 6), (1, 2, 2), 5)), "cpu")  # compiled, without much memory
    problem = make_problem(formula, Conv2d((512, 6, 6), (512, 2, 2), 5), rate=1.0)
    step = choose(problem.case, "cpu").step
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is there now
    before = resident_bytes("VmRSS")
    problem.run(step)
    needed = resident_bytes("VmHWM") - before
    assert 0 < needed <= most * problem.weights.nbytes


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
        stepped(problem.replaced(weights=weights))
    assert torch.equal(weights, torch.ones(3, 2, 3, 4))
