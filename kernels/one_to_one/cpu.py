"""One-to-one connections on a CPU: a block of synapses at a time; those of neurons that spiked, or all where many did.

A modulated rule changes every synapse, so it takes all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops
from tritonstdp.kernels.formula_cpu import synapse_update
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, PlacedStep, Step


class Config(NamedTuple):
    """Nothing to choose: one pass over few synapses."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}
BLOCK = 1024
"""Synapses whose spikes are seen before it is decided how to visit them."""
FEW = 64
"""Synapses of a block that are visited one by one; more cost less as vectors of neighbours."""


def block_listers(case: Case) -> tuple[Any, Any]:
    """``note_spikes(words, pre_spike, post_spike, first)`` and ``list_block(words, events)``, compiled.

    The first notes which synapses of a block have a neuron that spiked, as bits, and returns how many; the second lists
    them, and returns that too.
    """
    pack: Any = loops.spike_packer(case.dtype, case.bool_spikes)
    list_spikes: Any = loops.spike_lister()
    count_bits, word = loops.count_bits, loops.WORD

    @loops.njit_part
    def note_spikes(words, pre_spike, post_spike, first):  # type: ignore[no-untyped-def]
        count = 0
        for k in range(len(words)):
            at = first + k * word
            left = len(pre_spike) - at
            words[k] = pack(pre_spike, at, left) | pack(post_spike, at, left)
            count += count_bits(words[k])
        return count

    @loops.njit_part
    def list_block(words, events):  # type: ignore[no-untyped-def]
        count = 0
        for k in range(len(words)):
            count = list_spikes(words[k], k * word, events, count)
        return count

    return note_spikes, list_block


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    update = synapse_update(case, bound_first=False)
    pre_side, post_side = loops.signals_of(case)
    (_, pre_arrays, pre_traces, pre_part), (_, post_arrays, post_traces, post_part) = pre_side, post_side
    real = loops.REAL[case.dtype]
    modulated = case.modulated
    unit_stride = case.layout == "contiguous"
    note_spikes, list_block = block_listers(case)
    word, at_once = loops.WORD, loops.AT_ONCE
    pointer, extent, address_of = loops.as_pointer, loops.extent, loops.address_of
    carray: Any = numba.carray

    @loops.njit_part
    def visit(w, c, w_stride, c_stride, i, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        k, m = (i, i) if unit_stride else (i * w_stride, i * c_stride)
        here, there = (real(pre[0][i]), *pre_traces(pre, i)), (real(post[0][i]), *post_traces(post, i))
        if modulated:
            w[k], c[m] = update(w[k], c[m], here, there, numbers, w_min, w_max)
        else:
            w[k], _ = update(w[k], real(0), here, there, numbers, w_min, w_max)

    @loops.njit_part
    def visit_all(w, c, w_stride, c_stride, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        # from 0 on, so that the compiler sees that no index is negative, and makes vectors of neighbours
        for i in range(len(pre[0])):
            visit(w, c, w_stride, c_stride, i, pre, post, numbers, w_min, w_max)

    def loop(w_address, w_stride, c_address, c_stride, pre_addresses, post_addresses, n, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        pre, post = pre_arrays(pre_addresses, n), post_arrays(post_addresses, n)
        w = carray(pointer(w_address), extent(n, w_stride, 1, 0), real)
        c = carray(pointer(c_address), extent(n, c_stride, 1, 0) if modulated else 0, real)
        words = np.empty(BLOCK // word, np.uint64)
        events = np.empty(FEW + at_once, np.uint32)
        for first in range(0, n, BLOCK):
            if not modulated and note_spikes(words, pre[0], post[0], first) <= FEW:
                for e in range(list_block(words, events)):
                    visit(w, c, w_stride, c_stride, first + np.int64(events[e]), pre, post, numbers, w_min, w_max)
                continue
            end = min(first + BLOCK, n)
            visit_all(
                w[first * w_stride : (end - 1) * w_stride + 1], c[first * c_stride : (end - 1) * c_stride + 1],
                w_stride, c_stride, pre_part(pre, first, end), post_part(post, first, end), numbers, w_min, w_max,
            )  # fmt: skip

    sides = pre_side.addresses, post_side.addresses
    run = loops.entry(loop, recipe_of(case), *[types.int64] * 4, *sides, types.int64, *loops.scalars(case))

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        eligibility = (0, 0) if c is None else (c.data_ptr(), c.stride(0))
        return loops.placed_step(
            5, run, weights.data_ptr(), weights.stride(0), *eligibility, tuple(map(address_of, pre)),
            tuple(map(address_of, post)), topology.n,
        )  # fmt: skip

    return PlacedStep(place)
