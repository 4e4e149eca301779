"""What a network benchmark is, what it reports, and how its activity is held against its reference's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pymonntorch import Network
from rich.box import SIMPLE
from rich.console import Group
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
        Seconds that they took by the clock, without setting up, generating code and compiling.
    steps : int
        Steps that they were divided into.
    activity : dict
        Measures of what the network did, by name, with units in the names.
    shares : dict
        The part of a step that each kind of work takes, where it is known.
    processor : float, optional
        Seconds of the processor that they took, which is less than by the clock where the core does other work, too.
    """

    network: str
    what: str
    who: str
    simulated: float
    wall: float
    steps: int
    activity: dict[str, float] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    processor: float | None = None

    @property
    def seconds(self) -> float:
        """The seconds by which programs are compared: the processor's where they are known."""
        return self.wall if self.processor is None else self.processor

    def row(self) -> dict[str, Any]:
        """The result as a row of a .json file."""
        derived = {"per_second": self.seconds / self.simulated, "ms_per_step": 1e3 * self.seconds / self.steps}
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


class Stopwatch:
    """Advances a network and takes the time. The first step, in which loops are compiled, is not timed.

    Parameters
    ----------
    network : Network
        The network, initialized.
    work : mapping
        What the behaviors do, by the tens of their keys.
    """

    def __init__(self, network: Network, work: Mapping[int, str]) -> None:
        self.network, self.work = network, work
        self.steps, self._timed, self._wall, self._processor = 0, 0, 0.0, 0.0
        self._spent: dict[str, float] = {}

    @property
    def wall(self) -> float:
        """The seconds that all steps take by the clock, the first one as long as the others on average."""
        return self._wall / self._timed * self.steps

    @property
    def processor(self) -> float:
        """Likewise, the processor's."""
        return self._processor / self._timed * self.steps

    @property
    def shares(self) -> dict[str, float]:
        """The part of a step that each kind of work takes."""
        return {name: spent / sum(self._spent.values()) for name, spent in self._spent.items()}

    def advance(self, steps: int) -> None:
        """Simulate some steps."""
        first = 0 if self.steps else 1
        for _ in range(first):
            self.network.simulate_iteration()
        wall, processor = time.perf_counter(), time.process_time()
        for step in range(self.steps + first, self.steps + steps):
            if step % EVERY == 1:
                self._step_in_parts()
            else:
                self.network.simulate_iteration()
        self._wall += time.perf_counter() - wall
        self._processor += time.process_time() - processor
        self._timed += steps - first
        self.steps += steps

    def _step_in_parts(self) -> None:
        """What ``simulate_iteration`` does, each behavior in the processor's time, which PymoNNtorch does not take."""
        self.network.iteration += 1
        for key, parent, behavior in self.network.sorted_behavior_execution_list:
            if behavior.behavior_enabled and not behavior.empty_iteration_function:
                began = time.process_time()
                behavior(parent)
                name = self.work[key // 10 * 10]
                self._spent[name] = self._spent.get(name, 0.0) + time.process_time() - began


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


def table_of(benchmark: Benchmark, results: list[Result]) -> Group:
    """A benchmark's results as a table, and below it what the networks did and where the time of a step went."""
    title = f"({benchmark.name}) {benchmark.description}"
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("", "program"):
        table.add_column(heading)
    for heading in ("s a biological s", "ms a step", "faster"):
        table.add_column(heading, justify="right")
    reference = {r.what: r.seconds for r in results if r.who != OURS}
    lines = []
    for r in results:
        faster = f"{reference[r.what] / r.seconds:.2f}x" if r.who == OURS and r.what in reference else ""
        row = r.row()
        table.add_row(r.what, r.who, f"{row['per_second']:.3g}", f"{row['ms_per_step']:.3g}", faster)
        activity = ", ".join(f"{name} {value:.4g}" for name, value in r.activity.items())
        shares = sorted(r.shares.items(), key=lambda item: -item[1])
        spent = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
        lines += [f"{r.what}, {r.who}: {activity}", *([f"  of a step: {spent}"] if spent else [])]
    return Group(table, *lines, "")
