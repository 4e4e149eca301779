"""Spike traces on torch: any device, any dtype."""

from __future__ import annotations

import torch

from tritonstdp.kernels.reference import HALF
from tritonstdp.kernels.trace import TraceCase, TraceStep


def build(case: TraceCase) -> TraceStep:
    """Build the reference step."""
    # half precision is computed in float32 and rounded once, where it is stored
    compute = torch.float32 if case.dtype in HALF else case.dtype

    @torch.no_grad()
    def step(trace, spikes, scale, tau, dt):  # type: ignore[no-untyped-def]
        trace.copy_(case.formula(trace.to(compute), spikes.to(compute), scale, tau, dt))

    return step
