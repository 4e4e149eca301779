"""Every option of a step and every attribute of a behavior does the same on every backend.

What there is to vary is read off the functions, topologies and behaviors themselves: an option that is added and has no
values here fails the tests named "is_varied".
"""

import inspect
import itertools

import pytest
import torch

import tritonstdp as ts
import tritonstdp.behaviors as ours
from support import SMALL, as_weights, side_by_side, values_of
from tritonstdp.functional import istdp_, rstdp_, stdp_, step_, trace_, update_
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.problems import make_problem, random_sparse
from tritonstdp.rules import BOUNDS, RULES, Formula, hard_bound, lower_bound, no_bound, soft_bound, upper_bound
from tritonstdp.topology import TOPOLOGIES

KERNELS = ("cpu", "triton")

TOPOLOGY_VARIANTS = {
    "dense": [ts.Dense(7, 5), ts.Dense(1, 1), ts.Dense(0, 3), ts.Dense(66, 130)],
    "one_to_one": [ts.OneToOne(9), ts.OneToOne(1), ts.OneToOne(0), ts.OneToOne(1100)],
    "sparse": [
        random_sparse(70, 9, 0.3),
        random_sparse(9, 70, 0.3, torch.sparse_csr),
        random_sparse(12, 10, 0.2, torch.sparse_coo),
        random_sparse(4, 3, 0.0),
    ],
    "conv2d": [
        ts.Conv2d((2, 5, 4), (3, 3, 3), (3, 2)),
        ts.Conv2d((1, 1, 70), (2, 2, 35), (2, 3), stride=(1, 2), padding=(1, 1), divisor=7.5),
        ts.Conv2d((3, 9, 7), (2, 2, 2), (2, 2), stride=(5, 4), padding=(0, 1), divisor=-3),
        ts.Conv2d((1, 4, 3), (1, 1, 1), (4, 3)),
    ],
    "local2d": [
        ts.Local2d((2, 5, 4), (3, 3, 3), (3, 2)),
        ts.Local2d((1, 1, 70), (2, 2, 35), (2, 3), stride=(1, 2), padding=(1, 1)),
        ts.Local2d((3, 9, 7), (2, 2, 2), (2, 2), stride=(5, 4), padding=(0, 1)),
        ts.Local2d((1, 4, 3), (1, 1, 1), (4, 3)),
        ts.Local2d((2, 1, 9), (2, 1, 7), (1, 3)),
    ],
}
FORMULAS = [
    Formula.of(RULES["stdp"], soft_bound, hard_bound),
    Formula.of(RULES["stdp"], upper_bound, lower_bound, True),
    Formula.of(RULES["istdp"], no_bound, soft_bound, True),
    Formula.of(RULES["rstdp"], hard_bound, upper_bound),
    Formula.of(RULES["rstdp"], lower_bound, no_bound, True),
]
"""Each rule, and each bound on each side, with and without a clamp."""

OPTIONS = {
    "w_min": [0.3, -float("inf"), torch.tensor(0.2), "per weight"],
    "w_max": [0.6, float("inf"), torch.tensor(0.7), "per weight"],
    "c": ["transposed"],
    "dopamine": [-0.7, torch.tensor(0.4), "per column", "per weight"],
    "weights": ["transposed", "strided"],
    "pre_spike": ["values", "integers", "strided"],
    "post_spike": ["values", "integers", "strided"],
    "pre_trace": ["strided", "zero"],
    "post_trace": ["strided", "zero"],
    "parameters": [0.9, torch.tensor(0.25), "per weight"],
}
FORMULA_OPTIONS = ("rule", "positive_bound", "negative_bound", "clamp")
ELSEWHERE = {
    "topology": "TOPOLOGY_VARIANTS",
    "backend": "every test here",
    "autotune": "changes how fast a step is, and nothing else (test_autotune.py)",
}


def strided(tensor):
    """The same numbers, with gaps between them."""
    return torch.stack([tensor, torch.full_like(tensor, 7)], -1)[..., 0]


def varied(problem, option, value):
    """The arguments of a step with one of them changed."""
    given = {
        name: getattr(problem, name)
        for name in ("weights", "pre_spike", "pre_trace", "post_spike", "post_trace", "c", "dopamine")
    }
    given |= {"w_min": problem.limits[0], "w_max": problem.limits[1], "parameters": problem.parameters}
    old = given[option]
    if value == "per weight":
        value = 0.05 + 0.9 * torch.rand(problem.topology.weights_shape, generator=torch.Generator().manual_seed(3))
    elif value == "per column":
        value = torch.linspace(-1, 1, problem.topology.post_shape[0])
    elif value == "transposed":
        value = old.transpose(0, -1).contiguous().transpose(0, -1)
    elif isinstance(value, str):
        value = {
            "strided": strided,
            "values": lambda t: t * torch.linspace(0.5, 2, t.numel()),
            "integers": lambda t: 2 * t.to(torch.int32),
            "zero": torch.zeros_like,
        }[value](old)
    if option == "parameters":
        value = (value, *old[1:])
    return given | {option: value}


def step(problem, given, backend):
    given = {name: v.clone() if name in ("weights", "c") and v is not None else v for name, v in given.items()}
    weights = as_weights(problem.topology, given["weights"])
    choice = step_(
        problem.formula, problem.topology, weights, given["pre_spike"], given["pre_trace"],
        given["post_spike"], given["post_trace"], given["parameters"], given["w_min"], given["w_max"],
        given["c"], problem.decay, given["dopamine"], backend,
    )  # fmt: skip
    return choice.backend, given["weights"], given["c"]


def assert_alike(problem, given, backend):
    """A kernel gives the reference's result; where it does not take the case, the default choice does."""
    _, expected, expected_c = step(problem, given, "reference")
    try:
        _, found, found_c = step(problem, given, backend)
    except ValueError as error:
        assert "can't take this case" in str(error)
        _, found, found_c = step(problem, given, None)
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if problem.topology.name == "conv2d" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found, expected, equal_nan=True, **tolerance)
    if found_c is not None:
        torch.testing.assert_close(found_c, expected_c, equal_nan=True, **tolerance)


def in_turns(topology):
    """Each variant of a topology and each formula at least once, together in turns: compiling takes seconds."""
    variants = TOPOLOGY_VARIANTS[topology]
    n = max(len(variants), len(FORMULAS))
    return list(itertools.islice(zip(itertools.cycle(variants), itertools.cycle(FORMULAS), strict=False), n))


def cases_of(topology, pairs):
    """Every value of every option, on some variants of a topology with some formulas."""
    for k, (variant, formula) in enumerate(pairs):
        problem = make_problem(formula, variant, rate=0.3)
        for option, values in OPTIONS.items():
            if problem.c is None and option in ("c", "dopamine"):
                continue
            for value in values:
                if option.endswith("spike") and value != "strided" and k % 3:
                    continue  # loops are compiled anew for spikes with values, a third of which will do
                if isinstance(value, str) and value == "per column" and topology not in ("dense", "one_to_one"):
                    continue
                yield problem, varied(problem, option, value)


@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_does_the_same_in_compiled_loops(topology):
    for problem, given in cases_of(topology, in_turns(topology)):
        assert_alike(problem, given, "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_does_the_same_with_every_formula_on_every_variant(topology, backend):
    with swift_interpreter():
        for problem, given in cases_of(topology, itertools.product(TOPOLOGY_VARIANTS[topology], FORMULAS)):
            assert_alike(problem, given, backend)


@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_once_does_the_same_in_triton(topology):
    """A value of each option in turn, with variants and formulas in turn: the interpreter takes its time."""
    variants = itertools.cycle(TOPOLOGY_VARIANTS[topology])
    formulas, modulated = itertools.cycle(FORMULAS), itertools.cycle(FORMULAS[3:])
    with swift_interpreter():
        for k, (option, values) in enumerate(OPTIONS.items()):
            formula = next(modulated if option in ("c", "dopamine") else formulas)
            problem = make_problem(formula, next(variants), rate=0.3)
            value = values[0] if option == "dopamine" else values[k % len(values)]
            assert_alike(problem, varied(problem, option, value), "triton")


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_silence_and_a_spike_of_every_neuron_are_the_same_on_every_backend(topology, rate):
    for variant, formula in in_turns(topology):
        problem = make_problem(formula, variant, rate=rate)
        given = varied(problem, "w_min", 0.1)
        if rate == 0:
            given |= {name: torch.zeros_like(given[name]) for name in ("pre_spike", "post_spike")}
        assert_alike(problem, given, "cpu")
        if variant is TOPOLOGY_VARIANTS[topology][0]:
            with swift_interpreter():
                assert_alike(problem, given, "triton")


def test_each_option_of_a_step_is_varied():
    known = {*OPTIONS, *FORMULA_OPTIONS, *ELSEWHERE}
    assert set(inspect.signature(update_).parameters) == known
    own = {"a_plus", "a_minus", "tau_c", "lr", "alpha", "rho", "tau", "inhibitory", "options"}
    for function in (stdp_, istdp_, rstdp_):
        assert set(inspect.signature(function).parameters) <= known | own
    assert {f.rule.name for f in FORMULAS} == set(RULES)
    for side in ("positive", "negative"):
        assert {getattr(f, side) for f in FORMULAS} == set(BOUNDS.values())
    assert {f.clamp for f in FORMULAS} == {True, False}


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_each_parameter_of_a_topology_is_varied(name):
    variants = TOPOLOGY_VARIANTS[name]
    assert {type(variant) for variant in variants} == {TOPOLOGIES[name]}
    parameters = [p for p in inspect.signature(TOPOLOGIES[name]).parameters if not p.startswith("_")]
    for parameter in parameters:
        assert len({str(getattr(variant, parameter)) for variant in variants}) > 1, parameter


TRACE_OPTIONS = {"tau": [3.0, torch.tensor(4.0)], "dt": [0.5, torch.tensor(0.1)], "scale": [0.3, -1, torch.tensor(2.0)]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("option", TRACE_OPTIONS)
def test_each_option_of_a_trace_does_the_same_on_every_backend(option, dtype):
    spikes, start = torch.rand(70) < 0.3, torch.rand(70, dtype=dtype)
    for value in TRACE_OPTIONS[option]:
        for given in (spikes, 2 * spikes.int(), spikes * torch.rand(70, dtype=dtype), strided(spikes)):
            for trace in (start, strided(start)):
                options = {"tau": 10.0} | {option: value}
                expected = trace_(trace.clone(), given, backend="reference", **options)
                for backend in KERNELS:
                    wanted = None if isinstance(value, torch.Tensor) and value.dim() else backend
                    found = trace_(trace.clone(), given, backend=wanted, **options)
                    assert torch.equal(found, expected)


def test_each_option_of_a_trace_is_varied():
    assert set(inspect.signature(trace_).parameters) == {*TRACE_OPTIONS, "trace", "spikes", "backend"}


ARGUMENTS = {
    "STDP": {"a_plus": 0.1, "a_minus": 0.12, "positive_bound": "soft_bound"},
    "iSTDP": {"lr": 0.1, "alpha": 0.4},
    "RSTDP": {"a_plus": 0.1, "a_minus": 0.12, "tau_c": 7.0, "positive_bound": "soft_bound"},
}
ATTRIBUTES = {
    "a_plus": 0.3,
    "a_minus": 0.4,
    "lr": 0.3,
    "alpha": 0.7,
    "change_sign": 1,
    "tau_c": 3.0,
    "w_min": 0.2,
    "w_max": 0.8,
    "weight_divisor": 2.5,
}
"""What a behavior reads at a step, and another value for it."""
FORMULA_ATTRIBUTES = {"p_bound": upper_bound, "n_bound": lower_bound, "clamp": True}
"""Those that make another formula, which takes long to compile: they are varied together."""


def attributes_read(behavior, group):
    """The names of a behavior's own attributes that its step reads."""
    seen = set()
    own = set(vars(behavior))

    class Watched(type(behavior)):
        def __getattribute__(self, name):
            if name in own:
                seen.add(name)
            return super().__getattribute__(name)

    kind, behavior.__class__ = type(behavior), Watched
    behavior.forward(group)
    behavior.__class__ = kind
    return seen


@pytest.mark.parametrize("rule", ARGUMENTS)
@pytest.mark.parametrize("prefix", SMALL)
def test_each_attribute_that_a_behavior_reads_is_varied_and_does_the_same_on_every_backend(prefix, rule):
    with swift_interpreter():
        vary_attributes(prefix, rule)


def vary_attributes(prefix, rule):
    kind = getattr(ours, prefix + rule)
    behaviors = [kind(**ARGUMENTS[rule], backend=backend) for backend in ("reference", *KERNELS)]
    network, groups = side_by_side(SMALL[prefix], *behaviors, convention="synapse", rate=0.4)
    network.simulate_iterations(3, measure_block_time=False)
    read = attributes_read(behaviors[0], groups[0]) - {"backend"}
    assert set(FORMULA_ATTRIBUTES) < read <= {*ATTRIBUTES, *FORMULA_ATTRIBUTES}
    start, c = values_of(groups[0].weights).clone(), getattr(groups[0], "c", None)
    c = None if c is None else c.clone()

    def after(behavior, group):
        values_of(group.weights).copy_(start)
        if c is not None:
            group.c.copy_(c)
        behavior.forward(group)
        return values_of(group.weights).clone()

    unchanged = after(behaviors[0], groups[0])
    numbers = {name: ATTRIBUTES[name] for name in sorted(read - set(FORMULA_ATTRIBUTES))}
    changes = [{name: value} for name, value in numbers.items()] + [FORMULA_ATTRIBUTES, numbers]
    for changed in changes:
        name, results = ", ".join(changed), []
        backends = ("reference", *KERNELS) if len(changed) > 1 else ("reference", "cpu")  # the interpreter takes long
        for behavior, group, _ in zip(behaviors, groups, backends, strict=False):
            old = {name: getattr(behavior, name) for name in changed}
            vars(behavior).update(changed)
            results.append(after(behavior, group))
            vars(behavior).update(old)
        matters = not (rule == "iSTDP" and name in ("w_min", "w_max"))  # which has no bounds unless they are given
        assert torch.equal(results[0], unchanged) != matters, name
        tolerance = {"rtol": 2e-6, "atol": 1e-6} if prefix == "Conv2d" else {"rtol": 0, "atol": 0}
        for found in results[1:]:
            torch.testing.assert_close(found, results[0], msg=name, **tolerance)
