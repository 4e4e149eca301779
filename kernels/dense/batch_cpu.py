"""Batches over dense connections on a CPU: row by row of the weights, sample by sample.

What the samples change of a row adds up in a row of changes, which stays in the first cache, in the samples' order: the
bits are the reference's. Then the row moves. In a row that is silent in all samples, synapses that see the spike of one
sample alone move at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import batches, loops, threads
from tritonstdp.kernels.batches import Config
from tritonstdp.kernels.dense import cpu
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step

DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}
WHOLE_ROWS_FROM = 0.2
"""Fraction of spiking minor neurons above which silent rows are added up whole, as vectors of neighbours."""


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), cpu.DEFAULT.parallel_work)
    pre_is_major = case.layout != "post"

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        where, samples = cpu.where_all_lies(topology, weights, c, pre, post, pre_is_major), len(pre[0])
        return loops.placed_step(
            5, loop_for(weights.numel() * samples), *where, cpu.DEFAULT.rows_per_task, samples,
        )  # fmt: skip

    return batches.step(case, place, cpu.build)


@loops.while_used
def _compile(case: Case, parallel: bool) -> Any:
    pre, post = batches.samples_of(case)
    post_is_major = case.layout == "post"
    major_side, minor_side = (post, pre) if post_is_major else (pre, post)
    change, moved, move = batches.changes_of(case, False, post_is_major)
    real, modulated, bool_spikes = loops.REAL[case.dtype], case.modulated, case.bool_spikes
    unit_stride = case.layout != "strided"
    pointer, extent, choose = loops.as_pointer, loops.extent, loops.choose
    carray: Any = numba.carray
    tasks = numba.prange if parallel else range
    list_row, at_once = loops.row_lister(case.dtype, bool_spikes), loops.AT_ONCE
    (_, majors, major_at, major_among), (_, minors, minor_at, minor_among) = major_side, minor_side
    whole_rows_from = WHOLE_ROWS_FROM
    prefetch, fetch_lines, itemsize = loops.prefetch, loops.fetch_lines, case.dtype.itemsize
    prefetch_rows, cached_bytes, chunk = cpu.PREFETCH_ROWS, cpu.DEFAULT.cached_bytes, cpu.CHUNK

    @loops.njit_part
    def select(events, seen_by, alone):  # type: ignore[no-untyped-def]
        """The spikes of minor neurons that spike in one sample alone, or those of the others."""
        minors_of, starts = events
        chosen, starts_of_chosen, count = np.empty(len(minors_of), np.uint32), np.zeros(len(starts), np.int64), 0
        for b in range(len(starts) - 1):
            for e in range(starts[b], starts[b + 1]):
                chosen[count] = minors_of[e]
                count += (seen_by[minors_of[e]] == 1) == alone
            starts_of_chosen[b + 1] = count
        return chosen, starts_of_chosen

    @loops.njit_part
    def change_in_row(w, k, here, minor, spikes, j, state):  # type: ignore[no-untyped-def]
        """What a sample changes in a row, neighbour by neighbour."""
        fired, spiked = here[0] != 0, spikes[j] != 0
        changed = change(w[k], here, minor_at(spikes[j], minor, j), fired, spiked, state)
        return choose(fired | spiked, changed, real(0))

    @loops.njit_part
    def add_row(dw, w, stride, here, minor, spikes, state):  # type: ignore[no-untyped-def]
        for j in range(len(dw)):
            dw[j] += change_in_row(w, j if unit_stride else j * stride, here, minor, spikes, j, state)

    @loops.njit_part
    def change_by(old, here, minor, n_minor, spikes, b, j, state):  # type: ignore[no-untyped-def]
        """What a minor neuron's spike changes in a sample whose major neuron is silent, and the minor one's signals."""
        spike = real(1) if bool_spikes else spikes[b, j]
        there = minor_among(spike, minor, np.uint64(len(spikes)), np.uint64(n_minor), b, j)
        return change(old, here, there, False, True, state), there

    @loops.njit_part
    def add_events(dw, w, stride, here, minor, spikes, events, b, state):  # type: ignore[no-untyped-def]
        minors_of, starts = events
        for e in range(np.uint64(starts[b]), np.uint64(starts[b + 1])):
            j = np.uint64(minors_of[e])
            k = j if unit_stride else j * np.uint64(stride)
            changed, _ = change_by(w[k], here, minor, len(dw), spikes, np.uint64(b), j, state)
            dw[j] += changed

    @loops.njit_part
    def visit_alone(w, stride, ahead, major, i, n_major, minor, n_minor, spikes, events, state):  # type: ignore[no-untyped-def]
        minors_of, starts = events
        for b in range(np.uint64(len(spikes))):
            here = major_among(real(0), major, np.uint64(len(spikes)), np.uint64(n_major), b, np.uint64(i))
            for e in range(np.uint64(starts[b]), np.uint64(starts[b + np.uint64(1)])):
                j = np.uint64(minors_of[e])
                k = j if unit_stride else j * np.uint64(stride)
                prefetch(ahead + np.int64(k) * itemsize)
                old = w[k]
                changed, there = change_by(old, here, minor, n_minor, spikes, b, j, state)
                w[k], _ = moved(old, real(0), real(0) + changed, here, there, state)

    @loops.njit_part
    def move_row(dw, w, c, stride, c_stride, fetched, ahead, c_ahead, silent, first_minor, touched, last, state):  # type: ignore[no-untyped-def]
        """Synapses of a row that some sample touches, by what the last one changes them, too, where it is not added."""
        end, n, (adds_last, here, minor, spikes) = 0, len(dw), last
        while end < n:
            first, end = end, n
            if fetched:
                end = min(first + chunk, n)
                fetch_lines(ahead + first * itemsize, ahead + end * itemsize)
                fetch_lines(c_ahead + first * itemsize, c_ahead + end * itemsize)
            for j in range(np.uint64(first), np.uint64(end)):
                k, m = (j, j) if unit_stride else (j * np.uint64(stride), j * np.uint64(c_stride))
                old, total, there = w[k], dw[j], minor_at(real(0), first_minor, j)
                if adds_last:
                    total += change_in_row(w, k, here, minor, spikes, j, state)
                if modulated:
                    w[k], c[m] = moved(old, c[m], total, silent, there, state)
                else:
                    new, _ = moved(old, real(0), total, silent, there, state)
                    w[k] = choose(touched[j] != 0, new, old)
                dw[j] = 0

    @loops.njit_part
    def move_touched(dw, w, c, stride, ahead, here, minor, touched, state):  # type: ignore[no-untyped-def]
        for e in range(len(touched)):
            j = touched[e]
            k = j if unit_stride else j * np.uint64(stride)
            prefetch(ahead + np.int64(k) * itemsize)
            move(w, c, k, k, dw[j], here, minor_at(real(0), minor, j), state)
            dw[j] = 0

    def loop(
        w_address, w_major_stride, w_minor_stride, c_address, c_major_stride, c_minor_stride,
        major_addresses, n_major, minor_addresses, n_minor, rows_per_task, samples, numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        w = carray(pointer(w_address), extent(n_major, w_major_stride, n_minor, w_minor_stride), real)
        c_extent = extent(n_major, c_major_stride, n_minor, c_minor_stride) if modulated else 0
        c = carray(pointer(c_address), c_extent, real)
        row_extent, c_row_extent = (n_minor - 1) * w_minor_stride + 1, (n_minor - 1) * c_minor_stride + 1

        spikes, seen_by = np.empty((samples, n_minor), real), np.zeros(n_minor, np.uint32)
        events, starts = np.empty(samples * n_minor + at_once, np.uint32), np.zeros(samples + 1, np.int64)
        for b in range(samples):
            spike = minors(minor_addresses, b, n_minor)[0]
            for j in range(n_minor):
                spikes[b, j] = spike[j]
                seen_by[j] += spike[j] != 0
            starts[b + 1] = list_row(spike, 0, n_minor, events, starts[b])
        every = (events, starts)
        is_busy = starts[samples] > whole_rows_from * samples * n_minor
        alone, shared, touched = every, every, np.flatnonzero(seen_by > 1)
        if not is_busy:
            alone, shared = select(every, seen_by, True), select(every, seen_by, False)
        whole = np.ones(n_minor, np.uint32)
        spiked = np.full(n_major, modulated)
        for b in range(samples):
            spike = majors(major_addresses, b, n_major)[0]
            for i in range(n_major):
                spiked[i] |= spike[i] != 0
        fetched = modulated and unit_stride and n_major * n_minor * itemsize > cached_bytes
        first_minor = minors(minor_addresses, 0, n_minor)

        rows = rows_per_task if parallel else max(n_major, 1)
        for task in tasks((n_major + rows - 1) // rows):
            dw, state = np.zeros(n_minor, real), (numbers, w_min, w_max, samples)
            for i in range(task * rows, min(task * rows + rows, n_major)):
                row = w[i * w_major_stride : i * w_major_stride + row_extent]
                c_row = c[i * c_major_stride : i * c_major_stride + c_row_extent]
                later = min(i + prefetch_rows, n_major - 1)
                ahead = w_address + later * w_major_stride * itemsize
                silent = major_at(real(0), majors(major_addresses, 0, n_major), i)
                if not spiked[i] and not is_busy:
                    visit_alone(
                        row, w_minor_stride, ahead, major_addresses, i, n_major, minor_addresses, n_minor, spikes,
                        alone, state,
                    )  # fmt: skip
                    for b in range(samples):
                        here = major_at(real(0), majors(major_addresses, b, n_major), i)
                        add_events(dw, row, w_minor_stride, here, minor_addresses, spikes, shared, b, state)
                    move_touched(dw, row, c_row, w_minor_stride, ahead, silent, first_minor, touched, state)
                    continue
                adds_last = is_busy or majors(major_addresses, samples - 1, n_major)[0][i] != 0
                for b in range(samples - adds_last):
                    major, minor = majors(major_addresses, b, n_major), minors(minor_addresses, b, n_minor)
                    here = major_at(real(major[0][i]), major, i)
                    if is_busy or here[0] != 0:
                        add_row(dw, row, w_minor_stride, here, minor, spikes[b], state)
                    else:
                        add_events(dw, row, w_minor_stride, here, minor_addresses, spikes, every, b, state)
                major, minor = (
                    majors(major_addresses, samples - 1, n_major),
                    minors(minor_addresses, samples - 1, n_minor),
                )
                last = adds_last, major_at(real(major[0][i]), major, i), minor, spikes[samples - 1]
                c_ahead = c_address + later * c_major_stride * itemsize
                move_row(
                    dw, row, c_row, w_minor_stride, c_minor_stride, fetched, ahead, c_ahead, silent, first_minor,
                    whole if spiked[i] else seen_by, last, state,
                )  # fmt: skip

    n, strides = types.int64, [types.int64] * 6
    sides = major_side.signals.addresses, n, minor_side.signals.addresses, n
    arguments = *strides, *sides, types.int64, *batches.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
