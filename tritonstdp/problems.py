"""Random problems of plasticity and of spike propagation: what every command runs kernels on, and every test can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tritonstdp.kernels.propagation import Propagation, PropagationCase
from tritonstdp.kernels.protocol import Case, PerNeuron
from tritonstdp.registry import AnyCase, AnyFormula
from tritonstdp.rules import Formula
from tritonstdp.topology import Topology

__all__ = ["CHUNK", "RATES", "Problem", "PropagationProblem", "disagreement", "make_problem", "random_spikes"]

RATES = (0.005, 0.02, 0.1)
"""The fractions of spiking neurons at which tools look, unless others are asked for."""

_VALUES = {"a_plus": 0.1, "a_minus": 0.12, "lr": 0.1, "alpha": 0.4, "sign": -1.0, "tau_c": 7.0, "dopamine": 0.3}
_LIMITS = (0.05, 0.95)


@dataclass(frozen=True, eq=False)
class Problem:
    """One group of synapses and one step's signals: all that a kernel's step takes.

    Attributes
    ----------
    formula : Formula
        What is computed.
    topology : Topology
        How the synapses lie.
    weights, c : Tensor
        As for :class:`tritonstdp.kernels.protocol.Step`; ``c`` is None unless the rule is modulated.
    signals : dict
        The signals of both sides, by name.
    parameters : dict
        The value of each of ``formula.parameters``: a number, a 0-d tensor, or a PerNeuron.
    limits : tuple of float
        ``(w_min, w_max)``.
    reduction : str
        What becomes of the changes of a batch's samples, where signals are of one.
    """

    formula: Formula
    topology: Topology
    weights: Tensor
    c: Tensor | None
    signals: dict[str, Tensor]
    parameters: dict[str, Any]
    limits: tuple[float, float]
    reduction: str = ""

    @property
    def given(self) -> tuple[str, ...]:
        """How each parameter is given: see :class:`tritonstdp.kernels.protocol.Case`."""
        return tuple(_kind_of(value) for value in self.parameters.values())

    @property
    def case(self) -> AnyCase:
        """What a kernel for the problem is chosen by."""
        topology, weights = self.topology, self.weights
        layout = topology.layout(weights)
        if self.c is not None and topology.layout(self.c) != layout:
            layout = "strided"
        return Case(
            self.formula, topology.name, topology.kernel_key, layout, weights.dtype, weights.device.type,
            self.signals["pre_spike"].dtype == torch.bool, self.given, reduction=self.reduction,
        )  # fmt: skip

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor, by name."""
        eligibility = {} if self.c is None else {"c": self.c}
        taken = {name: _tensor_of(value) for name, value in self.parameters.items() if _kind_of(value) != "number"}
        return {"weights": self.weights, **self.signals, **eligibility, **taken}

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The group's own tensors, which a step writes; of weights that it only reads, none may come out changed."""
        return {name: self.tensors[name] for name in ("weights", "c", "current") if name in self.tensors}

    def replaced(self, **values: Any) -> Problem:
        """The same problem with other weights, eligibility, signals or parameters, each by its name."""
        signals = {name: values.pop(name, signal) for name, signal in self.signals.items()}
        parameters = {name: values.pop(name, value) for name, value in self.parameters.items()}
        return replace(self, signals=signals, parameters=parameters, **values)

    def copy(self) -> Problem:
        """The same problem with outputs of its own, of the same strides."""
        return self.replaced(**{name: tensor.clone() for name, tensor in self.outputs.items()})

    def quiet(self) -> Problem:
        """The same problem with changes so small that weights stay where they are over thousands of steps."""
        return self.replaced(**{name: 1e-4 * self.parameters[name] for name in self.formula.rule.parameters})

    def to(self, dtype: torch.dtype | None = None, device: str | None = None) -> Problem:
        """The same problem in another floating type or on another device."""

        def moved(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device) if device else tensor
            return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor

        changes: dict[str, Any] = {name: moved(tensor) for name, tensor in self.tensors.items()}
        for name, value in self.parameters.items():
            if isinstance(value, PerNeuron):
                changes[name] = value._replace(values=changes[name])
        topology = self.topology.to(device) if device else self.topology
        return replace(self.replaced(**changes), topology=topology)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a kernel's step takes: see :class:`tritonstdp.kernels.protocol.Step`."""
        named = {**self.signals, **{name: _tensor_of(value) for name, value in self.parameters.items()}}
        pre, post, numbers = (
            tuple(named[name] for name in names) for names in Case.names_of(self.formula, self.given)[:3]
        )
        return self.topology, self.weights, self.c, pre, post, numbers, *self.limits

    def run(self, step: Callable[..., None]) -> Problem:
        """Let a step act on the problem, and return the problem."""
        step(*self.arguments)
        return self


@dataclass(frozen=True, eq=False)
class PropagationProblem(Problem):
    """One group of synapses and one step's spikes: its signals are ``pre_spike`` and ``current``, which is written."""

    formula: Propagation  # type: ignore[assignment]

    @property
    def case(self) -> PropagationCase:
        topology, weights = self.topology, self.weights
        plain = PropagationCase.plain(topology, weights.dtype, weights.device.type)
        bool_spikes = self.signals["pre_spike"].dtype == torch.bool
        return plain._replace(layout=topology.layout(weights), bool_spikes=bool_spikes)

    def quiet(self) -> Problem:
        return self

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What a kernel's step takes: see ``tritonstdp.kernels.propagation.PropagationStep``."""
        return self.topology, self.weights, self.signals["current"], self.signals["pre_spike"]


def _kind_of(value: Any) -> str:
    if isinstance(value, PerNeuron):
        return value.side
    return "scalar" if isinstance(value, Tensor) else "number"


def _tensor_of(value: Any) -> Any:
    return value.values if isinstance(value, PerNeuron) else value


CHUNK = 2**24
"""Weights that are looked at together: temporaries of the largest ones would fill the memory."""


def disagreement(what: str, found: Tensor, expected: Tensor, start: Tensor, steps: int = 1) -> str:
    """What is wrong with the result of some steps; empty where nothing is.

    Sums may be taken in another order: the result may be off by two units in the last place a step, and by 1e-5 of the
    largest change.

    Parameters
    ----------
    what : str
        What the result is, for the message.
    found, expected, start : Tensor
        The result, what it should be, and what it was before.
    steps : int
        The number of steps.

    Returns
    -------
    str
        By how much it is off.

    Examples
    --------
    >>> w = torch.tensor([0.5])
    >>> disagreement("weights", w + 0.11, w + 0.1, w)
    'weights off by 0.01 where the largest change is 0.1'
    """
    change, off = _largest_difference(expected, start), _largest_difference(expected, found.to(expected.device))
    rounding = 2 * steps * torch.finfo(start.dtype).eps * expected.abs().max().item()
    return (
        "" if off <= rounding + 1e-5 * change else f"{what} off by {off:.2g} where the largest change is {change:.2g}"
    )


def _largest_difference(expected: Tensor, values: Tensor) -> float:
    """nan where one is."""
    pairs = zip(expected.reshape(-1).split(CHUNK), values.reshape(-1).split(CHUNK), strict=True)
    return torch.stack([(e.double() - v.double()).abs().max() for e, v in pairs]).max().item()


def random_spikes(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Spikes of exactly so many neurons, which are drawn at random.

    Examples
    --------
    >>> random_spikes(100, 3, torch.Generator()).sum()
    tensor(3)
    """
    spikes = torch.zeros(n, dtype=torch.bool)
    spikes[torch.randperm(n, generator=generator)[:count]] = True
    return spikes


def make_problem(
    formula: AnyFormula,
    topology: Topology,
    *,
    dtype: torch.dtype = torch.float32,
    rate: float = 0.2,
    seed: int = 0,
    transposed: bool = False,
    float_spikes: bool = False,
    dopamine: str = "number",
    per_neuron: bool = False,
    samples: int = 0,
    reduction: str = "sum",
    weights: tuple[float, float] = (-0.1, 1.1),
    eligibility: tuple[float, float] = (-0.5, 0.5),
) -> Problem:
    """Make a random problem on the CPU.

    Parameters
    ----------
    formula : Formula or Propagation
        What is computed. Of what follows, spike propagation has no use for dopamine, parameters and eligibility.
    topology : Topology
        How the synapses lie.
    dtype : torch.dtype
        The weights' dtype. The values are drawn in float32, so that half precision alone rounds them.
    rate : float
        The share of neurons that spike, on either side; at least one of a side does.
    seed : int
        The seed of the random numbers.
    transposed : bool
        Whether the memory of weights and eligibility runs the other way round.
    float_spikes : bool
        Whether spikes carry values instead of being bool.
    dopamine : str
        "number", "scalar" (a 0-d tensor), or "pre" or "post" (one value a neuron).
    per_neuron : bool
        Whether the rule's own parameters have one value a neuron, of one side and the other in turns; where weights are
        shared, those that a spike's contribution depends on.
    samples : int
        Of how many samples a batch is; 0 for none.
    reduction : str
        What becomes of their changes, "sum" or "mean".
    weights, eligibility : tuple of float
        Between what they lie; some weights outside their limits, unless said otherwise.

    Returns
    -------
    Problem
        The problem.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> from tritonstdp.rules import rstdp
    >>> problem = make_problem(Formula.of(rstdp), Dense(3, 5))
    >>> sorted(problem.tensors), problem.parameters["dopamine"]
    (['c', 'post_spike', 'post_trace', 'pre_spike', 'pre_trace', 'weights'], 0.3)
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=generator).mul_(high - low).add_(low).to(dtype)

    def synapses(low: float, high: float) -> Tensor:
        shape = topology.weights_shape
        axes = range(len(shape))[:: -1 if transposed else 1]
        return uniform(*(shape[axis] for axis in axes), low=low, high=high).permute(*axes)

    def spikes(n: int) -> Tensor:
        spiking = torch.rand(n, generator=generator)
        spiking = spiking <= spiking.kthvalue(int(rate * (n - 1)) + 1).values if n else spiking.bool()
        return spiking.to(dtype) * uniform(n, low=0.5) if float_spikes else spiking

    sizes = {"pre": topology.pre_shape[0], "post": topology.post_shape[0]}

    def given(value: float, kind: str) -> Any:
        if kind == "scalar":
            return torch.tensor(value, dtype=dtype)
        return PerNeuron(kind, value * uniform(sizes[kind], low=0.5, high=1.5)) if kind in sizes else value

    values = synapses(*weights)
    if isinstance(formula, Propagation):
        signals = {"pre_spike": spikes(sizes["pre"]), "current": uniform(sizes["post"])}
        return PropagationProblem(formula, topology, values, None, signals, {}, _LIMITS)
    rule = formula.rule

    def signal(name: str, n: int) -> Tensor:
        return spikes(n) if name.endswith("_spike") else uniform(n)

    signals = {
        name: torch.stack([signal(name, sizes[side]) for _ in range(samples)]) if samples else signal(name, sizes[side])
        for side, names in (("pre", rule.pre), ("post", rule.post))
        for name in names
    }
    c = synapses(*eligibility) if rule.modulated else None
    parameters = {}
    for k, name in enumerate(formula.parameters):
        varies = per_neuron and name in (rule.spike_parameters if topology.shares_weights else rule.parameters)
        kind = dopamine if name == "dopamine" else ("pre", "post")[k % 2] if varies else "number"
        parameters[name] = given(_VALUES.get(name, 0.5), kind)
    return Problem(formula, topology, values, c, signals, parameters, _LIMITS, reduction if samples else "")
