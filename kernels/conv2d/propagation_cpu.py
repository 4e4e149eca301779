"""Spikes through convolutions on a CPU: a row of post neurons adds up what the pre spikes in its reach bring.

Post channels lie innermost there, and in the kernels as they are laid out for it. So all that a spike brings to a row
is one run of neighbours that is added to another.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.conv2d.sides import met_extent
from tritonstdp.kernels.conv2d.vectors import lanes_of, row_adder, run_adder
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.protocol import PlacedStep


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    parallel_work : int
        Synapses, counted at each position, above which several threads share a step. Below, one thread takes less than
        about a millisecond where 2 % spike, and on a machine with other work a second thread that has to wait for its
        core costs more.
    """

    parallel_work: int = 200_000_000


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {"parallel_work": (20_000_000, 200_000_000, 2_000_000_000)}


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)

    def place(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            4, loop_for(topology.synapses), weights.data_ptr(), current.data_ptr(), pre_spike.data_ptr(),
            topology.src_shape, topology.dst_shape, topology.padding,
        )  # fmt: skip

    return PlacedStep(place)


@loops.while_used
def _compile(case: PropagationCase, parallel: bool) -> Any:
    real, bool_spikes, pointer = loops.REAL[case.dtype], case.bool_spikes, loops.as_pointer
    spike_type = np.bool_ if bool_spikes else real
    (kh, kw), (sh, _) = case.kernel_key
    lanes, (set_size, places, _), extent = lanes_of(case.dtype), _taps_of(case), met_extent(case.kernel_key)
    list_runs, lay_out = _run_lister(case), _kernel_layer(case)
    add_run, add_row = run_adder(case.dtype, bool_spikes), row_adder(case.dtype)
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    def loop(w_address, current_address, spike_address, pre_shape, post_shape, padding):  # type: ignore[no-untyped-def]
        (c_in, height, width), (c_out, out_height, out_width), (pad_h, pad_w) = pre_shape, post_shape, padding
        w = carray(pointer(w_address), c_out * c_in * kh * kw, real)
        current = carray(pointer(current_address), c_out * out_height * out_width, real)
        spikes = carray(pointer(spike_address), c_in * height * width, spike_type)
        step = (c_out + lanes - 1) // lanes * lanes
        row_start, runs, values = list_runs(spikes, pre_shape, padding, step)
        if row_start[height] == 0:
            return
        kernels = lay_out(w, c_in, c_out, step)
        n_parts = out_height if parallel else 1
        for part in parts(n_parts):
            sums = np.empty(extent(width, out_width, pad_w) * step, real)
            for u in range(part * out_height // n_parts, (part + 1) * out_height // n_parts):
                top = u * sh - pad_h
                begin, end = row_start[min(max(top, 0), height)], row_start[min(max(top + kh, 0), height)]
                if begin == end:
                    continue
                sums[:] = real(-0.0)  # which changes no number that it is added to
                for e in range(begin, end):
                    start = runs[0, e] - top * places * step
                    add_run(sums, runs[1, e], kernels, start, runs[2, e], real(1) if bool_spikes else values[e])
                inside = sums[(set_size - 1) * step :]
                add_row(current, u * out_width, out_width, out_height * out_width, c_out, inside, step)

    shape = types.UniTuple(types.int64, 3)
    arguments = *[types.int64] * 3, shape, shape, types.UniTuple(types.int64, 2)
    return loops.entry(loop, Recipe((), case[1:]), *arguments, parallel=parallel)


class _Taps(NamedTuple):
    """How a row of taps is laid out: by sets of every stride-th tap, of which a pre spike meets one.

    The last tap of a set comes first, as the post neurons lie that see the spike there.

    Attributes
    ----------
    set_size : int
        Places of a set. Where a set has fewer taps, its first places hold what changes no sum.
    places : int
        Those of all sets.
    place : callable
        ``place(j)``, compiled: that of column ``j``.
    """

    set_size: int
    places: int
    place: Any


def _taps_of(case: PropagationCase) -> _Taps:
    (_, kw), (_, sw) = case.kernel_key
    set_size = -(-kw // sw)

    @loops.njit_part
    def place(j):  # type: ignore[no-untyped-def]
        return j % sw * set_size + set_size - 1 - j // sw

    return _Taps(set_size, sw * set_size, place)


def _run_lister(case: PropagationCase) -> Any:
    """``list_runs(spikes, pre_shape, padding, step)``, compiled: what each spike brings to a row of post neurons.

    Spikes are listed by row of the map, and channels are ``step`` apart. Returns where each row's spikes begin in the
    list; for each spike, where its run starts in the kernels, for the row of post neurons at the top of the map, where
    it is added in a row, and its length; and, unless spikes are bool, their values.
    """
    real, bool_spikes, (set_size, places, _) = loops.REAL[case.dtype], case.bool_spikes, _taps_of(case)
    list_row, at_once = loops.row_lister(case.dtype, bool_spikes), loops.AT_ONCE
    (kh, kw), (_, sw) = case.kernel_key

    @loops.njit_part
    def list_runs(spikes, pre_shape, padding, step):  # type: ignore[no-untyped-def]
        (channels, height, width), pad_w = pre_shape, padding[1]
        columns, row_start = np.empty(width + at_once, np.uint32), np.empty(height + 1, np.int64)
        runs, values = np.empty((3, len(spikes)), np.int64), np.empty(0 if bool_spikes else len(spikes), real)
        count = 0
        for row in range(height):
            row_start[row] = count
            for channel in range(channels):
                first = (channel * height + row) * width
                for k in range(list_row(spikes, first, width, columns, 0)):
                    column = np.int64(columns[k]) + pad_w
                    # the processor foresees runs of one length; but times a spike, what changes no sum may change one
                    skipped = 0 if bool_spikes else set_size - 1 - (kw - 1 - column % sw) // sw
                    runs[0, count] = ((channel * kh + row) * places + column % sw * set_size + skipped) * step
                    runs[1, count] = (column // sw + skipped) * step
                    runs[2, count] = (set_size - skipped) * step
                    if not bool_spikes:
                        values[count] = spikes[first + columns[k]]
                    count += 1
        row_start[height] = count
        return row_start, runs, values

    return list_runs


def _kernel_layer(case: PropagationCase) -> Any:
    """``lay_out(w, c_in, c_out, step)``, compiled: kernels by pre channel, row and place of a tap, and post channel."""
    real, (_, places, place) = loops.REAL[case.dtype], _taps_of(case)
    (kh, kw), _ = case.kernel_key

    @loops.njit_part
    def lay_out(w, c_in, c_out, step):  # type: ignore[no-untyped-def]
        rows = c_in * kh
        kernels = np.full(rows * places * step, real(-0.0))
        for row in range(rows):
            for j in range(kw):
                at = (row * places + place(j)) * step
                there, seen = kernels[at : at + c_out], w[row * kw + j :: rows * kw]
                for channel in range(len(there)):
                    there[channel] = seen[channel]
        return kernels

    return lay_out
