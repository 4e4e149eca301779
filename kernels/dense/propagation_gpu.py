"""Spikes over dense connections in Triton: rows of events, of which each program takes the same few columns.

A program's columns are as many as a line of memory holds, so that few post neurons make many programs, and it has all
of a usual step's rows in flight at once. Where the synapses of a post neuron are neighbours, what spiked is gathered
from a few of these rows side by side.
"""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import launch_options, real_type, spiking_at
from tritonstdp.kernels.event_lists import Listing, counted_of, places_of
from tritonstdp.kernels.items import processors
from tritonstdp.kernels.launch import WIDEST_BYTES, Launch
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.sums import Summing, brought, settle, shares_for, summed_step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    events : int
        Rows that a program has in flight.
    line : int
        Bytes of a row that it takes.
    gathered : int
        Post neurons that it takes where their synapses are no neighbours of each other.
    waves : int
        Programs a processor, at most.
    num_warps : int
        Warps a program.
    """

    events: int = 128
    line: int = 128
    gathered: int = 16
    waves: int = 8
    num_warps: int = 8


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"events": (64, 128), "line": (64, 128, 256), "num_warps": (4, 8)}


@triton.jit(do_not_specialize=["post_units", "row_units", "blocks", "shares"])
def dense_sums_kernel(
    w_ptr, current_ptr, room_ptr, spike_ptr, lists, post_units, row_units, w_step, blocks, shares,
    UNIT: tl.constexpr, SEGMENTS: tl.constexpr, SLOT: tl.constexpr, REAL: tl.constexpr,
    EVENTS: tl.constexpr, POSTS: tl.constexpr,
):  # fmt: skip
    """Sum the rows of a share of the events."""
    counts_ptr, entries_ptr = lists[0]
    events, _, _, counted, gaps = counted_of(counts_ptr, counts_ptr, SEGMENTS, 0, SLOT, 0)
    # a product with a constant says by what it can be divided, and keeps accesses 16 bytes wide at widths like 1000
    n_post = post_units * UNIT
    row_step = tl.cast(row_units, tl.int64) * UNIT
    share = tl.program_id(0) % shares
    for block in range(tl.program_id(0) // shares, blocks, tl.num_programs(0) // shares):
        j = block * POSTS + tl.arange(0, POSTS)
        sums = tl.zeros([EVENTS, POSTS], REAL)
        for first in range(share * EVENTS, events, shares * EVENTS):
            rank = first + tl.arange(0, EVENTS)
            exists = rank < events
            i = tl.load(entries_ptr + places_of(rank, counted, gaps), mask=exists, other=0)
            spike = spiking_at((spike_ptr,), i, exists, REAL)[0]
            at = i.to(tl.int64)[:, None] * row_step + j.to(tl.int64)[None, :] * w_step
            sums += brought(w_ptr, at, spike[:, None], exists[:, None] & (j < n_post)[None, :], REAL)
        settle(tl.sum(sums, axis=0), j, j < n_post, share, n_post, current_ptr, room_ptr)


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Prepare the launches for one case."""
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    itemsize = case.dtype.itemsize

    def summing(topology: Any, weights: Tensor) -> Summing:
        (n_pre, n_post), (row_step, w_step) = topology.weights_shape, weights.stride()
        beside = w_step == 1
        unit = gcd(n_post, row_step, WIDEST_BYTES // itemsize) if beside else 1
        posts = config.line // itemsize if beside else config.gathered
        blocks, listing = triton.cdiv(n_post, posts), Listing.of(n_pre)
        shares = shares_for(blocks, triton.cdiv(n_pre, config.events), weights.device)
        programs = min(blocks, processors(weights.device) * config.waves) * shares
        settled = (
            n_post // unit, row_step // unit, w_step, blocks, shares, unit, listing.segments, listing.segment, real,
            config.events, posts,
        )  # fmt: skip
        sums = Launch(dense_sums_kernel, programs, weights.device, settled, num_warps=config.num_warps, **options)
        return Summing.of_shares(sums, n_post, shares, weights.device, listing)

    return summed_step(case, summing)
