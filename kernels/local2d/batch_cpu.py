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
from tritonstdp.kernels.local2d.events import rows_lister
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
    (pre_signals, pres, pre_at, _), (post_signals, posts, post_at, _) = batches.samples_of(case)
    post_part, n_signals = post_signals.part, len(case.names.pre)
    # what a weight moves by, beside its change, is the same at all pre neurons, unless one of these is theirs
    pre_alike = {*case.formula.rule.eligibility_parameters, "dopamine"}.isdisjoint(case.names.pre)
    (kh, kw), _ = case.kernel_key
    note_events, gather = cpu.event_lister(case), cpu.gatherer(case)
    list_rows, list_row, at_once = rows_lister(case), loops.row_lister(case.dtype, bool_spikes), loops.AT_ONCE
    pointer, choose = loops.as_pointer, loops.choose
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    @loops.njit_part
    def visit_events(dw, w, synapses, positions, neurons, is_last, spiked, pre, post, divisor, state):  # type: ignore[no-untyped-def]
        """The synapses of a row that see a spike, and whose post neuron is silent.

        Where that is so in all samples, a synapse moves with the last that touches it. It is chosen, not branched to.
        """
        for e in range(len(synapses)):
            k, i, v = synapses[e], neurons[e], positions[e]
            old, spike = w[k], real(1) if bool_spikes else pre[0][i]
            here, there = pre_at(spike, pre, i), post_at(real(0), post, v)
            changed = change(old, here, there, True, False, state)
            total = dw[k] + (changed if post[0][v] == 0 else real(0))
            moves = is_last[e] & (not spiked[v])
            if modulated:
                dw[k] = total
            else:
                new, _ = moved(old, real(0), total / divisor, here, there, state)
                w[k] = choose(moves, new, old)
                dw[k] = choose(moves, real(0), total)

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
        for b in range(samples):
            fired[b], row_start[b] = list_rows(pres(pre_addresses, b, n_pre)[0], c_in * height, width)
        n_parts = out_height if parallel else 1
        for part in parts(n_parts):
            synapses, positions = (
                np.empty((samples, row_synapses), np.uint32),
                np.empty((samples, row_synapses), np.uint32),
            )
            neurons, starts = np.empty_like(synapses), np.zeros((samples, out_width + 1), np.int64)
            seeing, noted, counts = (
                np.empty_like(positions[0]),
                np.empty_like(positions[0]),
                np.empty(out_width, np.int64),
            )
            visited, spiked = np.empty(out_width + at_once, np.int64), np.empty(out_width, np.bool_)
            sees, is_last = np.empty(row_synapses, np.bool_), np.empty((samples, row_synapses), np.bool_)
            patch, dw = np.zeros((n_signals, taps), real), np.zeros(row_synapses, real)
            state = numbers, w_min, w_max
            for u in range(part * out_height // n_parts, (part + 1) * out_height // n_parts):
                sees[:] = False
                for b in range(samples - 1, -1, -1):
                    note_events(
                        synapses[b], positions[b], neurons[b], counts, seeing, noted, fired[b], row_start[b], u,
                        height, width, pad_h, pad_w,
                    )  # fmt: skip
                    for v in range(out_width):
                        starts[b, v + 1] = starts[b, v] + counts[v]
                    for e in range(starts[b, out_width]):
                        is_last[b, e] = not sees[synapses[b, e]]
                        sees[synapses[b, e]] = True
                for o in range(c_out):
                    first = (o * out_height + u) * out_width
                    w, c = weights[first * taps :][:row_synapses], eligibility[first * taps :][:row_synapses]
                    spiked[:] = False
                    for b in range(samples):
                        post_spikes = posts(post_addresses, b, n_post)[0]
                        for v in range(out_width):
                            spiked[v] |= post_spikes[first + v] != 0
                    for b in range(samples):
                        pre, post = pres(pre_addresses, b, n_pre), posts(post_addresses, b, n_post)
                        there, n_events = post_part(post, first, first + out_width), starts[b, out_width]
                        visit_events(
                            dw, w, synapses[b, :n_events], positions[b], neurons[b], is_last[b], spiked, pre, there,
                            divisor, state,
                        )  # fmt: skip
                        for e in range(list_row(post[0], first, out_width, visited, 0)):
                            v = visited[e]
                            begin, end, at = v * taps, (v + 1) * taps, slice(starts[b, v], starts[b, v + 1])
                            see(patch, pre, synapses[b, at], neurons[b, at], u, v, height, width, pad_h, pad_w)
                            at_position = post_at(real(there[0][v]), there, v)
                            add_patch(dw[begin:end], w[begin:end], patch, at_position, state)
                    pre, post = pres(pre_addresses, 0, n_pre), posts(post_addresses, 0, n_post)
                    there = post_part(post, first, first + out_width)
                    for v in range(out_width):
                        if not pre_alike:
                            see(patch, pre, synapses[0, :0], neurons[0, :0], u, v, height, width, pad_h, pad_w)
                        at_position = post_at(real(0), there, v)
                        for k in range(taps if modulated or spiked[v] else 0):
                            here = pre_at(real(0), patch, k)
                            move_synapse(dw, w, c, v * taps + k, here, at_position, divisor, state)

    addresses = types.int64, types.int64, pre_signals.addresses, post_signals.addresses
    arguments = *addresses, *[types.int64] * 8, *batches.scalars(case)
    return loops.entry(loop, recipe_of(case), *arguments, parallel=parallel)
