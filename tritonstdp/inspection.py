"""What the Triton kernels cost, found by compiling them for GPUs that need not be there.

A kernel is recorded as its step launches it, specialised as Triton itself would, compiled for a target, and its machine
code read with the tools that the Triton wheel carries.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.kernels.trace import TraceCase
from tritonstdp.machine_code import TARGETS, Target, Widths, accesses, address_bits, occupancy, usage
from tritonstdp.problems import Problem, make_problem
from tritonstdp.registry import entries, formula_named, kernels_of, operation_of
from tritonstdp.rules import Formula
from tritonstdp.terminal import UserError
from tritonstdp.topology import TOPOLOGIES, Topology
from tritonstdp.topology.base import Sizes

__all__ = ["Inspection", "Launch", "compile_launch", "inspect_kernel", "launches", "read_report", "rows", "worse"]

INTERPRETED = "TRITON_INTERPRET=1 is set, and Triton's interpreter compiles nothing: unset it to inspect"


Cases = Iterable[tuple[tuple[str, str, str, str], Any]]
"""What is looked at: pairs of ``(rule, topology, bound, dtype)`` and the kernel's ``Config``."""


class Launch(NamedTuple):
    """One launch, as a step hands it to Triton.

    Attributes
    ----------
    kernel : triton.JITFunction
        The kernel.
    grid : tuple of int
        The numbers of programs.
    arguments : tuple
        The kernel's arguments.
    options : dict
        The launch's options, such as ``num_warps``.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@contextmanager
def _recording() -> Iterator[list[Launch]]:
    import triton
    from triton.runtime.jit import JITFunction

    if triton.knobs.runtime.interpret:
        raise RuntimeError(INTERPRETED)
    recorded: list[Launch] = []

    def record(kernel: Any, *arguments: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        recorded.append(Launch(kernel, grid, arguments, options))

    launch = JITFunction.run
    JITFunction.run = record
    try:
        yield recorded
    finally:
        JITFunction.run = launch


def launches(problem: Problem, config: tuple[Any, ...] | None = None) -> list[Launch]:
    """Record what a step would launch; nothing is run, and no GPU is needed.

    Parameters
    ----------
    problem : Problem
        The problem, on the CPU.
    config : tuple, optional
        The kernel's ``Config``; its default one otherwise.

    Returns
    -------
    list of Launch
        The launches.

    Raises
    ------
    RuntimeError
        If Triton's interpreter is on.
    CannotCompileError
        If Triton can't take the formula.

    Examples
    --------
    >>> from tritonstdp.rules import stdp
    >>> from tritonstdp import Dense
    >>> [_listing, launch] = launches(make_problem(Formula.of(stdp), Dense(64, 64)))  # doctest: +SKIP
    >>> launch.kernel.__name__  # doctest: +SKIP
    'items_kernel'
    """
    module = gpu_module(problem.topology.name, problem.case.operation)
    step = module.build(problem.case, module.DEFAULT if config is None else config)
    with _recording() as recorded:
        problem.run(step)
    return recorded


def _trace_launches(dtype: torch.dtype, config: tuple[Any, ...]) -> list[Launch]:
    step = gpu_module("trace").build(TraceCase(dtype, "cpu"), config)
    with _recording() as recorded:
        step(torch.zeros(64, dtype=dtype), torch.zeros(64, dtype=torch.bool), 1.0, 10.0, 1.0)
    return recorded


def gpu_module(topology: str, operation: str = Formula.operation) -> Any:
    """The module of a topology's Triton kernels, which offers ``Config``, ``DEFAULT``, ``SPACE`` and ``build``."""
    if topology == "trace":
        return importlib.import_module("tritonstdp.kernels.trace.gpu")
    module = kernels_of(topology, "gpu", operation)
    if module is None:
        raise ValueError(f"{topology} has no Triton kernels of {operation}: its folder has no file of them")
    return module


def compile_launch(launch: Launch, target: Target) -> Any:
    """Compile a launch for a target, specialised on its arguments as Triton does when it launches.

    Parameters
    ----------
    launch : Launch
        The launch.
    target : Target
        One of :data:`tritonstdp.machine_code.TARGETS`.

    Returns
    -------
    triton.compiler.CompiledKernel
        The compiled kernel.

    Raises
    ------
    CannotCompileError
        If it does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    from tritonstdp.kernels.blocks import NVIDIA_OPTIONS

    kernel = launch.kernel
    gpu = GPUTarget(target.backend, target.arch, target.warp_size)
    backend = make_backend(gpu)
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    taken = {k: v for k, v in launch.options.items() if target.backend == "cuda" or k not in NVIDIA_OPTIONS}
    bound, specialization, options = bind(*launch.arguments, **taken)
    parsed, *source = kernel._pack_args(backend, taken, bound, specialization, options)
    try:
        return triton.compile(ASTSource(kernel, *source), target=gpu, options=parsed.__dict__)
    except Exception as error:
        raise CannotCompileError(f"{kernel.__name__} does not compile for {target.arch}: {error}") from error


@dataclass(frozen=True)
class Inspection:
    """What one kernel costs on one target.

    Attributes
    ----------
    rule, topology, shape, bound, dtype, config, target, kernel : str
        What was compiled. Both bounds are the same one.
    samples : int
        Of how many samples the batch is; 0 for a step of one.
    registers : int
        Registers a thread.
    local : int
        Bytes of local memory (stack, or scratch) a thread.
    spills : int
        Instructions that reach local memory (on AMD: registers spilled).
    shared : int
        Bytes of shared memory a program.
    occupancy : float
        The share of a multiprocessor's warps that fit, as registers, shared memory and program slots allow.
    instructions : int
        Machine instructions.
    in_flight : int or None
        The most bytes of global memory that a thread waits for at once; None on AMD.
    weight_width : int
        The width in bits of the narrowest access to what the step updates; 0 where there is none.
    address_bits : int
        The width of the narrowest offset from where the state lies; 0 where the kernel does not touch it.
    loads, stores : dict
        For each buffer, how many instructions access global memory at each width in bits.
    """

    rule: str
    topology: str
    shape: str
    bound: str
    dtype: str
    config: str
    target: str
    samples: int
    kernel: str
    registers: int
    local: int
    spills: int
    shared: int
    occupancy: float
    instructions: int
    in_flight: int | None
    weight_width: int
    address_bits: int
    loads: Widths
    stores: Widths

    @property
    def key(self) -> str:
        """What was compiled, as one name."""
        batch = [f"batch of {self.samples}"] if self.samples else []
        named = self.rule, self.topology, self.shape, *batch, self.bound, self.dtype, self.config, self.target
        return "/".join((*named, self.kernel))


def inspect_kernel(
    rule: str,
    topology: str,
    bound: str = "soft_bound",
    dtype: str = "float32",
    target: str = "sm_90",
    config: tuple[Any, ...] | None = None,
    sizes: Sizes | None = None,
    samples: int = 0,
) -> list[Inspection]:
    """Compile the kernels of one case for one target, and read what they cost.

    Parameters
    ----------
    rule, topology, bound, dtype : str
        The names of the case; both bounds are ``bound``. The rule "propagation" stands for that of spikes, which has
        no bounds, and the topology "trace" for the kernel of spike traces, which has neither rule nor bound.
    target : str
        A name in :data:`tritonstdp.machine_code.TARGETS`.
    config : tuple, optional
        The kernel's ``Config``; its default one otherwise.
    sizes : tuple of int, optional
        The group's, as its topology's ``sizes`` names them; those of its example otherwise.
    samples : int
        Of how many samples a batch is that is learnt from; 0 for a step of one.

    Returns
    -------
    list of Inspection
        One for each kernel that a step launches.

    Raises
    ------
    RuntimeError
        If Triton's interpreter is on.
    CannotCompileError
        If a kernel does not compile.

    Examples
    --------
    >>> inspect_kernel("stdp", "dense")[0].spills  # doctest: +SKIP
    0
    """
    default = gpu_module(topology, operation_of(rule, samples)).DEFAULT
    config = default if config is None else config
    shape = "example" if sizes is None else "x".join(map(str, sizes))
    names = rule, topology, shape, bound, dtype, config_name(config, default), target, samples
    if topology == "trace":
        recorded = _trace_launches(getattr(torch, dtype), config)
    else:
        formula = formula_named(rule, bound, bound)
        group = example_for(topology, "compiled") if sizes is None else TOPOLOGIES[topology].of_sizes(sizes)
        recorded = launches(make_problem(formula, group, dtype=getattr(torch, dtype), samples=samples), config)
    return [Inspection(*names, **_figures(launch, TARGETS[target])) for launch in recorded]


def example_for(topology: str, purpose: str) -> Topology:
    """The group of a topology that is meant for a purpose: a field of :class:`tritonstdp.topology.Examples`."""
    kind = TOPOLOGIES[topology]
    sizes = getattr(kind.examples, purpose)
    return kind.of_sizes(sizes) if sizes else kind.example()


def config_name(config: Any, default: Any) -> str:
    """What a configuration changes in the default one, as ``--config`` takes it."""
    changed = [name for name in default._fields if getattr(config, name) != getattr(default, name)]
    return ",".join(f"{name}={getattr(config, name)}" for name in changed) or "default"


_STATE = ("w", "c", "trace")
"""The buffers that a step updates, as kernels name their parameters."""


_KNOWN_FIGURES: dict[str, dict[str, Any]] = {}
"""By what was compiled: many configurations differ in numbers that a launch takes, and not in code."""


def _figures(launch: Launch, target: Target) -> dict[str, Any]:
    compiled = compile_launch(launch, target)
    if compiled.hash not in _KNOWN_FIGURES:
        _KNOWN_FIGURES[compiled.hash] = _figures_of(compiled, launch, target)
    return _KNOWN_FIGURES[compiled.hash]


def _figures_of(compiled: Any, launch: Launch, target: Target) -> dict[str, Any]:
    used, shared = usage(compiled), compiled.metadata.shared
    accessed = accesses(compiled)
    synapses = [accessed[kind].get(buffer, {}) for kind in accessed for buffer in _STATE]
    return {
        "kernel": launch.kernel.__name__,
        "shared": shared,
        "occupancy": occupancy(target, used["registers"], shared, compiled.metadata.num_warps),
        "weight_width": min((width for widths in synapses for width in widths), default=0),
        "address_bits": address_bits(compiled, _STATE),
        **used,
        **accessed,
    }


_COUNTED = (
    "elements_loaded", "elements_stored", "sectors_loaded", "sectors_stored", "lanes",
    "programs", "idle", "turns", "operations", "longest",
)  # fmt: skip
_MORE_IS_WORSE = ("registers", "local", "spills", "shared", "instructions", *_COUNTED)
_LESS_IS_WORSE = ("occupancy", "in_flight", "weight_width", "address_bits")


def worse(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """Say which figures got worse between two reports.

    Parameters
    ----------
    old, new : list of dict
        The rows of two ``--json`` reports; rows that only one of them has are left out.

    Returns
    -------
    list of str
        One line for each figure that got worse.

    Examples
    --------
    >>> worse([{"key": "stdp/dense", "registers": 30}], [{"key": "stdp/dense", "registers": 40}])
    ['stdp/dense: registers 30 -> 40']
    """
    before = {row["key"]: row for row in old}
    lines = []
    for row in new:
        for name, sign in (*((n, 1) for n in _MORE_IS_WORSE), *((n, -1) for n in _LESS_IS_WORSE)):
            past = before.get(row["key"], {}).get(name)
            if past is not None and name in row and sign * row[name] > sign * past:
                lines.append(f"{row['key']}: {name} {past} -> {row[name]}")
    return lines


def inspected(operation: str | None = None) -> list[str]:
    """Every topology that has Triton kernels, of one operation or of any, and spike traces."""
    found = (e.topology for e in entries() if e.backend == "triton" and operation in (None, e.operation))
    return [*dict.fromkeys(found), "trace"]


def read_report(path: Path) -> list[dict[str, Any]]:
    """Read the rows of an earlier ``--json``.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    numbers = (*_MORE_IS_WORSE, *_LESS_IS_WORSE)
    try:
        rows = json.loads(path.read_text())
        figures = (row.get(name) for row in rows for name in numbers)
        if all(isinstance(row["key"], str) for row in rows) and all(isinstance(n, int | float | None) for n in figures):
            return rows
        problem = "its figures are not numbers"
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        problem = str(error)
    raise ValueError(f"{path} holds no report of tritonstdp inspect --json ({problem})")


def fitting(topology: str, shapes: Sequence[Sizes]) -> Sequence[Sizes | None]:
    kind = TOPOLOGIES.get(topology)
    return [sizes for sizes in shapes if kind is not None and kind.takes(sizes)] if shapes else [None]


def rows(cases: Cases, targets: Iterable[str], shapes: Sequence[Sizes] = (), samples: int = 0) -> list[dict[str, Any]]:
    """Inspect kernels on every target.

    Parameters
    ----------
    cases : iterable
        Pairs of ``(rule, topology, bound, dtype)`` and the kernel's ``Config``.
    targets : iterable of str
        Names in :data:`tritonstdp.machine_code.TARGETS`.
    shapes : sequence of tuple of int
        Sizes of groups, each for the topologies that take it; without any, examples.
    samples : int
        Of how many samples a batch is; 0 for steps of one.

    Returns
    -------
    list of dict
        The rows of a ``--json`` report.

    Raises
    ------
    UserError
        If Triton's interpreter is on.
    CannotCompileError
        If a kernel does not compile.
    """
    import triton

    if triton.knobs.runtime.interpret:
        raise UserError(INTERPRETED)
    release = ".".join(triton.__version__.split(".")[:2])
    inspections = [
        inspection
        for case, config in cases
        for sizes in fitting(case[1], shapes)
        for target in targets
        for inspection in inspect_kernel(*case, target, config, sizes, samples)
    ]
    return [{"key": inspection.key, "triton": release, **asdict(inspection)} for inspection in inspections]
