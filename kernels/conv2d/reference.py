"""Convolutions on torch: every contribution summed over the output positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import unfold

from tritonstdp.kernels.reference import Meeting


def _windows(topology: Any, values: Tensor) -> Tensor:
    """What each tap sees of the pre side at each position, ``(C_in, kh, kw, positions)``; 0 outside the input."""
    image = values.reshape(1, *topology.src_shape)
    windows = unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride)
    return windows.view(topology.src_shape[0], *topology.kernel_size, -1)


def _per_position(topology: Any, values: Tensor) -> Tensor:
    return values.reshape(topology.dst_shape[0], 1, 1, 1, -1)


def _summed(topology: Any, values: Tensor) -> Tensor:
    return values.sum((1, 2, 3)).view(-1)


MEETING = Meeting(
    _windows,
    _per_position,
    bound_first=True,
    divisor=lambda topology: topology.weight_divisor,
    onto_post=_summed,
)
