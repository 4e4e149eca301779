"""Local steps: the same bits on every backend, and as CoNeX's own classes."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rules_of_their_own import POWER, SPIKES_ALONE, TAGGED, WEIGHTED
from support import stepped
from tritonstdp import Local2d
from tritonstdp.library import triplet
from tritonstdp.problems import make_problem
from tritonstdp.rules import BOUNDS, Formula, hard_bound, istdp, no_bound, rstdp, soft_bound, stdp

SQUARE = Local2d((2, 8, 9), (3, 6, 7), 3)
STRIDED = Local2d((3, 9, 7), (2, 5, 3), (3, 2), stride=2, padding=(1, 0))
POINTWISE = Local2d((3, 4, 5), (5, 4, 5), 1)
WIDE = Local2d((2, 4, 70), (3, 3, 35), (2, 3), stride=(1, 2), padding=(0, 1))
PADDED = Local2d((1, 7, 6), (4, 7, 6), (3, 5), padding=(1, 2))
CASES = [
    (Formula.of(stdp, soft_bound, soft_bound), SQUARE),
    (Formula.of(stdp, hard_bound, no_bound, True), STRIDED),
    (Formula.of(istdp), PADDED),
    (Formula.of(istdp, no_bound, soft_bound, True), POINTWISE),
    (Formula.of(rstdp, soft_bound, hard_bound), STRIDED),
    (Formula.of(rstdp, no_bound, soft_bound, True), PADDED),
    (Formula.of(triplet, POWER, soft_bound), PADDED),
    (Formula.of(TAGGED, hard_bound, POWER, True), STRIDED),
    (Formula.of(WEIGHTED, soft_bound, POWER), SQUARE),
    (Formula.of(SPIKES_ALONE), PADDED),
]
LARGER = [(Formula.of(rule, soft_bound, soft_bound), WIDE) for rule in (stdp, rstdp, triplet, TAGGED)]
RATES = [0.0, 0.05, 0.3, 1.0]


def run(problem, backend):
    done = problem.copy()
    stepped(done, backend)
    return done


def silenced(problem, rate):
    if rate == 0:
        problem.signals["pre_spike"].zero_(), problem.signals["post_spike"].zero_()
    return problem


def assert_same_bits(problem, backend):
    expected, got = run(problem, "reference"), run(problem, backend)
    for name, tensor in expected.outputs.items():
        assert torch.equal(got.outputs[name], tensor), name


@settings(max_examples=20, deadline=None)
@given(
    case=st.sampled_from(CASES + LARGER), rate=st.sampled_from(RATES),
    dopamine=st.sampled_from(["pre", "post"]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_compiled_loops_give_the_bits_of_the_reference(case, rate, dopamine, seed):
    per_neuron = case[1] in (PADDED, SQUARE)  # with each case either way, twice as many loops would be compiled
    problem = make_problem(*case, rate=rate, dopamine=dopamine, per_neuron=per_neuron, seed=seed)
    assert_same_bits(silenced(problem, rate), "cpu")


@pytest.mark.parametrize("case", [CASES[1], CASES[4], CASES[6]], ids=["stdp", "rstdp", "triplet"])
def test_compiled_loops_take_float_spikes_in_double_precision(case):
    for rate in RATES:
        assert_same_bits(make_problem(*case, rate=rate, dtype=torch.float64, float_spikes=True), "cpu")


@settings(max_examples=12, deadline=None)
@given(
    case=st.sampled_from(CASES), rate=st.sampled_from(RATES), float_spikes=st.booleans(),
    dopamine=st.sampled_from(["number", "scalar", "pre", "post"]), per_neuron=st.booleans(), seed=st.integers(0, 1000),
    # bfloat16 is proved to a tolerance elsewhere: the interpreter truncates it where hardware rounds
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16]),
)  # fmt: skip
def test_triton_gives_the_bits_of_the_reference(case, rate, float_spikes, dopamine, per_neuron, seed, dtype):
    options = {"float_spikes": float_spikes, "dopamine": dopamine, "per_neuron": per_neuron}
    problem = make_problem(*case, rate=rate, dtype=dtype, seed=seed, **options)
    assert_same_bits(silenced(problem, rate), "triton")


@pytest.mark.parametrize("topology", [SQUARE, STRIDED, POINTWISE, PADDED], ids=["square", "strided", "1x1", "padded"])
@pytest.mark.parametrize("rule", [stdp, istdp, rstdp], ids=lambda rule: rule.name)
def test_the_reference_pairs_each_position_with_its_window(rule, topology):
    problem = make_problem(Formula.of(rule, soft_bound, soft_bound), topology, dtype=torch.float64)
    done, (low, high) = run(problem, "reference").weights, problem.limits
    (kh, kw), (sh, sw), (pad_h, pad_w) = topology.kernel_size, topology.stride, topology.padding
    spikes, traces, post_spikes, post_traces = problem.signals.values()
    value = problem.parameters
    channels, height, width = topology.src_shape
    _, out_height, out_width = topology.dst_shape
    for o, u, v in itertools.product(*(range(n) for n in topology.dst_shape)):
        post = (o * out_height + u) * out_width + v
        q, y = post_spikes[post].item(), post_traces[post].item()
        for channel, i, j in itertools.product(range(channels), range(kh), range(kw)):
            row, column = u * sh - pad_h + i, v * sw - pad_w + j
            pre = (channel * height + row) * width + column
            inside = 0 <= row < height and 0 <= column < width
            s, x = (spikes[pre].item(), traces[pre].item()) if inside else (0, 0)
            at = o, u * out_width + v, (channel * kh + i) * kw + j
            w = problem.weights[at].item()
            bound = (w - low) * (high - w)
            if rule is istdp:
                expected = w + value["lr"] * bound * (s * (value["alpha"] - y) * value["sign"] + x * q)
            else:
                change = bound * (x * q * value["a_plus"] - s * y * value["a_minus"])
                expected = w + change
                if rule is rstdp:
                    c = problem.c[at].item()
                    expected = w + (c - c / value["tau_c"] + change) * value["dopamine"]
            assert done[at].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_a_clamp_clips_what_was_touched_and_nothing_else(backend):
    problem = make_problem(Formula.of(stdp, hard_bound, no_bound, True), STRIDED)
    problem.weights.fill_(3.0)
    silenced(problem, 0).signals["post_spike"][4] = True
    done = run(problem, backend).weights.view(-1, problem.weights.shape[-1])
    expected = torch.full_like(done, 3.0)
    expected[4] = problem.limits[1]
    assert torch.equal(done, expected)


@pytest.mark.parametrize("rewarded", [False, True], ids=["stdp", "rstdp"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_two_hundred_steps_end_where_conex_does(conex, rewarded, backend):
    learning = conex.behaviors.synapses.learning
    kind = learning.Local2dRSTDP if rewarded else learning.Local2dSTDP
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
    assert torch.equal(problem.weights, synapse.weights)


def conex_pair(kind, problem):
    """A CoNeX behavior and a synapse that hands it the signals of a problem."""
    behavior = kind.__new__(kind)
    behavior.a_plus, behavior.a_minus = problem.parameters["a_plus"], problem.parameters["a_minus"]
    behavior.w_min, behavior.w_max = problem.limits
    behavior.tau_c = problem.parameters.get("tau_c")
    behavior.p_bound = behavior.n_bound = BOUNDS["soft_bound"]
    behavior.def_dtype = problem.weights.dtype
    synapse = SimpleNamespace(
        weights=problem.weights.clone(), c=None if problem.c is None else problem.c.clone(),
        src_shape=problem.topology.src_shape, dst_shape=problem.topology.dst_shape,
        stride=problem.topology.stride, padding=problem.topology.padding,
        kernel_shape=problem.topology.kernel_size,
        network=SimpleNamespace(dopamine_concentration=problem.parameters.get("dopamine")),
    )  # fmt: skip
    order = "pre_spike", "post_spike", "pre_trace", "post_trace"
    behavior.get_spike_and_trace = lambda synapse: tuple(synapse.signals[name] for name in order)
    return synapse, behavior


def test_a_geometry_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="gives height and width"):
        Local2d((1, 8, 8), (4, 7, 6), 3)


def test_weights_of_another_shape_are_refused_before_anything_changes():
    problem = make_problem(*CASES[0])
    weights = torch.ones(3, 42, 17)
    with pytest.raises(ValueError, match="weights has shape"):
        stepped(problem.replaced(weights=weights))
    assert torch.equal(weights, torch.ones(3, 42, 17))
