"""Sums of a row of post neurons, added vector by vector: post channels lie innermost, in whole vectors.

What starts a sum is -0.0, which changes no number that it is added to.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tritonstdp.kernels import loops

VECTOR_BYTES = 32


def lanes_of(dtype: torch.dtype) -> int:
    """Numbers of a vector."""
    return VECTOR_BYTES // dtype.itemsize


def run_adder(dtype: torch.dtype, bool_spikes: bool) -> Any:
    """``add_run(sums, at, kernels, start, length, spike)``, compiled: add a run of whole vectors, times the spike."""
    real, itemsize, check = loops.REAL[dtype], dtype.itemsize, loops.range_check()
    number = numba.from_dtype(np.dtype(real))

    @intrinsic
    def add_vector(typing_context, target, source, spike):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, source, spike = arguments
            vector = ir.VectorType(context.get_value_type(number), lanes_of(dtype))
            target, source = (builder.inttoptr(address, vector.as_pointer()) for address in (target, source))
            brought = builder.load(source, align=itemsize)
            if not bool_spikes:
                brought = builder.fmul(brought, _in_each_lane(builder, spike, vector))
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


def row_adder(dtype: torch.dtype) -> Any:
    """``add_row(current, first, n, plane, channels, sums, step)``, compiled: add a row's sums to its currents.

    In ``current`` the ``n`` neurons of a channel are neighbours, and channels ``plane`` apart; in ``sums`` the channels
    of a neuron are neighbours, and neurons ``step`` apart.
    """
    real, itemsize, lanes, check = loops.REAL[dtype], dtype.itemsize, lanes_of(dtype), loops.range_check()

    @intrinsic
    def add_block(typing_context, target, plane, source, step):  # type: ignore[no-untyped-def]
        """As many channels of as many neurons; where no spike brought anything, currents are left alone."""

        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, plane, source, step = arguments
            vector = ir.VectorType(context.get_value_type(numba.from_dtype(np.dtype(real))), lanes)

            def pointers(address, distance):  # type: ignore[no-untyped-def]
                apart = [builder.add(address, builder.mul(distance, ir.IntType(64)(k))) for k in range(lanes)]
                return [builder.inttoptr(place, vector.as_pointer()) for place in apart]

            sums = [builder.load(pointer, align=itemsize) for pointer in pointers(source, step)]
            with builder.if_then(_differ_from_start(builder, sums, itemsize)):
                for pointer, of_channel in zip(pointers(target, plane), _transposed(builder, sums), strict=True):
                    added = builder.fadd(builder.load(pointer, align=itemsize), of_channel)
                    builder.store(added, pointer, align=itemsize)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), codegen

    add: Any = add_block

    @loops.njit_part
    def add_row(current, first, n, plane, channels, sums, step):  # type: ignore[no-untyped-def]
        check(current, first, (channels - 1) * plane + n)
        check(sums, 0, n * step)
        whole, whole_channels = n - n % lanes, channels - channels % lanes
        target, source = current.ctypes.data + first * itemsize, sums.ctypes.data
        for channel in range(0, whole_channels, lanes):
            for v in range(0, whole, lanes):
                add(
                    target + (channel * plane + v) * itemsize, plane * itemsize,
                    source + (v * step + channel) * itemsize, step * itemsize,
                )  # fmt: skip
        for channel in range(channels):
            for v in range(whole if channel < whole_channels else 0, n):
                current[first + channel * plane + v] += sums[v * step + channel]

    return add_row


def _in_each_lane(builder: Any, value: Any, vector: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    return _shuffled(
        builder, builder.insert_element(undefined, value, ir.IntType(32)(0)), undefined, [0] * vector.count
    )


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _differ_from_start(builder: Any, sums: list[Any], itemsize: int) -> Any:
    """Whether any bit of some vectors differs from those of -0.0."""
    lanes, bits = len(sums), ir.IntType(8 * itemsize)
    integers = ir.VectorType(bits, lanes)
    start = ir.Constant(integers, [1 << (8 * itemsize - 1)] * lanes)
    differing = reduce(builder.or_, [builder.xor(builder.bitcast(vector, integers), start) for vector in sums])
    differ = builder.bitcast(builder.icmp_unsigned("!=", differing, ir.Constant(integers, None)), ir.IntType(lanes))
    return builder.icmp_unsigned("!=", differ, ir.IntType(lanes)(0))


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """As many vectors as they have lanes, transposed: blocks beside the diagonal change places, of 1, 2, 4... lanes."""
    n = len(rows)
    size = 1
    while size < n:
        upper = [n + lane - size if lane & size else lane for lane in range(n)]
        lower = [n + lane if lane & size else lane + size for lane in range(n)]
        rows = [
            _shuffled(builder, rows[k & ~size], rows[k | size], lower if k & size else upper) for k in range(n)
        ]  # fmt: skip
        size *= 2
    return rows
