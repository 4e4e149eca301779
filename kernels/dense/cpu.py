"""Dense connections on a CPU: visit the rows of spiking neurons, and in the other rows only what spiked across.

Weights are walked along the side whose synapses lie next to each other (*major*: pre neurons for a contiguous
``(n_pre, n_post)``, post neurons for its transpose); *minor* is the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from torch import Tensor

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.formula_cpu import synapse_update
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, PlacedStep, Step

PREFETCH_ROWS = 4
"""How many rows ahead weights are fetched: a step is bound by the misses that it waits for."""
CHUNK = 256
"""Synapses of a row that are fetched at a time, in turns with as many that are visited."""


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    dense_pass_rate : float
        Fraction of spiking minor neurons above which a silent row is streamed whole: nearly every cache line is
        touched then. Of a rule that reads several traces of a minor neuron so many times that fraction, as a row that
        is streamed reads them all.
    parallel_work : int
        Synapses above which several threads share a step. Below, one thread takes less than about a millisecond where
        2 % spike, and on a machine with other work a second thread that has to wait for its core costs more.
    rows_per_task : int
        Rows that a thread takes at a time.
    cached_bytes : int
        Bytes of weights up to which they are taken to lie in a cache from one step to the next. Where there are more,
        and all rows are visited whole, they are fetched ahead.
    """

    dense_pass_rate: float = 0.08
    parallel_work: int = 10_000_000
    rows_per_task: int = 32
    cached_bytes: int = 32 << 20


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "dense_pass_rate": (0.02, 0.04, 0.08, 0.16, 1.0),
    "parallel_work": (1_000_000, 10_000_000, 100_000_000),
    "rows_per_task": (8, 32, 128),
    "cached_bytes": (0, 32 << 20),
}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)
    pre_is_major = case.layout != "post"
    traces = len(case.names.post if pre_is_major else case.names.pre) - 1
    dense_pass_rate = config.dense_pass_rate * max(1, traces)
    rows_per_task, cached_bytes = config.rows_per_task, config.cached_bytes

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        where = where_all_lies(topology, weights, c, pre, post, pre_is_major)
        return loops.placed_step(
            5, loop_for(weights.numel()), *where, rows_per_task, dense_pass_rate, cached_bytes
        )  # fmt: skip

    return PlacedStep(place)


def where_all_lies(
    topology: Any, weights: Tensor, c: Tensor | None, pre: Sequence[Tensor], post: Sequence[Tensor], pre_is_major: bool
) -> tuple[Any, ...]:
    """What loops take first: the address and the strides of the weights and of the eligibility, and both sides."""
    address_of, strides = loops.address_of, weights.stride()
    c_address, c_strides = (0, (0, 0)) if c is None else (c.data_ptr(), c.stride())
    major, minor = (tuple(map(address_of, pre)), topology.n_pre), (tuple(map(address_of, post)), topology.n_post)
    if not pre_is_major:
        major, minor, strides, c_strides = minor, major, strides[::-1], c_strides[::-1]
    return weights.data_ptr(), *strides, c_address, *c_strides, *major, *minor


@loops.while_used
def _compile(case: Case, parallel: bool) -> Any:
    pre, post = loops.signals_of(case)
    major_side, minor_side = (post, pre) if case.layout == "post" else (pre, post)
    visit_row, visit_events = _visits(case, minor_side)
    modulated, bool_spikes = case.modulated, case.bool_spikes
    real = loops.REAL[case.dtype]
    pointer, extent = loops.as_pointer, loops.extent
    carray: Any = numba.carray
    tasks = numba.prange if parallel else range
    unit_stride = case.layout != "strided"
    find_events: Any = loops.event_finder(case.dtype, bool_spikes)
    major_arrays, major_traces, minor_arrays = major_side.arrays, major_side.traces, minor_side.arrays
    prefetch_rows, itemsize = PREFETCH_ROWS, np.dtype(real).itemsize

    def loop(
        w_address, w_major_stride, w_minor_stride, c_address, c_major_stride, c_minor_stride,
        major_addresses, n_major, minor_addresses, n_minor,
        rows_per_task, dense_pass_rate, cached_bytes, numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        major, minor = major_arrays(major_addresses, n_major), minor_arrays(minor_addresses, n_minor)
        row_extent = (n_minor - 1) * w_minor_stride + 1
        c_row_extent = (n_minor - 1) * c_minor_stride + 1
        w = carray(pointer(w_address), extent(n_major, w_major_stride, n_minor, w_minor_stride), real)
        c_extent = extent(n_major, c_major_stride, n_minor, c_minor_stride) if modulated else 0
        c = carray(pointer(c_address), c_extent, real)

        minor_spike = np.empty(n_minor, real)
        for j in range(n_minor):
            minor_spike[j] = minor[0][j]
        events = find_events(minor[0])
        whole_rows = modulated or len(events) > dense_pass_rate * n_minor
        fetched = whole_rows and unit_stride and n_major * n_minor * itemsize > cached_bytes

        rows = rows_per_task if parallel else max(n_major, 1)
        for task in tasks((n_major + rows - 1) // rows):
            first = task * rows
            for i in range(first, min(first + rows, n_major)):
                row = w[i * w_major_stride : i * w_major_stride + row_extent]
                c_row = c[i * c_major_stride : i * c_major_stride + c_row_extent]
                spike, traces = real(major[0][i]), major_traces(major, i)
                later = min(i + prefetch_rows, n_major - 1)
                ahead = w_address + later * w_major_stride * itemsize
                c_ahead = c_address + later * c_major_stride * itemsize
                if spike != 0:
                    spike = real(1) if bool_spikes else spike
                    visit_row(
                        row, c_row, w_minor_stride, c_minor_stride, fetched, ahead, c_ahead,
                        spike, traces, minor_spike, minor, numbers, w_min, w_max,
                    )  # fmt: skip
                elif whole_rows:
                    visit_row(
                        row, c_row, w_minor_stride, c_minor_stride, fetched, ahead, c_ahead,
                        real(0), traces, minor_spike, minor, numbers, w_min, w_max,
                    )  # fmt: skip
                else:
                    visit_events(
                        row, w_minor_stride, ahead, traces, events, minor_spike, minor, numbers, w_min, w_max
                    )  # fmt: skip

    strides, n = [types.int64] * 6, types.int64
    sides = major_side.addresses, n, minor_side.addresses, n
    arguments = *strides, *sides, types.int64, types.float64, types.int64, *loops.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)


def _visits(case: Case, minor_side: loops.Signals) -> tuple[Any, Any]:
    """How a row is visited: whole, and only where a minor neuron spiked."""
    update = synapse_update(case, bound_first=False, post_is_major=case.layout == "post")
    real = loops.REAL[case.dtype]
    bool_spikes, modulated = case.bool_spikes, case.modulated
    unit_stride = case.layout != "strided"
    minor_traces, prefetch, fetch_lines = minor_side.traces, loops.prefetch, loops.fetch_lines
    itemsize = np.dtype(real).itemsize

    @loops.njit_part
    def visit_events(w, stride, ahead, traces, events, minor_spike, minor, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        zero = real(0)
        for e in range(len(events)):
            j = events[e]
            k = j if unit_stride else j * np.uint64(stride)
            prefetch(ahead + np.int64(k) * itemsize)
            spike = real(1) if bool_spikes else minor_spike[j]
            there = (spike, *minor_traces(minor, j))
            w[k], _ = update(w[k], zero, (zero, *traces), there, numbers, w_min, w_max)

    @loops.njit_part
    def visit_row(
        w, c, stride, c_stride, fetched, ahead, c_ahead, spike, traces, minor_spike, minor, numbers, w_min, w_max
    ):  # type: ignore[no-untyped-def]
        here, zero, n = (spike, *traces), real(0), len(minor_spike)
        end = 0
        while end < n:
            first, end = end, n
            if fetched:
                end = min(first + CHUNK, n)
                fetch_lines(ahead + first * itemsize, ahead + end * itemsize)
                if modulated:
                    fetch_lines(c_ahead + first * itemsize, c_ahead + end * itemsize)
            for j in range(np.uint64(first), np.uint64(end)):  # which can't be negative, and then count from behind
                k, m = (j, j) if unit_stride else (j * np.uint64(stride), j * np.uint64(c_stride))
                there = (minor_spike[j], *minor_traces(minor, j))
                if modulated:
                    w[k], c[m] = update(w[k], c[m], here, there, numbers, w_min, w_max)
                else:
                    w[k], _ = update(w[k], zero, here, there, numbers, w_min, w_max)

    return visit_row, visit_events
