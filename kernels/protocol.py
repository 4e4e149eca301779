"""What every kernel looks like from outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tritonstdp.rules import Formula
from tritonstdp.source import CannotCompileError

__all__ = ["CannotCompileError", "Case", "Step"]


class Case(NamedTuple):
    """All that a kernel is chosen by and specialised on.

    Attributes
    ----------
    formula : Formula
        What is computed at a synapse.
    topology : str
        The topology's name.
    kernel_key : hashable
        The topology's own specialisation (:attr:`tritonstdp.topology.Topology.kernel_key`).
    layout : str
        How the weights lie in memory (:meth:`tritonstdp.topology.Topology.layout`).
    dtype : torch.dtype
        The weights' dtype.
    device : str
        The type of the weights' device.
    bool_spikes : bool
        Whether both spike vectors are bool; both have the weights' dtype otherwise.
    scalars : bool
        Whether all parameters are numbers.
    dopamine : str
        "number", "scalar" (a 0-d tensor), "column" (one value a post neuron) or "other".
    """

    formula: Formula
    topology: str
    kernel_key: Any
    layout: str
    dtype: torch.dtype
    device: str
    bool_spikes: bool = True
    scalars: bool = True
    dopamine: str = "number"


class Step(Protocol):
    """One plasticity step over one group of synapses, in place; the arguments have been checked by then.

    Parameters
    ----------
    topology : Topology
        The group's topology, of the kind that the kernel was built for.
    weights : Tensor
        The values to update, of ``topology.weights_shape``.
    pre_spike, post_spike : Tensor
        Both bool, or both of the dtype of the weights; contiguous, as the traces.
    pre_trace, post_trace : Tensor
        Of the dtype of the weights.
    parameters, decay : sequence of float
        The values of ``rule.parameters`` and ``rule.eligibility_parameters``. The reference takes tensors as well.
    w_min, w_max : float
        The limits for bounds and clamp. The reference takes tensors as well.
    c : Tensor or None
        The eligibility trace, of the shape and dtype of the weights; None unless the rule is modulated.
    dopamine : float or Tensor
        What the eligibility is multiplied by.
    """

    def __call__(
        self,
        topology: Any,
        weights: Tensor,
        pre_spike: Tensor,
        pre_trace: Tensor,
        post_spike: Tensor,
        post_trace: Tensor,
        parameters: Sequence[Any],
        w_min: Any,
        w_max: Any,
        c: Tensor | None,
        decay: Sequence[Any],
        dopamine: Any,
    ) -> None: ...
