"""Batches over one-to-one connections on a CPU: some blocks of synapses at a time, sample by sample.

What the samples change of a synapse adds up in the samples' order, so that the bits are the reference's. Where few
neurons spike, most synapses are touched by one sample alone, and move at once. Where many do, or the rule is modulated,
changes are added up as vectors of neighbours, and all move with the last sample.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import batches, loops
from tritonstdp.kernels.batches import Config
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.one_to_one import cpu
from tritonstdp.kernels.one_to_one.cpu import BLOCK, FEW, block_listers
from tritonstdp.kernels.protocol import Case, Step

SPAN = 16 * BLOCK
"""Synapses whose changes are added up before they move: long runs of a sample are read faster than short ones."""
MOST_EVENTS = 16
"""Of a sample's block that are visited one by one to add them up; vectors cost less sooner than where weights move."""
MOST_SAMPLES = 32
"""That are looked at before anything is computed."""
MOST_OF_ALL = 6 * FEW
"""Of all samples' block that are visited one by one where that moves them at once."""
DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run, address_of = _compile(case), loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        eligibility = (0, 0) if c is None else (c.data_ptr(), c.stride(0))
        return loops.placed_step(
            5, run, weights.data_ptr(), weights.stride(0), *eligibility, tuple(map(address_of, pre)),
            tuple(map(address_of, post)), topology.n, len(pre[0]),
        )  # fmt: skip

    return batches.step(case, place, cpu.build)


def _compile(case: Case) -> Any:
    pre_side, post_side = batches.samples_of(case)
    change, moved, move = batches.changes_of(case, bound_first=False)
    real, modulated = loops.REAL[case.dtype], case.modulated
    unit_stride = case.layout == "contiguous"
    note_spikes, list_block = block_listers(case)
    word, at_once, per_block = loops.WORD, loops.AT_ONCE, BLOCK // loops.WORD
    pointer, extent, choose = loops.as_pointer, loops.extent, loops.choose
    carray: Any = numba.carray
    (pre_signals, pres, pre_at, pre_among), (post_signals, posts, post_at, post_among) = pre_side, post_side
    pre_part, post_part = pre_signals.part, post_signals.part

    @loops.njit_part
    def change_by(old, k, pre, post, state):  # type: ignore[no-untyped-def]
        """By what a sample changes a synapse, and whether it touches it."""
        s, q = real(pre[0][k]), real(post[0][k])
        pre_spiked, post_spiked = s != 0, q != 0
        changed = change(old, pre_at(s, pre, k), post_at(q, post, k), pre_spiked, post_spiked, state)
        touched = pre_spiked | post_spiked
        return choose(touched, changed, real(0)), touched

    @loops.njit_part
    def add(dw, w, w_stride, k, pre, post, state):  # type: ignore[no-untyped-def]
        changed, _ = change_by(w[k if unit_stride else k * w_stride], k, pre, post, state)
        dw[k] += changed

    @loops.njit_part
    def add_block(dw, any_touches, w, w_stride, pre, post, busy, words, events, state):  # type: ignore[no-untyped-def]
        if not modulated:
            for k in range(len(dw)):
                any_touches[k] |= (pre[0][k] != 0) | (post[0][k] != 0)
        if not busy and note_spikes(words, pre[0], post[0], 0) <= MOST_EVENTS:
            for e in range(list_block(words, events)):
                add(dw, w, w_stride, np.int64(events[e]), pre, post, state)
            return
        for k in range(len(dw)):
            add(dw, w, w_stride, k, pre, post, state)

    @loops.njit_part
    def move_with_last(dw, any_touches, w, c, w_stride, c_stride, pre, post, state):  # type: ignore[no-untyped-def]
        for k in range(len(dw)):
            at, c_at = (k, k) if unit_stride else (k * w_stride, k * c_stride)
            old, here, there = w[at], pre_at(real(0), pre, k), post_at(real(0), post, k)
            changed, touched = change_by(old, k, pre, post, state)
            total = dw[k] + changed
            if modulated:
                w[at], c[c_at] = moved(old, c[c_at], total, here, there, state)
            else:
                new, _ = moved(old, real(0), total, here, there, state)
                w[at] = choose(choose(any_touches[k], True, touched), new, old)

    @loops.njit_part
    def note_block(words, shared, touched, pre_spike, post_spike, block):  # type: ignore[no-untyped-def]
        count = note_spikes(words[block * per_block : (block + 1) * per_block], pre_spike, post_spike, block * BLOCK)
        for k in range(block * per_block, (block + 1) * per_block):
            shared[k] |= touched[k] & words[k]
            touched[k] |= words[k]
        return count

    @loops.njit_part
    def visit_alone(w, w_stride, pre, post, words, shared, events, state):  # type: ignore[no-untyped-def]
        """Synapses that one sample alone touches."""
        words &= ~shared
        for e in range(list_block(words, events)):
            k = np.int64(events[e])
            at = k if unit_stride else k * w_stride
            s, q, old = real(pre[0][k]), real(post[0][k]), w[at]
            here, there = pre_at(s, pre, k), post_at(q, post, k)
            changed = change(old, here, there, s != 0, q != 0, state)
            w[at], _ = moved(old, real(0), real(0) + changed, here, there, state)

    @loops.njit_part
    def visit_shared(w, c, w_stride, first, sides, shared, events, state):  # type: ignore[no-untyped-def]
        """Synapses that several samples touch."""
        pre, n, post, samples = sides
        for e in range(list_block(shared, events)):
            k, total = np.int64(events[e]), real(0)
            at, i = k if unit_stride else k * w_stride, np.uint64(first + k)
            for b in range(np.uint64(samples)):
                s, q = real(pres(pre, b, n)[0][i]), real(posts(post, b, n)[0][i])
                if s != 0 or q != 0:
                    here = pre_among(s, pre, samples, np.uint64(n), b, i)
                    there = post_among(q, post, samples, np.uint64(n), b, i)
                    total += change(w[at], here, there, s != 0, q != 0, state)
            here = pre_among(real(0), pre, samples, np.uint64(n), np.uint64(0), i)
            there = post_among(real(0), post, samples, np.uint64(n), np.uint64(0), i)
            move(w, c, at, at, total, here, there, state)

    def loop(
        w_address, w_stride, c_address, c_stride, pre_addresses, post_addresses, n, samples,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        weights = carray(pointer(w_address), extent(n, w_stride, 1, 0), real)
        eligibility = carray(pointer(c_address), extent(n, c_stride, 1, 0) if modulated else 0, real)
        state, sides = (numbers, w_min, w_max, samples), (pre_addresses, n, post_addresses, samples)
        # which synapses a sample touches, several do, and any does
        noted = np.empty((min(samples, MOST_SAMPLES) + 2, SPAN // word), np.uint64)
        words = np.empty(per_block, np.uint64)
        events, changes = np.empty(min(SPAN, n) + at_once, np.uint32), np.empty(min(SPAN, n), real)
        touches = np.empty(min(SPAN, n), np.bool_)
        for first in range(0, n, SPAN):
            end = min(first + SPAN, n)
            w = weights[first * w_stride : (end - 1) * w_stride + 1]
            c = eligibility[first * c_stride : (end - 1) * c_stride + 1]
            looked = not modulated and samples <= MOST_SAMPLES
            if looked:
                blocks, total, few = (end - first + BLOCK - 1) // BLOCK, 0, True
                shared, touched = noted[samples], noted[samples + 1]
                shared[:], touched[:] = 0, 0
                for b in range(samples):
                    pre, post = pres(pre_addresses, b, n)[0], posts(post_addresses, b, n)[0]
                    for block in range(blocks):
                        total += note_block(noted[b], shared, touched, pre[first:end], post[first:end], block)
                    # samples are much alike: those that are left need no look where these have twice their share
                    few = max(total, total * samples // (2 * b + 2)) <= min(samples * FEW, MOST_OF_ALL) * blocks
                    if not few:
                        break
                if few:
                    shared = shared[: blocks * per_block]
                    for b in range(samples):
                        pre = pre_part(pres(pre_addresses, b, n), first, end)
                        post = post_part(posts(post_addresses, b, n), first, end)
                        visit_alone(w, w_stride, pre, post, noted[b, : len(shared)], shared, events, state)
                    visit_shared(w, c, w_stride, first, sides, shared, events, state)
                    continue

            dw, any_touches = changes[: end - first], touches[: end - first]
            dw[:], any_touches[:] = 0, False
            for b in range(samples - 1):
                pre, post = pres(pre_addresses, b, n), posts(post_addresses, b, n)
                for at in range(first, end, BLOCK):
                    begin, stop = at - first, min(at + BLOCK, end)
                    add_block(
                        dw[begin : stop - first], any_touches[begin : stop - first], w[begin * w_stride :], w_stride,
                        pre_part(pre, at, stop), post_part(post, at, stop), looked, words, events, state,
                    )  # fmt: skip
            pre = pre_part(pres(pre_addresses, samples - 1, n), first, end)
            post = post_part(posts(post_addresses, samples - 1, n), first, end)
            move_with_last(dw, any_touches, w, c, w_stride, c_stride, pre, post, state)

    sides = pre_side.signals.addresses, post_side.signals.addresses
    return loops.entry(loop, recipe_of(case), *[types.int64] * 4, *sides, types.int64, *batches.scalars(case))
