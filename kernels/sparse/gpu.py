"""Sparse connections in Triton: the synapses of a spiking neuron, or a part of them, as an item that programs share.

Major are the neurons whose synapses are neighbours in the stored values; a minor neuron finds its own through the
plan's permutation. Parts are of one size, settled once a plan: what a neuron has beyond its first is listed and taken
apart from it, so that no hub makes a program long.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.items import WARP, Config, Cut, build_items
from tritonstdp.kernels.protocol import Case, Step
from tritonstdp.kernels.sparse import is_indexed

# a program is one warp: as many as a processor holds, since each waits for what it has just read
DEFAULT = Config(blocks=4, waves=32, full_from=0.6, num_warps=1)
SPACE: dict[str, tuple[float, ...]] = {
    "blocks": (2, 4, 8),
    "waves": (8, 16, 32),
    "full_from": (0.4, 0.6, 0.8),
    "num_warps": (1, 2),
}
BLOCKS_OF_A_PART = 2
"""What a part costs beside its blocks of synapses, in blocks."""
_cuts: WeakKeyDictionary[Any, dict[tuple[int, int], Cut]] = WeakKeyDictionary()


def cut_of(topology: Any, config: Config, *_: Any) -> Cut:
    """Cut the synapses of a plan's neurons into parts, once."""
    cuts, key = _cuts.setdefault(topology, {}), (config.blocks, config.num_warps)
    if key not in cuts:
        block = config.num_warps * WARP
        starts = topology.major_start, topology.minor_start
        wide, high = (_blocks(start, block, config.blocks) for start in starts)
        further = further_parts(starts[0], wide * block), further_parts(starts[1], high * block)
        n_major, n_minor = (len(start) - 1 + len(parts) for start, parts in zip(starts, further, strict=True))
        plan = starts[0], topology.minor_of, starts[1], topology.by_minor, topology.major_by_minor
        cuts[key] = Cut(
            n_major, n_minor, 1, 1, plan=plan, wide=wide, high=high, height=block, further=further,
            index_bytes=topology.minor_of.itemsize,
        )  # fmt: skip
    return cuts[key]


def _blocks(start: Tensor, block: int, most: int) -> int:
    """How many blocks a part has: as leaves few lanes idle, and few parts."""

    def cost(blocks: int) -> int:
        return (BLOCKS_OF_A_PART + blocks) * (len(start) - 1 + int(_beyond_first(start, blocks * block).sum()))

    return min((most >> k for k in range(most.bit_length())), key=cost)


def _beyond_first(start: Tensor, size: int) -> Tensor:
    """How many parts each neuron has beyond its first."""
    return (start.diff() - 1).clamp(min=0).div(size, rounding_mode="floor")


def further_parts(start: Tensor, size: int) -> Tensor:
    """The ``(neuron, part)`` of all of those."""
    counts = _beyond_first(start, size)
    neurons = torch.arange(len(counts), device=start.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    parts = torch.arange(len(neurons), device=start.device) - before[neurons] + 1
    return torch.stack([neurons, parts], 1).to(torch.int32)


@triton.jit
def row_at(i, k, sizes, plan):
    """The k-th weights of a major neuron, and their minor neurons."""
    start_ptr, minor_of_ptr, _, _, _ = plan
    at = tl.load(start_ptr + i) + k
    inside = at < tl.load(start_ptr + i + 1)
    return at, at, inside, tl.load(minor_of_ptr + at, mask=inside, other=0), inside


@triton.jit
def column_at(j, k, sizes, plan):
    """The k-th weights of a minor neuron, and their major neurons."""
    _, _, start_ptr, by_minor_ptr, major_by_minor_ptr = plan
    entry = tl.load(start_ptr + j) + k
    inside = entry < tl.load(start_ptr + j + 1)
    major = tl.load(major_by_minor_ptr + entry, mask=inside, other=0)
    return major, inside, tl.load(by_minor_ptr + entry, mask=inside, other=0).to(tl.int64)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    post_is_major, _ = case.kernel_key
    sparing = case.modulated and not is_indexed(case)
    return build_items(case, config, not post_is_major, cut_of, row_at, column_at, sparing=sparing)
