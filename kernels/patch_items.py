"""Patches, and what looks at a pre neuron, as items that programs share: how they are cut, and where they lie."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tritonstdp.kernels.items import WARP, Config, Cut


def cut_of(topology: Any, config: Config, *_: Any) -> Cut:
    """Cut what looks at a pre neuron, and patches: a lane a tap, so that those of a warp see few sectors of a map."""
    (n_pre,), (c_in, *size), (c_out, *out_size) = topology.pre_shape, topology.src_shape, topology.dst_shape
    kernel, stride = topology.kernel_size, topology.stride
    taps = c_in * kernel[0] * kernel[1]
    threads = WARP * config.num_warps
    candidates = c_out * triton.cdiv(kernel[0], stride[0]) * triton.cdiv(kernel[1], stride[1])
    # where a row is one item, the places of its taps are found once for all rows
    row_parts, wide = evenly(triton.cdiv(taps, threads), 2 * config.blocks)
    column_parts, high = evenly(triton.cdiv(candidates, threads), config.blocks)
    return Cut(
        c_out * topology.positions, n_pre, row_parts, column_parts, sizes=(taps, candidates, *size, *out_size),
        plan=tuple(map(tl.constexpr, (*topology.padding, *kernel, *stride))), wide=wide, high=high, height=threads,
    )  # fmt: skip


def evenly(blocks: int, most: int) -> tuple[int, int]:
    """How many items share some blocks, and how many each of them takes."""
    items = triton.cdiv(blocks, most)
    return items, triton.cdiv(blocks, items)


@triton.jit
def margin(row, column, height, width):
    """How far inside a map a place lies, below 0 outside: truths of four comparisons would crowd out each other."""
    return tl.minimum(tl.minimum(row, height - 1 - row), tl.minimum(column, width - 1 - column))


@triton.jit
def seen_from(j, k, sizes, plan):
    """Which post neurons may see a pre neuron, and whether; their channel, the tap, and how many taps a patch has.

    Neighbours see it from side by side.
    """
    _, _, taps, candidates, height, width, out_height, out_width = sizes
    PAD_H, PAD_W, KH, KW, SH, SW = plan
    DOWN: tl.constexpr = (KH + SH - 1) // SH
    ACROSS: tl.constexpr = (KW + SW - 1) // SW
    line = k // ACROSS
    channel = line // DOWN
    above = line - channel * DOWN
    left = k - line * ACROSS
    # as many steps before the last patch that can see it, as many strides further on in the patch
    down = j // width % height + PAD_H
    across = j % width + PAD_W
    tap_row = down % SH + above * SH
    tap_column = across % SW + left * SW
    row = down // SH - above
    column = across // SW - left
    i = (channel * out_height + row) * out_width + column
    # kernels of a stride that does not divide them lack taps of some remainders
    found = tl.minimum(margin(row, column, out_height, out_width), margin(tap_row, tap_column, KH, KW))
    tap = (j // (width * height) * KH + tap_row) * KW + tap_column
    return i, (k < candidates) & (found >= 0), channel, tap, tl.cast(taps, tl.int64)
