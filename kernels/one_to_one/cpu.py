"""One-to-one connections on a CPU: a block of synapses at a time; those of neurons that spiked, or all where many did.

A modulated rule changes every synapse, so it takes all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import native
from tritonstdp.kernels.formula_cpu import synapse_update
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """Nothing to choose: one pass over few synapses."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}
BLOCK = 1024
"""Synapses whose spikes are seen before it is decided how to visit them."""
FEW = 64
"""Synapses of a block that are visited one by one; more cost less as vectors of neighbours."""


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    update = synapse_update(case, bound_first=False)
    real = native.REAL[case.dtype]
    spike_type = np.bool_ if case.bool_spikes else real
    modulated = case.formula.rule.modulated
    column_dopamine = case.dopamine == "column"
    unit_stride = case.layout == "contiguous"
    pack: Any = native.spike_packer(case.dtype, case.bool_spikes)
    list_spikes: Any = native.spike_lister()
    count_bits, word, at_once = native.count_bits, native.WORD, native.AT_ONCE
    pointer, extent = native.as_pointer, native.extent
    carray: Any = numba.carray

    @native.njit_part
    def visit(w, c, k, m, pre_spike, pre_trace, post_spike, post_trace, dopamine, parameters, w_min, w_max, decay):  # type: ignore[no-untyped-def]
        sides = pre_spike, pre_trace, post_spike, post_trace
        if modulated:
            w[k], c[m] = update(w[k], c[m], *sides, dopamine, parameters, w_min, w_max, decay)
        else:
            w[k], _ = update(w[k], dopamine, *sides, dopamine, parameters, w_min, w_max, decay)

    @native.njit_part
    def visit_all(
        w, c, w_stride, c_stride, pre_spike, pre_trace, post_spike, post_trace, column, dopamine,
        parameters, w_min, w_max, decay,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        for i in range(len(pre_spike)):
            k, m = (i, i) if unit_stride else (i * w_stride, i * c_stride)
            visit(w, c, k, m, pre_spike[i], pre_trace[i], post_spike[i], post_trace[i],
                  column[i] if column_dopamine else dopamine, parameters, w_min, w_max, decay)  # fmt: skip

    @native.njit_part
    def note_spikes(words, pre_spike, post_spike, first):  # type: ignore[no-untyped-def]
        """Which synapses of a block have a neuron that spiked, as bits; and how many."""
        count = 0
        for k in range(len(words)):
            at = first + k * word
            left = len(pre_spike) - at
            words[k] = pack(pre_spike, at, left) | pack(post_spike, at, left)
            count += count_bits(words[k])
        return count

    def loop(
        w_address, w_stride, c_address, c_stride, s_address, x_address, q_address, y_address, n,
        column_address, parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        pre_spike = carray(pointer(s_address), n, spike_type)
        pre_trace = carray(pointer(x_address), n, real)
        post_spike = carray(pointer(q_address), n, spike_type)
        post_trace = carray(pointer(y_address), n, real)
        column = carray(pointer(column_address), n if column_dopamine else 0, real)
        w = carray(pointer(w_address), extent(n, w_stride, 1, 0), real)
        c = carray(pointer(c_address), extent(n, c_stride, 1, 0) if modulated else 0, real)
        words = np.empty(BLOCK // word, np.uint64)
        events = np.empty(FEW + at_once, np.uint32)
        for first in range(0, n, BLOCK):
            if not modulated and note_spikes(words, pre_spike, post_spike, first) <= FEW:
                count = 0
                for k in range(len(words)):
                    count = list_spikes(words[k], k * word, events, count)
                for e in range(count):
                    i = first + events[e]
                    k = i if unit_stride else i * w_stride
                    visit(w, c, k, k, pre_spike[i], pre_trace[i], post_spike[i], post_trace[i],
                          dopamine, parameters, w_min, w_max, decay)  # fmt: skip
                continue
            end = min(first + BLOCK, n)
            visit_all(
                w[first * w_stride : (end - 1) * w_stride + 1], c[first * c_stride : (end - 1) * c_stride + 1],
                w_stride, c_stride, pre_spike[first:end], pre_trace[first:end], post_spike[first:end],
                post_trace[first:end], column[first:end], dopamine, parameters, w_min, w_max, decay,
            )  # fmt: skip

    arguments = [types.int64] * 10 + [*native.scalars(case.formula, case.dtype)]
    run = native.entry(loop, recipe_of(case), *arguments)

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        eligibility = (c.data_ptr(), c.stride(0)) if modulated else (0, 0)
        column, number = (dopamine.data_ptr(), 0.0) if column_dopamine else (0, dopamine)
        run(
            weights.data_ptr(), weights.stride(0), *eligibility,
            pre_spike.data_ptr(), pre_trace.data_ptr(),
            post_spike.data_ptr(), post_trace.data_ptr(),
            topology.n, column, parameters, w_min, w_max, decay, number,
        )  # fmt: skip

    return step
