"""Inhibitory STDP (Vogels et al. 2011, doi 10.1126/science.1211095), reward-modulated by an eligibility trace."""

from __future__ import annotations

from tritonstdp.registry import register_rule
from tritonstdp.rules import istdp, modulated

__all__ = ["istdp_modulated"]

istdp_modulated = modulated(istdp, "istdp_modulated")
"""``c += -c / tau_c + lr (s_pre (alpha - y) sign + x s_post)``, then ``w += c * dopamine``."""

register_rule(istdp_modulated)
