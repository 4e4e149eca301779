"""Every option of a step and every attribute of a behavior does the same on every backend.

What there is to vary is read off the functions, rules, topologies and behaviors themselves: an option that is added and
has no values here fails the tests named "is_varied".
"""

import inspect
import itertools
from dataclasses import fields, replace

import pytest
import torch

import tritonstdp as ts
import tritonstdp.behaviors as ours
from rules_of_their_own import POWER, RULES_OF_TESTS
from support import SMALL, random_sparse, side_by_side, stepped, values_of
from tritonstdp.functional import Options, istdp_, rstdp_, stdp_, trace_, update_
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.library import power_lower_bound, power_upper_bound
from tritonstdp.problems import make_problem
from tritonstdp.rules import (
    BOUNDS,
    READS,
    RULES,
    Formula,
    Rule,
    hard_bound,
    lower_bound,
    no_bound,
    soft_bound,
    upper_bound,
)
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


def _all_on_pre(pre_spike, pre_trace, post_trace, w, w_min, w_max, *, a):
    return pre_spike * (post_trace * (w - w_min) + a * pre_trace * (w_max - w))


def _all_on_post(post_spike, pre_trace, post_trace, w, w_min, w_max, *, a, b):
    return post_spike * (a * pre_trace * (w_max - w) + b * post_trace * (w - w_min))


def _all_change(potentiation, depression, positive, negative, w, w_min, w_max, *, b):
    return potentiation * positive * (w_max - w) - b * depression * negative * (w - w_min)


def _all_eligibility(c, dw, w, w_min, w_max, *, tau):
    return c - c / tau + dw * (w - w_min) * (w_max - w)


READS_ALL = Rule("reads_all", _all_on_pre, _all_on_post, _all_change, _all_eligibility, ("tau",))
"""Each function reads all that it may; a parameter is one of several of them."""


def shifted(w, w_min, w_max, *, by):
    return w_max - w + by


TRIPLET = Formula.of(RULES["triplet"], POWER, shifted, True)
FORMULAS = [
    Formula.of(RULES["stdp"], soft_bound, hard_bound),
    Formula.of(RULES["stdp"], upper_bound, lower_bound, True),
    TRIPLET,
    Formula.of(RULES["istdp"], no_bound, soft_bound, True),
    Formula.of(RULES["rstdp"], hard_bound, upper_bound),
    Formula.of(RULES["rstdp"], lower_bound, no_bound, True),
    Formula.of(RULES_OF_TESTS["weighted"], shifted, POWER),
    Formula.of(RULES_OF_TESTS["tagged"], soft_bound, POWER, True),
    Formula.of(RULES["oja"], power_lower_bound, power_upper_bound),
    Formula.of(RULES["istdp_modulated"], POWER, POWER),
    Formula.of(RULES_OF_TESTS["spikes_alone"], power_upper_bound, power_lower_bound, True),
    Formula.of(READS_ALL, shifted, hard_bound),
]
"""Each rule, and each bound on each side, with and without a clamp and parameters of its own."""

RULES_VARIED = {formula.rule for formula in FORMULAS}

WEIGHTS = ["transposed", "strided"]
SPIKES = ["values", "integers", "strided"]
SIGNAL = ["strided", "zero"]
PARAMETER = [0.9, torch.tensor(0.25), "per weight"]
OPTIONS = {
    "w_min": [0.3, -float("inf"), torch.tensor(0.2), "per weight"],
    "w_max": [0.6, float("inf"), torch.tensor(0.7), "per weight"],
    "c": WEIGHTS,
    "weights": WEIGHTS,
    "reduction": ["mean"],
}
TOGETHER = ["pre and post in turns", "post and pre in turns", "one a row or column"]
"""How all parameters are given at once."""
COMPILED_ANEW = {"weights": 0, "c": 0, "pre_spike": 1, "post_spike": 1, "parameters": 2, "reduction": 4}
"""Options for which some of the variants and formulas will do, each at its turn: to compile takes seconds."""
FORMULA_OPTIONS = ("rule", "positive_bound", "negative_bound", "clamp")
ELSEWHERE = {
    "topology": "TOPOLOGY_VARIANTS",
    "backend": "every test here",
    "autotune": "changes how fast a step is, and nothing else (test_autotune.py)",
}
PER_NEURON = {"pre": ts.per_pre, "post": ts.per_post}


def options_of(problem):
    """Every option of a step on a problem, and the values that it takes in turn: those of its rule are read off it."""
    formula = problem.formula
    options = {name: values for name, values in OPTIONS.items() if name != "c" or problem.c is not None}
    for name in (*formula.rule.pre, *formula.rule.post):
        options[name] = SPIKES if name.endswith("_spike") else SIGNAL
    for name in formula.parameters:
        options[name] = PARAMETER if name in formula.rule.positive else [-0.7, *PARAMETER]
    return options | ({"parameters": TOGETHER} if formula.parameters else {})


def strided(tensor):
    """The same numbers, with gaps between them."""
    return torch.stack([tensor, torch.full_like(tensor, 7)], -1)[..., 0]


def along(topology, side, values):
    """The shape in which values of a side's neurons broadcast to the weights; None where none does."""
    shapes = {("dense", "pre"): (-1, 1), ("dense", "post"): (-1,), ("one_to_one", "pre"): (-1,)}
    shapes |= {("one_to_one", "post"): (-1,), ("local2d", "post"): (*topology.weights_shape[:2], 1)}
    shape = shapes.get((topology.name, side))
    return None if shape is None else values.reshape(shape)


def per_neuron(problem, value):
    """All parameters that may be, given as one value a neuron."""
    rule, topology, changed = problem.formula.rule, problem.topology, {}
    for k, name in enumerate(problem.formula.parameters):
        side = ("post", "pre")[(k + value.startswith("pre")) % 2]
        if topology.shares_weights and name not in rule.spike_parameters:
            continue
        if side == "pre" and name in rule.positive and topology.has_padding:
            continue  # which has no time constant
        n = (topology.pre_shape if side == "pre" else topology.post_shape)[0]
        values = torch.linspace(0.05 + 0.1 * k, 1, n)
        broadcast = along(topology, side, values) if value == "one a row or column" else PER_NEURON[side](values)
        if broadcast is not None:
            changed[name] = broadcast
    return problem.replaced(**changed)


def varied(problem, option, value):
    """The problem with one of the options of its step changed."""
    if option == "parameters":
        return per_neuron(problem, value)
    if option == "reduction":
        batch = {name: torch.stack([v, v.roll(1), torch.zeros_like(v)]) for name, v in problem.signals.items()}
        return replace(problem.replaced(**batch), reduction=value)
    if isinstance(value, str) and value == "per weight":
        value = 0.05 + 0.9 * torch.rand(problem.topology.weights_shape, generator=torch.Generator().manual_seed(3))
    elif isinstance(value, str):
        value = {
            "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
            "strided": strided,
            "values": lambda t: t * torch.linspace(0.5, 2, t.numel()),
            "integers": lambda t: 2 * t.to(torch.int32),
            "zero": torch.zeros_like,
        }[value](problem.tensors[option])
    if option in ("w_min", "w_max"):
        limits = dict(zip(("w_min", "w_max"), problem.limits, strict=True)) | {option: value}
        return replace(problem, limits=tuple(limits.values()))
    return problem.replaced(**{option: value})


def copied(tensor):
    """A copy of the same strides, gaps included."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def assert_alike(problem, backend):
    """A kernel gives the reference's result; where it does not take the case, the default choice does."""
    written = {"weights": problem.weights} | ({} if problem.c is None else {"c": problem.c})

    def after(backend):
        copy = problem.replaced(**{name: copied(tensor) for name, tensor in written.items()})
        stepped(copy, backend)
        return copy

    expected = after("reference")
    try:
        found = after(backend)
    except ValueError as error:
        assert "can't take this case" in str(error)
        found = after(None)
    sums = "conv2d", *(["sparse"] if problem.reduction else [])
    rounds = problem.topology.name in sums or problem.formula.positive in (power_lower_bound, power_upper_bound)
    tolerance = {"rtol": 2e-6, "atol": 1e-6} if rounds else {"rtol": 0, "atol": 0}
    for name in written:
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), equal_nan=True, **tolerance)


SLOW_TO_COMPILE = {"conv2d": 0, "local2d": 1}
"""Topologies that take every other formula, and from which on."""


def in_turns(topology):
    """Each variant of a topology and each of its formulas at least once, together in turns."""
    variants = TOPOLOGY_VARIANTS[topology]
    formulas = FORMULAS[SLOW_TO_COMPILE[topology] :: 2] if topology in SLOW_TO_COMPILE else FORMULAS
    n = max(len(variants), len(formulas))
    return list(itertools.islice(zip(itertools.cycle(variants), itertools.cycle(formulas), strict=False), n))


def at_extremes(problem):
    """The problem with silent neurons alone, and with a spike of every one."""
    for fill in (torch.zeros_like, torch.ones_like):
        yield problem.replaced(**{name: fill(problem.signals[name]) for name in ("pre_spike", "post_spike")})


def cases_of(pairs, turns):
    """Every value of every option, on some variants of a topology with some formulas; and silence, and all spiking."""
    for k, (variant, formula) in enumerate(pairs):
        problem = make_problem(formula, variant, rate=0.3)
        yield from at_extremes(problem)
        for option, values in options_of(problem).items():
            if COMPILED_ANEW.get(option, k % turns) == k % turns:
                for value in values:
                    yield varied(problem, option, value)


@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_does_the_same_in_compiled_loops(topology):
    for problem in cases_of(in_turns(topology), turns=5):
        assert_alike(problem, "cpu")


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_does_the_same_with_every_formula_on_every_variant(topology, backend):
    with swift_interpreter():
        for problem in cases_of(itertools.product(TOPOLOGY_VARIANTS[topology], FORMULAS), turns=3):
            assert_alike(problem, backend)


@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_once_does_the_same_in_triton(topology):
    """A value of each option in turn, with formulas and variants in turn: the interpreter takes its time."""
    variants, seen = itertools.cycle(TOPOLOGY_VARIANTS[topology]), {"parameters"}
    with swift_interpreter():
        for k, formula in enumerate(FORMULAS):
            problem = make_problem(formula, next(variants), rate=0.3)
            assert_alike([*at_extremes(problem)][k % 2], "triton")
            options = options_of(problem)
            for m, option in enumerate(name for name in options if name not in seen):
                assert_alike(varied(problem, option, options[option][(k + m) % len(options[option])]), "triton")
            if "parameters" in options:
                assert_alike(varied(problem, "parameters", TOGETHER[k % len(TOGETHER)]), "triton")
            seen |= options.keys()


@pytest.mark.parametrize("backend", KERNELS)
@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_one_value_a_neuron_is_not_left_to_the_reference(topology, backend):
    problem = make_problem(TRIPLET, TOPOLOGY_VARIANTS[topology][0], rate=0.3)
    for how in TOGETHER:
        with swift_interpreter():
            chosen = stepped(per_neuron(problem, how).copy(), backend)
        assert chosen.backend == backend and (how == TOGETHER[2] or set(chosen.case.given) >= {"pre", "post"})


def test_each_option_of_a_step_is_varied():
    known = {"arguments", *OPTIONS, *FORMULA_OPTIONS, *ELSEWHERE}
    assert set(inspect.signature(update_).parameters) == known
    assert set(Options.__annotations__) < known
    in_other_words = {"istdp": ({"sign"}, {"rho", "tau", "inhibitory"})}
    for function in (stdp_, istdp_, rstdp_):
        rule = RULES[function.__name__.removesuffix("_")]
        left_out, added = in_other_words.get(rule.name, (set(), set()))
        own = {"weights", *rule.pre, *rule.post, *Formula.of(rule).parameters, *(("c",) if rule.modulated else ())}
        assert set(inspect.signature(function).parameters) == (own - left_out) | added | {"options"}
    shipped, ours = ({part for rule in rules for part in rule.functions} for rules in (RULES.values(), RULES_VARIED))
    assert shipped < ours
    for side in ("positive", "negative"):
        assert {getattr(f, side) for f in FORMULAS} == {*BOUNDS.values(), POWER, shifted}
    assert {f.clamp for f in FORMULAS} == {True, False}


@pytest.mark.parametrize("topology", TOPOLOGY_VARIANTS)
def test_each_option_of_a_rule_s_step_is_varied(topology):
    for formula in FORMULAS:
        problem = make_problem(formula, TOPOLOGY_VARIANTS[topology][0])
        assert {*problem.signals, *problem.parameters, *problem.outputs, "w_min", "w_max"} <= set(options_of(problem))
        given = [stepped(varied(problem, "parameters", how).copy(), "reference").case.given for how in TOGETHER[:2]]
        for name, *kinds in zip(formula.parameters, *given, strict=True):
            once_a_weight = topology == "conv2d" and name not in formula.rule.spike_parameters
            assert set(kinds) == ({"number"} if once_a_weight else {"pre", "post"})


def test_each_part_of_a_rule_is_varied():
    for part in fields(Rule):
        assert len({getattr(rule, part.name) for rule in RULES_VARIED}) > 1, part.name
    for part, known in READS.items():
        read = {name for rule in RULES_VARIED if part in rule.signatures for name in rule.signatures[part].reads}
        assert set(known) <= read, part
        assert any(rule.signatures[part].parameters for rule in RULES_VARIED if part in rule.signatures), part


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_each_parameter_of_a_topology_is_varied(name):
    variants = TOPOLOGY_VARIANTS[name]
    assert {type(variant) for variant in variants} == {TOPOLOGIES[name]}
    parameters = [p for p in inspect.signature(TOPOLOGIES[name]).parameters if not p.startswith("_")]
    for parameter in parameters:
        assert len({str(getattr(variant, parameter)) for variant in variants}) > 1, parameter


TRACE_OPTIONS = {
    "tau": [3.0, torch.tensor(4.0)],
    "dt": [0.5, torch.tensor(0.1)],
    "scale": [0.3, -1, torch.tensor(2.0)],
    "nearest": [True],
}


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
    "Learning": {"rule": "oja_modulated", "lr": 0.3, "decay": 0.5, "tau_c": 7.0, "positive_bound": POWER, "mu": 0.7},
}
ATTRIBUTES = {
    "a_plus": 0.3,
    "a_minus": 0.4,
    "lr": 0.2,
    "alpha": 0.7,
    "decay": 1.5,
    "mu": 1.2,
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
    kind = getattr(ours, rule if rule == "Learning" else prefix + rule)
    behaviors = [kind(**ARGUMENTS[rule], backend=backend) for backend in ("reference", *KERNELS)]
    network, groups = side_by_side(SMALL[prefix], *behaviors, convention="synapse", rate=0.4)
    network.simulate_iterations(3, measure_block_time=False)
    read = attributes_read(behaviors[0], groups[0]) - {"backend", "rule"}
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
