"""Time one step of plasticity fairly: random spikes, a proof before any figure, and providers taking turns.

A *workload* says what is to be computed, a *provider* prepares a *runner* that computes it. No speed is given for a
runner that computes something else.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tritonstdp.autotune.timing import Timing, clock, enqueuing_seconds
from tritonstdp.functional import step_
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.machine import machine
from tritonstdp.problems import CHUNK, disagreement, make_problem, random_spikes
from tritonstdp.propagation import propagate_
from tritonstdp.registry import meeting_of
from tritonstdp.rules import BOUNDS, RULES, Formula
from tritonstdp.terminal import write_output
from tritonstdp.topology import TOPOLOGIES, Topology

__all__ = [
    "DOPAMINE",
    "OURS",
    "PARAMETERS",
    "POOL",
    "PROOF_STEPS",
    "SPIKE_BYTES",
    "Inputs",
    "NotAvailableError",
    "Row",
    "Runner",
    "Workload",
    "measure",
    "parameters_of",
    "read_rows",
    "write_rows",
]

OURS = "tritonstdp"
"""The provider that others are compared with."""

POOL = 64
"""Most spike patterns that a runner goes through in turn: so many that the synapses of the next one are not in the
cache."""

SPIKE_BYTES = 2**23
"""What the patterns may take as floats. A step's spikes are in the cache, where the neurons have just written them, so
there are fewer patterns of large groups."""

PROOF_STEPS = 3
"""Patterns after which a runner's result is compared with the reference's."""

PARAMETERS: dict[str, dict[str, float]] = {
    "stdp": {"a_plus": 0.01, "a_minus": 0.01},
    "istdp": {"lr": 0.01, "alpha": 0.5, "sign": -1.0},
    "rstdp": {"a_plus": 0.01, "a_minus": 0.01, "tau_c": 1000.0},
}
"""What the rules are run with: large enough to show in a proof, and in balance, so that weights stay where they are."""

DOPAMINE = 0.1
"""What modulated rules are run with."""

_SMALL, _LONG = 0.01, 1000.0


def parameters_of(formula: Formula) -> dict[str, float]:
    """What a formula is run with: of other rules, small numbers, and long time constants.

    Examples
    --------
    >>> parameters_of(Formula.of(RULES["rstdp"]))
    {'a_plus': 0.01, 'a_minus': 0.01, 'tau_c': 1000.0, 'dopamine': 0.1}
    """
    usual = {"dopamine": DOPAMINE, **dict.fromkeys(formula.rule.positive, _LONG)}
    known = usual | PARAMETERS.get(formula.rule.name, {})
    return {name: known.get(name, _SMALL) for name in formula.parameters}


W_MIN, W_MAX = 0.0, 1.0
_SHARED_BYTES = 2**29
_COPIED = 2**26
_COUNTED = 8
_ENQUEUED = 20


class NotAvailableError(Exception):
    """A provider that is not installed, or has nothing for a workload; the message says which."""


@dataclass(frozen=True)
class Workload:
    """One step to be timed.

    Parameters
    ----------
    rule, topology, bound : str
        Names that the registry knows; the bound stands for potentiation and depression. The rule may be "propagation".
    shape : tuple of int
        What the topology's ``sizes`` names.
    rate : float
        The fraction of neurons that spike in a step, on either side.
    dtype : str
        The weights' dtype.
    device : str
        Where the tensors live.

    Raises
    ------
    ValueError
        If the shape is none of the topology.

    Examples
    --------
    >>> Workload("stdp", "dense", "soft_bound", (256, 512), 0.02).name
    'dense stdp soft_bound 256x512 2%'
    """

    rule: str
    topology: str
    bound: str
    shape: tuple[int, ...]
    rate: float
    dtype: str = "float32"
    device: str = "cpu"

    def __str__(self) -> str:
        return self.name

    def __post_init__(self) -> None:
        TOPOLOGIES[self.topology].needs(self.shape)

    @property
    def shape_text(self) -> str:
        """The shape as it is written."""
        return "x".join(map(str, self.shape))

    @property
    def bytes_needed(self) -> int:
        """About the least memory that measuring one provider takes, known before any is allocated.

        Examples
        --------
        >>> Workload("stdp", "dense", "no_bound", (10**6, 10**6), 0.02).bytes_needed // 10**12
        20
        """
        weights, neurons, scratch = TOPOLOGIES[self.topology].needs(self.shape)
        item = getattr(torch, self.dtype).itemsize
        states = 2 if self.rule in RULES and RULES[self.rule].modulated else 1
        # weights are drawn, and copied for the provider
        return states * ((4 + 2 * item) * weights + scratch) + (16 + 4 * (1 + item)) * neurons

    @property
    def formula(self) -> Formula:
        """What is computed at a synapse."""
        bound = BOUNDS[self.bound]
        return Formula.of(RULES[self.rule], bound, bound)

    def inputs(self) -> Inputs:
        """What a step takes."""
        return PropagationInputs.of(self) if self.rule == PROPAGATION.name else Inputs.of(self)

    @property
    def name(self) -> str:
        """The workload in words; unique but for dtype and device, which are added where they are not the usual."""
        parts = [self.topology, self.rule, self.bound, self.shape_text, f"{self.rate * 100:g}%"]
        return " ".join(parts + [x for x in (self.dtype, self.device) if x not in ("float32", "cpu")])


@dataclass(eq=False)
class Inputs:
    """The tensors of a workload; runners copy what they write.

    Attributes
    ----------
    workload : Workload
        What they are for.
    topology : Topology
        How the synapses lie.
    weights : Tensor
        Uniform in 0.2..0.8; a CSC tensor where sparse.
    c : Tensor or None
        The eligibility trace of a modulated rule.
    traces : dict
        The signals that the rule reads beside the spikes, by name; uniform in 0..1.
    spikes : list of (Tensor, Tensor)
        Pairs of pre and post spikes, bool; ``POOL`` of them, or fewer for large groups.
    """

    written: ClassVar[str] = "weights"
    workload: Workload
    topology: Topology
    weights: Tensor
    c: Tensor | None
    traces: dict[str, Tensor]
    spikes: list[tuple[Tensor, Tensor]]
    float_spikes: list[tuple[Tensor, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        dtype = self.weights.dtype
        self.float_spikes = [(pre.to(dtype), post.to(dtype)) for pre, post in self.spikes]

    @staticmethod
    def of(workload: Workload, seed: int = 0) -> Inputs:
        """Draw the inputs of a workload.

        Examples
        --------
        >>> inputs = Inputs.of(Workload("stdp", "dense", "no_bound", (100, 50), 0.02))
        >>> int(inputs.spikes[0][0].sum()), int(inputs.spikes[0][1].sum())
        (2, 1)
        """
        generator = torch.Generator().manual_seed(seed + 1)

        def spiking(n: int) -> Tensor:
            return random_spikes(n, max(1, round(workload.rate * n)), generator).to(workload.device)

        problem = make_problem(
            workload.formula, TOPOLOGIES[workload.topology].of_sizes(workload.shape), seed=seed,
            dtype=getattr(torch, workload.dtype), weights=(0.2, 0.8), eligibility=(-0.001, 0.001),
        ).to(device=workload.device)  # fmt: skip
        topology = problem.topology
        n_pre, n_post = topology.pre_shape[0], topology.post_shape[0]
        patterns = max(4, min(POOL, SPIKE_BYTES // (4 * (n_pre + n_post))))
        rule = workload.formula.rule
        traces = {name: problem.signals[name] for name in (*rule.pre[1:], *rule.post[1:])}
        spikes = [(spiking(n_pre), spiking(n_post)) for _ in range(patterns)]
        return Inputs(workload, topology, topology.weights_of(problem.weights), problem.c, traces, spikes)

    def sides(self, pre_spike: Tensor, post_spike: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The signals of both sides in a step with these spikes."""
        rule = self.workload.formula.rule
        pre, post = ([self.traces[name] for name in names[1:]] for names in (rule.pre, rule.post))
        return (pre_spike, *pre), (post_spike, *post)

    @property
    def start(self) -> Tensor:
        """What is written, as it is before the first step."""
        return self.values

    @property
    def values(self) -> Tensor:
        """The weights' values: the weights themselves unless sparse."""
        return self.topology.values(self.weights)

    def copy(self) -> tuple[Tensor, Tensor | None]:
        """Weights and eligibility for a runner to write to."""
        return self.topology.weights_of(self.values.clone()), None if self.c is None else self.c.clone()

    @property
    def nbytes(self) -> int:
        """The bytes of what a step may write."""
        values = self.values
        return values.numel() * values.element_size() * (2 if self.c is not None else 1)

    @cached_property
    def expected(self) -> tuple[Tensor, Tensor | None]:
        """Weights and eligibility after the first steps, by the reference in float64."""
        weights = self.values.to(torch.float64, copy=True)
        c = None if self.c is None else self.c.to(torch.float64, copy=True)
        rows, n_post = self.topology.pre_shape[0], self.topology.post_shape[0]
        step = max(1, CHUNK // max(n_post, 1))
        for first in range(0, rows, step):
            some = slice(first, first + step)
            part = self.topology.rows(some)
            if part is None:
                self._reference_steps(weights, c, slice(None), self.topology)
                break
            self._reference_steps(weights[some], None if c is None else c[some], some, part)
        return weights, c

    def _reference_steps(self, values: Tensor, c: Tensor | None, rows: slice, topology: Topology) -> None:
        formula, weights = self.workload.formula, topology.weights_of(values)
        parameters = tuple(parameters_of(formula).values())
        for spikes in self.spikes[:PROOF_STEPS]:
            pre, post = self.sides(*spikes)
            pre = tuple(signal[rows] if signal.dtype == torch.bool else signal[rows].double() for signal in pre)
            post = tuple(signal if signal.dtype == torch.bool else signal.double() for signal in post)
            step_(formula, topology, weights, pre, post, parameters, W_MIN, W_MAX, c, "reference")

    def bytes_that_must_move(self) -> float:
        """Mean bytes a step over some patterns: 64-byte lines that hold a changing weight, read and written."""
        values = self.values
        per_line = max(1, 64 // values.element_size())
        if self.c is not None or self.topology.shares_weights:
            return 2.0 * self.nbytes
        lines = [_lines_touched(self, *spikes, per_line) for spikes in self.spikes[:_COUNTED]]
        return 2.0 * 64 * statistics.fmean(lines)


@dataclass(eq=False)
class PropagationInputs(Inputs):
    """The tensors of a workload of spike propagation: runners write a current of their own, which begins with zeros."""

    written: ClassVar[str] = "current"

    @staticmethod
    def of(workload: Workload, seed: int = 0) -> PropagationInputs:
        """Draw the inputs of a workload.

        Examples
        --------
        >>> inputs = PropagationInputs.of(Workload("propagation", "dense", "no_bound", (100, 50), 0.02))
        >>> inputs.start.shape, int(inputs.spikes[0][0].sum())
        (torch.Size([50]), 2)
        """
        drawn = Inputs.of(replace(workload, rule="stdp"), seed)
        return PropagationInputs(workload, drawn.topology, drawn.weights, None, {}, drawn.spikes)

    @property
    def start(self) -> Tensor:
        return self.values.new_zeros(self.topology.post_shape)

    @cached_property
    def expected(self) -> tuple[Tensor, None]:
        weights, current = self.topology.weights_of(self.values.double()), self.start.double()
        topology = self.topology if self.topology.ends() is None else None
        for pre_spike, _ in self.spikes[:PROOF_STEPS]:
            propagate_(current, weights, pre_spike, topology=topology, backend="reference")
        return current, None

    def bytes_that_must_move(self) -> float:
        """Mean bytes a step over some patterns: 64-byte lines with a weight that counts, and all currents twice."""
        per_line, start = max(1, 64 // self.values.element_size()), self.start
        silent = torch.zeros(self.topology.post_shape, dtype=torch.bool, device=start.device)
        lines = [_lines_touched(self, pre_spike, silent, per_line) for pre_spike, _ in self.spikes[:_COUNTED]]
        return 64 * statistics.fmean(lines) + 2 * start.nbytes


def _lines_touched(inputs: Inputs, pre_spike: Tensor, post_spike: Tensor, per_line: int) -> int:
    topology = inputs.topology
    touched = meeting_of(topology.name).touched(topology, pre_spike.float(), post_spike.float())
    touched = touched.expand(topology.weights_shape).reshape(-1)
    beyond = -len(touched) % per_line
    return int(torch.nn.functional.pad(touched, (0, beyond)).view(-1, per_line).any(1).sum())


@dataclass(eq=False)
class Runner:
    """What a provider prepares for one workload.

    Attributes
    ----------
    step : callable
        ``step(k)``: one step with pattern ``k`` of the pool, on the runner's own weights.
    weights : callable
        The weights' values as they are now, in the order of ``Inputs.values``; of spike propagation, the current.
    c : callable, optional
        The eligibility trace likewise.
    times : callable, optional
        Seconds a step, some samples of it, from a runner that is a process of its own and keeps time itself. Its
        ``weights`` are those after the first ``PROOF_STEPS`` patterns, and ``step`` does nothing.
    """

    step: Callable[[int], Any]
    weights: Callable[[], Tensor]
    c: Callable[[], Tensor] | None = None
    times: Callable[[], list[float]] | None = None


Provider = Callable[[Inputs], Runner]


@dataclass(frozen=True)
class Row:
    """A line of results: one provider on one workload.

    Attributes
    ----------
    workload : str
        The workload's name; its fields follow.
    provider, version : str
        Who computed it.
    status : str
        "ok", "not comparable" (it computes something else) or "not available"; only "ok" has a time.
    note : str
        Why the status is not "ok".
    median_us, q1_us, q3_us, min_us : float or None
        Microseconds a step.
    ratio : float or None
        The median over that of tritonstdp in the same run: above 1, tritonstdp is faster.
    floor_ratio : float or None
        The median over the time that a copy takes to move the bytes that must move.
    host_us : float or None
        On a GPU: microseconds that the host takes to launch a step, which the other times leave out.
    """

    workload: str
    rule: str
    topology: str
    bound: str
    shape: str
    rate: float
    dtype: str
    device: str
    threads: int
    provider: str
    version: str
    status: str
    note: str = ""
    median_us: float | None = None
    q1_us: float | None = None
    q3_us: float | None = None
    min_us: float | None = None
    samples: int = 0
    ratio: float | None = None
    floor_ratio: float | None = None
    host_us: float | None = None


def _error(inputs: Inputs, runner: Runner) -> str:
    """What is wrong with a runner's first steps; empty where nothing is."""
    for k in range(PROOF_STEPS):
        runner.step(k)
    expected_w, expected_c = inputs.expected
    pairs = [(inputs.written, runner.weights(), expected_w, inputs.start)]
    if expected_c is not None and inputs.c is not None:
        if runner.c is None:
            return "keeps no eligibility trace"
        pairs.append(("eligibility", runner.c(), expected_c, inputs.c))
    return next(filter(None, (disagreement(*pair, PROOF_STEPS) for pair in pairs)), "")


def _copy_runner(inputs: Inputs) -> Runner:
    """A copy of the weights, or of many of them: its time gives the bandwidth."""
    source = inputs.values.view(-1)[:_COPIED].clone()
    target = source.clone()
    return Runner(lambda k: target.copy_(source), lambda: target)


class _Clock:
    """Times a runner, which goes on through the pool of patterns where it was."""

    def __init__(self, runner: Runner, device: str, patterns: int) -> None:
        self.step, self.seconds, self.patterns, self.k = runner.step, clock(device), patterns, 0
        self.steps = patterns  # a GPU's graph is captured once, and holds them all
        typical = statistics.median(self.sample(1 if device == "cpu" else patterns) for _ in range(3))
        if device == "cpu":
            self.steps = 1 if typical > 50e-6 else max(1, round(200e-6 / typical))
        self.samples_a_turn = max(1, min(16, round(10e-3 / (self.steps * typical))))
        self.steps_to_warm_up = max(1, min(patterns, round(2e-3 / typical))) if device == "cpu" else patterns

    def sample(self, steps: int) -> float:
        """Seconds a step, the mean over some: where steps are short, reading the clock would cost too much."""
        first, self.k = self.k, (self.k + steps) % self.patterns
        return self.seconds(self.step, lambda: self.calls(first, steps), steps) / steps

    def calls(self, first: int, steps: int) -> list[tuple[int]]:
        """The patterns of some steps, as arguments."""
        return [((first + n) % self.patterns,) for n in range(steps)]

    def turn(self) -> list[float]:
        """Some samples, after steps that bring back into the cache what the others have driven out."""
        self.sample(self.steps_to_warm_up)
        return [self.sample(self.steps) for _ in range(self.samples_a_turn)]


def _take_turns(runners: dict[str, Runner], seconds: float, device: str, patterns: int) -> dict[str, list[float]]:
    samples = {name: runner.times() for name, runner in runners.items() if runner.times is not None}
    runners = {name: runner for name, runner in runners.items() if runner.times is None}
    clocks = {name: _Clock(runner, device, patterns) for name, runner in runners.items()}
    samples |= {name: [] for name in clocks}
    names = list(clocks)
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or min(len(samples[name]) for name in names) < 3:
        for name in names:
            samples[name] += clocks[name].turn()
        names = names[1:] + names[:1]
    return samples


def measure(
    workload: Workload, providers: dict[str, Provider], seconds: float = 1.0, versions: dict[str, str] | None = None
) -> list[Row]:
    """Prove and time providers on one workload.

    Parameters
    ----------
    workload : Workload
        The workload.
    providers : dict
        ``name -> prepare(inputs)``; one is called :data:`OURS`. Where copies of the weights for all of them would
        fill the memory, they run one after the other, and in turns otherwise.
    seconds : float
        How long to take turns.
    versions : dict, optional
        The providers' versions, for the rows.

    Returns
    -------
    list of Row
        One a provider, and one called "copy" for the bandwidth.

    Examples
    --------
    >>> from tritonstdp.bench import own_providers
    >>> rows = measure(Workload("stdp", "dense", "no_bound", (16, 16), 0.1), own_providers("cpu"), seconds=0.01)
    >>> [row.status for row in rows if row.provider == "tritonstdp"]
    ['ok']
    """
    inputs = workload.inputs()
    groups = [providers]
    if inputs.nbytes > _SHARED_BYTES:
        groups = [{name: prepare} for name, prepare in providers.items()]
    problems: dict[str, tuple[str, str]] = {}
    samples: dict[str, list[float]] = {}
    hosts: dict[str, float] = {}
    for group in groups:
        runners = _prove(inputs, group, problems)
        runners["copy"] = _copy_runner(inputs)
        for name, times in _take_turns(runners, seconds, workload.device, len(inputs.spikes)).items():
            samples.setdefault(name, []).extend(times)
        if workload.device != "cpu":
            hosts |= {name: _enqueuing(runner, workload.device) for name, runner in runners.items()}
        del runners
    return _rows(inputs, [*providers, "copy"], problems, samples, hosts, versions or {})


def _enqueuing(runner: Runner, device: str) -> float:
    calls = [(k,) for k in range(PROOF_STEPS)]
    return min(enqueuing_seconds(device, runner.step, calls) for _ in range(_ENQUEUED)) / len(calls)


def _prove(inputs: Inputs, providers: dict[str, Provider], problems: dict[str, tuple[str, str]]) -> dict[str, Runner]:
    runners = {}
    for name, prepare in providers.items():
        try:
            runner = prepare(inputs)
        except NotAvailableError as reason:
            problems[name] = ("not available", str(reason))
            continue
        wrong = _error(inputs, runner)
        if wrong:
            problems[name] = ("not comparable", wrong)
        else:
            runners[name] = runner
    return runners


def _rows(
    inputs: Inputs,
    names: Iterable[str],
    problems: dict[str, tuple[str, str]],
    samples: dict[str, list[float]],
    hosts: dict[str, float],
    versions: dict[str, str],
) -> list[Row]:
    workload = inputs.workload
    copy_time = statistics.median(samples["copy"])
    values = inputs.values
    copied = 2 * min(values.numel(), _COPIED) * values.element_size()
    floor = inputs.bytes_that_must_move() * copy_time / copied
    ours = statistics.median(samples[OURS]) if OURS in samples else None
    described = {k: v for k, v in asdict(workload).items() if k != "shape"}
    rows = []
    for name in names:
        common = {
            "workload": workload.name, **described, "shape": workload.shape_text,
            "threads": torch.get_num_threads(), "provider": name, "version": versions.get(name, ""),
        }  # fmt: skip
        if name in problems:
            status, note = problems[name]
            rows.append(Row(**common, status=status, note=note))
            continue
        median, q1, q3, turns = Timing.of(samples[name])
        rows.append(
            Row(
                **common, status="ok", median_us=median * 1e6, q1_us=q1 * 1e6, q3_us=q3 * 1e6,
                min_us=min(samples[name]) * 1e6, samples=turns,
                ratio=median / ours if ours else None, floor_ratio=median / floor,
                host_us=hosts[name] * 1e6 if name in hosts else None,
            )
        )  # fmt: skip
    return rows


def write_rows(rows: list[Row], path: str | Path) -> None:
    """Write rows as tidy JSON or CSV, by the file's suffix; each row also says where it was measured."""
    path = Path(path)
    where = machine()
    tidy = [asdict(row) | {f"machine_{key}": value for key, value in where.items()} for row in rows]
    if path.suffix != ".csv":
        write_output(path, (json.dumps(tidy, indent=1) + "\n").encode())
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(tidy[0]))
    writer.writeheader()
    writer.writerows(tidy)
    write_output(path, text.getvalue().encode())


def read_rows(path: str | Path) -> list[Row]:
    """Read the rows of a JSON file that :func:`write_rows` wrote.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    names = Row.__dataclass_fields__
    try:
        rows = [Row(**{k: v for k, v in row.items() if k in names}) for row in json.loads(Path(path).read_text())]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no rows of tritonstdp bench ({error})") from error
    for row in rows:
        if not all(time is None or isinstance(time, int | float) for time in (row.median_us, row.ratio)):
            raise ValueError(f"{path} holds times that are not numbers, of {row.workload}")
    return rows
