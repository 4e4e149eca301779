"""Spikes over one-to-one connections on a CPU: one synapse a spike."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.protocol import PlacedStep


class Config(NamedTuple):
    """Nothing to choose: one pass over few synapses."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Compile the step for one case."""
    real, pointer, extent = loops.REAL[case.dtype], loops.as_pointer, loops.extent
    spike_type = np.bool_ if case.bool_spikes else real
    find_events: Any = loops.event_finder(case.dtype, case.bool_spikes)
    carray: Any = numba.carray

    def loop(w_address, stride, current_address, spike_address, n):  # type: ignore[no-untyped-def]
        w = carray(pointer(w_address), extent(n, stride, 1, 0), real)
        current = carray(pointer(current_address), n, real)
        spikes = carray(pointer(spike_address), n, spike_type)
        for i in find_events(spikes):
            current[i] += w[np.int64(i) * stride] * real(spikes[i])

    run = loops.entry(loop, Recipe((), case[1:]), *[types.int64] * 5)

    def place(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            4, run, weights.data_ptr(), weights.stride(0), current.data_ptr(), pre_spike.data_ptr(), topology.n
        )

    return PlacedStep(place)
