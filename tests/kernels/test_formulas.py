"""Users' formulas: one function gives the same weights on every backend, and no other function's."""

import functools
import gc
import logging
import weakref
from dataclasses import replace

import numba
import pytest
import torch

import tritonstdp
from rules_of_their_own import POWER
from support import stepped
from tritonstdp import rules, vocabulary
from tritonstdp.kernels.formula_gpu import device_function
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.problems import make_problem
from tritonstdp.rules import Formula, Rule, no_bound, rstdp, stdp
from tritonstdp.source import captured_values, read
from tritonstdp.topology import OneToOne

SCALE = 0.3


def with_literals(w, w_min, w_max):
    return 0.1 * (1 - w) * SCALE + w**2


def with_default(w, w_min, w_max, mu=0.5):
    """Guetig's power law."""
    return (w_max - w) ** mu


def with_words(w, w_min, w_max):
    inside = vocabulary.where((w > w_min) & (w < w_max), 1, 0.25)
    return inside * vocabulary.exp(-abs(w)) + vocabulary.sqrt(vocabulary.maximum(w, 0.0)) - torch.minimum(w, w * w)


def with_steps(w, w_min, w_max):
    distance = w_max - w
    distance *= 2
    return distance / (w_max - w_min) + 1


def multiplied_by(number):
    return lambda w, w_min, w_max: number * w


BOUNDS = {
    "literals": with_literals,
    "default": with_default,
    "partial": functools.partial(with_default, mu=0.25),
    "partial of a whole power": functools.partial(with_default, mu=3),
    "words": with_words,
    "steps": with_steps,
    "lambda": lambda w, w_min, w_max: 0.1 * (1 - w),
    "closure": multiplied_by(0.7),
    "negative closure": multiplied_by(-2),
    "truths": lambda w, w_min, w_max: (w > w_min) * w + (w < w_max),
    "cube": lambda w, w_min, w_max: w**3 - (1 - w) ** 5,
    "logarithm": lambda w, w_min, w_max: torch.log(w + 1),
    "compiled by numba": numba.njit(with_default),
    "multiplicative": rules.upper_bound,
    "parameter": POWER,
    "parameter that is captured": functools.partial(POWER, mu=0.25),
}
EXACT = ("literals", "partial of a whole power", "lambda", "closure", "negative closure", "truths",
         "multiplicative", "parameter", "parameter that is captured")  # fmt: skip


def run(problem, backend):
    done = problem.copy()
    stepped(done, backend)
    return done.weights


DTYPES = [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_gives_the_same_weights_on_every_backend(name, dtype):
    bound = BOUNDS[name]
    problem = make_problem(Formula.of(stdp, bound, bound), OneToOne(77), dtype=dtype, rate=0.4)
    problem.weights.clamp_(*problem.limits)
    expected = run(problem, "reference")
    for backend in ("cpu", "triton"):
        found = run(problem, backend)
        if name in EXACT:
            assert torch.equal(found, expected), backend
        else:  # each compiler has its own powers, exp and log; torch computes with numbers alone in float64
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)
    assert not torch.equal(expected, problem.weights)


def scaled(potentiation, depression, positive, negative, *, a_plus, a_minus):
    return 0.1 * (potentiation * a_plus * positive - depression * a_minus * negative)


RULES = {
    "literals": replace(stdp, name="scaled", change=scaled),
    "lambdas": Rule(
        "lambdas",
        lambda pre_spike, post_trace, *, lr: 0.1 * pre_spike * post_trace,
        lambda pre_trace, post_spike, *, lr: 0.3 * pre_trace * post_spike,
        lambda potentiation, depression, positive, negative, *, lr: (
            0.7 * lr * (potentiation * positive - depression * negative)
        ),
    ),
    "eligibility": replace(rstdp, name="leaky", eligibility=lambda c, dw, *, tau_c: 0.9 * c + dw / tau_c),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_with_numbers_in_it_gives_the_same_bits_on_every_backend(name, dtype):
    problem = make_problem(Formula.of(RULES[name]), OneToOne(77), dtype=dtype, rate=0.4)
    expected = run(problem, "reference")
    for backend in ("cpu", "triton"):
        assert torch.equal(run(problem, backend), expected), backend


def one_step(bound, backend="cpu"):
    weights, spikes = torch.full((3,), 0.5), torch.tensor([True, False, True])
    options = {"positive_bound": bound, "negative_bound": bound, "a_plus": 1.0, "a_minus": 0.0}
    return tritonstdp.stdp_(weights, spikes, torch.ones(3), spikes, torch.ones(3), backend=backend, **options)


BACKENDS = ("reference", "cpu", "triton")


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_that_differ_in_a_default_share_nothing(backend):
    def made(mu):
        def bound(w, w_min, w_max, mu=mu):
            return w * mu

        return bound

    results = {one_step(made(mu), backend)[0].item() for mu in (1.0, 2.0, 3.0)}
    assert results == {1.0, 1.5, 2.0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_that_a_function_captures_is_read_at_every_step(backend):
    factor = 1.0

    def bound(w, w_min, w_max):
        return w * factor

    before = one_step(bound, backend)[0].item()
    factor = 3.0
    assert (before, one_step(bound, backend)[0].item()) == (1.0, 2.0)


class AllEqual:
    """Callables that pass for each other."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, w, w_min, w_max):
        return w * self.factor

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0


def test_callables_that_compare_equal_share_nothing():
    results = [one_step(AllEqual(factor), backend=None)[0].item() for factor in (1.0, 2.0, 4.0)]
    assert results == [1.0, 1.5, 2.5]


def doubling(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return 2 * function(*arguments)

    return wrapper


@doubling
def decorated(w, w_min, w_max):
    return w


def test_what_a_decorator_does_is_not_left_out():
    assert one_step(decorated, backend=None)[0].item() == 1.5
    for backend in ("cpu", "triton"):
        with pytest.raises(ValueError, match="decorated"):
            one_step(decorated, backend)


@pytest.mark.parametrize(
    "bound",
    [
        lambda w, w_min, w_max: w_max - w.mean(),
        lambda w, w_min, w_max: torch.ones(w.shape[0]) * w,
        lambda w, w_min, w_max: torch.sigmoid(w),
        lambda w, w_min, w_max: w.view(3) * 1.0,
        functools.partial(lambda w, w_min, w_max, f: f(w), f=torch.sigmoid),
        torch.nn.Identity(),
    ],
    ids=["mean", "shape", "sigmoid", "view", "partial", "module"],
)
def test_what_only_torch_can_compute_runs_on_the_reference_and_the_log_says_why(bound, caplog, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    if isinstance(bound, torch.nn.Identity):
        bound.forward = lambda w, w_min, w_max: w
    with caplog.at_level(logging.WARNING, logger="tritonstdp"):
        weights = one_step(bound, backend=None)
    assert torch.equal(weights, one_step(bound, backend="reference"))
    assert "runs on the reference, not on cpu" in caplog.text


def test_a_bound_of_the_weights_shape_alone_falls_back_too():
    def fixed(w, w_min, w_max):
        return torch.tensor([0.0, 1.0, 2.0]) * w

    assert one_step(fixed, backend=None).tolist() == [0.5, 0.5, 1.5]


def test_a_bound_that_writes_into_the_weights_changes_a_copy():
    def clipping(w, w_min, w_max):
        return w.clamp_(0.6, 1.0) * 0 + 1

    def raising(w, w_min, w_max):
        w += 1
        return w

    for backend in (None, "reference"):
        assert one_step(clipping, backend).tolist() == [1.5, 0.5, 1.5]
        assert one_step(raising, backend).tolist() == [2.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("part", "function"),
    [
        ("on_pre", lambda pre_spike, post_trace: pre_spike * post_trace + 0.1),
        ("on_pre", lambda pre_spike, w: pre_spike + w),
        ("on_post", lambda pre_trace, post_spike: pre_trace),
        ("change", lambda potentiation, depression: potentiation - depression + 1e-3),
        ("change", lambda potentiation, depression, positive: potentiation - depression + positive),
        ("change", lambda potentiation, depression, w: potentiation - depression + w),
    ],
)
def test_a_rule_that_acts_without_a_spike_is_refused(part, function):
    with pytest.raises(ValueError, match="without a spike"):
        replace(stdp, name="restless", **{part: function})


def test_a_rule_that_is_not_linear_in_the_spike_is_refused():
    with pytest.raises(ValueError, match="not linear"):
        replace(stdp, name="square", on_pre=lambda pre_spike, post_trace: pre_spike * pre_spike * post_trace)


def test_functions_of_other_arguments_are_refused():
    with pytest.raises(TypeError, match="on_pre of rule 'mixed' reads lr"):
        replace(stdp, name="mixed", on_pre=lambda pre_spike, post_trace, lr: pre_spike * post_trace)
    with pytest.raises(TypeError, match="on_post of rule 'mixed' has a parameter pre_rate: the name is taken"):
        replace(stdp, name="mixed", on_post=lambda post_spike, *, pre_rate: post_spike)
    with pytest.raises(TypeError, match="bound <lambda> has a parameter a_plus"):
        Formula.of(stdp, lambda w, w_min, w_max, *, a_plus: w)
    with pytest.raises(TypeError, match=r"does not take \(w, w_min, w_max\)"):
        one_step(lambda w: w)


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (lambda w, low, high: w.clamp(0, 1), r"line \d+\): a call of w.clamp"),
        (lambda w, low, high: w if high else low, r"line \d+\): ifexp"),
        (AllEqual(1), "AllEqual is a AllEqual, not a plain function"),
        (lambda w, *limits: w, r"\*args"),
        (multiplied_by(float("nan")), "nan"),
    ],
)
def test_a_function_that_no_compiler_takes_is_refused_with_its_line(bound, message):
    with pytest.raises(CannotCompileError, match=message):
        read(bound)


def test_two_functions_of_one_line_are_told_apart_or_refused():
    first, second = (lambda w, a, b: w * 2), (lambda w, a, b: w * 3)
    assert "* 2" in read(first).text and "* 3" in read(second).text
    plus, minus = (lambda w, a, b: w + a), (lambda w, a, b: w - a)
    for function in (plus, minus):
        with pytest.raises(CannotCompileError, match="other functions of its line"):
            read(function)


def test_a_source_that_has_changed_since_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "users_bounds.py"
    path.write_text("def bound(w, w_min, w_max):\n    return w_max - w\n")
    monkeypatch.syspath_prepend(tmp_path)
    import users_bounds

    path.write_text("def bound(w, w_min, w_max):\n    return w_max + w\n# edited while it runs\n")
    assert one_step(users_bounds.bound, backend=None)[0].item() == 1.0
    for backend in ("cpu", "triton"):
        with pytest.raises(ValueError, match=r"something else|other values"):
            one_step(users_bounds.bound, backend)


def test_a_function_made_anew_at_each_step_is_compiled_once():
    assert Formula.of(stdp, multiplied_by(0.7)) is Formula.of(stdp, multiplied_by(0.7))
    assert Formula.of(stdp, multiplied_by(0.7)) is not Formula.of(stdp, multiplied_by(0.8))
    assert captured_values(multiplied_by(0.7)) == (0.7,)


def test_numbers_that_change_at_each_step_end_on_the_reference_and_the_log_says_why(monkeypatch, caplog):
    monkeypatch.setattr("tritonstdp.choice.MOST_VARIANTS", 2)
    monkeypatch.delenv("TRITON_INTERPRET")

    def bound_of(number):
        return lambda w, w_min, w_max: number - w

    with caplog.at_level(logging.WARNING, logger="tritonstdp"):
        results = [one_step(bound_of(number), backend=None)[0].item() for number in (1.0, 2.0, 3.0, 4.0)]
    assert results == [1.0, 2.0, 3.0, 4.0]
    assert caplog.text.count("different captured numbers") == 1


def test_what_a_bound_captures_does_not_stay_alive_for_ever(monkeypatch):
    monkeypatch.setattr("tritonstdp.rules.MOST_FORMULAS", 4)

    class Captured:
        factor = 1.0

    alive = []
    for _ in range(20):
        captured = Captured()
        alive.append(weakref.ref(captured))
        one_step(lambda w, w_min, w_max, captured=captured: w * captured.factor, backend="reference")
    del captured
    gc.collect()
    assert sum(reference() is not None for reference in alive) <= 10


def test_device_functions_that_say_something_else_have_another_name():
    """Triton knows a call by the name and the types of its arguments, and would take one function for the other."""
    functions = [*rules.istdp.functions, *rules.rstdp.functions, *rules.BOUNDS.values(), POWER]
    by_text = {read(function).text: device_function(function).__name__ for function in functions}
    assert len(set(by_text.values())) == len(by_text)
    assert device_function(rules.istdp.on_pre) is device_function(rules.istdp.on_pre)


def test_no_bound_is_what_none_means():
    assert Formula.of(stdp) is Formula.of(stdp, no_bound, no_bound)


class Scaling:
    """A callable that holds another, as wrappers do."""

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, w, w_min, w_max):
        return 3 * self.fn(w, w_min, w_max)


def test_what_a_wrapper_does_is_not_left_out():
    assert one_step(Scaling(lambda w, w_min, w_max: w), backend=None)[0].item() == 2.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_that_read_alike_today_go_their_own_ways_tomorrow(backend):
    first = second = 1.0

    def of_first(w, w_min, w_max):
        return first * w

    def of_second(w, w_min, w_max):
        return second * w

    assert [one_step(bound, backend)[0].item() for bound in (of_first, of_second)] == [1.0, 1.0]
    first = 3.0
    assert [one_step(bound, backend)[0].item() for bound in (of_first, of_second)] == [2.0, 1.0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_defaults_and_keywords_that_are_replaced_are_noticed(backend):
    def bound(w, w_min, w_max, mu=1.0, *, nu=1.0):
        return w * mu * nu

    partial = functools.partial(bound, mu=1.0)
    assert (one_step(bound, backend)[0].item(), one_step(partial, backend)[0].item()) == (1.0, 1.0)
    bound.__defaults__ = (3.0,)
    assert (one_step(bound, backend)[0].item(), one_step(partial, backend)[0].item()) == (2.0, 1.0)
    bound.__kwdefaults__ = {"nu": 0.0}
    assert one_step(bound, backend)[0].item() == 0.5
    partial.keywords["nu"] = 5.0
    assert one_step(partial, backend)[0].item() == 3.0


def test_a_default_that_is_assigned_to_runs_as_written():
    def unused(w, w_min, w_max, mu=1.0):
        mu = mu * 2
        return 1.0 * w

    def used(w, w_min, w_max, mu=1.0):
        mu = mu * 2
        return mu * w

    assert (one_step(unused, None)[0].item(), one_step(used, None)[0].item()) == (1.0, 1.5)


class Odd:
    """An object that nobody may look at."""

    __hash__ = None

    def __getattr__(self, name):
        raise RuntimeError("do not touch")


odd = Odd()
ONLY_ON_TORCH = {
    "remainder": lambda w, w_min, w_max: (w - 0.5) % 0.3,
    "floor division": lambda w, w_min, w_max: w // 0.3,
    "sum of truths": lambda w, w_min, w_max: (w > 0.3) + (w < 0.6),
    "odd object": lambda w, w_min, w_max: odd.touch(w),
}


@pytest.mark.parametrize("backend", ("cpu", "triton"))
@pytest.mark.parametrize("name", ONLY_ON_TORCH)
def test_what_means_something_else_in_a_compiler_is_refused_there(name, backend):
    """Or gives torch's result: never another, and never an error from within."""
    bound = ONLY_ON_TORCH[name]
    if name == "odd object":
        with pytest.raises(ValueError, match="can't take this case"):
            one_step(bound, backend)
        return
    expected = one_step(bound, "reference")
    try:
        found = one_step(bound, backend)
    except ValueError as error:
        assert "can't take this case" in str(error)
    else:
        torch.testing.assert_close(found, expected)


def named_root(w, w_min, w_max):
    root = torch.sqrt(abs(w))
    power = root / (w_max + 1)
    return power + root


def raised(w, w_min, w_max):
    base = w + 1
    base **= 3
    return +base / 2 + (w > 0.3) / 2 + 2 ** (w - 1)


ON_EVERY_COMPILER = {
    "names of helpers": named_root,
    "signs, truths and bases": raised,
    "large power": lambda w, w_min, w_max: w**20,
    "power of a negative number": lambda w, w_min, w_max: (w - 1) ** w_max,
    "power of a limit": lambda w, w_min, w_max: torch.pow(w, w_max * 0.5),
}


@pytest.mark.parametrize("backend", ("cpu", "triton"))
@pytest.mark.parametrize("name", ON_EVERY_COMPILER)
def test_what_a_user_may_write_gives_torch_s_weights(name, backend):
    expected = one_step(ON_EVERY_COMPILER[name], "reference")
    torch.testing.assert_close(one_step(ON_EVERY_COMPILER[name], backend), expected, rtol=1e-5, atol=1e-6)
