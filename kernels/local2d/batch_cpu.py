"""Batches over local receptive fields on a CPU: row by row of output positions, sample by sample.

What the samples change of a row's patches, of all output channels, adds up in their order, so that the bits are the
reference's; then what any of them touched moves, and what was added up is 0 again.
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
from tritonstdp.kernels.protocol import Case, PlacedStep, Step

DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case._replace(reduction=batches.ANY)), cpu.DEFAULT.parallel_work)
    address_of = loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        samples = len(pre[0])
        return loops.placed_step(
            5, loop_for(weights.numel() * samples), weights.data_ptr(), 0 if c is None else c.data_ptr(),
            tuple(map(address_of, pre)), tuple(map(address_of, post)), *topology.src_shape, *topology.dst_shape,
            *topology.padding, samples, batches.divisor_of(case, pre),
        )  # fmt: skip

    return PlacedStep(place)


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
    pointer, choose = loops.as_pointer, loops.choose
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    @loops.njit_part
    def change_by(old, i, b, place, pre, n_pre, post, n_post, samples, state):  # type: ignore[no-untyped-def]
        """What the spike of a pre neuron in a sample changes, and the signals of both neurons; the post one is silent."""
        b = np.uint64(b)
        spike = real(1) if bool_spikes else pres(pre, b, n_pre)[0][i]
        here = pre_among(spike, pre, samples, np.uint64(n_pre), b, np.uint64(i))
        there = post_among(real(0), post, samples, np.uint64(n_post), b, np.uint64(place))
        return change(old, here, there, True, False, state), here, there

    @loops.njit_part
    def visit_events(dw, w, synapses, positions, neurons, of, is_last, first, sides, divisor, state):  # type: ignore[no-untyped-def]
        """The synapses of silent post neurons that see a spike: each moves with the last that it sees.

        That is chosen, not branched to.
        """
        for e in range(len(synapses)):
            k, v = synapses[e], positions[e]
            old, tap = w[k], k - v * np.uint32(len(dw))
            changed, here, there = change_by(old, neurons[e], of[e], first + v, *sides, state)
            total = dw[tap] + changed
            new, _ = moved(old, real(0), total / divisor, here, there, state)
            w[k] = choose(is_last[e], new, old)
            dw[tap] = choose(is_last[e], real(0), total)

    @loops.njit_part
    def add_events(dw, w, synapses, neurons, of, first_synapse, place, sides, state):  # type: ignore[no-untyped-def]
        """The synapses of one post neuron that see a spike in samples in which it is silent."""
        for e in range(len(synapses)):
            tap = synapses[e] - np.uint32(first_synapse)
            changed, _, _ = change_by(w[tap], neurons[e], of[e], place, *sides, state)
            dw[tap] += changed

    @loops.njit_part
    def see(patch, pre, synapses, neurons, u, v, height, width, pad_h, pad_w):  # type: ignore[no-untyped-def]
        """What a position sees, of which it sees spikes at some synapses."""
        patch[0] = 0
        for e in range(len(synapses)):
            patch[0, synapses[e] - v * patch.shape[1]] = real(1) if bool_spikes else pre[0][neurons[e]]
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
    def move_synapse(dw, w, c, k, here, there, divisor, state):  # type: ignore[no-untyped-def]
        move(w, c, k, k, dw[k] / divisor, here, there, state)
        dw[k] = 0

    def loop(
        w_address, c_address, pre_addresses, post_addresses, c_in, height, width, c_out, out_height, out_width,
        pad_h, pad_w, samples, divisor, numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        n_pre, n_post, taps = c_in * height * width, c_out * out_height * out_width, c_in * kh * kw
        weights = carray(pointer(w_address), n_post * taps, real)
        eligibility = carray(pointer(c_address), n_post * taps if modulated else 0, real)
        row_synapses = out_width * taps

        fired = np.empty((samples, n_pre + at_once), np.uint32)
        row_start = np.empty((samples, c_in * height + 1), np.int64)
        spiked = np.full(n_post, modulated)
        for b in range(samples):
            fired[b], row_start[b] = list_rows(pres(pre_addresses, b, n_pre)[0], c_in * height, width)
            post_spikes = posts(post_addresses, b, n_post)[0]
            for j in range(n_post):
                spiked[j] |= post_spikes[j] != 0
        n_parts = out_height if parallel else 1
        for part in parts(n_parts):
            seeing = np.empty((samples, row_synapses), np.uint32)
            seen, counts = np.empty_like(seeing), np.empty((samples, out_width), np.int64)
            n_most = samples * row_synapses
            synapses, positions = np.empty(n_most, np.uint32), np.empty(n_most, np.uint32)
            neurons, of = np.empty_like(synapses), np.empty_like(synapses)
            sees, is_last = np.empty(row_synapses, np.bool_), np.empty(n_most, np.bool_)
            start = np.zeros(out_width * samples + 1, np.int64)
            visited = np.empty(out_width + at_once + 1, np.int64)
            patch, dw = np.zeros((n_signals, taps), real), np.zeros(taps, real)
            state, sides = (numbers, w_min, w_max), (pre_addresses, n_pre, post_addresses, n_post, samples)
            for u in range(part * out_height // n_parts, (part + 1) * out_height // n_parts):
                for b in range(samples):
                    note_at_positions(
                        seeing[b], seen[b], counts[b], fired[b], row_start[b], u, height, width, pad_h, pad_w
                    )
                # position by position, and there sample by sample
                n_events = 0
                for v in range(out_width):
                    for b in range(samples):
                        for at in range(v * taps, v * taps + counts[b, v]):
                            synapses[n_events], positions[n_events] = seeing[b, at], v
                            neurons[n_events], of[n_events] = seen[b, at], b
                            n_events += 1
                        start[v * samples + b + 1] = n_events
                sees[:] = False
                for e in range(n_events - 1, -1, -1):
                    is_last[e] = not sees[synapses[e]]
                    sees[synapses[e]] = True
                for o in range(c_out):
                    first = (o * out_height + u) * out_width
                    w_row, c_row = weights[first * taps :][:row_synapses], eligibility[first * taps :][:row_synapses]
                    n_visited = list_flags(spiked, first, out_width, visited, 0)
                    visited[n_visited] = out_width
                    done = 0
                    for at in range(n_visited + 1):
                        v = visited[at]
                        if not modulated:
                            silent = slice(start[done * samples], start[v * samples])
                            visit_events(
                                dw, w_row, synapses[silent], positions[silent], neurons[silent], of[silent],
                                is_last[silent], first, sides, divisor, state,
                            )  # fmt: skip
                            done = v + 1
                        if at == n_visited:
                            break
                        begin, end = v * taps, (v + 1) * taps
                        w, c = w_row[begin:end], c_row[begin:end]
                        for b in range(samples):
                            seen_by = slice(start[v * samples + b], start[v * samples + b + 1])
                            pre, post = pres(pre_addresses, b, n_pre), posts(post_addresses, b, n_post)
                            spike = real(post[0][first + v])
                            if spike != 0:
                                see(patch, pre, synapses[seen_by], neurons[seen_by], u, v, height, width, pad_h, pad_w)
                                add_patch(dw, w, patch, post_at(spike, post, first + v), state)
                            else:
                                add_events(
                                    dw, w, synapses[seen_by], neurons[seen_by], of[seen_by], begin, first + v, sides, state
                                )
                        pre, post = pres(pre_addresses, 0, n_pre), posts(post_addresses, 0, n_post)
                        if not pre_alike:
                            see(patch, pre, synapses[:0], neurons[:0], u, v, height, width, pad_h, pad_w)
                        at_position = post_at(real(0), post, first + v)
                        for k in range(taps):
                            move_synapse(dw, w, c, k, pre_at(real(0), patch, k), at_position, divisor, state)

    addresses = types.int64, types.int64, pre_signals.addresses, post_signals.addresses
    arguments = *addresses, *[types.int64] * 8, *batches.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
