"""Triplet STDP (Pfister & Gerstner 2006, doi 10.1523/JNEUROSCI.1425-06.2006, equations 3 and 4, all to all).

A slow trace on either side makes a pair's effect depend on the last spike but one::

    on a pre spike    dw = -o1 (A2- + A3- r2)      o1, o2: the fast and the slow trace of the post neuron
    on a post spike   dw = +r1 (A2+ + A3+ o2)      r1, r2: those of the pre neuron

``pre_trace`` is r1, ``pre_slow`` r2, ``post_trace`` o1, ``post_slow`` o2. The paper reads the slow traces just before
the spike of this moment counts: update those after learning. Its fit to visual cortex (table 4, all to all, minimal):
A2+ = 0, A3+ = 6.5e-3, A2- = 7.1e-3, A3- = 0, tau+ 16.8 ms, tau- 33.7 ms, tau_y (of o2) 114 ms.
"""

from __future__ import annotations

from typing import Any

from tritonstdp.registry import register_rule
from tritonstdp.rules import Rule, modulated

__all__ = ["triplet", "triplet_modulated"]


def _on_pre(pre_spike: Any, post_trace: Any, pre_slow: Any, *, a2_minus: Any, a3_minus: Any) -> Any:
    return pre_spike * post_trace * (a2_minus + a3_minus * pre_slow)


def _on_post(post_spike: Any, pre_trace: Any, post_slow: Any, *, a2_plus: Any, a3_plus: Any) -> Any:
    return post_spike * pre_trace * (a2_plus + a3_plus * post_slow)


triplet = Rule("triplet", _on_pre, _on_post)
"""``dw = s_post r1 (A2+ + A3+ o2) B_pos(w) - s_pre o1 (A2- + A3- r2) B_neg(w)``."""

triplet_modulated = modulated(triplet, "triplet_modulated")
"""``triplet``, feeding an eligibility trace that dopamine turns into learning."""

register_rule(triplet)
register_rule(triplet_modulated)
