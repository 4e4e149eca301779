"""Convolutions on a CPU: for every spike, add the traces that it meets to the sums of the taps between them.

Work goes by rows of spikes. The rows of traces within a kernel's reach are laid out with their padding, so that the
traces which one spike meets in a row are one short run of neighbours. The runs that the spikes of one channel meet add
up in registers before they are added to the sums. Where a channel has few weights, few channels of traces are laid out
at a time, so that memory stays in proportion to the weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tritonstdp.kernels import native
from tritonstdp.kernels.formula_cpu import synapse_functions
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """Nothing to choose: the work is proportional to the spikes."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


class Reach(NamedTuple):
    """The traces that one spike meets in a channel, and how their sums are laid out.

    With a stride, a pre neuron meets every stride-th row and column of a kernel's taps only, starting at one of stride.

    Attributes
    ----------
    rows, columns : int
        How many traces a spike meets.
    strides : (int, int)
        Sets of taps, by row and by column, of which a spike meets one.
    """

    rows: int
    columns: int
    strides: tuple[int, int]

    @property
    def vector(self) -> int:
        """Lanes that hold the traces of one row: the next power of 2."""
        return 1 << (self.columns - 1).bit_length()

    @property
    def sums(self) -> int:
        """Sums between two channels."""
        return self.strides[0] * self.strides[1] * self.rows * self.vector


def _reaches(case: Case) -> tuple[Reach, Reach]:
    """What a post spike reaches, and what a pre spike does."""
    (kh, kw), (sh, sw) = case.kernel_key
    return Reach(kh, kw, (1, 1)), Reach(-(-kh // sh), -(-kw // sw), (sh, sw))


@native.cached
def _run_adder(reach: Reach, real: type, weighted: bool) -> Any:
    """``add_runs(sums, at, seen, start, row_size, first, places, factors, count)``: add what some spikes meet.

    Row ``k`` of the sums from ``at`` on gets the sum over the spikes ``e`` of the run that starts at ``places[e]`` in
    row ``(first + k) % reach.rows`` of the traces seen, of which row 0 starts at ``start``; times ``factors[e]`` if
    ``weighted``. Vectors do it, where a loop over so few lanes would stay scalar.
    """
    number = numba.from_dtype(np.dtype(real))
    itemsize = np.dtype(real).itemsize
    checked, check = native.is_checked(), native.range_check()
    rows, vector = reach.rows, reach.vector

    @intrinsic
    def add_addresses(typing_context, target, source, row_size, first, places, factors, count):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, source, row_size, first, places, factors, count = arguments
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
                factor = everywhere(builder.load(at(factors, scalar, loop.index))) if weighted else None
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

        return types.void(*[types.int64] * 7), codegen

    add: Any = add_addresses

    @native.njit_part
    def add_runs(sums, at, seen, start, row_size, first, places, factors, count):  # type: ignore[no-untyped-def]
        if checked:
            check(sums, at, rows * vector)
            check(places, 0, count)
            check(factors, 0, count)
            for e in range(count):
                for k in range(rows):
                    check(seen, start + k * row_size + np.int64(places[e]), vector)
        add(
            sums.ctypes.data + at * itemsize, seen.ctypes.data + start * itemsize, row_size * itemsize, first,
            places.ctypes.data, factors.ctypes.data, count,
        )  # fmt: skip

    return add_runs


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run = _compile(case)

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        run(
            weights.data_ptr(), 0 if c is None else c.data_ptr(),
            pre_spike.data_ptr(), pre_trace.data_ptr(),
            post_spike.data_ptr(), post_trace.data_ptr(),
            topology.src_shape, topology.dst_shape, topology.padding, float(topology.weight_divisor),
            parameters, w_min, w_max, decay, dopamine,
        )  # fmt: skip

    return step


def _compile(case: Case) -> Any:
    on_pre, on_post, change, finish = synapse_functions(case.formula, case.dtype, bound_first=True)
    real = native.REAL[case.dtype]
    bool_spikes, modulated = case.bool_spikes, case.formula.rule.modulated
    spike_type = np.bool_ if bool_spikes else real
    (kh, kw), (sh, sw) = case.kernel_key
    of_post, of_pre = _reaches(case)
    pre_rows, pre_columns, pre_vector, pre_sums = of_pre.rows, of_pre.columns, of_pre.vector, of_pre.sums
    list_row, at_once = native.row_lister(case.dtype, bool_spikes), native.AT_ONCE
    pointer = native.as_pointer
    carray: Any = numba.carray

    def adder(post_spikes: bool) -> Any:
        """``add_up(...)``: sum what one side's spikes contribute, those of the post neurons or those of the pre."""
        reach = of_post if post_spikes else of_pre
        add_runs = _run_adder(reach, real, not bool_spikes)
        rows, columns_met, vector, n_sums = reach.rows, reach.columns, reach.vector, reach.sums
        column_stride = reach.strides[1]

        @native.njit_part
        def contribution(trace, parameters):  # type: ignore[no-untyped-def]
            return on_post(trace, real(1), *parameters) if post_spikes else on_pre(real(1), trace, *parameters)

        @native.njit_part
        def lay_out(seen, trace, inside, outside, parameters):  # type: ignore[no-untyped-def]
            # one loop for each, so that each is a loop over vectors
            if inside:
                for k in range(len(trace)):
                    seen[k] = contribution(trace[k], parameters)
            else:
                for k in range(len(trace)):
                    seen[k] = outside

        @native.njit_part
        def select(columns, residue, pad_w, spike, places, factors):  # type: ignore[no-untyped-def]
            """Where the runs of those spikes of a row start that meet one set of taps; and how many there are."""
            count = 0
            for k in range(len(columns)):
                column = np.int64(columns[k])
                factors[count] = spike[column]
                if post_spikes:
                    places[count] = column * sw
                    count += 1
                else:
                    places[count] = (column + pad_w) // sw
                    count += (column + pad_w) % sw == residue
            return count

        @native.njit_part
        def add_up(spike, spike_shape, trace, trace_shape, padding, n_weights, parameters):  # type: ignore[no-untyped-def]
            channels, height, width = spike_shape
            trace_channels, trace_height, trace_width = trace_shape
            pad_h, pad_w = padding
            sums = np.zeros(channels * trace_channels * n_sums, real)
            columns, places = np.empty(width + at_once, np.uint32), np.empty(width, np.uint32)
            factors = np.empty(width, real)

            if post_spikes:
                margin, extent = pad_w, trace_width + 2 * pad_w
                channel_step, trace_channel_step = trace_channels * n_sums, n_sums
            else:
                margin = columns_met - 1
                extent = margin + max(trace_width, (width - 1 + pad_w) // sw + 1)
                channel_step, trace_channel_step = n_sums, channels * n_sums
            block = max(1, min(trace_channels, n_weights // (rows * extent)))
            # a tap that looks outside the map sees a trace of 0; outside it there is no post neuron
            outside = contribution(real(0), parameters) if post_spikes else real(0)
            seen = np.empty(rows * block * extent + vector - columns_met, real)
            seen[:] = outside
            origin = -pad_h if post_spikes else pad_h // sh - rows + 1
            for first_channel in range(0, trace_channels, block):
                n_channels = min(block, trace_channels - first_channel)
                laid_out = origin
                for row in range(height):
                    begin = row * sh - pad_h if post_spikes else (row + pad_h) // sh - rows + 1
                    for t in range(max(laid_out, begin), begin + rows):
                        inside = 0 <= t < trace_height
                        for k in range(n_channels):
                            start = ((t - origin) % rows * block + k) * extent + margin
                            source = ((first_channel + k) * trace_height + (t if inside else 0)) * trace_width
                            lay_out(
                                seen[start : start + trace_width], trace[source : source + trace_width],
                                inside, outside, parameters,
                            )  # fmt: skip
                    laid_out = begin + rows
                    for channel in range(channels):
                        at = (channel * height + row) * width
                        found = list_row(spike, at, width, columns, 0)
                        if found == 0:
                            continue
                        for residue in range(column_stride):
                            count = select(columns[:found], residue, pad_w, spike[at : at + width], places, factors)
                            target = channel * channel_step + first_channel * trace_channel_step
                            if not post_spikes:
                                target += ((row + pad_h) % sh * sw + residue) * rows * vector
                            for k in range(n_channels):
                                add_runs(
                                    sums, target + k * trace_channel_step, seen, k * extent, block * extent,
                                    (begin - origin) % rows, places, factors, count,
                                )  # fmt: skip
            return sums

        return add_up

    add_up_post, add_up_pre = adder(True), adder(False)
    post_vector = of_post.vector

    @native.njit_part
    def potentiations_of(spike, spike_shape, trace, trace_shape, padding, n, parameters):  # type: ignore[no-untyped-def]
        """The sums of the post spikes without the gaps between their vectors, tap by tap as the weights lie."""
        sums = add_up_post(spike, spike_shape, trace, trace_shape, padding, n, parameters)
        potentiations = np.empty(n, real)
        for row in range(n // kw):
            for j in range(kw):
                potentiations[row * kw + j] = sums[row * post_vector + j]
        return potentiations

    def loop(
        w_address, c_address, s_address, x_address, q_address, y_address,
        pre_shape, post_shape, padding, divisor, parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        n_pre, n_post = pre_shape[0] * pre_shape[1] * pre_shape[2], post_shape[0] * post_shape[1] * post_shape[2]
        pre_spike = carray(pointer(s_address), n_pre, spike_type)
        pre_trace = carray(pointer(x_address), n_pre, real)
        post_spike = carray(pointer(q_address), n_post, spike_type)
        post_trace = carray(pointer(y_address), n_post, real)
        n = post_shape[0] * pre_shape[0] * kh * kw
        w = carray(pointer(w_address), n, real)
        c = carray(pointer(c_address), n if modulated else 0, real)
        potentiations = potentiations_of(post_spike, post_shape, pre_trace, pre_shape, padding, n, parameters)
        depressions = add_up_pre(pre_spike, pre_shape, post_trace, post_shape, padding, n, parameters)
        for row in range(n // kw):
            i = row % kh
            for j in range(kw):
                k = row * kw + j
                met = (i % sh * sw + j % sw) * pre_rows + pre_rows - 1 - i // sh
                depression = depressions[row // kh * pre_sums + met * pre_vector + pre_columns - 1 - j // sw]
                dw = change(w[k], potentiations[k], depression, True, True, w_min, w_max, parameters) / divisor
                if modulated:
                    w[k], c[k] = finish(w[k], dw, c[k], dopamine, w_min, w_max, decay)
                else:
                    w[k], _ = finish(w[k], dw, dopamine, dopamine, w_min, w_max, decay)

    shape = types.UniTuple(types.int64, 3)
    geometry = shape, shape, types.UniTuple(types.int64, 2), numba.from_dtype(np.dtype(real))
    scalars = native.scalars(case.formula, case.dtype)
    return native.entry(loop, recipe_of(case), *[types.int64] * 6, *geometry, *scalars)
