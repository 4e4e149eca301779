"""What a step takes on a GPU that need not be there: a model, by which configurations are ranked.

A launch takes the time of its start, of handing out its programs, and of what the busy ones do. These are no faster
than DRAM; nor than the bytes that they have asked for at once allow, since each load takes the latency of memory
(Little's law); nor than their own chains of loads that wait for each other. The launches of a step follow one another.
It tells good shapes of work from bad ones; it knows nothing of caches, and what it says is marked as an estimate.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tritonstdp.inspection import Cases, Launch, compile_launch, config_name, gpu_module, launches
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.kernels.work import Work, whole_pass
from tritonstdp.machine_code import TARGETS, Target, occupancy, usage
from tritonstdp.problems import make_problem
from tritonstdp.registry import AnyFormula, kernels_of
from tritonstdp.rules import BOUNDS, RULES, Formula
from tritonstdp.topology import TOPOLOGIES, Topology
from tritonstdp.topology.base import Sizes

__all__ = ["GPUS", "Estimate", "Gpu", "estimate", "estimated_pass", "pruned", "rank", "target_of", "timed_rows"]


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
        From a load to its value when it comes from DRAM and others are under way, in seconds. Measured alone it is
        some 0.3 to 0.5 microseconds (Luo et al. 2024, arXiv 2402.13499).
    near : float
        The same from the second-level cache; alone, 0.15 to 0.2 microseconds.
    start : float
        Seconds that a launch takes by itself, in a captured graph: a graph of kernels of 2.9 microseconds took 3.4 for
        each (Gray 2019, "Getting started with CUDA graphs"), and these began and ended within theirs.
    """

    name: str
    multiprocessors: int
    bandwidth: float
    latency: float
    near: float = 0.3e-6
    start: float = 1.5e-6


GPUS: dict[str, Gpu] = {
    "sm_80": Gpu("A100 80GB", 108, 2.0e12, 0.6e-6),
    "sm_90": Gpu("H100 SXM", 132, 3.35e12, 0.7e-6),
    "sm_100": Gpu("B200", 148, 8.0e12, 0.8e-6),
    "gfx942": Gpu("MI300X", 304, 5.3e12, 0.8e-6),
}
"""By the targets of :data:`tritonstdp.machine_code.TARGETS`; multiprocessors and bandwidth as in the data sheets."""

REACHED = 0.9
"""The share of the bandwidth of a data sheet that a copy reaches."""

ISSUE = 0.05e-9
"""Seconds between the starts of two programs of a launch: on an H200, 98,000 take no longer than what they move."""

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
        The busy programs of each launch.

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
    return sum(_launch_seconds(gpu, n, slots, kind) for n, kind in zip(launched, work, strict=True))


def _launch_seconds(gpu: Gpu, launched: int, slots: float, kind: Work) -> float:
    if not kind.programs:
        return gpu.start + launched * ISSUE
    in_flight = min(kind.programs, slots) * kind.flight
    bandwidth = min(REACHED * gpu.bandwidth, in_flight / gpu.latency)
    moved = kind.programs * kind.nbytes / bandwidth if kind.nbytes else 0.0
    chains = (kind.rounds * gpu.latency + kind.near * gpu.near) * max(1.0, kind.programs / slots)
    return gpu.start + launched * ISSUE + max(moved, chains)


def estimated_pass(gpu: Gpu, topology: Topology, itemsize: int, modulated: bool) -> float:
    """Seconds that a step of ``torch.compile`` takes, which passes over all synapses.

    Parameters
    ----------
    gpu : Gpu
        The GPU.
    topology : Topology
        The group.
    itemsize : int
        Bytes of a weight.
    modulated : bool
        Whether there is an eligibility trace as well.

    Returns
    -------
    float
        The estimate.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> 20e-6 < estimated_pass(GPUS["sm_90"], Dense(4000, 4000), 4, False) < 100e-6
    True
    """
    model = kernels_of(topology.name, "work")
    passes = getattr(model, "whole_pass", whole_pass)(topology, itemsize, modulated)
    return estimate(gpu, [math.ceil(kind.programs) for kind in passes], 8, passes)


def rank(
    configs: Sequence[Any],
    formula: AnyFormula,
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
        If there is no model of the kernels.
    """
    model = _model_of(formula, topology)
    if model is None:
        raise ValueError(f"there is no cost model of {formula.name} on {topology.name}: tune on the GPU itself")
    gpu = gpu or GPUS[target]
    limits = TARGETS[target]
    problem = make_problem(formula, topology, dtype=dtype)
    recorded = {config: launches(problem, config) for config in configs}

    def seconds(config: Any, occupancy: float) -> tuple[float, ...]:
        programs = [math.prod(launch.grid) for launch in recorded[config]]
        resident = max(1.0, occupancy * limits.warps / config.num_warps)
        works = [model.work(topology, config, rate, dtype.itemsize, problem.c is not None) for rate in rates]
        # small groups are recorded with lists, too, which no GPU makes of them
        return tuple(estimate(gpu, programs[-len(work) :], resident, work) for work in works)

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


def timed_rows(
    cases: Cases, targets: Sequence[str], rates: Sequence[float], shapes: Sequence[Sizes] = ()
) -> list[dict[str, Any]]:
    """Estimate steps of some sizes, beside a pass by ``torch.compile``.

    Parameters
    ----------
    cases : iterable
        Pairs of ``(rule, topology, bound, dtype)`` and the kernel's ``Config``.
    targets : sequence of str
        Names in :data:`GPUS`.
    rates : sequence of float
        The fractions of spiking neurons.
    shapes : sequence of tuple of int
        The sizes, each for the topologies that take it; those at which a topology is timed where none is given.

    Returns
    -------
    list of dict
        A row for each case, size, target and rate.

    Raises
    ------
    CannotCompileError
        If a kernel does not compile.
    """
    rows = []
    for ((rule, topology, bound, dtype), config), target in itertools.product(cases, targets):
        formula, kind = Formula.of(RULES[rule], BOUNDS[bound], BOUNDS[bound]), TOPOLOGIES[topology]
        for sizes in filter(kind.takes, shapes) if shapes else kind.examples.timed:
            group, weights = kind.of_sizes(sizes), getattr(torch, dtype)
            [found], _ = rank([config], formula, group, weights, target, rates)
            whole = estimated_pass(GPUS[target], group, weights.itemsize, formula.rule.modulated)
            names = {
                "rule": rule, "topology": topology, "shape": "x".join(map(str, sizes)), "bound": bound, "dtype": dtype,
                "config": config_name(config, gpu_module(topology).DEFAULT), "target": target,
            }  # fmt: skip
            for rate, seconds in zip(rates, found.seconds, strict=True):
                row = {**names, "rate": f"{rate:g}"}
                figures = {"estimated_us": 1e6 * seconds, "estimated_us_of_torch_compile": 1e6 * whole}
                rows.append({"key": "/".join(row.values()), **row, **figures})
    return rows


def pruned(
    configs: Sequence[Any],
    formula: AnyFormula,
    topology: Topology,
    dtype: torch.dtype,
    device: str,
    rates: Sequence[float],
) -> list[Any]:
    """The configurations that are worth timing on a GPU, the default first; all where there is no model of it."""
    target = target_of(device)
    if target is None or _model_of(formula, topology) is None:
        return list(configs)
    found = torch.cuda.get_device_properties(device)
    gpu = GPUS[target]._replace(name=found.name, multiprocessors=found.multi_processor_count)
    estimates, _ = rank(configs, formula, topology, dtype, target, rates, gpu)
    return sorted((each.config for each in estimates), key=lambda config: config != configs[0])


def _model_of(formula: AnyFormula, topology: Topology) -> Any:
    """What is known of the launches of a step; None of spike propagation, and of topologies that do not say it."""
    return kernels_of(topology.name, "work", formula.operation)


def _compiled(recorded: Sequence[Launch], limits: Target) -> tuple[int, int, float]:
    """Registers, spills and occupancy: the worst over the launches of a step."""
    registers, spills, share = 0, 0, 1.0
    for launch in recorded:
        compiled = compile_launch(launch, limits)
        used, metadata = usage(compiled), compiled.metadata
        registers, spills = max(registers, used["registers"]), max(spills, used["spills"])
        share = min(share, occupancy(limits, used["registers"], metadata.shared, metadata.num_warps))
    return registers, spills, share


def target_of(device: str) -> str | None:
    """The target that compiles most like a GPU that is there; None for a device of another kind."""
    if torch.device(device).type != "cuda":
        return None
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    return "sm_80" if major < 9 else "sm_90" if major == 9 else "sm_100"
