"""Spikes over dense connections on a CPU: whole rows of spiking neurons, or what spiked in each row across.

Where the synapses of a pre neuron lie next to each other, several rows are added at once: so many streams keep memory
busy, and a current is read and written once for all of them. Where those of a post neuron do (layout "post"), each is
summed by itself, and what the next ones need is fetched meanwhile.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.protocol import PlacedStep

DEFAULT = threads.Shared(64_000_000)
SPACE: dict[str, tuple[float, ...]] = {
    "parallel_work": (4_000_000, 16_000_000, 64_000_000, 256_000_000),
    "tasks": (4, 16, 64),
}
AT_ONCE = 8
"""Rows that are added at once."""
AHEAD = 8
"""How many rows ahead a sum's weights are fetched: it is bound by the misses that it waits for."""


def build(case: PropagationCase, config: threads.Shared = DEFAULT) -> PropagationStep:
    """Compile the step for one case."""
    loop_for, tasks = threads.by_work(partial(_compile, case), config.parallel_work), config.tasks

    def place(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            4, loop_for(weights.numel()), weights.data_ptr(), *weights.stride(), current.data_ptr(),
            pre_spike.data_ptr(), *topology.weights_shape, tasks,
        )  # fmt: skip

    return PlacedStep(place)


@loops.while_used
def _compile(case: PropagationCase, parallel: bool) -> Any:
    real, pointer, extent = loops.REAL[case.dtype], loops.as_pointer, loops.extent
    spike_type = np.bool_ if case.bool_spikes else real
    find_events = loops.event_finder(case.dtype, case.bool_spikes)
    add: Any = _sum_adder(real) if case.layout == "post" else _row_adder(case.layout == "pre")
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    def loop(w_address, pre_stride, post_stride, current_address, spike_address, n_pre, n_post, tasks):  # type: ignore[no-untyped-def]
        w = carray(pointer(w_address), extent(n_pre, pre_stride, n_post, post_stride), real)
        current = carray(pointer(current_address), n_post, real)
        spikes = carray(pointer(spike_address), n_pre, spike_type)
        events = find_events(spikes)
        values = np.empty(len(events), real)
        for e in range(len(events)):
            values[e] = spikes[events[e]]
        n_parts = min(tasks if parallel else 1, n_post) if len(events) else 0
        for part in parts(n_parts):
            first, end = part * n_post // n_parts, (part + 1) * n_post // n_parts
            add(current[first:end], w, w_address, first, pre_stride, post_stride, events, values)

    return loops.entry(loop, Recipe((), case[1:]), *[types.int64] * 8, parallel=parallel)


def _row_adder(unit_stride: bool) -> Any:
    """``add(current, w, w_address, first, pre_stride, post_stride, events, values)``, compiled: row by row."""

    @loops.njit_part
    def add(current, w, w_address, first, pre_stride, post_stride, events, values):  # type: ignore[no-untyped-def]
        start, length = first * post_stride, (len(current) - 1) * post_stride + 1
        whole = len(events) - len(events) % AT_ONCE
        for e in range(0, whole, AT_ONCE):
            at = start + events[e : e + AT_ONCE].astype(np.int64) * pre_stride
            r0, r1, r2, r3 = w[at[0] :][:length], w[at[1] :][:length], w[at[2] :][:length], w[at[3] :][:length]
            r4, r5, r6, r7 = w[at[4] :][:length], w[at[5] :][:length], w[at[6] :][:length], w[at[7] :][:length]
            v0, v1, v2, v3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            v4, v5, v6, v7 = values[e + 4], values[e + 5], values[e + 6], values[e + 7]
            for j in range(len(current)):
                k = j if unit_stride else j * post_stride
                low = (r0[k] * v0 + r1[k] * v1) + (r2[k] * v2 + r3[k] * v3)
                high = (r4[k] * v4 + r5[k] * v5) + (r6[k] * v6 + r7[k] * v7)
                current[j] += low + high
        for e in range(whole, len(events)):
            row, value = w[start + np.int64(events[e]) * pre_stride :][:length], values[e]
            for j in range(len(current)):
                current[j] += row[j if unit_stride else j * post_stride] * value

    return add


def _sum_adder(real: type) -> Any:
    """The same, neuron by neuron: the synapses of a post neuron lie next to each other."""
    prefetch, itemsize = loops.prefetch, np.dtype(real).itemsize

    @loops.njit_part
    def add(current, w, w_address, first, pre_stride, post_stride, events, values):  # type: ignore[no-untyped-def]
        n, count = len(current), len(events)
        whole = count - count % 4
        for j in range(n):
            row = w[(first + j) * post_stride :]
            ahead = w_address + (first + min(j + AHEAD, n - 1)) * post_stride * itemsize
            for e in range(count):
                prefetch(ahead + np.int64(events[e]) * itemsize)
            a, b, c, d = real(0), real(0), real(0), real(0)
            for e in range(0, whole, 4):
                a += row[events[e]] * values[e]
                b += row[events[e + 1]] * values[e + 1]
                c += row[events[e + 2]] * values[e + 2]
                d += row[events[e + 3]] * values[e + 3]
            for e in range(whole, count):
                a += row[events[e]] * values[e]
            current[j] += (a + b) + (c + d)

    return add
