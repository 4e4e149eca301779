"""Rank Triton configurations before, or without, a GPU: by what they launch, and by what has to move.

A launch takes the time of its start, of the programs that leave at once, and of the busy ones: these can't be faster
than DRAM, nor than their own chains of dependent loads, of which a multiprocessor holds at once as many as registers
allow. It is a model: it tells good shapes of work from bad ones, and what it says is marked as an estimate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tritonstdp.inspection import Launch, compile_launch, launches
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.kernels.work import Work
from tritonstdp.machine_code import TARGETS, Target, occupancy, usage
from tritonstdp.problems import make_problem
from tritonstdp.registry import kernels_of
from tritonstdp.rules import Formula
from tritonstdp.topology import Topology

__all__ = ["GPUS", "Estimate", "Gpu", "estimate", "pruned", "rank"]


class Gpu(NamedTuple):
    """What the model knows of a GPU.

    Attributes
    ----------
    name : str
        The product that the figures are for.
    multiprocessors : int
        Their number.
    bandwidth : float
        DRAM bandwidth, bytes a second.
    latency : float
        From a load to its value when it comes from DRAM, in seconds.
    """

    name: str
    multiprocessors: int
    bandwidth: float
    latency: float


GPUS: dict[str, Gpu] = {
    "sm_80": Gpu("A100 80GB", 108, 2.0e12, 0.6e-6),
    "sm_90": Gpu("H100 SXM", 132, 3.35e12, 0.7e-6),
    "sm_100": Gpu("B200", 148, 8.0e12, 0.8e-6),
    "gfx942": Gpu("MI300X", 304, 5.3e12, 0.8e-6),
}
"""By the targets of :data:`tritonstdp.machine_code.TARGETS`; multiprocessors and bandwidth as in the data sheets."""

START = 3e-6
"""Seconds that a launch takes by itself."""

ISSUE = 0.5e-9
"""Seconds between the starts of two programs of a launch."""

KEPT = 32
"""Configurations that are worth a compilation, by the model."""


class Estimate(NamedTuple):
    """What the model says of a configuration.

    Attributes
    ----------
    config : NamedTuple
        The configuration.
    seconds : tuple of float
        A step at each rate, as estimated.
    programs : int
        Programs that are launched.
    registers, spills : int
        Registers a thread, and the instructions that spill them; the largest over the step's kernels.
    occupancy : float
        The share of a multiprocessor's warps that fit; the smallest over the step's kernels.
    """

    config: Any
    seconds: tuple[float, ...]
    programs: int
    registers: int
    spills: int
    occupancy: float

    @property
    def mean(self) -> float:
        """The geometric mean over the rates."""
        return statistics.geometric_mean(self.seconds)


def estimate(gpu: Gpu, launched: Sequence[int], resident: float, work: Sequence[Work]) -> float:
    """Seconds that a step takes.

    Parameters
    ----------
    gpu : Gpu
        The GPU.
    launched : sequence of int
        Programs of each launch, idle ones included.
    resident : float
        Programs that a multiprocessor holds at once.
    work : sequence of Work
        The busy programs.

    Returns
    -------
    float
        The estimate.

    Examples
    --------
    >>> few, many = ([Work(n, 4096, 2)] for n in (1000, 100_000))
    >>> gpu = GPUS["sm_90"]
    >>> estimate(gpu, [100_000], 16, few) < estimate(gpu, [100_000], 16, many)
    True
    """
    slots = gpu.multiprocessors * resident
    starts = START * len(launched) + sum(launched) * max(ISSUE, gpu.latency / slots)
    traffic = sum(kind.programs * kind.nbytes for kind in work) / gpu.bandwidth
    chains = sum(kind.programs * kind.rounds for kind in work) / slots
    longest = max((kind.rounds for kind in work if kind.programs > 0), default=0.0)
    return starts + max(traffic, gpu.latency * max(chains, longest))


def rank(
    configs: Sequence[Any],
    formula: Formula,
    topology: Topology,
    dtype: torch.dtype,
    target: str,
    rates: Sequence[float],
    gpu: Gpu | None = None,
) -> tuple[list[Estimate], dict[Any, str]]:
    """Rank configurations for a GPU that need not be there: by the model, then compiled, then by the model again.

    Parameters
    ----------
    configs : sequence of NamedTuple
        The configurations, the default first; it is always kept.
    formula, topology, dtype
        The case.
    target : str
        A name in :data:`GPUS`.
    rates : sequence of float
        The fractions of spiking neurons.
    gpu : Gpu, optional
        Other figures than those of ``GPUS[target]``.

    Returns
    -------
    list of Estimate, dict
        The estimates, the fastest first, and why each other configuration is left out.

    Raises
    ------
    ValueError
        If there is no model of the topology's kernels.
    """
    model = kernels_of(topology.name, "work")
    if model is None:
        raise ValueError(f"there is no cost model of {topology.name} kernels: tune on the GPU itself")
    gpu = gpu or GPUS[target]
    limits = TARGETS[target]
    problem = make_problem(formula, topology, dtype=dtype)
    recorded = {config: launches(problem, config) for config in configs}

    def seconds(config: Any, occupancy: float) -> tuple[float, ...]:
        programs = [math.prod(launch.grid) for launch in recorded[config]]
        resident = max(1.0, occupancy * limits.warps / config.num_warps)
        return tuple(
            estimate(
                gpu, programs, resident,
                model.work(topology, config, rate, dtype.itemsize, formula.rule.modulated),
            )
            for rate in rates
        )  # fmt: skip

    default = configs[0]
    promising = sorted(configs, key=lambda config: statistics.geometric_mean(seconds(config, 1.0)))[:KEPT]
    left_out = {c: "far behind by the model" for c in configs if c != default and c not in promising}
    estimates = []
    for config in (c for c in configs if c not in left_out):
        try:
            registers, spills, occupancy = _compiled(recorded[config], limits)
        except CannotCompileError as error:
            left_out[config] = str(error)
            continue
        if spills and config != default:
            left_out[config] = f"{spills} spills"
            continue
        launched = sum(math.prod(launch.grid) for launch in recorded[config])
        estimates.append(Estimate(config, seconds(config, occupancy), launched, registers, spills, occupancy))
    return sorted(estimates, key=lambda found: found.mean), left_out


def pruned(
    configs: Sequence[Any],
    formula: Formula,
    topology: Topology,
    dtype: torch.dtype,
    device: str,
    rates: Sequence[float],
) -> list[Any]:
    """The configurations that are worth timing on a GPU, the default first; all where there is no model of it."""
    target = _target_of(device)
    if target is None or kernels_of(topology.name, "work") is None:
        return list(configs)
    found = torch.cuda.get_device_properties(device)
    gpu = GPUS[target]._replace(name=found.name, multiprocessors=found.multi_processor_count)
    estimates, _ = rank(configs, formula, topology, dtype, target, rates, gpu)
    return sorted((each.config for each in estimates), key=lambda config: config != configs[0])


def _compiled(recorded: Sequence[Launch], limits: Target) -> tuple[int, int, float]:
    """Registers, spills and occupancy: the worst over the launches of a step."""
    registers, spills, share = 0, 0, 1.0
    for launch in recorded:
        compiled = compile_launch(launch, limits)
        used, metadata = usage(compiled), compiled.metadata
        registers, spills = max(registers, used["registers"]), max(spills, used["spills"])
        share = min(share, occupancy(limits, used["registers"], metadata.shared, metadata.num_warps))
    return registers, spills, share


def _target_of(device: str) -> str | None:
    """The target that compiles most like a GPU that is there."""
    if torch.device(device).type != "cuda":
        return None
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return "sm_80" if major < 9 else "sm_90" if major == 9 else "sm_100"
