"""Convolutions on a CPU: for every spike, add the traces that it meets to the sums of the taps between them.

Work goes by rows of spikes. The rows of traces within a kernel's reach are laid out with their padding, so that the
traces which one spike meets in a row are one short run of neighbours. The runs that the spikes of one channel meet add
up in registers before they are added to the sums. Where a channel has few weights, few channels of traces are laid out
at a time, so that memory stays in proportion to the weights.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
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


@cache
def _run_adder(reach: Reach, real: type, weighted: bool) -> Any:
    """``add_runs(target, source, row_size, first, places, factors, count)``: add what some spikes meet to their sums.

    All but the counts are addresses. Row ``k`` of the target gets the sum over the spikes ``e`` of the run that starts
    at ``places[e]`` in row ``(first + k) % reach.rows`` of the source, times ``factors[e]`` if ``weighted``. Vectors do
    it, where a loop over so few lanes would stay scalar.
    """
    number = numba.from_dtype(np.dtype(real))
    itemsize = np.dtype(real).itemsize

    @intrinsic
    def add_runs(typing_context, target, source, row_size, first, places, factors, count):  # type: ignore[no-untyped-def]
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

    return add_runs


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run = _compile(case)
    of_post, of_pre = _reaches(case)
    most_sums, rows, vector = max(of_post.sums, of_pre.sums), of_post.rows, of_post.vector

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        (c_in, _, width), (c_out, _, out_width), pad_w = topology.src_shape, topology.dst_shape, topology.padding[1]
        n, widest = weights.numel(), max(width, out_width)
        sums = c_in * c_out * most_sums
        seen = max(n, rows * (widest + 2 * pad_w + vector))
        scratch = torch.empty(n + sums + seen + vector + 3 * (widest + native.AT_ONCE), dtype=weights.dtype)
        run(
            weights.data_ptr(), 0 if c is None else c.data_ptr(), pre_spike.data_ptr(), pre_trace.data_ptr(),
            post_spike.data_ptr(), post_trace.data_ptr(), scratch.data_ptr(), n, sums, seen,
            topology.src_shape, topology.dst_shape, topology.padding, topology.weight_divisor,
            parameters, w_min, w_max, decay, dopamine,
        )  # fmt: skip

    return step


def _compile(case: Case) -> Any:
    on_pre, on_post, change, finish = synapse_functions(case.formula, case.dtype, bound_first=True)
    real = native.REAL[case.dtype]
    itemsize = np.dtype(real).itemsize
    bool_spikes, modulated = case.bool_spikes, case.formula.rule.modulated
    spike_type = np.bool_ if bool_spikes else real
    spike_size = np.dtype(spike_type).itemsize
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
        def add_up(
            sums_address, spike_address, spike_shape, trace_address, trace_shape, padding,
            seen_address, n_seen, lists_address, parameters,
        ):  # type: ignore[no-untyped-def]  # fmt: skip
            channels, height, width = spike_shape
            trace_channels, trace_height, trace_width = trace_shape
            pad_h, pad_w = padding
            spike = carray(pointer(spike_address), channels * height * width, spike_type)
            trace = carray(pointer(trace_address), trace_channels * trace_height * trace_width, real)
            sums = carray(pointer(sums_address), channels * trace_channels * n_sums, real)
            sums[:] = real(0)
            seen = carray(pointer(seen_address), n_seen, real)
            # a tap that looks outside the map sees a trace of 0; outside it there is no post neuron
            outside = contribution(real(0), parameters) if post_spikes else real(0)
            seen[:] = outside
            listed = width + at_once
            places_address, factors_address = lists_address + listed * itemsize, lists_address + 2 * listed * itemsize
            columns = carray(pointer(lists_address), listed, np.uint32)
            places = carray(pointer(places_address), listed, np.uint32)
            factors = carray(pointer(factors_address), listed, real)

            if post_spikes:
                margin, extent = pad_w, trace_width + 2 * pad_w
                channel_step, trace_channel_step = trace_channels * n_sums, n_sums
            else:
                margin = columns_met - 1
                extent = margin + max(trace_width, (width - 1 + pad_w) // sw + 1)
                channel_step, trace_channel_step = n_sums, channels * n_sums
            block = max(1, min(trace_channels, n_seen // (rows * extent)))
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
                        found = list_row(spike_address + at * spike_size, width, len(spike) - at, columns, 0)
                        if found == 0:
                            continue
                        for residue in range(column_stride):
                            count = select(columns[:found], residue, pad_w, spike[at:], places, factors)
                            target = channel * channel_step + first_channel * trace_channel_step
                            if not post_spikes:
                                target += ((row + pad_h) % sh * sw + residue) * rows * vector
                            for k in range(n_channels):
                                add_runs(
                                    sums_address + (target + k * trace_channel_step) * itemsize,
                                    seen_address + k * extent * itemsize, block * extent * itemsize,
                                    (begin - origin) % rows, places_address, factors_address, count,
                                )  # fmt: skip

        return add_up

    add_up_post, add_up_pre = adder(True), adder(False)
    post_vector = of_post.vector

    def loop(
        w_address, c_address, s_address, x_address, q_address, y_address, scratch_address, n, n_sums, n_seen,
        pre_shape, post_shape, padding, weight_divisor, parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        divisor = real(weight_divisor)
        potentiation = carray(pointer(scratch_address), n, real)
        sums_address = scratch_address + n * itemsize
        sums = carray(pointer(sums_address), n_sums, real)
        seen_address = sums_address + n_sums * itemsize
        lists_address = seen_address + (n_seen + post_vector) * itemsize
        w = carray(pointer(w_address), n, real)
        c = carray(pointer(c_address), n, real)
        add_up_post(
            sums_address, q_address, post_shape, x_address, pre_shape, padding,
            seen_address, n_seen, lists_address, parameters,
        )  # fmt: skip
        for row in range(n // kw):
            for j in range(kw):
                potentiation[row * kw + j] = sums[row * post_vector + j]
        add_up_pre(
            sums_address, s_address, pre_shape, y_address, post_shape, padding,
            seen_address, n_seen, lists_address, parameters,
        )  # fmt: skip
        for row in range(n // kw):
            i = row % kh
            for j in range(kw):
                k = row * kw + j
                met = (i % sh * sw + j % sw) * pre_rows + pre_rows - 1 - i // sh
                depression = sums[row // kh * pre_sums + met * pre_vector + pre_columns - 1 - j // sw]
                dw = change(w[k], potentiation[k], depression, w_min, w_max, parameters) / divisor
                if modulated:
                    w[k], c[k] = finish(w[k], dw, c[k], dopamine, w_min, w_max, decay)
                else:
                    w[k], _ = finish(w[k], dw, dopamine, dopamine, w_min, w_max, decay)

    shape = types.UniTuple(types.int64, 3)
    geometry = shape, shape, types.UniTuple(types.int64, 2), types.float64
    scalars = native.scalars(case.formula, case.dtype)
    return native.entry(loop, recipe_of(case), *[types.int64] * 10, *geometry, *scalars)
