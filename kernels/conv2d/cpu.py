"""Convolutions on a CPU: for every spike, add the traces that it meets to the sums of the taps between them.

Work goes by rows of traces. A row is laid out once, padding included, so that the traces which one spike meets in it
are one short run of neighbours, which is added to the sums as one vector. The spikes of the rows within a kernel's
reach are kept as one bit a neuron.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tritonstdp.kernels import native
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """Nothing to choose: the work is proportional to the spikes."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


@cache
def _run_adder(width: int, real: type) -> Any:
    """``add_run(target, source, lanes, factor)``, on addresses: ``target[k] += factor * source[k]`` for ``k < lanes``.

    One vector of ``width`` does it, where a loop over so few lanes would stay scalar. It also reads, and writes back as
    they were, the places between ``lanes`` and ``width``.
    """
    number = numba.from_dtype(np.dtype(real))
    itemsize = np.dtype(real).itemsize

    @intrinsic
    def add_run(typing_context, target, source, lanes, factor):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            vector = ir.VectorType(context.get_value_type(number), width)
            integers = ir.VectorType(ir.IntType(64), width)
            target, source = (builder.inttoptr(address, vector.as_pointer()) for address in arguments[:2])

            def everywhere(value, kind):  # type: ignore[no-untyped-def]
                lane_0 = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
                zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
                return builder.shuffle_vector(lane_0, ir.Constant(kind, ir.Undefined), zeros)

            added = builder.fmul(builder.load(source, align=itemsize), everywhere(arguments[3], vector))
            lane = ir.Constant(integers, list(range(width)))
            used = builder.icmp_signed("<", lane, everywhere(arguments[2], integers))
            added = builder.select(used, added, ir.Constant(vector, [0.0] * width))
            total = builder.fadd(builder.load(target, align=itemsize), added)
            builder.store(total, target, align=itemsize)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64, number), codegen

    return add_run


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run = _compile(case)
    (kh, kw), (_, sw) = case.kernel_key
    reach = -(-kw // sw)

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        (c_in, _, width), (c_out, _, out_width), pad_w = topology.src_shape, topology.dst_shape, topology.padding[1]
        sums = c_out * c_in * kh * (kw + sw * reach)
        row = max(c_in, c_out) * (max(width, out_width) + 2 * pad_w + reach) + 2 * _vector_width(kw)
        scratch = torch.empty(sums + row, dtype=weights.dtype)
        bits = torch.empty(
            kh * max(c_in * -(-width // native.WORD), c_out * -(-out_width // native.WORD)), dtype=torch.int64
        )
        run(
            weights.data_ptr(), 0 if c is None else c.data_ptr(), pre_spike.data_ptr(), pre_trace.data_ptr(),
            post_spike.data_ptr(), post_trace.data_ptr(), scratch.data_ptr(), bits.data_ptr(),
            topology.src_shape, topology.dst_shape, topology.padding, parameters, w_min, w_max, decay, dopamine,
        )  # fmt: skip

    return step


def _vector_width(lanes: int) -> int:
    return 1 << (lanes - 1).bit_length()


def _compile(case: Case) -> Any:
    on_pre, on_post, change, finish = native.functions(case.formula, case.dtype, bound_first=True)
    real = native.REAL[case.dtype]
    itemsize = np.dtype(real).itemsize
    bool_spikes, modulated = case.bool_spikes, case.formula.rule.modulated
    spike_type = np.bool_ if bool_spikes else real
    (kh, kw), (sh, sw) = case.kernel_key
    # of the taps of a kernel's row, a pre neuron meets every sw-th: this many, starting at one of sw
    reach = -(-kw // sw)
    pack: Any = native.spike_packer(case.dtype, bool_spikes)
    word_size, lowest_bit = native.WORD, native.lowest_bit
    add_run: Any = _run_adder(_vector_width(kw), real)
    pointer = native.as_pointer
    carray: Any = numba.carray

    @native.njit_part
    def add_up(
        sums_address, post_spikes, spike_address, spike_shape, trace_address, trace_shape, padding,
        seen_address, bits_address, parameters,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        """Sum what one side's spikes contribute: for ``post_spikes`` those of the post neurons, else of the pre."""
        channels, height, width = spike_shape
        trace_channels, trace_height, trace_width = trace_shape
        pad_h, pad_w = padding
        words = -(-width // word_size)
        spike = carray(pointer(spike_address), channels * height * width, spike_type)
        trace = carray(pointer(trace_address), trace_channels * trace_height * trace_width, real)
        bits = carray(pointer(bits_address), kh * channels * words, np.uint64)
        if post_spikes:
            margin, extent, lanes = pad_w, trace_width + 2 * pad_w, kw
            first, last = -pad_h, (height - 1) * sh - pad_h + kh
        else:
            margin, lanes = reach - 1, reach
            extent = margin + max(trace_width, (width - 1 + pad_w) // sw + 1)
            first, last = 0, trace_height
        seen = carray(pointer(seen_address), trace_channels * extent, real)
        silent = on_post(real(0), real(1), *parameters) if post_spikes else real(0)
        for k in range(len(seen)):
            seen[k] = silent
        packed = 0
        for trace_row in range(first, last):
            inside = 0 <= trace_row < trace_height
            for channel in range(trace_channels):
                start = channel * extent + margin
                traces = (channel * trace_height + trace_row) * trace_width
                # one loop for each, so that each is a loop over vectors
                if not inside:
                    for k in range(trace_width):
                        seen[start + k] = silent
                elif post_spikes:
                    for k in range(trace_width):
                        seen[start + k] = on_post(trace[traces + k], real(1), *parameters)
                else:
                    for k in range(trace_width):
                        seen[start + k] = on_pre(real(1), trace[traces + k], *parameters)
            for n in range(kh):
                if post_spikes:
                    i = kh - 1 - n
                    row = (trace_row + pad_h - i) // sh
                    if row * sh != trace_row + pad_h - i:
                        continue
                else:
                    i = n
                    row = trace_row * sh - pad_h + i
                if row < 0 or row >= height:
                    continue
                while packed <= row:
                    for channel in range(channels):
                        for k in range(words):
                            at = (channel * height + packed) * width + word_size * k
                            slot = (packed % kh * channels + channel) * words + k
                            bits[slot] = pack(spike_address + at * spike.itemsize, width - word_size * k)
                    packed += 1
                for channel in range(channels):
                    for k in range(words):
                        word = bits[(row % kh * channels + channel) * words + k]
                        while word != 0:
                            column = word_size * k + lowest_bit(word)
                            word &= word - np.uint64(1)
                            factor = real(1)
                            if not bool_spikes:
                                factor = spike[(channel * height + row) * width + column]
                            if post_spikes:
                                target = (channel * trace_channels * kh + i) * kw
                                step, source = kh * kw, column * sw
                            else:
                                column += pad_w
                                target = ((channel * kh + i) * sw + column % sw) * reach
                                step, source = channels * kh * sw * reach, column // sw
                            to = sums_address + target * itemsize
                            run = seen_address + source * itemsize
                            for _ in range(trace_channels):
                                add_run(to, run, lanes, factor)
                                to += step * itemsize
                                run += extent * itemsize

    def loop(
        w_address, c_address, s_address, x_address, q_address, y_address, scratch_address, bits_address,
        pre_shape, post_shape, padding, parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        rows = post_shape[0] * pre_shape[0] * kh
        positions = real(post_shape[1] * post_shape[2])
        sums = carray(pointer(scratch_address), rows * (kw + sw * reach), real)
        for k in range(len(sums)):
            sums[k] = 0
        by_pre = rows * kw
        seen_address = scratch_address + len(sums) * itemsize
        for post_spikes in (True, False):
            to, spikes, shape, traces, trace_shape = scratch_address, q_address, post_shape, x_address, pre_shape
            if not post_spikes:
                to, spikes, shape, traces, trace_shape = (
                    scratch_address + by_pre * itemsize, s_address, pre_shape, y_address, post_shape,
                )  # fmt: skip
            add_up(to, post_spikes, spikes, shape, traces, trace_shape, padding, seen_address, bits_address, parameters)
        w = carray(pointer(w_address), rows * kw, real)
        c = carray(pointer(c_address), rows * kw, real)
        for row in range(rows):
            for j in range(kw):
                k = row * kw + j
                depression = sums[by_pre + (row * sw + j % sw) * reach + reach - 1 - j // sw]
                dw = change(w[k], sums[k], depression, w_min, w_max, parameters) / positions
                if modulated:
                    w[k], c[k] = finish(w[k], dw, c[k], dopamine, w_min, w_max, decay)
                else:
                    w[k], _ = finish(w[k], dw, dopamine, dopamine, w_min, w_max, decay)

    shape = types.UniTuple(types.int64, 3)
    geometry = shape, shape, types.UniTuple(types.int64, 2)
    scalars = native.scalars(case.formula, case.dtype)
    return native.entry(loop, recipe_of(case), *[types.int64] * 8, *geometry, *scalars)
