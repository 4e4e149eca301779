"""What spiking neurons bring, scattered: their synapses are followed to post neurons, so that cost follows the spikes.

To gather, each post neuron looks at all of its synapses, whoever spiked. Where few did, programs share the synapses of
those that are listed (:mod:`tritonstdp.kernels.event_lists`) instead, and add each weight to the sum of its post neuron
by an atomic addition. Where more did, this launch does nothing, and the one that gathers follows either way: it takes
the sums where there are some. So what is launched depends on no spike.

Atomic additions come in any order. The sums are of float64, in which those of float32 and half precision are exact, and
so the same whatever the order, as long as the weights that meet at a post neuron, n of them, lie within a factor of
``2^29 / n`` of each other; where they do not, each addition is off by ``2^-53`` of the sum at most, before the sum is
rounded to float32. Weights of float64 are gathered at any rate: the order would show in their sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import launch_options, spiking_at
from tritonstdp.kernels.event_lists import Listing, counted_of, part_of, place_of
from tritonstdp.kernels.items import WARP, Cut, processors
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.propagation import PropagationCase
from tritonstdp.kernels.sums import Summing, add_sums, brought

FEWEST_SYNAPSES = 2**22
"""Of a group that scatters: to gather a smaller one takes about as long as the two launches more."""
WAVES = 32
"""Programs a processor: as many of one warp as it holds, since each waits for one access after the other."""


@triton.jit(do_not_specialize=["n_post", "limit", "neurons"])
def scatter_kernel(
    w_ptr, scattered, spike_ptr, lists, n_post, limit, parts, neurons, further_ptr, sizes, plan,
    AT: tl.constexpr, SEGMENTS: tl.constexpr, SLOT: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Add the weights of spiking neurons to sums, if few spiked; behind the sums stands whether."""
    counts_ptr, entries_ptr = lists[0]
    events, _, _, counted, gaps = counted_of(counts_ptr, counts_ptr, SEGMENTS, 0, SLOT, 0)
    if tl.program_id(0) == 0:
        tl.store(scattered[0] + n_post, (events <= limit).to(tl.float64))
    items = tl.where(events <= limit, events * parts, 0)
    for item in range(tl.program_id(0), items, tl.num_programs(0)):
        rank = item // parts
        entry = tl.load(entries_ptr + place_of(rank, counted, gaps))
        i, further = part_of(entry, entry >= 0, neurons, further_ptr)
        first = (item - rank * parts + further) * BLOCKS * WIDTH
        spike = spiking_at((spike_ptr,), i, i >= 0, tl.float32)[0]
        places = ()  # type: Any
        terms = ()
        for k in tl.static_range(BLOCKS):
            places += (AT(i, first + k * WIDTH + tl.arange(0, WIDTH), sizes, plan),)
        for k in tl.static_range(BLOCKS):
            terms += (brought(w_ptr, places[k][2], spike, places[k][1], tl.float32),)  # type: ignore[assignment]
        for k in tl.static_range(BLOCKS):
            sum_ptr = scattered[0] + places[k][0]
            tl.atomic_add(sum_ptr, terms[k].to(tl.float64), mask=places[k][1], sem="relaxed")


@triton.jit
def add_scattered(scattered, current_ptr, room_ptr, n_post, kept, THREADS: tl.constexpr):
    """Add what was scattered, if anything was, to currents, and leave 0 for the next step; says whether it was.

    No share of a sum, as are kept for a launch that adds them up, has more to add then.
    """
    if len(scattered) == 0:
        return False
    else:
        was_scattered = tl.load(scattered[0] + n_post) != 0
        if was_scattered:
            # an element has one thread: another one that holds it as well could read the 0
            at = tl.program_id(0) * THREADS + tl.arange(0, THREADS)
            for first in range(0, n_post, tl.num_programs(0) * THREADS):
                j = first + at
                sums = tl.load(scattered[0] + j, mask=j < n_post, other=0.0)
                add_sums(sums.to(tl.float32), j, j < n_post, current_ptr)
                tl.store(scattered[0] + j, tl.zeros([THREADS], tl.float64), mask=j < n_post)
            if room_ptr is not None:
                for first in range(0, kept, tl.num_programs(0) * THREADS):
                    tl.store(room_ptr + first + at, tl.zeros([THREADS], tl.float32), mask=first + at < kept)
        return was_scattered


def with_scatter(
    case: PropagationCase, topology: Any, weights: Tensor, summing: Summing, up_to: float, cut_of: Callable[[], Cut],
    pre_is_major: bool, at: Any,
) -> Summing:  # fmt: skip
    """The launches of a step that scatters where few spiked, if that is worth it.

    Parameters
    ----------
    case : PropagationCase
        The case.
    topology, weights : Topology, Tensor
        The group.
    summing : Summing
        The launches that gather; they ask :func:`add_scattered` first.
    up_to : float
        The share of pre neurons up to which a step scatters; a hub's further parts count as neurons.
    cut_of : callable
        How synapses are cut into items for programs of one warp; as for learning, whose lists are read then.
    pre_is_major : bool
        Whether pre neurons are the major ones of the cut.
    at : device function
        ``at(i, k, sizes, plan)``: of the k-th synapses of a pre neuron, their post neurons, whether they exist, and
        the places of their weights.

    Returns
    -------
    Summing
        The launches; those that gather, where the group is small or its weights are float64.
    """
    (n_pre,), (n_post,), device = topology.pre_shape, topology.post_shape, weights.device
    if up_to == 0 or case.dtype == torch.float64 or topology.synapses < fewest_synapses(device):
        return summing
    cut = cut_of()
    of_major = cut.n_major, cut.row_parts, cut.wide, cut.further[0]
    of_minor = cut.n_minor, cut.column_parts, cut.high, cut.further[1]
    n, parts, blocks, further = of_major if pre_is_major else of_minor
    listing = Listing.of(n, further)
    settled = (
        n_post, int(up_to * n), parts, n_pre, further, (cut.n_major, cut.n_minor, *cut.sizes), cut.plan, at,
        listing.segments, listing.segment, blocks, WARP,
    )  # fmt: skip
    programs, options = min(processors(device) * WAVES, n * parts), launch_options(case.dtype, case.device)
    scatter = Launch(scatter_kernel, programs, device, settled, num_warps=1, **options)
    return summing._replace(listings=(listing,), scatter=scatter, n_post=n_post)


def fewest_synapses(device: torch.device) -> int:
    """From how many synapses on a group scatters; on a CPU, where kernels are but looked at, all do."""
    return 0 if device.type == "cpu" else FEWEST_SYNAPSES
