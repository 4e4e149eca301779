"""Spike propagation: to each post neuron's current, the weights of its spiking pre neurons are added.

It goes over the same synapses as learning, by the same plans, backends and registry. Its kernels lie beside learning's:
``propagation_cpu.py`` and ``propagation_gpu.py`` in a topology's folder, each with ``build(case, config)``, ``DEFAULT``
and ``SPACE``; the reference has the topology's ``Meeting``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tritonstdp.rules import no_bound
from tritonstdp.source import name_of


class Propagation:
    """The operation, where a case of learning has a formula: the identity of its kernels.

    Attributes
    ----------
    choices : dict
        The kernels that the registry has built for it.
    """

    name = operation = "propagation"

    def __init__(self) -> None:
        self.choices: dict[Any, Any] = {}

    def __reduce__(self) -> str:
        return "PROPAGATION"  # of which there is one, copied and pickled by name

    @property
    def functions(self) -> tuple[()]:
        """There are no functions of a user's."""
        return ()

    @property
    def described(self) -> dict[str, Any]:
        """As plain values, for tables and JSON; the fields are those of a formula."""
        nothing = name_of(no_bound)
        return {"rule": self.name, "positive_bound": nothing, "negative_bound": nothing, "clamp": False}


PROPAGATION = Propagation()


class PropagationCase(NamedTuple):
    """All that a kernel is chosen by and specialised on.

    Attributes
    ----------
    formula : Propagation
        :data:`PROPAGATION`.
    topology, kernel_key, layout, dtype, device
        As for :class:`tritonstdp.kernels.protocol.Case`.
    bool_spikes : bool
        Whether the spikes are bool; they have the weights' dtype otherwise.
    given, limits
        What a backend asks of any case, the same for every propagation.
    """

    formula: Propagation
    topology: str
    kernel_key: Any
    layout: str
    dtype: torch.dtype
    device: str
    bool_spikes: bool
    given: tuple[()] = ()
    limits: str = "number"

    @property
    def operation(self) -> str:
        """What kernels do, by which the registry finds them."""
        return self.formula.operation

    @staticmethod
    def plain(topology: Any, dtype: torch.dtype, device: str) -> PropagationCase:
        """The usual case of a topology: contiguous weights and bool spikes."""
        layout = topology.usual_layout
        return PropagationCase(PROPAGATION, topology.name, topology.kernel_key, layout, dtype, device, True)

    @property
    def parameters(self) -> tuple[()]:
        """The names of what is given."""
        return ()


class PropagationStep(Protocol):
    """One step of one group's spikes, which adds to currents in place; the arguments have been checked by then.

    A silent neuron's weights are not looked at, whatever they are, and a neuron that no spike reaches keeps its current
    as it is. Half precision is summed in float32, and rounded once, where it is stored.

    Parameters
    ----------
    topology : Topology
        The group's topology, of the kind that the kernel was built for.
    weights : Tensor
        The weights' values, of ``topology.weights_shape``, laid out as the case says.
    current : Tensor
        ``(n_post,)``, contiguous, of the weights' dtype.
    pre_spike : Tensor
        ``(n_pre,)``, contiguous; bool, or of the weights' dtype: a spike counts with its value.
    """

    def __call__(self, topology: Any, weights: Tensor, current: Tensor, pre_spike: Tensor, /) -> None: ...
