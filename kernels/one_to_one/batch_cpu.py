"""Batches over one-to-one connections on a CPU: a block of synapses at a time, sample by sample.

What the samples change of a block adds up in the samples' order, so that the bits are the reference's; then what any of
them touched moves.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import batches, loops
from tritonstdp.kernels.batches import Config
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.one_to_one.cpu import BLOCK, block_listers
from tritonstdp.kernels.protocol import Case, PlacedStep, Step

SPAN = 16 * BLOCK
"""Synapses whose changes are added up before they move: long runs of a sample are read faster than short ones."""
MOST_EVENTS = 16
"""Of a sample's block that are visited one by one; where nothing is written yet, vectors cost less sooner."""
DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    divisor_of, case = partial(batches.divisor_of, case), case._replace(reduction=batches.ANY)
    pre_side, post_side = batches.samples_of(case)
    change, _, move = batches.changes_of(case, bound_first=False)
    real, modulated = loops.REAL[case.dtype], case.modulated
    unit_stride = case.layout == "contiguous"
    note_spikes, list_block = block_listers(case)
    word, at_once = loops.WORD, loops.AT_ONCE
    pointer, extent, address_of = loops.as_pointer, loops.extent, loops.address_of
    carray: Any = numba.carray
    (pre_signals, pres, pre_at, _), (post_signals, posts, post_at, _) = pre_side, post_side
    pre_part, post_part = pre_signals.part, post_signals.part

    @loops.njit_part
    def add(dw, w, w_stride, k, pre, post, state):  # type: ignore[no-untyped-def]
        s, q = real(pre[0][k]), real(post[0][k])
        old = w[k if unit_stride else k * w_stride]
        dw[k] += change(old, pre_at(s, pre, k), post_at(q, post, k), s != 0, q != 0, state)

    @loops.njit_part
    def add_block(dw, w, w_stride, pre, post, words, events, state):  # type: ignore[no-untyped-def]
        if note_spikes(words, pre[0], post[0], 0) <= MOST_EVENTS:
            for e in range(list_block(words, events)):
                add(dw, w, w_stride, np.int64(events[e]), pre, post, state)
            return
        for k in range(len(dw)):
            add(dw, w, w_stride, k, pre, post, state)

    @loops.njit_part
    def move_one(dw, w, c, w_stride, c_stride, k, pre, post, divisor, state):  # type: ignore[no-untyped-def]
        at, c_at = (k, k) if unit_stride else (k * w_stride, k * c_stride)
        move(w, c, at, c_at, dw[k] / divisor, pre_at(real(0), pre, k), post_at(real(0), post, k), state)

    @loops.njit_part
    def move_all(dw, touched, w, c, w_stride, c_stride, pre, post, events, divisor, state):  # type: ignore[no-untyped-def]
        if modulated:
            for k in range(len(dw)):
                move_one(dw, w, c, w_stride, c_stride, k, pre, post, divisor, state)
        else:
            for e in range(list_block(touched, events)):
                move_one(dw, w, c, w_stride, c_stride, np.int64(events[e]), pre, post, divisor, state)

    def loop(
        w_address, w_stride, c_address, c_stride, pre_addresses, post_addresses, n, samples, divisor,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        w = carray(pointer(w_address), extent(n, w_stride, 1, 0), real)
        c = carray(pointer(c_address), extent(n, c_stride, 1, 0) if modulated else 0, real)
        state = numbers, w_min, w_max
        words, events = np.empty(BLOCK // word, np.uint64), np.empty(min(SPAN, n) + at_once, np.uint32)
        for first in range(0, n, SPAN):
            end = min(first + SPAN, n)
            w_part = w[first * w_stride : (end - 1) * w_stride + 1]
            c_part = c[first * c_stride : (end - 1) * c_stride + 1]
            dw, touched = np.zeros(end - first, real), np.zeros(SPAN // word, np.uint64)
            for b in range(samples):
                pre, post = pres(pre_addresses, b, n), posts(post_addresses, b, n)
                for at in range(first, end, BLOCK):
                    stop, begin = min(at + BLOCK, end), at - first
                    add_block(
                        dw[begin : stop - first], w_part[begin * w_stride :], w_stride, pre_part(pre, at, stop),
                        post_part(post, at, stop), words, events, state,
                    )  # fmt: skip
                    for k in range(len(words)):
                        touched[begin // word + k] |= words[k]
            pre, post = pres(pre_addresses, 0, n), posts(post_addresses, 0, n)
            move_all(
                dw, touched, w_part, c_part, w_stride, c_stride, pre_part(pre, first, end), post_part(post, first, end),
                events, divisor, state,
            )  # fmt: skip

    sides = pre_side.signals.addresses, post_side.signals.addresses
    run = loops.entry(loop, recipe_of(case), *[types.int64] * 4, *sides, types.int64, *batches.scalars(case))

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        eligibility = (0, 0) if c is None else (c.data_ptr(), c.stride(0))
        return loops.placed_step(
            5, run, weights.data_ptr(), weights.stride(0), *eligibility, tuple(map(address_of, pre)),
            tuple(map(address_of, post)), topology.n, len(pre[0]), divisor_of(pre),
        )  # fmt: skip

    return PlacedStep(place)
