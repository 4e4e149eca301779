"""Spikes over sparse connections in Triton: what few bring is scattered, what more bring is gathered.

To gather, each post neuron looks whether the pre neurons of its synapses spiked, so that each current has one owner. A
step reads an index of 4 bytes a synapse, and weights only of synapses that bring something: about
``4 + 32 (1 - (1 - rate)^8) / 8`` bytes a synapse in float32 where post neurons are major. Else the plan's permutation
leads to the weights: it is read where there is a spike, as often, and each weight of those costs a sector. To scatter
(:mod:`tritonstdp.kernels.scatter`) costs such an index, or two, a weight and an atomic addition, which is a sector, for
each synapse of what spiked, and nothing for others.

What a post neuron has beyond some turns of a program are parts of their own, so that no hub makes a program long: their
sums are kept, and a last launch adds them up; it is left out where there are none.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import launch_options, real_type
from tritonstdp.kernels.event_lists import part_of
from tritonstdp.kernels.items import WARP
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.scatter import add_scattered, with_scatter
from tritonstdp.kernels.sparse.gpu import DEFAULT as LEARNING
from tritonstdp.kernels.sparse.gpu import column_at, cut_of, further_parts, row_at
from tritonstdp.kernels.sums import Summing, add_sums, brought, summed_step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    flight : int
        Synapses that a thread has in flight.
    turns : int
        Turns of a program, at most.
    num_warps : int
        Warps a program.
    scatter_up_to : float
        The share of pre neurons that spike up to which what they bring is scattered.
    """

    flight: int = 16
    turns: int = 8
    num_warps: int = 1
    scatter_up_to: float = 0.2


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {"flight": (8, 16, 32), "num_warps": (1, 2), "scatter_up_to": (0.0, 0.05, 0.2)}
PARTS = 256
"""Parts of a hub that are added up at once."""


@triton.jit(do_not_specialize=["n_post", "items"])
def sparse_sums_kernel(
    w_ptr, current_ptr, room_ptr, spike_ptr, scattered, start_ptr, pre_ptr, place_ptr, further_ptr, n_post, items,
    REAL: tl.constexpr, PART: tl.constexpr, POSTS: tl.constexpr, SYNAPSES: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Sum parts of the synapses of some post neurons, or take what was scattered."""
    if add_scattered(scattered, current_ptr, room_ptr, n_post, items - n_post, THREADS):
        return
    item = tl.program_id(0) * POSTS + tl.arange(0, POSTS)
    exists = item < items
    j, part = part_of(item, exists, n_post, further_ptr)
    begin = tl.load(start_ptr + j, mask=exists, other=0) + part * PART
    length = tl.minimum(tl.load(start_ptr + j + 1, mask=exists, other=0) - begin, PART).to(tl.int32)
    sums = tl.zeros([POSTS, SYNAPSES], REAL)
    for first in range(0, tl.max(length), SYNAPSES):
        k = first + tl.arange(0, SYNAPSES)
        at = begin[:, None] + k[None, :]
        i = tl.load(pre_ptr + at, mask=k[None, :] < length[:, None], other=0)
        spike = tl.load(spike_ptr + i, mask=k[None, :] < length[:, None], other=0).to(REAL)
        if place_ptr is not None:
            at = tl.load(place_ptr + at, mask=spike != 0, other=0).to(tl.int64)
        sums += brought(w_ptr, at, spike, spike != 0, REAL)
    sums = tl.sum(sums, axis=1)
    add_sums(sums, j, item < n_post, current_ptr)
    if room_ptr is not None:
        tl.store(room_ptr + item - n_post, sums, mask=exists & (item >= n_post))


@triton.jit
def major_row_at(i, k, sizes, plan):
    """The k-th weights of a pre neuron that is major, and their post neurons."""
    at, _, inside, j, _ = row_at(i, k, sizes, plan)
    return j, inside, at


@triton.jit
def hubs_kernel(current_ptr, room_ptr, hub_ptr, begin_ptr, PARTS: tl.constexpr):
    """Add the sums of a post neuron's further parts, in their order, to its current."""
    end = tl.load(begin_ptr + tl.program_id(0) + 1)
    sums = tl.zeros([PARTS], room_ptr.dtype.element_ty)
    for first in range(tl.load(begin_ptr + tl.program_id(0)), end, PARTS):
        k = first + tl.arange(0, PARTS)
        sums += tl.load(room_ptr + k, mask=k < end, other=0.0)
    add_sums(tl.sum(sums, axis=0), tl.load(hub_ptr + tl.program_id(0)), end > 0, current_ptr)


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Prepare the launches for one case."""
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    post_is_major, _ = case.kernel_key

    def summing(topology: Any, weights: Tensor) -> Summing:
        if post_is_major:
            start, pre, place = topology.major_start, topology.minor_of, None
        else:
            start, pre, place = topology.minor_start, topology.major_by_minor, topology.by_minor
        flight = config.flight // (1 + (case.dtype is torch.float64))  # whose values take two registers
        device, n_post, at_once = weights.device, topology.n_post, WARP * config.num_warps * flight
        synapses = min(at_once, triton.next_power_of_2(triton.cdiv(weights.numel(), n_post)))
        posts, part = at_once // synapses, synapses * config.turns
        further = further_parts(start, part)
        items = n_post + len(further)
        settled = (
            start, pre, place, further if len(further) else None, n_post, items, real, part, posts, synapses,
            WARP * config.num_warps,
        )  # fmt: skip
        sums = Launch(
            sparse_sums_kernel, triton.cdiv(items, posts), device, settled, num_warps=config.num_warps, **options
        )  # fmt: skip
        summing = Summing(sums)
        if len(further):
            hubs, counts = further[:, 0].unique_consecutive(return_counts=True)
            begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
            summing = Summing(
                sums, (), len(further), Launch(hubs_kernel, len(hubs), device, (hubs, begins, PARTS), num_warps=2)
            )
        at = column_at if post_is_major else major_row_at
        cut = partial(cut_of, topology, LEARNING._replace(num_warps=1))
        return with_scatter(case, topology, weights, summing, config.scatter_up_to, cut, not post_is_major, at)

    return summed_step(case, summing)
