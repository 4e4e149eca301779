"""What the samples of a batch change, in Triton: each synapse goes through the samples in which one of its ends spiked.

One small launch packs the spikes: a neuron has a bit for each of 32 samples in a word, and, where there are more, a
word that is 0 if it is silent in all. Who has spiked at all is listed as for a step of one sample, and rows and columns
are the same items (:mod:`tritonstdp.kernels.items`). In a row, each lane takes the samples of its own synapse; in a
column, where the major neurons are silent, all lanes take those of the minor neuron. Either way the work follows the
spikes, and changes are added up in the samples' order, as the reference adds them: in registers, from the weights as
the step finds them, which move once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import values_at
from tritonstdp.kernels.event_lists import entry_of, part_of
from tritonstdp.kernels.formula_gpu import quotient
from tritonstdp.kernels.launch import Launch, nothing, starts_apart
from tritonstdp.kernels.memory import Kept, kept_with
from tritonstdp.kernels.protocol import Case, PlacedStep

WORD = tl.constexpr(32)
"""Samples a word."""
NEURONS = 128
"""Of a program that packs spikes."""
BY_OWN, BY_OTHER, BY_BOTH = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
"""Whose spikes read a signal: those of its own side, of the other, or both."""
MAJOR, MINOR, FAR = tl.constexpr(2), tl.constexpr(3), tl.constexpr(4)
"""Where :class:`Samples` has the readers of a side, and how far apart they are."""


class Samples(NamedTuple):
    """What kernels are compiled for that learn from a batch.

    Attributes
    ----------
    n : int
        Samples.
    mean : bool
        Whether the mean of their changes is asked for, and not the sum.
    major_readers, minor_readers : tuple of int
        For each of the rule's own signals of a side, whose spikes read it.
    far : bool
        Whether the signals of a word's samples lie further apart than 32 bits can say.
    """

    n: int
    mean: bool
    major_readers: tuple[int, ...]
    minor_readers: tuple[int, ...]
    far: bool

    @staticmethod
    def of(case: Case, n: int, pre_is_major: bool, neurons: Sequence[int]) -> Samples | None:
        """Those of a case, in a batch of so many, with so many neurons on either side; None where there is no batch."""
        if not case.reduction:
            return None
        rule, signatures = case.formula.rule, case.formula.signatures

        def readers(signals: Sequence[str], own: str, other: str) -> tuple[int, ...]:
            return tuple([(s in signatures[own].reads) + 2 * (s in signatures[other].reads) for s in signals])

        sides = readers(rule.pre, "on_pre", "on_post"), readers(rule.post, "on_post", "on_pre")
        far = WORD.value * max(neurons) >= 2**31
        return Samples(n, case.reduction == "mean", *(sides if pre_is_major else sides[::-1]), far)


@triton.jit
def words_at(masks_ptr, word, neurons, SAMPLES: tl.constexpr):
    """Where the masks of a word of samples begin: behind those of all samples, where these are more than a word."""
    return masks_ptr + tl.cast(word + (SAMPLES > WORD), tl.int64) * neurons


@triton.jit
def word_of(spike_ptr, k, first, n, inside, SAMPLES: tl.constexpr):
    """In which samples of the word that begins with the ``first`` some neurons spiked."""
    AT_ONCE: tl.constexpr = min(SAMPLES, 32)
    at = spike_ptr + tl.cast(first, tl.int64) * n + k
    bits = tl.zeros([k.shape[0]], tl.int32)
    for b in tl.static_range(AT_ONCE):
        asked = inside
        if SAMPLES % AT_ONCE:
            asked = inside & (k < tl.where(first + b < SAMPLES, n, 0))
        bits |= (tl.load(at, mask=asked, other=0) != 0).to(tl.int32) << b
        at += n
    return bits


@triton.jit
def masks_kernel(masks, spikes, neurons, SAMPLES: tl.constexpr, BLOCK: tl.constexpr):
    """Pack in which samples some neurons spiked, of either side."""
    block = tl.program_id(0)
    for side in tl.static_range(2):
        n = neurons[side]
        if (block >= 0) & (block * BLOCK < n):
            k = block * BLOCK + tl.arange(0, BLOCK)
            every = tl.zeros([BLOCK], tl.int32)
            for word in range((SAMPLES + WORD - 1) // WORD):
                bits = word_of(spikes[side], k, word * WORD, n, k < n, SAMPLES)
                tl.store(words_at(masks[side], word, n, SAMPLES) + k, bits, mask=k < n)
                every |= bits
            if SAMPLES > WORD:
                tl.store(masks[side] + k, every, mask=k < n)
        block -= tl.cdiv(n, BLOCK)


@triton.jit
def values_of_sample(
    pointers, at, spiked, other_spiked, of_all, SAMPLES: tl.constexpr, SIDE: tl.constexpr, REAL: tl.constexpr
):  # fmt: skip
    """A side's signals in a sample of each lane's own, where a spike reads them; its parameters are those of all."""
    READERS: tl.constexpr = SAMPLES[SIDE]
    if pointers[0].dtype.element_ty != tl.int1:
        spike = tl.load(pointers[0] + at, mask=spiked, other=0).to(REAL)
    elif READERS[0] == BY_OWN:
        spike = tl.full([], 1.0, REAL)
    else:
        spike = spiked.to(REAL)
    values = (spike,)
    for n in tl.static_range(1, len(READERS)):
        reading = spiked
        if READERS[n] == BY_OTHER:
            reading = other_spiked
        if READERS[n] == BY_BOTH:
            reading = spiked | other_spiked
        values += (tl.load(pointers[n] + at, mask=reading, other=0).to(REAL),)  # type: ignore[assignment]
    for n in tl.static_range(len(READERS), len(of_all)):
        values += (of_all[n],)  # type: ignore[assignment]
    return values


@triton.jit
def of_sample(pointers, sample, neurons, OWN: tl.constexpr):
    """Where a side's signals are of one sample, ``OWN`` of which are those of the rule."""
    shifted = ()
    for n in tl.static_range(len(pointers)):
        if n < OWN:
            shifted += (pointers[n] + tl.cast(sample, tl.int64) * neurons,)  # type: ignore[assignment]
        else:
            shifted += (pointers[n],)  # type: ignore[assignment]
    return shifted


@triton.jit
def some(left):
    """Whether bits are left, in the mask of any lane."""
    if len(left.shape) > 0:
        return tl.max(left.to(tl.uint32, bitcast=True)) != 0
    else:
        return left != 0


@triton.jit
def place_of_bit(bit, FAR: tl.constexpr):
    """The place of the only bit that is set."""
    # of a power of 2, the exponent
    place = (bit.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    if FAR:
        place = place.to(tl.int64)
    return place


@triton.jit
def change_of_word(
    dw, w, mine, word, of_major, of_minor, i, j, seen, major, minor, major_neurons, minor_neurons, here, there,
    numbers, w_min, w_max,
    DELTA: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """Add what the samples of a word change, of which ``of_major`` and ``of_minor`` say who spiked in them.

    ``of_major`` is None where the major neurons are silent: then all lanes take the samples of one minor neuron.
    ``here`` and ``there`` are the signals of any sample, of which only parameters count: those of all samples.
    """
    MAJOR_OWN: tl.constexpr = len(SAMPLES[MAJOR])
    MINOR_OWN: tl.constexpr = len(SAMPLES[MINOR])
    major = of_sample(major, word * WORD, major_neurons, MAJOR_OWN)
    minor = of_sample(minor, word * WORD, minor_neurons, MINOR_OWN)
    left = of_minor
    if of_major is not None:
        left = tl.where(mine, of_major | of_minor, 0)
    while some(left):
        bit = left & -left
        left ^= bit
        place = place_of_bit(bit, SAMPLES[FAR])
        at, minor_at = place * major_neurons + i, place * minor_neurons + j
        if of_major is None:
            spiked = tl.zeros_like(w) != 0
            other_spiked = tl.zeros_like(w) == 0
            majors = values_of_sample(major, at, spiked, mine, here, SAMPLES, MAJOR, REAL)
            minors = values_of_sample(minor, minor_at, bit != 0, bit == 0, there, SAMPLES, MINOR, REAL)
        else:
            spiked, other_spiked = (of_major & bit) != 0, (of_minor & bit) != 0
            majors = values_of_sample(major, at, spiked, other_spiked, here, SAMPLES, MAJOR, REAL)
            reading = tl.where(seen, spiked, False)
            minors = values_of_sample(minor, minor_at, other_spiked, reading, there, SAMPLES, MINOR, REAL)
        if PRE_IS_MAJOR:
            change = DELTA(w, majors, minors, spiked, other_spiked, numbers, w_min, w_max)
        else:
            change = DELTA(w, minors, majors, other_spiked, spiked, numbers, w_min, w_max)
        dw += tl.where(bit != 0, change, 0.0)
    return dw


@triton.jit
def moved_by_all(
    w, c, dw, touched, here, there, numbers, w_min, w_max,
    MOVED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    SAMPLES: tl.constexpr,
):  # fmt: skip
    """The new weight and the new eligibility, of what all samples change together."""
    if SAMPLES[1]:
        dw = quotient(dw, tl.full([], SAMPLES[0], REAL))
    if PRE_IS_MAJOR:
        new, c = MOVED(w, dw, c, here, there, numbers, w_min, w_max)
    else:
        new, c = MOVED(w, dw, c, there, here, numbers, w_min, w_max)
    if not MODULATED:
        new = tl.where(touched, new, w)
    return new, c


@triton.jit
def after_samples(
    w, c, mine, i, exists, j, seen, major, minor, major_neurons, minor_neurons, here, there, numbers, w_min, w_max,
    DELTA: tl.constexpr, MOVED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    SAMPLES: tl.constexpr, MAJOR_IS_SILENT: tl.constexpr = False,
):  # fmt: skip
    """The new weights and eligibilities of synapses between some neurons, of those that are ``mine``."""
    dw = tl.zeros_like(w)
    touched = dw != 0
    for word in range((SAMPLES[0] + WORD - 1) // WORD):
        of_minor = tl.load(words_at(minor[0], word, minor_neurons, SAMPLES[0]) + j, mask=seen, other=0)
        touched |= of_minor != 0
        of_major = None
        if not MAJOR_IS_SILENT:
            of_major = tl.load(words_at(major[0], word, major_neurons, SAMPLES[0]) + i, mask=exists, other=0)
            touched |= of_major != 0
        dw = change_of_word(
            dw, w, mine, word, of_major, of_minor, i, j, seen, major[1:], minor[1:], major_neurons, minor_neurons,
            here, there, numbers, w_min, w_max, DELTA, REAL, PRE_IS_MAJOR, SAMPLES,
        )  # fmt: skip
    return moved_by_all(
        w, c, dw, touched, here, there, numbers, w_min, w_max, MOVED, MODULATED, REAL, PRE_IS_MAJOR, SAMPLES
    )


@triton.jit
def sampled_row(
    rank, rows, part, listed, w_ptr, c_ptr, major, minor, major_neurons, minor_neurons, further_ptr, sizes, plan,
    numbers, w_min, w_max,
    ROW_AT: tl.constexpr, DELTA: tl.constexpr, MOVED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr,
    PRE_IS_MAJOR: tl.constexpr, SPARING: tl.constexpr, TALL: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
    UNIT: tl.constexpr, EAGER: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """What all samples change in a part of one row."""
    entry, _ = entry_of(rank, rank < rows, listed)
    i, further = part_of(entry, rank < rows, major_neurons, further_ptr)
    here = values_at(major[1:], i, i >= 0, REAL)
    for k in range(BLOCKS):
        first = ((part + further) * BLOCKS + k) * WIDTH
        at, c_at, inside, j, seen = ROW_AT(i, first + tl.arange(0, WIDTH), sizes, plan)
        w = tl.load(w_ptr + at, mask=inside, other=0.0).to(REAL)
        c = w
        if MODULATED:
            c = tl.load(c_ptr + c_at, mask=inside, other=0.0).to(REAL)
        there = values_at(minor[1:], j, seen, REAL)
        new, c = after_samples(
            w, c, inside, i, i >= 0, j, seen, major, minor, major_neurons, minor_neurons, here, there,
            numbers, w_min, w_max, DELTA, MOVED, MODULATED, REAL, PRE_IS_MAJOR, SAMPLES,
        )  # fmt: skip
        tl.store(w_ptr + at, new.to(w_ptr.dtype.element_ty), mask=inside)
        if MODULATED:
            tl.store(c_ptr + c_at, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def sampled_column(
    entries_ptr, part, w_ptr, major, minor, major_neurons, minor_neurons, further_ptr, sizes, plan, numbers, w_min,
    w_max,
    COLUMN_AT: tl.constexpr, DELTA: tl.constexpr, MOVED: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    BLOCKS: tl.constexpr, HEIGHT: tl.constexpr, AT_ONCE: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """The same for a part of a column, where the major neuron is silent in all samples: others belong to the rows."""
    entry = tl.load(entries_ptr)
    j, further = part_of(entry, entry >= 0, minor_neurons, further_ptr)
    there = values_at(minor[1:], j, j >= 0, REAL)
    for k in range(BLOCKS):
        first = ((part + further) * BLOCKS + k) * HEIGHT
        i, exists, at = COLUMN_AT(j, first + tl.arange(0, HEIGHT), sizes, plan)
        mine = tl.load(major[0] + i, mask=exists, other=1) == 0
        here = values_at(major[1:], i, exists, REAL)
        w = tl.load(w_ptr + at, mask=mine, other=0.0).to(REAL)
        new, _ = after_samples(
            w, w, mine, i, exists, j, j >= 0, major, minor, major_neurons, minor_neurons, here, there,
            numbers, w_min, w_max, DELTA, MOVED, False, REAL, PRE_IS_MAJOR, SAMPLES, True,
        )  # fmt: skip
        tl.store(w_ptr + at, new.to(w_ptr.dtype.element_ty), mask=mine)


_ROOM: Kept = WeakKeyDictionary()


def _masks(samples: int, sizes: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """Room for those of either side."""
    words = triton.cdiv(samples, WORD.value)
    return tuple([torch.empty(words + (words > 1), n, dtype=torch.int32, device=device) for n in sizes])


def packed_step(step: PlacedStep) -> PlacedStep:
    """A step that packs the spikes of a batch, for one that takes their masks in front of the signals of each side.

    Masks stay with the memory of the weights.
    """
    kept: Kept = WeakKeyDictionary()

    def launch(device: torch.device, sizes: Sequence[int], samples: int) -> Launch:
        programs = sum(triton.cdiv(n, NEURONS) for n in sizes)
        return Launch(masks_kernel, programs, device, (tuple(sizes), samples, NEURONS))

    def place(topology, weights, c, pre, post, *others):  # type: ignore[no-untyped-def]
        if weights.numel() == 0:
            return nothing
        samples, sizes, device = len(pre[0]), (pre[0].shape[1], post[0].shape[1]), weights.device
        room = weights.data_ptr(), samples, sizes
        masks = kept_with(_ROOM, weights.untyped_storage(), room, _masks, samples, sizes, device)
        pack = kept_with(kept, topology, (device, samples), launch, device, sizes, samples)
        apart = starts_apart(pre[0], post[0])
        update = step.place(topology, weights, c, (masks[0], *pre), (masks[1], *post), *others)

        def packed(topology, weights, c, pre, post, *others):  # type: ignore[no-untyped-def]
            pack(apart, masks, (pre[0], post[0]))
            update(topology, weights, c, (masks[0], *pre), (masks[1], *post), *others)

        return packed

    return PlacedStep(place)
