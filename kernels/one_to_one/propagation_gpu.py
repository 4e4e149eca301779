"""Spikes over one-to-one connections in Triton: each program takes one block of synapses."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import launch_options, real_type
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.one_to_one.gpu import DEFAULT, SPACE, Config
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.sums import Summing, add_sums, brought, summed_step

__all__ = ["DEFAULT", "SPACE", "Config", "build"]


@triton.jit
def one_to_one_sums_kernel(
    w_ptr, current_ptr, room_ptr, spike_ptr, lists, n, w_stride, REAL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Only synapses whose pre neuron has spiked are read."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    spike = tl.load(spike_ptr + i, mask=i < n, other=0).to(REAL)
    add_sums(brought(w_ptr, i * w_stride, spike, spike != 0, REAL), i, i < n, current_ptr)


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Prepare the launch for one case."""
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)

    def summing(topology: Any, weights: Tensor) -> Summing:
        settled = topology.n, weights.stride(0), real, config.block
        programs = triton.cdiv(topology.n, config.block)
        return Summing(Launch(
            one_to_one_sums_kernel, programs, weights.device, settled, num_warps=config.num_warps, **options
        ))  # fmt: skip

    return summed_step(case, summing)
