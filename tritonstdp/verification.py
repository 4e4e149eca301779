"""The parity suite of ``tritonstdp verify``: every kernel against the reference, on whatever machine it is run on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product
from multiprocessing import active_children, get_context
from typing import Any
from unittest import mock

import torch
from pymonntorch import Behavior, Network, NeuronGroup, SynapseGroup
from torch import Tensor

from tritonstdp import behaviors
from tritonstdp.autotune import cost
from tritonstdp.bench import own_providers, torch_providers
from tritonstdp.choice import choose
from tritonstdp.functional import trace_, trace_backends
from tritonstdp.graphs import capture
from tritonstdp.inspection import gpu_module
from tritonstdp.kernels import items, scatter
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.kernels.trace import TraceCase
from tritonstdp.machine import machine
from tritonstdp.measurement import OURS, Row, Workload, measure
from tritonstdp.problems import Problem, make_problem
from tritonstdp.registry import BACKENDS, describe, entries
from tritonstdp.rules import BOUNDS, RULES, Formula, Rule, soft_bound
from tritonstdp.terminal import Progress
from tritonstdp.topology import DTYPES, TOPOLOGIES

__all__ = [
    "QUICK_RUNS",
    "RUNS",
    "Check",
    "checks",
    "checks_of_all",
    "model_beside",
    "report",
    "run_each",
    "sanitizer_checks",
    "timings",
]

RUNS = 100
"""How often a step is repeated, which must give the same bits each time."""

QUICK_RUNS = 10
"""How often in a quick check."""

REPLAYS = 3


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes
    ----------
    name : str
        "accuracy" (against the float64 reference), "bits" (equal to the reference in the same dtype, on the CPU),
        "repeatability" (equal bits in 100 runs), "currents" (spike propagation against the float64 reference), "graph"
        (a CUDA graph's replays equal eager steps), "network" (so does a whole captured network) or "sanitizer".
    backend : str
        The backend that ran.
    case : dict
        What was run, as ``tritonstdp.registry.describe`` says it.
    passed : bool
        Whether it held.
    error : float or None
        The greatest difference over what is allowed, for "accuracy" and "currents".
    note : str
        What went wrong.
    """

    name: str
    backend: str
    case: dict[str, Any]
    passed: bool
    error: float | None = None
    note: str = ""


def checks(device: str, topology: str, quick: bool = False) -> Iterator[Check]:
    """Check one topology, or "trace", on every backend that serves a device.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    topology : str
        A name in :data:`tritonstdp.topology.TOPOLOGIES`, or "trace".
    quick : bool
        Whether to check rules that have every formula of all, each in one case alone, and to repeat it less often.

    Yields
    ------
    Check
        Each result. What raises is a failure, and its message the note.

    Examples
    --------
    >>> all(check.passed for check in checks("cpu", "trace"))
    True
    """
    if topology == "trace":
        yield from _trace_checks(device)
        return
    rules = _covering() if quick else list(RULES.values())
    typical = [*(_typical(rule, topology) for rule in rules), _typical(rules[0], topology, samples=3)]
    if device != "cpu":
        yield from _parity(_typical(rules[0], topology), device)
    with _small_for_large():
        for problem in typical if quick else _problems(topology):
            yield from _parity(problem, device)
        for problem in typical:
            for backend in _backends(problem, device):
                case = {**describe(problem.case), "device": device}
                runs = QUICK_RUNS if quick else RUNS
                yield _checked("repeatability", backend, case, partial(_repeats, problem, backend, device, runs))
                if device == "cuda" and backend == "triton":
                    yield _checked("graph", backend, case, partial(_replays, problem))
        for problem in islice(_propagations(topology), 2 if quick else None):
            yield from _propagation_checks(problem, device)


def checks_of_all(
    device: str, topologies: Sequence[str], quick: bool = False, processes: int = 1
) -> Iterator[list[Check]]:
    """Check several topologies; on a CPU side by side, if so many processes are given to it.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    topologies : sequence of str
        Names that :func:`checks` takes.
    quick : bool
        As there.
    processes : int
        How many may run on a CPU, where most of the time goes into compiling. They import the package anew, and know
        what is built in alone; the script that starts them needs a main guard.

    Yields
    ------
    list of Check
        The results of each topology, in order.

    Examples
    --------
    >>> [found] = checks_of_all("cpu", ["trace"])
    >>> found == list(checks("cpu", "trace"))
    True
    """
    check = partial(_checked_alone, device, quick)
    processes = min(processes, len(topologies)) if device == "cpu" else 1
    if processes <= 1:
        yield from map(check, topologies)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    others = set(active_children())
    try:
        yield from pool.map(check, topologies)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:
            process.terminate()


def _checked_alone(device: str, quick: bool, topology: str) -> list[Check]:
    with ExitStack() as stack:
        if device == "cpu" and "triton" in trace_backends(TraceCase(torch.float32, device)):
            from tritonstdp.interpretation import swift_interpreter

            stack.enter_context(swift_interpreter())
        return list(checks(device, topology, quick))


@contextmanager
def _small_for_large() -> Iterator[None]:
    """Let small groups stand for large ones meanwhile."""
    with mock.patch.object(items, "FEWEST_LISTED", 0), mock.patch.object(scatter, "FEWEST_SYNAPSES", 0):
        yield


def _typical(rule: Rule, topology: str, samples: int = 0) -> Problem:
    """A rule as it is mostly used, of one sample or a batch of several."""
    group = TOPOLOGIES[topology].uneven_example()
    return make_problem(Formula.of(rule, soft_bound, soft_bound), group, samples=samples, reduction="mean")


def _covering() -> list[Rule]:
    """Rules that have every formula of all: a modulated rule adds nothing to its own plain one and rstdp."""
    seen: set[Callable[..., Any] | None] = {None}
    covering = []
    for rule in RULES.values():
        formulas = {rule.on_pre, rule.on_post, rule.eligibility}
        if formulas - seen:
            covering.append(rule)
        seen |= formulas
    return covering


def _problems(topology: str) -> Iterator[Problem]:
    group = TOPOLOGIES[topology].uneven_example()
    for rule in RULES.values():
        # each rule with the usual bound, and each bound with the usual rule
        for bound in BOUNDS.values() if rule.name == "stdp" else (soft_bound,):
            for dtype in DTYPES.values():
                yield make_problem(Formula.of(rule, bound, bound), group, dtype=dtype)
        clamped = Formula.of(rule, soft_bound, BOUNDS["hard_bound"], clamp=True)
        yield make_problem(clamped, group, float_spikes=True, per_neuron=True)
        yield make_problem(Formula.of(rule, soft_bound, soft_bound), group, rate=0.01, dopamine="scalar")
        if group.takes_strides and len(group.weights_shape) > 1:
            yield make_problem(clamped, group, transposed=True)
    for rule in _covering():
        yield _typical(rule, topology, samples=3)


def _backends(problem: Problem, device: str) -> list[str]:
    case = problem.case._replace(device=device)
    return [
        backend.name
        for backend in BACKENDS
        if backend.refuse(case) is None and any(entry.serves(case, backend.name) for entry in entries())
    ]


def _step(problem: Problem, backend: str) -> Any:
    return choose(problem.case, backend).step


def _after(problem: Problem, backend: str, device: str = "cpu") -> dict[str, Tensor]:
    """What one step makes of a problem, on the CPU again; the problem is left alone."""
    there = problem.to(device=device).copy()
    there.run(_step(there, backend))
    return {name: tensor.cpu() for name, tensor in there.outputs.items()}


def _parity(problem: Problem, device: str) -> Iterator[Check]:
    exact, same = _after(problem.to(torch.float64), "reference"), _after(problem, "reference")
    case = {**describe(problem.case), "device": device}
    dtype = problem.weights.dtype
    for backend in _backends(problem, device):
        try:
            result = _after(problem, backend, device)
        except Exception as error:  # a report names every failure, whatever its kind
            yield Check("accuracy", backend, case, False, note=f"{type(error).__name__}: {error}")
            continue
        excess = max(_excess(tensor, exact[name]) for name, tensor in result.items())
        yield Check("accuracy", backend, case, excess <= 1, excess)
        # the interpreter does not round to bfloat16 as a GPU does, and torch on a GPU divides by way of the reciprocal
        comparable = backend != "reference" and not (device == "cpu" and dtype == torch.bfloat16)
        if comparable and not problem.topology.shares_weights:
            equal = all(torch.equal(tensor, same[name]) for name, tensor in result.items())
            yield Check("bits", backend, case, equal, note="" if equal else "other bits than the reference")


def _excess(result: Tensor, exact: Tensor) -> float:
    """The greatest difference, as a multiple of four units in the last place of a number around 1 (or larger)."""
    allowed = 4 * torch.finfo(result.dtype).eps * exact.abs().clamp(min=1.0)
    excess = ((result.double() - exact).abs() / allowed).max()
    return float(excess) if not excess.isnan() else float("inf")


def _checked(name: str, backend: str, case: dict[str, Any], check: Callable[[], bool]) -> Check:
    try:
        passed, note = check(), ""
    except Exception as error:
        passed, note = False, f"{type(error).__name__}: {error}"
    return Check(name, backend, case, passed, note=note)


def _repeats(problem: Problem, backend: str, device: str, runs: int) -> bool:
    start = problem.to(device=device)
    step = _step(start, backend)
    first = start.copy().run(step).outputs
    again = (start.copy().run(step).outputs for _ in range(runs - 1))
    return all(torch.equal(tensor, first[name]) for outputs in again for name, tensor in outputs.items())


def _replays(problem: Problem) -> bool:
    start = problem.to(device="cuda")
    step = _step(start, "triton")
    eager, captured = start.copy(), start.copy()
    start.copy().run(step)  # compiles, which a capture does not allow
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.run(step)
    for _ in range(REPLAYS):
        eager.run(step)
        graph.replay()
    torch.cuda.synchronize()
    return all(torch.equal(tensor, eager.outputs[name]) for name, tensor in captured.outputs.items())


def _propagations(topology: str) -> Iterator[Problem]:
    """Few spikes, which are scattered, and more."""
    group = TOPOLOGIES[topology].uneven_example()
    for dtype, rate in product(DTYPES.values(), (0.01, 0.3)):
        yield make_problem(PROPAGATION, group, dtype=dtype, rate=rate)
    yield make_problem(PROPAGATION, group, float_spikes=True)


def _propagation_checks(problem: Problem, device: str) -> Iterator[Check]:
    """Whether currents are the reference's, within the rounding of a sum."""
    wide, dtype = problem.to(torch.float64), problem.weights.dtype
    ones, zeros = torch.ones_like(wide.weights), torch.zeros_like(wide.signals["current"])
    reached = {"weights": ones, "current": zeros, "pre_spike": wide.signals["pre_spike"] != 0}
    exact, magnitude, count = (
        _after(given, "reference")["current"]
        for given in (wide, wide.replaced(weights=wide.weights.abs()), wide.replaced(**reached))
    )
    allowed = (count + 1) * torch.finfo(dtype).eps * magnitude
    case = {**describe(problem.case), "device": device}
    for backend in _backends(problem, device):
        try:
            result = _after(problem, backend, device)["current"]
        except Exception as error:  # as for learning
            yield Check("currents", backend, case, False, note=f"{type(error).__name__}: {error}")
            continue
        excess = float(((result.double() - exact).abs() / allowed.clamp(min=torch.finfo(dtype).tiny)).max())
        yield Check("currents", backend, case, excess <= 1, excess)


class _Cells(Behavior):
    """Neurons that fire where their current is large, for a network that is captured."""

    def initialize(self, neurons: Any) -> None:
        neurons.v, neurons.spikes = neurons.vector(mode="rand"), neurons.vector(0.0) > 0

    def forward(self, neurons: Any) -> None:
        neurons.v = neurons.v * 0.9 + 0.1
        for synapse in neurons.afferent_synapses["All"]:
            neurons.v += 0.02 * synapse.I
        neurons.spikes = neurons.v > 1
        neurons.v = torch.where(neurons.spikes, 0.0, neurons.v)


class _Weights(Behavior):
    def initialize(self, synapse: Any) -> None:
        synapse.weights = torch.rand(synapse.src.size, synapse.dst.size, device=synapse.device)


def network_of(device: str) -> Network:
    """A recurrent network that learns, initialized: what is captured to see whether it goes on as it would."""
    torch.manual_seed(0)
    network = Network(device=device, index=False)
    cells = NeuronGroup(300, network, behavior={20: _Cells()})
    learning = behaviors.SimpleSTDP(a_plus=0.01, a_minus=0.012, positive_bound="soft_bound")
    caught = {40: behaviors.PreSpikeCatcher(), 41: behaviors.PostSpikeCatcher()}
    traces = {42: behaviors.PreTrace(tau_s=10.0), 43: behaviors.PostTrace(tau_s=10.0)}
    inputs = {1: _Weights(), 10: behaviors.SimpleDendriticInput()}
    SynapseGroup(network, cells, cells, behavior={**inputs, **caught, **traces, 44: learning})
    network.initialize(info=False)
    return network


def _network_replays() -> bool:
    """Whether a captured network ends as one that runs."""
    captured, eager = network_of("cuda"), network_of("cuda")
    replayed = capture(captured)
    replayed.simulate_iterations(20)
    while eager.iteration < captured.iteration:
        eager.simulate_iteration()
    [found], [wanted] = captured.SynapseGroups, eager.SynapseGroups
    return torch.equal(found.weights, wanted.weights) and torch.equal(found.src.v, wanted.src.v)


def _trace_checks(device: str) -> Iterator[Check]:
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES.values():
        trace = torch.rand(1201, generator=generator).to(dtype)
        spikes = torch.rand(1201, generator=generator) < 0.2
        exact = trace_(trace.to(torch.float64, copy=True), spikes, tau=11.0, backend="reference")
        case = {"topology": "trace", "dtype": str(dtype).removeprefix("torch."), "device": device}
        for backend in trace_backends(TraceCase(dtype, device)):
            result = trace_(trace.to(device, copy=True), spikes.to(device), tau=11.0, backend=backend).cpu()
            excess = _excess(result, exact)
            yield Check("accuracy", backend, case, excess <= 1, excess)
    if device == "cuda":
        case = {"topology": "trace", "network": "300 neurons, dense stdp", "device": device}
        yield _checked("network", "triton", case, _network_replays)


SANITIZER, TOOLS = "compute-sanitizer", ("memcheck", "racecheck")
_LONGEST_SANITIZED = 600.0


def sanitizer_checks() -> Iterator[Check]:
    """Run each formula's Triton kernels under NVIDIA's compute-sanitizer; nothing where it is not on the path.

    Yields
    ------
    Check
        "sanitizer": whether a tool of it found no access out of bounds and no race in shared memory.

    Examples
    --------
    >>> all(check.passed for check in sanitizer_checks())
    True
    """
    sanitizer = shutil.which(SANITIZER)
    if sanitizer is None:
        return
    script = "from tritonstdp.verification import run_each; run_each('cuda')"
    # each tensor an allocation of its own, at whose end the tool stands
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool in TOOLS:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1", sys.executable, "-c", script]
        case = {"topology": "all", "tool": tool, "device": "cuda"}
        try:
            ran = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=_LONGEST_SANITIZED, check=False
            )
            passed, note = ran.returncode == 0, (ran.stdout + ran.stderr)[-2000:]
        except subprocess.TimeoutExpired:
            passed, note = False, f"not done after {_LONGEST_SANITIZED:.0f} s"
        yield Check("sanitizer", "triton", case, passed, note="" if passed else note)


def run_each(device: str) -> None:
    """Run a step of each formula on each topology by its first backend on a device, for whoever looks on."""
    for topology in TOPOLOGIES:
        for rule in _covering():
            problem = _typical(rule, topology)
            with _small_for_large():
                _after(problem, _backends(problem, device)[0], device)


def timings(device: str, seconds: float, rules: Sequence[str] | None = None) -> list[Row]:
    """Time rules on each topology beside torch.compile of the same formula, at 2 % spikes.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    seconds : float
        How long to take turns, for each.
    rules : sequence of str, optional
        Which; all, unless given.

    Returns
    -------
    list of Row
        The times.

    Examples
    --------
    >>> rows = timings("cpu", 0.1)  # doctest: +SKIP
    """
    providers = {OURS: own_providers(device)[OURS], **torch_providers()}
    workloads = [
        Workload(rule, name, "soft_bound", sizes, 0.02, device=device)
        for name, kind in TOPOLOGIES.items()
        for sizes in kind.examples.timed[-1:]
        for rule in (RULES if rules is None else rules)
    ]
    return [row for workload in Progress("timing", workloads) for row in measure(workload, providers, seconds)]


def model_beside(rows: list[Row], device: str) -> dict[str, Any]:
    """Set measured steps beside what the time model says of them, once it is calibrated on the GPU.

    Parameters
    ----------
    rows : list of Row
        The times of :func:`timings`.
    device : str
        The GPU.

    Returns
    -------
    dict
        "gpu": its figures, as measured; "steps": for each of our times, what was estimated. Empty where the model does
        not know GPUs of its kind.

    Examples
    --------
    >>> model_beside([], "cpu")
    {}
    """
    target = cost.target_of(device)
    if target is None:
        return {}
    from tritonstdp.autotune.calibration import calibrated

    gpu = calibrated(device)
    steps = []
    for row in rows:
        if row.provider != OURS or row.median_us is None:
            continue
        sizes = tuple(map(int, row.shape.split("x")))
        bound = BOUNDS[row.bound]
        [found], _ = cost.rank(
            [gpu_module(row.topology).DEFAULT], Formula.of(RULES[row.rule], bound, bound),
            TOPOLOGIES[row.topology].of_sizes(sizes), getattr(torch, row.dtype), target, (row.rate,), gpu,
        )  # fmt: skip
        steps.append({"workload": row.workload, "measured_us": row.median_us, "estimated_us": 1e6 * found.mean})
    return {"gpu": gpu._asdict(), "steps": steps}


def report(done: list[Check], rows: list[Row], device: str, model: dict[str, Any] | None = None) -> dict[str, Any]:
    """What was found, and where, as plain values.

    Parameters
    ----------
    done : list of Check
        What was checked.
    rows : list of Row
        What was timed.
    device : str
        On which device.
    model : dict, optional
        What :func:`model_beside` gave.

    Returns
    -------
    dict
        The report.

    Examples
    --------
    >>> report(list(checks("cpu", "trace")), [], "cpu")["passed"]
    True
    """
    return {
        "passed": all(check.passed for check in done),
        "device": device,
        "machine": machine(),
        "checks": [asdict(check) for check in done],
        "timings": [asdict(row) for row in rows],
        "model": model or {},
    }
