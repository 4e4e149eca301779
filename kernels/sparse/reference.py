"""Sparse connections on torch: spikes and traces gathered for every stored synapse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tritonstdp.kernels.reference import Meeting


def _at_major(topology: Any, values: Tensor) -> Tensor:
    return torch.repeat_interleave(values, topology.major_start.diff(), output_size=topology.minor_of.numel())


def _at_minor(topology: Any, values: Tensor) -> Tensor:
    return values[topology.minor_of]


def _summed(topology: Any, values: Tensor) -> Tensor:
    _, post = topology.ends()
    return values.new_zeros(topology.post_shape).index_add_(0, post, values)


MEETING = Meeting(
    lambda topology, values: (_at_minor if topology.post_is_major else _at_major)(topology, values),
    lambda topology, values: (_at_major if topology.post_is_major else _at_minor)(topology, values),
    onto_post=_summed,
)
