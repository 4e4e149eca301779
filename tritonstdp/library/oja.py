"""Symmetric Hebbian learning with Oja's decay (Oja 1982, doi 10.1007/BF00275687), by spikes and their traces.

Oja's ``dw = lr y (x - y w)`` keeps the norm of a neuron's weights and turns them towards the inputs that vary together.
Here a spike on either side pairs with the trace of the other, and each post spike takes from the weight what its own
trace says::

    on a pre spike    dw = lr y           x: the trace of the pre neuron
    on a post spike   dw = lr (x - decay y w)           y: that of the post neuron

As both kinds of spikes count ``x y``, the weights of a neuron settle at a norm of sqrt(2 / decay).
"""

from __future__ import annotations

from typing import Any

from tritonstdp.registry import register_rule
from tritonstdp.rules import Rule, modulated

__all__ = ["oja", "oja_modulated"]


def _on_pre(pre_spike: Any, post_trace: Any) -> Any:
    return pre_spike * post_trace


def _on_post(post_spike: Any, pre_trace: Any, post_trace: Any, w: Any, *, decay: Any) -> Any:
    return post_spike * (pre_trace - decay * post_trace * w)


def _change(potentiation: Any, depression: Any, positive: Any, negative: Any, *, lr: Any) -> Any:
    return lr * (potentiation * positive + depression * negative)


oja = Rule("oja", _on_pre, _on_post, _change)
"""``dw = lr (s_post (x - decay y w) B_pos(w) + s_pre y B_neg(w))``; Oja's rule has no bounds."""

oja_modulated = modulated(oja, "oja_modulated")
"""``oja``, feeding an eligibility trace that dopamine turns into learning."""

register_rule(oja)
register_rule(oja_modulated)
