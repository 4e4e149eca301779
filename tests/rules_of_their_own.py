"""Small rules and a bound that no shipped one is like: what parity tests run beside those."""

from tritonstdp.rules import Rule


def _tagged_on_pre(pre_spike, post_trace, pre_slow, *, a2_minus, a3_minus):
    return pre_spike * post_trace * (a2_minus + a3_minus * pre_slow)


def _tagged_on_post(post_spike, pre_trace, post_slow, *, a2_plus, a3_plus):
    return post_spike * pre_trace * (a2_plus + a3_plus * post_slow)


def _tagged(c, dw, w, w_max, *, tau_tag):
    return c - c / tau_tag + dw * (w_max - w)


TAGGED = Rule("tagged", _tagged_on_pre, _tagged_on_post, eligibility=_tagged, positive=("tau_tag",))
"""Two traces a side, of which a spike reads both its own; and an eligibility that reads the weight."""


def _weighted_on_pre(pre_spike, post_trace, w, *, target):
    return pre_spike * (target * post_trace - w)


def _weighted_on_post(post_spike, pre_trace, w_max, *, gain):
    return post_spike * (w_max - gain * pre_trace)


def _weighted_change(potentiation, depression, positive, negative, w, *, leak):
    return potentiation * positive * (1 - leak * w) + depression * negative


WEIGHTED = Rule("weighted", _weighted_on_pre, _weighted_on_post, _weighted_change)
"""Contributions and a change that read the weight or its limits, so that no contribution is a property of neurons."""


def _alone_on_pre(pre_spike, *, cost):
    return pre_spike * cost


def _alone_on_post(post_spike):
    return post_spike * 0.25


SPIKES_ALONE = Rule("spikes_alone", _alone_on_pre, _alone_on_post)
"""No traces at all."""

RULES_OF_TESTS = {rule.name: rule for rule in (TAGGED, WEIGHTED, SPIKES_ALONE)}

TELLING = ("stdp", "rstdp", "triplet", *RULES_OF_TESTS)
"""The rules between which kernels differ most, where each takes seconds to compile: others are like one of them."""


def POWER(w, w_min, w_max, *, mu):
    """A bound with a parameter of its own."""
    return (w_max - w) * (mu * w - w_min)
