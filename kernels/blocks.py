"""What the Triton kernels share: launches, and what a step does to one block of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from tritonstdp.kernels.compose import Composed, compose
from tritonstdp.kernels.formula_gpu import NUMBERS, device_function, prove
from tritonstdp.kernels.protocol import CannotCompileError, Case
from tritonstdp.rules import Signature

NVIDIA_OPTIONS = ("maxnreg",)
"""Launch options that only Triton's NVIDIA backend takes."""


USUAL_SIGNALS = 4
"""A spike and a trace of either side."""


def launch_options(dtype: torch.dtype, device: str, n_signals: int = USUAL_SIGNALS) -> dict[str, Any]:
    """The options of every launch, for weights of a dtype on a type of device, and so many signals on both sides."""
    # no contraction to fused multiply-add: the bits are CoNeX's, and the kernels are bound by memory anyway
    options: dict[str, Any] = {"enable_fp_fusion": False}
    if (dtype is not torch.float32 or n_signals > USUAL_SIGNALS) and device != "xpu" and torch.version.hip is None:
        # unless told that it need not, ptxas spills a value or two to fit one more warp
        options["maxnreg"] = 168
    return options


@triton.jit
def clipped(w, w_min, w_max):
    """``w`` within its limits: comparisons keep NaN, which tl.maximum and tl.minimum drop, and the sign of a zero."""
    w = tl.where(w < w_min, w_min, w)
    return tl.where(w > w_max, w_max, w)


_WORDS = {"where": "tl.where", "met": "tl.where", "real": None, "clip": "clipped"}
_PARTS: dict[str, Any] = {}


def device_formula(case: Case, bound_first: bool) -> Composed:
    """A case's formula as device functions; raises ``CannotCompileError`` where Triton can't take it."""
    if len(case.names.numbers) - case.names.n_scalars > NUMBERS:
        raise CannotCompileError(
            f"{case.formula.rule.name} has {len(case.names.numbers)} parameters; a launch carries {NUMBERS}"
        )

    def compile_formula(signature: Signature) -> tuple[str, Any]:
        prove(signature)
        compiled = device_function(signature.function)
        return compiled.__name__, compiled

    def compile_part(part: Callable[..., Any]) -> Any:
        # parts of one name say the same: one serves all, since kernels are told apart by them
        return _PARTS.setdefault(part.__name__, triton.jit(part))

    namespace = {"tl": tl, "clipped": clipped, "__name__": __name__}
    return compose(case.formula, case.names, bound_first, _WORDS, namespace, compile_formula, compile_part)


@triton.jit
def values_at(pointers, k, mask, REAL: tl.constexpr):
    """The values of a side's signals at some neurons; 0 outside the mask."""
    values = ()
    for n in tl.static_range(len(pointers)):
        values += (tl.load(pointers[n] + k, mask=mask, other=0).to(REAL),)  # type: ignore[assignment]
    return values


@triton.jit
def values_of(spike, pointers, k, mask, REAL: tl.constexpr):
    """The same where the spike has been read already, or is known."""
    values = (spike,)
    for n in tl.static_range(1, len(pointers)):
        values += (tl.load(pointers[n] + k, mask=mask, other=0).to(REAL),)  # type: ignore[assignment]
    return values


@triton.jit
def spiking_at(pointers, k, mask, REAL: tl.constexpr):
    """The same of neurons that have spiked, in vectors: a bool spike need not be read again."""
    if pointers[0].dtype.element_ty == tl.int1:
        return values_of(tl.full([1], 1.0, REAL), pointers, k, mask, REAL)
    else:
        return values_at(pointers, k, mask, REAL)


@triton.jit
def each_at(values, at: tl.constexpr):
    """Scalars, or vectors along one axis, as blocks of two: ``at`` is the axis that they lack."""
    blocks = ()
    for n in tl.static_range(len(values)):
        blocks += (tl.expand_dims(values[n], at),)  # type: ignore[assignment]
    return blocks


def real_type(dtype: torch.dtype) -> Any:
    """The type to compute in: half precision is widened to float32 and rounded once, at the store."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def number_passing(case: Case) -> Callable[[Sequence[Any], float, float], tuple[Any, ...]]:
    """What makes of a step's numbers and limits what a launch takes: padded, those that lie in tensors, the limits."""
    split = len(case.names.numbers) - case.names.n_scalars
    padding = (0.0,) * (NUMBERS - split)

    def passed(numbers: Sequence[Any], w_min: float, w_max: float) -> tuple[Any, ...]:
        return *numbers[:split], *padding, tuple(numbers[split:]), w_min, w_max

    return passed
