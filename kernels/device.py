"""What the Triton kernels share: launches, and what a step does to one block of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from tritonstdp.kernels.formula_gpu import DECAYS, PARAMETERS, device_function, prove
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.rules import Formula

NVIDIA_OPTIONS = ("maxnreg",)
"""Launch options that only Triton's NVIDIA backend takes."""


def launch_options(dtype: torch.dtype, device: str) -> dict[str, Any]:
    """The options of every launch, for weights of a dtype on a type of device."""
    # no contraction to fused multiply-add: the bits are CoNeX's, and the kernels are bound by memory anyway
    options: dict[str, Any] = {"enable_fp_fusion": False}
    if dtype is not torch.float32 and device != "xpu" and torch.version.hip is None:
        # unless told that it need not, ptxas spills a value or two of other dtypes to fit one more warp
        options["maxnreg"] = 168
    return options


class DeviceFormula(NamedTuple):
    """A formula's functions, as constexpr arguments of a kernel."""

    ON_PRE: Any
    ON_POST: Any
    CHANGE: Any
    POSITIVE: Any
    NEGATIVE: Any
    ELIGIBILITY: Any
    CLAMP: bool
    N_PARAMETERS: int
    N_DECAYS: int


def device_formula(formula: Formula) -> DeviceFormula:
    """Turn a formula into what kernels take; raises ``CannotCompileError`` where Triton can't."""
    rule = formula.rule
    n_parameters, n_decays = len(rule.parameters), len(rule.eligibility_parameters)
    if n_parameters > PARAMETERS or n_decays > DECAYS:
        raise CannotCompileError(
            f"{rule.name} has {n_parameters} and {n_decays} parameters; a launch carries {PARAMETERS} and {DECAYS}"
        )
    for signature in formula.signatures:
        prove(signature)
    on_pre, on_post, change, positive, negative = (
        device_function(f) for f in (rule.on_pre, rule.on_post, rule.change, formula.positive, formula.negative)
    )
    eligibility = None if rule.eligibility is None else device_function(rule.eligibility)
    return DeviceFormula(
        on_pre, on_post, change, positive, negative, eligibility, formula.clamp, n_parameters, n_decays
    )


@triton.jit
def counted(term, spike):
    """A neuron's term, which does not exist where it is silent: 0 times an infinite trace would be NaN."""
    return tl.where(spike != 0, term, 0.0)


@triton.jit
def change(
    potentiation, depression, positive, negative, parameters, CHANGE: tl.constexpr, BOUND_FIRST: tl.constexpr
):  # fmt: skip
    """The weight's change, bounds applied: :func:`tritonstdp.kernels.compose.compose`, for blocks."""
    if BOUND_FIRST:
        return CHANGE(potentiation * positive, depression * negative, 1, 1, *parameters)
    else:
        return CHANGE(potentiation, depression, positive, negative, *parameters)


@triton.jit
def finish(w, dw, c, dopamine, w_min, w_max, decay, ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr):
    """The new weight and eligibility: :func:`tritonstdp.kernels.compose.compose`, for blocks."""
    if ELIGIBILITY is not None:
        c = ELIGIBILITY(c, dw, *decay)
        w = w + c * dopamine
    else:
        w = w + dw
    if CLAMP:
        # comparisons keep NaN, which tl.maximum and tl.minimum drop, and the sign of a zero
        w = tl.where(w < w_min, w_min, w)
        w = tl.where(w > w_max, w_max, w)
    return w, c


@triton.jit
def updated(
    w, c, dopamine, pre_spike, pre_trace, post_spike, post_trace, w_min, w_max, parameters, decay,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, BOUND_FIRST: tl.constexpr,
):  # fmt: skip
    """The new weight and eligibility of synapses, each with one pre and one post neuron.

    What :mod:`tritonstdp.kernels.reference` says of silent neurons holds; ``c`` and ``dopamine`` count for a modulated
    rule only.
    """
    potentiation = counted(ON_POST(pre_trace, post_spike, *parameters), post_spike)
    depression = counted(ON_PRE(pre_spike, post_trace, *parameters), pre_spike)
    # what meets no bound is 0, so that 1 is as good as any, and an infinite bound harms nothing
    positive = tl.where(post_spike != 0, POSITIVE(w, w_min, w_max), 1)
    negative = tl.where(pre_spike != 0, NEGATIVE(w, w_min, w_max), 1)
    dw = change(potentiation, depression, positive, negative, parameters, CHANGE, BOUND_FIRST)
    # an or of comparisons, which Triton's interpreter can't broadcast from a scalar
    touched = tl.where(pre_spike != 0, True, post_spike != 0)
    if ELIGIBILITY is not None:
        dw = tl.where(touched, dw, 0.0)
    new, c = finish(w, dw, c, dopamine, w_min, w_max, decay, ELIGIBILITY, CLAMP)
    if ELIGIBILITY is None:
        new = tl.where(touched, new, w)
    return new, c


def real_type(dtype: torch.dtype) -> Any:
    """The type to compute in: half precision is widened to float32 and rounded once, at the store."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def scalars(parameters: Sequence[float], w_min: float, w_max: float, decay: Sequence[float]) -> tuple[float, ...]:
    """The run-time scalars of a launch, in the order in which every kernel takes them; unused places hold 0."""
    padded = (*parameters, *(0.0,) * (PARAMETERS - len(parameters)))
    return tuple(float(s) for s in (*padded, w_min, w_max, *decay, *(0.0,) * (DECAYS - len(decay))))


def dopamine_arguments(dopamine: Any, weights: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """``(pointer, number, stride)``: a tensor is read on the device, at stride 0 where it is one value for all."""
    if isinstance(dopamine, torch.Tensor):
        return dopamine, 0.0, dopamine.stride(0) if dopamine.dim() else 0
    return weights, dopamine, 0
