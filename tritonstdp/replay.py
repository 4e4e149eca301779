"""A recorded stretch of spikes in one call: traces and weights, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tritonstdp.functional import prepare, trace_, update_
from tritonstdp.rules import Rule, resolve_rule

__all__ = ["replay_"]

_OF_PAIRS = ("pre_trace", "post_trace")


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
        one of a step's shape is a trace, which is advanced in place. ``dopamine`` may have one value a step, ``(T,)``.

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
    steps, recorded, held = _recorded(rule, arguments)
    traces = {name: held[name] for name in (*rule.pre, *rule.post) if name in held}
    taus = _taus(tau, traces)

    def step(t: int) -> None:
        signals: dict[str, Any] = {name: values[t] for name, values in recorded.items()}

        def advance(first: bool) -> None:
            for name, trace in traces.items():
                if first == (trace_first and name in _OF_PAIRS):
                    spikes = signals[rule.pre[0] if name in rule.pre else rule.post[0]]
                    trace_(trace, spikes, tau=taus[name], dt=dt, scale=scale, nearest=nearest)

        advance(True)
        update_(rule, weights, **signals, **held)
        advance(False)

    if steps:
        with prepare():  # which takes back what the first step writes, so that what does not fit is known in time
            step(0)
    for t in range(steps):
        step(t)
    return weights


def _recorded(rule: Rule, arguments: dict[str, Any]) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """How many steps there are, what has values of each, and what is the same at all."""
    spikes = {name: arguments.get(name) for name in (rule.pre[0], rule.post[0])}
    for name, values in spikes.items():
        if not isinstance(values, Tensor) or values.dim() not in (2, 3):
            shape = tuple(values.shape) if isinstance(values, Tensor) else values
            raise ValueError(f"{name} is {shape}: pass all steps' spikes, as (T, n) or, of a batch, (T, B, n)")
    pre, post = spikes.values()
    assert pre is not None and post is not None
    names = [n for n in (*rule.pre, *rule.post) if getattr(arguments.get(n), "ndim", 0) == pre.dim()]
    if getattr(arguments.get("dopamine"), "ndim", 0) == 1:
        names.append("dopamine")
    for name in names:
        if len(arguments[name]) != len(pre):
            raise ValueError(f"{name} has {len(arguments[name])} steps, {rule.pre[0]} {len(pre)}: they must agree")
    recorded = {name: arguments[name] for name in names}
    return len(pre), recorded, {name: value for name, value in arguments.items() if name not in recorded}


def _taus(tau: float | Mapping[str, float], traces: Mapping[str, Tensor]) -> Mapping[str, float]:
    if not isinstance(tau, Mapping):
        return dict.fromkeys(traces, tau)
    if set(tau) != set(traces):
        raise ValueError(
            f"tau names {', '.join(tau) or 'no trace'}: the traces given are {', '.join(traces) or 'none'}"
        )
    return tau
