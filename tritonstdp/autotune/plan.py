"""What there is to tune: the cases that memory has room for, and those of them that have configurations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from tritonstdp.autotune.sweep import all_candidates, tuning_case
from tritonstdp.registry import AnyFormula
from tritonstdp.terminal import UserError, free_bytes
from tritonstdp.topology import TOPOLOGIES, Topology

__all__ = ["Job", "fitting", "planned"]

_COPIES = 6
"""Of the weights while they are tuned: the group, the expected result, a trial, and copies that take turns."""


class Job(NamedTuple):
    """One case to tune, or to rank."""

    formula: AnyFormula
    topology: Topology
    shape: str
    dtype: torch.dtype
    device: str
    rates: tuple[float, ...]

    @property
    def name(self) -> str:
        """The case in words."""
        dtype = "" if self.dtype == torch.float32 else f" {self.dtype}".replace("torch.", "")
        described = self.formula.described
        return f"{described['rule']} {self.topology.name} {self.shape} {described['positive_bound']}{dtype}"


def fitting(
    topologies: Iterable[str], shapes: Sequence[tuple[int, ...]] | None, itemsize: int, device: str
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The topologies and shapes that memory has room for; one that was asked for must have room.

    Parameters
    ----------
    topologies : iterable of str
        Names of topologies.
    shapes : sequence of tuple of int or None
        What is asked for, each of any topology; None for those that each topology offers.
    itemsize : int
        The bytes of a weight.
    device : str
        Where they are to be tuned.

    Yields
    ------
    str, tuple of int
        A topology and a shape.

    Raises
    ------
    UserError
        If memory has no room for a shape that was asked for.

    Examples
    --------
    >>> list(fitting(["one_to_one", "dense"], [(8, 6)], 4, "cpu"))
    [('dense', (8, 6))]
    """
    free = min(free_bytes(device), free_bytes("cpu"))
    for name in topologies:
        kind = TOPOLOGIES[name]
        for sizes in shapes or kind.examples.tuned:
            try:
                weights, _, scratch = kind.needs(sizes)
            except ValueError:  # the shape is another topology's
                continue
            needed = 2 * _COPIES * itemsize * weights + scratch
            if needed <= free:
                yield name, sizes
            elif shapes:
                raise UserError(
                    f"{name} {'x'.join(map(str, sizes))} takes about {needed / 2**30:,.1f} GiB of memory, of which "
                    f"{free / 2**30:,.1f} are free: give a smaller shape"
                )


def planned(jobs: list[Job]) -> tuple[list[tuple[Job, int]], list[str]]:
    """The jobs that can be tuned with their numbers of configurations, and why the others can't."""
    plan: list[tuple[Job, int]] = []
    skipped: dict[str, None] = {}
    for job in jobs:
        try:
            entry, _ = tuning_case(job.formula, job.topology, job.dtype, job.device)
        except ValueError as error:
            skipped[str(error)] = None
            continue
        plan.append((job, len(all_candidates(entry, job.topology))))
    return plan, list(skipped)
