"""Spikes through patches in Triton, for convolutions and local receptive fields, which differ in whose kernel it is.

A program takes a few positions and post channels, and goes through the taps of their patches: whether what a tap sees
has spiked is looked up once for all channels, and only then are weights read. That costs an access that is not made for
each tap and post neuron, and bytes only for spikes. Where few spiked in a large group, those are listed, and what sees
them is followed instead (:mod:`tritonstdp.kernels.scatter`), as learning's columns do in local receptive fields.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels import items
from tritonstdp.kernels.blocks import launch_options, real_type
from tritonstdp.kernels.items import WARP
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.patch_items import cut_of, margin
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.scatter import add_scattered, with_scatter
from tritonstdp.kernels.sums import Summing, brought, settle, shares_for, summed_step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    taps, channels : int
        Taps that a program looks at in one turn, and the post channels that share it, at most.
    flight : int
        Weights that a thread may have in flight.
    scatter_up_to : float
        The share of pre neurons that spike up to which what they bring is scattered.
    """

    taps: int = 128
    channels: int = 8
    flight: int = 16
    scatter_up_to: float = 0.05


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "taps": (128, 256),
    "channels": (8, 16),
    "flight": (8, 16),
    "scatter_up_to": (0.0, 0.05, 0.1),
}
MOST_WARPS = 8


@triton.jit(do_not_specialize=[
    "c_out", "positions", "taps", "channel_step", "position_step", "height", "width", "out_width", "pad_h", "pad_w",
    "shares",
])  # fmt: skip
def patches_kernel(
    w_ptr, current_ptr, room_ptr, spike_ptr, scattered,
    c_out, positions, taps, channel_step, position_step, height, width, out_width, pad_h, pad_w, shares,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, REAL: tl.constexpr,
    POSITIONS: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """Sum a share of the taps, or take what was scattered."""
    n_post = c_out * positions
    if add_scattered(scattered, current_ptr, room_ptr, n_post, n_post * shares, THREADS):
        return
    block = tl.program_id(0) // shares
    share = tl.program_id(0) - block * shares
    channel_blocks = tl.cdiv(c_out, CHANNELS)
    o = block % channel_blocks * CHANNELS + tl.arange(0, CHANNELS)
    p = block // channel_blocks * POSITIONS + tl.arange(0, POSITIONS)
    top = p // out_width * SH - pad_h
    left = p % out_width * SW - pad_w
    # where there are fewer channels, the last one is summed up several times
    of_channel = tl.minimum(o, c_out - 1).to(tl.int64) * channel_step
    of_position = p.to(tl.int64) * position_step
    sums = tl.zeros([POSITIONS, CHANNELS, TAPS], REAL)
    for first in range(share * TAPS, taps, shares * TAPS):
        k = first + tl.arange(0, TAPS)
        line = k // KW
        channel = line // KH
        row = top[:, None] + (line - channel * KH)[None, :]
        column = left[:, None] + (k - line * KW)[None, :]
        seen = (p < positions)[:, None] & (k < taps)[None, :] & (margin(row, column, height, width) >= 0)
        i = (channel[None, :] * height + row) * width + column
        spike = tl.load(spike_ptr + i, mask=seen, other=0).to(REAL)[:, None, :]
        at = of_channel[None, :, None] + (of_position[:, None] + k[None, :])[:, None, :]
        sums += brought(w_ptr, at, spike, spike != 0, REAL)
    j = o[None, :] * positions + p[:, None]
    exists = (p < positions)[:, None] & (o < c_out)[None, :]
    settle(tl.sum(sums, axis=2), j, exists, share, n_post, current_ptr, room_ptr)


def build_patches(case: PropagationCase, config: Config, shares_weights: bool, column_at: Any) -> PropagationStep:
    """Prepare the launches for one case.

    Parameters
    ----------
    case : PropagationCase
        The case.
    config : Config
        How to cut the work.
    shares_weights : bool
        Whether all positions have the same kernel.
    column_at : device function
        Which synapses of a pre neuron there are, and where their weights: see :func:`with_scatter`.

    Returns
    -------
    callable
        The step.
    """
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    kernel_size, stride = case.kernel_key

    def summing(topology: Any, weights: Tensor) -> Summing:
        (c_in, *size), (c_out, _, out_width), positions = topology.src_shape, topology.dst_shape, topology.positions
        taps = c_in * kernel_size[0] * kernel_size[1]
        steps = (taps, 0) if shares_weights else (positions * taps, taps)
        at_once = min(config.taps, triton.next_power_of_2(taps))
        channels = min(config.channels, triton.next_power_of_2(c_out))
        side_by_side = max(1, WARP * config.flight // (at_once * channels))
        num_warps = min(MOST_WARPS, max(1, at_once * channels // (WARP * config.flight)))
        programs = triton.cdiv(positions, side_by_side) * triton.cdiv(c_out, channels)
        shares = shares_for(programs, triton.cdiv(taps, at_once), weights.device)
        settled = (
            c_out, positions, taps, *steps, *size, out_width, *topology.padding, shares, *kernel_size, *stride, real,
            side_by_side, channels, at_once, WARP * num_warps,
        )  # fmt: skip
        sums = Launch(patches_kernel, programs * shares, weights.device, settled, num_warps=num_warps, **options)
        summing = Summing.of_shares(sums, c_out * positions, shares, weights.device)
        cut = partial(cut_of, topology, items.Config(num_warps=1))
        return with_scatter(case, topology, weights, summing, config.scatter_up_to, cut, False, column_at)

    return summed_step(case, summing)
