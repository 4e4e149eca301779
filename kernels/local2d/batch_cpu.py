"""Batches over local receptive fields on a CPU: row by row of output positions, sample by sample.

What the samples change adds up in their order, so that the bits are the reference's. Most synapses that see a spike see
it in one sample, while their post neuron is silent in all: they move at once, and many positions' in one go. A position
that spikes in some sample, or whose rule is modulated, adds up its whole patch, and moves it while it is in the cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import batches, loops, threads
from tritonstdp.kernels.batches import Config
from tritonstdp.kernels.local2d import cpu
from tritonstdp.kernels.local2d.events import event_noter, rows_lister
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step

DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), cpu.DEFAULT.parallel_work)
    address_of = loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        samples = len(pre[0])
        return loops.placed_step(
            5, loop_for(weights.numel() * samples), weights.data_ptr(), 0 if c is None else c.data_ptr(),
            tuple(map(address_of, pre)), tuple(map(address_of, post)), *topology.src_shape, *topology.dst_shape,
            *topology.padding, samples,
        )  # fmt: skip

    return batches.step(case, place, cpu.build)


@loops.while_used
def _compile(case: Case, parallel: bool) -> Any:
    real, modulated, bool_spikes = loops.REAL[case.dtype], case.modulated, case.bool_spikes
    change, moved, move = batches.changes_of(case, bound_first=True)
    (pre_signals, pres, pre_at, pre_among), (post_signals, posts, post_at, post_among) = batches.samples_of(case)
    n_signals = len(case.names.pre)
    # what a weight moves by, beside its change, is the same at all pre neurons, unless one of these is theirs
    pre_alike = {*case.formula.rule.eligibility_parameters, "dopamine"}.isdisjoint(case.names.pre)
    (kh, kw), _ = case.kernel_key
    note_at_positions, gather = event_noter(case), cpu.gatherer(case)
    list_rows, list_flags, at_once = rows_lister(case), loops.row_lister(case.dtype, True), loops.AT_ONCE
    itemsize, prefetch = case.dtype.itemsize, loops.prefetch
    pointer, choose = loops.as_pointer, loops.choose
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    @loops.njit_part
    def change_by(old, event, first, sides, state):  # type: ignore[no-untyped-def]
        """What a pre neuron's spike changes in a sample whose post neuron is silent, and the signals of both."""
        (v, i, b), (pre, n_pre, post, n_post, samples) = event, sides
        b = np.uint64(b)
        spike = real(1) if bool_spikes else pres(pre, b, n_pre)[0][i]
        here = pre_among(spike, pre, samples, np.uint64(n_pre), b, np.uint64(i))
        there = post_among(real(0), post, samples, np.uint64(n_post), b, np.uint64(first + v))
        return change(old, here, there, True, False, state), here, there

    @loops.njit_part
    def visit_alone(w, ahead, events, start, end, first, sides, state):  # type: ignore[no-untyped-def]
        """Synapses that see a spike in one sample; what lies as far from ``ahead`` is visited next, and fetched."""
        synapses, positions, neurons, samples_of = events
        for e in range(np.uint64(start), np.uint64(end)):
            k = synapses[e]
            prefetch(ahead + np.int64(k) * itemsize)
            event, old = (positions[e], neurons[e], samples_of[e]), w[k]
            changed, here, there = change_by(old, event, first, sides, state)
            w[k], _ = moved(old, real(0), real(0) + changed, here, there, state)

    @loops.njit_part
    def visit_shared(dw, w, events, start, end, last_of, first, sides, state):  # type: ignore[no-untyped-def]
        """Synapses that see spikes in several samples: they move with the last, which is chosen, not branched to."""
        synapses, positions, neurons, samples_of = events
        for e in range(np.uint64(start), np.uint64(end)):
            k, v, i, b = synapses[e], positions[e], neurons[e], samples_of[e]
            old, tap, is_last = w[k], k - v * np.uint32(len(dw)), last_of[i] == b
            changed, here, there = change_by(old, (v, i, b), first, sides, state)
            total = dw[tap] + changed
            new, _ = moved(old, real(0), total, here, there, state)
            w[k] = choose(is_last, new, old)
            dw[tap] = choose(is_last, real(0), total)

    @loops.njit_part
    def add_events(dw, w, events, start, end, begin, first, sides, state):  # type: ignore[no-untyped-def]
        """Synapses of one position, from ``begin`` on, that see a spike in a sample in which it is silent."""
        synapses, positions, neurons, samples_of = events
        for e in range(np.uint64(start), np.uint64(end)):
            tap = np.int64(synapses[e]) - begin
            changed, _, _ = change_by(w[tap], (positions[e], neurons[e], samples_of[e]), first, sides, state)
            dw[tap] += changed

    @loops.njit_part
    def see_spikes(patch, pre, events, start, end, begin):  # type: ignore[no-untyped-def]
        synapses, _, neurons, _ = events
        for e in range(np.uint64(start), np.uint64(end)):
            patch[0, synapses[e] - begin] = real(1) if bool_spikes else pre[0][neurons[e]]

    @loops.njit_part
    def see_traces(patch, pre, u, v, height, width, pad_h, pad_w):  # type: ignore[no-untyped-def]
        if n_signals > 1:
            for k, values in enumerate(pre[1:]):
                gather(patch[k + 1], values, u, v, height, width, pad_h, pad_w)

    @loops.njit_part
    def add_patch(dw, w, patch, there, state):  # type: ignore[no-untyped-def]
        """The synapses of a post neuron that spiked."""
        for k in range(len(w)):
            spike = patch[0, k]
            dw[k] += change(w[k], pre_at(spike, patch, k), there, spike != 0, True, state)

    @loops.njit_part
    def move_synapse(dw, w, c, k, here, there, state):  # type: ignore[no-untyped-def]
        move(w, c, k, k, dw[k], here, there, state)
        dw[k] = 0

    def loop(
        w_address, c_address, pre_addresses, post_addresses, c_in, height, width, c_out, out_height, out_width,
        pad_h, pad_w, samples, numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        n_pre, n_post, taps = c_in * height * width, c_out * out_height * out_width, c_in * kh * kw
        weights = carray(pointer(w_address), n_post * taps, real)
        eligibility = carray(pointer(c_address), n_post * taps if modulated else 0, real)
        row_synapses = out_width * taps

        fired = np.empty((samples, n_pre + at_once), np.uint32)
        row_start = np.empty((samples, c_in * height + 1), np.int64)
        spiked = np.full(n_post, modulated)
        first_of, last_of = np.full(n_pre, samples, np.uint32), np.empty(n_pre, np.uint32)
        for b in range(samples):
            fired[b], row_start[b] = list_rows(pres(pre_addresses, b, n_pre)[0], c_in * height, width)
            post_spikes = posts(post_addresses, b, n_post)[0]
            for j in range(n_post):
                spiked[j] |= post_spikes[j] != 0
        for b in range(samples):
            for row in range(c_in * height):
                for e in range(row_start[b, row], row_start[b, row + 1]):
                    i = row * width + fired[b, e]
                    first_of[i], last_of[i] = min(first_of[i], np.uint32(b)), b
        n_parts = out_height if parallel else 1
        for part in parts(n_parts):
            seeing, seen = np.empty((2, samples, row_synapses), np.uint32)
            counts, n_most = np.empty((samples, out_width), np.int64), samples * row_synapses
            # those that see a spike in one sample, and those that see several; by position, and there by sample
            synapses, positions, neurons, samples_of = np.empty((4, 2 * n_most), np.uint32)
            events, start = (synapses, positions, neurons, samples_of), np.zeros((2, out_width * samples + 1), np.int64)
            start[1, 0] = n_most
            visited = np.empty(out_width + at_once + 1, np.int64)
            patch, dw = np.zeros((n_signals, taps), real), np.zeros(taps, real)
            state, sides = (numbers, w_min, w_max, samples), (pre_addresses, n_pre, post_addresses, n_post, samples)
            for u in range(part * out_height // n_parts, (part + 1) * out_height // n_parts):
                for b in range(samples):
                    note_at_positions(
                        seeing[b], seen[b], counts[b], fired[b], row_start[b], u, height, width, pad_h, pad_w
                    )
                n_alone, n_shared = 0, n_most
                for v in range(out_width):
                    for b in range(samples):
                        for at in range(v * taps, v * taps + counts[b, v]):
                            i = seen[b, at]
                            # of a modulated rule, all synapses of a patch move together
                            is_shared = not modulated and first_of[i] != last_of[i]
                            event = np.uint64(choose(is_shared, n_shared, n_alone))
                            synapses[event], positions[event], neurons[event], samples_of[event] = (
                                seeing[b, at],
                                v,
                                i,
                                b,
                            )
                            n_shared += is_shared
                            n_alone += not is_shared
                        at = v * samples + b + 1
                        start[0, at], start[1, at] = n_alone, n_shared
                for o in range(c_out):
                    first = (o * out_height + u) * out_width
                    w_row, c_row = weights[first * taps :][:row_synapses], eligibility[first * taps :][:row_synapses]
                    next_channel = w_address + (first + out_height * out_width) * taps * itemsize
                    n_visited = list_flags(spiked, first, out_width, visited, 0)
                    visited[n_visited] = out_width
                    done = 0
                    for at in range(n_visited + 1):
                        v = visited[at]
                        if not modulated:
                            silent, end = done * samples, v * samples
                            alone, shared = (start[0, silent], start[0, end]), (start[1, silent], start[1, end])
                            visit_alone(w_row, next_channel, events, *alone, first, sides, state)
                            visit_shared(dw, w_row, events, *shared, last_of, first, sides, state)
                            done = v + 1
                        if at == n_visited:
                            break
                        begin, end = v * taps, (v + 1) * taps
                        w, c = w_row[begin:end], c_row[begin:end]
                        here, done_samples = v * samples, 0
                        for b in range(samples):
                            post = posts(post_addresses, b, n_post)
                            spike = real(post[0][first + v])
                            if spike == 0:
                                continue
                            pre = pres(pre_addresses, b, n_pre)
                            patch[0] = 0
                            for of_kind in start:
                                run = of_kind[here + done_samples], of_kind[here + b]
                                add_events(dw, w, events, *run, begin, first, sides, state)
                                see_spikes(patch, pre, events, of_kind[here + b], of_kind[here + b + 1], begin)
                            see_traces(patch, pre, u, v, height, width, pad_h, pad_w)
                            add_patch(dw, w, patch, post_at(spike, post, first + v), state)
                            done_samples = b + 1
                        for of_kind in start:
                            run = of_kind[here + done_samples], of_kind[here + samples]
                            add_events(dw, w, events, *run, begin, first, sides, state)
                        pre, post = pres(pre_addresses, 0, n_pre), posts(post_addresses, 0, n_post)
                        if not pre_alike:
                            see_traces(patch, pre, u, v, height, width, pad_h, pad_w)
                        at_position = post_at(real(0), post, first + v)
                        for k in range(taps):
                            move_synapse(dw, w, c, k, pre_at(real(0), patch, k), at_position, state)

    addresses = types.int64, types.int64, pre_signals.addresses, post_signals.addresses
    arguments = *addresses, *[types.int64] * 8, *batches.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
