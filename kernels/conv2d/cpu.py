"""Convolutions on a CPU: for every spike, add what it contributes at the neurons that it meets to the taps' sums.

Work goes by rows of spikes. The rows of the other side within a kernel's reach are laid out with their padding, so that
the neurons which one spike meets in a row are one short run of neighbours. Where a channel has few weights, few
channels are laid out at a time, so that memory stays in proportion to the weights.

Where a contribution depends on the other side alone, it is what is laid out, and the runs that the spikes of one
channel meet add up in registers before they are added to the sums. Elsewhere the other side's signals are laid out, and
the contribution is computed at each tap that a spike meets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tritonstdp.kernels import native
from tritonstdp.kernels.compose import Composed
from tritonstdp.kernels.formula_cpu import synapse_functions
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """Nothing to choose: the work is proportional to the spikes."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


class Reach(NamedTuple):
    """The neurons that one spike meets in a channel, and how the sums at their taps are laid out.

    With a stride, a pre neuron meets every stride-th row and column of a kernel's taps only, starting at one of stride.

    Attributes
    ----------
    rows, columns : int
        How many neurons a spike meets.
    strides : (int, int)
        Sets of taps, by row and by column, of which a spike meets one.
    """

    rows: int
    columns: int
    strides: tuple[int, int]

    @property
    def vector(self) -> int:
        """Lanes that hold the taps of one row: the next power of 2."""
        return 1 << (self.columns - 1).bit_length()

    @property
    def sums(self) -> int:
        """Sums between two channels."""
        return self.strides[0] * self.strides[1] * self.rows * self.vector


class Side(NamedTuple):
    """The side whose spikes contribute, and the other.

    Attributes
    ----------
    is_post : bool
        Whether the spikes are those of post neurons.
    reach : Reach
        What one of them meets.
    own, other : Signals
        The signals of the spikes' side and of the other.
    n_other : int
        How many signals the other side has.
    laid : tuple of int or None
        The other side's signals that a contribution reads; None, for pre spikes, is whether there is a post neuron.
    alone : bool
        Whether they are all that it depends on, beside the spike and numbers.
    reads_w : bool
        Whether it reads the weight.
    term : callable
        ``term(own, other, w, state)``, compiled: what a spike contributes. ``state`` is ``(numbers, w_min, w_max)``.
    """

    is_post: bool
    reach: Reach
    own: native.Signals
    other: native.Signals
    n_other: int
    laid: tuple[int | None, ...]
    alone: bool
    reads_w: bool
    term: Any


def _sides(case: Case, formula: Composed) -> tuple[Side, Side]:
    """The spikes of the post neurons and those of the pre neurons."""
    (kh, kw), (sh, sw) = case.kernel_key
    reaches = Reach(-(-kh // sh), -(-kw // sw), (sh, sw)), Reach(kh, kw, (1, 1))
    names, signals = case.names[:2], native.signals_of(case)
    pre_term, post_term = formula.pre_term, formula.post_term

    @native.njit_part
    def of_post(own, other, w, state):  # type: ignore[no-untyped-def]
        return post_term(other, own, state[0], w, state[1], state[2])

    @native.njit_part
    def of_pre(own, other, w, state):  # type: ignore[no-untyped-def]
        return pre_term(own, other, state[0], w, state[1], state[2])

    def side(is_post: bool) -> Side:
        signature = case.formula.signatures["on_post" if is_post else "on_pre"]
        reads = {*signature.reads, *signature.parameters}
        own, other = int(is_post), int(not is_post)
        read = [k for k, name in enumerate(names[other]) if name in reads]
        return Side(
            is_post, reaches[own], signals[own], signals[other], len(names[other]),
            laid=tuple(read if is_post else [*read, None]),
            alone=reads.isdisjoint((*names[own][1:], "w")), reads_w="w" in reads,
            term=of_post if is_post else of_pre,
        )  # fmt: skip

    return side(True), side(False)


@native.cached
def _run_adder(reach: Reach, real: type, weighted: bool) -> Any:
    """``add_runs(sums, at, seen, start, row_size, first, places, spikes, neurons, count)``: add what some spikes meet.

    Row ``k`` of the sums from ``at`` on gets the sum over the spikes ``e`` of the run that starts at ``places[e]`` in
    row ``(first + k) % reach.rows`` of what is seen, of which row 0 starts at ``start``; times ``spikes[neurons[e]]``
    if ``weighted``. Vectors do it, where a loop over so few lanes would stay scalar.
    """
    number = numba.from_dtype(np.dtype(real))
    itemsize = np.dtype(real).itemsize
    checked, check = native.is_checked(), native.range_check()
    rows, vector = reach.rows, reach.vector

    @intrinsic
    def add_addresses(typing_context, target, source, row_size, first, places, spikes, neurons, count):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, source, row_size, first, places, spikes, neurons, count = arguments
            scalar, index, integer = context.get_value_type(number), ir.IntType(32), ir.IntType(64)
            vector = ir.VectorType(scalar, reach.vector)

            def at(address, kind, place=None):  # type: ignore[no-untyped-def]
                pointer = builder.inttoptr(address, kind.as_pointer())
                return pointer if place is None else builder.gep(pointer, [place])

            def everywhere(value):  # type: ignore[no-untyped-def]
                lane_0 = builder.insert_element(ir.Constant(vector, ir.Undefined), value, index(0))
                zeros = ir.Constant(ir.VectorType(index, reach.vector), None)
                return builder.shuffle_vector(lane_0, ir.Constant(vector, ir.Undefined), zeros)

            def row_address(k):  # type: ignore[no-untyped-def]
                row = builder.urem(builder.add(first, integer(k)), integer(reach.rows))
                return builder.add(source, builder.mul(row, row_size))

            rows = [row_address(k) for k in range(reach.rows)]
            totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in rows]
            with cgutils.for_range(builder, count) as loop:
                place = builder.zext(builder.load(at(places, index, loop.index)), integer)
                if weighted:
                    neuron = builder.zext(builder.load(at(neurons, index, loop.index)), integer)
                    factor = everywhere(builder.load(at(spikes, scalar, neuron)))
                for row, total in zip(rows, totals, strict=True):
                    run_start = builder.bitcast(at(row, scalar, place), vector.as_pointer())
                    run = builder.load(run_start, align=itemsize)
                    run = builder.fmul(run, factor) if weighted else run
                    builder.store(builder.fadd(builder.load(total), run), total)
            for k, total in enumerate(totals):
                sums = builder.gep(at(target, vector), [integer(k)])
                added = builder.fadd(builder.load(sums, align=itemsize), builder.load(total))
                builder.store(added, sums, align=itemsize)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    add: Any = add_addresses

    @native.njit_part
    def add_runs(sums, at, seen, start, row_size, first, places, spikes, neurons, count):  # type: ignore[no-untyped-def]
        if checked:
            check(sums, at, rows * vector)
            check(places, 0, count)
            check(neurons, 0, count)
            for e in range(count):
                check(spikes, np.int64(neurons[e]), 1)
                for k in range(rows):
                    check(seen, start + k * row_size + np.int64(places[e]), vector)
        add(
            sums.ctypes.data + at * itemsize, seen.ctypes.data + start * itemsize, row_size * itemsize, first,
            places.ctypes.data, spikes.ctypes.data, neurons.ctypes.data, count,
        )  # fmt: skip

    return add_runs


def _term_adder(side: Side, real: type) -> Any:
    """``add_terms(sums, at, w, seen, start, row_size, signal_size, first, own, state)``: add what a spike contributes.

    Row ``k`` of the sums from ``at`` on gets the terms of the run that starts at ``start`` in row
    ``(first + k) % reach.rows`` of each signal seen. Lanes are a loop that LLVM is told to keep until it
    makes a vector of them; it would unroll it into scalars, and ask whether the sums overlap with what is seen.
    """
    number = numba.from_dtype(np.dtype(real))
    itemsize = np.dtype(real).itemsize
    checked, check = native.is_checked(), native.range_check()
    rows, vector, laid = side.reach.rows, side.reach.vector, side.laid
    other, term = types.UniTuple(number, side.n_other), side.term

    @intrinsic
    def add_addresses(typing_context, target, weights, source, row_size, signal_size, first, own, state):  # type: ignore[no-untyped-def]
        function = typing_context.resolve_value_type(term)
        signature = function.get_call_type(typing_context, (own, other, number, state), {})

        def codegen(context, builder, _, arguments):  # type: ignore[no-untyped-def]
            target, weights, source, row_size, signal_size, first, own, state = arguments
            contribution = context.get_function(function, signature)
            scalar, integer = context.get_value_type(number), ir.IntType(64)
            zero = scalar(0)

            def at(address, lane):  # type: ignore[no-untyped-def]
                return builder.gep(builder.inttoptr(address, scalar.as_pointer()), [lane])

            for k in range(rows):
                row = builder.urem(builder.add(first, integer(k)), integer(rows))
                row = builder.add(source, builder.mul(row, row_size))
                starts = [builder.add(row, builder.mul(signal_size, integer(p))) for p in range(len(laid))]
                with _vector_loop(builder, vector) as (lane, load, store):
                    seen = {signal: load(at(start, lane)) for signal, start in zip(laid, starts, strict=True)}
                    values = context.make_tuple(builder, other, [seen.get(p, zero) for p in range(other.count)])
                    tap = builder.add(lane, integer(k * vector))
                    w = load(at(weights, tap)) if side.reads_w else zero
                    value = contribution(builder, [own, values, w, state])
                    if None in seen:
                        value = builder.select(builder.fcmp_unordered("!=", seen[None], zero), value, zero)
                    store(builder.fadd(load(at(target, tap)), value), at(target, tap))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6, own, state), codegen

    add: Any = add_addresses

    @native.njit_part
    def add_terms(sums, at, w, seen, start, row_size, signal_size, first, own, state):  # type: ignore[no-untyped-def]
        if checked:
            check(sums, at, rows * vector)
            check(w, at, rows * vector)
            check(seen, start, (len(laid) - 1) * signal_size + (rows - 1) * row_size + vector)
        add(
            sums.ctypes.data + at * itemsize, w.ctypes.data + at * itemsize, seen.ctypes.data + start * itemsize,
            row_size * itemsize, signal_size * itemsize, first, own, state,
        )  # fmt: skip

    return add_terms


@contextmanager
def _vector_loop(builder: Any, lanes: int) -> Iterator[tuple[Any, Any, Any]]:
    """A loop over lanes, and how what it reads and writes is loaded and stored: no lane touches another's."""
    integer = ir.IntType(64)
    before, body, after = builder.basic_block, builder.append_basic_block("lane"), builder.append_basic_block("lanes")
    builder.branch(body)
    builder.position_at_end(body)
    lane = builder.phi(integer)
    accesses = []

    def load(address: Any) -> Any:
        accesses.append(builder.load(address))
        return accesses[-1]

    def store(value: Any, address: Any) -> None:
        accesses.append(builder.store(value, address))

    yield lane, load, store
    following = builder.add(lane, integer(1))
    lane.add_incoming(integer(0), before)
    lane.add_incoming(following, builder.basic_block)
    branch = builder.cbranch(builder.icmp_unsigned("<", following, integer(lanes)), body, after)
    module = builder.module
    kept = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.values.MDValue(module, [], str(len(module.metadata)))
    loop.operands = loop, kept  # a loop is told apart by what names itself
    branch.set_metadata("llvm.loop", loop)
    for access in accesses:
        access.set_metadata("llvm.mem.parallel_loop_access", loop)
    builder.position_at_end(after)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run, address_of = _compile(case), native.address_of

    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        run(
            weights.data_ptr(), 0 if c is None else c.data_ptr(), tuple(map(address_of, pre)),
            tuple(map(address_of, post)), topology.src_shape, topology.dst_shape, topology.padding,
            float(topology.weight_divisor), numbers, w_min, w_max,
        )  # fmt: skip

    return step


def _compile(case: Case) -> Any:
    formula = synapse_functions(case, bound_first=True)
    of_post, of_pre = _sides(case, formula)
    add_up_post, add_up_pre = _adder(case, of_post), _adder(case, of_pre)
    post_tap, pre_tap = _tap_of(case, of_post), _tap_of(case, of_pre)
    changed, moved, modulated = formula.changed, formula.moved, case.modulated
    pre_arrays, post_arrays = of_pre.own.arrays, of_post.own.arrays
    real, pointer = native.REAL[case.dtype], native.as_pointer
    (kh, kw), _ = case.kernel_key
    carray: Any = numba.carray

    @native.njit_part
    def potentiations_of(post, post_shape, pre, pre_shape, padding, w, state):  # type: ignore[no-untyped-def]
        """The sums of the post spikes without the gaps between their vectors, tap by tap as the weights lie."""
        sums = add_up_post(post, post_shape, pre, pre_shape, padding, w, state)
        potentiations = np.empty(len(w), real)
        for row in range(len(w) // kw):
            for j in range(kw):
                potentiations[row * kw + j] = sums[post_tap(row, j)]
        return potentiations

    def loop(
        w_address, c_address, pre_addresses, post_addresses, pre_shape, post_shape, padding, divisor,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        pre = pre_arrays(pre_addresses, pre_shape[0] * pre_shape[1] * pre_shape[2])
        post = post_arrays(post_addresses, post_shape[0] * post_shape[1] * post_shape[2])
        n = post_shape[0] * pre_shape[0] * kh * kw
        w = carray(pointer(w_address), n, real)
        c = carray(pointer(c_address), n if modulated else 0, real)
        state = numbers, w_min, w_max
        potentiations = potentiations_of(post, post_shape, pre, pre_shape, padding, w, state)
        depressions = add_up_pre(pre, pre_shape, post, post_shape, padding, w, state)
        for row in range(n // kw):
            for j in range(kw):
                k = row * kw + j
                depression = depressions[pre_tap(row, j)]
                dw = changed(w[k], potentiations[k], depression, True, True, (), (), numbers, w_min, w_max) / divisor
                if modulated:
                    w[k], c[k] = moved(w[k], dw, c[k], (), (), numbers, w_min, w_max)
                else:
                    w[k], _ = moved(w[k], dw, dw, (), (), numbers, w_min, w_max)

    sides = of_pre.own.addresses, of_post.own.addresses
    shape = types.UniTuple(types.int64, 3)
    geometry = shape, shape, types.UniTuple(types.int64, 2), numba.from_dtype(np.dtype(real))
    return native.entry(loop, recipe_of(case), *[types.int64] * 2, *sides, *geometry, *native.scalars(case))


def _tap_of(case: Case, side: Side) -> Any:
    """``tap(row, j)``, compiled: where the sums have column ``j`` of a row of taps; rows of all kernels in turn."""
    (kh, _), (sh, sw) = case.kernel_key
    rows, columns, vector, sums = side.reach.rows, side.reach.columns, side.reach.vector, side.reach.sums

    @native.njit_part
    def of_post(row, j):  # type: ignore[no-untyped-def]
        return row * vector + j

    @native.njit_part
    def of_pre(row, j):  # type: ignore[no-untyped-def]
        i = row % kh
        met = (i % sh * sw + j % sw) * rows + rows - 1 - i // sh
        return row // kh * sums + met * vector + columns - 1 - j // sw

    return of_post if side.is_post else of_pre


class Way(NamedTuple):
    """A way of adding up what spikes contribute.

    Attributes
    ----------
    n_laid : int
        How many values of a neuron are laid out.
    outside : callable
        ``outside(state)``: what is laid out where there is no neuron.
    lay_out : callable
        ``lay_out(seen, start, signal_size, other, source, width, inside, state)``: lay out a row.
    add : callable
        ``add(sums, target, w, seen, start, row_size, signal_size, first, places, own, neurons, count, state)``: add
        what spikes contribute at one channel; ``places`` has where their runs start, ``neurons`` who they are.
    """

    n_laid: int
    outside: Any
    lay_out: Any
    add: Any


def _by_runs(case: Case, side: Side) -> Way:
    """Contributions are laid out, and added run by run."""
    real, term, traces = native.REAL[case.dtype], side.term, side.other.traces
    is_post, silent = side.is_post, (real(0),) * side.n_other
    add_runs = _run_adder(side.reach, real, not case.bool_spikes)

    @native.njit_part
    def contribution(other, state):  # type: ignore[no-untyped-def]
        return term((real(1),), other, real(0), state)

    @native.njit_part
    def outside(state):  # type: ignore[no-untyped-def]
        # a tap that looks outside the map sees a silent neuron; outside it there is no post neuron
        return contribution(silent, state) if is_post else real(0)

    @native.njit_part
    def lay_out(seen, start, signal_size, other, source, width, inside, state):  # type: ignore[no-untyped-def]
        run, nothing = seen[start : start + width], outside(state)
        # one loop for each, so that each is a loop over vectors
        if inside:
            for k in range(len(run)):
                at = np.uint64(source + k)
                run[k] = contribution((real(other[0][at]), *traces(other, at)), state)
        else:
            for k in range(len(run)):
                run[k] = nothing

    @native.njit_part
    def add(sums, target, w, seen, start, row_size, signal_size, first, places, own, neurons, count, state):  # type: ignore[no-untyped-def]
        add_runs(sums, target, seen, start, row_size, first, places, own[0], neurons, count)

    return Way(1, outside, lay_out, add)


def _by_terms(case: Case, side: Side) -> Way:
    """The other side's signals are laid out, and each spike's terms computed from them."""
    real, traces, bool_spikes = native.REAL[case.dtype], side.own.traces, case.bool_spikes
    add_terms = _term_adder(side, real)

    @native.njit_part
    def outside(state):  # type: ignore[no-untyped-def]
        return real(0)

    @native.njit_part
    def lay_out_nothing(seen, start, signal_size, other, source, width, inside, state):  # type: ignore[no-untyped-def]
        pass

    def followed(lay_out_others: Any, place: int, signal: int | None) -> Any:
        @native.njit_part
        def lay_out(seen, start, signal_size, other, source, width, inside, state):  # type: ignore[no-untyped-def]
            lay_out_others(seen, start, signal_size, other, source, width, inside, state)
            first = start + place * signal_size
            run = seen[first : first + width]
            if not inside:
                run[:] = 0
            elif signal is None:
                run[:] = 1
            else:
                values = other[signal][source : source + width]
                for k in range(len(run)):
                    run[k] = values[k]

        return lay_out

    lay_out = lay_out_nothing
    for place, signal in enumerate(side.laid):  # one by one, since those of a tuple differ in type
        lay_out = followed(lay_out, place, signal)

    @native.njit_part
    def add(sums, target, w, seen, start, row_size, signal_size, first, places, own, neurons, count, state):  # type: ignore[no-untyped-def]
        for e in range(count):
            neuron, run = neurons[e], start + np.int64(places[e])
            there = (real(1) if bool_spikes else own[0][neuron], *traces(own, neuron))
            add_terms(sums, target, w, seen, run, row_size, signal_size, first, there, state)

    return Way(max(len(side.laid), 1), outside, lay_out, add)


def _adder(case: Case, side: Side) -> Any:
    """``add_up(...)``, compiled: sum what one side's spikes contribute, tap by tap as its reach has them."""
    real, is_post, reads_w = native.REAL[case.dtype], side.is_post, side.reads_w
    n_laid, outside, lay_out, add = (_by_runs if side.alone else _by_terms)(case, side)
    tap = _tap_of(case, side)
    list_row, at_once = native.row_lister(case.dtype, case.bool_spikes), native.AT_ONCE
    (_, kw), (sh, sw) = case.kernel_key
    rows, columns_met, vector, n_sums = side.reach.rows, side.reach.columns, side.reach.vector, side.reach.sums
    column_stride = side.reach.strides[1]

    @native.njit_part
    def select(columns, residue, pad_w, first, places, neurons):  # type: ignore[no-untyped-def]
        """Those spikes of a row that meet one set of taps, and where their runs start; and how many there are."""
        count = 0
        for k in range(len(columns)):
            column = np.int64(columns[k])
            neurons[count] = first + column
            if is_post:
                places[count] = column * sw
                count += 1
            else:
                places[count] = (column + pad_w) // sw
                count += (column + pad_w) % sw == residue
        return count

    @native.njit_part
    def as_sums_lie(w, sums):  # type: ignore[no-untyped-def]
        if not reads_w:
            return sums
        laid = np.zeros_like(sums)
        for row in range(len(w) // kw):
            for j in range(kw):
                laid[tap(row, j)] = w[row * kw + j]
        return laid

    @native.njit_part
    def add_up(own, own_shape, other, other_shape, padding, w, state):  # type: ignore[no-untyped-def]
        channels, height, width = own_shape
        other_channels, other_height, other_width = other_shape
        pad_h, pad_w = padding
        sums = np.zeros(channels * other_channels * n_sums, real)
        laid_w = as_sums_lie(w, sums)
        columns, places = np.empty(width + at_once, np.uint32), np.empty(width, np.uint32)
        neurons = np.empty(width, np.uint32)

        if is_post:
            margin, extent = pad_w, other_width + 2 * pad_w
            channel_step, other_channel_step = other_channels * n_sums, n_sums
        else:
            margin = columns_met - 1
            extent = margin + max(other_width, (width - 1 + pad_w) // sw + 1)
            channel_step, other_channel_step = n_sums, channels * n_sums
        block = max(1, min(other_channels, len(w) // (n_laid * rows * extent)))
        signal_size = rows * block * extent
        seen = np.empty(n_laid * signal_size + vector - columns_met, real)
        seen[:] = outside(state)
        origin = -pad_h if is_post else pad_h // sh - rows + 1
        for first_channel in range(0, other_channels, block):
            n_channels = min(block, other_channels - first_channel)
            laid_out = origin
            for row in range(height):
                begin = row * sh - pad_h if is_post else (row + pad_h) // sh - rows + 1
                for t in range(max(laid_out, begin), begin + rows):
                    inside = 0 <= t < other_height
                    for k in range(n_channels):
                        start = ((t - origin) % rows * block + k) * extent + margin
                        source = ((first_channel + k) * other_height + (t if inside else 0)) * other_width
                        lay_out(seen, start, signal_size, other, source, other_width, inside, state)
                laid_out = begin + rows
                for channel in range(channels):
                    at = (channel * height + row) * width
                    found = list_row(own[0], at, width, columns, 0)
                    if found == 0:
                        continue
                    for residue in range(column_stride):
                        count = select(columns[:found], residue, pad_w, at, places, neurons)
                        target = channel * channel_step + first_channel * other_channel_step
                        if not is_post:
                            target += ((row + pad_h) % sh * sw + residue) * rows * vector
                        for k in range(n_channels):
                            add(
                                sums, target + k * other_channel_step, laid_w, seen, k * extent, block * extent,
                                signal_size, (begin - origin) % rows, places, own, neurons, count, state,
                            )  # fmt: skip
        return sums

    return add_up
