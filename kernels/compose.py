"""What a rule and its bounds do at one synapse, composed once for torch tensors and for numba scalars.

The Triton twins, which can't be closures, are ``change`` and ``finish`` of :mod:`tritonstdp.kernels.device`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

import torch

from tritonstdp.rules import Formula


class SynapseFunctions(NamedTuple):
    """The parts of a step at one synapse.

    Attributes
    ----------
    on_pre, on_post : callable
        The rule's own.
    change : callable
        ``change(w, potentiation, depression, post_spiked, pre_spiked, w_min, w_max, parameters)``: the weight's change.
        A contribution meets its bound where its neuron has spiked, and is 0 elsewhere.
    finish : callable
        ``finish(w, dw, c, dopamine, w_min, w_max, decay)``: the new weight and the new eligibility.
    """

    on_pre: Callable[..., Any]
    on_post: Callable[..., Any]
    change: Callable[..., Any]
    finish: Callable[..., Any]


def _identity(x: Any) -> Any:
    return x


def _where_spiked(spiked: Any, bound: Any, one: Any) -> Any:
    # a number stays one, so that the dtype of the weights decides
    if spiked is True or (isinstance(bound, (int, float)) and isfinite(bound)):
        return bound
    return torch.where(spiked, bound, one)


def _clip_tensor(w: torch.Tensor, w_min: Any, w_max: Any) -> torch.Tensor:
    return w.clamp(min=_in_range(w_min, w.dtype)).clamp(max=_in_range(w_max, w.dtype))


def _in_range(limit: Any, dtype: torch.dtype) -> Any:
    """A limit as compiled code rounds it where it is beyond the range of the weights; torch's clamp takes none."""
    within = isinstance(limit, torch.Tensor) or abs(limit) <= torch.finfo(dtype).max
    return limit if within else rounded(limit, dtype)


@lru_cache
def rounded(number: float, dtype: torch.dtype) -> float:
    """A number as a tensor of a dtype would hold it."""
    return torch.tensor(number, dtype=dtype, device="cpu").item()


def compose(
    formula: Formula,
    bound_first: bool,
    compile_formula: Callable[[Callable[..., Any]], Callable[..., Any]] = _identity,
    compile_part: Callable[[Callable[..., Any]], Callable[..., Any]] = _identity,
    real: Callable[[Any], Any] = _identity,
    clip: Callable[[Any, Any, Any], Any] = _clip_tensor,
    where: Callable[[Any, Any, Any], Any] = _where_spiked,
) -> SynapseFunctions:
    """Compose a formula's functions.

    Parameters
    ----------
    formula : Formula
        The rule, its bounds, and whether to clamp.
    bound_first : bool
        Whether a contribution meets its bound before its coefficient. CoNeX multiplies in this order for local and
        convolutional connections and in the other for the rest; the bits depend on it.
    compile_formula, compile_part : callable
        What compiles a formula's functions and the functions composed here.
    real : callable
        Casts to the weights' type. A bound may be a bool or an int, which numba would promote to float64.
    clip : callable
        ``clip(w, w_min, w_max)``.
    where : callable
        ``where(spiked, bound, one)``: a bound where a neuron has spiked, 1 elsewhere.

    Returns
    -------
    SynapseFunctions
        The compiled parts.
    """
    rule, clamp = formula.rule, formula.clamp
    positive, negative = compile_formula(formula.positive), compile_formula(formula.negative)
    rule_change = compile_formula(rule.change)
    eligibility = compile_formula(rule.eligibility) if rule.eligibility is not None else None

    @compile_part
    def bounds(w, post_spiked, pre_spiked, w_min, w_max):  # type: ignore[no-untyped-def]
        # what meets no bound is 0, so that 1 is as good as any, and an infinite bound harms nothing
        one = real(1)
        return (
            where(post_spiked, real(positive(w, w_min, w_max)), one),
            where(pre_spiked, real(negative(w, w_min, w_max)), one),
        )

    if bound_first:

        def change(w, potentiation, depression, post_spiked, pre_spiked, w_min, w_max, parameters):  # type: ignore[no-untyped-def]
            positive_bound, negative_bound = bounds(w, post_spiked, pre_spiked, w_min, w_max)
            bounded = potentiation * positive_bound, depression * negative_bound
            return rule_change(*bounded, real(1), real(1), *parameters)
    else:

        def change(w, potentiation, depression, post_spiked, pre_spiked, w_min, w_max, parameters):  # type: ignore[no-untyped-def]
            positive_bound, negative_bound = bounds(w, post_spiked, pre_spiked, w_min, w_max)
            return rule_change(potentiation, depression, positive_bound, negative_bound, *parameters)

    if eligibility is None:

        def moved(w, dw, c, dopamine, decay):  # type: ignore[no-untyped-def]
            return w + dw, c
    else:

        def moved(w, dw, c, dopamine, decay):  # type: ignore[no-untyped-def]
            c = eligibility(c, dw, *decay)
            return w + c * dopamine, c

    moved = compile_part(moved)

    if clamp:

        def finish(w, dw, c, dopamine, w_min, w_max, decay):  # type: ignore[no-untyped-def]
            w, c = moved(w, dw, c, dopamine, decay)
            return clip(w, w_min, w_max), c
    else:

        def finish(w, dw, c, dopamine, w_min, w_max, decay):  # type: ignore[no-untyped-def]
            return moved(w, dw, c, dopamine, decay)

    return SynapseFunctions(
        compile_formula(rule.on_pre), compile_formula(rule.on_post), compile_part(change), compile_part(finish)
    )
