"""Every formula of the project, once: the bounds, the rules, and the traces that they read.

The functions here are arithmetic on their arguments and nothing else, so that one function serves three compilers:
called as it is on torch tensors (the reference), and read from its source (``tritonstdp.source``) by ``numba.njit``
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
from types import FunctionType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tritonstdp.source import captured_values, content_of, frozen, name_of, plain_function
from tritonstdp.vocabulary import where

__all__ = [
    "BOUNDS",
    "RULES",
    "Bound",
    "Formula",
    "Rule",
    "Signature",
    "difference",
    "hard_bound",
    "istdp",
    "lower_bound",
    "modulated",
    "nearest_trace",
    "no_bound",
    "resolve_bound",
    "resolve_rule",
    "rewarded",
    "rstdp",
    "soft_bound",
    "stdp",
    "target_trace",
    "updated_trace",
    "upper_bound",
]

Bound = Callable[..., Any]
"""A function ``(w, w_min, w_max)``, with parameters of its own behind a ``*``, that multiplies a contribution."""


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


def difference(potentiation: Any, depression: Any, positive: Any, negative: Any) -> Any:
    """The change of a rule that says no other: ``potentiation * positive - depression * negative``.

    Parameters
    ----------
    potentiation, depression : scalar or tensor
        What post and pre spikes contribute.
    positive, negative : scalar or tensor
        Their bounds' values.

    Returns
    -------
    scalar or tensor
        The weight's change.

    Examples
    --------
    >>> difference(0.5, 0.25, 1, 0.5)
    0.375
    """
    return potentiation * positive - depression * negative


def rewarded(c: Any, dw: Any, *, tau_c: Any) -> Any:
    """The eligibility trace of CoNeX: ``c + (-c / tau_c + dw)``.

    Parameters
    ----------
    c : scalar or tensor
        The eligibility trace before the step.
    dw : scalar or tensor
        The change that the weight would have made.
    tau_c : scalar
        The time constant, in steps.

    Returns
    -------
    scalar or tensor
        The eligibility trace after the step (Izhikevich 2007, doi 10.1093/cercor/bhl152; CoNeX ``SimpleRSTDP``).

    Examples
    --------
    >>> rewarded(1.0, 0.5, tau_c=10.0)
    1.4
    """
    return c + (-c / tau_c + dw)


def _pair_on_pre(pre_spike: Any, post_trace: Any) -> Any:
    return pre_spike * post_trace


def _pair_on_post(pre_trace: Any, post_spike: Any) -> Any:
    return pre_trace * post_spike


def _stdp_change(potentiation: Any, depression: Any, positive: Any, negative: Any, *, a_plus: Any, a_minus: Any) -> Any:
    return potentiation * a_plus * positive - depression * a_minus * negative


def _istdp_on_pre(pre_spike: Any, post_trace: Any, *, alpha: Any, sign: Any) -> Any:
    return pre_spike * ((alpha - post_trace) * sign)


def _istdp_change(potentiation: Any, depression: Any, positive: Any, negative: Any, *, lr: Any) -> Any:
    return lr * (depression * negative + potentiation * positive)


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


def nearest_trace(trace: Any, spike: Any, scale: Any, tau: Any, dt: Any) -> Any:
    """Set a trace by the spikes of this step, forgetting earlier ones, then let it decay.

    Parameters
    ----------
    trace, spike, scale, tau, dt : scalar or tensor
        As for :func:`updated_trace`.

    Returns
    -------
    scalar or tensor
        The trace after the step, with which each spike pairs with the nearest one before it alone (Morrison et al.
        2008, doi 10.1007/s00422-008-0233-1).

    Examples
    --------
    >>> nearest_trace(1.0, 1.0, 1.0, 10.0, 1.0)
    0.9
    """
    trace = where(spike != 0, spike * scale, trace)
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


STATE = ("w", "w_min", "w_max")
"""What every function of a rule but the eligibility may read of a synapse, beside its signals."""

READS: dict[str, tuple[str, ...]] = {
    "on_pre": STATE,
    "on_post": STATE,
    "change": ("potentiation", "depression", "positive", "negative", *STATE),
    "eligibility": ("c", "dw", *STATE),
}
"""What the arguments of a rule's functions may be called; those of ``on_pre`` and ``on_post`` also after signals."""


@dataclass(frozen=True, eq=False)
class Rule:
    """A plasticity rule: pure functions of one synapse, from which each topology and backend builds its kernel.

    A function says by its arguments' names what it reads. ``pre_...`` and ``post_...`` are signals, one value a neuron
    of that side: ``pre_spike`` and ``post_spike``, and as many traces or other values as the rule cares to name. ``w``,
    ``w_min`` and ``w_max`` are the weight and its limits. Keyword-only arguments are the rule's parameters.

    Parameters
    ----------
    name : str
        The name under which the registry, the command line and the tables know it.
    on_pre : callable
        What a spike of the pre neuron contributes, as ``on_pre(pre_spike, post_trace, *, a_minus)``. It must be 0 where
        ``pre_spike`` is 0, since the kernels visit only synapses of which a neuron has spiked, and linear in
        ``pre_spike``, since a convolution sums it over positions.
    on_post : callable
        What a spike of the post neuron contributes; likewise in ``post_spike``.
    change : callable
        ``change(potentiation, depression, positive, negative, *, ...)``: the weight's change from what ``on_post`` and
        ``on_pre`` contribute and from both bounds' values; by default :func:`tritonstdp.rules.difference`.
    eligibility : callable, optional
        ``eligibility(c, dw, *, ...)``: the eligibility trace after a step in which the change would have been ``dw``.
        Given, the weight moves by ``c * dopamine`` instead of ``dw``; see :func:`modulated`.
    positive : tuple of str
        The parameters that must be above 0, as time constants are.

    Attributes
    ----------
    pre, post : tuple of str
        The signals of each side that the rule reads; the spikes come first.
    parameters : tuple of str
        The parameters of ``on_pre``, ``on_post`` and ``change``, in this order.

    Raises
    ------
    TypeError
        If a function reads what is no signal, state or parameter.
    ValueError
        If a weight would change without a spike (a contribution is not 0 where its spike is, or ``change`` not where
        both contributions are), a contribution is not linear in the spike, or ``change`` reads a bound otherwise than
        as a factor of its own contribution.

    Examples
    --------
    Triplet STDP (Pfister & Gerstner 2006, doi 10.1523/JNEUROSCI.1425-06.2006) reads a second, slower post trace:

    >>> def on_pre(pre_spike, post_trace, *, a_minus):
    ...     return pre_spike * post_trace * a_minus
    >>> def on_post(post_spike, pre_trace, post_slow, *, a2_plus, a3_plus):
    ...     return post_spike * pre_trace * (a2_plus + a3_plus * post_slow)
    >>> rule = Rule("my_triplet", on_pre, on_post)
    >>> rule.post, rule.parameters
    (('post_spike', 'post_trace', 'post_slow'), ('a_minus', 'a2_plus', 'a3_plus'))
    """

    name: str
    on_pre: Callable[..., Any]
    on_post: Callable[..., Any]
    change: Callable[..., Any] = difference
    eligibility: Callable[..., Any] | None = None
    positive: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in READS:
            object.__setattr__(self, part, plain_function(getattr(self, part)))
        _check_signatures(self)
        _check_silence(self)
        _check_bounds_multiply(self)

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """What each function of the rule reads, by the function's place in the rule."""
        parts = (part for part in READS if part != "eligibility" or self.modulated)
        return {part: Signature.of(getattr(self, part)) for part in parts}

    @cached_property
    def pre(self) -> tuple[str, ...]:
        return self._signals("pre_")

    @cached_property
    def post(self) -> tuple[str, ...]:
        return self._signals("post_")

    def _signals(self, side: str) -> tuple[str, ...]:
        read = (*self.signatures["on_pre"].reads, *self.signatures["on_post"].reads)
        return tuple(dict.fromkeys((f"{side}spike", *(name for name in read if name.startswith(side)))))

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        return self._parameters("on_pre", "on_post", "change")

    @cached_property
    def spike_parameters(self) -> tuple[str, ...]:
        """The parameters that nothing but a neuron's contribution depends on, rather than what becomes of it."""
        of_change = self.signatures["change"].parameters
        return tuple(name for name in self._parameters("on_pre", "on_post") if name not in of_change)

    @cached_property
    def eligibility_parameters(self) -> tuple[str, ...]:
        """The parameters of ``eligibility``; empty without one."""
        return self._parameters("eligibility")

    def _parameters(self, *parts: str) -> tuple[str, ...]:
        taken = (self.signatures[part].parameters for part in parts if part in self.signatures)
        return tuple(dict.fromkeys(name for names in taken for name in names))

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions that make the rule."""
        return tuple(signature.function for signature in self.signatures.values())

    @property
    def modulated(self) -> bool:
        """Whether the rule writes an eligibility trace and leaves the weight to dopamine."""
        return self.eligibility is not None


class Signature(NamedTuple):
    """A function of a formula, and what it reads.

    Attributes
    ----------
    function : callable
        The function.
    reads : tuple of str
        Its arguments, but for those that have a value already.
    parameters : tuple of str
        Its keyword-only arguments; likewise.
    """

    function: Callable[..., Any]
    reads: tuple[str, ...]
    parameters: tuple[str, ...]

    @staticmethod
    def of(function: Callable[..., Any]) -> Signature:
        """Read a function's signature.

        Raises
        ------
        TypeError
            If it takes any number of arguments, or can't be called.
        """
        try:
            open_ones = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        except (TypeError, ValueError):
            raise TypeError(f"{function!r} does not say what it takes: pass a function") from None
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in open_ones):
            raise TypeError(f"{name_of(function)} takes any number of arguments: name those that it reads")
        named = {kind: tuple(p.name for p in open_ones if (p.kind is p.KEYWORD_ONLY) is kind) for kind in (False, True)}
        return Signature(function, named[False], named[True])

    def call(self, reads: Iterable[Any], parameters: Iterable[Any]) -> Any:
        """Call the function."""
        return self.function(*reads, **dict(zip(self.parameters, parameters, strict=True)))

    def samples(self, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[float, ...]]:
        """Arguments to try the function on: vectors of 61 values within limits and beyond, and numbers."""
        values = torch.linspace(-0.5, 1.5, 61, dtype=dtype, device="cpu")
        vectors = tuple(values if k == 0 else values.roll(7 * k) * 0.75 for k in range(len(self.reads)))
        n = len(self.parameters)
        return vectors, ((0.1, 0.9) * n)[:n]


def modulated(rule: Rule, name: str) -> Rule:
    """The reward-modulated version of a rule: its change feeds an eligibility trace, on which dopamine acts.

    Parameters
    ----------
    rule : Rule
        Any plain rule.
    name : str
        The new rule's name.

    Returns
    -------
    Rule
        ``c += -c / tau_c + dw``, then ``w += c * dopamine`` (:func:`tritonstdp.rules.rewarded`).

    Raises
    ------
    ValueError
        If the rule is modulated already.

    Examples
    --------
    >>> modulated(istdp, "ristdp").eligibility_parameters
    ('tau_c',)
    """
    if not isinstance(rule, Rule):
        raise TypeError(f"{rule!r} is no Rule: pass one, as RULES has them by name")
    if rule.modulated:
        raise ValueError(f"rule {rule.name!r} is modulated already: pass the rule that it was made from")
    return replace(rule, name=name, eligibility=rewarded, positive=(*rule.positive, "tau_c"))


_TAKEN = {
    "rule", "weights", "c", "dopamine", "w", "w_min", "w_max", "positive_bound", "negative_bound", "clamp", "topology",
    "backend", "autotune", "reduction", "potentiation", "depression", "positive", "negative", "dw",
}  # fmt: skip
"""What a parameter may not be called: other arguments of a step, and what functions of a formula read by that name."""


def _check_signatures(rule: Rule) -> None:
    if not isinstance(rule.name, str) or not rule.name:
        raise TypeError(f"a rule's name is {rule.name!r}: give it a text")
    for part, (_, reads, parameters) in rule.signatures.items():
        known, signals = READS[part], part in ("on_pre", "on_post")
        foreign = [n for n in reads if n not in known and not (signals and n.startswith(("pre_", "post_")))]
        wanted = ("pre_... and post_... for signals, " if signals else "") + ", ".join(known)
        if foreign:
            raise TypeError(
                f"{part} of rule {rule.name!r} reads {', '.join(foreign)}: its arguments are named {wanted}, and "
                "parameters stand behind a *"
            )
        taken = [n for n in parameters if _is_taken(n)]
        if taken:
            raise TypeError(
                f"{part} of rule {rule.name!r} has a parameter {', '.join(taken)}: the name is taken (what a function "
                "reads of neurons and synapses stands before the *)"
            )
    every = (*rule.parameters, *rule.eligibility_parameters)
    twice = sorted(set(rule.parameters) & set(rule.eligibility_parameters))
    if twice:
        raise TypeError(f"rule {rule.name!r}: {', '.join(twice)} is a parameter of the change and of the eligibility")
    given = isinstance(rule.positive, (tuple, list)) and all(isinstance(name, str) for name in rule.positive)
    unknown = not given or set(rule.positive) - set(every)
    if unknown:
        raise TypeError(f"positive of rule {rule.name!r} is {rule.positive!r}: name some of {', '.join(every)}")


def _is_taken(parameter: str) -> bool:
    return parameter in _TAKEN or parameter.startswith(("pre_", "post_"))


def _check_silence(rule: Rule) -> None:
    """Refuse a rule that the kernels, which visit only synapses of neurons that have spiked, would change."""
    for part, silent in (("on_pre", ("pre_spike",)), ("on_post", ("post_spike",)), ("change", _CONTRIBUTIONS)):
        try:
            still, once, twice = (_tried(rule.signatures[part], dict.fromkeys(silent, k)) for k in (0.0, 1.0, 2.0))
        except Exception:
            continue  # it takes no vectors: the reference will say what it makes of the weights
        known = once.isfinite()  # a power or a logarithm is no number everywhere, and 0 times that is none either
        if bool((known & (still != 0)).any()):
            unread = [name for name in silent if name not in rule.signatures[part].reads]
            if part != "change" and unread:
                reads = ", ".join(rule.signatures[part].reads)
                raise ValueError(f"{part} of rule {rule.name!r} does not read {unread[0]}: it reads {reads}")
            raise ValueError(
                f"rule {rule.name!r} changes weights without a spike: {part} must be 0 where {' and '.join(silent)} "
                f"{'are' if len(silent) > 1 else 'is'}, since only synapses of neurons that have spiked are visited"
            )
        if part != "change" and not torch.allclose(twice[known], 2 * once[known], atol=1e-9):
            raise ValueError(f"{part} of rule {rule.name!r} is not linear in the spike, as a sum over positions needs")


def _check_bounds_multiply(rule: Rule) -> None:
    """Refuse a change that would depend on whether a contribution has met its bound already, as on some topologies."""
    vectors, _ = rule.signatures["change"].samples(torch.float64)
    given = dict(zip(rule.signatures["change"].reads, vectors, strict=True))
    nothing = torch.ones(61, dtype=torch.float64, device="cpu")
    met = {
        contribution: given.get(contribution, nothing) * given.get(bound, nothing)
        for contribution, bound in zip(_CONTRIBUTIONS, _BOUNDS_OF, strict=True)
    }
    try:
        apart, together = (
            _tried(rule.signatures["change"], {}, of) for of in ({}, met | dict.fromkeys(_BOUNDS_OF, nothing))
        )
    except Exception:
        return
    if not torch.allclose(apart, together, atol=1e-9, equal_nan=True):
        raise ValueError(
            f"change of rule {rule.name!r} must read each bound as a factor of its own contribution alone, as "
            "potentiation * positive and depression * negative: on some topologies they are multiplied before"
        )


def _tried(signature: Signature, factors: dict[str, float], given: dict[str, Tensor] | None = None) -> Tensor:
    """What a function gives for its samples, some of them multiplied or replaced."""
    vectors, numbers = signature.samples(torch.float64)
    named = dict(zip(signature.reads, vectors, strict=True)) | (given or {})
    values = (factors.get(name, 1.0) * named[name] for name in signature.reads)
    return torch.as_tensor(signature.call(values, numbers), dtype=torch.float64, device="cpu")


_CONTRIBUTIONS, _BOUNDS_OF = ("potentiation", "depression"), ("positive", "negative")

stdp = Rule("stdp", _pair_on_pre, _pair_on_post, _stdp_change)
"""Pair-based STDP with traces: ``dw = x s_post a_plus B_pos(w) - s_pre y a_minus B_neg(w)`` (CoNeX ``SimpleSTDP``)."""

istdp = Rule("istdp", _istdp_on_pre, _pair_on_post, _istdp_change)
"""Symmetric inhibitory STDP: ``dw = lr (s_pre (alpha - y) sign + x s_post)`` (Vogels et al. 2011; CoNeX)."""

rstdp = modulated(stdp, "rstdp")
"""Reward-modulated STDP: ``c += -c / tau_c + dw_stdp``, then ``w += c * dopamine`` (CoNeX ``SimpleRSTDP``)."""

RULES: dict[str, Rule] = {rule.name: rule for rule in (stdp, istdp, rstdp)}
"""The rules that a name stands for; :func:`tritonstdp.register_rule` adds to it."""


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is one of this package, which needs no proof that it compiles to what it says.

    Examples
    --------
    >>> is_own(soft_bound), is_own(max)
    (True, False)
    """
    # not its __module__, which a decorator copies
    return isinstance(function, FunctionType) and str(function.__globals__.get("__name__")).startswith("tritonstdp.")


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
    operation : str
        What kernels do with it, beside ``tritonstdp.kernels.propagation.Propagation``.
    """

    rule: Rule
    positive: Bound
    negative: Bound
    clamp: bool
    choices: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)
    operation: ClassVar[str] = "plasticity"

    def __reduce__(self) -> tuple[Any, ...]:
        # copies build kernels of their own
        return type(self), (self.rule, self.positive, self.negative, self.clamp)

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """What every function of the formula reads, by its place in the formula."""
        bounds = {part: _bound_signature(getattr(self, part)) for part in ("positive", "negative")}
        return {**self.rule.signatures, **bounds}

    @property
    def name(self) -> str:
        """The rule's name."""
        return self.rule.name

    @property
    def described(self) -> dict[str, Any]:
        """As plain values, for tables and JSON."""
        bounds = {"positive_bound": name_of(self.positive), "negative_bound": name_of(self.negative)}
        return {"rule": self.name, **bounds, "clamp": self.clamp}

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions that make the formula."""
        return tuple(signature.function for signature in self.signatures.values())

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """What a step is given values of, in order: the rule's parameters, those of its bounds and of its eligibility.

        Dopamine is the last, where the rule is modulated.
        """
        return (*self.own_parameters, "dopamine") if self.rule.modulated else self.own_parameters

    @cached_property
    def own_parameters(self) -> tuple[str, ...]:
        """The parameters less the dopamine, which is a network's."""
        return (*self.rule.parameters, *self.bound_parameters, *self.rule.eligibility_parameters)

    @cached_property
    def bound_parameters(self) -> tuple[str, ...]:
        """The parameters of both bounds; one that both have is one."""
        taken = (self.signatures[part].parameters for part in ("positive", "negative"))
        return tuple(dict.fromkeys(name for names in taken for name in names))

    @cached_property
    def all_numbers(self) -> tuple[str, ...]:
        """How the parameters are given where each is a number: see :class:`tritonstdp.kernels.protocol.Case`."""
        return ("number",) * len(self.parameters)

    @cached_property
    def positive_at(self) -> tuple[int, ...]:
        """Where the parameters that must be above 0 stand among all."""
        return tuple(self.parameters.index(name) for name in self.rule.positive)

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
    _check_bound_parameters(rule, bounds)
    meaning = (*meaning_of_rule(rule), *map(meaning_of, bounds), clamp)
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
    now: dict[str, Any] = {part: _frozen_if_read(s.function) for part, s in rule.signatures.items()}
    return replace(rule, **now)


class _Itself(NamedTuple):
    """The meaning of a function that can't be read: it is that very object, whatever it calls itself equal to."""

    identity: int
    captured: tuple[Any, ...]


def meaning_of(function: Callable[..., Any]) -> Any:
    """What tells a function from others: its text and what it captured where these can be read, or else itself."""
    return content_of(function) or _Itself(id(function), captured_values(function))


def meaning_of_rule(rule: Rule) -> tuple[Any, ...]:
    """What tells a rule from others."""
    return rule.name, tuple(rule.positive), *map(meaning_of, rule.functions)


def checked_bound(bound: Bound) -> Bound:
    """A bound as the engine calls it: what numba or Triton has compiled, as it was written.

    Raises
    ------
    TypeError
        If it does not take ``(w, w_min, w_max)``, and whatever else behind a ``*``.

    Examples
    --------
    >>> checked_bound(soft_bound) is soft_bound
    True
    """
    bound = plain_function(bound)
    parameters = _bound_signature(bound).parameters
    try:
        inspect.signature(bound).bind(0.5, 0.0, 1.0, **dict.fromkeys(parameters, 1.0))
    except TypeError as error:
        raise TypeError(f"bound {name_of(bound)} does not take (w, w_min, w_max): {error}") from None
    except ValueError:
        pass  # some built-in functions don't say what they take
    return bound


def _bound_signature(bound: Bound) -> Signature:
    """What a bound reads: the weight and its limits, whatever it calls them, and its parameters."""
    try:
        parameters = Signature.of(bound).parameters
    except TypeError:  # as built-in functions and those with *args
        parameters = ()
    return Signature(bound, STATE, parameters)


def _check_bound_parameters(rule: Rule, bounds: tuple[Bound, Bound]) -> None:
    for bound in bounds:
        own = {*rule.parameters, *rule.eligibility_parameters}
        both = sorted(name for name in _bound_signature(bound).parameters if name in own or _is_taken(name))
        if both:
            raise TypeError(f"bound {name_of(bound)} has a parameter {', '.join(both)}: {rule.name} or a step takes it")


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
