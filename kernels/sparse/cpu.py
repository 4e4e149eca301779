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
from functools import partial, wraps
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.formula_cpu import modulated_visits, synapse_update
from tritonstdp.kernels.memory import address
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, PlacedStep, Step
from tritonstdp.kernels.sparse import is_indexed

Facts = TypeVar("Facts")


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


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)
    post_is_major, _ = case.kernel_key
    full_pass_share, address_of = _full_pass_share(case, config), loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        major, minor = (tuple(map(address_of, pre)), topology.n_pre), (tuple(map(address_of, post)), topology.n_post)
        if post_is_major:
            major, minor = minor, major
        nnz = weights.numel()
        return loops.placed_step(
            5, loop_for(nnz), weights.data_ptr(), 0 if c is None else c.data_ptr(), nnz, *addresses_of(topology),
            *major, *minor, config.tasks, full_pass_share,
        )  # fmt: skip

    return PlacedStep(place)


def once_a_plan(read: Callable[[Any], Facts]) -> Callable[[Any], Facts]:
    """What is read of a plan, once, and found at once where one group steps again and again."""
    known: weakref.WeakKeyDictionary[Any, Facts] = weakref.WeakKeyDictionary()
    last: tuple[Callable[[], Any], Any] = (lambda: None, None)

    @wraps(read)
    def remembered(topology: Any) -> Facts:
        nonlocal last
        plan, facts = last
        if plan() is topology:
            return facts
        if topology not in known:
            known[topology] = read(topology)
        last = weakref.ref(topology), known[topology]
        return known[topology]

    return remembered


@once_a_plan
def addresses_of(topology: Any) -> tuple[int, ...]:
    """Where the indices of a plan lie."""
    names = ("major_start", "minor_of", "minor_start", "by_minor", "major_by_minor")
    return tuple(address(f"topology.{name}", getattr(topology, name)) for name in names)


def _full_pass_share(case: Case, config: Config) -> float:
    if is_indexed(case):
        return -1.0
    return config.full_pass_share / HELD if case.modulated else config.full_pass_share


class _Sides(NamedTuple):
    """The sides of the stored order: how their signals are seen, and the signals' names."""

    major: loops.Signals
    minor: loops.Signals
    major_names: tuple[str, ...]
    minor_names: tuple[str, ...]


def _sides_of(case: Case, post_is_major: bool) -> _Sides:
    pre, post = loops.signals_of(case)
    pre_names, post_names = case.names[:2]
    return _Sides(post, pre, post_names, pre_names) if post_is_major else _Sides(pre, post, pre_names, post_names)


def fetchers(itemsize: int, modulated: bool) -> tuple[Any, Any]:
    """Fetch ahead the first of a row's values or indices, and the values at some positions."""
    prefetch, fetch_lines = loops.prefetch, loops.fetch_lines

    @loops.njit_part
    def fetch(address, first, last, size):  # type: ignore[no-untyped-def]
        fetch_lines(address + first * size, address + min(last, first + AHEAD) * size)

    @loops.njit_part
    def fetch_scattered(w_address, c_address, positions):  # type: ignore[no-untyped-def]
        for k in range(len(positions)):
            prefetch(w_address + np.int64(positions[k]) * itemsize)
            if modulated:
                prefetch(c_address + np.int64(positions[k]) * itemsize)

    return fetch, fetch_scattered


def gatherer(case: Case, post_is_major: bool, minor_names: tuple[str, ...]) -> Any:
    """``gather(gathered, minor, indices, silent)``, compiled: the signals of the minor neurons of some synapses."""
    n_signals = len(minor_names)
    # what only the major neuron's term reads is not gathered where that neuron is silent
    minor_term = case.formula.signatures["on_pre" if post_is_major else "on_post"]
    gathered_always = tuple(name in (*minor_term.reads, *case.formula.parameters) for name in minor_names)

    @loops.njit_part
    def gather(gathered, minor, indices, silent):  # type: ignore[no-untyped-def]
        for k in range(len(indices)):
            gathered[0, k] = minor[0][indices[k]]
        if n_signals > 1:
            traces = minor[1:]
            for n in range(n_signals - 1):
                if gathered_always[n + 1] or not silent:
                    for k in range(len(indices)):
                        gathered[n + 1, k] = traces[n][indices[k]]

    return gather


def _row_visitor(case: Case, post_is_major: bool, sides: _Sides, update: Any) -> Any:
    """``visit_row``, compiled: the synapses of one major neuron, with both contributions."""
    real, modulated, bool_spikes = loops.REAL[case.dtype], case.modulated, case.bool_spikes
    gather, minor_traces = gatherer(case, post_is_major, sides.minor_names), sides.minor.traces

    @loops.njit_part
    def visit_each(w, minor_of, here, minor, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        for k in range(len(w)):
            i = minor_of[k]
            w[k], _ = update(w[k], real(0), here, (real(minor[0][i]), *minor_traces(minor, i)), numbers, w_min, w_max)

    @loops.njit_part
    def visit_row(w, c, minor_of, spike, traces, minor, gathered, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        if modulated:
            # gathered first, so that the compiler sees that no store changes what is still to be read
            for first in range(0, len(w), GATHERED):
                indices = minor_of[first : first + GATHERED]
                gather(gathered, minor, indices, spike == 0)
                w_part, c_part = w[first : first + GATHERED], c[first : first + GATHERED]
                for k in range(len(w_part)):
                    there = (gathered[0][k], *minor_traces(gathered, k))
                    w_part[k], c_part[k] = update(w_part[k], c_part[k], (spike, *traces), there, numbers, w_min, w_max)
        elif spike == 0:
            visit_each(w, minor_of, (real(0), *traces), minor, numbers, w_min, w_max)
        else:
            visit_each(w, minor_of, (real(1) if bool_spikes else spike, *traces), minor, numbers, w_min, w_max)

    return visit_row


def _minor_visitor(case: Case, sides: _Sides, update: Any, fetch_scattered: Any) -> Any:
    """``visit_minor``, compiled: the synapses of one minor neuron."""
    real, modulated, major_traces = loops.REAL[case.dtype], case.modulated, sides.major.traces

    @loops.njit_part
    def visit_minor(
        w, c, by_minor, major_by_minor, there, major, held_w, held_c, w_address, c_address, numbers, w_min, w_max
    ):  # type: ignore[no-untyped-def]
        """Those with silent major neurons: written at once, or held by a modulated rule."""
        for k in range(len(by_minor)):
            if k + AHEAD < len(by_minor):
                fetch_scattered(w_address, c_address, by_minor[k + AHEAD : k + AHEAD + 1])
            j, m = major_by_minor[k], by_minor[k]
            old = w[m]
            here = (real(0), *major_traces(major, j))
            new, new_c = update(old, c[m] if modulated else real(0), here, there, numbers, w_min, w_max)
            if modulated:
                held_w[k], held_c[k] = new, new_c
            else:
                # written either way: a branch that can't be foretold costs more than the store
                w[m] = new if major[0][j] == 0 else old

    return visit_minor


def _starts_counter() -> Any:
    """``starts_of(events, start)``, compiled."""

    @loops.njit_part
    def starts_of(events, start):  # type: ignore[no-untyped-def]
        """Where each neuron's synapses start among those of all that spiked; last, how many they are."""
        starts = np.zeros(len(events) + 1, np.int64)
        for e in range(len(events)):
            starts[e + 1] = starts[e] + start[events[e] + 1] - start[events[e]]
        return starts

    return starts_of


@loops.while_used
def _compile(case: Case, parallel: bool) -> Any:
    real = loops.REAL[case.dtype]
    modulated, bool_spikes = case.modulated, case.bool_spikes
    post_is_major, wide = case.kernel_key
    sides = _sides_of(case, post_is_major)
    major_arrays, major_traces = sides.major.arrays, sides.major.traces
    minor_arrays, minor_traces = sides.minor.arrays, sides.minor.traces
    n_minor_signals = len(sides.minor_names)
    update = synapse_update(case, bound_first=False, post_is_major=post_is_major)
    fetch, fetch_scattered = fetchers(np.dtype(real).itemsize, modulated)
    visit_row = _row_visitor(case, post_is_major, sides, update)
    visit_minor = _minor_visitor(case, sides, update, fetch_scattered)
    visit_silent, write_held = modulated_visits(update, len(sides.major_names), n_minor_signals, real)
    # indices are read as unsigned, which spares the test for negative ones
    neuron, position = np.uint32, np.uint64 if wide else np.uint32
    pointer, starts_of = loops.as_pointer, _starts_counter()
    carray: Any = numba.carray
    find_events: Any = loops.event_finder(case.dtype, case.bool_spikes)
    parts = numba.prange if parallel else range

    def loop(
        w_address, c_address, nnz, major_start_address, minor_of_address, minor_start_address, by_minor_address,
        major_by_minor_address, major_addresses, n_major, minor_addresses, n_minor, tasks, full_pass_share,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        w = carray(pointer(w_address), nnz, real)
        c = carray(pointer(c_address), nnz if modulated else 0, real)
        major_start = carray(pointer(major_start_address), n_major + 1, np.int64)
        minor_of = carray(pointer(minor_of_address), nnz, neuron)
        minor_start = carray(pointer(minor_start_address), n_minor + 1, np.int64)
        by_minor = carray(pointer(by_minor_address), nnz, position)
        major_by_minor = carray(pointer(major_by_minor_address), nnz, neuron)
        major, minor = major_arrays(major_addresses, n_major), minor_arrays(minor_addresses, n_minor)

        majors = find_events(major[0])
        minors = find_events(minor[0])
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
                there = (real(1) if bool_spikes else minor[0][i], *minor_traces(minor, i))
                visit_minor(
                    w, c, by_minor[first:last], major_by_minor[first:last], there, major,
                    held_w[held], held_c[held], w_address, c_address, numbers, w_min, w_max,
                )  # fmt: skip

        n_parts = max(1, min(len(majors), most_parts))
        for part in parts(n_parts):
            begin, end = part * len(majors) // n_parts, (part + 1) * len(majors) // n_parts
            gathered = np.empty((n_minor_signals, GATHERED), real)
            done = major_start[majors[begin]] if part > 0 else 0
            for e in range(begin, end):
                if e + 1 < end:
                    first, last = major_start[majors[e + 1]], major_start[majors[e + 1] + 1]
                    fetch(w_address, first, last, w.itemsize)
                    fetch(minor_of_address, first, last, minor_of.itemsize)
                j = majors[e]
                first, last = major_start[j], major_start[j + 1]
                if modulated:
                    visit_silent(w[done:first], c[done:first], numbers, w_min, w_max)
                    done = last
                visit_row(
                    w[first:last], c[first:last], minor_of[first:last], real(major[0][j]), major_traces(major, j),
                    minor, gathered, numbers, w_min, w_max,
                )  # fmt: skip
            if modulated:
                stop = major_start[majors[end]] if end < len(majors) else nnz
                visit_silent(w[done:stop], c[done:stop], numbers, w_min, w_max)

        if modulated:
            n_parts = min(len(minors), most_parts)
            for part in parts(n_parts):
                for e in range(part * len(minors) // n_parts, (part + 1) * len(minors) // n_parts):
                    i, held = minors[e], slice(held_start[e], held_start[e + 1])
                    first, last = minor_start[i], minor_start[i + 1]
                    write_held(
                        w, c, by_minor[first:last], major_by_minor[first:last], major[0], held_w[held], held_c[held]
                    )  # fmt: skip

    n, addresses = types.int64, [types.int64] * 8
    signals = sides.major.addresses, n, sides.minor.addresses, n
    arguments = *addresses, *signals, types.int64, types.float64, *loops.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
