"""Convolutions on torch: every contribution summed over the output positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from tritonstdp.kernels.reference import Pairing
from tritonstdp.rules import Rule


def _windows(topology: Any, values: Tensor) -> Tensor:
    """What each tap sees of the pre side at each position, ``(C_in, kh, kw, positions)``; 0 outside the input."""
    image = values.reshape(1, *topology.src_shape)
    windows = unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride)
    return windows.view(topology.src_shape[0], *topology.kernel_size, -1)


def _over_positions(parameter: Any) -> Any:
    return parameter[..., None] if isinstance(parameter, Tensor) else parameter


def _sum(of_one: Tensor, spikes: Tensor) -> Tensor:
    # contributions are linear in the spike, so the sum over positions is a product of matrices
    return torch.einsum("...p,...p->...", of_one, spikes)


def _sum_of_spiking(of_one: Tensor, spikes: Tensor) -> Tensor:
    """The sum of what the spikes contribute; a product of matrices takes in silent neurons, as 0 times their trace."""
    total = _sum(of_one, spikes)
    finite = total.isfinite()
    if finite.all():
        return total
    return torch.where(finite, total, torch.where(spikes != 0, of_one * spikes, 0).sum(-1))


def _terms(
    sum_up: Callable[[Tensor, Tensor], Tensor],
    rule: Rule,
    topology: Any,
    s: Tensor,
    x: Tensor,
    q: Tensor,
    y: Tensor,
    parameters: Sequence[Any],
) -> tuple[Tensor, Tensor]:
    """Potentiation and depression; ``sum_up(contributions of a spike of 1, spikes)`` sums over the positions."""
    parameters = [_over_positions(p) for p in parameters]
    post_spike, post_trace = (v.reshape(topology.dst_shape[0], 1, 1, 1, -1) for v in (q, y))
    potentiation = sum_up(rule.on_post(_windows(topology, x), 1, *parameters), post_spike)
    depression = sum_up(rule.on_pre(1, post_trace, *parameters), _windows(topology, s))
    return potentiation, depression


PAIRING = Pairing(
    partial(_terms, _sum_of_spiking),
    bound_first=True,
    divisor=lambda topology: topology.weight_divisor,
    plain_terms=partial(_terms, _sum),
)
