"""Every formula of the project, once: the bounds, the rules, and the traces that they read.

The functions here are arithmetic on their arguments and nothing else, so that one function object serves three
compilers: called as it is on torch tensors (the reference), by ``numba.njit`` on scalars (the CPU kernels), and by
``triton.jit`` on blocks (the GPU kernels). A bound or a rule that follows suit runs everywhere.

Symbols: ``w`` the weight, ``spike`` 1 (or a float spike's value) where a neuron has just fired and 0 elsewhere,
``trace`` the low-pass filtered spikes of the neuron on the other side.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

__all__ = [
    "BOUNDS",
    "RULES",
    "Bound",
    "Formula",
    "Rule",
    "hard_bound",
    "istdp",
    "no_bound",
    "resolve_bound",
    "resolve_rule",
    "rstdp",
    "soft_bound",
    "stdp",
    "target_trace",
    "updated_trace",
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
    return (w > w_min) * (w < w_max)


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


BOUNDS: dict[str, Bound] = {"soft_bound": soft_bound, "hard_bound": hard_bound, "no_bound": no_bound}
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

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that ``on_pre``, ``on_post`` and ``change`` take, in order."""
        return tuple(inspect.signature(self.change).parameters)[4:]

    @cached_property
    def eligibility_parameters(self) -> tuple[str, ...]:
        """The names of the parameters that ``eligibility`` takes, in order; empty without one."""
        if self.eligibility is None:
            return ()
        return tuple(inspect.signature(self.eligibility).parameters)[2:]

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """The functions that make the rule."""
        written = (self.on_pre, self.on_post, self.change, self.eligibility)
        return tuple(function for function in written if function is not None)

    @property
    def modulated(self) -> bool:
        """Whether the rule writes an eligibility trace and leaves the weight to dopamine."""
        return self.eligibility is not None


stdp = Rule("stdp", _stdp_on_pre, _stdp_on_post, _stdp_change)
"""Pair-based STDP with traces: ``dw = x s_post a_plus B_pos(w) - s_pre y a_minus B_neg(w)`` (CoNeX ``SimpleSTDP``)."""

istdp = Rule("istdp", _istdp_on_pre, _istdp_on_post, _istdp_change)
"""Symmetric inhibitory STDP: ``dw = lr (s_pre (alpha - y) sign + x s_post)`` (Vogels et al. 2011; CoNeX)."""

rstdp = Rule("rstdp", _stdp_on_pre, _stdp_on_post, _stdp_change, _rstdp_eligibility)
"""Reward-modulated STDP: ``c += -c / tau_c + dw_stdp``, then ``w += c * dopamine`` (CoNeX ``SimpleRSTDP``)."""

RULES: dict[str, Rule] = {rule.name: rule for rule in (stdp, istdp, rstdp)}
"""The rules that a name stands for; :func:`tritonstdp.register_rule` adds to it."""


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
    """

    rule: Rule
    positive: Bound
    negative: Bound
    clamp: bool

    @staticmethod
    @cache
    def of(rule: Rule, positive: Bound = no_bound, negative: Bound = no_bound, clamp: bool = False) -> Formula:
        """The one formula of these parts, so that a look-up by identity finds its kernel.

        Examples
        --------
        >>> Formula.of(stdp, soft_bound, soft_bound) is Formula.of(stdp, soft_bound, soft_bound)
        True
        """
        return Formula(rule, positive, negative, clamp)


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
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: use one of {', '.join(sorted(RULES))}, or pass a Rule")
    return RULES[rule]
