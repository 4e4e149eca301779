"""Spike traces on a CPU: one loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops
from tritonstdp.kernels.formula_cpu import compiled
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.protocol import PlacedStep
from tritonstdp.kernels.trace import TraceCase, TraceStep


class Config(NamedTuple):
    """Nothing to choose: one pass over few neurons."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: TraceCase, config: Config = DEFAULT) -> TraceStep:
    """Compile the step for one case."""
    real = loops.REAL[case.dtype]
    spike_type = np.bool_ if case.bool_spikes else real
    pointer = loops.as_pointer
    carray: Any = numba.carray
    updated = compiled(case.formula, real)

    def loop(trace_address, spike_address, n, scale, tau, dt):  # type: ignore[no-untyped-def]
        trace = carray(pointer(trace_address), n, real)
        spikes = carray(pointer(spike_address), n, spike_type)
        for i in range(n):
            trace[i] = updated(trace[i], real(spikes[i]), scale, tau, dt)

    scalar = numba.from_dtype(np.dtype(real))
    run = loops.entry(loop, Recipe((case.formula,), tuple(case)), *[types.int64] * 3, scalar, scalar, scalar)

    def place(trace, spikes, *_):  # type: ignore[no-untyped-def]
        return loops.placed_step(2, run, trace.data_ptr(), spikes.data_ptr(), trace.numel())

    return PlacedStep(place)
