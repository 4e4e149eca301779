"""Who spiked, as lists on the device: made by one small launch, read by the programs that update weights.

A list is cut into segments, each with a slot of its own and a count, so that no program waits for another: events stand
in order at the start of their segment's slot, and a prefix sum over the counts finds the k-th event of all. Nothing is
atomic, nothing is read back by the host, and the order is the same on every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALLEST_SEGMENT, LARGEST_SEGMENT = 1024, 4096
USUAL_SEGMENTS = 16
"""Up to so many segments a side, a segment stays as large as it is; 32 counts are added up by one warp."""


class Lists(NamedTuple):
    """Two lists: the spiking major neurons, and the groups of neighbouring minor neurons of which one spiked.

    Attributes
    ----------
    counts : Tensor
        How many entries each segment has; int32, those of the major side first.
    entries : Tensor
        The segments' slots, likewise; int32.
    majors, minors : int
        Segments of either side.
    segment : int
        Neurons a segment.
    group : int
        Minor neurons a group.
    """

    counts: Tensor
    entries: Tensor
    majors: int
    minors: int
    segment: int
    group: int

    @staticmethod
    def of(n_major: int, n_minor: int, group: int, device: torch.device) -> Lists:
        """Room for the lists of so many neurons; nothing is in it yet."""
        segment = SMALLEST_SEGMENT
        while segment < LARGEST_SEGMENT and max(n_major, n_minor) > segment * USUAL_SEGMENTS:
            segment *= 2
        majors, minors = triton.cdiv(n_major, segment), triton.cdiv(n_minor, segment)
        slots = majors * segment + minors * (segment // group)
        counts, entries = (torch.empty(n, dtype=torch.int32, device=device) for n in (majors + minors, slots))
        return Lists(counts, entries, majors, minors, segment, group)

    def fill(self, major_spike: Tensor, minor_spike: Tensor, n_major: int, n_minor: int) -> None:
        """Launch what lists the spikes of this step."""
        event_lists_kernel[(self.majors + self.minors,)](
            self.counts, self.entries, major_spike, minor_spike, n_major, n_minor,
            self.majors, self.segment, self.group, num_warps=self.segment // 256,
        )  # fmt: skip


@triton.jit
def list_segment(segment, entries_ptr, count_ptr, spike_ptr, n, SEGMENT: tl.constexpr, GROUP: tl.constexpr):
    """Write a segment's events, in order, to the start of its slot: groups of neurons, those of which one spiked."""
    k = segment * SEGMENT + tl.arange(0, SEGMENT)
    active = (tl.load(spike_ptr + k, mask=k < n, other=0) != 0).to(tl.int32)
    entry = k
    if GROUP > 1:
        GROUPS: tl.constexpr = SEGMENT // GROUP
        active = tl.max(active.reshape([GROUPS, GROUP]), axis=1)
        entry = segment * GROUPS + tl.arange(0, GROUPS)
    tl.store(entries_ptr + tl.cumsum(active, axis=0) - 1, entry, mask=active != 0)
    tl.store(count_ptr, tl.sum(active, axis=0))


@triton.jit(do_not_specialize=["n_major", "n_minor"])
def event_lists_kernel(
    count_ptr, list_ptr, major_spike_ptr, minor_spike_ptr, n_major, n_minor,
    MAJORS: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A program a segment; those of the major neurons come first."""
    program = tl.program_id(0)
    if program < MAJORS:
        list_segment(program, list_ptr + program * SEGMENT, count_ptr + program, major_spike_ptr, n_major, SEGMENT, 1)
    else:
        segment = program - MAJORS
        slot = list_ptr + MAJORS * SEGMENT + segment * (SEGMENT // GROUP)
        list_segment(segment, slot, count_ptr + program, minor_spike_ptr, n_minor, SEGMENT, GROUP)


@triton.jit
def counted_of(count_ptr, MAJORS: tl.constexpr, MINORS: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr):
    """What finds entries by their rank: see :func:`place_of`.

    Returns
    -------
    majors, minors
        How many entries either list has.
    counted, gaps
        For each segment: the entries up to its end, and the unused places before the next segment's first entry.
    """
    PADDED: tl.constexpr = triton.next_power_of_2(MAJORS + MINORS)
    segment = tl.arange(0, PADDED)
    count = tl.load(count_ptr + segment, mask=segment < MAJORS + MINORS, other=0)
    counted = tl.cumsum(count, axis=0)
    majors = tl.sum(tl.where(segment < MAJORS, count, 0), axis=0)
    of_minors = tl.maximum(segment + 1 - MAJORS, 0)
    gaps = (segment + 1 - of_minors) * SEGMENT + of_minors * (SEGMENT // GROUP) - counted
    return majors, tl.sum(count, axis=0) - majors, counted, gaps


@triton.jit
def place_of(rank, counted, gaps):
    """Where the entry of a rank stands. Gaps only grow, so that a maximum finds those before it."""
    return rank + tl.max(tl.where(counted <= rank, gaps, 0), axis=0)


Made = TypeVar("Made")
_KEPT: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def kept_with(weights: Tensor, key: Any, make: Callable[[], Made]) -> Made:
    """What belongs to one group's weights, made once and kept as long as their memory: a captured graph finds it there.

    Parameters
    ----------
    weights : Tensor
        The weights.
    key : hashable
        What else decides what is made.
    make : callable
        Makes it.
    """
    storage = weights.untyped_storage()
    made = _KEPT.get(storage)
    if made is None:
        made = _KEPT[storage] = {}
    key = weights.data_ptr(), key
    if key not in made:
        made[key] = make()
    kept: Made = made[key]
    return kept
