"""The reference: formulas called as they are on torch tensors, on any device and in any dtype.

It decides what is right. A topology adds how spikes and traces meet the weights (:class:`Pairing`).

The term of a silent neuron does not exist: ``on_pre`` counts only where the pre neuron has just spiked, ``on_post``
only where the post neuron has, and each is exactly 0 elsewhere, whatever the trace and the bound. A synapse of which
neither has spiked changes by exactly 0: a plain rule leaves its weight as it is (also -0.0, an infinity or NaN), a
modulated one lets its eligibility decay. Hence an infinite or NaN trace, or bound, reaches only the synapses at which
it is read. Everything else is what the formula gives in torch: NaN stays NaN under a clamp, and 0 times an infinite
bound is NaN. Where all is finite, this is the formula itself, but for the sign of a weight that is zero.

The weights of a convolution are shared by all positions: contributions of silent neurons count as 0 in its sums, and
each weight is changed (and clamped) by its sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.kernels.compose import compose
from tritonstdp.kernels.protocol import Step
from tritonstdp.rules import Formula, Rule, is_own

HALF = (torch.float16, torch.bfloat16)


class Pairing(NamedTuple):
    """How a topology's spikes and traces meet its weights.

    Attributes
    ----------
    terms : callable
        ``terms(rule, topology, pre_spike, pre_trace, post_spike, post_trace, parameters)``: potentiation and
        depression as the formula has them, of a shape that broadcasts to the weights.
    spiking : callable, optional
        ``spiking(topology, pre_spike, post_spike)``: whether the pre and whether the post neuron of each synapse has
        spiked; broadcasts likewise. Without it, silent neurons are not told apart, and every synapse is changed.
    bound_first : bool
        See :func:`tritonstdp.kernels.compose.compose`.
    divisor : callable, optional
        ``divisor(topology)``: what a summed change is divided by; None where nothing is summed.
    plain_terms : callable, optional
        As ``terms``, without a look at values, where ``terms`` needs one.
    """

    terms: Callable[..., tuple[Tensor, Tensor]]
    spiking: Callable[..., tuple[Tensor, Tensor]] | None = None
    bound_first: bool = False
    divisor: Callable[[Any], float] | None = None
    plain_terms: Callable[..., tuple[Tensor, Tensor]] | None = None

    def touched(self, topology: Any, pre_spike: Tensor, post_spike: Tensor) -> Tensor:
        """Whether a step may change a synapse; broadcasts to the weights."""
        if self.spiking is None:
            return torch.ones((), dtype=torch.bool, device=pre_spike.device)
        pre, post = self.spiking(topology, pre_spike, post_spike)
        return pre | post

    def plain(self) -> Pairing:
        """The same without care for silent neurons: the bare formula, right where traces and bounds are finite."""
        return Pairing(self.plain_terms or self.terms, None, self.bound_first, self.divisor)


def on_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    """A user's function on copies of its tensors, since it may write into them."""
    if is_own(function):
        return function

    def guarded(*arguments):  # type: ignore[no-untyped-def]
        return function(*(a.clone() if isinstance(a, Tensor) else a for a in arguments))

    return guarded


def elementwise(
    at_pre: Callable[[Any, Tensor], Tensor], at_post: Callable[[Any, Tensor], Tensor], bound_first: bool = False
) -> Pairing:
    """The pairing of a topology each of whose weights has one pre and one post neuron.

    Parameters
    ----------
    at_pre, at_post : callable
        ``at_pre(topology, values)``: the value of its pre (post) neuron at each synapse; broadcasts to the weights.
    bound_first : bool
        See :func:`tritonstdp.kernels.compose.compose`.
    """

    def terms(rule, topology, s, x, q, y, parameters):  # type: ignore[no-untyped-def]
        return (
            rule.on_post(at_pre(topology, x), at_post(topology, q), *parameters),
            rule.on_pre(at_pre(topology, s), at_post(topology, y), *parameters),
        )

    def spiking(topology, s, q):  # type: ignore[no-untyped-def]
        return at_pre(topology, s) != 0, at_post(topology, q) != 0

    return Pairing(terms, spiking, bound_first)


def _change(
    pairing: Pairing,
    formula: Formula,
    topology: Any,
    weights: Tensor,
    pre_spike: Tensor,
    pre_trace: Tensor,
    post_spike: Tensor,
    post_trace: Tensor,
    parameters: Sequence[Any],
    w_min: Any,
    w_max: Any,
) -> tuple[Tensor, Tensor | None]:
    """The change where a neuron has spiked, and where that is; None: everywhere."""
    rule: Rule = formula.rule
    potentiation, depression = pairing.terms(rule, topology, pre_spike, pre_trace, post_spike, post_trace, parameters)
    pre: Any = True
    post: Any = True
    touched = None
    if pairing.spiking is not None:
        pre, post = pairing.spiking(topology, pre_spike, post_spike)
        potentiation, depression = torch.where(post, potentiation, 0), torch.where(pre, depression, 0)
        touched = pre | post
    functions = compose(formula, pairing.bound_first, on_copies)
    dw = functions.change(weights, potentiation, depression, post, pre, w_min, w_max, parameters)
    return dw if pairing.divisor is None else dw / pairing.divisor(topology), touched


def weight_change(
    pairing: Pairing,
    formula: Formula,
    topology: Any,
    weights: Tensor,
    pre_spike: Tensor,
    pre_trace: Tensor,
    post_spike: Tensor,
    post_trace: Tensor,
    parameters: Sequence[Any],
    w_min: Any,
    w_max: Any,
) -> Tensor:
    """The change that a step would make (for a modulated rule: what it adds to the eligibility); nothing is written."""
    dw, touched = _change(
        pairing, formula, topology, weights, pre_spike, pre_trace, post_spike, post_trace, parameters, w_min, w_max
    )
    return dw if touched is None else torch.where(touched, dw, 0)


def build(pairing: Pairing, formula: Formula) -> Step:
    """Build the reference step of a topology from its pairing."""
    functions = compose(formula, pairing.bound_first, on_copies)
    modulated = formula.rule.modulated

    @torch.no_grad()
    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        # half precision is computed in float32 and rounded once, where it is stored
        half = weights.dtype in HALF
        compute = torch.float32 if half else weights.dtype
        w, x, y, eligibility = (t.float() if half and t is not None else t for t in (weights, pre_trace, post_trace, c))
        s, q = pre_spike.to(compute), post_spike.to(compute)
        dw, touched = _change(pairing, formula, topology, w, s, x, q, y, parameters, w_min, w_max)
        if modulated and touched is not None:
            dw = torch.where(touched, dw, 0)
        new_weights, new_c = functions.finish(w, dw, eligibility, dopamine, w_min, w_max, decay)
        if not modulated and touched is not None:
            new_weights = torch.where(touched, new_weights, w)
        weights.copy_(new_weights)
        if c is not None:
            c.copy_(new_c)

    return step
