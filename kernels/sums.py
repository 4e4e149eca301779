"""What spike propagation in Triton shares: sums at post neurons, and who adds them to currents.

A program owns some post neurons and a share of what reaches them. Where there are so few post neurons that others
would be idle, each has several shares: these are kept, and a last launch adds them up. So the order of a sum depends
on sizes and spikes alone. Where few spiked, what they bring may have been summed up before
(:mod:`tritonstdp.kernels.scatter`), and is but added.

A current to which 0 would be added keeps its bits, as one must that no spike reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.event_lists import Listing, Lists
from tritonstdp.kernels.items import processors
from tritonstdp.kernels.launch import Launch, nothing, starts_apart
from tritonstdp.kernels.memory import Kept, kept_with
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.protocol import PlacedStep
from tritonstdp.kernels.reference import HALF

TURNS_OF_A_SHARE = 32
"""Up to so many turns, a program takes less than a launch more and the shares' way through memory."""


@triton.jit
def brought(w_ptr, at, spike, mask, REAL: tl.constexpr):
    """What spikes bring through the weights at some places: 0 outside the mask, which is to be set where they spike."""
    return tl.load(w_ptr + at, mask=mask, other=0.0).to(REAL) * tl.where(spike != 0, spike, 1.0)


@triton.jit
def add_sums(sums, j, exists, current_ptr):
    """Add sums to the currents of some post neurons."""
    current = tl.load(current_ptr + j, mask=exists, other=0.0)
    added = (current.to(sums.dtype) + sums).to(current.dtype)
    # a mask of what is reached would go through local memory on its way to the store
    tl.store(current_ptr + j, tl.where(sums == 0, current, added), mask=exists)


@triton.jit
def settle(sums, j, exists, share, n_post, current_ptr, room_ptr):
    """Add sums to currents, or keep them where they are but a share."""
    if room_ptr is None:
        add_sums(sums, j, exists, current_ptr)
    else:
        tl.store(room_ptr + share.to(tl.int64) * n_post + j, sums, mask=exists)


@triton.jit(do_not_specialize=["n_post", "shares"])
def shares_kernel(current_ptr, room_ptr, n_post, shares, SHARES: tl.constexpr, POSTS: tl.constexpr):
    """Add what shares have summed up, in their order, to currents."""
    j = tl.program_id(0) * POSTS + tl.arange(0, POSTS)
    exists = j < n_post
    sums = tl.zeros([SHARES, POSTS], room_ptr.dtype.element_ty)
    for first in range(0, shares, SHARES):
        share = first + tl.arange(0, SHARES)
        at = share.to(tl.int64)[:, None] * n_post + j[None, :]
        sums += tl.load(room_ptr + at, mask=(share < shares)[:, None] & exists[None, :], other=0.0)
    add_sums(tl.sum(sums, axis=0), j, exists, current_ptr)


def shares_for(programs: int, turns: int, device: torch.device) -> int:
    """How many shares there are, where so many programs without any would take so many turns at most."""
    return max(1, min(processors(device) // max(1, programs), triton.cdiv(turns, TURNS_OF_A_SHARE)))


class Summing(NamedTuple):
    """The launches of a step.

    Attributes
    ----------
    sums : Launch
        Sums up; takes the weights, the currents, the room for what is kept, the spikes, and their lists or, where there
        is a launch that scatters, the room for what it sums up.
    listings : sequence of Listing
        What the first of them reads of who spiked, if anything.
    kept : int
        How many sums are kept.
    add : Launch, optional
        Adds these to the currents; takes both.
    scatter : Launch, optional
        Comes first, and takes the weights, the room for its sums, the spikes and their lists: see
        :mod:`tritonstdp.kernels.scatter`.
    n_post : int
        How many sums that has room for, beside a place that says whether they are taken.
    """

    sums: Launch
    listings: Sequence[Listing] = ()
    kept: int = 0
    add: Launch | None = None
    scatter: Launch | None = None
    n_post: int = 0

    @staticmethod
    def of_shares(sums: Launch, n_post: int, shares: int, device: torch.device, *listings: Listing) -> Summing:
        """Those of so many shares."""
        if shares == 1:
            return Summing(sums, listings)
        columns, rows = 32, min(32, triton.next_power_of_2(shares))
        cut = n_post, shares, rows, columns
        return Summing(
            sums, listings, n_post * shares, Launch(shares_kernel, triton.cdiv(n_post, columns), device, cut)
        )  # fmt: skip


_ROOM: Kept = WeakKeyDictionary()


def summed_step(case: PropagationCase, summing_of: Callable[[Any, Tensor], Summing]) -> PropagationStep:
    """A step whose launches are made once a topology and kind of weights.

    Parameters
    ----------
    case : PropagationCase
        The case.
    summing_of : callable
        Makes the launches, of a topology and the weights.

    Returns
    -------
    callable
        The step. What it keeps between launches stays with the memory of the weights.
    """
    kept: Kept = WeakKeyDictionary()
    real = torch.float32 if case.dtype in HALF else case.dtype

    def prepared(topology: Any, weights: Tensor) -> tuple[Summing, Lists]:
        summing = summing_of(topology, weights)
        return summing, Lists(summing.listings)

    def room_of(weights: Tensor, size: int, make: Callable[..., Tensor], dtype: torch.dtype) -> Tensor:
        made = partial(make, dtype=dtype, device=weights.device)
        return kept_with(_ROOM, weights.untyped_storage(), (weights.data_ptr(), size, make, dtype), made, size)

    def place(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        if weights.numel() == 0:
            return nothing
        kind = weights.stride(), weights.device
        (sums, _, n_kept, add, scatter, n_post), lists = kept_with(kept, topology, kind, prepared, topology, weights)
        room = None if add is None else room_of(weights, n_kept, torch.empty, real)
        scattered = () if scatter is None else (room_of(weights, n_post + 1, torch.zeros, torch.float64),)
        read, unusual = lists.reader(weights), starts_apart(weights, current, pre_spike)

        def step(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
            try:
                taken = read(unusual, (pre_spike,))
                if scatter is not None:
                    scatter(unusual, weights, scattered, pre_spike, taken)
                    taken = scattered
                sums(unusual, weights, current, room, pre_spike, taken)
            except BaseException:
                for left in scattered:
                    left.zero_()  # it would reach the next step's currents
                raise
            if add is not None:
                add(unusual, current, room)

        return step

    return PlacedStep(place)
