"""Spike traces in Triton: each program takes one block of neurons."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from tritonstdp.kernels.blocks import launch_options, real_type
from tritonstdp.kernels.formula_gpu import device_function, fp64
from tritonstdp.kernels.launch import Launch, starts_apart
from tritonstdp.kernels.trace import TraceCase, TraceStep


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    block : int
        Neurons a program.
    num_warps : int
        Warps a program.
    """

    block: int = 512
    num_warps: int = 4


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"block": (128, 256, 512, 1024), "num_warps": (2, 4, 8)}


@triton.jit
def trace_kernel(
    trace_ptr, spike_ptr, scale: fp64, tau: fp64, dt: fp64, n,
    UPDATED: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step over one block."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    trace = tl.load(trace_ptr + i, mask=inside, other=0.0).to(REAL)
    spike = tl.load(spike_ptr + i, mask=inside, other=0).to(REAL)
    trace = UPDATED(trace, spike, tl.full([], scale, REAL), tl.full([], tau, REAL), tl.full([], dt, REAL))
    tl.store(trace_ptr + i, trace.to(trace_ptr.dtype.element_ty), mask=inside)


def build(case: TraceCase, config: Config = DEFAULT) -> TraceStep:
    """Prepare the launch for one case."""
    updated, real = device_function(case.formula), real_type(case.dtype)
    options = launch_options(case.dtype, case.device)

    @cache
    def launch(n: int, device: torch.device) -> Launch:
        settled = n, updated, real, config.block
        programs = triton.cdiv(n, config.block)
        return Launch(trace_kernel, programs, device, settled, num_warps=config.num_warps, **options)

    def step(trace, spikes, scale, tau, dt):  # type: ignore[no-untyped-def]
        n = trace.numel()
        if n:
            launch(n, trace.device)(starts_apart(trace, spikes), trace, spikes, scale, tau, dt)

    return step
