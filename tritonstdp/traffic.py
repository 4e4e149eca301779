"""A meter for memory traffic: a step runs in Triton's interpreter, and every access is counted.

It counts what the kernel asks for, at the grain in which GPUs move memory: sectors of 32 bytes. What caches would save
beyond that is not modelled: a sector counts once for a launch, however often it is touched. And it counts what programs
do: how many do nothing, what the longest of them takes, and how often that one waits for memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tritonstdp.inspection import Cases, config_name, example_for, fitting, gpu_module
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.kernels import items
from tritonstdp.kernels.items import USUAL_PROCESSORS
from tritonstdp.problems import Problem, PropagationProblem, make_problem
from tritonstdp.registry import formula_named, meeting_of
from tritonstdp.topology import TOPOLOGIES
from tritonstdp.topology.base import Sizes

__all__ = ["SECTOR_BYTES", "Meter", "Programs", "Traffic", "measure_traffic", "metering", "traffic_rows"]

SECTOR_BYTES = 32
"""A GPU reads and writes its memory in sectors of so many bytes."""

WARP = 32


@dataclass
class Traffic:
    """What one step did to one buffer.

    Attributes
    ----------
    elements_loaded, elements_stored : int
        Elements, each counted as often as it was accessed.
    sectors_loaded, sectors_stored : int
        Distinct sectors.
    lanes : int
        Elements of every block that was stored, masked out or not: what was computed.
    fewest : int or None
        The fewest sectors that a step could touch for these spikes; None where that is not known.
    sector_elements : int
        Elements in a sector.
    """

    elements_loaded: int = 0
    elements_stored: int = 0
    sectors_loaded: int = 0
    sectors_stored: int = 0
    lanes: int = 0
    fewest: int | None = None
    sector_elements: int = 1

    @property
    def excess_sectors(self) -> float | None:
        """Sectors touched over the fewest possible."""
        touched = max(self.sectors_loaded, self.sectors_stored)
        return touched / self.fewest if self.fewest else None

    @property
    def excess_lanes(self) -> float | None:
        """Elements computed over the elements of the fewest sectors."""
        return self.lanes / (self.fewest * self.sector_elements) if self.fewest and self.lanes else None


@dataclass
class Programs:
    """What the programs of a kernel's launches did.

    Attributes
    ----------
    programs, idle : int
        How many there were, and how many of them stored nothing.
    turns : int
        How often the one that waits most went on to load after it had stored, the first load counted as well: what it
        asks for in one turn is in flight at once.
    operations, longest : int
        Operations of a warp, by all programs and by the longest: what Triton's language says, before any compiler; an
        operation on a block counts once for 32 of its elements, and a scalar's once for each warp.
    """

    programs: int = 0
    idle: int = 0
    turns: int = 0
    operations: int = 0
    longest: int = 0


class _Program:
    """What the present program has done so far."""

    def __init__(self) -> None:
        self.operations = self.turns = 0
        self.stored, self.last = False, ""

    def access(self, kind: str, active: bool) -> None:
        self.turns += kind == "load" and self.last != "load"
        self.stored |= kind == "store" and active
        self.last = kind


@dataclass
class Meter:
    """Counts the accesses to some tensors, told apart by their addresses, and what programs do.

    Attributes
    ----------
    tensors : dict of str to Tensor
        What to count accesses to.
    num_warps : int
        Warps a program, where a launch does not say it.
    kernels : dict of str to Programs
        What the programs of each kernel did.

    Examples
    --------
    >>> meter = Meter({"weights": torch.zeros(8)})
    >>> with metering(meter):  # doctest: +SKIP
    ...     kernel[(1,)](...)
    >>> meter.finish()["weights"].elements_loaded
    0
    """

    tensors: dict[str, Tensor]
    num_warps: int = 1
    kernels: dict[str, Programs] = field(default_factory=dict)
    _program: _Program | None = None
    _traffic: dict[str, Traffic] = field(default_factory=dict)
    _touched: dict[tuple[str, str], list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, tensor in self.tensors.items():
            self._traffic[name] = Traffic(sector_elements=SECTOR_BYTES // tensor.element_size())

    def _name(self, address: int) -> str | None:
        for name, tensor in self.tensors.items():
            span = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            if 0 <= address - tensor.data_ptr() < span * tensor.element_size():
                return name
        return None

    def begin(self) -> None:
        """A program begins."""
        self._program = _Program()

    def end(self, kernel: str) -> None:
        """The program ends, if one has begun."""
        done, self._program = self._program, None
        if done is None:
            return
        programs = self.kernels.setdefault(kernel, Programs())
        programs.programs += 1
        programs.idle += not done.stored
        programs.turns = max(programs.turns, done.turns)
        programs.operations += done.operations
        programs.longest = max(programs.longest, done.operations)

    def operate(self, elements: int) -> None:
        """Count one operation on a block, or on a scalar."""
        if self._program is not None:
            self._program.operations += max(self.num_warps, -(-elements // WARP))

    def count(self, kind: str, addresses: Any, mask: Any) -> None:
        """Count one access of a block."""
        mask = np.broadcast_to(mask, addresses.shape)
        active = addresses[mask]
        self.operate(addresses.size)
        if self._program is not None:
            self._program.access(kind, active.size > 0)
        name = self._name(int(active[0] if active.size else addresses.min()))
        if name is None:
            return
        traffic = self._traffic[name]
        if kind == "load":
            traffic.elements_loaded += active.size
        else:
            traffic.elements_stored += active.size
            traffic.lanes += addresses.size
        self._touched.setdefault((kind, name), []).append(np.unique(active // SECTOR_BYTES))

    def finish(self) -> dict[str, Traffic]:
        """The traffic by buffer."""
        for (kind, name), sectors in self._touched.items():
            n = np.unique(np.concatenate(sectors)).size
            setattr(self._traffic[name], "sectors_loaded" if kind == "load" else "sectors_stored", n)
        return self._traffic


@contextmanager
def metering(meter: Meter) -> Iterator[None]:
    """Let a meter count what kernels access in Triton's interpreter meanwhile."""
    from triton.runtime.interpreter import GridExecutor
    from triton.runtime.interpreter import interpreter_builder as builder

    load, store, add, place, run = (
        builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw, builder.set_grid_idx,
        GridExecutor.__call__,
    )  # fmt: skip
    running = ""

    def metered_load(pointers: Any, mask: Any, *other: Any) -> Any:
        meter.count("load", pointers.data, mask.data)
        return load(pointers, mask, *other)

    def metered_store(pointers: Any, value: Any, mask: Any, *other: Any) -> Any:
        meter.count("store", pointers.data, mask.data)
        return store(pointers, value, mask, *other)

    def metered_add(operation: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        meter.count("store", pointers.data, mask.data)
        return add(operation, pointers, value, mask, *rest)

    def metered_place(*place_of: int) -> None:
        meter.end(running)
        meter.begin()
        place(*place_of)

    def metered_run(executor: Any, *arguments: Any, **options: Any) -> None:
        nonlocal running
        running, meter.num_warps = executor.fn.__name__, options.get("num_warps", meter.num_warps)
        run(executor, *arguments, **options)
        meter.end(running)

    def counted(operation: Any) -> Any:
        def operate(*operands: Any) -> Any:
            result = operation(*operands)
            meter.operate(result.data.size)
            return result

        return operate

    with ExitStack() as stack:
        for owner, name, metered in (
            (builder, "create_masked_load", metered_load),
            (builder, "create_masked_store", metered_store),
            (builder, "create_atomic_rmw", metered_add),
            (builder, "set_grid_idx", metered_place),
            (GridExecutor, "__call__", metered_run),
            *((builder, name, counted(getattr(builder, name))) for name in ("unary_op", "binary_op", "ternary_op")),
        ):
            stack.enter_context(mock.patch.object(owner, name, metered))
        yield


def measure_traffic(
    problem: Problem, config: tuple[Any, ...] | None = None
) -> tuple[dict[str, Traffic], dict[str, Programs]]:
    """Run one step in Triton's interpreter and count its memory traffic, and what its programs do.

    Parameters
    ----------
    problem : Problem
        The problem, on the CPU; the step writes to it.
    config : tuple, optional
        The kernel's ``Config``; its default one otherwise.

    Returns
    -------
    dict of str to Traffic, dict of str to Programs
        The traffic of each tensor of the problem and of its topology's plan, by name; and each kernel's programs.

    Raises
    ------
    RuntimeError
        If Triton was imported without its interpreter.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> from tritonstdp.problems import make_problem
    >>> from tritonstdp.rules import Formula, stdp
    >>> traffic, programs = measure_traffic(make_problem(Formula.of(stdp), Dense(64, 64)))  # doctest: +SKIP
    >>> traffic["weights"].excess_sectors, programs["items_kernel"].idle  # doctest: +SKIP
    (1.0, 0)
    """
    module = gpu_module(problem.topology.name, problem.case.operation)
    config = module.DEFAULT if config is None else config
    needed = _needed(problem)
    meter = Meter({**problem.tensors, **_plan(problem)})
    with swift_interpreter(), metering(meter), mock.patch.object(items, "interpreted_processors", USUAL_PROCESSORS):
        problem.run(module.build(problem.case, config))
    traffic = meter.finish()
    for name, elements in needed.items():
        traffic[name].fewest = _sectors(meter.tensors[name], elements)
    return traffic, meter.kernels


def _plan(problem: Problem) -> dict[str, Tensor]:
    topology = problem.topology
    plan = {f.name: getattr(topology, f.name) for f in fields(topology)}
    return {name: value for name, value in plan.items() if isinstance(value, Tensor) and value.numel()}


def _needed(problem: Problem) -> dict[str, Tensor]:
    """Which elements a step can't do without, where that is known: True at each."""
    topology = problem.topology
    meeting, pre = meeting_of(topology.name), problem.signals["pre_spike"] != 0
    needed = {"pre_spike": torch.ones_like(pre)}
    if isinstance(problem, PropagationProblem):
        read = meeting.at_pre(topology, pre.float()) != 0
        read = read.any(-1) if meeting.shares_weights else read
        return needed | {"weights": read.expand(topology.weights_shape)}
    post = problem.signals["post_spike"] != 0
    changing = meeting.touched(topology, pre.float(), post.float()).expand(topology.weights_shape)
    needed["post_spike"] = torch.ones_like(post)
    if problem.c is not None:
        return needed | dict.fromkeys(("weights", "c"), torch.ones_like(changing))
    return needed | {"weights": changing} | topology.entries_read(pre, post)


def _sectors(tensor: Tensor, elements: Tensor) -> int:
    """The number of sectors that hold the given elements."""
    offsets = sum(
        index * stride for index, stride in zip(elements.nonzero(as_tuple=True), tensor.stride(), strict=True)
    )
    addresses = tensor.data_ptr() + torch.as_tensor(offsets) * tensor.element_size()
    return int(torch.unique(addresses // SECTOR_BYTES).numel())


def traffic_rows(cases: Cases, rates: Sequence[float], shapes: Sequence[Sizes] = ()) -> list[dict[str, Any]]:
    """Count the memory traffic of kernels at every rate.

    Parameters
    ----------
    cases : iterable
        Pairs of ``(rule, topology, bound, dtype)`` and the kernel's ``Config``.
    rates : sequence of float
        The shares of neurons that spike.
    shapes : sequence of tuple of int
        The sizes of groups, each for the topologies that take it; a small example's where none is given.

    Returns
    -------
    list of dict
        A row for each buffer and one for each kernel, as :func:`tritonstdp.inspection.worse` compares them.
    """
    rows = []
    taken = [(case, sizes) for case in cases for sizes in fitting(case[0][1], shapes)]
    for (((rule, topology, bound, dtype), config), sizes), rate in itertools.product(taken, rates):
        formula = formula_named(rule, bound, bound)
        group = example_for(topology, "metered") if sizes is None else TOPOLOGIES[topology].of_sizes(sizes)
        names = {"rule": rule, "topology": topology, "bound": bound, "dtype": dtype}
        names |= {} if sizes is None else {"shape": "x".join(map(str, sizes))}
        names |= {"config": config_name(config, gpu_module(topology, formula.operation).DEFAULT), "rate": f"{rate:g}"}
        problem = make_problem(formula, group, dtype=getattr(torch, dtype), rate=rate)
        traffic_of, programs_of = measure_traffic(problem, config)
        for kernel, programs in programs_of.items():
            row = {**names, "kernel": kernel}
            rows.append({"key": "/".join(row.values()), **row, **asdict(programs)})
        for buffer, traffic in traffic_of.items():
            row = {**names, "buffer": buffer}
            figures = {"excess_sectors": traffic.excess_sectors, "excess_lanes": traffic.excess_lanes}
            rows.append({"key": "/".join(row.values()), **row, **asdict(traffic), **figures})
    return rows
