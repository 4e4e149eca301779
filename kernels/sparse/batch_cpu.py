"""Batches over sparse connections on a CPU: each spiking neuron's synapses once, for all samples in which it spiked.

The minor pass goes through the plan's permutation, and sums up what the samples change in which the minor neuron alone
spiked. Where the major neuron spiked in none, the synapse moves at once; elsewhere its sum is kept for the major pass,
which adds those of the major neuron's samples and moves its row. What is kept is 0 between steps. Sums are not taken in
the samples' order: the result is the reference's within the rounding of a sum.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numba
import numpy as np
import torch
from numba import types

from tritonstdp.kernels import batches, loops, threads
from tritonstdp.kernels.batches import Config
from tritonstdp.kernels.memory import Kept, kept_with
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step
from tritonstdp.kernels.sparse import cpu, is_indexed

DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}
_SUMS: Kept = WeakKeyDictionary()


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), cpu.DEFAULT.parallel_work)
    post_is_major, _ = case.kernel_key
    address_of, tasks = loops.address_of, cpu.DEFAULT.tasks

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        major, minor = (tuple(map(address_of, pre)), topology.n_pre), (tuple(map(address_of, post)), topology.n_post)
        if post_is_major:
            major, minor = minor, major
        nnz, samples, w_address = weights.numel(), len(pre[0]), weights.data_ptr()
        # weights of another group may start at the same address
        key = w_address, nnz, weights.dtype
        sums = kept_with(_SUMS, weights.untyped_storage(), key, torch.zeros_like, weights)
        run = loop_for(nnz * samples)

        def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
            run(
                w_address, 0 if c is None else c.data_ptr(), sums.data_ptr(), nnz, *plan, *major, *minor, tasks,
                samples, numbers, w_min, w_max,
            )  # fmt: skip

        plan = cpu.addresses_of(topology)
        return step

    return batches.step(case, place, cpu.build)


class _Spiking(NamedTuple):
    """Who spiked in which samples of a batch, neuron by neuron.

    Attributes
    ----------
    any : array
        Whether a neuron spiked in any sample.
    neurons : array
        Those that did.
    start, sample : array
        Where the samples of each of them start in ``sample``, which has them in order.
    """

    any: Any
    neurons: Any
    start: Any
    sample: Any


def _spiking_finder(case: Case, side: batches.Samples) -> Any:
    """``find_spiking(addresses, n, samples)``, compiled: the :class:`_Spiking` of a side."""
    of, list_flags = side.of, loops.row_lister(case.dtype, True)
    list_row, at_once = loops.row_lister(case.dtype, case.bool_spikes), loops.AT_ONCE

    @loops.njit_part
    def find_spiking(addresses, n, samples):  # type: ignore[no-untyped-def]
        events, starts = np.empty(samples * n + at_once, np.uint32), np.zeros(samples + 1, np.int64)
        fired, rank = np.zeros(n, np.bool_), np.empty(n, np.uint32)
        for b in range(samples):
            starts[b + 1] = list_row(of(addresses, b, n)[0], 0, n, events, starts[b])
            for e in range(starts[b], starts[b + 1]):
                fired[events[e]] = True
        neurons = np.empty(n + at_once, np.uint32)
        neurons = neurons[: list_flags(fired, 0, n, neurons, 0)]
        for k in range(len(neurons)):
            rank[neurons[k]] = k
        # first how many samples each has, behind its place; then where its next sample stands
        start, sample = np.zeros(len(neurons) + 2, np.int64), np.empty(starts[samples], np.uint32)
        for e in range(starts[samples]):
            start[rank[events[e]] + 2] += 1
        for k in range(2, len(start)):
            start[k] += start[k - 1]
        for b in range(samples):
            for e in range(starts[b], starts[b + 1]):
                at = rank[events[e]] + 1
                sample[start[at]] = b
                start[at] += 1
        return _Spiking(fired, neurons, start, sample)

    return find_spiking


@loops.while_used
def _compile(case: Case, parallel: bool) -> Any:
    real, modulated, bool_spikes = loops.REAL[case.dtype], case.modulated, case.bool_spikes
    post_is_major, wide = case.kernel_key
    pre, post = batches.samples_of(case)
    major_side, minor_side = (post, pre) if post_is_major else (pre, post)
    change, moved, move = batches.changes_of(case, False, post_is_major)
    find_majors, find_minors = (_spiking_finder(case, side) for side in (major_side, minor_side))
    (major_signals, majors, major_at, _), (minor_signals, minors, minor_at, _) = major_side, minor_side
    neuron, position = np.uint32, np.uint64 if wide else np.uint32
    check = loops.range_check()
    fetch, fetch_scattered = cpu.fetchers(np.dtype(real).itemsize, False)
    prefetch, itemsize = loops.prefetch, case.dtype.itemsize
    minor_names = case.names.pre if post_is_major else case.names.post
    gather, at_once, n_signals = cpu.gatherer(case, post_is_major, minor_names), cpu.GATHERED, len(minor_names)
    ahead, pointer = cpu.AHEAD, loops.as_pointer
    carray: Any = numba.carray
    parts = numba.prange if parallel else range
    reads_all_minors = is_indexed(case)

    @loops.njit_part
    def visit_minor(
        w, sums, dw, coming, by_minor, major_by_minor, i, of_i, major_any, major, n_major, minor, n_minor,
        w_address, sums_address, state,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        """The synapses of a minor neuron, in those samples in which it spiked and the major neuron did not."""
        last = len(of_i) - 1
        if last > 0:
            dw[: len(by_minor)] = 0
        for e in range(last):
            of_major, of_minor = majors(major, of_i[e], n_major), minors(minor, of_i[e], n_minor)
            there = minor_at(real(1) if bool_spikes else real(of_minor[0][i]), of_minor, i)
            for k in range(len(by_minor)):
                j = major_by_minor[k]
                changed = change(w[by_minor[k]], major_at(real(0), of_major, j), there, False, True, state)
                dw[k] += changed if of_major[0][j] == 0 else real(0)
        of_major, of_minor = majors(major, of_i[last], n_major), minors(minor, of_i[last], n_minor)
        there = minor_at(real(1) if bool_spikes else real(of_minor[0][i]), of_minor, i)
        for k in range(len(by_minor)):
            # one fetch a visit: many at once would wait for each other
            if k < len(coming):
                prefetch(w_address + np.int64(coming[k]) * itemsize)
            j, m = major_by_minor[k], by_minor[k]
            old, here = w[m], major_at(real(0), of_major, j)
            changed = change(old, here, there, False, True, state)
            total: Any = changed if of_major[0][j] == 0 else real(0)
            total += dw[k] if last > 0 else real(0)
            if modulated:
                sums[m] = total
                continue
            new, _ = moved(old, real(0), total, here, there, state)
            # chosen, not branched to: a branch could not be foretold
            check(w, m, 1)
            written = sums_address if major_any[j] else w_address
            carray(pointer(written + np.int64(m) * itemsize), 1, real)[0] = total if major_any[j] else new

    @loops.njit_part
    def move_row(w, c, sums, minor_of, j, major, n_major, minor, n_minor, state):  # type: ignore[no-untyped-def]
        """The synapses of a major neuron that is silent in all samples."""
        silent, first_minor = major_at(real(0), majors(major, 0, n_major), j), minors(minor, 0, n_minor)
        for k in range(len(w)):
            there = minor_at(real(0), first_minor, minor_of[k])
            move(w, c, k, k, sums[k], silent, there, state)
            sums[k] = 0

    @loops.njit_part
    def visit_major(w, c, sums, gathered, minor_of, j, of_j, major, n_major, minor, n_minor, state):  # type: ignore[no-untyped-def]
        """The synapses of a major neuron, in those samples in which it spiked; then they move."""
        last = len(of_j) - 1
        for e in range(last + 1):
            of_major, of_minor = majors(major, of_j[e], n_major), minors(minor, of_j[e], n_minor)
            here = major_at(real(of_major[0][j]), of_major, j)
            # gathered first, so that the compiler sees that no store changes what is still to be read
            for first in range(0, len(w), at_once):
                part = slice(first, first + at_once)
                gather(gathered, of_minor, minor_of[part], False)
                w_part, c_part, sums_part = w[part], c[part], sums[part]
                for k in range(len(w_part)):
                    spike, old = gathered[0, k], w_part[k]
                    there = minor_at(spike, gathered, k)
                    total = sums_part[k] + change(old, here, there, True, spike != 0, state)
                    if e < last:
                        sums_part[k] = total
                    else:
                        # the last sample with the move, which spares a pass where there is but one
                        move(w_part, c_part, k, k, total, here, there, state)
                        sums_part[k] = 0

    def loop(
        w_address, c_address, sums_address, nnz, major_start_address, minor_of_address, minor_start_address,
        by_minor_address, major_by_minor_address, major, n_major, minor, n_minor, tasks, samples,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        w, sums = carray(pointer(w_address), nnz, real), carray(pointer(sums_address), nnz, real)
        c = carray(pointer(c_address), nnz if modulated else 0, real)
        major_start = carray(pointer(major_start_address), n_major + 1, np.int64)
        minor_of = carray(pointer(minor_of_address), nnz, neuron)
        minor_start = carray(pointer(minor_start_address), n_minor + 1, np.int64)
        by_minor = carray(pointer(by_minor_address), nnz, position)
        major_by_minor = carray(pointer(major_by_minor_address), nnz, neuron)

        major_any, fired_majors, of_major_start, of_majors = find_majors(major, n_major, samples)
        _, fired_minors, of_minor_start, of_minors = find_minors(minor, n_minor, samples)
        longest = 0
        for i in fired_minors:
            longest = max(longest, minor_start[i + 1] - minor_start[i])
        most_parts = tasks if parallel else 1
        n_parts = min(len(fired_minors), most_parts)
        for part in parts(n_parts):
            n_active, state = len(fired_minors), (numbers, w_min, w_max, samples)
            dw = np.empty(longest, real)
            end = (part + 1) * n_active // n_parts
            for e in range(part * n_active // n_parts, end):
                if e + 2 < end:
                    later = fired_minors[e + 2]
                    first, last = minor_start[later], minor_start[later + 1]
                    fetch(by_minor_address, first, last, by_minor.itemsize)
                    fetch(major_by_minor_address, first, last, major_by_minor.itemsize)
                i, later = fired_minors[e], fired_minors[min(e + 1, end - 1)]
                first, last = minor_start[i], minor_start[i + 1]
                begin, stop = minor_start[later], minor_start[later + 1]
                if last - first > ahead:
                    fetch_scattered(w_address, 0, by_minor[begin : min(stop, begin + ahead)])
                    begin, stop = first + ahead, last
                visit_minor(
                    w, sums, dw, by_minor[begin:stop], by_minor[first:last], major_by_minor[first:last], i,
                    of_minors[of_minor_start[e] : of_minor_start[e + 1]], major_any, major, n_major,
                    minor, n_minor, w_address, sums_address, state,
                )  # fmt: skip

        n_rows = n_major if modulated else len(fired_majors)
        row_parts = max(1, min(n_rows, most_parts))
        for part in parts(row_parts):
            end, state = (part + 1) * n_rows // row_parts, (numbers, w_min, w_max, samples)
            begin, gathered = part * n_rows // row_parts, np.empty((n_signals, at_once), real)
            at = np.searchsorted(fired_majors, np.uint32(begin)) if modulated else begin
            for e in range(begin, end):
                if e + 1 < end:
                    later = e + 1 if modulated else np.int64(fired_majors[e + 1])
                    first, last = major_start[later], major_start[later + 1]
                    fetch(w_address, first, last, w.itemsize)
                    fetch(sums_address, first, last, w.itemsize)
                    if reads_all_minors or major_any[later]:
                        fetch(minor_of_address, first, last, minor_of.itemsize)
                j = np.int64(e) if modulated else np.int64(fired_majors[e])
                first, last = major_start[j], major_start[j + 1]
                if at == len(fired_majors) or fired_majors[at] != j:
                    move_row(
                        w[first:last], c[first:last], sums[first:last], minor_of[first:last], j, major, n_major,
                        minor, n_minor, state,
                    )  # fmt: skip
                    continue
                visit_major(
                    w[first:last], c[first:last], sums[first:last], gathered, minor_of[first:last], j,
                    of_majors[of_major_start[at] : of_major_start[at + 1]], major, n_major, minor, n_minor,
                    state,
                )  # fmt: skip
                at += 1

    n, addresses = types.int64, [types.int64] * 9
    signals = major_signals.addresses, n, minor_signals.addresses, n
    arguments = *addresses, *signals, types.int64, *batches.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
