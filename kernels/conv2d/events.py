"""What the spikes of one side of a convolution add up to, tap by tap.

Work goes by rows of spikes. The rows of the other side within a kernel's reach are laid out with their padding, so that
the neurons which one spike meets in a row are one short run of neighbours. Where a channel has few weights, few
channels are laid out at a time, so that memory stays in proportion to the weights.

What the spikes of a row contribute adds up in registers before it is added to the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tritonstdp.kernels import loops
from tritonstdp.kernels.conv2d.sides import Laid, Side, laid_out, met_extent, tap_of
from tritonstdp.kernels.protocol import Case


def _row_layer(laid: Sequence[Laid]) -> Any:
    """``lay_out(seen, start, size, other, source, width, inside, state)``, compiled: lay out a row of each value.

    The values are those of ``width`` neurons from ``source`` on, or those outside the map; rows are ``size`` apart.
    """

    def followed(lay_out_others: Any, place: int, value: Any, outside: Any) -> Any:
        @loops.njit_part
        def lay_out(seen, start, size, other, source, width, inside, state):  # type: ignore[no-untyped-def]
            lay_out_others(seen, start, size, other, source, width, inside, state)
            first, nothing = start + place * size, outside(state)
            run = seen[first : first + width]
            # one loop for each, so that each is a loop over vectors
            if inside:
                for k in range(len(run)):
                    run[k] = value(other, np.uint64(source + k), state)
            else:
                for k in range(len(run)):
                    run[k] = nothing

        return lay_out

    @loops.njit_part
    def lay_out(seen, start, size, other, source, width, inside, state):  # type: ignore[no-untyped-def]
        pass

    for place, (value, outside) in enumerate(laid):  # one by one: numba's tuples take no loop over what differs
        lay_out = followed(lay_out, place, value, outside)
    return lay_out


@contextmanager
def _loop(builder: Any, n: Any) -> Iterator[Any]:
    """A loop over 0 to ``n``, which is above 0, that LLVM does not unroll.

    It would make scalars of lanes, which it makes a vector of where they are a loop, and of a few spikes several loops,
    of which it can't be foretold how often each runs.
    """
    integer = ir.IntType(64)
    before, body, after = builder.basic_block, builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(integer)
    yield index
    following = builder.add(index, integer(1))
    index.add_incoming(integer(0), before)
    index.add_incoming(following, builder.basic_block)
    branch = builder.cbranch(builder.icmp_unsigned("<", following, n), body, after)
    module = builder.module
    kept = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.values.MDValue(module, [], str(len(module.metadata)))
    loop.operands = loop, kept  # a loop is told apart by what names itself
    branch.set_metadata("llvm.loop", loop)
    builder.position_at_end(after)


def _run_adder(case: Case, side: Side, n_laid: int, term: Any, channels: int) -> Any:
    """``add(sums, at, step, w, seen, k, window, ring, inside, places, own, neurons, count, state)``, compiled.

    The rows of sums from ``at`` on get what the spikes of ``neurons`` contribute at the runs that start at ``places``
    in the rows from ``ring`` on of the ``k``-th channel laid out, of which ``inside`` says how many neurons they have.
    So do those of the following channels, ``step`` sums apart, up to as many as ``channels``.
    """
    real, bool_spikes, own_traces = loops.REAL[case.dtype], case.bool_spikes, side.own.traces
    number, itemsize = numba.from_dtype(np.dtype(real)), np.dtype(real).itemsize
    checked, check = loops.is_checked(), loops.range_check()
    rows, vector, reads_w = side.reach.rows, side.reach.vector, side.reads_w

    @loops.njit_part
    def own_of(own, neuron):  # type: ignore[no-untyped-def]
        return (real(1) if bool_spikes else own[0][neuron], *own_traces(own, neuron))

    @intrinsic
    def add_addresses(
        typing_context, targets, sources, sizes, ring, inside, margin, places, neurons, count, own, state
    ):  # type: ignore[no-untyped-def]
        def called(function: Any, *arguments: Any) -> tuple[Any, Any]:
            resolved = typing_context.resolve_value_type(function)
            return resolved, resolved.get_call_type(typing_context, arguments, {})

        laid_type = types.UniTuple(number, n_laid)
        of_own = called(own_of, own, types.uint32)
        of_term = called(term, of_own[1].return_type, laid_type, types.boolean, number, state)

        def codegen(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            targets, sources, sizes, ring, inside, margin, places, neurons, count, own, state = arguments
            scalar, index, integer = context.get_value_type(number), ir.IntType(32), ir.IntType(64)
            lanes = ir.VectorType(scalar, vector)
            own_at, contribution = context.get_function(*of_own), context.get_function(*of_term)
            target, weights, step = cgutils.unpack_tuple(builder, targets, 3)
            source, extent = cgutils.unpack_tuple(builder, sources, 2)
            row_size, size = cgutils.unpack_tuple(builder, sizes, 2)

            def apart(address, distance, n):  # type: ignore[no-untyped-def]
                return [builder.add(address, builder.mul(distance, integer(k))) for k in range(n)]

            def load(address, kind, place):  # type: ignore[no-untyped-def]
                return builder.load(builder.gep(builder.inttoptr(address, kind.as_pointer()), [place]))

            ring_rows = [builder.urem(builder.add(ring, integer(k)), integer(rows)) for k in range(rows)]
            n_inside = [load(inside, index, row) for row in ring_rows]
            runs = [(channel, k) for channel in range(channels) for k in range(rows)]
            channel_starts = apart(source, extent, channels)
            starts = [
                apart(builder.add(channel_starts[channel], builder.mul(ring_rows[k], row_size)), size, n_laid)
                for channel, k in runs
            ]
            of_channel, w_of_channel = apart(target, step, channels), apart(weights, step, channels)
            totals = [cgutils.alloca_once_value(builder, ir.Constant(lanes, None)) for _ in runs]
            with _loop(builder, count) as e:
                place = builder.zext(load(places, index, e), integer)
                spike = own_at(builder, [own, load(neurons, index, e)])
                for (channel, k), laid_at, total in zip(runs, starts, totals, strict=True):
                    with _loop(builder, integer(vector)) as lane:
                        at = builder.add(place, lane)
                        column = builder.trunc(builder.sub(at, margin), index)
                        there = builder.icmp_unsigned("<", column, n_inside[k])
                        laid = context.make_tuple(builder, laid_type, [load(start, scalar, at) for start in laid_at])
                        tap = builder.add(lane, integer(k * vector))
                        w = load(w_of_channel[channel], scalar, tap) if reads_w else scalar(0)
                        value = contribution(builder, [spike, laid, there, w, state])
                        sum_at = builder.gep(builder.bitcast(total, scalar.as_pointer()), [lane])
                        builder.store(builder.fadd(builder.load(sum_at), value), sum_at)
            for (channel, k), total in zip(runs, totals, strict=True):
                sums = builder.gep(builder.inttoptr(of_channel[channel], lanes.as_pointer()), [integer(k)])
                added = builder.fadd(builder.load(sums, align=itemsize), builder.load(total))
                builder.store(added, sums, align=itemsize)
            return context.get_dummy_value()

        two, three = types.UniTuple(types.int64, 2), types.UniTuple(types.int64, 3)
        return types.void(three, two, two, *[types.int64] * 6, own, state), codegen

    add_up: Any = add_addresses

    @loops.njit_part
    def add(sums, at, step, w, seen, k, window, ring, inside, places, own, neurons, count, state):  # type: ignore[no-untyped-def]
        start, extent, row_size = k * window.extent, window.extent, window.channels * window.extent
        size = rows * row_size
        if checked:
            check(places, 0, count)
            check(neurons, 0, count)
            check(inside, 0, rows)
            for channel in range(channels):
                check(sums, at + channel * step, rows * vector)
                check(w, at + channel * step, rows * vector)
                for e in range(count):
                    first = start + channel * extent + np.int64(places[e])
                    check(seen, first, (n_laid - 1) * size + (rows - 1) * row_size + vector)
        add_up(
            (sums.ctypes.data + at * itemsize, w.ctypes.data + at * itemsize, step * itemsize),
            (seen.ctypes.data + start * itemsize, extent * itemsize), (row_size * itemsize, size * itemsize),
            ring, inside.ctypes.data, window.margin, places.ctypes.data, neurons.ctypes.data, count, own, state,
        )  # fmt: skip

    return add


def _channels_adder(case: Case, side: Side, n_laid: int, term: Any) -> Any:
    """``add(sums, at, step, w, seen, n, window, ring, inside, places, own, neurons, count, state)``, compiled.

    As :func:`_run_adder` has it, for each of the ``n`` channels laid out.
    """
    reach, itemsize = side.reach, np.dtype(loops.REAL[case.dtype]).itemsize
    # where a spike's own signals count, two channels share what they cost; not beyond 16 registers of 32 bytes
    pairs = not side.alone and 2 * reach.rows * reach.vector * itemsize <= 512
    add_one, add_pair = (_run_adder(case, side, n_laid, term, channels) for channels in (1, 2))

    @loops.njit_part
    def add(sums, at, step, w, seen, n, window, ring, inside, places, own, neurons, count, state):  # type: ignore[no-untyped-def]
        first = 0
        if pairs:
            for k in range(0, n - 1, 2):
                add_pair(
                    sums, at + k * step, step, w, seen, k, window, ring, inside, places, own, neurons, count, state
                )
            first = n - n % 2
        for k in range(first, n):
            add_one(sums, at + k * step, step, w, seen, k, window, ring, inside, places, own, neurons, count, state)

    return add


class Window(NamedTuple):
    """How what the spikes of a row meet is laid out: a ring of rows, each of some channels, each with its padding.

    Attributes
    ----------
    first_row : int
        The first row that any spike meets, which is that of the padding.
    margin, extent : int
        Neurons in front of a channel's row, and from one channel to the next.
    channels : int
        How many channels are laid out at a time.
    """

    first_row: int
    margin: int
    extent: int
    channels: int


def adder(case: Case, side: Side) -> Any:
    """``add_up(own, own_shape, other, other_shape, padding, w, state)``, compiled: sum what a side's spikes contribute.

    The sums lie tap by tap as the side's reach has them: see :func:`tap_of`.
    """
    laid, term = laid_out(case, side)
    n_laid, nothing, lay_out = len(laid), laid[0].outside, _row_layer(laid)
    add, select = _channels_adder(case, side, n_laid, term), _selecter(case, side)
    window_of = _windows(case, side, n_laid)
    real, is_post, reads_w, tap = loops.REAL[case.dtype], side.is_post, side.reads_w, tap_of(case, side)
    list_row, at_once = loops.row_lister(case.dtype, case.bool_spikes), loops.AT_ONCE
    (_, kw), (sh, _) = case.kernel_key
    rows, (row_sets, column_sets), vector, n_sums = (
        side.reach.rows,
        side.reach.strides,
        side.reach.vector,
        side.reach.sums,
    )
    spare = vector - side.reach.columns

    @loops.njit_part
    def first_met(row, pad_h):  # type: ignore[no-untyped-def]
        return row * sh - pad_h if is_post else (row + pad_h) // sh - rows + 1

    @loops.njit_part
    def as_sums_lie(w, sums):  # type: ignore[no-untyped-def]
        if not reads_w:
            return sums
        laid = np.zeros_like(sums)
        for row in range(len(w) // kw):
            for j in range(kw):
                laid[tap(row, j)] = w[row * kw + j]
        return laid

    @loops.njit_part
    def lay_out_row(seen, inside, window, t, other, other_shape, first_channel, n_channels, state):  # type: ignore[no-untyped-def]
        _, height, width = other_shape
        ring, there = (t - window.first_row) % rows, 0 <= t < height
        inside[ring] = width if there else 0
        size = rows * window.channels * window.extent
        for k in range(n_channels):
            start = (ring * window.channels + k) * window.extent + window.margin
            source = ((first_channel + k) * height + (t if there else 0)) * width
            lay_out(seen, start, size, other, source, width, there, state)

    @loops.njit_part
    def add_up(own, own_shape, other, other_shape, padding, w, state):  # type: ignore[no-untyped-def]
        channels, height, width = own_shape
        other_channels, pad_h, pad_w = other_shape[0], padding[0], padding[1]
        channel_step, other_step = (other_channels, 1) if is_post else (1, channels)
        sums = np.zeros(channels * other_channels * n_sums, real)
        laid_w = as_sums_lie(w, sums)
        columns, places = np.empty(width + at_once, np.uint32), np.empty(width, np.uint32)
        neurons = np.empty(width, np.uint32)
        window = window_of(first_met(0, pad_h), own_shape, other_shape, padding, len(w))
        seen = np.empty(n_laid * rows * window.channels * window.extent + spare, real)
        seen[:] = nothing(state)
        inside = np.empty(rows, np.uint32)
        for first_channel in range(0, other_channels, window.channels):
            n_channels = min(window.channels, other_channels - first_channel)
            met = window.first_row
            for row in range(height):
                begin = first_met(row, pad_h)
                for t in range(max(met, begin), begin + rows):
                    lay_out_row(seen, inside, window, t, other, other_shape, first_channel, n_channels, state)
                met = begin + rows
                for channel in range(channels):
                    at = (channel * height + row) * width
                    found = list_row(own[0], at, width, columns, 0)
                    if found == 0:
                        continue
                    for column_set in range(column_sets):
                        count = select(columns[:found], column_set, pad_w, at, places, neurons)
                        if count == 0:
                            continue
                        taps = ((row + pad_h) % row_sets * column_sets + column_set) * rows * vector
                        pair = channel * channel_step + first_channel * other_step
                        add(
                            sums, pair * n_sums + taps, other_step * n_sums, laid_w, seen, n_channels, window,
                            (begin - window.first_row) % rows, inside, places, own, neurons, count, state,
                        )  # fmt: skip
        return sums

    return add_up


def _selecter(case: Case, side: Side) -> Any:
    """``select(columns, column_set, pad_w, first, places, neurons)``, compiled: those of a row that meet a set of taps.

    Notes where their runs start, and who they are; returns how many there are.
    """
    is_post, column_sets, sw = side.is_post, side.reach.strides[1], case.kernel_key[1][1]

    @loops.njit_part
    def select(columns, column_set, pad_w, first, places, neurons):  # type: ignore[no-untyped-def]
        count = 0
        for k in range(len(columns)):
            column = np.int64(columns[k])
            neurons[count] = first + column
            places[count] = column * sw if is_post else (column + pad_w) // sw
            # noted either way: a branch could not be foretold
            count += is_post or (column + pad_w) % column_sets == column_set
        return count

    return select


def _windows(case: Case, side: Side, n_laid: int) -> Any:
    """``window_of(first_row, own_shape, other_shape, padding, n_weights)``, compiled."""
    is_post, rows, columns, extent_of = side.is_post, side.reach.rows, side.reach.columns, met_extent(case.kernel_key)

    @loops.njit_part
    def window_of(first_row, own_shape, other_shape, padding, n_weights):  # type: ignore[no-untyped-def]
        (other_channels, _, other_width), pad_w = other_shape, padding[1]
        if is_post:
            margin, extent = pad_w, other_width + 2 * pad_w
        else:
            margin, extent = columns - 1, extent_of(own_shape[2], other_width, pad_w)
        channels = max(1, min(other_channels, n_weights // (n_laid * rows * extent)))
        return Window(first_row, margin, extent, channels)

    return window_of
