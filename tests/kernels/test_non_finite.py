"""Infinities, NaN and signed zeros: every backend does what the reference does, and silent neurons do nothing."""

from math import inf, nan

import pytest
import torch

from rules_of_their_own import RULES_OF_TESTS, TELLING
from support import random_sparse, with_tensors
from tritonstdp.choice import choose
from tritonstdp.inspection import gpu_module
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.kernels import reference
from tritonstdp.problems import make_problem
from tritonstdp.registry import meeting_of
from tritonstdp.rules import RULES, Formula, hard_bound, no_bound, soft_bound
from tritonstdp.topology import TOPOLOGIES, Conv2d, Dense, Local2d, OneToOne

BACKENDS = ("triton", "cpu")
GROUPS = {
    "dense": Dense(7, 11),
    "one_to_one": OneToOne(43),
    "sparse": random_sparse(9, 13, 0.4),
    "conv2d": Conv2d((2, 7, 6), (3, 4, 5), (3, 2), (2, 1), (1, 0)),
    "local2d": Local2d((1, 3, 3), (2, 2, 2), (3, 2), (2, 1), (1, 0)),
}
FORMULAS = {
    "soft": (soft_bound, soft_bound, False),
    "soft-hard-clamp": (soft_bound, hard_bound, True),
    "none-clamp": (no_bound, no_bound, True),
    "hard-none": (hard_bound, no_bound, False),
}
EVERY_RULE = RULES | RULES_OF_TESTS
CASES = [
    *(("triton", rule, "soft-hard-clamp") for rule in EVERY_RULE),
    *(("triton", rule, bounds) for rule in TELLING for bounds in FORMULAS if bounds != "soft-hard-clamp"),
    *(("cpu", rule, "soft-hard-clamp") for rule in TELLING),
]
"""Triton is interpreted; loops take seconds each to compile."""
ELEMENTWISE = ("dense", "one_to_one", "sparse", "local2d")
BUILD = {
    "reference": lambda problem: reference.build(meeting_of(problem.topology.name), problem.case),
    "triton": lambda problem: gpu_module(problem.topology.name).build(problem.case),
}

topologies = pytest.mark.parametrize("topology", TOPOLOGIES)
rules = pytest.mark.parametrize("rule", RULES)
telling_rules = pytest.mark.parametrize("rule", TELLING)
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True, scope="module")
def _swift():
    with swift_interpreter():
        yield


def scattered(tensor, *values):
    """The tensor with each value at every fifth place; its strides stay."""
    places = torch.arange(tensor.numel()).view(tensor.shape) % 5
    for k, value in enumerate(values):
        tensor = tensor.masked_fill(places == k, value)
    return tensor


def with_weights(problem):
    return {"weights": scattered(problem.weights, nan, inf, -inf, -0.0)}


def with_traces(problem, silent, spiking):
    """Values for the traces of the first silent and of the first spiking neuron of either side."""
    changes, rule = {}, problem.formula.rule
    for spike, *traces in (rule.pre, rule.post):
        spikes = problem.signals[spike] != 0
        for name in traces:
            trace = problem.signals[name].clone()
            trace[spikes.int().argmin()], trace[spikes.int().argmax()] = silent, spiking
            changes[name] = trace
    return changes


def with_eligibility(problem):
    return {} if problem.c is None else {"c": scattered(problem.c, nan, inf, -inf, -0.0)}


EXTREMES = {
    "weights": with_weights,
    "an infinite trace, silent": lambda problem: with_traces(problem, inf, 0.5),
    "an infinite trace, spiking": lambda problem: with_traces(problem, -inf, inf),
    "nan traces": lambda problem: with_traces(problem, nan, nan),
    "no limits": lambda problem: {"limits": (-inf, inf), **with_weights(problem)},
    "no upper limit": lambda problem: {"limits": (0.0, inf), **with_weights(problem)},
}
MODULATED = {
    "nan dopamine": lambda problem: {"dopamine": nan},
    "infinite dopamine": lambda problem: {"dopamine": -inf, **with_weights(problem)},
    "eligibility": with_eligibility,
}


def extremes(problem):
    """The problem with each kind of value that is not finite, and the kind's name."""
    kinds = EXTREMES if problem.c is None else EXTREMES | MODULATED
    return [(kind, problem.replaced(**change(problem))) for kind, change in kinds.items()]


def run(problem, backend):
    return problem.copy().run(choose(problem.case, backend).step)


def silenced(problem, *sides):
    spikes = [f"{side}_spike" for side in sides]
    return problem.replaced(**{name: torch.zeros_like(problem.signals[name]) for name in spikes})


def spikes_of(problem):
    return problem.signals["pre_spike"].float(), problem.signals["post_spike"].float()


def formula_of(rule, bounds):
    return Formula.of(EVERY_RULE[rule], *FORMULAS[bounds])


def assert_same(got, expected, case):
    # conv2d sums in another order
    tolerance = 1e-6 if got.topology.name == "conv2d" else 0.0
    for name, tensor in expected.outputs.items():
        torch.testing.assert_close(
            got.outputs[name], tensor, rtol=tolerance, atol=tolerance, equal_nan=True,
            msg=lambda difference: f"{case}, {name}: {difference}",  # noqa: B023
        )  # fmt: skip


def assert_bits(tensor, expected, case):
    assert torch.equal(tensor.contiguous().view(torch.int32), expected.contiguous().view(torch.int32)), case


@pytest.mark.parametrize(("backend", "rule", "bounds"), CASES)
@topologies
def test_a_value_that_is_not_finite_does_what_the_reference_says(topology, rule, bounds, backend):
    problem = make_problem(formula_of(rule, bounds), GROUPS[topology])
    for case, changed in extremes(problem):
        assert_same(run(changed, backend), run(changed, "reference"), case)


@pytest.mark.parametrize("transposed", [False, True])
@telling_rules
def test_dense_weights_of_either_layout_meet_what_is_not_finite_alike(rule, transposed):
    options = {"transposed": transposed, "float_spikes": True, "dopamine": "post", "per_neuron": True}
    for dtype in (torch.float32, torch.float64, torch.float16):
        problem = make_problem(formula_of(rule, "soft-hard-clamp"), GROUPS["dense"], dtype=dtype, **options)
        for case, changed in extremes(problem):
            assert_same(run(changed, "triton"), run(changed, "reference"), case)


@pytest.mark.parametrize("bounds", ["soft", "soft-hard-clamp"])
@pytest.mark.parametrize("backend", ("reference", *BACKENDS))
@pytest.mark.parametrize("topology", ELEMENTWISE)
def test_the_weight_of_a_silent_synapse_keeps_its_bits(topology, backend, bounds):
    if backend == "cpu" and bounds != "soft-hard-clamp":
        pytest.skip("compiled for one of the formulas")
    problem = make_problem(formula_of("stdp", bounds), GROUPS[topology], rate=0.1)
    silent = ~meeting_of(topology).touched(problem.topology, *spikes_of(problem))
    assert silent.any()
    silent = silent.expand(problem.weights.shape)
    for case, changed in extremes(problem):
        assert_bits(run(changed, backend).weights[silent], changed.weights[silent], case)


def pole(w, w_min, w_max):
    return 1 / (w_max - w)


@backends
@pytest.mark.parametrize("topology", ELEMENTWISE)
def test_an_infinite_bound_reaches_only_what_its_neuron_s_spikes_change(topology, backend):
    problem = make_problem(Formula.of(RULES["stdp"], pole, soft_bound), GROUPS[topology], rate=0.4)
    problem = problem.replaced(weights=scattered(problem.weights, problem.limits[1]))
    expected = run(problem, "reference")
    assert_same(run(problem, backend), expected, "pole")
    wild = expected.weights.isinf()
    post = meeting_of(topology).at_post(problem.topology, problem.signals["post_spike"])
    assert wild.any() and not (wild & ~post).any()


@pytest.mark.parametrize("side", ["pre", "post"])
@pytest.mark.parametrize("backend", ("reference", *BACKENDS))
@telling_rules
@topologies
def test_a_trace_that_no_spike_reads_does_not_matter(topology, rule, backend, side):
    """Of either side, the trace is read by the spikes of the other."""
    problem = make_problem(formula_of(rule, "soft-hard-clamp"), GROUPS[topology])
    own = problem.formula.signatures[f"on_{side}"].reads
    if f"{side}_trace" not in problem.signals or f"{side}_trace" in own:
        pytest.skip("the rule reads none, or by spikes of its own side as well")
    problem = silenced(problem, "post" if side == "pre" else "pre")
    expected = run(problem, backend)
    for value in (nan, inf):
        trace = {f"{side}_trace": torch.full_like(problem.signals[f"{side}_trace"], value)}
        assert_same(run(problem.replaced(**trace), backend), expected, value)


@rules
def test_a_convolution_sums_an_infinite_trace_only_where_it_is_read(rule):
    problem = make_problem(formula_of(rule, "hard-none"), GROUPS["conv2d"])
    fired = torch.zeros(problem.topology.dst_shape, dtype=torch.bool)
    fired[0, 2, 3] = fired[1, 0, 0] = True
    trace = problem.signals["pre_trace"].view(problem.topology.src_shape).clone()
    trace[0, 3, 3] = inf  # the first map's patch at (2, 3) covers rows 3 to 5 and columns 3 to 4
    changed = silenced(problem, "pre").replaced(pre_trace=trace.view(-1), post_spike=fired.view(-1))
    for backend in ("reference", "triton"):
        wild = ~run(changed, backend).weights.isfinite()
        assert wild.nonzero().tolist() == [[0, 0, 0, 0]], backend


class TestReference:
    """What the reference promises, held against the formula written out synapse by synapse."""

    def test_terms_of_silent_neurons_do_not_exist(self):
        problem = make_problem(Formula.of(RULES["stdp"], no_bound, soft_bound), Dense(6, 7), dtype=torch.float64)
        signals = problem.signals
        signals["pre_trace"][::2], signals["post_trace"][::3] = inf, nan
        problem.weights[2] = nan
        a_plus, a_minus = problem.parameters.values()
        low, high = problem.limits
        got = run(problem, "reference").weights
        for i in range(6):
            for j in range(7):
                w = problem.weights[i, j].item()
                s, q = bool(signals["pre_spike"][i]), bool(signals["post_spike"][j])
                potentiation = signals["pre_trace"][i].item() * a_plus if q else 0.0
                depression = signals["post_trace"][j].item() * a_minus * ((w - low) * (high - w)) if s else 0.0
                expected = w + (potentiation - depression) if s or q else w
                torch.testing.assert_close(got[i, j].item(), expected, equal_nan=True)

    @pytest.mark.parametrize("rule", ["stdp", "rstdp", "tagged"])
    @topologies
    def test_a_step_records_no_history(self, topology, rule):
        problem = make_problem(formula_of(rule, "soft"), GROUPS[topology], per_neuron=True)
        for name, tensor in problem.tensors.items():
            tensor.requires_grad_(name not in problem.outputs and tensor.is_floating_point())
        for tensor in run(problem, "reference").outputs.values():
            assert tensor.grad_fn is None and not tensor.requires_grad

    @telling_rules
    @topologies
    def test_signals_may_have_any_strides(self, topology, rule):
        problem = make_problem(formula_of(rule, "soft"), GROUPS[topology], per_neuron=True)
        read = {name: tensor for name, tensor in problem.tensors.items() if name not in problem.outputs}
        spread = with_tensors(problem, {name: torch.stack([tensor] * 2, 1)[:, 0] for name, tensor in read.items()})
        assert_same(run(spread, "reference"), run(problem, "reference"), "strides")

    @pytest.mark.parametrize("backend", ["reference", "triton"])
    @telling_rules
    @topologies
    def test_the_default_device_does_not_matter(self, topology, rule, backend):
        problem = make_problem(formula_of(rule, "soft-hard-clamp"), GROUPS[topology], per_neuron=True)
        expected = run(problem, backend)
        result = problem.copy()
        torch.set_default_device("meta")
        try:
            step = BUILD[backend](problem)
            result.run(step)
        finally:
            torch.set_default_device(None)
        assert_same(result, expected, "meta")
