"""Brunel's network of sparsely connected inhibitory and excitatory neurons, with plastic excitation, beside Brian2.

Brunel (2000, doi 10.1023/A:1008925309027) with the multiplicative STDP of Zenke & Gerstner (2014, doi
10.3389/fninf.2014.00076), in the sizes of nasiryahm/SNNSimulatorComparison's Brunel10K.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup
from torch import Tensor

from benchmarks.networks.behaviors import (
    BACKEND,
    MULTIPLICATIVE,
    Axon,
    Delays,
    Propagation,
    Raster,
    TimeResolution,
    Weights,
    sampled,
)
from benchmarks.networks.benchmark import OURS, Benchmark, Result, Stopwatch, check_agreement
from tritonstdp.behaviors import Learning, PostSpikeCatcher, PostTrace, PreSpikeCatcher, PreTrace

REFERENCE = "Brian2, C++ standalone"


@dataclass(frozen=True)
class Parameters:
    """The network's numbers, in ms, mV and Hz."""

    n_excitatory: int = 8000
    n_inhibitory: int = 2000
    probability: float = 0.1
    dt: float = 0.1
    tau_m: float = 20.0
    threshold: float = 20.0
    refractory: float = 2.0
    delay: float = 1.5
    excitatory_weight: float = 0.1
    inhibitory_weight: float = -0.5
    n_external: int = 1000
    external_rate: float = 20.0
    rate: float = 0.01
    alpha: float = 2.02
    w_max: float = 0.3
    tau_trace: float = 20.0

    def size_of(self, group: str) -> int:
        """How many neurons "e" or "i" has."""
        return self.n_excitatory if group == "e" else self.n_inhibitory

    def steps(self, milliseconds: float) -> int:
        """A time in steps."""
        return round(milliseconds / self.dt)


Pairs = dict[str, Tensor]
"""Who is connected: the pre and the post neurons, ``(2, synapses)``, of "ee", "ei", "ie" and "ii", ordered by pre."""


def draw_pairs(p: Parameters, seed: int = 0) -> Pairs:
    """Connect each pair of neurons with the given probability."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for name in ("ee", "ei", "ie", "ii"):
        connected = torch.empty(p.size_of(name[0]), p.size_of(name[1]), dtype=torch.bool)
        pairs[name] = connected.bernoulli_(p.probability, generator=generator).nonzero().T.contiguous()
    return pairs


class LeakyIntegrateAndFire(Behavior):
    """``dv/dt = -v / tau_m``, by Euler's steps; a spike above the threshold, but for the refractory time after another.

    As in Brian2's script, the voltage goes on integrating while its neuron is refractory.
    """

    def initialize(self, neurons: Any) -> None:
        p = self.parameter("p")
        self.threshold, self.refractory = p.threshold, p.steps(p.refractory)
        self.kept = 1 - p.dt / p.tau_m
        neurons.v, neurons.spikes = neurons.vector(0.0), neurons.vector(dtype=torch.bool)
        self.ready_at, self.ready = neurons.vector(dtype=torch.int32), neurons.vector(dtype=torch.bool)

    def forward(self, neurons: Any) -> None:
        step = neurons.network._iteration
        neurons.v *= self.kept
        torch.gt(neurons.v, self.threshold, out=neurons.spikes)
        torch.le(self.ready_at, step, out=self.ready)
        neurons.spikes &= self.ready
        self.ready_at.masked_fill_(neurons.spikes, step + self.refractory)


class Reset(Behavior):
    """Neurons that spiked start again from 0, after what arrived in the step: that is lost on them."""

    def forward(self, neurons: Any) -> None:
        neurons.v.masked_fill_(neurons.spikes, 0.0)


class PoissonDrive(Behavior):
    """So many external neurons that each spike at random in a step: a binomial number of spikes, as Brian2 draws it."""

    def initialize(self, neurons: Any) -> None:
        p = self.parameter("p")
        self.weight = p.excitatory_weight
        self.spikes = Binomial(neurons.size, p.n_external, p.external_rate * p.dt / 1000, self.parameter("seed"))

    def forward(self, neurons: Any) -> None:
        neurons.v.add_(self.spikes.draw(), alpha=self.weight)


class Binomial:
    """Draws ``size`` binomial numbers at a time, by Walker's alias method (1977, doi 10.1145/355744.355749).

    One uniform number chooses a cell, and one of the cell's two outcomes. That takes a tenth of the time of
    ``torch.poisson``; numbers of ``CELLS`` or more, which no float32 is fine enough to draw, don't occur.

    Examples
    --------
    >>> Binomial(4, 1, 1.0, seed=0).draw()
    tensor([1., 1., 1., 1.])
    """

    CELLS = 16

    def __init__(self, size: int, n: int, probability: float, seed: int) -> None:
        mass = [math.comb(n, k) * probability**k * (1 - probability) ** (n - k) for k in range(min(n + 1, self.CELLS))]
        self.cut, self.outcome = alias_tables(mass + [0.0] * (self.CELLS - len(mass)))
        self.generator = torch.Generator().manual_seed(seed)
        self.uniform, self.cuts, self.drawn = torch.empty(3, size)
        self.cell, self.beyond = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.bool)

    def draw(self) -> Tensor:
        """So many numbers, in memory that the next ones will take."""
        torch.rand(len(self.uniform), generator=self.generator, out=self.uniform)
        self.cell.copy_(self.uniform.mul_(self.CELLS))
        torch.index_select(self.cut, 0, self.cell, out=self.cuts)
        torch.ge(self.uniform, self.cuts, out=self.beyond)
        self.cell.add_(self.beyond, alpha=self.CELLS)
        return torch.index_select(self.outcome, 0, self.cell, out=self.drawn)


def alias_tables(mass: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Where each cell of a distribution is cut in two, and its outcomes: those below the cuts, then those beyond.

    Examples
    --------
    >>> alias_tables([0.75, 0.25])
    (tensor([1.0000, 1.5000]), tensor([0., 1., 0., 0.]))
    """
    left = [m * len(mass) / sum(mass) for m in mass]
    cut, alias = [k + 1.0 for k in range(len(mass))], list(range(len(mass)))
    poor, rich = ([k for k, m in enumerate(left) if (m < 1) is is_poor] for is_poor in (True, False))
    while poor and rich:
        k, donor = poor.pop(), rich[-1]
        cut[k], alias[k] = k + left[k], donor
        left[donor] -= 1 - left[k]
        if left[donor] < 1:
            poor.append(rich.pop())
    return torch.tensor(cut), torch.tensor([*range(len(mass)), *alias], dtype=torch.float32)


NEURONS, DELAY, CATCH, PRE_TRACE, PROPAGATE, POISSON, LEARN, POST_TRACE, RESET, RECORD = range(10, 110, 10)
WORK = {
    NEURONS: "neurons", DELAY: "delays", CATCH: "catching spikes", PRE_TRACE: "traces", PROPAGATE: "propagation",
    POISSON: "Poisson input", LEARN: "learning", POST_TRACE: "traces", RESET: "neurons", RECORD: "recording",
}  # fmt: skip
"""The order of a step, which is Brian2's: state, thresholds, what arrives, what is learnt from it, resets."""


def build(p: Parameters, pairs: Pairs, steps: int, seed: int = 1) -> tuple[Network, SynapseGroup]:
    """The network, which records so many steps, and its plastic synapses."""
    network = Network(behavior={1: TimeResolution(dt=p.dt)})
    groups = {
        name: NeuronGroup(
            p.size_of(name),
            network,
            tag=name,
            behavior={
                NEURONS: LeakyIntegrateAndFire(p=p),
                DELAY: Axon(delay=p.steps(p.delay)),
                POISSON: PoissonDrive(p=p, seed=seed + k),
                RESET: Reset(),
                RECORD: Raster(steps=steps),
            },
        )
        for k, name in enumerate("ei")
    }
    synapses = {name: _connect(p, network, groups, name, ends) for name, ends in pairs.items()}
    network.initialize(info=False)
    return network, synapses["ee"]


def _connect(p: Parameters, network: Network, groups: dict[str, NeuronGroup], name: str, ends: Tensor) -> SynapseGroup:
    pre, post = (groups[side] for side in name)
    behavior = {
        2: Delays(src=p.steps(p.delay), dst=0),
        3: Weights(values=_weights(p, name, ends)),
        CATCH: PreSpikeCatcher(),
        PROPAGATE: Propagation(onto="v"),
    }
    if name == "ee":
        behavior |= _plasticity(p)
    return SynapseGroup(network, pre, post, tag=name, behavior=behavior)


def _weights(p: Parameters, name: str, ends: Tensor) -> Tensor:
    """Sparse weights, ordered by pre neuron: the synapses that a spike travels lie side by side."""
    weight = p.excitatory_weight if name[0] == "e" else p.inhibitory_weight
    values = torch.full((ends.shape[1],), weight)
    shape = p.size_of(name[0]), p.size_of(name[1])
    return torch.sparse_coo_tensor(ends, values, shape, is_coalesced=True, check_invariants=False)


def _plasticity(p: Parameters) -> dict[int, Behavior]:
    """Traces and learning. The pre trace counts the spikes of this step, the post trace those before it."""
    tau, kept = sampled(p.tau_trace, p.dt), math.exp(-p.dt / p.tau_trace)
    learning = Learning(MULTIPLICATIVE, a_plus=p.rate, a_minus=p.rate * p.alpha, w_max=p.w_max, backend=BACKEND)
    return {
        CATCH + 1: PostSpikeCatcher(),
        PRE_TRACE: PreTrace(tau_s=tau, spike_scale=1 / kept, backend=BACKEND),
        LEARN: learning,
        POST_TRACE: PostTrace(tau_s=tau, backend=BACKEND),
    }


@dataclass(frozen=True)
class Run:
    """What one program's network did: spikes as ``(neuron, step)`` of excitatory neurons first, weights, times."""

    neuron: np.ndarray
    step: np.ndarray
    weights: np.ndarray
    wall: float
    processor: float
    shares: dict[str, float]


def simulate(p: Parameters, pairs: Pairs, seconds: float) -> Run:
    """By tritonstdp."""
    steps = p.steps(1000 * seconds)
    network, plastic = build(p, pairs, steps)
    stopwatch = Stopwatch(network, WORK)
    stopwatch.advance(steps)
    rasters = [group["Raster", 0].spikes for group in network.NeuronGroups]
    step, neuron = torch.cat(rasters, 1).nonzero().T.numpy()
    return Run(neuron, step, plastic.weights.values().numpy(), stopwatch.wall, stopwatch.processor, stopwatch.shares)


def simulate_by_brian2(p: Parameters, pairs: Pairs, seconds: float) -> Run:
    """By Brian2's C++ standalone: the time of its simulation, without generating, compiling and connecting."""
    if importlib.util.find_spec("brian2") is None:
        raise RuntimeError("brian2 is not installed: pip install '.[bench]'")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ends = {
            f"{pair}_{side}": e.numpy() for pair, both in pairs.items() for side, e in zip(_SIDES, both, strict=True)
        }
        np.savez(folder / "pairs.npz", **ends)
        options = {"parameters": asdict(p), "seconds": seconds, "dtype": "float32", "seed": 1}
        (folder / "options.json").write_text(json.dumps(options))
        program = [sys.executable, "-m", "benchmarks.networks.brunel_brian2", name]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"Brian2 fails: {done.stderr}")
        found, times = np.load(folder / "found.npz"), json.loads((folder / "times.json").read_text())
        shares = {part: spent / times["wall"] for part, spent in times["profile"].items()}
        return Run(found["neuron"], found["step"], found["w"], times["wall"], times["processor"], _by_work(shares))


_SIDES = "pre", "post"


def _by_work(shares: dict[str, float]) -> dict[str, float]:
    """Shares of Brian2's code objects as shares of what they do."""
    kinds = {
        "push_spikes": "delays", "ee_post": "learning, post", "ee_pre": "propagation and learning, pre",
        "_pre": "propagation", "poisson": "Poisson input", "monitor": "recording", "": "neurons",
    }  # fmt: skip
    summed: dict[str, float] = {}
    for part, share in shares.items():
        work = next(work for sign, work in kinds.items() if sign in part)
        summed[work] = summed.get(work, 0.0) + share
    return summed


def activity_of(p: Parameters, run: Run, seconds: float) -> dict[str, float]:
    """Rates, regularity, and what has been learnt."""
    excitatory = run.neuron < p.n_excitatory
    return {
        "Hz of E": excitatory.sum() / p.n_excitatory / seconds,
        "Hz of I": (~excitatory).sum() / p.n_inhibitory / seconds,
        "CV of intervals": interval_variation(run.neuron[excitatory], run.step[excitatory]),
        "mean weight": float(run.weights.mean()),
        "weight spread": float(run.weights.std()),
    }


def interval_variation(neuron: np.ndarray, step: np.ndarray) -> float:
    """The coefficient of variation of the intervals between a neuron's spikes, mean over those with three or more.

    Examples
    --------
    >>> interval_variation(np.array([0, 0, 0, 1]), np.array([1, 3, 7, 5]))
    0.3333333333333333
    """
    order = np.lexsort((step, neuron))
    neuron, step = neuron[order], step[order].astype(float)
    intervals, of = np.diff(step)[neuron[1:] == neuron[:-1]], neuron[1:][neuron[1:] == neuron[:-1]]
    count = np.bincount(of)
    enough = count >= 2
    mean = np.bincount(of, intervals)[enough] / count[enough]
    mean_square = np.bincount(of, intervals**2)[enough] / count[enough]
    return float(np.mean(np.sqrt(np.maximum(mean_square - mean**2, 0)) / mean))


TOLERANCES = {"Hz of E": 0.03, "Hz of I": 0.03, "CV of intervals": 0.05, "mean weight": 0.002, "weight spread": 0.05}
"""Both draw numbers of their own, so that spikes differ and statistics agree. Over seeds, rates in a fifth of a second
have a standard deviation of 1 %, of Brian2's networks and of these."""


def run(seconds: float | None) -> list[Result]:
    """Both programs, on the same connections."""
    p, seconds = Parameters(), seconds or 1.0
    pairs = draw_pairs(p)
    runs = {REFERENCE: simulate_by_brian2(p, pairs, seconds), OURS: simulate(p, pairs, seconds)}
    results = [
        Result(
            "f", _WHAT, who, seconds, r.wall, p.steps(1000 * seconds), activity_of(p, r, seconds), r.shares, r.processor
        )
        for who, r in runs.items()
    ]
    check_agreement("(f)", results[1].activity, results[0].activity, TOLERANCES)
    return results


_WHAT = "8,000 E + 2,000 I"
BENCHMARK = Benchmark("f", "Brunel's network with plastic excitation (Brunel10K): 10,000 LIF, 1e7 synapses", run)
