"""Random plasticity problems: what ``verify`` and ``inspect`` run kernels on, and every test can."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from tritonstdp.kernels.protocol import Case, Step
from tritonstdp.rules import Formula
from tritonstdp.topology import Sparse, Topology

__all__ = ["Problem", "make_problem", "random_sparse"]

_VALUES = {"a_plus": 0.1, "a_minus": 0.12, "lr": 0.1, "alpha": 0.4, "sign": -1.0, "tau_c": 7.0}
_LIMITS = (0.05, 0.95)


def random_sparse(n_pre: int, n_post: int, density: float, layout: torch.layout = torch.sparse_csc) -> Sparse:
    """Plan a random connectivity, the same for the same arguments.

    Parameters
    ----------
    n_pre, n_post : int
        The numbers of neurons.
    density : float
        The share of pairs that have a synapse.
    layout : torch.layout
        ``torch.sparse_csc``, ``torch.sparse_csr`` or ``torch.sparse_coo``.

    Returns
    -------
    Sparse
        The plan, on the CPU.

    Examples
    --------
    >>> plan = random_sparse(20, 30, 0.1)
    >>> plan.pre_shape, plan.post_shape
    ((20,), (30,))
    """
    generator = torch.Generator().manual_seed(0)
    weights = (torch.rand(n_pre, n_post, generator=generator) < density).float().to_sparse(layout=layout)
    return Sparse.from_weights(weights.coalesce() if layout == torch.sparse_coo else weights)


@dataclass(frozen=True, eq=False)
class Problem:
    """One group of synapses and one step's signals: all that a kernel's step takes.

    Attributes
    ----------
    formula : Formula
        What is computed.
    topology : Topology
        How the synapses lie.
    weights, pre_spike, pre_trace, post_spike, post_trace, c : Tensor
        As for :class:`tritonstdp.kernels.protocol.Step`; ``c`` is None unless the rule is modulated.
    parameters, decay : tuple of float
        The values of the rule's parameters.
    limits : tuple of float
        ``(w_min, w_max)``.
    dopamine : float or Tensor
        What the eligibility is multiplied by.
    """

    formula: Formula
    topology: Topology
    weights: Tensor
    pre_spike: Tensor
    pre_trace: Tensor
    post_spike: Tensor
    post_trace: Tensor
    c: Tensor | None
    parameters: tuple[float, ...]
    decay: tuple[float, ...]
    limits: tuple[float, float]
    dopamine: Any

    @property
    def case(self) -> Case:
        """What a kernel for the problem is chosen by."""
        topology, weights = self.topology, self.weights
        kind = "number"
        if isinstance(self.dopamine, Tensor):
            kind = "column" if self.dopamine.dim() else "scalar"
        return Case(
            self.formula, topology.name, topology.kernel_key, topology.layout(weights), weights.dtype,
            weights.device.type, self.pre_spike.dtype == torch.bool, True, kind,
        )  # fmt: skip

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by the names of the attributes."""
        names = ("weights", "pre_spike", "pre_trace", "post_spike", "post_trace", "c", "dopamine")
        return {name: getattr(self, name) for name in names if isinstance(getattr(self, name), Tensor)}

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The tensors that a step writes."""
        return {name: self.tensors[name] for name in ("weights", "c") if name in self.tensors}

    def copy(self) -> Problem:
        """The same problem with weights and eligibility of its own, of the same strides."""
        copies: dict[str, Any] = {name: tensor.clone() for name, tensor in self.outputs.items()}
        return replace(self, **copies)

    def to(self, dtype: torch.dtype | None = None, device: str | None = None) -> Problem:
        """The same problem in another floating type or on another device."""

        def moved(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device) if device else tensor
            return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor

        changes: dict[str, Any] = {name: moved(tensor) for name, tensor in self.tensors.items()}
        topology = _plan_to(self.topology, device) if device else self.topology
        return replace(self, topology=topology, **changes)

    def run(self, step: Step) -> Problem:
        """Let a step act on the problem, and return the problem."""
        step(
            self.topology, self.weights, self.pre_spike, self.pre_trace, self.post_spike, self.post_trace,
            self.parameters, *self.limits, self.c, self.decay, self.dopamine,
        )  # fmt: skip
        return self


def _plan_to(topology: Topology, device: str) -> Topology:
    plan = {f.name: getattr(topology, f.name) for f in fields(topology) if f.init}
    moved: dict[str, Any] = {name: value.to(device) for name, value in plan.items() if isinstance(value, Tensor)}
    return replace(topology, **moved) if moved else topology


def make_problem(
    formula: Formula,
    topology: Topology,
    *,
    dtype: torch.dtype = torch.float32,
    rate: float = 0.2,
    seed: int = 0,
    transposed: bool = False,
    float_spikes: bool = False,
    dopamine: str = "number",
) -> Problem:
    """Make a random problem on the CPU.

    Parameters
    ----------
    formula : Formula
        What is computed.
    topology : Topology
        How the synapses lie.
    dtype : torch.dtype
        The weights' dtype. The values are drawn in float32, so that half precision alone rounds them.
    rate : float
        The share of neurons that spike, on either side; at least one of a side does.
    seed : int
        The seed of the random numbers.
    transposed : bool
        Whether the memory of weights and eligibility runs the other way round (dense).
    float_spikes : bool
        Whether spikes carry values instead of being bool.
    dopamine : str
        "number", "scalar" (a 0-d tensor) or "column" (one value a post neuron).

    Returns
    -------
    Problem
        The problem. Some weights lie outside their limits.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> from tritonstdp.rules import rstdp
    >>> problem = make_problem(Formula.of(rstdp), Dense(3, 5))
    >>> sorted(problem.tensors)
    ['c', 'post_spike', 'post_trace', 'pre_spike', 'pre_trace', 'weights']
    """
    generator = torch.Generator().manual_seed(seed)
    rule = formula.rule

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return (torch.rand(shape, generator=generator) * (high - low) + low).to(dtype)

    def synapses(low: float, high: float) -> Tensor:
        shape = topology.weights_shape
        return uniform(*shape[::-1], low=low, high=high).t() if transposed else uniform(*shape, low=low, high=high)

    def spikes(n: int) -> Tensor:
        spiking = torch.rand(n, generator=generator)
        spiking = spiking <= torch.quantile(spiking, rate) if n else spiking.bool()
        return spiking.to(dtype) * uniform(n, low=0.5) if float_spikes else spiking

    n_pre, n_post = topology.pre_shape[0], topology.post_shape[0]
    values: dict[str, Any] = {
        "number": 0.3,
        "scalar": torch.tensor(0.3, dtype=dtype),
        "column": uniform(n_post, low=-1.0),
    }
    return Problem(
        formula,
        topology,
        synapses(-0.1, 1.1),
        spikes(n_pre),
        uniform(n_pre),
        spikes(n_post),
        uniform(n_post),
        synapses(-0.5, 0.5) if rule.modulated else None,
        tuple(_VALUES.get(name, 0.5) for name in rule.parameters),
        tuple(_VALUES.get(name, 0.5) for name in rule.eligibility_parameters),
        _LIMITS,
        values[dopamine] if rule.modulated else 0.0,
    )
