"""Whole simulations: networks of CoNeX's behaviors, and the same with tritonstdp's in place of some of them.

"CoNeX" is all of it; "learning" swaps the learning classes; "whole step" swaps all that carries spikes and currents as
well: dendritic inputs, what gathers them, traces and axons; the neurons stay CoNeX's. All networks draw the same spikes
and start from the same weights; they advance in turns. Where learning alone is swapped the weights must be the same;
where sums are taken in another order, which may make a neuron fire a step earlier, mean weights and firing rates must
be. ``python -m benchmarks.simulations`` prints steps/s and the share of a step that learning takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, NamedTuple

import torch
from pymonntorch import Behavior, Network, NeuronDimension, NeuronGroup, SynapseGroup
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks.environment import restart_pinned
from tests.support import import_conex
from tritonstdp import behaviors as ours
from tritonstdp.arguments import Parser, output_file, whole
from tritonstdp.machine import machine

RATE = 0.02
TAU = 25.0
MEAN_OFF = 1e-3
"""By how much a mean weight, of weights from 0 to 1, may differ between networks that fire alike."""
RATE_OFF = 0.05
"""And their firing rates, as a share."""
LEARNING = 400  # the priority that CoNeX gives to learning, a key of the network's own time measurement
STDP = {"a_plus": 0.01, "a_minus": 0.012, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}
RSTDP = STDP | {"tau_c": 200.0}


class PoissonInput(Behavior):
    """Neurons that fire at random, with draws of their own so that two networks see the same spikes."""

    def initialize(self, neurons: Any) -> None:
        self.generator = torch.Generator().manual_seed(2)
        neurons.spikes = torch.zeros(neurons.size, dtype=torch.bool)

    def forward(self, neurons: Any) -> None:
        neurons.spikes = torch.rand(neurons.size, generator=self.generator) < RATE


class NoisyCurrent(Behavior):
    """A current around the one that would make neurons fire at the wanted rate."""

    def initialize(self, neurons: Any) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, neurons: Any) -> None:
        neurons.I += 0.95 + 0.1 * torch.randn(neurons.size, generator=self.generator)


class Dopamine(Behavior):
    """A reward signal that comes and goes."""

    def initialize(self, network: Any) -> None:
        network.dopamine_concentration = 0.0

    def forward(self, network: Any) -> None:
        network.dopamine_concentration = 0.5 if network.iteration % 100 < 50 else -0.5


class Parts(NamedTuple):
    """Where a network's classes come from.

    Attributes
    ----------
    learning, others : module
        That of the learning classes, and that of dendritic inputs, traces and axons.
    """

    learning: ModuleType
    others: ModuleType


def parts() -> dict[str, Parts]:
    """The networks that are compared."""
    conex = import_conex()
    return {"CoNeX": Parts(conex, conex), "learning": Parts(ours, conex), "whole step": Parts(ours, ours)}


@dataclass(frozen=True)
class Simulation:
    """A network that can be built with either library's classes.

    Attributes
    ----------
    name, what : str
        The letter under which it is reported, and what it is.
    build : callable
        ``build(parts)``: the network and its plastic synapses, of the classes that :class:`Parts` names.
    steps : int
        Steps that each of the networks does, in turns.
    turn : int
        Steps of a turn.
    """

    name: str
    what: str
    build: Callable[[Parts], tuple[Network, SynapseGroup]]
    steps: int
    turn: int


def _network() -> Network:
    conex = import_conex()
    return Network(behavior={1: conex.TimeResolution(dt=1), 120: Dopamine()}, index=False)


def _input(network: Network, size: Any, of: Parts) -> NeuronGroup:
    behavior = {340: PoissonInput(), 360: of.others.SpikeTrace(tau_s=10.0), 380: of.others.NeuronAxon()}
    return NeuronGroup(size, network, behavior=behavior)


def _neurons(network: Network, size: Any, number: int, of: Parts, noisy: bool = False) -> NeuronGroup:
    """LIF neurons that a mean current of 1 makes fire at the wanted rate, out of step with each other."""
    conex = import_conex()
    threshold = 1 - torch.tensor(-1 / (RATE * TAU)).exp().item()
    start = threshold * torch.rand(number, generator=torch.Generator().manual_seed(4))
    behavior = {
        220: of.others.SimpleDendriteStructure(),
        240: of.others.SimpleDendriteComputation(),
        260: conex.LIF(R=1.0, threshold=threshold, tau=TAU, v_reset=0.0, v_rest=0.0, init_v=start),
        340: conex.Fire(),
        360: of.others.SpikeTrace(tau_s=10.0),
        380: of.others.NeuronAxon(),
    }
    if noisy:
        behavior[250] = NoisyCurrent()
    return NeuronGroup(size, network, behavior=behavior)


def _uniform(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def _connect(network: Network, src: Any, dst: Any, weights: Any, dendrite: Any, rule: Any) -> SynapseGroup:
    conex = import_conex()
    behavior = {2: conex.SynapseInit(), 3: weights, 180: dendrite, LEARNING: rule}
    return SynapseGroup(network, src, dst, tag="Proximal", behavior=behavior)


def _dense(n_pre: int, n_post: int) -> Callable[[Parts], tuple[Network, SynapseGroup]]:
    def build(of: Parts) -> tuple[Network, SynapseGroup]:
        conex = import_conex()
        network = _network()
        src, dst = _input(network, n_pre, of), _neurons(network, n_post, n_post, of)
        dendrite = of.others.SimpleDendriticInput(current_coef=2 / (n_pre * RATE))
        weights = conex.WeightInitializer(weights=_uniform(n_pre, n_post))
        return network, _connect(network, src, dst, weights, dendrite, of.learning.SimpleSTDP(**STDP))

    return build


def _recurrent(n: int) -> Callable[[Parts], tuple[Network, SynapseGroup]]:
    def build(of: Parts) -> tuple[Network, SynapseGroup]:
        conex = import_conex()
        network = _network()
        neurons = _neurons(network, n, n, of, noisy=True)
        dendrite = of.others.SimpleDendriticInput(current_coef=0.1 / (n * RATE))
        weights = conex.WeightInitializer(weights=_uniform(n, n))
        return network, _connect(network, neurons, neurons, weights, dendrite, of.learning.SimpleSTDP(**STDP))

    return build


class _SparseWeights(Behavior):
    """Sets what CoNeX's WeightInitializer sets, which draws its connections in Python, out of 1e8 candidates."""

    def __init__(self, n_pre: int, n_post: int, synapses: int) -> None:
        super().__init__()
        self.shape, self.synapses = (n_pre, n_post), synapses

    def initialize(self, synapse: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        n_pre, n_post = self.shape
        drawn = torch.randint(n_pre * n_post, (self.synapses,), generator=generator).unique()
        column_start = torch.searchsorted(drawn, torch.arange(n_post + 1) * n_pre)
        values = torch.rand(len(drawn), generator=generator)
        synapse.weights = torch.sparse_csc_tensor(column_start, drawn % n_pre, values, self.shape)
        synapse.src_idx, synapse.dst_idx = synapse.weights.row_indices(), drawn // n_pre


def _sparse(n_pre: int, n_post: int, synapses: int) -> Callable[[Parts], tuple[Network, SynapseGroup]]:
    def build(of: Parts) -> tuple[Network, SynapseGroup]:
        network = _network()
        src, dst = _input(network, n_pre, of), _neurons(network, n_post, n_post, of)
        dendrite = of.others.SparseDendriticInput(current_coef=2 * n_post / (synapses * RATE))
        weights = _SparseWeights(n_pre, n_post, synapses)
        return network, _connect(network, src, dst, weights, dendrite, of.learning.SparseSTDP(**STDP))

    return build


def _conv2d(of: Parts) -> tuple[Network, SynapseGroup]:
    conex = import_conex()
    network = _network()
    src = _input(network, NeuronDimension(depth=8, height=64, width=64), of)
    dst = _neurons(network, NeuronDimension(depth=16, height=60, width=60), 16 * 60 * 60, of)
    dendrite = of.others.Conv2dDendriticInput(current_coef=2 / (8 * 25 * RATE))
    weights = conex.WeightInitializer(weights=_uniform(16, 8, 5, 5))
    return network, _connect(network, src, dst, weights, dendrite, of.learning.Conv2dRSTDP(**RSTDP))


SIMULATIONS = {
    s.name: s
    for s in (
        Simulation("a", "784 -> 1000 LIF, dense STDP", _dense(784, 1000), 1000, 50),
        Simulation("b", "4000 -> 4000 LIF, dense STDP", _dense(4000, 4000), 40, 4),
        Simulation("c", "10,000 -> 10,000 LIF, sparse 1 % STDP", _sparse(10_000, 10_000, 1_000_000), 200, 20),
        Simulation("d", "10,000 LIF all to all, dense STDP", _recurrent(10_000), 300, 10),
        Simulation("e", "8x64x64 -> 16x60x60 LIF, convolutional RSTDP", _conv2d, 100, 10),
    )
}


@dataclass(frozen=True)
class Result:
    """What a simulation has shown for one choice of classes.

    Attributes
    ----------
    simulation, what : str
        Which it is.
    classes : str
        "CoNeX", or which of its classes tritonstdp's take the place of: see :func:`parts`.
    steps_per_second : float
        From the median turn.
    learning_share : float
        The part of a step that the learning behavior takes.
    firing_rate : float
        The mean share of post neurons that spike in a step.
    difference : float
        The largest difference from the weights of CoNeX's network at the end; 0 where they have the same bits.
    threads : int
        Of torch and numba.
    """

    simulation: str
    what: str
    classes: str
    steps_per_second: float
    learning_share: float
    firing_rate: float
    difference: float
    threads: int


def _values(synapse: SynapseGroup) -> torch.Tensor:
    weights = synapse.weights
    return weights if weights.layout == torch.strided else weights.values()


def run(simulation: Simulation, steps: int | None = None) -> list[Result]:
    """Advance the networks of a simulation in turns.

    Raises
    ------
    RuntimeError
        If they end in different weights: then there is nothing to compare.
    """
    networks = {}
    for name, of in parts().items():
        network, synapse = simulation.build(of)
        network.initialize(info=False)
        networks[name] = network, synapse
    turns: dict[str, list[float]] = {name: [] for name in networks}
    fired: dict[str, list[float]] = {name: [] for name in networks}
    learning = {name: [0.0, 0.0] for name in networks}
    for network, _ in networks.values():
        network.simulate_iteration()
    steps = steps or simulation.steps
    for turn in range(max(2, steps // simulation.turn)):
        for name, (network, synapse) in networks.items():
            if turn % 2:
                fired[name] += _advance_measured(network, synapse.dst, simulation.turn, learning[name])
            else:
                turns[name].append(_advance(network, simulation.turn))
    expected = _values(networks["CoNeX"][1])
    differences = {name: _difference(_values(synapse), expected) for name, (_, synapse) in networks.items()}
    if differences["learning"] > 1e-4:
        raise RuntimeError(f"({simulation.name}): learning alone makes weights {differences['learning']:.2g} off")
    for name in ("learning", "whole step"):
        rates = [statistics.fmean(fired[which]) for which in ("CoNeX", name)]
        if abs(rates[1] - rates[0]) > RATE_OFF * rates[0]:
            raise RuntimeError(f"({simulation.name}): {name} fires at {rates[1]:.4f}, and CoNeX's at {rates[0]:.4f}")
    mean = _values(networks["whole step"][1]).mean().item()
    if abs(mean - expected.mean().item()) > MEAN_OFF:
        raise RuntimeError(f"({simulation.name}): the mean weight is {mean:.4f}, and CoNeX's {expected.mean():.4f}")
    return [
        Result(
            simulation.name, simulation.what, name, 1 / statistics.median(turns[name]),
            learning[name][0] / learning[name][1], statistics.fmean(fired[name]), differences[name],
            torch.get_num_threads(),
        )
        for name in networks
    ]  # fmt: skip


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def _advance(network: Network, steps: int) -> float:
    """Seconds a step."""
    began = time.perf_counter()
    for _ in range(steps):
        network.simulate_iteration()
    return (time.perf_counter() - began) / steps


def _advance_measured(network: Network, neurons: NeuronGroup, steps: int, learning: list[float]) -> list[float]:
    """Add the time spent learning, and all the time; return the share of neurons that fired in each step."""
    fired = []
    for _ in range(steps):
        spent = network.simulate_iteration(measure_behavior_execution_time=True)
        learning[0] += spent[LEARNING]
        learning[1] += sum(spent.values())
        fired.append(neurons.spikes.float().mean().item())
    return fired


def table_of(results: list[Result]) -> Table:
    """Results as a table."""
    titles = dict.fromkeys(f"({r.simulation}) {r.what}" for r in results)
    table = Table(title="\n".join(titles), title_justify="left", box=SIMPLE)
    for heading in ("", "classes", "steps/s", "learning", "spikes", "faster"):
        table.add_column(heading, justify="left" if heading in ("", "classes") else "right")
    conex = {r.simulation: r.steps_per_second for r in results if r.classes == "CoNeX"}
    for r in results:
        faster = "" if r.classes == "CoNeX" else f"{r.steps_per_second / conex[r.simulation]:.2f}x"
        share, rate = f"{r.learning_share:.0%}", f"{r.firing_rate:.1%}"
        table.add_row(r.simulation, r.classes, f"{r.steps_per_second:.3g}", share, rate, faster)
    return table


def main() -> int:
    """Run the simulations that are asked for."""
    parser = Parser(
        prog="python -m benchmarks.simulations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", default=list(SIMULATIONS), help="some of a b c d e; all by default")
    parser.add_argument("--steps", type=whole(1), help="of each network (default: each simulation's own number)")
    parser.add_argument("--threads", type=whole(1, os.cpu_count() or 1), default=1, help="of the CPU (default: 1)")
    parser.add_argument("--out", type=output_file, help="write results to a .json file")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in SIMULATIONS:
            parser.error(f"unknown simulation {name!r}: use some of {' '.join(SIMULATIONS)}")
    restart_pinned(arguments.threads)
    torch.set_num_threads(arguments.threads)
    console, results = Console(), []
    for name in arguments.names:
        results += run(SIMULATIONS[name], arguments.steps)
        console.print(table_of(results[-len(parts()) :]))
    if arguments.out:
        where = {f"machine_{key}": value for key, value in machine().items()}
        arguments.out.write_text(json.dumps([asdict(r) | where for r in results], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
