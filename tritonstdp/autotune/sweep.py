"""Find the fastest configuration of a kernel for one group of synapses, among those that compute the right thing."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import torch

from tritonstdp.autotune import cache
from tritonstdp.autotune.busy import check_idle, wait_until_idle
from tritonstdp.autotune.space import candidates, key_of, rate_bucket, size_bucket
from tritonstdp.autotune.timing import Scratch, Timing, paired_ratio, take_turns
from tritonstdp.kernels.protocol import Step
from tritonstdp.problems import RATES, disagreement
from tritonstdp.registry import (
    BACKENDS,
    AnyCase,
    AnyFormula,
    KernelEntry,
    Space,
    forget_choices,
    plain_case,
    serving_entry,
)
from tritonstdp.source import CannotCompileError, content_of, name_of
from tritonstdp.topology import Topology

__all__ = ["RATES", "Outcome", "all_candidates", "backend_of", "find", "keep", "tune", "tuning_case"]

logger = logging.getLogger("tritonstdp")

_SCREENING_TURNS = range(3, 10)
_FINAL_TURNS = range(9, 32)
_FINALISTS = 3
_TOO_SLOW = 2.0
_WORTH_A_CHANGE = 0.02
_SURE = 2.0

Observer = Callable[[float, float], None]


@dataclass
class Outcome:
    """What tuning one case has found.

    Attributes
    ----------
    key : cache.Key
        What the setting is for.
    topology : Topology
        The group that was timed.
    rates : tuple of float
        The fractions of spiking neurons.
    default, best : NamedTuple
        The kernel's default configuration, and the one to use.
    ratios : dict
        ``ratios[config, rate]``: how much longer a step takes than with the default, over the turns. All candidates.
    default_times, best_times : dict of float to Timing
        Seconds a step at each rate, from the last turns, which the default and the finalists share.
    speedups : dict of float to Timing
        The default's time over the best's at each rate, from the same turns.
    rejected : dict
        Why a configuration was not timed: it does not build, fails, or computes something else.
    kept : bool
        Whether the cache has it.
    """

    key: cache.Key
    topology: Topology
    rates: tuple[float, ...]
    default: Any
    best: Any
    ratios: dict[tuple[Any, float], Timing]
    default_times: dict[float, Timing]
    best_times: dict[float, Timing]
    speedups: dict[float, Timing]
    rejected: dict[Any, str]
    kept: bool = False

    @property
    def speedup(self) -> float:
        """The geometric mean over the rates."""
        return statistics.geometric_mean(timing.median for timing in self.speedups.values())

    @property
    def spread(self) -> float:
        """The largest spread of a speed-up over the rates."""
        return max(timing.spread for timing in self.speedups.values())

    @property
    def entry(self) -> cache.Entry:
        """The outcome as the cache keeps it."""
        measured = {
            "shape": list(self.topology.weights_shape),
            "rates": list(self.rates),
            "default_us": [round(1e6 * self.default_times[rate].median, 2) for rate in self.rates],
            "best_us": [round(1e6 * self.best_times[rate].median, 2) for rate in self.rates],
            "speedup": round(self.speedup, 3),
            "spread": round(self.spread, 3),
            "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        }
        return cache.Entry(self.key, self.best._asdict(), measured)


def backend_of(device: str) -> str:
    """The backend that is tuned on a device.

    Examples
    --------
    >>> backend_of("cpu"), backend_of("cuda")
    ('cpu', 'triton')
    """
    return "cpu" if torch.device(device).type == "cpu" else "triton"


def tuning_case(
    formula: AnyFormula, topology: Topology, dtype: torch.dtype, device: str
) -> tuple[KernelEntry, AnyCase]:
    """The kernel that serves a group, and the plain variant of its case that is timed: contiguous, with bool spikes.

    Raises
    ------
    ValueError
        If the device's backend can't take the case, its kernel has no configurations, or it can't be known again.
    """
    case = plain_case(formula, topology, dtype, torch.device(device).type)
    name = backend_of(device)
    reason = next(backend for backend in BACKENDS if backend.name == name).refuse(case)
    if reason is not None:
        raise ValueError(f"{formula.name} on {topology.name} can't be tuned: {reason}")
    try:
        entry = serving_entry(case, name)
    except CannotCompileError as error:
        raise ValueError(f"{formula.name} on {topology.name} can't be tuned: {error}") from None
    if not space_of(entry).values:
        raise ValueError(f"{formula.name} on {topology.name}: the {name} kernel has nothing to tune")
    unknown = [f for f in formula.functions if content_of(f) is None]
    if unknown:
        raise ValueError(
            f"{formula.name} on {topology.name} can't be tuned: {name_of(unknown[0])} uses more than its "
            "arguments and numbers, so that its settings could not be known again"
        )
    return entry, case


def space_of(entry: KernelEntry) -> Space:
    """A kernel's configurations; none where there is nothing to choose."""
    return Space(None, {}, "") if entry.space is None else entry.space()


def tune(formula: AnyFormula, topology: Topology, **options: Any) -> Outcome:
    """Time a kernel's configurations on a group of synapses and keep the best in the cache, from where it is used.

    Parameters
    ----------
    formula : Formula or Propagation
        The rule, its bounds and whether to clamp; or ``tritonstdp.kernels.propagation.PROPAGATION``.
    topology : Topology
        The group.
    **options
        ``dtype, device, rates, seconds, observe, patience`` of :func:`find`.

    Returns
    -------
    Outcome
        What was found. Where the cache can't be written, a warning says so, and the outcome is not ``kept``.

    Raises
    ------
    ValueError, RuntimeError
        As :func:`find`.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> from tritonstdp.rules import soft_bound, stdp
    >>> outcome = tune(Formula.of(stdp, soft_bound, soft_bound), Dense(4096, 4096))  # doctest: +SKIP
    >>> outcome.best, round(outcome.speedup, 2)  # doctest: +SKIP
    (Config(dense_pass_rate=0.05, parallel_work=1000000, rows_per_task=32), 1.08)
    """
    outcome = find(formula, topology, **options)
    keep(outcome)
    forget_choices()
    return outcome


def keep(outcome: Outcome) -> None:
    """Add an outcome to the cache, or say why that can't be done: what was found is worth more than an exception."""
    try:
        cache.save([outcome.entry])
    except (OSError, TypeError) as error:  # a space of values that JSON does not know is a TypeError
        logger.warning("a tuned setting can't be kept in %s: %s", cache.directory(), error)
    else:
        outcome.kept = True


def find(
    formula: AnyFormula,
    topology: Topology,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    rates: Sequence[float] = RATES,
    seconds: float = 4.0,
    observe: Observer = lambda done, best: None,
    patience: float = 60.0,
) -> Outcome:
    """Time a kernel's configurations on a group of synapses.

    Parameters
    ----------
    formula : Formula or Propagation
        The rule, its bounds and whether to clamp; or ``tritonstdp.kernels.propagation.PROPAGATION``.
    topology : Topology
        The group. Weights and spikes are drawn at random: nothing of the user's is touched.
    dtype : torch.dtype
        The weights' dtype.
    device : str
        Where to run.
    rates : sequence of float
        The fractions of spiking neurons. A CPU kernel counts spikes and decides by itself: one setting is chosen for
        all rates. A GPU kernel can't: the setting is kept for the rates' geometric mean.
    seconds : float
        About how long to take turns for, after building and checking.
    observe : callable, optional
        Called as ``observe(done, best)`` with the share that is done and the best speed-up so far.
    patience : float
        The most seconds to wait for a machine that is busy with other work.

    Returns
    -------
    Outcome
        What was found. The default stays the best unless another is faster over all rates, by 2 %, twice the standard
        error and the spread at least, and at no rate slower, in three turns of four, by more than the spread.

    Raises
    ------
    ValueError
        If the kernel of this case has no configurations, or a rate is no fraction.
    RuntimeError
        If the default configuration itself fails or computes something else than the reference; a ``BusyError`` if
        the machine is busy before, during or after the turns.
    """
    if not rates or not all(0 < rate <= 1 for rate in rates):
        raise ValueError(f"rates are {rates!r}: give fractions of spiking neurons, above 0 and up to 1")
    entry, case = tuning_case(formula, topology, dtype, device)
    space = space_of(entry)
    configs = all_candidates(entry, topology)
    if backend_of(device) == "triton":
        from tritonstdp.autotune import cost  # and with it all that compiles for other machines

        configs = cost.pruned(configs, formula, topology, dtype, device, rates)
    scratch = Scratch(formula, topology, dtype, device, rates)
    steps, rejected = _checked(entry, case, configs, scratch, lambda done: observe(0.4 * done, 1.0))
    if space.default in rejected:
        raise RuntimeError(f"the default configuration {space.default} was rejected: {rejected[space.default]}")
    threads = torch.get_num_threads() if backend_of(device) == "cpu" else 1
    wait_until_idle(threads, patience)
    scratch.calibrate(steps[space.default])
    samples = _screened(scratch, steps, space.default, seconds / 2, lambda done, best: observe(0.4 + 0.3 * done, best))
    ratios = {
        (config, rate): paired_ratio(samples[config, rate], samples[space.default, rate]) for config, rate in samples
    }
    check_idle(threads)
    outcome = Outcome(
        _key(space, case, topology, device, rates), topology, tuple(rates), space.default, space.default,
        ratios, {}, {}, {}, rejected,
    )  # fmt: skip
    finalists = sorted(steps, key=lambda config: _mean_ratio(ratios, config, rates))[:_FINALISTS]
    _decide(outcome, scratch, {c: steps[c] for c in (space.default, *finalists)}, seconds / 2)
    check_idle(threads)
    observe(1.0, outcome.speedup)
    return outcome


def all_candidates(entry: KernelEntry, topology: Topology) -> list[Any]:
    """The configurations of a kernel that differ in effect on a group, the default first."""
    # the number of weights is what a kernel compares with parallel_work, unless positions share weights
    synapses = None if topology.shares_weights else topology.synapses
    return candidates(space_of(entry), synapses, torch.get_num_threads())


def _key(space: Space, case: AnyCase, topology: Topology, device: str, rates: Sequence[float]) -> cache.Key:
    backend = backend_of(device)
    rate = None if backend == "cpu" else rate_bucket(statistics.geometric_mean(rates))
    key = key_of(space, case, backend, size_bucket(topology), rate)
    assert key is not None  # tuning_case has seen to it
    return key


@lru_cache(maxsize=512)
def _built(entry: KernelEntry, case: AnyCase, config: Any) -> Step:
    """Build a configuration once for all sizes that are tuned."""
    return entry.build(case, config)


def _checked(
    entry: KernelEntry, case: AnyCase, configs: Sequence[Any], scratch: Scratch, observe: Callable[[float], None]
) -> tuple[dict[Any, Step], dict[Any, str]]:
    """Build each configuration and hold its result against the reference at every rate."""
    steps: dict[Any, Step] = {}
    rejected: dict[Any, str] = {}
    for config in configs:
        try:
            steps[config] = _built(entry, case, config)
        except Exception as problem:  # whatever a compiler raises: the candidate is reported, the others go on
            rejected[config] = f"does not build: {problem}"
    reference = serving_entry(case, "reference").build(case)
    for n, rate in enumerate(scratch.rates):
        start = scratch.at(rate, -1)  # the last pattern: where the rate leaves few spikes, the one that has any
        expected = start.copy().run(reference)
        trial = start.copy()
        for k, (config, step) in enumerate(list(steps.items())):
            for name, tensor in trial.outputs.items():
                tensor.copy_(start.outputs[name])
            try:
                trial.run(step)
                wrong = (disagreement(n, trial.outputs[n], t, start.outputs[n]) for n, t in expected.outputs.items())
                reason = next(filter(None, wrong), "")
            except Exception as problem:
                reason = f"fails: {problem}"
            if reason:
                rejected[config] = f"{reason} at a rate of {rate:g}"
                del steps[config]
            observe((n + (k + 1) / max(len(configs), 1)) / len(scratch.rates))
    for config, reason in rejected.items():
        logger.warning("%s of %s on %s is rejected: %s", config, case.formula.name, case.topology, reason)
    return steps, rejected


def _screened(
    scratch: Scratch, steps: dict[Any, Step], default: Any, seconds: float, observe: Observer
) -> dict[tuple[Any, float], list[float]]:
    """Sample all configurations; those that are far behind, by their best samples, only in the first turns."""
    samples: dict[tuple[Any, float], list[float]] = {}
    running = dict(steps)
    deadline = time.perf_counter() + seconds
    for turn in range(_SCREENING_TURNS.stop):
        if turn >= _SCREENING_TURNS.start and time.perf_counter() > deadline:
            break
        take_turns(scratch, running, range(turn, turn + 1), samples)
        best = {
            config: statistics.geometric_mean(min(samples[config, rate]) for rate in scratch.rates)
            for config in running
        }
        fastest = min(best.values())
        if turn + 1 >= _SCREENING_TURNS.start:
            running = {c: step for c, step in running.items() if c == default or best[c] < _TOO_SLOW * fastest}
        observe((turn + 1) / _SCREENING_TURNS.stop, best[default] / fastest)
    return samples


def _decide(outcome: Outcome, scratch: Scratch, finalists: dict[Any, Step], seconds: float) -> None:
    """Time the finalists and the default afresh, so that no figure owes itself to having been picked, and choose."""
    samples: dict[tuple[Any, float], list[float]] = {}
    deadline = time.perf_counter() + seconds
    for turn in range(_FINAL_TURNS.stop):
        if turn >= _FINAL_TURNS.start and time.perf_counter() > deadline:
            break
        take_turns(scratch, finalists, range(turn, turn + 1), samples)
    default, rates = outcome.default, outcome.rates
    outcome.default_times = {rate: Timing.of(samples[default, rate]) for rate in rates}
    speedups = {
        config: {rate: paired_ratio(samples[default, rate], samples[config, rate]) for rate in rates}
        for config in finalists
    }

    def mean(config: Any) -> float:
        return statistics.geometric_mean(speedups[config][rate].median for rate in rates)

    def never_slower(config: Any) -> bool:
        # by what the default itself varies: a candidate that stalls now and then must not excuse itself by that
        return all(speedups[config][rate].low >= 1 - outcome.default_times[rate].spread for rate in rates)

    def surely_faster(config: Any) -> bool:
        timings = speedups[config].values()
        doubt = math.sqrt(sum(timing.standard_error**2 for timing in timings)) / len(timings)
        spread = max(timing.spread for timing in timings)
        return math.log(mean(config)) > max(_WORTH_A_CHANGE, _SURE * doubt) and mean(config) - 1 >= spread

    better = [config for config in finalists if surely_faster(config) and never_slower(config)]
    outcome.best = max(better, key=mean, default=default)
    outcome.best_times = {rate: Timing.of(samples[outcome.best, rate]) for rate in rates}
    outcome.speedups = speedups[outcome.best]
    if outcome.best == default:  # as fast as itself, give or take what its times vary by
        outcome.speedups = {
            rate: Timing(1.0, time.median / time.high, time.median / time.low, time.turns)
            for rate, time in outcome.default_times.items()
        }


def _mean_ratio(ratios: dict[tuple[Any, float], Timing], config: Any, rates: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(ratios[config, rate].median) for rate in rates))
