"""A recorded stretch of spikes in one call: traces and weights, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.compiler import is_compiling

from tritonstdp.functional import prepare, topology_of, trace_, update_
from tritonstdp.kernels.memory import check_apart
from tritonstdp.rules import Rule, resolve_rule

__all__ = ["replay_"]

_OF_PAIRS = ("pre_trace", "post_trace")
_OF_TRACES = ("tau", "dt", "scale", "nearest", "trace_first")


def replay_(
    rule: str | Rule,
    weights: Tensor,
    *,
    tau: float | Mapping[str, float],
    dt: float = 1.0,
    scale: float = 1.0,
    nearest: bool = False,
    trace_first: bool = True,
    **arguments: Any,
) -> Tensor:
    """Update weights and traces by a recorded stretch of spikes, in place: all of its steps, one after the other.

    Parameters
    ----------
    rule : str or Rule
        The rule, or its name.
    weights : Tensor
        As for :func:`tritonstdp.update_`.
    tau : float or mapping
        The time constant of the traces, or that of each by its name, in the unit of ``dt``.
    dt, scale, nearest
        As for :func:`tritonstdp.trace_`.
    trace_first : bool
        Whether ``pre_trace`` and ``post_trace`` take in a step's spikes before the weights change, as in CoNeX and
        BindsNET, or after it. Further traces, as those of triplets, are read as they were before the step.
    **arguments
        What :func:`tritonstdp.update_` takes for the rule. The spikes are those of all steps, ``(T, n_pre)`` and
        ``(T, n_post)``, or ``(T, B, n)`` of a batch. Of the other signals, one with as many dimensions is recorded too;
        one of a step's shape is a trace, which is advanced in place; once, where both sides of a recurrent group are
        given the same spikes and the same trace. ``dopamine`` may have one value a step, ``(T,)``.

    Returns
    -------
    Tensor
        ``weights``: the same bits as by calling :func:`tritonstdp.trace_` and :func:`tritonstdp.update_` in a loop.

    Raises
    ------
    ValueError, TypeError
        If something does not fit, before anything is written.

    Examples
    --------
    >>> import torch
    >>> w, x, y = torch.full((1, 1), 0.5), torch.zeros(1), torch.zeros(1)
    >>> pre, post = torch.tensor([[True], [False]]), torch.tensor([[False], [True]])
    >>> replay_("stdp", w, pre_spike=pre, post_spike=post, pre_trace=x, post_trace=y, tau=10.0, a_plus=0.1, a_minus=0.1)
    tensor([[0.5810]])
    >>> x, y
    (tensor([0.8100]), tensor([0.9000]))
    """
    rule = resolve_rule(rule)
    for name in _OF_TRACES:
        if name in rule.parameters:
            raise ValueError(f"{rule.name} has a parameter {name!r}, which is the traces' here: use trace_ and update_")
    steps, recorded, held = _recorded(rule, arguments)
    traces = {name: held[name] for name in (*rule.pre, *rule.post) if name in held}
    taus = _taus(tau, traces)
    advanced = _advanced(rule, traces, recorded, taus)

    def step(t: int) -> None:
        signals: dict[str, Any] = {name: values[t] for name, values in recorded.items()}

        def advance(first: bool) -> None:
            for name, trace in advanced.items():
                if first == (trace_first and name in _OF_PAIRS):
                    spikes = signals[rule.pre[0] if name in rule.pre else rule.post[0]]
                    trace_(trace, spikes, tau=taus[name], dt=dt, scale=scale, nearest=nearest)

        advance(True)
        update_(rule, weights, **signals, **held)
        advance(False)

    if steps and not is_compiling():  # as a graph holds no more than the steps
        with prepare():  # which takes back what the first step writes, so that what does not fit is known in time
            step(0)
        values = topology_of(weights, held.get("topology")).values(weights)
        written = {"weights": values, **({"c": held["c"]} if rule.modulated else {}), **advanced}
        for name, tensor in written.items():  # the first step has not looked at memory that later ones read
            others = {**recorded, **advanced}
            check_apart(name, tensor, tuple((other, also) for other, also in others.items() if other != name))
    for t in range(steps):
        step(t)
    return weights


def _recorded(rule: Rule, arguments: dict[str, Any]) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """How many steps there are, what has values of each, and what is the same at all."""
    pre, post = (arguments.get(name) for name in (rule.pre[0], rule.post[0]))
    for name, values in ((rule.pre[0], pre), (rule.post[0], post)):
        if not isinstance(values, Tensor) or values.dim() not in (2, 3):
            given = f"of {values.dim()} dimensions" if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"{name} is {given}: pass all steps' spikes, as (T, n) or, of a batch, (T, B, n)")
    assert pre is not None and post is not None
    if pre.dim() != post.dim():
        raise ValueError(f"{rule.pre[0]} has {pre.dim()} dimensions, {rule.post[0]} {post.dim()}: they must agree")
    names = [n for n in (*rule.pre, *rule.post) if getattr(arguments.get(n), "ndim", 0) == pre.dim()]
    if getattr(arguments.get("dopamine"), "ndim", 0) == 1:
        names.append("dopamine")
    for name in names:
        if getattr(arguments[name], "is_nested", False):
            raise ValueError(f"{name} is a nested tensor: pass a plain one, whose steps are alike")
        if len(arguments[name]) != len(pre):
            raise ValueError(f"{name} has {len(arguments[name])} steps, {rule.pre[0]} {len(pre)}: they must agree")
    recorded = {name: arguments[name] for name in names}
    return len(pre), recorded, {name: value for name, value in arguments.items() if name not in recorded}


def _taus(tau: float | Mapping[str, float], traces: Mapping[str, Tensor]) -> Mapping[str, float]:
    if not isinstance(tau, Mapping):
        return dict.fromkeys(traces, tau)
    if set(tau) != set(traces):
        raise ValueError(
            f"tau names {', '.join(map(str, tau)) or 'no trace'}: the traces given are {', '.join(traces) or 'none'}"
        )
    return tau


def _advanced(
    rule: Rule, traces: Mapping[str, Tensor], recorded: Mapping[str, Tensor], taus: Mapping[str, float]
) -> dict[str, Tensor]:
    """The traces, each once: both sides of a recurrent group may have the same."""
    one_group = recorded[rule.pre[0]] is recorded[rule.post[0]]

    def is_of_both_sides(name: str) -> bool:
        twin = name.replace("post_", "pre_", 1)
        return one_group and twin != name and traces[name] is traces.get(twin) and taus[name] == taus[twin]

    return {name: trace for name, trace in traces.items() if not is_of_both_sides(name)}
