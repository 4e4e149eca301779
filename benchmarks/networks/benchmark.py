"""What a network benchmark is, what it reports, and how its activity is held against its reference's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pymonntorch import Network
from rich.box import SIMPLE
from rich.table import Table

OURS = "tritonstdp"


@dataclass(frozen=True)
class Result:
    """What one program has shown for a network.

    Attributes
    ----------
    network, what : str
        The benchmark's name, and what was simulated: results with the same two are compared.
    who : str
        Which program: "tritonstdp", or the reference.
    simulated : float
        Biological seconds.
    wall : float
        Seconds that they took, without setting up, generating code and compiling.
    steps : int
        Steps that they were divided into.
    activity : dict
        Measures of what the network did, by name, with units in the names.
    shares : dict
        The part of a step that each kind of work takes, where it is known.
    """

    network: str
    what: str
    who: str
    simulated: float
    wall: float
    steps: int
    activity: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def wall_per_second(self) -> float:
        """Seconds a biological second."""
        return self.wall / self.simulated

    def row(self) -> dict[str, Any]:
        """The result as a row of a .json file."""
        derived = {"wall_per_second": self.wall_per_second, "ms_per_step": 1e3 * self.wall / self.steps}
        return asdict(self) | derived


@dataclass(frozen=True)
class Benchmark:
    """A published network that can be run by tritonstdp and by its reference.

    Attributes
    ----------
    name, description : str
        The name by which it is asked for, and what it is, with its source.
    run : callable
        ``run(seconds)``: simulate so many biological seconds (None: the benchmark's own number) by each program, check
        that what they did agrees, and return the results, the reference's before tritonstdp's. Raises
        ``RuntimeError`` where a check fails.
    """

    name: str
    description: str
    run: Callable[[float | None], list[Result]]


EVERY = 10
"""One step of so many is timed in its parts."""


def advance(network: Network, steps: int, work: Mapping[int, str]) -> tuple[float, dict[str, float]]:
    """Simulate some steps. The first one, in which steps are compiled and synapses planned, is not timed.

    Parameters
    ----------
    network : Network
        The network, initialized.
    steps : int
        How many.
    work : mapping
        What the behaviors do, by the tens of their keys.

    Returns
    -------
    wall : float
        The seconds that so many steps take.
    shares : dict
        The part of them that each kind of work took.
    """
    spent: dict[str, float] = {}
    network.simulate_iteration()
    began = time.perf_counter()
    for step in range(1, steps):
        if step % EVERY != 1:
            network.simulate_iteration()
            continue
        for key, ms in network.simulate_iteration(measure_behavior_execution_time=True).items():
            name = work.get(key // 10 * 10, "other")
            spent[name] = spent.get(name, 0.0) + ms
    wall = (time.perf_counter() - began) * steps / (steps - 1)
    total = sum(spent.values())
    return wall, {name: ms / total for name, ms in spent.items()}


def check_agreement(
    network: str, found: Mapping[str, float], reference: Mapping[str, float], tolerances: Mapping[str, float]
) -> None:
    """Compare measures of activity.

    Parameters
    ----------
    network : str
        Whose they are, for the message.
    found, reference : mapping
        The measures of tritonstdp and of the reference.
    tolerances : mapping
        The largest difference of each measure that is checked, relative to the reference's.

    Raises
    ------
    RuntimeError
        If a measure differs by more, or is no number.
    """
    apart = [
        f"{name} is {found[name]:.4g} against {reference[name]:.4g} (within {tolerance:.0%})"
        for name, tolerance in tolerances.items()
        if not abs(found[name] - reference[name]) <= tolerance * abs(reference[name])
    ]
    if apart:
        raise RuntimeError(f"{network}: the activity is not the reference's: {'; '.join(apart)}")


def table_of(benchmark: Benchmark, results: list[Result]) -> Table:
    """A benchmark's results as a table."""
    title = f"({benchmark.name}) {benchmark.description}"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("", "program"):
        table.add_column(heading)
    for heading in ("s a biological s", "ms a step", "faster", "activity"):
        table.add_column(heading, justify="left" if heading == "activity" else "right")
    reference = {r.what: r.wall_per_second for r in results if r.who != OURS}
    for r in results:
        faster = f"{reference[r.what] / r.wall_per_second:.2f}x" if r.who == OURS and r.what in reference else ""
        activity = ", ".join(f"{name} {value:.4g}" for name, value in r.activity.items())
        step = f"{1e3 * r.wall / r.steps:.3g}"
        table.add_row(r.what, r.who, f"{r.wall_per_second:.3g}", step, faster, activity)
        if r.shares:
            shares = sorted(r.shares.items(), key=lambda item: -item[1])
            table.add_row("", "", "", "", "", ", ".join(f"{name} {share:.0%}" for name, share in shares))
    return table
