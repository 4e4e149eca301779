"""Who spiked, as lists on the device: made by one small launch, read by the programs that update weights.

A list is cut into segments, each with a slot of its own and a count, so that no program waits for another: events stand
in order at the start of their segment's slot, and a prefix sum over the counts finds the k-th event of all. Nothing is
atomic, nothing is read back by the host, and the order is the same on every run.

Where some neurons have more synapses than one item of work takes, what remains of them is cut into further parts, which
are numbered behind the neurons and listed like them.

Lists are a group's own, made in a launch of each step, unless spikes carry them (:mod:`tritonstdp.kernels.spikes`):
then whoever comes first makes them, a trace's launch in passing, and all groups read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import number_passing
from tritonstdp.kernels.formula_gpu import NUMBERS
from tritonstdp.kernels.launch import Launch, nothing, starts_apart
from tritonstdp.kernels.memory import Kept, kept_with
from tritonstdp.kernels.protocol import Case, PlacedStep
from tritonstdp.kernels.spikes import Carried, lists_of

LANES = tl.constexpr(32)
"""Entries that may be taken at once; a segment is a multiple of it."""
SMALLEST_SEGMENT, LARGEST_SEGMENT = 1024, 4096
MOST_SEGMENTS, LARGEST_OF_ALL = 256, 16384
"""Each program holds the counts of all segments: where so many neurons would take more, segments are still larger."""
SMALLEST_OF_MAPS = 128
USUAL_SEGMENTS = 16
"""Up to so many segments, a segment stays as large as it is; 32 counts are added up by one warp."""


class Listing(NamedTuple):
    """How the spiking neurons of one side are listed.

    A side may be several maps of one size: each has segments of its own, and its entries count from its start.

    Attributes
    ----------
    n : int
        Neurons, of a map, and the further parts of those that have some.
    segments : int
        Segments of all.
    segment : int
        Neurons a segment.
    parts : int
        Segments a map; 0 where the side is one.
    further : Tensor, optional
        The further parts, ``(neuron, part)``, int32 ``(m, 2)``.
    """

    n: int
    segments: int
    segment: int
    parts: int = 0
    further: Tensor | None = None

    @staticmethod
    def of(n: int, further: Tensor | None = None) -> Listing:
        """That of so many neurons and further parts."""
        segment = SMALLEST_SEGMENT
        while segment < LARGEST_SEGMENT and n > segment * USUAL_SEGMENTS:
            segment *= 2
        while segment < LARGEST_OF_ALL and n > segment * MOST_SEGMENTS:
            segment *= 2
        return Listing(n, triton.cdiv(n, segment), segment, further=further)

    @staticmethod
    def of_maps(maps: int, size: int) -> Listing:
        """That of so many maps, each of so many neurons; one segment holds a map that is not large."""
        segment = min(max(SMALLEST_OF_MAPS, triton.next_power_of_2(size)), LARGEST_SEGMENT)
        parts = triton.cdiv(size, segment)
        return Listing(size, maps * parts, segment, parts=parts)

    @property
    def key(self) -> int:
        """What tells it apart from all others that live, and is found at little cost."""
        return _KEYS.setdefault((*self[:-1], id(self.further)), len(_KEYS))


_KEYS: dict[tuple[int, ...], int] = {}


class EventList:
    """Room for what one side's listing finds, and what launches take of it.

    Attributes
    ----------
    segments, cut
        Its segments, and what kernels that make it are compiled for.
    read : tuple
        What a kernel takes that reads it: the counts of segments, and their slots.
    written : tuple
        What a kernel takes, beside the spikes, that makes it.
    """

    def __init__(self, listing: Listing, device: torch.device) -> None:
        n, segments, segment, parts, further = listing
        self.read = tuple([torch.empty(n, dtype=torch.int32, device=device) for n in (segments, segments * segment)])
        neurons = n if further is None else n - len(further)
        self.segments, self.cut = segments, (parts, segment)
        self.written = *self.read, n, neurons, further, segments


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
    PARTS: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """Write a segment's events, in order, to the start of its slot, and -1 up to a multiple of ``LANES``."""
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
    active = (tl.load(tl.max_contiguous(spike_ptr + neuron, 1), mask=k < n, other=0) != 0).to(tl.int32)
    count = tl.sum(active, axis=0)
    tl.store(entries_ptr + tl.cumsum(active, axis=0) - 1, k, mask=active != 0)
    beyond = count + tl.arange(0, LANES)
    tl.store(entries_ptr + beyond, -1, mask=beyond < tl.cdiv(count, LANES) * LANES)
    tl.store(count_ptr, count)


@triton.jit
def make_lists(program, lists, spikes, CUTS: tl.constexpr):
    """A program a segment, list by list."""
    for k in tl.static_range(len(CUTS)):
        count_ptr, list_ptr, n, neurons, further_ptr, segments = lists[k]
        if (program >= 0) & (program < segments):
            list_segment(
                program, list_ptr + program * CUTS[k][1], count_ptr + program, spikes[k], n, neurons, further_ptr,
                CUTS[k][0], CUTS[k][1],
            )  # fmt: skip
        program -= segments


@triton.jit
def event_lists_kernel(lists, spikes, CUTS: tl.constexpr):
    """Nothing but lists."""
    make_lists(tl.program_id(0), lists, spikes, CUTS)


class Making(NamedTuple):
    """What a launch that makes lists needs.

    Attributes
    ----------
    programs, num_warps : int
        How many make them.
    cuts : tuple
        What it is compiled for.
    """

    programs: int
    num_warps: int
    cuts: tuple[tuple[int, int], ...]

    @staticmethod
    def of(lists: Sequence[EventList]) -> Making:
        cuts = tuple([one.cut for one in lists])
        num_warps = max([min(max(1, segment // 256), 16) for _, segment in cuts], default=1)
        return Making(sum(one.segments for one in lists), num_warps, cuts)

    def launch(self, device: torch.device) -> Launch:
        """One of their own; it takes what each list says by ``written``, and the spikes."""
        return Launch(event_lists_kernel, self.programs, device, (self.cuts,), num_warps=self.num_warps)


@triton.jit
def counted_of(
    majors_ptr, minors_ptr,
    MAJORS: tl.constexpr, MINORS: tl.constexpr, MAJOR_SLOT: tl.constexpr, MINOR_SLOT: tl.constexpr,
    AT_ONCE: tl.constexpr = 1,
):  # fmt: skip
    """What finds the entries of two lists by their rank: see :func:`place_of`.

    Returns
    -------
    majors, minors
        How many entries either list has.
    taken
        How often entries of the second one are taken, so many at once, of a segment each.
    counted, gaps
        For each segment: the entries (or how often they are taken) up to its end, and the unused places before the next
        segment's first one.
    """
    segment = tl.arange(0, triton.next_power_of_2(MAJORS + MINORS))
    is_major = segment < MAJORS
    of_majors = tl.load(majors_ptr + segment, mask=is_major, other=0)
    of_minor = ~is_major & (segment < MAJORS + MINORS)
    of_minors = tl.load(minors_ptr + segment - MAJORS, mask=of_minor, other=0)
    taken = tl.cdiv(of_minors, AT_ONCE)
    count = of_majors + taken
    counted = tl.cumsum(count, axis=0)
    majors = tl.sum(of_majors, axis=0)
    before = tl.maximum(segment + 1 - MAJORS, 0)
    gaps = (segment + 1 - before) * MAJOR_SLOT + before * (MINOR_SLOT // AT_ONCE) - counted
    return majors, tl.sum(of_minors, axis=0), tl.sum(taken, axis=0), counted, gaps


@triton.jit
def place_of(rank, counted, gaps):
    """Where the entry of a rank stands. Gaps only grow, so that a maximum finds those before it."""
    return rank + tl.max(tl.where(counted <= rank, gaps, 0), axis=0)


@triton.jit
def entry_of(rank, exists, listed):
    """The row of a rank, of those that are listed or of all; and whether it may be a silent one's."""
    if len(listed) == 0:
        return rank, True
    else:
        full, counted, gaps, list_ptr = listed
        entry = rank
        if full == 0:
            entry = tl.load(list_ptr + place_of(rank, counted, gaps), mask=exists, other=0)
        return entry, full


@triton.jit
def places_of(rank, counted, gaps):
    """The same of a vector of ranks."""
    if counted.shape[0] == 1:
        return rank
    return rank + tl.max(tl.where(counted[:, None] <= rank[None, :], gaps[:, None], 0), axis=0)


Launches = Callable[[Any, Tensor, Tensor, int], tuple[Sequence[Listing], Launch]]
"""Makes, of a topology, the weights, the eligibility and the samples of a batch (how many; 0 without one), what a step
lists of its major and of its minor neurons, if anything, and the launch that updates the weights."""
_ROOM: Kept = WeakKeyDictionary()


class Lists:
    """What a step reads of who spiked, and the launches that make some of its lists.

    Parameters
    ----------
    listings : sequence of Listing
        One for each vector of spikes, or none.
    """

    def __init__(self, listings: Sequence[Listing]) -> None:
        self._listings, self._keys = listings, tuple([listing.key for listing in listings])
        self._making: dict[tuple[int, ...], Launch] = {}

    def reader(self, weights: Tensor) -> Callable[[bool, tuple[Tensor, ...]], tuple[Any, ...]]:
        """What gives the lists of spikes, as a kernel takes them that reads them; it makes those that are not made.

        The lists of spikes that carry none belong to the weights.
        """
        if not self._keys:
            return lambda unusual, spikes: ()
        device, keys = weights.device, self._keys
        own = kept_with(_ROOM, weights.untyped_storage(), (weights.data_ptr(), keys), self._new, device)
        read_own, written_own = tuple([one.read for one in own]), tuple([one.written for one in own])
        make_own = self._maker(tuple(range(len(own))), own, device)

        def read(unusual: bool, spikes: tuple[Tensor, ...]) -> tuple[Any, ...]:
            carried = [lists_of(one) for one in spikes]
            if carried.count(None) == len(spikes):
                make_own(unusual, written_own, spikes)
                return read_own
            found = [
                own[k] if one is None else one.get(keys[k]) or self._added(k, one, device)
                for k, one in enumerate(carried)
            ]
            if not any([one is None or one.missing for one in carried]):
                return tuple([one.read for one in found])
            missing = [k for k, one in enumerate(carried) if one is None or keys[k] in one.missing]
            # of a recurrent group, both lists may be one
            if made := tuple([k for k in missing if found.index(found[k]) == k]):
                written, of = tuple([found[k].written for k in made]), tuple([spikes[k] for k in made])
                self._maker(made, found, device)(unusual, written, of)
                for k in missing:
                    if (lists := carried[k]) is not None:
                        lists.missing = tuple([key for key in lists.missing if key != keys[k]])
            return tuple([one.read for one in found])

        return read

    def _new(self, device: torch.device) -> tuple[EventList, ...]:
        return tuple([EventList(listing, device) for listing in self._listings])

    def _added(self, k: int, carried: Carried, device: torch.device) -> EventList:
        """A list that spikes carry from now on."""
        carried[self._keys[k]] = added = EventList(self._listings[k], device)
        return added

    def _maker(self, sides: tuple[int, ...], lists: Sequence[EventList], device: torch.device) -> Launch:
        """The launch that makes the lists of some sides."""
        if sides not in self._making:
            self._making[sides] = Making.of([lists[k] for k in sides]).launch(device)
        return self._making[sides]


def listed_step(case: Case, launches: Launches, pre_is_major: bool = True) -> PlacedStep:
    """A step that lists who spiked, unless that is known, and then does what follows.

    Its launches are made once a topology and kind of weights. Lists that no spikes carry are a group's own, and stay
    with the memory of its weights.

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

    def prepared(*arguments: Any) -> tuple[Lists, Launch]:
        listings, update = launches(*arguments)
        return Lists(listings), update

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        if weights.numel() == 0:
            return nothing
        eligibility = weights if c is None else c
        spikes = pre[len(pre) - len(case.names.pre)]  # behind masks, where there are some
        samples = len(spikes) if case.reduction else 0
        kind = weights.stride(), None if c is None else c.stride(), weights.device, samples
        lists, update = kept_with(kept, topology, kind, prepared, topology, weights, eligibility, samples)
        read, apart = lists.reader(weights), starts_apart(weights, eligibility, *pre, *post)

        def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
            major, minor = (tuple(pre), tuple(post)) if pre_is_major else (tuple(post), tuple(pre))
            passed = passing(numbers, w_min, w_max)
            unusual = apart or starts_apart(*passed[NUMBERS])
            lists = read(unusual, (major[0], minor[0]))
            update(unusual, weights, weights if c is None else c, lists, major, minor, *passed)

        return step

    return PlacedStep(place)
