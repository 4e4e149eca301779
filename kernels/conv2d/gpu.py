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

from tritonstdp.kernels.blocks import (
    device_formula,
    each_at,
    launch_numbers,
    launch_options,
    real_type,
    values_at,
    values_of,
)
from tritonstdp.kernels.formula_gpu import fp64, numbers_of, quotient
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
    sums_ptr, w_ptr, pre, post, c_out, taps, height, width, positions, share, out_width, pad_h, pad_w,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    PRE_TERM: tl.constexpr, POST_TERM: tl.constexpr, READS_W: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    TAPS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Sum potentiation and depression of some taps over a share of the positions."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    blocks = tl.cdiv(taps, TAPS)
    program = tl.program_id(0)
    channel = program // blocks % c_out
    split = program // blocks // c_out
    k = program % blocks * TAPS + tl.arange(0, TAPS)
    tap = k[:, None]
    w = tl.zeros([TAPS, 1], REAL)
    if READS_W:
        w = tl.load(w_ptr + channel.to(tl.int64) * taps + tap, mask=tap < taps, other=0.0).to(REAL)
    potentiation = tl.zeros([TAPS, CHUNK], REAL)
    depression = tl.zeros([TAPS, CHUNK], REAL)
    for start in range(split * share, tl.minimum(split * share + share, positions), CHUNK):
        p = start + tl.arange(0, CHUNK)
        j = channel * positions + p
        row = (p // out_width)[None, :] * SH - pad_h + tap // KW % KH
        column = (p % out_width)[None, :] * SW - pad_w + tap % KW
        i = (tap // (KH * KW) * height + row) * width + column
        there = p < positions
        seen = (tap < taps) & there[None, :] & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        post_spike = tl.load(post[0] + j, mask=there, other=0).to(REAL)
        if tl.max((post_spike != 0).to(tl.int32), axis=0) != 0:
            at_post = each_at(values_of(post_spike, post, j, there, REAL), 0)
            term = POST_TERM(values_at(pre, i, seen, REAL), at_post, numbers, w, w_min, w_max)
            potentiation += tl.where(post_spike[None, :] != 0, term, 0.0)
        pre_spike = tl.load(pre[0] + i, mask=seen, other=0).to(REAL)
        if tl.max(tl.max((pre_spike != 0).to(tl.int32), axis=1), axis=0) != 0:
            at_post = each_at(values_of(post_spike, post, j, there, REAL), 0)
            term = PRE_TERM(values_of(pre_spike, pre, i, seen, REAL), at_post, numbers, w, w_min, w_max)
            depression += tl.where(pre_spike != 0, term, 0.0)
    by_post = sums_ptr + (2 * split * c_out + channel).to(tl.int64) * taps + k
    tl.store(by_post, tl.sum(potentiation, axis=1), mask=k < taps)
    tl.store(by_post + tl.cast(c_out, tl.int64) * taps, tl.sum(depression, axis=1), mask=k < taps)


@triton.jit
def conv2d_apply_kernel(
    w_ptr, c_ptr, sums_ptr, total, divisor: fp64,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    CHANGED: tl.constexpr, MOVED: tl.constexpr, MODULATED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the shares' sums and update the weights by them."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
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
    if MODULATED:
        c = tl.load(c_ptr + synapse, mask=inside, other=0.0).to(REAL)
    dw = CHANGED(w, potentiation, depression, True, True, (), (), numbers, w_min, w_max)
    dw = quotient(dw, tl.full([], divisor, REAL))
    w, c = MOVED(w, dw, c, (), (), numbers, w_min, w_max)
    tl.store(w_ptr + synapse, w.to(w_ptr.dtype.element_ty), mask=inside)
    if MODULATED:
        tl.store(c_ptr + synapse, c.to(c_ptr.dtype.element_ty), mask=inside)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case, bound_first=True)
    n_signals = len(case.names.pre) + len(case.names.post)
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device, n_signals)
    kernel_size, stride = case.kernel_key
    n_passed = len(case.names.numbers) - case.names.n_scalars
    reads_w = any("w" in case.formula.signatures[part].reads for part in ("on_pre", "on_post"))
    of_sums = (
        formula.pre_term, formula.post_term, reads_w, n_passed, real, *kernel_size, *stride, config.taps, config.chunk
    )  # fmt: skip
    of_apply = formula.changed, formula.moved, case.modulated, n_passed, real, config.splits, APPLY_BLOCK
    # kept from the first step on, so that a captured graph finds the sums where they were
    scratch: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()

    def sums_of(topology: Any, weights: Tensor) -> Tensor:
        sums = scratch.get(topology)
        if sums is None or sums.device != weights.device:
            dtype = torch.float64 if case.dtype == torch.float64 else torch.float32
            shape = (config.splits, 2, *weights.shape)
            sums = scratch[topology] = torch.empty(shape, dtype=dtype, device=weights.device)
        return sums

    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        sums = sums_of(topology, weights)
        c_out, total = weights.shape[0], weights.numel()
        taps = total // c_out
        (_, height, width), (_, _, out_width) = topology.src_shape, topology.dst_shape
        share = triton.cdiv(triton.cdiv(topology.positions, config.splits), config.chunk) * config.chunk
        passed = launch_numbers(case, numbers, w_min, w_max)
        conv2d_sums_kernel[(triton.cdiv(taps, config.taps) * c_out * config.splits,)](
            sums, weights, tuple(pre), tuple(post),
            c_out, taps, height, width, topology.positions, share, out_width, *topology.padding, *passed, *of_sums,
            num_warps=config.num_warps, **options,
        )  # fmt: skip
        conv2d_apply_kernel[(triton.cdiv(total, APPLY_BLOCK),)](
            weights, weights if c is None else c, sums, total, float(topology.weight_divisor), *passed, *of_apply,
            num_warps=config.num_warps, **options,
        )  # fmt: skip

    return step
