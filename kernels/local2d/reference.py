"""Local receptive fields on torch: the pre side unfolded into one patch a post position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import unfold

from tritonstdp.kernels.reference import Pairing
from tritonstdp.rules import Rule


def _patches(topology: Any, values: Tensor) -> Tensor:
    """What each synapse of a position sees of the pre side, ``(1, positions, C_in * kh * kw)``; 0 outside the input."""
    image = values.view(1, *topology.src_shape)
    return unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride).transpose(1, 2)


def _per_position(topology: Any, values: Tensor) -> Tensor:
    return values.view(topology.dst_shape[0], -1, 1)


def _terms(
    rule: Rule, topology: Any, s: Tensor, x: Tensor, q: Tensor, y: Tensor, parameters: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    return (
        rule.on_post(_patches(topology, x), _per_position(topology, q), *parameters),
        rule.on_pre(_patches(topology, s), _per_position(topology, y), *parameters),
    )


def _touched(topology: Any, s: Tensor, q: Tensor) -> Tensor:
    return (_patches(topology, s) != 0) | (_per_position(topology, q) != 0)


PAIRING = Pairing(_terms, _touched, bound_first=True)
