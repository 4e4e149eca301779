"""One-to-one connections in Triton: each program takes one block of synapses."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels import items
from tritonstdp.kernels.batches_gpu import WORD, Samples, change_of_word, moved_by_all, word_of
from tritonstdp.kernels.blocks import device_formula, launch_options, real_type, values_at, values_of
from tritonstdp.kernels.event_lists import listed_step
from tritonstdp.kernels.formula_gpu import fp64, numbers_of
from tritonstdp.kernels.launch import Launch
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

    block: int = 256
    num_warps: int = 4


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"block": (128, 256, 512), "num_warps": (2, 4, 8)}


def pass_bytes(n: int, itemsize: int) -> int:
    """What a pass over so many synapses moves: weights both ways, and a trace of either side."""
    return 4 * itemsize * n


@triton.jit
def after_samples(
    w_at, c_at, i, n, inside, pre, post, numbers, w_min, w_max,
    DELTA: tl.constexpr, MOVED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """Which synapses a batch changes, and their new weights and eligibilities; no mask of spikes serves two."""
    here = values_at(pre, i, inside, REAL)
    there = values_at(post, i, inside, REAL)
    mine = inside & MODULATED
    w = tl.load(w_at, mask=mine, other=0.0).to(REAL)
    c = w
    if MODULATED:
        c = tl.load(c_at, mask=mine, other=0.0).to(REAL)
    dw = tl.zeros_like(w)
    for word in range((SAMPLES[0] + WORD - 1) // WORD):
        of_pre = word_of(pre[0], i, word * WORD, n, inside, SAMPLES[0])
        of_post = word_of(post[0], i, word * WORD, n, inside, SAMPLES[0])
        fresh = ((of_pre | of_post) != 0) & ~mine
        w = tl.where(fresh, tl.load(w_at, mask=fresh, other=0.0).to(REAL), w)
        mine |= fresh
        dw = change_of_word(
            dw, w, inside, word, of_pre, of_post, i, i, inside, pre, post, n, n, here, there, numbers, w_min, w_max,
            DELTA, REAL, True, SAMPLES,
        )  # fmt: skip
    w, c = moved_by_all(w, c, dw, mine, here, there, numbers, w_min, w_max, MOVED, MODULATED, REAL, True, SAMPLES)
    return mine, w, c


@triton.jit
def one_to_one_kernel(
    w_ptr, c_ptr, lists, pre, post,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64, n, w_stride, c_stride,
    FORMULA: tl.constexpr, OTHER_FORMULA: tl.constexpr, MODULATED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr,
    BLOCK: tl.constexpr, SAMPLES: tl.constexpr, EAGER: tl.constexpr,
):  # fmt: skip
    """One step over one block; a plain rule writes only synapses of which a neuron has spiked.

    In large groups it reads no others, either; in small ones nothing waits for the spikes.
    """
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    w_at, c_at = w_ptr + i * w_stride, c_ptr + i * c_stride
    if SAMPLES is not None:
        mine, w, c = after_samples(
            w_at, c_at, i, n, inside, pre, post, numbers, w_min, w_max, FORMULA, OTHER_FORMULA, MODULATED, REAL, SAMPLES
        )
    else:
        pre_spike = tl.load(pre[0] + i, mask=inside, other=0).to(REAL)
        post_spike = tl.load(post[0] + i, mask=inside, other=0).to(REAL)
        mine = inside
        if not MODULATED:
            mine = inside & ((pre_spike != 0) | (post_spike != 0))
        asked = inside if EAGER else mine
        here = values_of(pre_spike, pre, i, asked, REAL)
        there = values_of(post_spike, post, i, asked, REAL)
        w = tl.load(w_at, mask=asked, other=0.0).to(REAL)
        c = w
        if MODULATED:
            c = tl.load(c_at, mask=asked, other=0.0).to(REAL)
        w, c = FORMULA(w, c, here, there, numbers, w_min, w_max)
    tl.store(w_at, w.to(w_ptr.dtype.element_ty), mask=mine)
    if MODULATED:
        tl.store(c_at, c.to(c_ptr.dtype.element_ty), mask=mine)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case, bound_first=False)
    parts = (formula.delta, formula.moved) if case.reduction else (formula.updated, None)
    n_passed = len(case.names.numbers) - case.names.n_scalars
    settled = *parts, case.modulated, n_passed, real_type(case.dtype), config.block
    options = launch_options(case.dtype, case.device)

    def launches(topology: Any, weights: Tensor, eligibility: Tensor, samples: int) -> Any:
        shape = topology.n, weights.stride(0), eligibility.stride(0)
        is_small = pass_bytes(topology.n, weights.itemsize) < items.fewest_listed(weights.device)
        is_eager = is_small and not case.modulated and not samples
        arguments = *shape, *settled, Samples.of(case, samples, True, (topology.n,)), is_eager
        programs = triton.cdiv(topology.n, config.block)
        return (), Launch(
            one_to_one_kernel, programs, weights.device, arguments, num_warps=config.num_warps, **options
        )  # fmt: skip

    return listed_step(case, launches)
