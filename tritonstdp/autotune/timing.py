"""Time steps as they run in use: on scratch copies that the cache no longer holds, the variants taking turns."""

from __future__ import annotations

import logging
import math
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.kernels.protocol import Step
from tritonstdp.problems import Problem, make_problem, random_spikes
from tritonstdp.registry import AnyFormula
from tritonstdp.topology import Topology

__all__ = ["Scratch", "Timing", "clock", "enqueuing_seconds", "paired_ratio", "take_turns"]

logger = logging.getLogger("tritonstdp")

PATTERNS = 8
"""Spike patterns of each rate that the steps go through."""

_SCRATCH_BYTES = 2**30
_SAMPLE_SECONDS = 200e-6
_LONGEST_SAMPLE = 5e-3
_MOST_STEPS = 32


class Timing(NamedTuple):
    """Seconds a step.

    Attributes
    ----------
    median, low, high : float
        The median and the quartiles over the turns.
    turns : int
        From how many turns.
    """

    median: float
    low: float
    high: float
    turns: int

    @property
    def spread(self) -> float:
        """The range of the middle half, over the median."""
        return (self.high - self.low) / self.median

    @property
    def standard_error(self) -> float:
        """That of the median, over the median, for a normal distribution of this spread: 1.253 / 1.349 of it."""
        return 0.929 * self.spread / math.sqrt(self.turns)

    @staticmethod
    def of(seconds: Sequence[float]) -> Timing:
        """Summarise the turns.

        Examples
        --------
        >>> Timing.of([1.0, 2.0, 3.0])
        Timing(median=2.0, low=1.5, high=2.5, turns=3)
        """
        if len(seconds) < 2:
            return Timing(seconds[0], seconds[0], seconds[0], 1)
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return Timing(median, low, high, len(seconds))


def paired_ratio(seconds: Sequence[float], others: Sequence[float]) -> Timing:
    """How much longer the first takes than the others, turn by turn, so that slow drifts of the machine cancel.

    Examples
    --------
    >>> paired_ratio([2.0, 4.0, 8.0], [1.0, 2.0, 4.0])
    Timing(median=2.0, low=2.0, high=2.0, turns=3)
    """
    return Timing.of([mine / other for mine, other in zip(seconds, others, strict=False)])


class Scratch:
    """Random weights and spikes for one group of synapses, in as many copies as keep the cache cold.

    Parameters
    ----------
    formula : Formula or Propagation
        What is computed.
    topology : Topology
        How the synapses lie.
    dtype : torch.dtype
        The weights' dtype.
    device : str
        Where the group lives.
    rates : sequence of float
        The fractions of neurons that spike.

    Attributes
    ----------
    problem : Problem
        The group as it starts; never written.
    """

    def __init__(
        self, formula: AnyFormula, topology: Topology, dtype: torch.dtype, device: str, rates: Sequence[float]
    ) -> None:
        self.rates = tuple(rates)
        self.problem = make_problem(formula, topology, dtype=dtype).to(device=device)
        generator = torch.Generator().manual_seed(1)
        self._signals = {
            rate: [
                {
                    name: _spikes(shape[0], rate, k, generator).to(device)
                    for name, shape in (("pre_spike", topology.pre_shape), ("post_spike", topology.post_shape))
                    if name in self.problem.signals
                }
                for k in range(PATTERNS)
            ]
            for rate in self.rates
        }
        self._copies = [self.problem.quiet().copy() for _ in range(self._copies_needed(device))]
        self._used = 0
        self._steps: dict[float, int] = {}
        self._last: dict[tuple[Step, float], float] = {}
        self._clock = clock(device, one_thread=torch.get_num_threads() == 1)

    def _copies_needed(self, device: str) -> int:
        size = sum(tensor.nbytes for tensor in self.problem.outputs.values())
        wanted = -(-2 * _last_cache_bytes(device) // max(size, 1)) + 1
        return max(2, min(wanted, _SCRATCH_BYTES // max(size, 1), 1024))

    def at(self, rate: float, pattern: int = 0) -> Problem:
        """The group with the spikes of a rate; its weights are the ones not to write to."""
        return self.problem.replaced(**self._signals[rate][pattern % PATTERNS])

    def calibrate(self, step: Step) -> None:
        """Choose how many steps make up a sample of each rate, from how long a step takes."""
        for rate in self.rates:
            self._steps[rate] = 4
            typical = min(self.seconds(step, rate, turn) for turn in range(2))
            self._steps[rate] = max(1, min(_MOST_STEPS, round(_SAMPLE_SECONDS / typical)))

    def seconds(self, step: Step, rate: float, turn: int) -> float:
        """The mean time of a sample's steps; those of one turn have the same spikes whatever the step.

        A sample of a step that took long the last time has fewer of them, and so has the first one of any. On a GPU
        every turn replays what the first one captured, with the spikes of that turn.
        """
        first, most = turn * self._steps[rate], self._steps[rate]
        last = self._last.get((step, rate))
        n = max(1, most // 8 if last is None else min(most, int(_LONGEST_SAMPLE / last)))
        mean = self._clock(step, lambda: [self._arguments(rate, first + k) for k in range(n)], (rate, n)) / n
        self._last[step, rate] = mean
        return mean

    def _arguments(self, rate: float, pattern: int) -> tuple[Any, ...]:
        self._used = (self._used + 1) % len(self._copies)
        return self._copies[self._used].replaced(**self._signals[rate][pattern % PATTERNS]).arguments


def take_turns(
    scratch: Scratch, steps: Mapping[Any, Step], turns: range, seconds: dict[tuple[Any, float], list[float]]
) -> None:
    """Add samples of all steps at all rates, in an order that changes from turn to turn."""
    names = list(steps)
    for turn in turns:
        random.Random(turn).shuffle(names)
        for rate in scratch.rates:
            for name in names:
                seconds.setdefault((name, rate), []).append(scratch.seconds(steps[name], rate, turn))


def _spikes(n: int, rate: float, pattern: int, generator: torch.Generator) -> Tensor:
    """Exactly the wanted share of neurons; where that is no whole number, patterns take turns at one more."""
    return random_spikes(n, int(rate * n + (pattern + 0.5) / PATTERNS), generator)


def _last_cache_bytes(device: str) -> int:
    if device != "cpu":
        properties = getattr(torch, torch.device(device).type).get_device_properties(device)
        return getattr(properties, "L2_cache_size", 2**26)
    reported = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    kilobytes = re.match(r"(\d+)K", reported.read_text()) if reported.exists() else None
    return 1024 * int(kilobytes.group(1)) if kilobytes else 2**25


Calls = Callable[[], list[tuple[Any, ...]]]


def clock(
    device: str, one_thread: bool = False, cold: bool = True
) -> Callable[[Callable[..., Any], Calls, Any], float]:
    """What times calls on a device, in seconds for all of them.

    Parameters
    ----------
    device : str
        Where they run.
    one_thread : bool
        Whether all that they do is done by this thread, so that what another process took of its core can be told.
    cold : bool
        Whether a GPU's cache is written over before each time that is taken.

    Returns
    -------
    callable
        ``seconds(step, calls, key)``: how long ``step`` takes with the arguments of each of ``calls()``, one after the
        other. On a GPU it is a replay of a graph of them that is timed, which is captured at the first call with this
        step and key: launched one by one, kernels shorter than a launch would all seem alike.

    Examples
    --------
    >>> clock("cpu")(time.sleep, lambda: [(0.01,), (0.01,)], None) > 0.02
    True
    """
    return partial(_host_seconds, one_thread) if device == "cpu" else _DeviceClock(device, cold)


def _host_seconds(one_thread: bool, step: Callable[..., Any], calls: Calls, key: Any) -> float:
    made = calls()
    preempted = _preemptions()
    begin, own_begin = time.perf_counter_ns(), time.thread_time_ns()
    for arguments in made:
        step(*arguments)
    own, passed = time.thread_time_ns() - own_begin, time.perf_counter_ns() - begin
    return (own if one_thread and _preemptions() > preempted else passed) / 1e9


def _preemptions() -> int:
    """How often this thread had to give up its core, where the system says."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def enqueuing_seconds(device: str, step: Callable[..., Any], calls: list[tuple[Any, ...]]) -> float:
    """How long the host takes to hand calls to a GPU, which may finish them later; all of them together.

    Parameters
    ----------
    device : str
        Where they run.
    step : callable
        What is called.
    calls : list of tuple
        The arguments of each call; no more than a GPU's queue holds.

    Returns
    -------
    float
        Seconds.
    """
    module = torch.get_device_module(device)
    module.synchronize()
    begin = time.perf_counter_ns()
    for arguments in calls:
        step(*arguments)
    passed = time.perf_counter_ns() - begin
    module.synchronize()
    return passed / 1e9


def _eviction(device: str) -> Callable[[], Any]:
    """What leaves nothing of a GPU's cache as it was."""
    return torch.empty(2 * _last_cache_bytes(device), dtype=torch.uint8, device=device).zero_


class _DeviceClock:
    """Times graphs, each captured once; what can't be captured is launched call by call, and the log says so."""

    def __init__(self, device: str, cold: bool) -> None:
        self.module = torch.get_device_module(device)
        self.evict = _eviction(device) if cold else None
        self.events = [self.module.Event(enable_timing=True) for _ in range(2)]
        self.runs: dict[Any, Callable[[], Any]] = {}

    def __call__(self, step: Callable[..., Any], calls: Calls, key: Any) -> float:
        run = self.runs.get((step, key))
        if run is None:
            run = self.runs[step, key] = self._captured(step, calls())
            run()  # the first replay of a graph uploads it
        begin, end = self.events
        # what the GPU is busy with meanwhile takes longer than launching a graph, which so is no part of the time
        (self.evict or run)()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def _captured(self, step: Callable[..., Any], calls: list[tuple[Any, ...]]) -> Callable[[], Any]:
        def one_by_one() -> None:
            for arguments in calls:
                step(*arguments)

        if not hasattr(self.module, "CUDAGraph"):
            logger.warning("timed launch by launch, since %s has no graphs: %s", self.module.__name__, step)
            return one_by_one
        one_by_one()  # no capture allows what a first step does
        self.module.synchronize()
        graph = self.module.CUDAGraph()
        try:
            with self.module.graph(graph):
                one_by_one()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            logger.warning("timed launch by launch, since no graph can hold it (%s): %s", reason, step)
            self.module.synchronize()
            return one_by_one
        return graph.replay
