"""Who spiked, as lists on the device: made by one small launch, read by the programs that update weights.

A list is cut into segments, each with a slot of its own and a count, so that no program waits for another: events stand
in order at the start of their segment's slot, and a prefix sum over the counts finds the k-th event of all. Nothing is
atomic, nothing is read back by the host, and the order is the same on every run.

Where some neurons have more synapses than one item of work takes, what remains of them is cut into further parts, which
are numbered behind the neurons and listed like them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import number_passing
from tritonstdp.kernels.formula_gpu import NUMBERS
from tritonstdp.kernels.launch import Kept, Launch, kept_with, starts_apart
from tritonstdp.kernels.protocol import Case, Step

SMALLEST_SEGMENT, LARGEST_SEGMENT = 1024, 4096
MOST_SEGMENTS, LARGEST_OF_ALL = 512, 16384
"""Each program holds the counts of all segments: where so many neurons would take more, segments are still larger."""
SMALLEST_OF_MAPS = 128
USUAL_SEGMENTS = 16
"""Up to so many segments a side, a segment stays as large as it is; 32 counts are added up by one warp."""


Further = tuple[Tensor | None, Tensor | None]
"""The further parts of major and of minor neurons: ``(neuron, part)``, int32 ``(n, 2)``; None where none are cut."""


class Lists(NamedTuple):
    """How two lists are cut: of the spiking major neurons, and of groups of neighbouring minor neurons that have one.

    A side may be several maps of one size: each has segments of its own, and its entries count from its start.

    Attributes
    ----------
    majors, minors : int
        Segments of either side.
    segment : int
        Neurons a segment.
    group : int
        Minor neurons a group.
    parts : int
        Segments a map; 0 where each side is one.
    """

    majors: int
    minors: int
    segment: int
    group: int = 1
    parts: int = 0

    @staticmethod
    def of(n_major: int, n_minor: int, group: int) -> Lists:
        """The lists of so many neurons."""
        segment = SMALLEST_SEGMENT
        while segment < LARGEST_SEGMENT and max(n_major, n_minor) > segment * USUAL_SEGMENTS:
            segment *= 2
        while segment < LARGEST_OF_ALL and n_major + n_minor > segment * MOST_SEGMENTS:
            segment *= 2
        return Lists(triton.cdiv(n_major, segment), triton.cdiv(n_minor, segment), segment, group)

    @staticmethod
    def of_maps(maps: tuple[int, int], sizes: tuple[int, int]) -> Lists:
        """The same for sides of so many maps, each of so many neurons; one segment holds a map that is not large."""
        segment = min(max(SMALLEST_OF_MAPS, triton.next_power_of_2(max(sizes))), LARGEST_SEGMENT)
        parts = triton.cdiv(max(sizes), segment)
        return Lists(maps[0] * parts, maps[1] * parts, segment, parts=parts)

    def room(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Room for how many entries each segment has, those of the major side first, and for their slots."""
        slots = self.majors * self.segment + self.minors * (self.segment // self.group)
        counts, entries = (
            torch.empty(n, dtype=torch.int32, device=device) for n in (self.majors + self.minors, slots)
        )  # fmt: skip
        return counts, entries

    def launch(
        self,
        device: torch.device,
        n_major: int,
        n_minor: int,
        neurons: tuple[int, int],
        further: Further = (None, None),
    ) -> Launch:
        """What lists the spikes of a step: it takes the counts, the entries and the spikes of either side."""
        settled = n_major, n_minor, *neurons, *further, self.majors, self.parts, self.segment, self.group
        programs, num_warps = self.majors + self.minors, min(max(1, self.segment // 256), 16)
        return Launch(event_lists_kernel, programs, device, settled, num_warps=num_warps)


@triton.jit
def part_of(entry, exists, neurons, further_ptr):
    """The neuron that an entry stands for, and which part of it."""
    if further_ptr is None:
        return entry, 0
    else:
        beyond = exists & (entry >= neurons)
        at = further_ptr + 2 * (entry - neurons)
        return tl.where(beyond, tl.load(at, mask=beyond, other=0), entry), tl.load(at + 1, mask=beyond, other=0)


@triton.jit
def list_segment(
    segment, entries_ptr, count_ptr, spike_ptr, n, neurons, further_ptr,
    PARTS: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Write a segment's events, in order, to the start of its slot: groups of neurons, those of which one spiked."""
    part = segment
    if PARTS > 0:
        part = segment % PARTS
        spike_ptr += segment // PARTS * n
    k = part * SEGMENT + tl.arange(0, SEGMENT)
    neuron = k
    if further_ptr is not None:  # noqa: SIM102  (which is settled when it is compiled)
        if (part + 1) * SEGMENT > neurons:
            neuron, _ = part_of(k, k < n, neurons, further_ptr)
    # several spikes a lane would want another layout than entries, and send their addresses through shared memory
    neuron = tl.max_contiguous(neuron, 1)
    active = (tl.load(spike_ptr + neuron, mask=k < n, other=0) != 0).to(tl.int32)
    entry = k
    if GROUP > 1:
        GROUPS: tl.constexpr = SEGMENT // GROUP
        active = tl.max(active.reshape([GROUPS, GROUP]), axis=1)
        entry = part * GROUPS + tl.arange(0, GROUPS)
    tl.store(entries_ptr + tl.cumsum(active, axis=0) - 1, entry, mask=active != 0)
    tl.store(count_ptr, tl.sum(active, axis=0))


@triton.jit(do_not_specialize=["n_major", "n_minor", "major_neurons", "minor_neurons", "majors"])
def event_lists_kernel(
    count_ptr, list_ptr, major_spike_ptr, minor_spike_ptr, n_major, n_minor,
    major_neurons, minor_neurons, major_further_ptr, minor_further_ptr, majors,
    PARTS: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """A program a segment; those of the major neurons come first."""
    program = tl.program_id(0)
    count = count_ptr + program
    if program < majors:
        list_segment(
            program, list_ptr + program * SEGMENT, count, major_spike_ptr, n_major, major_neurons, major_further_ptr,
            PARTS, SEGMENT, 1,
        )  # fmt: skip
    else:
        segment = program - majors
        slot = list_ptr + majors * SEGMENT + segment * (SEGMENT // GROUP)
        list_segment(
            segment, slot, count, minor_spike_ptr, n_minor, minor_neurons, minor_further_ptr, PARTS, SEGMENT, GROUP
        )


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


Launches = Callable[[Any, Tensor, Tensor], tuple[Lists, Launch | None, Launch]]
"""Makes, of a topology, the weights and the eligibility, how a step's lists are cut; the launch that fills them, unless
a rule changes every synapse; and the launch that reads them."""
_ROOM: Kept = WeakKeyDictionary()


def listed_step(case: Case, launches: Launches, pre_is_major: bool = True) -> Step:
    """A step that lists who spiked, and then does what follows.

    Its launches are made once a topology and kind of weights. The lists are a group's own, and stay with the memory of
    its weights.

    Parameters
    ----------
    case : Case
        The case.
    launches : callable
        Makes the launches.
    pre_is_major : bool
        Whether the pre neurons are the major ones.

    Returns
    -------
    callable
        The step.
    """
    passing = number_passing(case)
    kept: Kept = WeakKeyDictionary()

    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        if weights.numel() == 0:
            return
        eligibility = weights if c is None else c
        kind = weights.stride(), None if c is None else c.stride(), weights.device
        lists, listing, update = kept_with(kept, topology, kind, launches, topology, weights, eligibility)
        place = weights.data_ptr(), lists
        counts, entries = kept_with(_ROOM, weights.untyped_storage(), place, lists.room, weights.device)
        major, minor = (tuple(pre), tuple(post)) if pre_is_major else (tuple(post), tuple(pre))
        passed = passing(numbers, w_min, w_max)
        unusual = starts_apart(weights, eligibility, *pre, *post, *passed[NUMBERS])
        if listing is not None:
            listing(unusual, counts, entries, major[0], minor[0])
        update(unusual, weights, eligibility, counts, entries, major, minor, *passed)

    return step
