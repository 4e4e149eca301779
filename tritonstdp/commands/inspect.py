"""``tritonstdp inspect``: what the Triton kernels cost, found by compiling them for GPUs that need not be there."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from tritonstdp.arguments import existing_file, shape, whole
from tritonstdp.arguments import rate as fraction
from tritonstdp.inspection import INTERPRETED, Cases, gpu_module, inspected, read_report, rows, worse
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.machine_code import TARGETS
from tritonstdp.problems import RATES
from tritonstdp.registry import formula_names, operation_of
from tritonstdp.rules import BOUNDS
from tritonstdp.terminal import UserError
from tritonstdp.topology import DTYPES, TOPOLOGIES
from tritonstdp.topology.base import Sizes

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    choices: tuple[tuple[str, Any, list[str], str], ...] = (
        ("rule", formula_names(), ["all"], "rules, or propagation of spikes"),
        ("topology", inspected(), ["all"], "topologies, or trace for spike traces"),
        ("bound", BOUNDS, ["soft_bound"], "of potentiation and depression alike; propagation has none"),
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
        help='"default", "all", or changes to the default such as blocks=8,full_from=0.3 (default: default)',
    )  # fmt: skip
    parser.add_argument(
        "--shape", nargs="+", type=shape, default=[], metavar="SHAPE",
        help="look at groups of these sizes, each for the topologies that take it, instead of for an example: "
        "Triton compiles other code for sizes that 16 does not divide",
    )  # fmt: skip
    parser.add_argument(
        "--batch", type=whole(1), default=0, metavar="SAMPLES",
        help="look at kernels that learn from a batch of so many samples, instead of from one",
    )  # fmt: skip
    parser.add_argument(
        "--traffic", nargs="*", type=fraction, metavar="RATE",
        help="instead, count memory traffic and what programs do, in Triton's interpreter, where this share of the "
        f"neurons spikes, above 0 and up to 1 (where none is given: {' '.join(map(str, RATES))})",
    )  # fmt: skip
    parser.add_argument(
        "--time", nargs="*", type=fraction, metavar="RATE",
        help="instead, estimate how long steps take where this share of the neurons spikes, by a model of the GPU, "
        "beside a pass by torch.compile; nothing is measured, and propagation has no model "
        f"(where none is given: {' '.join(map(str, RATES))})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--diff", type=existing_file, metavar="OLD.json",
        help="say what got worse since --json printed this; exit with 1 if something did",
    )  # fmt: skip


def _configs(rule: str, topology: str, wanted: str, samples: int) -> list[Any]:
    """The configurations of a topology's kernels that ``--config`` stands for."""
    module = gpu_module(topology, operation_of(rule, samples))
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
        what = " on ".join(filter(None, (rule, topology)))
        raise UserError(f"--config: {what} has no {', '.join(unknown)}; it has {', '.join(module.DEFAULT._fields)}")
    return [module.DEFAULT._replace(**{name: _setting(module, name, value) for name, value in changes.items()})]


def _setting(module: Any, name: str, value: str) -> float:
    """A setting as it was written: a share where the default is one, elsewhere a power of 2 or what tuning tries."""
    if isinstance(getattr(module.DEFAULT, name), float):
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", value):
            raise UserError(f"--config: {name}={value} is no setting: give a share such as 0.5")
        return float(value)
    count = int(value) if value.isascii() and value.isdigit() and len(value) < 8 else 0
    if count not in module.SPACE.get(name, ()) and not (0 < count < 2**20 and count.bit_count() == 1):
        raise UserError(f"--config: {name}={value} is no setting: give a power of 2")
    return count


def _selected(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    """Every (rule, topology, bound, dtype) that the arguments select."""
    every: dict[str, Iterable[str]] = {
        "topology": inspected(), "rule": formula_names(), "bound": BOUNDS, "dtype": DTYPES
    }  # fmt: skip
    topologies, rules, bounds, dtypes = (
        list(values) if "all" in getattr(arguments, name) else getattr(arguments, name)
        for name, values in every.items()
    )
    unbound = PROPAGATION.described["positive_bound"]
    named = dict.fromkeys((r, unbound if r == PROPAGATION.name else b) for r, b in itertools.product(rules, bounds))
    for topology in topologies:
        formulas = [("", "")] if topology == "trace" else named
        for (rule, bound), dtype in itertools.product(formulas, dtypes):
            if topology in inspected(operation_of(rule, arguments.batch)):
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
        found = _found(arguments, targets)
    except CannotCompileError as error:
        raise UserError(f"a kernel does not compile: {_reason(error)}") from error
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        Console(width=None if sys.stdout.isatty() else 240).print(*_tables(found), sep="\n")
    lines = worse(past, found)
    for line in lines:
        print(f"worse: {line}", file=sys.stderr)
    return 1 if lines else 0


def _found(arguments: argparse.Namespace, targets: list[str]) -> list[dict[str, Any]]:
    if arguments.batch and (arguments.traffic, arguments.time) != (None, None):
        raise UserError("--batch: what is compiled can be looked at, and nothing else: leave out --traffic and --time")
    if arguments.traffic is not None:
        return _metered(arguments)
    if arguments.time is None:
        return _compiled(arguments, targets)
    import triton

    from tritonstdp.autotune.cost import timed_rows

    cases = _cases(arguments, topology="trace", rule=PROPAGATION.name)
    if triton.knobs.runtime.interpret:
        raise UserError(INTERPRETED)
    return timed_rows(cases, targets, arguments.time or RATES, _shapes(arguments))


def _compiled(arguments: argparse.Namespace, targets: list[str]) -> list[dict[str, Any]]:
    left_out = {"topology": "trace", "rule": PROPAGATION.name} if arguments.batch else {}
    return rows(_cases(arguments, **left_out), targets, _shapes(arguments), arguments.batch)


def _shapes(arguments: argparse.Namespace) -> list[Sizes]:
    """The sizes that are asked for, each of which a topology has to take."""
    names = inspected() if "all" in arguments.topology else arguments.topology
    kinds = [TOPOLOGIES[name] for name in names if name in TOPOLOGIES]
    for sizes in arguments.shape:
        if not any(kind.takes(sizes) for kind in kinds):
            text = "x".join(map(str, sizes))
            raise UserError(f"--shape {text} fits none of these topologies: dense takes one as 1000x1000")
    return list(arguments.shape)


def _metered(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when kernels are decorated, so before any import of them
    from tritonstdp.traffic import traffic_rows

    return traffic_rows(_cases(arguments, topology="trace"), arguments.traffic or RATES, _shapes(arguments))


def _cases(arguments: argparse.Namespace, **left_out: str) -> Cases:
    """What the arguments select, less a topology or a rule that the figures asked for do not know."""
    cases = [
        (case, config)
        for case in _selected(arguments)
        if not {*case[:2]} & {*left_out.values()}
        for config in _configs(*case[:2], arguments.config, arguments.batch)
    ]
    if not cases:
        others = " and ".join(f"another --{option} than {name}" for option, name in left_out.items())
        raise UserError(f"no kernel is left to look at: give {others or 'a --topology that has kernels of the --rule'}")
    return cases


def _reason(error: BaseException) -> str:
    """Why something does not compile: what came first says it, and those after it quote source."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[-1]


def _tables(rows: list[dict[str, Any]]) -> list[Table]:
    """A table for each kind of row."""
    kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    return [_table(alike) for alike in kinds.values()]


def _table(rows: list[dict[str, Any]]) -> Table:
    import triton

    titles = {
        "buffer": "memory traffic in the interpreter of",
        "idle": "what programs do in the interpreter of",
        "estimated_us": "ESTIMATED, by a model and not measured: a step of what is compiled by",
    }
    done = next((title for name, title in titles.items() if name in rows[0]), "compiled, and not run, by")
    table = Table(title=f"{done} Triton {triton.__version__}")
    hidden = ("key", "triton", "sector_elements")
    for name in [name for name in rows[0] if name not in hidden]:
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
