"""Spikes through convolutions on a CPU: a row of post neurons adds up what the pre spikes in its reach bring.

Post channels lie innermost there, and in the kernels as they are laid out for it. So all that a spike brings to a row
is one run of neighbours that is added to another.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.conv2d.sides import met_extent
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep

VECTOR_BYTES = 32
"""What is added at a time. Post channels are laid out in whole vectors."""


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

    def step(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        loop_for(topology.synapses)(
            weights.data_ptr(), current.data_ptr(), pre_spike.data_ptr(),
            topology.src_shape, topology.dst_shape, topology.padding,
        )  # fmt: skip

    return step


@loops.while_used
def _compile(case: PropagationCase, parallel: bool) -> Any:
    real, bool_spikes, pointer = loops.REAL[case.dtype], case.bool_spikes, loops.as_pointer
    spike_type = np.bool_ if bool_spikes else real
    (kh, kw), (sh, _) = case.kernel_key
    lanes, (columns, taps, _), extent = _lanes(case), _row_of(case), met_extent(case.kernel_key)
    list_runs, lay_out, add_run, add_row = _run_lister(case), _kernel_layer(case), _run_adder(case), _row_adder(case)
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
                    start = runs[0, e] - top * taps * step
                    add_run(sums, runs[1, e], kernels, start, runs[2, e], real(1) if bool_spikes else values[e])
                add_row(
                    current, u * out_width, out_width, out_height * out_width, c_out, sums[(columns - 1) * step :], step
                )  # fmt: skip

    shape = types.UniTuple(types.int64, 3)
    arguments = *[types.int64] * 3, shape, shape, types.UniTuple(types.int64, 2)
    return loops.entry(loop, Recipe((), case[1:]), *arguments, parallel=parallel)


def _lanes(case: PropagationCase) -> int:
    return VECTOR_BYTES // np.dtype(loops.REAL[case.dtype]).itemsize


class _Row(NamedTuple):
    """How a row of taps is laid out: by sets of every stride-th tap, of which a pre spike meets one.

    The last tap of a set comes first, as the post neurons lie that see the spike there.

    Attributes
    ----------
    columns : int
        Places of each set. Where the stride leaves a set smaller, its first ones hold what changes no sum.
    taps : int
        Places of all sets.
    place : callable
        ``place(j)``, compiled: that of column ``j``.
    """

    columns: int
    taps: int
    place: Any


def _row_of(case: PropagationCase) -> _Row:
    (_, kw), (_, sw) = case.kernel_key
    columns = -(-kw // sw)

    @loops.njit_part
    def place(j):  # type: ignore[no-untyped-def]
        return j % sw * columns + columns - 1 - j // sw

    return _Row(columns, sw * columns, place)


def _run_lister(case: PropagationCase) -> Any:
    """``list_runs(spikes, pre_shape, padding, step)``, compiled: what each spike brings to a row of post neurons.

    Spikes are listed by row of the map, and channels are ``step`` apart. Returns where each row's spikes begin in the
    list; for each spike, where its run starts in the kernels for the row at the top of the map, where it is added in a
    row, and its length; and, unless spikes are bool, their values.
    """
    real, bool_spikes, row_of_taps = loops.REAL[case.dtype], case.bool_spikes, _row_of(case)
    list_row, at_once = loops.row_lister(case.dtype, bool_spikes), loops.AT_ONCE
    (kh, kw), (_, sw) = case.kernel_key
    set_size, taps = row_of_taps.columns, row_of_taps.taps

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
                    # a run of one length can be foretold; but what changes no sum may do so times a spike
                    skipped = 0 if bool_spikes else set_size - 1 - (kw - 1 - column % sw) // sw
                    runs[0, count] = ((channel * kh + row) * taps + column % sw * set_size + skipped) * step
                    runs[1, count] = (column // sw + skipped) * step
                    runs[2, count] = (set_size - skipped) * step
                    if not bool_spikes:
                        values[count] = spikes[first + columns[k]]
                    count += 1
        row_start[height] = count
        return row_start, runs, values

    return list_runs


def _kernel_layer(case: PropagationCase) -> Any:
    """``lay_out(w, c_in, c_out, step)``, compiled: kernels by pre channel, row and set of taps, and post channel."""
    real, (_, taps, place) = loops.REAL[case.dtype], _row_of(case)
    (kh, kw), _ = case.kernel_key

    @loops.njit_part
    def lay_out(w, c_in, c_out, step):  # type: ignore[no-untyped-def]
        rows = c_in * kh
        kernels = np.full(rows * taps * step, real(-0.0))
        for row in range(rows):
            for j in range(kw):
                at = (row * taps + place(j)) * step
                there, seen = kernels[at : at + c_out], w[row * kw + j :: rows * kw]
                for channel in range(len(there)):
                    there[channel] = seen[channel]
        return kernels

    return lay_out


def _run_adder(case: PropagationCase) -> Any:
    """``add_run(sums, at, kernels, start, length, spike)``, compiled: add a run of whole vectors to another."""
    real, bool_spikes, lanes = loops.REAL[case.dtype], case.bool_spikes, _lanes(case)
    number, itemsize, check = numba.from_dtype(np.dtype(real)), np.dtype(real).itemsize, loops.range_check()

    @intrinsic
    def add_vector(typing_context, target, source, spike):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, source, spike = arguments
            vector = ir.VectorType(context.get_value_type(number), lanes)
            target, source = (builder.inttoptr(address, vector.as_pointer()) for address in (target, source))
            brought = builder.load(source, align=itemsize)
            if not bool_spikes:
                brought = builder.fmul(brought, _broadcast(builder, spike, vector))
            builder.store(builder.fadd(builder.load(target, align=itemsize), brought), target, align=itemsize)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, number), codegen

    add: Any = add_vector

    @loops.njit_part
    def add_run(sums, at, kernels, start, length, spike):  # type: ignore[no-untyped-def]
        check(sums, at, length)
        check(kernels, start, length)
        target, source = sums.ctypes.data + at * itemsize, kernels.ctypes.data + start * itemsize
        for k in range(0, length * itemsize, VECTOR_BYTES):
            add(target + k, source + k, spike)

    return add_run


def _broadcast(builder: Any, value: Any, vector: Any) -> Any:
    """A vector of the same value in each lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.IntType(32)(0))
    return _shuffled(builder, first, undefined, [0] * vector.count)


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """As many vectors as they have lanes, transposed: blocks of 1, 2, 4... beside the diagonal change places."""
    n = len(rows)
    size = 1
    while size < n:
        above = [lane if not lane & size else n + lane - size for lane in range(n)]
        below = [lane + size if not lane & size else n + lane for lane in range(n)]
        pairs = {k: (rows[k & ~size], rows[k | size]) for k in range(n)}
        rows = [_shuffled(builder, *pairs[k], below if k & size else above) for k in range(n)]
        size *= 2
    return rows


def _row_adder(case: PropagationCase) -> Any:
    """``add_row(current, first, n, plane, channels, sums, step)``, compiled: add what a row of neurons has summed up.

    The row's ``n`` neurons of a channel are neighbours in ``current`` and channels ``plane`` apart; in ``sums`` the
    channels are neighbours, and neurons ``step`` apart.
    """
    real, lanes = loops.REAL[case.dtype], _lanes(case)
    number, itemsize, check = numba.from_dtype(np.dtype(real)), np.dtype(real).itemsize, loops.range_check()

    @intrinsic
    def add_block(typing_context, target, plane, source, step):  # type: ignore[no-untyped-def]
        """Of as many channels as neurons; where nothing was brought, nothing is written."""

        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, plane, source, step = arguments
            vector = ir.VectorType(context.get_value_type(number), lanes)

            def places(address, distance):  # type: ignore[no-untyped-def]
                apart = [builder.add(address, builder.mul(distance, ir.IntType(64)(k))) for k in range(lanes)]
                return [builder.inttoptr(place, vector.as_pointer()) for place in apart]

            rows = [builder.load(place, align=itemsize) for place in places(source, step)]
            integers = ir.VectorType(ir.IntType(8 * itemsize), lanes)
            for k, bits in enumerate(builder.bitcast(row, integers) for row in rows):
                changed = builder.xor(bits, ir.Constant(integers, [1 << 8 * itemsize - 1] * lanes))
                came = builder.or_(came, changed) if k else changed
            came = builder.icmp_unsigned("!=", came, ir.Constant(integers, None))
            came = builder.icmp_unsigned("!=", builder.bitcast(came, ir.IntType(lanes)), ir.IntType(lanes)(0))
            with builder.if_then(came):
                for place, sums in zip(places(target, plane), _transposed(builder, rows), strict=True):
                    builder.store(builder.fadd(builder.load(place, align=itemsize), sums), place, align=itemsize)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    add: Any = add_block

    @loops.njit_part
    def add_row(current, first, n, plane, channels, sums, step):  # type: ignore[no-untyped-def]
        n_whole, whole_channels = n - n % lanes, channels - channels % lanes
        check(current, first, (channels - 1) * plane + n)
        check(sums, 0, n * step)
        target, source = current.ctypes.data + first * itemsize, sums.ctypes.data
        for channel in range(0, whole_channels, lanes):
            for v in range(0, n_whole, lanes):
                add(
                    target + (channel * plane + v) * itemsize, plane * itemsize,
                    source + (v * step + channel) * itemsize, step * itemsize,
                )  # fmt: skip
        for channel in range(channels):
            for v in range(n_whole if channel < whole_channels else 0, n):
                current[first + channel * plane + v] += sums[v * step + channel]

    return add_row
