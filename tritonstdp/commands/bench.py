"""``tritonstdp bench``: time steps on this machine, beside torch, and compare them with an earlier run."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from tritonstdp.arguments import device, existing_file, rate, rows_file, seconds, shape, whole
from tritonstdp.autotune.sweep import backend_of
from tritonstdp.bench import SLOWER, compare, leads_of, own_providers, tables_of, torch_providers, versions
from tritonstdp.functional import explain
from tritonstdp.measurement import OURS, Row, Workload, measure, read_rows, write_rows
from tritonstdp.problems import RATES
from tritonstdp.rules import BOUNDS, RULES
from tritonstdp.terminal import Progress, UserError, require_memory
from tritonstdp.topology import DTYPES, TOPOLOGIES

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    forms = "; ".join(f"{name} {kind.sizes}" for name, kind in TOPOLOGIES.items() if kind.sizes)
    what = parser.add_argument_group("what is timed (every combination)")
    for name, values, default, note in (
        ("rule", RULES, "stdp", ""),
        ("topology", TOPOLOGIES, next(iter(TOPOLOGIES)), ""),
        ("bound", BOUNDS, "soft_bound", ", of potentiation and depression alike"),
    ):
        what.add_argument(
            f"--{name}", nargs="+", choices=list(values), default=[default], metavar=name.upper(),
            help=f"some of {', '.join(values)}{note} (default: {default})",
        )  # fmt: skip
    what.add_argument(
        "--shape", nargs="+", type=shape, metavar="AxB",
        help=f"whole numbers with x between: {forms}. Each shape goes to the topologies of its form "
        "(default: two shapes of each topology)",
    )  # fmt: skip
    what.add_argument(
        "--rate", nargs="+", type=rate, default=list(RATES),
        help="the share of neurons that spike in a step, above 0 and up to 1 (default: 0.005 0.02 0.1)",
    )  # fmt: skip
    what.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--device", type=device, default="cpu", help="where tensors live: cpu, cuda, cuda:1 (default: cpu)"
    )
    how.add_argument(
        "--threads", type=whole(1, os.cpu_count() or 1), default=1,
        help="threads of the CPU (default: 1, whose times can be repeated)",
    )  # fmt: skip
    how.add_argument(
        "--seconds", type=seconds, default=1.0, help="for how many seconds each workload is timed (default: 1)"
    )
    how.add_argument("--no-torch", action="store_true", help="leave out torch.compile, which takes long to compile")
    how.add_argument(
        "--out", nargs="+", type=rows_file, default=[], metavar="FILE", help="write rows to .json or .csv files"
    )
    how.add_argument(
        "--compare", type=existing_file, metavar="OLD.json",
        help=f"say what has changed since --out wrote this; exit with 1 where a lead has shrunk by {SLOWER}x",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Time the workloads, print and write them, and compare them with an earlier run."""
    workloads = _workloads(arguments)
    past = _past(arguments.compare, workloads)
    for workload in workloads:
        require_memory(workload.name, workload.bytes_needed, workload.device)
    _require_kernels(arguments)
    torch.set_num_threads(arguments.threads)
    providers = {OURS: own_providers(arguments.device)[OURS]} | ({} if arguments.no_torch else torch_providers())
    console = Console()
    began = time.perf_counter()
    rows: list[Row] = []
    for workload in Progress("timing", workloads):
        rows += measure(workload, providers, arguments.seconds, versions())
    console.print(*tables_of(rows), sep="\n")
    console.print(f"{len(workloads)} workloads in {time.perf_counter() - began:.0f} s")
    for path in arguments.out:
        write_rows(rows, path)
    if arguments.compare is None:
        return 0
    table, worse = compare(rows, past)
    console.print(table)
    return 1 if worse else 0


def _workloads(arguments: argparse.Namespace) -> list[Workload]:
    try:
        return [
            Workload(rule, topology, bound, shape, rate, arguments.dtype, arguments.device)
            for topology, shapes in _shapes(arguments.topology, arguments.shape).items()
            for shape in shapes
            for rule in arguments.rule
            for bound in arguments.bound
            for rate in arguments.rate
        ]
    except ValueError as error:
        raise UserError(str(error)) from error


def _require_kernels(arguments: argparse.Namespace) -> None:
    """Refuse where the device has no kernel to time."""
    dtype, backend = getattr(torch, arguments.dtype), backend_of(arguments.device)
    try:
        for rule, topology in product(arguments.rule, arguments.topology):
            explain(rule, topology, dtype=dtype, device=arguments.device, backend=backend)
    except ValueError as error:
        raise UserError(str(error)) from error


def _shapes(topologies: Sequence[str], shapes: Sequence[tuple[int, ...]] | None) -> dict[str, list[tuple[int, ...]]]:
    """The shapes for each topology: two usual ones, or those of the wanted ones that have its form."""
    kinds = {name: TOPOLOGIES[name] for name in topologies}
    fitting = {
        name: [sizes for sizes in shapes or kind.examples.timed[-2:] if kind.takes(sizes)]
        for name, kind in kinds.items()
    }
    for name, kind in kinds.items():
        if not kind.sizes:
            kind.check_sizes(())
        if not fitting[name]:
            raise UserError(f"--shape has none for {name}: give {kind.sizes}")
    for sizes in shapes or ():
        if not any(sizes in taken for taken in fitting.values()):
            wanted = " or ".join(dict.fromkeys(kind.sizes for kind in kinds.values()))
            raise UserError(f"--shape {'x'.join(map(str, sizes))} fits no topology that is timed: give {wanted}")
    return fitting


def _past(path: Path | None, workloads: Sequence[Workload]) -> list[Row]:
    """The rows to compare with, of which some must be about what is to be timed."""
    if path is None:
        return []
    try:
        rows = read_rows(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--compare: {error}") from error
    if not {workload.name for workload in workloads} & set(leads_of(rows)):
        raise UserError(f"--compare: {path} has no time of any workload that is to be timed")
    return rows
