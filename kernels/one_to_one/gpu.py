"""One-to-one connections in Triton: each program takes one block of synapses."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from tritonstdp.kernels.device import device_formula, dopamine_arguments, launch_options, real_type, scalars, updated
from tritonstdp.kernels.formula_gpu import fp64, pack
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    block : int
        Synapses a program.
    num_warps : int
        Warps a program.
    """

    block: int = 512
    num_warps: int = 4


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"block": (128, 256, 512), "num_warps": (2, 4, 8)}


@triton.jit
def one_to_one_kernel(
    w_ptr, c_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr, dopamine_ptr,
    n, w_stride, c_stride, dopamine_stride,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, low: fp64, high: fp64, d0: fp64, d1: fp64, number: fp64,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, N_PARAMETERS: tl.constexpr, N_DECAYS: tl.constexpr,
    REAL: tl.constexpr, DOPAMINE_IS_TENSOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step over one block; a plain rule reads and writes only synapses of which a neuron has spiked."""
    parameters = pack(p0, p1, p2, p3, N_PARAMETERS, REAL)
    decay = pack(d0, d1, 0.0, 0.0, N_DECAYS, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    pre_spike = tl.load(pre_spike_ptr + i, mask=inside, other=0).to(REAL)
    post_spike = tl.load(post_spike_ptr + i, mask=inside, other=0).to(REAL)
    mine = inside
    if ELIGIBILITY is None:
        mine = inside & ((pre_spike != 0) | (post_spike != 0))
    pre_trace = tl.load(pre_trace_ptr + i, mask=mine, other=0.0).to(REAL)
    post_trace = tl.load(post_trace_ptr + i, mask=mine, other=0.0).to(REAL)
    w = tl.load(w_ptr + i * w_stride, mask=mine, other=0.0).to(REAL)
    c = w
    dopamine = w_min
    if ELIGIBILITY is not None:
        c = tl.load(c_ptr + i * c_stride, mask=mine, other=0.0).to(REAL)
        if DOPAMINE_IS_TENSOR:
            dopamine = tl.load(dopamine_ptr + i * dopamine_stride, mask=mine, other=0.0).to(REAL)
        else:
            dopamine = tl.full([], number, REAL)
    w, c = updated(
        w, c, dopamine, pre_spike, pre_trace, post_spike, post_trace, w_min, w_max, parameters, decay,
        ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, False,
    )  # fmt: skip
    tl.store(w_ptr + i * w_stride, w.to(w_ptr.dtype.element_ty), mask=mine)
    if ELIGIBILITY is not None:
        tl.store(c_ptr + i * c_stride, c.to(c_ptr.dtype.element_ty), mask=mine)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case.formula)
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    dopamine_is_tensor = case.dopamine != "number"

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        if weights.numel() == 0:
            return
        eligibility = weights if c is None else c
        pointer, number, dopamine_stride = dopamine_arguments(dopamine, weights)
        one_to_one_kernel[(triton.cdiv(topology.n, config.block),)](
            weights, eligibility, pre_spike, pre_trace, post_spike, post_trace, pointer,
            topology.n, weights.stride(0), eligibility.stride(0), dopamine_stride,
            *scalars(parameters, w_min, w_max, decay), number,
            *formula, real, dopamine_is_tensor, config.block,
            num_warps=config.num_warps, **options,
        )  # fmt: skip

    return step
