"""Convolutions on torch: every contribution summed over the output positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from tritonstdp.kernels.reference import Pairing
from tritonstdp.rules import Rule


def _windows(topology: Any, values: Tensor) -> Tensor:
    """What each tap sees of the pre side at each position, ``(C_in, kh, kw, positions)``; 0 outside the input."""
    image = values.view(1, *topology.src_shape)
    windows = unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride)
    return windows.view(topology.src_shape[0], *topology.kernel_size, -1)


def _over_positions(parameter: Any) -> Any:
    return parameter[..., None] if isinstance(parameter, Tensor) else parameter


def _terms(
    rule: Rule, topology: Any, s: Tensor, x: Tensor, q: Tensor, y: Tensor, parameters: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    parameters = [_over_positions(p) for p in parameters]
    post_spike, post_trace = (v.view(topology.dst_shape[0], 1, 1, 1, -1) for v in (q, y))
    # contributions are linear in the spike, so the sum over positions is a product of matrices
    potentiation = torch.einsum("...p,...p->...", rule.on_post(_windows(topology, x), 1, *parameters), post_spike)
    depression = torch.einsum("...p,...p->...", rule.on_pre(1, post_trace, *parameters), _windows(topology, s))
    return potentiation, depression


def _touched(topology: Any, s: Tensor, q: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=s.device)


PAIRING = Pairing(_terms, _touched, bound_first=True, divisor=lambda topology: topology.weight_divisor)
