"""Local receptive fields on torch: the pre side unfolded into one patch a post position."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import unfold

from tritonstdp.kernels.reference import Meeting


def _patches(topology: Any, values: Tensor) -> Tensor:
    """What each synapse of a position sees of the pre side, ``(1, positions, C_in * kh * kw)``; 0 outside the input."""
    image = values.reshape(1, *topology.src_shape)
    return unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride).transpose(1, 2)


def _per_position(topology: Any, values: Tensor) -> Tensor:
    return values.reshape(topology.dst_shape[0], -1, 1)


def _summed(topology: Any, values: Tensor) -> Tensor:
    return values.sum(-1).view(-1)


MEETING = Meeting(_patches, _per_position, bound_first=True, onto_post=_summed)
