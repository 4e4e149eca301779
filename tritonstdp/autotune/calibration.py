"""What the time model takes for granted of a GPU, measured on one that is there."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from tritonstdp.autotune.cost import GPUS, REACHED, Gpu, target_of
from tritonstdp.autotune.timing import clock

__all__ = ["calibrated"]

COPIED = 2**28
"""Bytes that are copied: more than any cache holds."""
LAUNCHES = 64
HOPS = 256
FAR, CLOSE = 2**27, 2**20
"""Over how many elements of 8 bytes a chain of loads hops: more, and fewer, than caches hold."""


@triton.jit
def chain_kernel(next_ptr, out_ptr, HOPS: tl.constexpr):
    """Loads of which each says where the next one is."""
    at = tl.load(out_ptr)
    for _ in range(HOPS):
        at = tl.load(next_ptr + at)
    tl.store(out_ptr, at)


def calibrated(device: str) -> Gpu:
    """Measure a GPU's bandwidth, latencies and the start of a launch.

    Parameters
    ----------
    device : str
        The device.

    Returns
    -------
    Gpu
        The figures, for :func:`tritonstdp.autotune.cost.estimate`.

    Raises
    ------
    ValueError
        If the model does not know GPUs of its kind.

    Examples
    --------
    >>> calibrated("cuda")  # doctest: +SKIP
    """
    target = target_of(device)
    if target is None:
        raise ValueError(f"{device} is no GPU that the model knows: it knows {', '.join(GPUS)}")
    properties = torch.get_device_module(device).get_device_properties(device)
    seconds = clock(device, cold=False)

    def least(step: Any, times: int) -> float:
        return min(seconds(step, lambda: [()] * times, None) for _ in range(5)) / times

    source, one = torch.zeros(COPIED // 4, device=device), torch.zeros(1, device=device)
    copy = torch.empty_like(source)
    moved, start = least(lambda: copy.copy_(source), 4), least(lambda: one.add_(1), LAUNCHES)
    far, near = (least(_chain(elements, device), 1) / HOPS for elements in (FAR, CLOSE))
    return Gpu(properties.name, properties.multi_processor_count, 2 * COPIED / moved / REACHED, far, near, start)


def _chain(elements: int, device: str) -> Any:
    """A step that hops along a chain, each time in another page, and goes on where it was."""
    stride = 2**14 + 1  # odd, so that it comes by every element of a power of 2
    following = (torch.arange(elements, device=device) + stride) % elements
    out = torch.zeros((), dtype=torch.int64, device=device)
    return lambda: chain_kernel[(1,)](following, out, HOPS, num_warps=1)
