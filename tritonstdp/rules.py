"""Every formula of the project, once: the bounds, the rules, and the traces that they read.

The functions here are arithmetic on their arguments and nothing else, so that one function serves three compilers:
called as it is on torch tensors (the reference), and read from its source (:mod:`tritonstdp.source`) by ``numba.njit``
on scalars (the CPU kernels) and by ``triton.jit`` on blocks (the GPU kernels). A bound or a rule that follows suit,
with the words of :mod:`tritonstdp.vocabulary` beside arithmetic, runs everywhere.

Symbols: ``w`` the weight, ``spike`` 1 (or a float spike's value) where a neuron has just fired and 0 elsewhere,
``trace`` the low-pass filtered spikes of the neuron on the other side.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.source import captured_values, content_of, frozen, name_of, plain_function

__all__ = [
    "BOUNDS",
    "RULES",
    "Bound",
    "Formula",
    "Rule",
    "hard_bound",
    "istdp",
    "lower_bound",
    "no_bound",
    "resolve_bound",
    "resolve_rule",
    "rstdp",
    "soft_bound",
    "stdp",
    "target_trace",
    "updated_trace",
    "upper_bound",
]

Bound = Callable[[Any, Any, Any], Any]


def soft_bound(w: Any, w_min: Any, w_max: Any) -> Any:
    """Slow down towards both limits: ``(w - w_min) * (w_max - w)``, as CoNeX has it.

    Parameters
    ----------
    w : scalar or tensor
        The weight.
    w_min, w_max : scalar
        The limits, in the weight's unit.

    Returns
    -------
    scalar or tensor
        The factor by which a change of ``w`` is multiplied.

    Examples
    --------
    >>> soft_bound(0.25, 0.0, 1.0)
    0.1875
    """
    return (w - w_min) * (w_max - w)


def hard_bound(w: Any, w_min: Any, w_max: Any) -> Any:
    """Stop at both limits: ``(w > w_min) * (w < w_max)``, as CoNeX has it.

    Parameters
    ----------
    w : scalar or tensor
        The weight.
    w_min, w_max : scalar
        The limits, in the weight's unit.

    Returns
    -------
    bool or tensor of bool
        Whether ``w`` may change. A weight inside the limits can still step over one: see ``clamp``.

    Examples
    --------
    >>> int(hard_bound(0.25, 0.0, 1.0)), int(hard_bound(1.0, 0.0, 1.0))
    (1, 0)
    """
    return (w > w_min) & (w < w_max)


def no_bound(w: Any, w_min: Any, w_max: Any) -> Any:
    """Leave every change as it is.

    Parameters
    ----------
    w, w_min, w_max : scalar or tensor
        Not used.

    Returns
    -------
    int
        1.

    Examples
    --------
    >>> no_bound(0.25, 0.0, 1.0)
    1
    """
    return 1


def upper_bound(w: Any, w_min: Any, w_max: Any) -> Any:
    """Slow down towards the upper limit: ``w_max - w``, the potentiation of multiplicative STDP.

    Parameters
    ----------
    w : scalar or tensor
        The weight.
    w_min, w_max : scalar
        The limits, in the weight's unit; ``w_min`` is not used.

    Returns
    -------
    scalar or tensor
        The factor by which a change of ``w`` is multiplied (van Rossum et al. 2000, doi
        10.1523/JNEUROSCI.20-23-08812.2000; Guetig et al. 2003, doi 10.1523/JNEUROSCI.23-09-03697.2003, with mu = 1).

    Examples
    --------
    >>> upper_bound(0.25, 0.0, 1.0)
    0.75
    """
    return w_max - w


def lower_bound(w: Any, w_min: Any, w_max: Any) -> Any:
    """Slow down towards the lower limit: ``w - w_min``, the depression of multiplicative STDP.

    Parameters
    ----------
    w : scalar or tensor
        The weight.
    w_min, w_max : scalar
        The limits, in the weight's unit; ``w_max`` is not used.

    Returns
    -------
    scalar or tensor
        The factor by which a change of ``w`` is multiplied; see :func:`upper_bound`.

    Examples
    --------
    >>> lower_bound(0.25, 0.0, 1.0)
    0.25
    """
    return w - w_min


BOUNDS: dict[str, Bound] = {
    bound.__name__: bound for bound in (soft_bound, hard_bound, no_bound, upper_bound, lower_bound)
}
"""The bounds that a name stands for; :func:`tritonstdp.register_bound` adds to it."""


def _stdp_on_pre(spike: Any, trace: Any, a_plus: Any, a_minus: Any) -> Any:
    return spike * trace


def _stdp_on_post(trace: Any, spike: Any, a_plus: Any, a_minus: Any) -> Any:
    return trace * spike


def _stdp_change(potentiation: Any, depression: Any, positive: Any, negative: Any, a_plus: Any, a_minus: Any) -> Any:
    return potentiation * a_plus * positive - depression * a_minus * negative


def _istdp_on_pre(spike: Any, trace: Any, lr: Any, alpha: Any, sign: Any) -> Any:
    return spike * ((alpha - trace) * sign)


def _istdp_on_post(trace: Any, spike: Any, lr: Any, alpha: Any, sign: Any) -> Any:
    return trace * spike


def _istdp_change(
    potentiation: Any, depression: Any, positive: Any, negative: Any, lr: Any, alpha: Any, sign: Any
) -> Any:
    return lr * (depression * negative + potentiation * positive)


def _rstdp_eligibility(c: Any, dw: Any, tau_c: Any) -> Any:
    return c + (-c / tau_c + dw)


def updated_trace(trace: Any, spike: Any, scale: Any, tau: Any, dt: Any) -> Any:
    """Raise a spike trace by the spikes of this step, then let it decay.

    Parameters
    ----------
    trace : scalar or tensor
        The trace before the step.
    spike : scalar or tensor
        The spikes of the step.
    scale : scalar
        What one spike adds.
    tau, dt : scalar
        The time constant and the length of a step, in the same unit (CoNeX: milliseconds).

    Returns
    -------
    scalar or tensor
        The trace after the step. The formula is that of CoNeX's ``SpikeTrace``, ``PreTrace`` and ``PostTrace``.

    Examples
    --------
    >>> updated_trace(1.0, 1.0, 1.0, 10.0, 1.0)
    1.8
    """
    trace = trace + spike * scale
    return trace - trace / tau * dt


def target_trace(rho: float, tau: float) -> float:
    """The post trace at which inhibitory STDP is at rest, for a wanted firing rate.

    Parameters
    ----------
    rho : float
        The firing rate that the post neurons are to keep, in Hz.
    tau : float
        The time constant of the traces, in milliseconds.

    Returns
    -------
    float
        ``alpha = 2 * rho * tau / 1000`` (Vogels et al. 2011, doi 10.1126/science.1211095).

    Examples
    --------
    >>> target_trace(rho=5.0, tau=20.0)
    0.2
    """
    return 2 * rho * tau / 1000


@dataclass(frozen=True, eq=False)
class Rule:
    """A plasticity rule: pure functions of one synapse, from which each topology and backend builds its kernel.

    Parameters
    ----------
    name : str
        The name under which the registry, the command line and the tables know it.
    on_pre : callable
        ``on_pre(spike, post_trace, *parameters)``: what a spike of the pre neuron contributes. It must be 0 where
        ``spike`` is 0, since the kernels visit only synapses of which a neuron has spiked, and linear in ``spike``,
        since a convolution sums it over positions.
    on_post : callable
        ``on_post(pre_trace, spike, *parameters)``: what a spike of the post neuron contributes; likewise.
    change : callable
        ``change(potentiation, depression, positive, negative, *parameters)``: the weight's change from both
        contributions and both bounds' values.
    eligibility : callable, optional
        ``eligibility(c, dw, *eligibility_parameters)``: the eligibility trace after a step in which the change
        would have been ``dw``. Given, the weight moves by ``c * dopamine`` instead of ``dw``.
    positive : tuple of str
        The parameters that must be above 0, as time constants are.

    Raises
    ------
    TypeError
        If the functions take different parameters.
    ValueError
        If a weight would change without a spike (``on_pre(0, trace)``, ``on_post(trace, 0)`` or ``change(0, 0)`` is
        not 0), or a contribution is not linear in the spike.

    Examples
    --------
    >>> stdp.parameters, rstdp.eligibility_parameters
    (('a_plus', 'a_minus'), ('tau_c',))
    """

    name: str
    on_pre: Callable[..., Any]
    on_post: Callable[..., Any]
    change: Callable[..., Any]
    eligibility: Callable[..., Any] | None = None
    positive: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in ("on_pre", "on_post", "change", "eligibility"):
            object.__setattr__(self, part, plain_function(getattr(self, part)))
        _check_signatures(self)
        _check_silence(self)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that ``on_pre``, ``on_post`` and ``change`` take, in order."""
        return _arguments(self.change)[4:]

    @cached_property
    def eligibility_parameters(self) -> tuple[str, ...]:
        """The names of the parameters that ``eligibility`` takes, in order; empty without one."""
        return () if self.eligibility is None else _arguments(self.eligibility)[2:]

    @cached_property
    def positive_at(self) -> tuple[int, ...]:
        """Where the parameters that must be above 0 stand among those of the rule and of its eligibility."""
        names = (*self.parameters, *self.eligibility_parameters)
        return tuple(names.index(name) for name in self.positive)

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions that make the rule."""
        return tuple(signature.function for signature in self.signatures)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """The functions that make the rule, and what each is given."""
        n = len(self.parameters)
        given = [(self.on_pre, 2, n), (self.on_post, 2, n), (self.change, 4, n)]
        if self.eligibility is not None:
            given.append((self.eligibility, 2, len(self.eligibility_parameters)))
        return tuple(Signature(*parts) for parts in given)

    @property
    def modulated(self) -> bool:
        """Whether the rule writes an eligibility trace and leaves the weight to dopamine."""
        return self.eligibility is not None


class Signature(NamedTuple):
    """A function of a formula, and how it is called.

    Attributes
    ----------
    function : callable
        The function.
    tensors, numbers : int
        How many values of synapses it is given, and then how many that are the same for all.
    """

    function: Callable[..., Any]
    tensors: int
    numbers: int

    def samples(self, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
        """Arguments to try the function on: vectors of 61 values within limits and beyond, and numbers."""
        values = torch.linspace(-0.5, 1.5, 61, dtype=dtype, device="cpu")
        vectors = tuple(values if k == 0 else values.roll(7 * k) * 0.75 for k in range(self.tensors))
        return vectors, ((0.1, 0.9) * self.numbers)[: self.numbers]


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments that the engine passes: those without a default."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)


_TAKEN = {
    "rule", "weights", "pre_spike", "pre_trace", "post_spike", "post_trace", "c", "dopamine", "w_min", "w_max",
    "positive_bound", "negative_bound", "clamp", "topology", "backend", "autotune",
}  # fmt: skip


def _check_signatures(rule: Rule) -> None:
    takes = ", ".join(rule.parameters)
    if not isinstance(rule.name, str) or not rule.name:
        raise TypeError(f"a rule's name is {rule.name!r}: give it a text")
    every = (*rule.parameters, *rule.eligibility_parameters)
    twice = sorted({name for name in every if every.count(name) > 1})
    taken = sorted(set(every) & _TAKEN)
    if len(_arguments(rule.change)) < 4 or twice or taken:
        wrong = f"{', '.join(twice or taken)} is taken" if twice or taken else "change takes fewer than four arguments"
        raise TypeError(
            f"rule {rule.name!r}: {wrong}; change(potentiation, depression, positive, negative, ...) and "
            "eligibility(c, dw, ...) say the parameters, each once and none named as an option of a step is"
        )
    unknown = sorted(set(rule.positive) - set(every))
    if isinstance(rule.positive, str) or unknown:
        raise TypeError(f"positive of rule {rule.name!r} is {rule.positive!r}: name some of {', '.join(every)}")
    for part, first in (("on_pre", "spike, post_trace"), ("on_post", "pre_trace, spike")):
        if _arguments(getattr(rule, part))[2:] != rule.parameters:
            raise TypeError(f"{part} of rule {rule.name!r} must take ({first}, {takes}), as change does")


def _check_silence(rule: Rule) -> None:
    """Refuse a rule that the kernels, which visit only synapses of neurons that have spiked, would change."""
    pre, _, change = (s.samples(torch.float64) for s in rule.signatures[:3])
    (values, traces), parameters = pre
    silent = torch.zeros_like(values)
    bounds = change[0][2:]
    try:
        still = {
            "on_pre(0, trace)": rule.on_pre(silent.clone(), traces.clone(), *parameters),
            "on_post(trace, 0)": rule.on_post(traces.clone(), silent.clone(), *parameters),
            "change(0, 0)": rule.change(silent.clone(), silent.clone(), *bounds, *parameters),
        }
        twice = rule.on_pre(2 * values, traces.clone(), *parameters) - 2 * rule.on_pre(values, traces, *parameters)
        once = rule.on_post(traces, 2 * values, *parameters) - 2 * rule.on_post(traces, values, *parameters)
    except Exception:
        return  # it takes no vectors: the reference will say what it makes of the weights
    for what, value in still.items():
        if bool(torch.as_tensor(value != 0, device="cpu").any()):
            raise ValueError(
                f"rule {rule.name!r} changes weights without a spike: {what} must be 0, since only synapses of neurons "
                "that have spiked are visited"
            )
    for what, rest in (("on_pre", twice), ("on_post", once)):
        if not torch.allclose(torch.as_tensor(rest, dtype=torch.float64, device="cpu"), silent, atol=1e-9):
            raise ValueError(f"{what} of rule {rule.name!r} is not linear in the spike, as a sum over positions needs")


stdp = Rule("stdp", _stdp_on_pre, _stdp_on_post, _stdp_change)
"""Pair-based STDP with traces: ``dw = x s_post a_plus B_pos(w) - s_pre y a_minus B_neg(w)`` (CoNeX ``SimpleSTDP``)."""

istdp = Rule("istdp", _istdp_on_pre, _istdp_on_post, _istdp_change)
"""Symmetric inhibitory STDP: ``dw = lr (s_pre (alpha - y) sign + x s_post)`` (Vogels et al. 2011; CoNeX)."""

rstdp = Rule("rstdp", _stdp_on_pre, _stdp_on_post, _stdp_change, _rstdp_eligibility, positive=("tau_c",))
"""Reward-modulated STDP: ``c += -c / tau_c + dw_stdp``, then ``w += c * dopamine`` (CoNeX ``SimpleRSTDP``)."""

RULES: dict[str, Rule] = {rule.name: rule for rule in (stdp, istdp, rstdp)}
"""The rules that a name stands for; :func:`tritonstdp.register_rule` adds to it."""


_OWN = {id(f) for f in (*BOUNDS.values(), *(f for rule in RULES.values() for f in rule.functions))}


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is one of this module, which needs no proof that it compiles to what it says.

    Examples
    --------
    >>> is_own(soft_bound), is_own(max)
    (True, False)
    """
    return id(function) in _OWN


@dataclass(frozen=True, eq=False)
class Formula:
    """All that decides what is computed at one synapse: the identity of a compiled kernel.

    Parameters
    ----------
    rule : Rule
        The rule.
    positive, negative : callable
        The bounds of the contributions of post and of pre spikes.
    clamp : bool
        Whether each weight that the step touches is clipped to ``[w_min, w_max]`` after its change.

    Attributes
    ----------
    choices : dict
        The kernels that the registry has built for it, which live as long as it does.
    """

    rule: Rule
    positive: Bound
    negative: Bound
    clamp: bool
    choices: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # copies build kernels of their own
        return type(self), (self.rule, self.positive, self.negative, self.clamp)

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Every function of the formula, and what each is given."""
        return (*self.rule.signatures, Signature(self.positive, 1, 2), Signature(self.negative, 1, 2))

    @staticmethod
    def of(rule: Rule, positive: Bound = no_bound, negative: Bound = no_bound, clamp: bool = False) -> Formula:
        """The one formula of these parts, so that a look-up by identity finds its kernel.

        Functions that were made anew and say the same, as a lambda at each step, give the same formula; a number that
        a function captures is looked at each time.

        Raises
        ------
        TypeError
            If a bound does not take ``(w, w_min, w_max)``.

        Examples
        --------
        >>> Formula.of(stdp, soft_bound, soft_bound) is Formula.of(stdp, soft_bound, soft_bound)
        True
        >>> Formula.of(stdp, lambda w, w_min, w_max: w) is Formula.of(stdp, lambda w, w_min, w_max: w)
        True
        """
        seen = _SEEN.get((id(rule), id(positive), id(negative), clamp))
        if seen is None or (seen.captured and seen.captured != _captured((*rule.functions, positive, negative))):
            return _formula_of(rule, positive, negative, clamp)
        return seen.formula


class _Seen(NamedTuple):
    """A formula, what it was asked for by (kept, so that an id stays theirs), and the numbers captured then."""

    formula: Formula
    parts: tuple[Any, ...]
    captured: tuple[Any, ...]


_SEEN: dict[tuple[int, int, int, bool], _Seen] = {}
_BY_MEANING: OrderedDict[tuple[Any, ...], Formula] = OrderedDict()
MOST_FORMULAS = 256
"""How many formulas are kept, with what has been compiled for them; the longest unused goes first."""


def _captured(functions: Iterable[Callable[..., Any]]) -> tuple[Any, ...]:
    return tuple(value for function in functions for value in captured_values(function))


_LOCK = Lock()


def _formula_of(rule: Rule, positive: Bound, negative: Bound, clamp: bool) -> Formula:
    if clamp not in (True, False):
        raise TypeError(f"clamp is {clamp!r}: pass True or False")
    if not isinstance(rule, Rule):
        raise TypeError(f"the rule is {rule!r}: pass a Rule, as resolve_rule gives for a name")
    captured = _captured((*rule.functions, positive, negative))
    bounds = checked_bound(positive), checked_bound(negative)
    meaning = (rule.name, *map(_meaning, rule.functions), *map(_meaning, bounds), clamp)
    with _LOCK:
        formula = _BY_MEANING.get(meaning)
        if formula is None:
            formula = _BY_MEANING[meaning] = Formula(
                _as_it_is(rule), _frozen_if_read(bounds[0]), _frozen_if_read(bounds[1]), bool(clamp)
            )
            while len(_BY_MEANING) > MOST_FORMULAS:
                _BY_MEANING.popitem(last=False)
        _BY_MEANING.move_to_end(meaning)
        _SEEN[id(rule), id(positive), id(negative), clamp] = _Seen(formula, (rule, positive, negative), captured)
        while len(_SEEN) > 2 * MOST_FORMULAS:
            del _SEEN[next(iter(_SEEN))]
    return formula


def _frozen_if_read(function: Callable[..., Any]) -> Callable[..., Any]:
    """A formula stands for one meaning: a function that is known by its text must not change under it."""
    return function if content_of(function) is None else frozen(function)


def _as_it_is(rule: Rule) -> Rule:
    if not _captured(rule.functions):
        return rule
    parts = ("on_pre", "on_post", "change", "eligibility")
    now: dict[str, Any] = {part: _frozen_if_read(getattr(rule, part)) for part in parts if getattr(rule, part)}
    return replace(rule, **now)


class _Itself(NamedTuple):
    """The meaning of a function that can't be read: it is that very object, whatever it calls itself equal to."""

    identity: int
    captured: tuple[Any, ...]


def _meaning(function: Callable[..., Any]) -> Any:
    return content_of(function) or _Itself(id(function), captured_values(function))


def checked_bound(bound: Bound) -> Bound:
    """A bound as the engine calls it: what numba or Triton has compiled, as it was written.

    Raises
    ------
    TypeError
        If it does not take ``(w, w_min, w_max)``.

    Examples
    --------
    >>> checked_bound(soft_bound) is soft_bound
    True
    """
    bound = plain_function(bound)
    try:
        inspect.signature(bound).bind(0.5, 0.0, 1.0)
    except TypeError as error:
        raise TypeError(f"bound {name_of(bound)} does not take (w, w_min, w_max): {error}") from None
    except ValueError:
        pass  # some built-in functions don't say what they take
    return bound


def resolve_bound(bound: str | Bound | None) -> Bound:
    """Turn what users give for a bound into the function that it stands for.

    Parameters
    ----------
    bound : str, callable or None
        A name in :data:`BOUNDS`, a function ``(w, w_min, w_max)``, or None for no bound.

    Returns
    -------
    callable
        The bound.

    Raises
    ------
    ValueError
        If the name is not known; the message lists those that are.
    TypeError
        If it is neither a name nor callable.

    Examples
    --------
    >>> resolve_bound("hard_bound") is hard_bound, resolve_bound(None) is no_bound
    (True, True)
    """
    if bound is None:
        return no_bound
    if callable(bound):
        return bound
    if not isinstance(bound, str):
        raise TypeError(f"a bound is a name, a function (w, w_min, w_max) or None, not {bound!r}")
    if bound not in BOUNDS:
        raise ValueError(f"unknown bound {bound!r}: use one of {', '.join(sorted(BOUNDS))}, or pass a function")
    return BOUNDS[bound]


def resolve_rule(rule: str | Rule) -> Rule:
    """Turn a rule's name into the rule.

    Parameters
    ----------
    rule : str or Rule
        A name in :data:`RULES`, or a rule.

    Returns
    -------
    Rule
        The rule.

    Raises
    ------
    ValueError
        If the name is not known; the message lists those that are.

    Examples
    --------
    >>> resolve_rule("stdp") is stdp
    True
    """
    if isinstance(rule, Rule):
        return rule
    if not isinstance(rule, str) or rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: use one of {', '.join(sorted(RULES))}, or pass a Rule")
    return RULES[rule]
