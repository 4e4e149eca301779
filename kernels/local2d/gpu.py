"""Local receptive fields in Triton: programs for post neurons and programs for pre neurons, in one grid.

Weights are read and written in groups of neighbours as large as one memory sector, whole, so that accesses stay wide
whatever the size of a patch. A group belongs to the first spiking post neuron in it, or else to the first synapse in it
whose pre neuron has spiked, so it has one owner.

A post program serves some neighbouring neurons and takes the groups of the patches of those that have spiked. A pre
program leaves unless its neuron has spiked; of the synapses that may see it, it first finds those that own their group.
Both then number the groups that they take without gaps and update them a block at a time, so that few lanes idle. A
modulated rule changes every synapse: there each program takes a block of groups.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from tritonstdp.kernels.blocks import device_formula, launch_numbers, launch_options, real_type, values_of
from tritonstdp.kernels.formula_gpu import fp64, numbers_of
from tritonstdp.kernels.protocol import Case, Step

SECTOR_BYTES, WARP, WIDEST_BYTES = 32, 32, 16


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    candidates : int
        Synapses of a pre neuron among which a program looks at once for those that own their group.
    num_warps : int
        Warps a program.
    """

    candidates: int = 128
    num_warps: int = 1

    @property
    def groups(self) -> int:
        """Groups of synapses that a program updates at once: the widest access for each thread."""
        return self.num_warps * WARP * WIDEST_BYTES // SECTOR_BYTES


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"candidates": (64, 128), "num_warps": (1, 2, 4)}
PATCH_BLOCKS = 2
"""A post program serves so many neurons that their patches together fill about as many blocks of groups."""


@triton.jit
def neurons_of(
    n, k, n_post, geometry, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    GROUP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """The neurons of tap ``k`` of post neuron ``n``, and which of them are there.

    ``k`` may run over into a neighbouring patch where a group holds the end of one and the start of the next.

    Returns
    -------
    post, post_inside, pre, pre_inside
        The neurons' numbers; a pre neuron in the padding is not inside.
    """
    taps, height, width, positions, out_width, pad_h, pad_w = geometry
    if not ALIGNED:
        patches_on = (k + GROUP * taps) // taps - GROUP
        n += patches_on
        k -= patches_on * taps
    position = n % positions
    row = position // out_width * SH - pad_h + k // KW % KH
    column = position % out_width * SW - pad_w + k % KW
    pre = (k // (KH * KW) * height + row) * width + column
    post_inside = n < n_post
    return n, post_inside, pre, post_inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)


@triton.jit
def visit_groups(
    first, n, k, mine, owner, w_ptr, c_ptr, pre, post, total, n_post, geometry, numbers, w_min, w_max,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, GROUP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Update the groups that start at ``first`` with tap ``k`` of post neuron ``n``, those of them that are ``mine``.

    Where ``owner`` is not None, it is the post neuron for which the caller claims each group.
    """
    lane = tl.arange(0, GROUP)[None, :]
    synapse = first[:, None] + lane
    at_post, post_inside, at_pre, pre_inside = neurons_of(
        n[:, None] + tl.zeros_like(lane), k[:, None] + lane, n_post, geometry, KH, KW, SH, SW, GROUP, ALIGNED
    )
    pre_spike = tl.load(pre[0] + at_pre, mask=pre_inside & mine[:, None], other=0).to(REAL)
    post_spike = tl.load(post[0] + at_post, mask=post_inside & mine[:, None], other=0).to(REAL)
    if owner is not None:
        spiking_post = tl.where(post_spike != 0, at_post, 2147483647)
        mine = mine & (tl.min(spiking_post, axis=1) == owner)
    inside = (synapse < total) & mine[:, None]
    here = values_of(pre_spike, pre, at_pre, pre_inside & mine[:, None], REAL)
    there = values_of(post_spike, post, at_post, post_inside & mine[:, None], REAL)
    w = tl.load(w_ptr + synapse, mask=inside, other=0.0).to(REAL)
    c = w
    if MODULATED:
        c = tl.load(c_ptr + synapse, mask=inside, other=0.0).to(REAL)
    w, c = UPDATED(w, c, here, there, numbers, w_min, w_max)
    tl.store(w_ptr + synapse, w.to(w_ptr.dtype.element_ty), mask=inside)
    if MODULATED:
        tl.store(c_ptr + synapse, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def synapse_of(
    candidate, channel, row, column, c_out, geometry,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A candidate among the synapses of a pre neuron, which would be a map and a place in its patch.

    Returns
    -------
    n, k, lane, there
        Its post neuron; the tap with which its group starts, and its own place in the group; and whether it exists.
    """
    taps, _height, _width, positions, out_width, pad_h, pad_w = geometry
    i = candidate // KW % KH
    j = candidate % KW
    down = row + pad_h - i
    right = column + pad_w - j
    u = down // SH
    v = right // SW
    there = (candidate < KH * KW * c_out) & (down >= 0) & (right >= 0)
    there = there & (u * out_width < positions) & (v < out_width) & (u * SH == down) & (v * SW == right)
    n = candidate // (KH * KW) * positions + u * out_width + v
    k = (channel * KH + i) * KW + j
    lane = ((n.to(tl.int64) * taps + k) % GROUP).to(tl.int32)
    return n, k - lane, lane, there


@triton.jit
def local2d_kernel(
    w_ptr, c_ptr, pre, post, total, n_post, c_out, taps, height, width, positions, out_width, pad_h, pad_w,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, GROUP: tl.constexpr, ALIGNED: tl.constexpr,
    GROUPS: tl.constexpr, POSTS: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    geometry = (taps, height, width, positions, out_width, pad_h, pad_w)
    program = tl.program_id(0)
    post_programs = tl.cdiv(n_post, POSTS)
    if MODULATED:
        first = (program.to(tl.int64) * GROUPS + tl.arange(0, GROUPS)) * GROUP
        n = first // taps
        visit_groups(
            first, n.to(tl.int32), (first - n * taps).to(tl.int32), first < total, None,
            w_ptr, c_ptr, pre, post, total, n_post, geometry, numbers, w_min, w_max,
            UPDATED, MODULATED, REAL, KH, KW, SH, SW, GROUP, ALIGNED,
        )  # fmt: skip
    elif program < post_programs:
        posts = program * POSTS + tl.arange(0, POSTS)
        spiking = tl.load(post[0] + posts, mask=posts < n_post, other=0) != 0
        starts = posts.to(tl.int64) * taps
        sizes = ((starts + taps + GROUP - 1) // GROUP - starts // GROUP).to(tl.int32)
        ends = tl.cumsum(tl.where(spiking, sizes, 0), axis=0)
        n_groups = tl.max(ends, axis=0)
        for done in range(0, n_groups, GROUPS):
            slot = done + tl.arange(0, GROUPS)
            before = ends[None, :] <= slot[:, None]
            n = tl.max(tl.where(before, posts[None, :] + 1, program * POSTS), axis=1)
            group = slot - tl.max(tl.where(before, ends[None, :], 0), axis=1)
            start = n.to(tl.int64) * taps
            first = (start // GROUP + group) * GROUP
            visit_groups(
                first, n, group * GROUP - (start % GROUP).to(tl.int32), slot < n_groups, n,
                w_ptr, c_ptr, pre, post, total, n_post, geometry, numbers, w_min, w_max,
                UPDATED, MODULATED, REAL, KH, KW, SH, SW, GROUP, ALIGNED,
            )  # fmt: skip
    else:
        i = program - post_programs
        if tl.load(pre[0] + i).to(REAL) != 0:
            channel = i // (height * width)
            row = i // width % height
            column = i % width
            for done in range(0, KH * KW * c_out, CANDIDATES):
                candidates = done + tl.arange(0, CANDIDATES)
                posts, firsts, lanes, candidates_exist = synapse_of(
                    candidates, channel, row, column, c_out, geometry, KH, KW, SH, SW, GROUP
                )
                mine = candidates_exist.to(tl.int32)
                for lane in range(0, GROUP):
                    other_post, post_inside, other_pre, pre_inside = neurons_of(
                        posts, firsts + lane, n_post, geometry, KH, KW, SH, SW, GROUP, ALIGNED
                    )
                    post_spike = tl.load(post[0] + other_post, mask=(mine != 0) & post_inside, other=0)
                    earlier = (mine != 0) & (lane < lanes) & pre_inside
                    pre_spike = tl.load(pre[0] + other_pre, mask=earlier, other=0)
                    mine = tl.where((post_spike == 0) & (pre_spike == 0), mine, 0)
                ends = tl.cumsum(mine, axis=0)
                n_groups = tl.max(ends, axis=0)
                for taken in range(0, n_groups, GROUPS):
                    slot = taken + tl.arange(0, GROUPS)
                    # as many candidates stand before a slot's as have an end there: found by halving
                    before = tl.zeros_like(slot)
                    half = CANDIDATES // 2
                    while half > 0:
                        before += tl.where(tl.gather(ends, before + half - 1, 0) <= slot, half, 0)
                        half = half // 2
                    candidate = done + before
                    n, k, _lane, there = synapse_of(
                        candidate, channel, row, column, c_out, geometry, KH, KW, SH, SW, GROUP
                    )
                    first = (n.to(tl.int64) * taps + k) // GROUP * GROUP
                    visit_groups(
                        first, n, k, there & (slot < n_groups), None,
                        w_ptr, c_ptr, pre, post, total, n_post, geometry, numbers, w_min, w_max,
                        UPDATED, MODULATED, REAL, KH, KW, SH, SW, GROUP, ALIGNED,
                    )  # fmt: skip


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    updated = device_formula(case, bound_first=True).updated
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    modulated = case.modulated
    group = SECTOR_BYTES // case.dtype.itemsize
    (kh, kw), (sh, sw) = case.kernel_key
    settled = updated, modulated, len(case.names.numbers) - case.names.n_scalars, real, kh, kw, sh, sw, group

    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        total = weights.numel()
        c_out, positions, taps = topology.weights_shape
        (_, height, width), (_, _, out_width) = topology.src_shape, topology.dst_shape
        n_post = c_out * positions
        posts = triton.next_power_of_2(triton.cdiv(PATCH_BLOCKS * config.groups * group, taps))
        programs = triton.cdiv(n_post, posts) + pre[0].numel()
        if modulated:
            programs = triton.cdiv(total, group * config.groups)
        local2d_kernel[(programs,)](
            weights, weights if c is None else c, tuple(pre), tuple(post),
            total, n_post, c_out, taps, height, width, positions, out_width, *topology.padding,
            *launch_numbers(case, numbers, w_min, w_max), *settled, taps % group == 0,
            config.groups, posts, config.candidates,
            num_warps=config.num_warps, **options,
        )  # fmt: skip

    return step
