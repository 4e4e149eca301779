"""The Izhikevich network of PymoNNtorch's paper, all to all with trace STDP, beside the paper's own formulas.

doi 10.3389/fninf.2024.1331220; the formulas are those of its program for PymoNNtorch on a CPU
(saeedark/Fast-SNN-PymoNNto-rch). Both networks have the same neurons, start and noise; they differ in how spikes arrive
and how synapses learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup

from benchmarks.networks.behaviors import BACKEND, MULTIPLICATIVE, Propagation, Raster, TimeResolution, Weights
from benchmarks.networks.benchmark import OURS, Benchmark, Result, Stopwatch, check_agreement
from tritonstdp.behaviors import Learning, PostSpikeCatcher, PostTrace, PreSpikeCatcher, PreTrace

REFERENCE = "the paper's formulas"
SIZES = (2500, 5000, 10_000)
TURN = 10


@dataclass(frozen=True)
class Parameters:
    """The network's numbers; a step is 1 ms."""

    n: int
    a: float = 0.02
    b: float = 0.04
    c: float = -65.0
    d: float = 2.0
    threshold: float = 30.0
    offset: float = 15.0
    tau: float = 20.0
    a_plus: float = 0.01
    a_minus: float = 0.012

    @property
    def strength(self) -> float:
        """The current that a spike brings through a weight of 1."""
        return 1 / self.n


class Izhikevich(Behavior):
    """Izhikevich's neuron (2003, doi 10.1109/TNN.2003.820440), by Euler's steps."""

    def initialize(self, neurons: Any) -> None:
        self.p = self.parameter("p")
        generator = torch.Generator().manual_seed(2)
        neurons.u = 12 + 7 * torch.randn(neurons.size, generator=generator)
        neurons.v = -65 + 7 * torch.randn(neurons.size, generator=generator)
        neurons.spikes = neurons.vector(dtype=torch.bool)

    def forward(self, neurons: Any) -> None:
        p, u, v, dt = self.p, neurons.u, neurons.v, neurons.network.dt
        torch.ge(v, p.threshold, out=neurons.spikes)
        v.masked_fill_(neurons.spikes, p.c)
        u.add_(neurons.spikes, alpha=p.d)
        dv = (0.04 * v).add_(5).mul_(v).add_(140).sub_(u).add_(neurons.I)
        du = (p.b * v).sub_(u)
        v.add_(dv, alpha=dt)
        u.add_(du, alpha=p.a * dt)


class Current(Behavior):
    """A steady current, noise, and what arrives from other neurons: the sum of weights in ``neurons.arriving``."""

    def initialize(self, neurons: Any) -> None:
        self.p = self.parameter("p")
        self.generator = torch.Generator().manual_seed(3)
        neurons.I, neurons.arriving = neurons.vector(), neurons.vector()

    def forward(self, neurons: Any) -> None:
        neurons.I.normal_(self.p.offset, generator=self.generator)
        neurons.I.add_(neurons.arriving, alpha=self.p.strength)
        neurons.arriving.zero_()


class SummedRows(Behavior):
    """Spikes arrive as the paper has it: the rows of those that spiked are copied, and summed."""

    def forward(self, synapse: Any) -> None:
        synapse.dst.arriving += torch.sum(synapse.weights[synapse.src.spikes], axis=0)


class PaperSTDP(Behavior):
    """Traces and STDP as the paper has them: rows, then columns, are copied, changed and written back."""

    def initialize(self, synapse: Any) -> None:
        self.p = self.parameter("p")
        self.x, self.y = synapse.src.vector(), synapse.dst.vector()

    def forward(self, synapse: Any) -> None:
        p, w, dt = self.p, synapse.weights, synapse.network.dt
        pre, post = synapse.src.spikes, synapse.dst.spikes
        self.x += pre * 1.0 - self.x / p.tau * dt
        self.y += post * 1.0 - self.y / p.tau * dt
        w[pre] -= self.y[None, :] * p.a_minus * w[pre]
        w[:, post] += self.x[:, None] * p.a_plus * (1 - w[:, post])


PROPAGATE, CURRENT, NEURONS, CATCH, TRACE, LEARN, RECORD = range(10, 80, 10)
WORK = {
    PROPAGATE: "propagation", CURRENT: "noise", NEURONS: "neurons", CATCH: "catching spikes", TRACE: "traces",
    LEARN: "learning", RECORD: "recording",
}  # fmt: skip


def ours(p: Parameters) -> dict[int, Behavior]:
    """How spikes arrive and synapses learn in tritonstdp. The trace decays before the spikes of a step are added."""
    trace = {"tau_s": p.tau, "spike_scale": 1 / (1 - 1 / p.tau), "backend": BACKEND}
    return {
        PROPAGATE: Propagation(onto="arriving"),
        CATCH: PreSpikeCatcher(),
        CATCH + 1: PostSpikeCatcher(),
        TRACE: PreTrace(**trace),
        TRACE + 1: PostTrace(**trace),
        LEARN: Learning(MULTIPLICATIVE, a_plus=p.a_plus, a_minus=p.a_minus, backend=BACKEND),
    }


def theirs(p: Parameters) -> dict[int, Behavior]:
    """How spikes arrive and synapses learn in the paper's program."""
    return {PROPAGATE: SummedRows(), LEARN: PaperSTDP(p=p)}


def build(p: Parameters, learning: dict[int, Behavior], steps: int) -> tuple[Network, SynapseGroup]:
    """A network that records so many steps, and its synapses."""
    network = Network(behavior={1: TimeResolution(dt=1.0)})
    neurons = NeuronGroup(
        p.n,
        network,
        behavior={CURRENT: Current(p=p), NEURONS: Izhikevich(p=p), RECORD: Raster(steps=steps)},
    )
    behavior = {3: Weights(values=draw_weights(p))} | learning
    synapses = SynapseGroup(network, neurons, neurons, behavior=behavior)
    network.initialize(info=False)
    return network, synapses


def draw_weights(p: Parameters) -> torch.Tensor:
    """The weights at the start, from 0 to 1."""
    return torch.rand(p.n, p.n, generator=torch.Generator().manual_seed(1))


def activity_of(raster: torch.Tensor, learnt: torch.Tensor) -> dict[str, float]:
    """How much, and how much together, the neurons fire, and by how much weights have changed."""
    in_step = 1000 * raster.float().mean(1)
    return {
        "Hz": in_step.mean().item(),
        "Hz in the busiest step": in_step.max().item(),
        "mean weight change": learnt.mean().item(),
        "spread of weight changes": learnt.std().item(),
    }


SAME_STEPS = 100
"""For so many steps both networks spike alike; later, rounding may have moved a spike."""
TOLERANCES = {
    "Hz": 0.02, "Hz in the busiest step": 0.05, "mean weight change": 0.02, "spread of weight changes": 0.02,
}  # fmt: skip


def compare(p: Parameters, steps: int) -> list[Result]:
    """Both networks of one size, in turns."""
    what, networks = f"{p.n:,} neurons", {REFERENCE: build(p, theirs(p), steps), OURS: build(p, ours(p), steps)}
    stopwatches = {who: Stopwatch(network, WORK) for who, (network, _) in networks.items()}
    for done in range(0, steps, TURN):
        for stopwatch in stopwatches.values():
            stopwatch.advance(min(TURN, steps - done))
    results, rasters = [], []
    for who, (network, synapses) in networks.items():
        raster = network["Raster", 0].spikes
        activity, watch = activity_of(raster, synapses.weights.sub_(draw_weights(p))), stopwatches[who]
        results.append(Result("g", what, who, steps / 1000, watch.wall, steps, activity, watch.shares, watch.processor))
        rasters.append(raster)
    check_same_start(*rasters)
    check_agreement(f"(g), {what}", results[1].activity, results[0].activity, TOLERANCES)
    return results


def check_same_start(reference: torch.Tensor, found: torch.Tensor) -> None:
    """Compare rasters of two networks over the first steps.

    Raises
    ------
    RuntimeError
        If a neuron has spiked in one and not in the other.
    """
    apart = (reference != found)[:SAME_STEPS].any(1).nonzero()
    if len(apart):
        raise RuntimeError(f"(g): the spikes differ from step {apart[0].item()} on, of {SAME_STEPS} that must agree")


def run(seconds: float | None) -> list[Result]:
    """Each size."""
    steps = round(1000 * (seconds or 0.3))
    return [result for n in SIZES for result in compare(Parameters(n), steps)]


BENCHMARK = Benchmark("g", "PymoNNtorch's paper: Izhikevich neurons, all to all, trace STDP (dense)", run)
