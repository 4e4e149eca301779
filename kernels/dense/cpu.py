"""Dense connections on a CPU: visit the rows of spiking neurons, and in the other rows only what spiked across.

Weights are walked along the side whose synapses lie next to each other (*major*: pre neurons for a contiguous
``(n_pre, n_post)``, post neurons for its transpose); *minor* is the other side.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import native, threads
from tritonstdp.kernels.formula_cpu import synapse_update
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step

PREFETCH_ROWS = 4
"""How far ahead the scattered lines of a silent row are fetched: a step is bound by the misses that it waits for."""


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    dense_pass_rate : float
        Fraction of spiking minor neurons above which a silent row is streamed whole: nearly every cache line is
        touched then.
    parallel_work : int
        Synapses above which several threads share a step. Below, one thread takes less than about a millisecond where
        2 % spike, and on a machine with other work a second thread that has to wait for its core costs more.
    rows_per_task : int
        Rows that a thread takes at a time.
    """

    dense_pass_rate: float = 0.08
    parallel_work: int = 10_000_000
    rows_per_task: int = 32


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "dense_pass_rate": (0.02, 0.04, 0.08, 0.16, 1.0),
    "parallel_work": (1_000_000, 10_000_000, 100_000_000),
    "rows_per_task": (8, 32, 128),
}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)
    column_dopamine = case.dopamine == "column"
    pre_is_major = case.layout != "post"

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        pre_stride, post_stride = weights.stride()
        pre = pre_spike.data_ptr(), pre_trace.data_ptr(), topology.n_pre
        post = post_spike.data_ptr(), post_trace.data_ptr(), topology.n_post
        major, minor = (pre, post) if pre_is_major else (post, pre)
        strides = (pre_stride, post_stride) if pre_is_major else (post_stride, pre_stride)
        eligibility = (0, 0, 0)
        if c is not None:
            c_strides = c.stride() if pre_is_major else c.stride()[::-1]
            eligibility = (c.data_ptr(), *c_strides)
        column, number = (dopamine.data_ptr(), 0.0) if column_dopamine else (0, dopamine)
        loop_for(weights.numel())(
            weights.data_ptr(), *strides, *eligibility, *major, *minor, column,
            config.rows_per_task, config.dense_pass_rate, parameters, w_min, w_max, decay, number,
        )  # fmt: skip

    return step


@native.while_used
def _compile(case: Case, parallel: bool) -> Any:
    visit_row, visit_silent_row, visit_events = _visits(case)
    modulated = case.formula.rule.modulated
    real = native.REAL[case.dtype]
    spike_type = np.bool_ if case.bool_spikes else real
    column_dopamine = case.dopamine == "column"
    dopamine_is_major = case.layout == "post"
    pointer, extent = native.as_pointer, native.extent
    carray: Any = numba.carray
    tasks = numba.prange if parallel else range
    find_events: Any = native.event_finder(case.dtype, case.bool_spikes)
    prefetch_rows, itemsize = PREFETCH_ROWS, np.dtype(real).itemsize

    def loop(
        w_address, w_major_stride, w_minor_stride, c_address, c_major_stride, c_minor_stride,
        major_spike_address, major_trace_address, n_major, minor_spike_address, minor_trace_address, n_minor,
        column_address, rows_per_task, dense_pass_rate, parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        major_spike = carray(pointer(major_spike_address), n_major, spike_type)
        major_trace = carray(pointer(major_trace_address), n_major, real)
        minor_spike_in = carray(pointer(minor_spike_address), n_minor, spike_type)
        minor_trace = carray(pointer(minor_trace_address), n_minor, real)
        n_column = n_major if dopamine_is_major else n_minor
        column = carray(pointer(column_address), n_column if column_dopamine else 0, real)
        row_extent = (n_minor - 1) * w_minor_stride + 1
        c_row_extent = (n_minor - 1) * c_minor_stride + 1
        w = carray(pointer(w_address), extent(n_major, w_major_stride, n_minor, w_minor_stride), real)
        c_extent = extent(n_major, c_major_stride, n_minor, c_minor_stride) if modulated else 0
        c = carray(pointer(c_address), c_extent, real)

        minor_spike = np.empty(n_minor, real)
        for j in range(n_minor):
            minor_spike[j] = minor_spike_in[j]
        events = find_events(minor_spike_in)
        whole_rows = modulated or len(events) > dense_pass_rate * n_minor

        rows = rows_per_task if parallel else max(n_major, 1)
        for task in tasks((n_major + rows - 1) // rows):
            first = task * rows
            for i in range(first, min(first + rows, n_major)):
                row = w[i * w_major_stride : i * w_major_stride + row_extent]
                c_row = c[i * c_major_stride : i * c_major_stride + c_row_extent]
                spike = real(major_spike[i])
                row_dopamine = column[i] if column_dopamine and dopamine_is_major else dopamine
                if spike != 0:
                    visit_row(
                        row, c_row, w_minor_stride, c_minor_stride, spike, major_trace[i], minor_spike, minor_trace,
                        row_dopamine, column, parameters, w_min, w_max, decay,
                    )  # fmt: skip
                elif whole_rows:
                    visit_silent_row(
                        row, c_row, w_minor_stride, c_minor_stride, major_trace[i], minor_spike,
                        row_dopamine, column, parameters, w_min, w_max, decay,
                    )  # fmt: skip
                else:
                    ahead = w_address + min(i + prefetch_rows, n_major - 1) * w_major_stride * itemsize
                    visit_events(
                        row, w_minor_stride, ahead, major_trace[i], events, minor_spike,
                        parameters, w_min, w_max, decay,
                    )  # fmt: skip

    arguments = *[types.int64] * 14, types.float64, *native.scalars(case.formula, case.dtype)
    return native.entry(loop, recipe_of(case), *arguments, parallel=parallel)


def _visits(case: Case) -> tuple[Any, Any, Any]:
    """How a row is visited: whole after its neuron's spike, whole without one, and only where a minor neuron spiked."""
    update = synapse_update(case, bound_first=False, post_is_major=case.layout == "post")
    real = native.REAL[case.dtype]
    bool_spikes = case.bool_spikes
    unit_stride = case.layout != "strided"
    modulated = case.formula.rule.modulated
    minor_dopamine = case.dopamine == "column" and case.layout != "post"
    prefetch = native.prefetch
    itemsize = np.dtype(real).itemsize

    @native.njit_part
    def visit_events(w, stride, ahead, trace, events, minor_spike, parameters, w_min, w_max, decay):  # type: ignore[no-untyped-def]
        zero = real(0)
        for e in range(len(events)):
            j = events[e]
            k = j if unit_stride else j * np.uint64(stride)
            prefetch(ahead + np.int64(k) * itemsize)
            spike = real(1) if bool_spikes else minor_spike[j]
            w[k], _ = update(w[k], zero, zero, trace, spike, zero, zero, parameters, w_min, w_max, decay)

    @native.njit_part
    def visit_silent_row(w, c, stride, c_stride, trace, minor_spike, dopamine, column, parameters, w_min, w_max, decay):  # type: ignore[no-untyped-def]
        zero = real(0)
        for j in range(len(minor_spike)):
            k, m = (j, j) if unit_stride else (j * stride, j * c_stride)
            spike = minor_spike[j]
            if modulated:
                d = column[j] if minor_dopamine else dopamine
                w[k], c[m] = update(w[k], c[m], zero, trace, spike, zero, d, parameters, w_min, w_max, decay)
            else:
                w[k], _ = update(w[k], zero, zero, trace, spike, zero, zero, parameters, w_min, w_max, decay)

    @native.njit_part
    def visit_row(
        w, c, stride, c_stride, spike, trace, minor_spike, minor_trace, dopamine, column,
        parameters, w_min, w_max, decay,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        spike, zero = real(1) if bool_spikes else spike, real(0)
        for j in range(len(minor_spike)):
            k, m = (j, j) if unit_stride else (j * stride, j * c_stride)
            q, y = minor_spike[j], minor_trace[j]
            if modulated:
                d = column[j] if minor_dopamine else dopamine
                w[k], c[m] = update(w[k], c[m], spike, trace, q, y, d, parameters, w_min, w_max, decay)
            else:
                w[k], _ = update(w[k], zero, spike, trace, q, y, zero, parameters, w_min, w_max, decay)

    return visit_row, visit_silent_row, visit_events
