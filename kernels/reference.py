"""The reference: formulas called as they are on torch tensors, on any device and in any dtype.

It decides what is right. A topology adds how spikes and traces meet the weights (:class:`Pairing`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.kernels.compose import compose
from tritonstdp.kernels.protocol import Step
from tritonstdp.rules import Formula, Rule

HALF = (torch.float16, torch.bfloat16)


class Pairing(NamedTuple):
    """How a topology's spikes and traces meet its weights.

    Attributes
    ----------
    terms : callable
        ``terms(rule, topology, pre_spike, pre_trace, post_spike, post_trace, parameters)``: potentiation and
        depression, of a shape that broadcasts to the weights.
    touched : callable
        ``touched(topology, pre_spike, post_spike)``: whether a neuron of a synapse has spiked; broadcasts likewise.
    bound_first : bool
        See :func:`tritonstdp.kernels.compose.compose`.
    divisor : callable
        ``divisor(topology)``: what a summed change is divided by; None where nothing is summed.
    """

    terms: Callable[..., tuple[Tensor, Tensor]]
    touched: Callable[..., Tensor]
    bound_first: bool = False
    divisor: Callable[[Any], float] | None = None


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
    rule: Rule = formula.rule
    potentiation, depression = pairing.terms(rule, topology, pre_spike, pre_trace, post_spike, post_trace, parameters)
    functions = compose(formula, pairing.bound_first)
    dw = functions.change(weights, potentiation, depression, w_min, w_max, parameters)
    return dw if pairing.divisor is None else dw / pairing.divisor(topology)


def build(pairing: Pairing, formula: Formula) -> Step:
    """Build the reference step of a topology from its pairing."""
    functions = compose(formula, pairing.bound_first)
    touched_only = formula.clamp and not formula.rule.modulated

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        # half precision is computed in float32 and rounded once, where it is stored
        half = weights.dtype in HALF
        compute = torch.float32 if half else weights.dtype
        w, x, y, eligibility = (t.float() if half and t is not None else t for t in (weights, pre_trace, post_trace, c))
        s, q = pre_spike.to(compute), post_spike.to(compute)
        dw = weight_change(pairing, formula, topology, w, s, x, q, y, parameters, w_min, w_max)
        new_weights, new_c = functions.finish(w, dw, eligibility, dopamine, w_min, w_max, decay)
        if touched_only:
            new_weights = torch.where(pairing.touched(topology, s, q), new_weights, w)
        weights.copy_(new_weights)
        if c is not None:
            c.copy_(new_c)

    return step
