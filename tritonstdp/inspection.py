"""``tritonstdp inspect``: what the Triton kernels cost, found by compiling them for GPUs that need not be there.

A kernel is recorded as its step launches it, specialised as Triton itself would, compiled for a target, and its machine
code read with the tools that the Triton wheel carries.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from tritonstdp.arguments import existing_file
from tritonstdp.arguments import rate as fraction
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.kernels.trace import TraceCase
from tritonstdp.machine_code import TARGETS, Target, Widths, accesses, address_bits, occupancy, usage
from tritonstdp.problems import RATES, Problem, make_problem
from tritonstdp.registry import entries, kernels_of
from tritonstdp.rules import BOUNDS, RULES, Formula
from tritonstdp.terminal import UserError
from tritonstdp.topology import DTYPES, TOPOLOGIES, Topology

__all__ = ["Inspection", "Launch", "add_arguments", "compile_launch", "inspect_kernel", "launches", "run", "worse"]

INTERPRETED = "TRITON_INTERPRET=1 is set, and Triton's interpreter compiles nothing: unset it to inspect"


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
    >>> [launch] = launches(make_problem(Formula.of(stdp), Dense(64, 64)))  # doctest: +SKIP
    >>> launch.kernel.__name__  # doctest: +SKIP
    'dense_kernel'
    """
    module = gpu_module(problem.topology.name)
    step = module.build(problem.case, module.DEFAULT if config is None else config)
    with _recording() as recorded:
        problem.run(step)
    return recorded


def _trace_launches(dtype: torch.dtype, config: tuple[Any, ...]) -> list[Launch]:
    step = gpu_module("trace").build(TraceCase(dtype, "cpu"), config)
    with _recording() as recorded:
        step(torch.zeros(64, dtype=dtype), torch.zeros(64, dtype=torch.bool), 1.0, 10.0, 1.0)
    return recorded


def gpu_module(topology: str) -> Any:
    """The module of a topology's Triton kernels, which offers ``Config``, ``DEFAULT``, ``SPACE`` and ``build``."""
    if topology == "trace":
        return importlib.import_module("tritonstdp.kernels.trace.gpu")
    module = kernels_of(topology, "gpu")
    if module is None:
        raise ValueError(f"{topology} has no Triton kernels: its folder has no gpu.py")
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

    from tritonstdp.kernels.device import NVIDIA_OPTIONS

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
    rule, topology, bound, dtype, config, target, kernel : str
        What was compiled. Both bounds are the same one.
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
    weight_width : int
        The width in bits of the narrowest access to what the step updates; 0 where there is none.
    address_bits : int
        The width of the narrowest offset from where the state lies; 0 where the kernel does not touch it.
    loads, stores : dict
        For each buffer, how many instructions access global memory at each width in bits.
    """

    rule: str
    topology: str
    bound: str
    dtype: str
    config: str
    target: str
    kernel: str
    registers: int
    local: int
    spills: int
    shared: int
    occupancy: float
    instructions: int
    weight_width: int
    address_bits: int
    loads: Widths
    stores: Widths

    @property
    def key(self) -> str:
        """What was compiled, as one name."""
        return "/".join((self.rule, self.topology, self.bound, self.dtype, self.config, self.target, self.kernel))


def inspect_kernel(
    rule: str,
    topology: str,
    bound: str = "soft_bound",
    dtype: str = "float32",
    target: str = "sm_90",
    config: tuple[Any, ...] | None = None,
) -> list[Inspection]:
    """Compile the kernels of one case for one target, and read what they cost.

    Parameters
    ----------
    rule, topology, bound, dtype : str
        The names of the case; both bounds are ``bound``. The topology "trace" stands for the kernel of spike traces,
        which has neither rule nor bound.
    target : str
        A name in :data:`tritonstdp.machine_code.TARGETS`.
    config : tuple, optional
        The kernel's ``Config``; its default one otherwise.

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
    default = gpu_module(topology).DEFAULT
    config = default if config is None else config
    names = rule, topology, bound, dtype, _config_name(config, default), target
    if topology == "trace":
        recorded = _trace_launches(getattr(torch, dtype), config)
    else:
        formula = Formula.of(RULES[rule], BOUNDS[bound], BOUNDS[bound])
        recorded = launches(make_problem(formula, _example(topology, "compiled"), dtype=getattr(torch, dtype)), config)
    return [Inspection(*names, **_figures(launch, TARGETS[target])) for launch in recorded]


def _example(topology: str, purpose: str) -> Topology:
    kind = TOPOLOGIES[topology]
    sizes = getattr(kind.examples, purpose)
    return kind.of_sizes(sizes) if sizes else kind.example()


def _config_name(config: Any, default: Any) -> str:
    """What a configuration changes in the default one, as ``--config`` takes it."""
    changed = [name for name in default._fields if getattr(config, name) != getattr(default, name)]
    return ",".join(f"{name}={getattr(config, name)}" for name in changed) or "default"


_STATE = ("w", "c", "trace")
"""The buffers that a step updates, as kernels name their parameters."""


def _figures(launch: Launch, target: Target) -> dict[str, Any]:
    compiled = compile_launch(launch, target)
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


_COUNTED = ("elements_loaded", "elements_stored", "sectors_loaded", "sectors_stored", "lanes")
_MORE_IS_WORSE = ("registers", "local", "spills", "shared", "instructions", *_COUNTED)
_LESS_IS_WORSE = ("occupancy", "weight_width", "address_bits")


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


def _inspected() -> list[str]:
    """Every topology that has Triton kernels, and spike traces."""
    return [*dict.fromkeys(entry.topology for entry in entries() if entry.backend == "triton"), "trace"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    choices: tuple[tuple[str, Any, list[str], str], ...] = (
        ("rule", RULES, ["all"], "rules"),
        ("topology", _inspected(), ["all"], "topologies, or trace for spike traces"),
        ("bound", BOUNDS, ["soft_bound"], "of potentiation and depression alike"),
        ("dtype", DTYPES, ["float32"], "of the weights"),
        ("target", TARGETS, ["sm_90"], "GPUs to compile for"),
    )
    for name, values, default, what in choices:
        parser.add_argument(
            f"--{name}", nargs="+", choices=[*values, "all"], default=default, metavar=name.upper(),
            help=f"{what}: {', '.join(values)} or all (default: {' '.join(default)})",
        )  # fmt: skip
    parser.add_argument(
        "--config", default="default", metavar="CONFIG",
        help='"default", "all", or changes to the default such as columns=256,rows=32 (default: default)',
    )  # fmt: skip
    parser.add_argument(
        "--traffic", nargs="*", type=fraction, metavar="RATE",
        help="instead, count memory traffic in Triton's interpreter where this share of the neurons spikes, above 0 "
        f"and up to 1 (where none is given: {' '.join(map(str, RATES))})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--diff", type=existing_file, metavar="OLD.json",
        help="say what got worse since --json printed this; exit with 1 if something did",
    )  # fmt: skip


def configs(topology: str, wanted: str) -> list[Any]:
    """The configurations of a topology's kernels that ``--config`` stands for.

    Raises
    ------
    UserError
        If it names a field that the topology's ``Config`` does not have, or a value that none can have.
    """
    module = gpu_module(topology)
    if wanted == "default":
        return [module.DEFAULT]
    if wanted == "all":
        return [
            module.DEFAULT._replace(**dict(zip(module.SPACE, c, strict=True)))
            for c in itertools.product(*module.SPACE.values())
        ]
    changes = dict(part.partition("=")[::2] for part in wanted.split(","))
    unknown = sorted(set(changes) - set(module.DEFAULT._fields))
    if unknown:
        raise UserError(f"--config: {topology} has no {', '.join(unknown)}; it has {', '.join(module.DEFAULT._fields)}")
    for name, value in changes.items():
        if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**20 and int(value).bit_count() == 1):
            raise UserError(f"--config: {name}={value} is no setting: give a power of 2")
    return [module.DEFAULT._replace(**{name: int(value) for name, value in changes.items()})]


def selected(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """Every (rule, topology, bound, dtype) that the arguments select."""
    every: dict[str, Iterable[str]] = {
        "rule": RULES,
        "topology": _inspected(),
        "bound": BOUNDS,
        "dtype": DTYPES,
    }
    wanted = [
        list(every[name]) if "all" in getattr(arguments, name) else getattr(arguments, name)
        for name in ("topology", "rule", "bound", "dtype")
    ]
    topologies, rules, bounds, dtypes = wanted
    for topology in topologies:
        formulas = [("", "")] if topology == "trace" else itertools.product(rules, bounds)
        for (rule, bound), dtype in itertools.product(formulas, dtypes):
            yield rule, topology, bound, dtype


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for; 1 if something got worse since ``--diff``, 0 otherwise."""
    if importlib.util.find_spec("triton") is None:
        raise UserError("Triton, which compiles the kernels, is not installed: pip install triton")
    past = [] if arguments.diff is None else _report(arguments.diff)
    try:
        rows = _rows(arguments) if arguments.traffic is None else _traffic_rows(arguments)
    except CannotCompileError as error:
        raise UserError(f"a kernel does not compile: {_reason(error)}") from error
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 240).print(_table(rows))
    lines = worse(past, rows)
    for line in lines:
        print(f"worse: {line}", file=sys.stderr)
    return 1 if lines else 0


def _report(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier ``--json``."""
    numbers = (*_MORE_IS_WORSE, *_LESS_IS_WORSE)
    try:
        rows = json.loads(path.read_text())
        figures = (row.get(name) for row in rows for name in numbers)
        if all(isinstance(row["key"], str) for row in rows) and all(isinstance(n, int | float | None) for n in figures):
            return rows
        problem = "its figures are not numbers"
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        problem = str(error)
    raise UserError(f"--diff: {path} holds no report of tritonstdp inspect --json ({problem})")


def _reason(error: BaseException) -> str:
    """Why something does not compile: what came first says it, and those after it quote source."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1]


def _rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    import triton

    cases = [(case, config) for case in selected(arguments) for config in configs(case[1], arguments.config)]
    if triton.knobs.runtime.interpret:
        raise UserError(INTERPRETED)
    release = ".".join(triton.__version__.split(".")[:2])
    targets = list(TARGETS) if "all" in arguments.target else arguments.target
    inspections = [
        inspection
        for case, config in cases
        for target in targets
        for inspection in inspect_kernel(*case, target, config)
    ]
    return [{"key": inspection.key, "triton": release, **asdict(inspection)} for inspection in inspections]


def _traffic_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    os.environ["TRITON_INTERPRET"] = "1"
    from tritonstdp.traffic import measure_traffic

    if set(arguments.topology) == {"trace"}:
        raise UserError("--traffic counts what synapses cost: give another --topology than trace")
    rows = []
    for rule, topology, bound, dtype in selected(arguments):
        if topology == "trace":
            continue
        formula, group = Formula.of(RULES[rule], BOUNDS[bound], BOUNDS[bound]), _example(topology, "metered")
        for config, rate in itertools.product(configs(topology, arguments.config), arguments.traffic or RATES):
            names = {"rule": rule, "topology": topology, "bound": bound, "dtype": dtype}
            names |= {"config": _config_name(config, gpu_module(topology).DEFAULT), "rate": f"{rate:g}"}
            problem = make_problem(formula, group, dtype=getattr(torch, dtype), rate=rate)
            for buffer, traffic in measure_traffic(problem, config).items():
                row = {**names, "buffer": buffer}
                figures = {"excess_sectors": traffic.excess_sectors, "excess_lanes": traffic.excess_lanes}
                rows.append({"key": "/".join(row.values()), **row, **asdict(traffic), **figures})
    return rows


def _table(rows: list[dict[str, Any]]) -> Table:
    import triton

    metered = any("buffer" in row for row in rows)
    done = "memory traffic in the interpreter of" if metered else "compiled, and not run, by"
    table = Table(title=f"{done} Triton {triton.__version__}")
    hidden = ("key", "triton", "sector_elements")
    for name in [name for row in rows[:1] for name in row if name not in hidden]:
        numeric = not isinstance(rows[0][name], str | dict)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for name, value in row.items() if name not in hidden))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1 else f"{value:.3f}"
    if isinstance(value, dict):
        return " ".join(f"{b}:" + "+".join(f"{n}x{width}" for width, n in w.items()) for b, w in value.items())
    return str(value)
