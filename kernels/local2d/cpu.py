"""Local receptive fields on a CPU: whole patches of spiking post neurons, and only what spiked in the other patches.

Work goes by rows of output positions: each pre spike is noted at the positions that see it, for all output channels.
A modulated rule changes every synapse: where few spiked, those are computed first and held while the patch is streamed.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import native
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    dense_pass_rate : float
        Fraction of a patch's pre neurons that spike above which the patch is streamed whole.
    parallel_work : int
        Synapses above which a second thread gains more than its start costs.
    """

    dense_pass_rate: float = 0.08
    parallel_work: int = 1_000_000


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "dense_pass_rate": (0.02, 0.04, 0.08, 0.16, 1.0),
    "parallel_work": (100_000, 1_000_000, 10_000_000),
}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = native.by_work(partial(_compile, case), config.parallel_work)

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        loop_for(weights.numel())(
            weights.data_ptr(), 0 if c is None else c.data_ptr(), pre_spike.data_ptr(), pre_trace.data_ptr(),
            post_spike.data_ptr(), post_trace.data_ptr(), *topology.src_shape, *topology.dst_shape, *topology.padding,
            config.dense_pass_rate, parameters, w_min, w_max, decay, dopamine,
        )  # fmt: skip

    return step


@cache
def _compile(case: Case, parallel: bool) -> Any:
    on_pre, on_post, change, finish = native.functions(case.formula, case.dtype, bound_first=True)
    real = native.REAL[case.dtype]
    spike_type = np.bool_ if case.bool_spikes else real
    modulated = case.formula.rule.modulated
    clamp = case.formula.clamp
    (kh, kw), (sh, sw) = case.kernel_key
    pointer = native.as_pointer
    carray: Any = numba.carray
    tasks = numba.prange if parallel else range
    itemsize = np.dtype(real).itemsize

    @native.njit_part
    def update(w, c, s, x, q, y, parameters, w_min, w_max, decay, dopamine):  # type: ignore[no-untyped-def]
        potentiation = on_post(x, q, *parameters)
        depression = on_pre(s, y, *parameters)
        dw = change(w, potentiation, depression, w_min, w_max, parameters)
        return finish(w, dw, c, dopamine, w_min, w_max, decay)

    @native.njit_part
    def visit_patch(w, c, s, x, q, y, parameters, w_min, w_max, decay, dopamine):  # type: ignore[no-untyped-def]
        for k in range(len(s)):
            if modulated:
                w[k], c[k] = update(w[k], c[k], s[k], x[k], q, y, parameters, w_min, w_max, decay, dopamine)
            else:
                new, _ = update(w[k], dopamine, s[k], x[k], q, y, parameters, w_min, w_max, decay, dopamine)
                # a clamp leaves alone what the step has not touched
                w[k] = w[k] if clamp and q == 0 and s[k] == 0 else new

    @native.njit_part
    def visit_events(w, c, events, spikes, first, count, y, held, parameters, w_min, w_max, decay, dopamine):  # type: ignore[no-untyped-def]
        silent = real(0)
        for e in range(count):
            k = events[first + e]
            new, new_c = update(
                w[k], c[k] if modulated else dopamine, spikes[first + e], silent, silent, y,
                parameters, w_min, w_max, decay, dopamine,
            )  # fmt: skip
            if modulated:
                held[0, e], held[1, e] = new, new_c
            else:
                w[k] = new
        if modulated:
            for k in range(len(w)):
                w[k], c[k] = finish(w[k], silent, c[k], dopamine, w_min, w_max, decay)
            for e in range(count):
                w[events[first + e]], c[events[first + e]] = held[0, e], held[1, e]

    @native.njit_part
    def gather(patch, values, u, v, height, width, pad_h, pad_w):  # type: ignore[no-untyped-def]
        """What the position sees, tap by tap."""
        column = v * sw - pad_w
        inside = column >= 0 and column + kw <= width
        for m in range(len(patch) // kw):
            row = u * sh - pad_h + m % kh
            start = (m // kh * height + row) * width + column
            whole = inside and 0 <= row < height
            for j in range(kw):
                seen = whole or (0 <= row < height and 0 <= column + j < width)
                patch[m * kw + j] = values[start + j] if seen else 0

    @native.njit_part
    def note_events(events, spikes, counts, pre_spike, fired, row_start, u, height, width, pad_h, pad_w):  # type: ignore[no-untyped-def]
        """For each position of output row ``u``: which taps of its patch see a spike."""
        counts[:] = 0
        taps = len(events) // len(counts)
        for m in range(taps // kw):
            row = u * sh - pad_h + m % kh
            if not 0 <= row < height:
                continue
            row += m // kh * height
            for e in range(row_start[row], row_start[row + 1]):
                column = fired[e] - row * width + pad_w
                for v in range(max(0, (column - kw + sw) // sw), min(len(counts), column // sw + 1)):
                    events[v * taps + counts[v]] = m * kw + column - v * sw
                    spikes[v * taps + counts[v]] = pre_spike[fired[e]]
                    counts[v] += 1

    def loop(
        w_address, c_address, s_address, x_address, q_address, y_address,
        c_in, height, width, c_out, out_height, out_width, pad_h, pad_w, dense_pass_rate,
        parameters, w_min, w_max, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        positions, taps = out_height * out_width, c_in * kh * kw
        pre_spike = carray(pointer(s_address), c_in * height * width, spike_type)
        pre_trace = carray(pointer(x_address), c_in * height * width, real)
        post_spike = carray(pointer(q_address), c_out * positions, spike_type)
        post_trace = carray(pointer(y_address), c_out * positions, real)

        fired = np.empty(c_in * height * width + 1, np.int64)
        row_start = np.empty(c_in * height + 1, np.int64)
        n_fired = 0
        for row in range(c_in * height):
            row_start[row] = n_fired
            for i in range(row * width, (row + 1) * width):
                fired[n_fired] = i
                n_fired += pre_spike[i] != 0
        row_start[c_in * height] = n_fired

        for u in tasks(out_height):
            events = np.empty(out_width * taps, np.int64)
            spikes = np.empty(out_width * taps, real)
            counts = np.empty(out_width, np.int64)
            note_events(events, spikes, counts, pre_spike, fired, row_start, u, height, width, pad_h, pad_w)
            # what each position sees is gathered when it is first needed, and serves all output channels
            s, x = np.empty(out_width * taps, real), np.empty(out_width * taps, real)
            gathered = np.zeros(out_width, np.bool_)
            held = np.empty((2, taps), real)
            # a modulated rule streams all synapses, in the order of memory; others visit a few, while what was gathered
            # for a position is near
            outer, inner = (c_out, out_width) if modulated else (out_width, c_out)
            for a in range(outer):
                for b in range(inner):
                    o, v = (a, b) if modulated else (b, a)
                    neuron = o * positions + u * out_width + v
                    w = carray(pointer(w_address + neuron * taps * itemsize), taps, real)
                    c = carray(pointer(c_address + neuron * taps * itemsize), taps, real)
                    q, y = real(post_spike[neuron]), post_trace[neuron]
                    first = v * taps
                    if q == 0 and counts[v] <= dense_pass_rate * taps:
                        visit_events(
                            w, c, events, spikes, first, counts[v], y, held,
                            parameters, w_min, w_max, decay, dopamine,
                        )  # fmt: skip
                        continue
                    s_patch, x_patch = s[first : first + taps], x[first : first + taps]
                    if not gathered[v]:
                        gather(s_patch, pre_spike, u, v, height, width, pad_h, pad_w)
                        gather(x_patch, pre_trace, u, v, height, width, pad_h, pad_w)
                        gathered[v] = True
                    visit_patch(w, c, s_patch, x_patch, q, y, parameters, w_min, w_max, decay, dopamine)

    arguments = *[types.int64] * 14, types.float64, *native.scalars(case.formula, case.dtype)
    return native.entry(loop, recipe_of(case), *arguments, parallel=parallel)
