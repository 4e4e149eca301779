"""Convolutions in Triton: one launch sums what the positions contribute, a second applies the sums to the weights.

A program of the first launch takes one output channel, some taps and a share of the positions, and skips each chunk of
positions in which nothing that it sees has spiked. The shares' sums lie side by side and are added in a fixed order.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.device import (
    change,
    counted,
    device_formula,
    dopamine_arguments,
    finish,
    launch_options,
    real_type,
    scalars,
)
from tritonstdp.kernels.formula_gpu import PARAMETERS, fp64, pack, quotient
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    taps : int
        Synapses of an output channel that one program sums.
    chunk : int
        Positions that it takes, or skips, at once.
    splits : int
        Programs that share the positions.
    num_warps : int
        Warps a program.
    """

    taps: int = 16
    chunk: int = 64
    splits: int = 4
    num_warps: int = 4


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {
    "taps": (8, 16),
    "chunk": (32, 64),
    "splits": (1, 2, 4, 8, 16),
    "num_warps": (4, 8),
}
"""No combination spills; 32 taps, 128 positions or 2 warps do with some rule, dtype and GPU."""
APPLY_BLOCK = 256


@triton.jit
def conv2d_sums_kernel(
    sums_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr,
    c_out, taps, height, width, positions, share, out_width, pad_h, pad_w,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, N_PARAMETERS: tl.constexpr, REAL: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    TAPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sum potentiation and depression of some taps over a share of the positions."""
    parameters = pack(p0, p1, p2, p3, N_PARAMETERS, REAL)
    blocks = tl.cdiv(taps, TAPS)
    program = tl.program_id(0)
    channel = program // blocks % c_out
    split = program // blocks // c_out
    k = program % blocks * TAPS + tl.arange(0, TAPS)
    tap = k[:, None]
    potentiation = tl.zeros([TAPS, CHUNK], REAL)
    depression = tl.zeros([TAPS, CHUNK], REAL)
    for start in range(split * share, tl.minimum(split * share + share, positions), CHUNK):
        p = start + tl.arange(0, CHUNK)
        post = channel * positions + p
        row = (p // out_width)[None, :] * SH - pad_h + tap // KW % KH
        column = (p % out_width)[None, :] * SW - pad_w + tap % KW
        pre = (tap // (KH * KW) * height + row) * width + column
        inside = (tap < taps) & (p < positions)[None, :]
        seen = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        post_spike = tl.load(post_spike_ptr + post, mask=p < positions, other=0).to(REAL)
        if tl.max((post_spike != 0).to(tl.int32), axis=0) != 0:
            pre_trace = tl.load(pre_trace_ptr + pre, mask=seen, other=0.0).to(REAL)
            potentiation += counted(ON_POST(pre_trace, post_spike[None, :], *parameters), post_spike[None, :])
        pre_spike = tl.load(pre_spike_ptr + pre, mask=seen, other=0).to(REAL)
        if tl.max(tl.max((pre_spike != 0).to(tl.int32), axis=1), axis=0) != 0:
            post_trace = tl.load(post_trace_ptr + post, mask=p < positions, other=0.0).to(REAL)
            depression += counted(ON_PRE(pre_spike, post_trace[None, :], *parameters), pre_spike)
    by_post = sums_ptr + (2 * split * c_out + channel).to(tl.int64) * taps + k
    tl.store(by_post, tl.sum(potentiation, axis=1), mask=k < taps)
    tl.store(by_post + tl.cast(c_out, tl.int64) * taps, tl.sum(depression, axis=1), mask=k < taps)


@triton.jit
def conv2d_apply_kernel(
    w_ptr, c_ptr, sums_ptr, dopamine_ptr, total,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, low: fp64, high: fp64, d0: fp64, d1: fp64, number: fp64, divisor: fp64,
    CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr, ELIGIBILITY: tl.constexpr,
    CLAMP: tl.constexpr, N_PARAMETERS: tl.constexpr, N_DECAYS: tl.constexpr, REAL: tl.constexpr,
    DOPAMINE_IS_TENSOR: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the shares' sums and update the weights by them."""
    parameters = pack(p0, p1, p2, p3, N_PARAMETERS, REAL)
    decay = pack(d0, d1, 0.0, 0.0, N_DECAYS, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    synapse = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = synapse < total
    w = tl.load(w_ptr + synapse, mask=inside, other=0.0).to(REAL)
    potentiation = tl.zeros([BLOCK], REAL)
    depression = tl.zeros([BLOCK], REAL)
    at = sums_ptr + synapse
    for _ in range(SPLITS):
        potentiation += tl.load(at, mask=inside, other=0.0)
        depression += tl.load(at + total, mask=inside, other=0.0)
        at += 2 * total
    c = w
    dopamine = tl.full([], number, REAL)
    if ELIGIBILITY is not None:
        c = tl.load(c_ptr + synapse, mask=inside, other=0.0).to(REAL)
        if DOPAMINE_IS_TENSOR:
            dopamine = tl.load(dopamine_ptr).to(REAL)
    positive, negative = POSITIVE(w, w_min, w_max), NEGATIVE(w, w_min, w_max)
    dw = change(potentiation, depression, positive, negative, parameters, CHANGE, True)
    dw = quotient(dw, tl.full([], divisor, REAL))
    w, c = finish(w, dw, c, dopamine, w_min, w_max, decay, ELIGIBILITY, CLAMP)
    tl.store(w_ptr + synapse, w.to(w_ptr.dtype.element_ty), mask=inside)
    if ELIGIBILITY is not None:
        tl.store(c_ptr + synapse, c.to(c_ptr.dtype.element_ty), mask=inside)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case.formula)
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    dopamine_is_tensor = case.dopamine != "number"
    kernel_size, stride = case.kernel_key
    # kept from the first step on, so that a captured graph finds the sums where they were
    scratch: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()

    def sums_of(topology: Any, weights: Tensor) -> Tensor:
        sums = scratch.get(topology)
        if sums is None or sums.device != weights.device:
            dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
            shape = (config.splits, 2, *weights.shape)
            sums = scratch[topology] = torch.empty(shape, dtype=dtype, device=weights.device)
        return sums

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        sums = sums_of(topology, weights)
        c_out, total = weights.shape[0], weights.numel()
        taps = total // c_out
        (_, height, width), (_, _, out_width) = topology.src_shape, topology.dst_shape
        share = triton.cdiv(triton.cdiv(topology.positions, config.splits), config.chunk) * config.chunk
        pointer, number, _ = dopamine_arguments(dopamine, weights)
        values = scalars(parameters, w_min, w_max, decay)
        conv2d_sums_kernel[(triton.cdiv(taps, config.taps) * c_out * config.splits,)](
            sums, pre_spike, pre_trace, post_spike, post_trace,
            c_out, taps, height, width, topology.positions, share, out_width, *topology.padding, *values[:PARAMETERS],
            formula.ON_PRE, formula.ON_POST, formula.N_PARAMETERS, real, *kernel_size, *stride,
            config.taps, config.chunk, num_warps=config.num_warps, **options,
        )  # fmt: skip
        conv2d_apply_kernel[(triton.cdiv(total, APPLY_BLOCK),)](
            weights, weights if c is None else c, sums, pointer, total, *values, number, float(topology.weight_divisor),
            *formula[2:], real, dopamine_is_tensor, config.splits, APPLY_BLOCK,
            num_warps=config.num_warps, **options,
        )  # fmt: skip

    return step
