"""Sparse connections on a CPU: visit the stored synapses of neurons that have spiked, or all in one pass.

The major pass takes the neighbouring synapses of each spiking major neuron, with both contributions and without
branches. The minor pass goes through the plan's permutation and takes those synapses of spiking minor neurons whose
major neuron is silent. So each synapse is written once. Where most synapses would be visited, one pass over all of them
costs less.

A modulated rule changes every synapse. Most lie between silent neurons, where no index is needed: they are streamed.
What the minor pass finds is computed before that, from the old values, held, and written after it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import native, threads
from tritonstdp.kernels.formula_cpu import synapse_update
from tritonstdp.kernels.memory import address
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    full_pass_share : float
        Share of the synapses to visit, counting both sides, above which all are streamed in the stored order.
    parallel_work : int
        Synapses above which several threads share a step. Below, one thread takes less than about a millisecond where
        2 % spike, and on a machine with other work a second thread that has to wait for its core costs more.
    tasks : int
        Parts into which threads divide a pass.
    """

    full_pass_share: float = 0.4
    parallel_work: int = 16_000_000
    tasks: int = 64


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "full_pass_share": (0.1, 0.2, 0.4, 0.8, 2.0),
    "parallel_work": (1_000_000, 4_000_000, 16_000_000, 64_000_000),
    "tasks": (16, 64, 256),
}
AHEAD = 128
"""How many synapses ahead values and indices are fetched: a step is bound by the misses that it waits for."""
GATHERED = 256
"""Synapses whose minor neurons a modulated rule reads before it computes."""
HELD = 6
"""How much more than visiting a synapse it costs to hold it: a modulated rule turns to the full pass so much sooner."""
LINE = 64
"""Bytes that one fetch brings."""


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)
    post_is_major, _ = case.kernel_key
    modulated = case.formula.rule.modulated
    full_pass_share = config.full_pass_share / HELD if modulated else config.full_pass_share
    known: tuple[Callable[[], Any], tuple[int, ...]] = (lambda: None, ())

    def addresses_of(topology):  # type: ignore[no-untyped-def]
        """Where a plan's tensors lie; proved once for a group that steps again and again."""
        nonlocal known
        plan, addresses = known
        if plan() is not topology:
            names = ("major_start", "minor_of", "minor_start", "by_minor", "major_by_minor")
            addresses = tuple(address(f"topology.{name}", getattr(topology, name)) for name in names)
            known = weakref.ref(topology), addresses
        return addresses

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        pre = pre_spike.data_ptr(), pre_trace.data_ptr(), topology.n_pre
        post = post_spike.data_ptr(), post_trace.data_ptr(), topology.n_post
        major, minor = (post, pre) if post_is_major else (pre, post)
        nnz = weights.numel()
        loop_for(nnz)(
            weights.data_ptr(), c.data_ptr() if modulated else 0, nnz, *addresses_of(topology),
            *major, *minor, config.tasks, full_pass_share, parameters, w_min, w_max, decay, dopamine,
        )  # fmt: skip

    return step


@native.while_used
def _compile(case: Case, parallel: bool) -> Any:
    real = native.REAL[case.dtype]
    itemsize = np.dtype(real).itemsize
    spike_type = np.bool_ if case.bool_spikes else real
    modulated, bool_spikes = case.formula.rule.modulated, case.bool_spikes
    post_is_major, wide = case.kernel_key
    update = synapse_update(case, bound_first=False, post_is_major=post_is_major)
    # indices are read as unsigned, which spares the test for negative ones
    neuron, position = np.uint32, np.uint64 if wide else np.uint32
    pointer = native.as_pointer
    carray: Any = numba.carray
    prefetch = native.prefetch
    find_events: Any = native.event_finder(case.dtype, case.bool_spikes)
    parts = numba.prange if parallel else range

    @native.njit_part
    def starts_of(events, start):  # type: ignore[no-untyped-def]
        """Where each neuron's synapses start among those of all that spiked; last, how many they are."""
        starts = np.zeros(len(events) + 1, np.int64)
        for e in range(len(events)):
            starts[e + 1] = starts[e] + start[events[e] + 1] - start[events[e]]
        return starts

    @native.njit_part
    def fetch(address, first, last, size):  # type: ignore[no-untyped-def]
        begin, end = address + first * size, address + min(last, first + AHEAD) * size
        for line in range(begin - begin % LINE, end, LINE):
            prefetch(line)

    @native.njit_part
    def fetch_scattered(w_address, c_address, positions):  # type: ignore[no-untyped-def]
        for k in range(len(positions)):
            prefetch(w_address + np.int64(positions[k]) * itemsize)
            if modulated:
                prefetch(c_address + np.int64(positions[k]) * itemsize)

    @native.njit_part
    def visit_row(
        w, c, minor_of, spike, trace, minor_spike, minor_trace, gathered, parameters, w_min, w_max, decay, dopamine
    ):  # type: ignore[no-untyped-def]
        silent, zero = spike == 0, real(0)
        if modulated:
            # gathered first, so that the compiler sees that no store changes what is still to be read
            for first in range(0, len(w), GATHERED):
                indices = minor_of[first : first + GATHERED]
                for k in range(len(indices)):
                    gathered[0, k] = minor_spike[indices[k]]
                    gathered[1, k] = zero if silent else minor_trace[indices[k]]
                w_part, c_part = w[first : first + GATHERED], c[first : first + GATHERED]
                s_part, x_part = gathered[0], gathered[1]
                for k in range(len(w_part)):
                    w_part[k], c_part[k] = update(
                        w_part[k], c_part[k], spike, trace, s_part[k], x_part[k],
                        dopamine, parameters, w_min, w_max, decay,
                    )  # fmt: skip
        elif silent:
            for k in range(len(w)):
                s = minor_spike[minor_of[k]]
                w[k], _ = update(w[k], zero, zero, trace, s, zero, dopamine, parameters, w_min, w_max, decay)
        else:
            spike = real(1) if bool_spikes else spike
            for k in range(len(w)):
                i = minor_of[k]
                s, x = minor_spike[i], minor_trace[i]
                w[k], _ = update(w[k], zero, spike, trace, s, x, dopamine, parameters, w_min, w_max, decay)

    @native.njit_part
    def visit_minor(
        w, c, by_minor, major_by_minor, spike, trace, major_spike, major_trace, held_w, held_c, w_address, c_address,
        parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        """One minor neuron's synapses with silent major neurons: written at once, or held by a modulated rule."""
        spike, zero = real(1) if bool_spikes else spike, real(0)
        for k in range(len(by_minor)):
            if k + AHEAD < len(by_minor):
                fetch_scattered(w_address, c_address, by_minor[k + AHEAD : k + AHEAD + 1])
            j, m = major_by_minor[k], by_minor[k]
            old = w[m]
            new, new_c = update(
                old, c[m] if modulated else zero, zero, major_trace[j], spike, trace,
                dopamine, parameters, w_min, w_max, decay,
            )  # fmt: skip
            if modulated:
                held_w[k], held_c[k] = new, new_c
            else:
                # written either way: a branch that can't be foretold costs more than the store
                w[m] = new if major_spike[j] == 0 else old

    @native.njit_part
    def write_held(w, c, by_minor, major_by_minor, major_spike, held_w, held_c):  # type: ignore[no-untyped-def]
        for k in range(len(by_minor)):
            m, silent = by_minor[k], major_spike[major_by_minor[k]] == 0
            w[m] = held_w[k] if silent else w[m]
            c[m] = held_c[k] if silent else c[m]

    @native.njit_part
    def rest(w, c, parameters, w_min, w_max, decay, dopamine):  # type: ignore[no-untyped-def]
        """What a modulated rule does to synapses between silent neurons."""
        zero = real(0)
        for k in range(len(w)):
            w[k], c[k] = update(w[k], c[k], zero, zero, zero, zero, dopamine, parameters, w_min, w_max, decay)

    def loop(
        w_address, c_address, nnz, major_start_address, minor_of_address, minor_start_address, by_minor_address,
        major_by_minor_address, major_spike_address, major_trace_address, n_major,
        minor_spike_address, minor_trace_address, n_minor, tasks, full_pass_share,
        parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        w = carray(pointer(w_address), nnz, real)
        c = carray(pointer(c_address), nnz if modulated else 0, real)
        major_start = carray(pointer(major_start_address), n_major + 1, np.int64)
        minor_of = carray(pointer(minor_of_address), nnz, neuron)
        minor_start = carray(pointer(minor_start_address), n_minor + 1, np.int64)
        by_minor = carray(pointer(by_minor_address), nnz, position)
        major_by_minor = carray(pointer(major_by_minor_address), nnz, neuron)
        major_spike = carray(pointer(major_spike_address), n_major, spike_type)
        major_trace = carray(pointer(major_trace_address), n_major, real)
        minor_spike = carray(pointer(minor_spike_address), n_minor, spike_type)
        minor_trace = carray(pointer(minor_trace_address), n_minor, real)

        majors = find_events(major_spike)
        minors = find_events(minor_spike)
        held_start = starts_of(minors, minor_start)
        visits = held_start[-1]
        if not modulated:
            visits += starts_of(majors, major_start)[-1]
        if visits > full_pass_share * nnz:
            majors, minors = np.arange(n_major).astype(neuron), minors[:0]
        most_parts = tasks if parallel else 1

        n_parts = min(len(minors), most_parts)
        n_held = visits if modulated and len(minors) else 0
        held_w, held_c = np.empty(n_held, real), np.empty(n_held, real)
        for part in parts(n_parts):
            end = (part + 1) * len(minors) // n_parts
            for e in range(part * len(minors) // n_parts, end):
                if e + 2 < end:
                    first, last = minor_start[minors[e + 2]], minor_start[minors[e + 2] + 1]
                    fetch(by_minor_address, first, last, by_minor.itemsize)
                    fetch(major_by_minor_address, first, last, major_by_minor.itemsize)
                if e + 1 < end:
                    first, last = minor_start[minors[e + 1]], minor_start[minors[e + 1] + 1]
                    fetch_scattered(w_address, c_address, by_minor[first : min(last, first + AHEAD)])
                i, held = minors[e], slice(held_start[e], held_start[e + 1])
                first, last = minor_start[i], minor_start[i + 1]
                visit_minor(
                    w, c, by_minor[first:last], major_by_minor[first:last], real(minor_spike[i]), minor_trace[i],
                    major_spike, major_trace, held_w[held], held_c[held], w_address, c_address,
                    parameters, w_min, w_max, decay, dopamine,
                )  # fmt: skip

        n_parts = max(1, min(len(majors), most_parts))
        for part in parts(n_parts):
            begin, end = part * len(majors) // n_parts, (part + 1) * len(majors) // n_parts
            gathered = np.empty((2, GATHERED), real)
            done = major_start[majors[begin]] if part > 0 else 0
            for e in range(begin, end):
                if e + 1 < end:
                    first, last = major_start[majors[e + 1]], major_start[majors[e + 1] + 1]
                    fetch(w_address, first, last, w.itemsize)
                    fetch(minor_of_address, first, last, minor_of.itemsize)
                j = majors[e]
                first, last = major_start[j], major_start[j + 1]
                if modulated:
                    rest(w[done:first], c[done:first], parameters, w_min, w_max, decay, dopamine)
                    done = last
                visit_row(
                    w[first:last], c[first:last], minor_of[first:last], real(major_spike[j]), major_trace[j],
                    minor_spike, minor_trace, gathered, parameters, w_min, w_max, decay, dopamine,
                )  # fmt: skip
            if modulated:
                stop = major_start[majors[end]] if end < len(majors) else nnz
                rest(w[done:stop], c[done:stop], parameters, w_min, w_max, decay, dopamine)

        if modulated:
            n_parts = min(len(minors), most_parts)
            for part in parts(n_parts):
                for e in range(part * len(minors) // n_parts, (part + 1) * len(minors) // n_parts):
                    i, held = minors[e], slice(held_start[e], held_start[e + 1])
                    first, last = minor_start[i], minor_start[i + 1]
                    write_held(
                        w, c, by_minor[first:last], major_by_minor[first:last], major_spike, held_w[held], held_c[held]
                    )  # fmt: skip

    arguments = *[types.int64] * 15, types.float64, *native.scalars(case.formula, case.dtype)
    return native.entry(loop, recipe_of(case), *arguments, parallel=parallel)
