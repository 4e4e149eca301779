"""``tritonstdp inspect``: what the Triton kernels cost, found by compiling them for GPUs that need not be there."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from tritonstdp.arguments import existing_file
from tritonstdp.arguments import rate as fraction
from tritonstdp.inspection import Cases, gpu_module, inspected, read_report, rows, worse
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.machine_code import TARGETS
from tritonstdp.problems import RATES
from tritonstdp.rules import BOUNDS, RULES
from tritonstdp.terminal import UserError
from tritonstdp.topology import DTYPES

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    choices: tuple[tuple[str, Any, list[str], str], ...] = (
        ("rule", RULES, ["all"], "rules"),
        ("topology", inspected(), ["all"], "topologies, or trace for spike traces"),
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


def _configs(topology: str, wanted: str) -> list[Any]:
    """The configurations of a topology's kernels that ``--config`` stands for."""
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


def _selected(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """Every (rule, topology, bound, dtype) that the arguments select."""
    every: dict[str, Iterable[str]] = {"topology": inspected(), "rule": RULES, "bound": BOUNDS, "dtype": DTYPES}
    topologies, rules, bounds, dtypes = (
        list(values) if "all" in getattr(arguments, name) else getattr(arguments, name)
        for name, values in every.items()
    )
    for topology in topologies:
        formulas = [("", "")] if topology == "trace" else itertools.product(rules, bounds)
        for (rule, bound), dtype in itertools.product(formulas, dtypes):
            yield rule, topology, bound, dtype


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for; 1 if something got worse since ``--diff``, 0 otherwise."""
    if importlib.util.find_spec("triton") is None:
        raise UserError("Triton, which compiles the kernels, is not installed: pip install triton")
    targets = list(TARGETS) if "all" in arguments.target else arguments.target
    try:
        past = [] if arguments.diff is None else read_report(arguments.diff)
    except ValueError as error:
        raise UserError(f"--diff: {error}") from error
    try:
        found = rows(_cases(arguments), targets) if arguments.traffic is None else _metered(arguments)
    except CannotCompileError as error:
        raise UserError(f"a kernel does not compile: {_reason(error)}") from error
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 240).print(_table(found))
    lines = worse(past, found)
    for line in lines:
        print(f"worse: {line}", file=sys.stderr)
    return 1 if lines else 0


def _metered(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are decorated, so before any import of them
    from tritonstdp.traffic import traffic_rows

    if set(arguments.topology) == {"trace"}:
        raise UserError("--traffic counts what synapses cost: give another --topology than trace")
    return traffic_rows(_cases(arguments, left_out=("trace",)), arguments.traffic or RATES)


def _cases(arguments: argparse.Namespace, left_out: tuple[str, ...] = ()) -> Cases:
    return [
        (case, config)
        for case in _selected(arguments)
        if case[1] not in left_out
        for config in _configs(case[1], arguments.config)
    ]


def _reason(error: BaseException) -> str:
    """Why something does not compile: what came first says it, and those after it quote source."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1]


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
