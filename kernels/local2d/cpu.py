"""Local receptive fields on a CPU: whole patches of spiking post neurons, and only what spiked in the other patches.

Work goes by rows of output positions, whose patches lie next to each other: each pre spike is noted once at the
synapses of the row that see it, for all output channels. A modulated rule changes every synapse: where few spiked,
those are computed first and held while the row is streamed.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.formula_cpu import modulated_visits, synapse_update
from tritonstdp.kernels.local2d.events import event_noter, rows_lister
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, PlacedStep, Step


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    dense_pass_rate : float
        Fraction of the synapses of a row of positions whose pre neuron spikes above which all its patches are visited.
    parallel_work : int
        Synapses above which several threads share a step. Below, one thread takes less than about a millisecond where
        2 % spike, and on a machine with other work a second thread that has to wait for its core costs more.
    """

    dense_pass_rate: float = 0.12
    parallel_work: int = 10_000_000


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "dense_pass_rate": (0.03, 0.06, 0.12, 0.24, 1.0),
    "parallel_work": (1_000_000, 10_000_000, 100_000_000),
}
HELD = 1.5
"""What an event costs where it is held and written later, over one that is written at once."""


@loops.cached
def _run_copier(width: int, real: type) -> Any:
    """``copy_run(target, at, source, start)``, compiled: ``width`` neighbours, in the few moves that they take."""
    itemsize, check = np.dtype(real).itemsize, loops.range_check()

    @intrinsic
    def move_run(typing_context, target, source):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            target, source = (builder.inttoptr(argument, cgutils.voidptr_t) for argument in arguments)
            cgutils.raw_memcpy(builder, target, source, ir.Constant(ir.IntType(64), width), itemsize)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    move: Any = move_run

    @loops.njit_part
    def copy_run(target, at, source, start):  # type: ignore[no-untyped-def]
        check(target, at, width)
        check(source, start, width)
        move(target.ctypes.data + at * itemsize, source.ctypes.data + start * itemsize)

    return copy_run


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)
    dense_pass_rate = config.dense_pass_rate / (HELD if case.modulated else 1)
    address_of = loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            5, loop_for(weights.numel()), weights.data_ptr(), 0 if c is None else c.data_ptr(),
            tuple(map(address_of, pre)), tuple(map(address_of, post)),
            *topology.src_shape, *topology.dst_shape, *topology.padding, dense_pass_rate,
        )  # fmt: skip

    return PlacedStep(place)


def _patch_visitor(case: Case, update: Any, pre_traces: Any) -> Any:
    """``visit_patch``, compiled: the synapses of one post neuron, with both contributions."""
    real, modulated = loops.REAL[case.dtype], case.modulated

    @loops.njit_part
    def visit_patch(w, c, s, patch, there, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        for k in range(len(w)):
            here = (s[k], *pre_traces(patch, k))
            if modulated:
                w[k], c[k] = update(w[k], c[k], here, there, numbers, w_min, w_max)
            else:
                w[k], _ = update(w[k], real(0), here, there, numbers, w_min, w_max)

    return visit_patch


def _event_visitor(case: Case, update: Any, pre_traces: Any, post_traces: Any) -> Any:
    """``visit_events``, compiled: the synapses of a row that see a spike."""
    real, modulated, bool_spikes = loops.REAL[case.dtype], case.modulated, case.bool_spikes

    @loops.njit_part
    def visit_events(w, c, synapses, positions, spikes, neurons, pre, post, held, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        """Those whose post neuron is silent: written at once, or held by a modulated rule."""
        zero = real(0)
        for e in range(len(synapses)):
            k, i, v = synapses[e], neurons[e], positions[e]
            old = w[k]
            spike = real(1) if bool_spikes else spikes[e]
            here, there = (spike, *pre_traces(pre, i)), (zero, *post_traces(post, v))
            new, new_c = update(old, c[k] if modulated else zero, here, there, numbers, w_min, w_max)
            if modulated:
                held[0, e], held[1, e] = new, new_c
            else:
                # written either way: a branch that can't be foretold costs more than the store
                w[k] = new if post[0][v] == 0 else old

    return visit_events


def gatherer(case: Case) -> Any:
    """``gather``, compiled: what a position sees of a signal."""
    (kh, kw), (sh, sw) = case.kernel_key
    copy_run: Any = _run_copier(kw, loops.REAL[case.dtype])

    @loops.njit_part
    def gather(patch, values, u, v, height, width, pad_h, pad_w):  # type: ignore[no-untyped-def]
        """Tap by tap; 0 outside the input."""
        column = v * sw - pad_w
        inside = column >= 0 and column + kw <= width
        for m in range(len(patch) // kw):
            row = u * sh - pad_h + m % kh
            start = (m // kh * height + row) * width + column
            if inside and 0 <= row < height:
                copy_run(patch, m * kw, values, start)
                continue
            for j in range(kw):
                seen = 0 <= row < height and 0 <= column + j < width
                patch[m * kw + j] = values[start + j] if seen else 0

    return gather


def event_lister(case: Case) -> Any:
    """``note_events``, compiled: where a row of output positions sees spikes."""
    note_at_positions = event_noter(case)

    @loops.njit_part
    def note_events(
        synapses, positions, neurons, counts, seeing, seen, fired, row_start, u, height, width, pad_h, pad_w
    ):  # type: ignore[no-untyped-def]
        """The synapses of output row ``u`` that see a spike, the same ones in every output channel; and how many.

        They are listed in the order of memory, which the processor foresees.
        """
        note_at_positions(seeing, seen, counts, fired, row_start, u, height, width, pad_h, pad_w)
        out_width = len(counts)
        taps = len(seeing) // out_width
        count = 0
        for v in range(out_width):
            for at in range(v * taps, v * taps + counts[v]):
                synapses[count], positions[count], neurons[count] = seeing[at], v, seen[at]
                count += 1
        return count

    return note_events


@loops.while_used
def _compile(case: Case, parallel: bool) -> Any:
    update = synapse_update(case, bound_first=True)
    real = loops.REAL[case.dtype]
    pre_side, post_side = loops.signals_of(case)
    pre_arrays, post_arrays, post_traces, post_part = pre_side.arrays, *post_side[1:]
    names, modulated, bool_spikes = case.names, case.modulated, case.bool_spikes
    n_signals, has_traces = len(names.pre), len(names.pre) > 1
    # synapses between silent neurons move alike, unless their neurons say how
    silent_alike = {*case.formula.rule.eligibility_parameters, "dopamine"}.isdisjoint((*names.pre, *names.post))
    (kh, kw), _ = case.kernel_key
    visit_patch = _patch_visitor(case, update, pre_side.traces)
    visit_events = _event_visitor(case, update, pre_side.traces, post_traces)
    visit_silent, write_held = modulated_visits(update, n_signals, len(names.post), real)
    note_events, gather = event_lister(case), gatherer(case)
    list_rows, list_row = rows_lister(case), loops.row_lister(case.dtype, case.bool_spikes)
    at_once = loops.AT_ONCE
    pointer = loops.as_pointer
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    def loop(
        w_address, c_address, pre_addresses, post_addresses,
        c_in, height, width, c_out, out_height, out_width, pad_h, pad_w, dense_pass_rate, numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        n_pre, n_post, taps = c_in * height * width, c_out * out_height * out_width, c_in * kh * kw
        pre, post = pre_arrays(pre_addresses, n_pre), post_arrays(post_addresses, n_post)
        weights = carray(pointer(w_address), n_post * taps, real)
        eligibility = carray(pointer(c_address), n_post * taps if modulated else 0, real)
        row_synapses = out_width * taps

        fired, row_start = list_rows(pre[0], c_in * height, width)
        n_parts = out_height if parallel else 1
        for part in parts(n_parts):
            synapses, positions = np.empty(row_synapses, np.uint32), np.empty(row_synapses, np.uint32)
            spikes, held = np.empty(row_synapses, real), np.empty((2, row_synapses), real)
            seeing, noted, neurons = np.empty_like(synapses), np.empty_like(synapses), np.empty_like(synapses)
            counts = np.empty(out_width, np.int64)
            visited, gathered = np.empty(out_width + at_once, np.uint32), np.empty(out_width, np.bool_)
            # what the positions of a row see of each signal; spikes lie apart, as they are noted by synapse
            s, seen = np.zeros(row_synapses, real), np.empty((out_width, n_signals, taps), real)
            for u in range(part * out_height // n_parts, (part + 1) * out_height // n_parts):
                n_events = note_events(
                    synapses, positions, neurons, counts, seeing, noted, fired, row_start, u, height, width,
                    pad_h, pad_w,
                )  # fmt: skip
                for e in range(n_events):
                    spikes[e] = real(1) if bool_spikes else pre[0][neurons[e]]
                    s[synapses[e]] = spikes[e]
                # other signals are gathered where they are first needed, and serve all output channels
                gathered[:] = False
                all_patches = not silent_alike or n_events > dense_pass_rate * row_synapses
                n_visited, n_listed = (out_width, 0) if all_patches else (0, n_events)
                for position in range(n_visited):
                    visited[position] = position
                for o in range(c_out):
                    first = (o * out_height + u) * out_width
                    w = weights[first * taps : (first + out_width) * taps]
                    c = eligibility[first * taps : (first + out_width) * taps]
                    there = post_part(post, first, first + out_width)
                    if not all_patches:
                        n_visited = list_row(post[0], first, out_width, visited, 0)
                    visit_events(
                        w, c, synapses[:n_listed], positions[:n_listed], spikes, neurons, pre, there, held,
                        numbers, w_min, w_max,
                    )  # fmt: skip
                    done = 0
                    for e in range(n_visited):
                        v = np.int64(visited[e])
                        begin, end = v * taps, (v + 1) * taps
                        if modulated:
                            visit_silent(w[done:begin], c[done:begin], numbers, w_min, w_max)
                            done = end
                        patch = seen[v]
                        if has_traces and not gathered[v]:
                            for k, values in enumerate(pre[1:]):
                                gather(patch[k + 1], values, u, v, height, width, pad_h, pad_w)
                            gathered[v] = True
                        at_position = (real(there[0][v]), *post_traces(there, v))
                        visit_patch(w[begin:end], c[begin:end], s[begin:end], patch, at_position, numbers, w_min, w_max)
                    if modulated:
                        visit_silent(w[done:], c[done:], numbers, w_min, w_max)
                        write_held(
                            w, c, synapses[:n_listed], positions[:n_listed], there[0], held[0], held[1]
                        )  # fmt: skip
                for e in range(n_events):
                    s[synapses[e]] = 0

    addresses = types.int64, types.int64, pre_side.addresses, post_side.addresses
    arguments = *addresses, *[types.int64] * 8, types.float64, *loops.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
