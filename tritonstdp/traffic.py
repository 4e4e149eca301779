"""A meter for memory traffic: a step runs in Triton's interpreter, and every access is counted.

It counts what the kernel asks for, at the grain in which GPUs move memory: sectors of 32 bytes. What caches would save
beyond that is not modelled: a sector counts once for a launch, however often it is touched.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tritonstdp.inspection import Cases, config_name, example_for, gpu_module
from tritonstdp.interpretation import swift_interpreter
from tritonstdp.problems import Problem, make_problem
from tritonstdp.registry import kernels_of, meeting_of
from tritonstdp.rules import BOUNDS, RULES, Formula

__all__ = ["SECTOR_BYTES", "Meter", "Traffic", "measure_traffic", "metering", "traffic_rows"]

SECTOR_BYTES = 32


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
class Meter:
    """Counts the accesses to some tensors, told apart by their addresses.

    Attributes
    ----------
    tensors : dict of str to Tensor
        What to count accesses to.

    Examples
    --------
    >>> meter = Meter({"weights": torch.zeros(8)})
    >>> with metering(meter):  # doctest: +SKIP
    ...     kernel[(1,)](...)
    >>> meter.finish()["weights"].elements_loaded
    0
    """

    tensors: dict[str, Tensor]
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

    def count(self, kind: str, addresses: Any, mask: Any) -> None:
        """Count one access of a block."""
        mask = np.broadcast_to(mask, addresses.shape)
        active = addresses[mask]
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
    from triton.runtime.interpreter import interpreter_builder as builder

    load, store = builder.create_masked_load, builder.create_masked_store

    def metered_load(pointers: Any, mask: Any, *other: Any) -> Any:
        meter.count("load", pointers.data, mask.data)
        return load(pointers, mask, *other)

    def metered_store(pointers: Any, value: Any, mask: Any, *other: Any) -> Any:
        meter.count("store", pointers.data, mask.data)
        return store(pointers, value, mask, *other)

    with (
        mock.patch.object(builder, "create_masked_load", metered_load),
        mock.patch.object(builder, "create_masked_store", metered_store),
    ):
        yield


def measure_traffic(problem: Problem, config: tuple[Any, ...] | None = None) -> dict[str, Traffic]:
    """Run one step in Triton's interpreter and count its memory traffic.

    Parameters
    ----------
    problem : Problem
        The problem, on the CPU; the step writes to it.
    config : tuple, optional
        The kernel's ``Config``; its default one otherwise.

    Returns
    -------
    dict of str to Traffic
        The traffic of each tensor of the problem and of its topology's plan, by name.

    Raises
    ------
    RuntimeError
        If Triton was imported without its interpreter.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> from tritonstdp.problems import make_problem
    >>> from tritonstdp.rules import Formula, stdp
    >>> measure_traffic(make_problem(Formula.of(stdp), Dense(64, 64)))["weights"].excess_sectors  # doctest: +SKIP
    1.0
    """
    module = kernels_of(problem.topology.name, "gpu")
    step = module.build(problem.case, module.DEFAULT if config is None else config)
    needed = _needed(problem)
    meter = Meter({**problem.tensors, **_plan(problem)})
    with swift_interpreter(), metering(meter):
        problem.run(step)
    traffic = meter.finish()
    for name, elements in needed.items():
        traffic[name].fewest = _sectors(meter.tensors[name], elements)
    return traffic


def _plan(problem: Problem) -> dict[str, Tensor]:
    topology = problem.topology
    plan = {f.name: getattr(topology, f.name) for f in fields(topology)}
    return {name: value for name, value in plan.items() if isinstance(value, Tensor) and value.numel()}


def _needed(problem: Problem) -> dict[str, Tensor]:
    """Which elements a step can't do without, where that is known: True at each."""
    topology = problem.topology
    pre, post = problem.signals["pre_spike"] != 0, problem.signals["post_spike"] != 0
    changing = meeting_of(topology.name).touched(topology, pre.float(), post.float()).expand(topology.weights_shape)
    needed = {"pre_spike": torch.ones_like(pre), "post_spike": torch.ones_like(post)}
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


def traffic_rows(cases: Cases, rates: Sequence[float]) -> list[dict[str, Any]]:
    """Count the memory traffic of kernels at every rate.

    Parameters
    ----------
    cases : iterable
        Pairs of ``(rule, topology, bound, dtype)`` and the kernel's ``Config``.
    rates : sequence of float
        The shares of neurons that spike.

    Returns
    -------
    list of dict
        A row for each buffer, as :func:`tritonstdp.inspection.worse` compares them.
    """
    rows = []
    for ((rule, topology, bound, dtype), config), rate in itertools.product(cases, rates):
        formula, group = Formula.of(RULES[rule], BOUNDS[bound], BOUNDS[bound]), example_for(topology, "metered")
        names = {"rule": rule, "topology": topology, "bound": bound, "dtype": dtype}
        names |= {"config": config_name(config, gpu_module(topology).DEFAULT), "rate": f"{rate:g}"}
        problem = make_problem(formula, group, dtype=getattr(torch, dtype), rate=rate)
        for buffer, traffic in measure_traffic(problem, config).items():
            row = {**names, "buffer": buffer}
            figures = {"excess_sectors": traffic.excess_sectors, "excess_lanes": traffic.excess_lanes}
            rows.append({"key": "/".join(row.values()), **row, **asdict(traffic), **figures})
    return rows
