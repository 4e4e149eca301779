"""What tests and benchmarks share to drive CoNeX and PymoNNtorch side by side."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup

from tritonstdp.choice import Choice
from tritonstdp.functional import PerNeuron, step_
from tritonstdp.problems import Problem
from tritonstdp.topology import Sparse


def import_conex() -> Any:
    """Import CoNeX, which asks for torchvision without declaring it and uses it in one image transform only."""
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        parent = None
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            module = sys.modules[name] = ModuleType(name)
            if parent is not None:
                setattr(parent, name.rpartition(".")[2], module)
            parent = module
    return importlib.import_module("conex")


@dataclass(frozen=True)
class Wiring:
    """The connections of a group: what CoNeX's initializers would set on a synapse."""

    prefix: str
    src_shape: tuple[int, int, int]
    dst_shape: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: Any = 1
    padding: Any = 0
    density: float = 0.3

    @property
    def n_pre(self) -> int:
        depth, height, width = self.src_shape
        return depth * height * width

    @property
    def n_post(self) -> int:
        depth, height, width = self.dst_shape
        return depth * height * width

    def weights(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Random weights of the wiring's kind, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        shape: tuple[int, ...] = (self.n_pre, self.n_post)
        if self.prefix == "One2One":
            shape = (self.n_pre,)
        elif self.prefix == "Conv2d":
            shape = (self.dst_shape[0], self.src_shape[0], *self.kernel)
        elif self.prefix == "Local2d":
            taps = self.src_shape[0] * self.kernel[0] * self.kernel[1]
            shape = (self.dst_shape[0], self.dst_shape[1] * self.dst_shape[2], taps)
        weights = torch.rand(shape, generator=generator, dtype=dtype)
        if self.prefix != "Sparse":
            return weights
        kept = torch.rand(shape, generator=generator) < self.density
        return (weights * kept).to_sparse_csc()


SMALL = {
    "Simple": Wiring("Simple", (1, 1, 23), (1, 1, 17)),
    "One2One": Wiring("One2One", (1, 1, 19), (1, 1, 19)),
    "Sparse": Wiring("Sparse", (1, 1, 23), (1, 1, 17)),
    "Conv2d": Wiring("Conv2d", (2, 7, 6), (3, 4, 5), kernel=(3, 2), stride=(2, 1), padding=(1, 0), density=1),
    "Local2d": Wiring("Local2d", (2, 7, 6), (3, 4, 5), kernel=(3, 2), stride=(2, 1), padding=(1, 0), density=1),
}


class Connect(Behavior):
    """Set on a synapse what CoNeX's SynapseInit, WeightInitializer and dendritic inputs set."""

    def __init__(self, wiring: Wiring, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.wiring, self.given = wiring, weights

    def initialize(self, synapse: Any) -> None:
        wiring = self.wiring
        synapse.src_shape, synapse.dst_shape = wiring.src_shape, wiring.dst_shape
        synapse.stride, synapse.padding = wiring.stride, wiring.padding
        synapse.kernel_shape = (wiring.dst_shape[0], wiring.src_shape[0], *wiring.kernel)
        weights = wiring.weights(synapse.def_dtype) if self.given is None else self.given
        synapse.weights = weights
        if weights.layout is torch.sparse_csc:
            columns = torch.arange(weights.shape[1])
            synapse.src_idx = weights.row_indices()
            synapse.dst_idx = columns.repeat_interleave(weights.ccol_indices().diff())
        for side, size in (("src", wiring.n_pre), ("dst", wiring.n_post)):
            setattr(synapse, f"{side}_delay", torch.zeros(1, dtype=torch.long).expand(size))


class RandomSpikes(Behavior):
    """Neurons that fire at random."""

    def __init__(self, rate: float = 0.2) -> None:
        super().__init__()
        self.rate = rate

    def initialize(self, neurons: Any) -> None:
        neurons.spikes = torch.zeros(neurons.size, dtype=torch.bool)

    def forward(self, neurons: Any) -> None:
        neurons.spikes = torch.rand(neurons.size) < self.rate


class Dopamine(Behavior):
    """A reward signal that changes its sign, as a number or a tensor."""

    def __init__(self, make: Any = float) -> None:
        super().__init__()
        self.make = make

    def initialize(self, network: Any) -> None:
        network.dt = 1
        self.forward(network)

    def forward(self, network: Any) -> None:
        network.dopamine_concentration = self.make(0.4 if network.iteration % 3 else -0.3)


def on_synapse(learning: type) -> type:
    """One of the wheel's learning classes, reading what CoNeX's main branch reads: attributes of the synapse."""

    def get_spike_and_trace(self: Any, synapse: Any) -> tuple[Any, ...]:
        return synapse.pre_spike, synapse.post_spike, synapse.pre_trace, synapse.post_trace

    return type(learning.__name__, (learning,), {"get_spike_and_trace": get_spike_and_trace})


def side_by_side(
    wiring: Wiring,
    *learning: Behavior,
    convention: str = "neurons",
    dtype: torch.dtype = torch.float32,
    weights: torch.Tensor | None = None,
    dopamine: Any = float,
    max_delay: int = 1,
    rate: float = 0.2,
) -> tuple[Network, list[SynapseGroup]]:
    """One network in which each learning behavior has a group of its own between the same two groups of neurons.

    Parameters
    ----------
    wiring : Wiring
        The connections of every group.
    *learning : Behavior
        The behaviors to compare.
    convention : str
        Where signals are kept: "neurons" (CoNeX's wheel) or "synapse" (its main branch).
    dtype : torch.dtype
        The network's dtype.
    weights : Tensor, optional
        The weights that each group starts from a copy of.
    dopamine : callable
        Makes a number into what the network offers as dopamine.
    max_delay : int
        The axons' ``max_delay``.
    rate : float
        The share of neurons that fire in a step.

    Returns
    -------
    tuple
        The network, initialized, and its synapse groups.
    """
    conex = import_conex()
    from tritonstdp.behaviors import PostSpikeCatcher, PostTrace, PreSpikeCatcher, PreTrace

    network = Network(behavior={1: Dopamine(dopamine)}, dtype=dtype)
    neurons = []
    for size in (wiring.n_pre, wiring.n_post):
        behavior = {10: RandomSpikes(rate), 20: conex.SpikeTrace(tau_s=12.0), 30: conex.NeuronAxon(max_delay=max_delay)}
        neurons.append(NeuronGroup(size, network, behavior=behavior))
    groups = []
    for k, rule in enumerate(learning):
        start = wiring.weights(dtype) if weights is None else weights.clone()
        behavior = {5: Connect(wiring, start), 60: rule}
        if convention == "synapse":
            caught = (PreSpikeCatcher(), PostSpikeCatcher(), PreTrace(tau_s=12.0), PostTrace(tau_s=12.0))
            behavior |= dict(enumerate(caught, start=40))
        groups.append(SynapseGroup(network, *neurons, tag=f"group_{k}", behavior=behavior))
    network.initialize(info=False)
    return network, groups


def values_of(weights: torch.Tensor) -> torch.Tensor:
    """The numbers in a tensor of weights."""
    return weights if weights.layout is torch.strided else weights.values()


def random_sparse(n_pre: int, n_post: int, density: float, layout: torch.layout = torch.sparse_csc) -> Sparse:
    """A random connectivity in which this share of the pairs has a synapse."""
    return Sparse.random(n_pre, n_post, round(density * n_pre * n_post), layout)


def stepped(problem: Problem, backend: str | None = None) -> Choice:
    """Let a step act on the problem as users call it, and return the kernel that ran."""
    rule, signals = problem.formula.rule, problem.signals
    pre, post = (tuple(signals[name] for name in names) for names in (rule.pre, rule.post))
    return step_(
        problem.formula, problem.topology, problem.topology.weights_of(problem.weights), pre, post,
        tuple(problem.parameters.values()), *problem.limits, problem.c, backend,
        reduction=problem.reduction or "sum",
    )  # fmt: skip


def with_tensors(problem: Problem, tensors: dict[str, torch.Tensor]) -> Problem:
    """The problem with other values for some of its tensors, named as in ``problem.tensors``."""
    of_neurons = {name: v for name, v in problem.parameters.items() if isinstance(v, PerNeuron) and name in tensors}
    return problem.replaced(**tensors | {name: v._replace(values=tensors[name]) for name, v in of_neurons.items()})
