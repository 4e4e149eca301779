"""Spike traces in Triton: each program takes one block of neurons.

Where spikes carry lists (:mod:`tritonstdp.kernels.spikes`) that are not made yet, further programs make them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from tritonstdp.kernels.blocks import launch_options, real_type
from tritonstdp.kernels.event_lists import EventList, Making, make_lists
from tritonstdp.kernels.formula_gpu import device_function, fp64
from tritonstdp.kernels.launch import Launch, nothing, starts_apart
from tritonstdp.kernels.protocol import PlacedStep
from tritonstdp.kernels.spikes import Carried, lists_of
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
def trace_block(
    program, trace_ptr, spike_ptr, scale, tau, dt, n, UPDATED: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """One step over one block."""
    i = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    trace = tl.load(trace_ptr + i, mask=inside, other=0.0).to(REAL)
    spike = tl.load(spike_ptr + i, mask=inside, other=0).to(REAL)
    trace = UPDATED(trace, spike, tl.full([], scale, REAL), tl.full([], tau, REAL), tl.full([], dt, REAL))
    tl.store(trace_ptr + i, trace.to(trace_ptr.dtype.element_ty), mask=inside)


@triton.jit
def trace_kernel(
    trace_ptr, spike_ptr, scale: fp64, tau: fp64, dt: fp64, lists, spikes, n, blocks,
    UPDATED: tl.constexpr, REAL: tl.constexpr, BLOCK: tl.constexpr, CUTS: tl.constexpr,
):  # fmt: skip
    """One step over all blocks, and the lists of its spikes."""
    program = tl.program_id(0)
    if len(CUTS) == 0:
        trace_block(program, trace_ptr, spike_ptr, scale, tau, dt, n, UPDATED, REAL, BLOCK)
    else:
        if program < blocks:
            trace_block(program, trace_ptr, spike_ptr, scale, tau, dt, n, UPDATED, REAL, BLOCK)
        make_lists(program - blocks, lists, spikes, CUTS)


def build(case: TraceCase, config: Config = DEFAULT) -> TraceStep:
    """Prepare the launch for one case."""
    updated, real = device_function(case.formula), real_type(case.dtype)
    options = launch_options(case.dtype, case.device)
    kept: dict[Any, Launch] = {}

    def launch_of(n: int, device: torch.device, keys: tuple[int, ...], lists: Sequence[EventList] = ()) -> Launch:
        launch = kept.get((n, device.index, keys))
        if launch is None:
            blocks, making = triton.cdiv(n, config.block), Making.of(lists)
            settled = n, blocks, updated, real, config.block, making.cuts
            launch = kept[n, device.index, keys] = Launch(
                trace_kernel, blocks + making.programs, device, settled,
                num_warps=max(config.num_warps, making.num_warps), **options,
            )  # fmt: skip
        return launch

    def place(trace, spikes, *_):  # type: ignore[no-untyped-def]
        n, device, unusual = trace.numel(), trace.device, starts_apart(trace, spikes)
        if n == 0:
            return nothing

        alone = launch_of(n, device, ())
        known: dict[tuple[int, ...], tuple[Carried, Launch, tuple[Any, ...]]] = {}

        def step(trace, spikes, scale, tau, dt):  # type: ignore[no-untyped-def]
            carried = lists_of(spikes)
            if carried is None or not carried.missing:
                alone(unusual, trace, spikes, scale, tau, dt, (), ())
                return
            missing = carried.missing
            of, launch, written = known.get(missing, (None, alone, ()))
            if of is not carried:
                lists = [carried[key] for key in missing]
                launch, written = launch_of(n, device, missing, lists), tuple([one.written for one in lists])
                known[missing] = carried, launch, written
            launch(unusual, trace, spikes, scale, tau, dt, written, (spikes,) * len(missing))
            carried.missing = ()

        return step

    return PlacedStep(place)
