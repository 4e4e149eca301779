"""Sparse connections on torch: spikes and traces gathered for every stored synapse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tritonstdp.kernels.reference import Pairing
from tritonstdp.rules import Rule


def _gather(topology: Any, pre: Tensor, post: Tensor) -> tuple[Tensor, Tensor]:
    """The pre and the post neuron's value at each synapse, in the stored order."""
    major, minor = (post, pre) if topology.post_is_major else (pre, post)
    at_major = torch.repeat_interleave(major, topology.major_start.diff(), output_size=topology.minor_of.numel())
    at_minor = minor[topology.minor_of]
    return (at_minor, at_major) if topology.post_is_major else (at_major, at_minor)


def _terms(
    rule: Rule, topology: Any, s: Tensor, x: Tensor, q: Tensor, y: Tensor, parameters: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    (spike, later_trace), (trace, later_spike) = _gather(topology, s, y), _gather(topology, x, q)
    return rule.on_post(trace, later_spike, *parameters), rule.on_pre(spike, later_trace, *parameters)


def _touched(topology: Any, s: Tensor, q: Tensor) -> Tensor:
    pre, post = _gather(topology, s != 0, q != 0)
    return pre | post


PAIRING = Pairing(_terms, _touched)
