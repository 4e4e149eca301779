"""Spikes through local receptive fields on a CPU: a post neuron adds up the weights of the taps that see a spike.

Work goes by rows of output positions: each pre spike is noted once at the synapses of the row that see it, for all
output channels.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.local2d.events import event_noter, rows_lister
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.protocol import PlacedStep


class Config(NamedTuple):
    """Where one way of working gives way to another.

    Attributes
    ----------
    parallel_work : int
        Synapses above which several threads share a step. Below, one thread takes less than about a millisecond where
        2 % spike, and on a machine with other work a second thread that has to wait for its core costs more.
    """

    parallel_work: int = 10_000_000


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {"parallel_work": (1_000_000, 10_000_000, 100_000_000)}
CHANNELS = 4
"""Output channels that are summed up together: an addition waits for the one before it, but for no other channel's."""


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    loop_for = threads.by_work(partial(_compile, case), config.parallel_work)

    def place(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            4, loop_for(weights.numel()), weights.data_ptr(), current.data_ptr(), pre_spike.data_ptr(),
            *topology.src_shape, *topology.dst_shape, *topology.padding,
        )  # fmt: skip

    return PlacedStep(place)


@loops.while_used
def _compile(case: PropagationCase, parallel: bool) -> Any:
    real, pointer = loops.REAL[case.dtype], loops.as_pointer
    spike_type = np.bool_ if case.bool_spikes else real
    (kh, kw), _ = case.kernel_key
    list_rows, note, sum_up = rows_lister(case), event_noter(case), _summer(case)
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    def loop(
        w_address, current_address, spike_address,
        c_in, height, width, c_out, out_height, out_width, pad_h, pad_w,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        positions, taps = out_height * out_width, c_in * kh * kw
        weights = carray(pointer(w_address), c_out * positions * taps, real)
        current = carray(pointer(current_address), c_out * positions, real)
        spikes = carray(pointer(spike_address), c_in * height * width, spike_type)

        fired, row_start = list_rows(spikes, c_in * height, width)
        n_parts = out_height if parallel else 1
        for part in parts(n_parts):
            seeing, seen = np.empty(out_width * taps, np.uint32), np.empty(out_width * taps, np.uint32)
            counts, reached = np.empty(out_width, np.int64), np.empty(out_width, np.int64)
            for u in range(part * out_height // n_parts, (part + 1) * out_height // n_parts):
                note(seeing, seen, counts, fired, row_start, u, height, width, pad_h, pad_w)
                n_reached = 0
                for v in range(out_width):
                    reached[n_reached] = v
                    n_reached += counts[v] > 0
                for o in range(0, c_out, CHANNELS):
                    first, n = o * positions + u * out_width, min(CHANNELS, c_out - o)
                    w = weights[first * taps :]
                    # where there are fewer channels, the last one is summed up several times
                    second, third, fourth = min(1, n - 1) * positions, min(2, n - 1) * positions, (n - 1) * positions
                    apart = np.uint64(second * taps), np.uint64(third * taps), np.uint64(fourth * taps)
                    for k in range(n_reached):
                        v = reached[k]
                        begin, end = v * taps, v * taps + counts[v]
                        a, b, c, d = sum_up(w, apart, seeing[begin:end], seen[begin:end], spikes)
                        at = first + v
                        current[at] += a
                        if n > 1:
                            current[at + second] += b
                        if n > 2:
                            current[at + third] += c
                        if n > 3:
                            current[at + fourth] += d

    return loops.entry(loop, Recipe((), case[1:]), *[types.int64] * 11, parallel=parallel)


def _summer(case: PropagationCase) -> Any:
    """``sum_up(w, apart, synapses, neurons, spikes)``, compiled: what some synapses bring, in each channel.

    ``w`` starts with the first channel, and the others are so far ``apart`` from it.
    """
    real, bool_spikes = loops.REAL[case.dtype], case.bool_spikes

    @loops.njit_part
    def sum_up(w, apart, synapses, neurons, spikes):  # type: ignore[no-untyped-def]
        second, third, fourth = apart
        a = b = c = d = real(0)
        for e in range(len(synapses)):
            k, spike = np.uint64(synapses[e]), real(1) if bool_spikes else spikes[neurons[e]]
            a += spike * w[k]
            b += spike * w[k + second]
            c += spike * w[k + third]
            d += spike * w[k + fourth]
        return a, b, c, d

    return sum_up
