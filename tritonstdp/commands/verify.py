"""``tritonstdp verify``: the parity suite as one command, on the machine and the GPU that it is run on."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tritonstdp import verification
from tritonstdp.arguments import output_file, seconds
from tritonstdp.bench import tables_of
from tritonstdp.machine import affinity
from tritonstdp.measurement import Row
from tritonstdp.terminal import Progress, UserError, write_output
from tritonstdp.topology import TOPOLOGIES
from tritonstdp.verification import (
    QUICK_RUNS,
    RUNS,
    Check,
    checks_of_all,
    model_beside,
    report,
    sanitizer_checks,
    timings,
)

__all__ = ["add_arguments", "run"]

CORE_RULE = "stdp"
"""What is timed first on a GPU: torch.compile takes its time with each rule."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    every = [*TOPOLOGIES, "trace"]
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default=default,
        help=f"what to check (default: cuda where torch sees a GPU; here {default}). On cpu, TRITON_INTERPRET=1 in the "
        "environment checks the Triton kernels as well, in Triton's interpreter",
    )  # fmt: skip
    parser.add_argument(
        "--topology",
        nargs="+",
        choices=every,
        default=every,
        metavar="TOPOLOGY",
        help=f"some of {', '.join(every)}, which stands for spike traces (default: all)",
    )
    parser.add_argument(
        "--quick", action="store_true",
        help="in less than a minute: each rule's formulas on each topology in float32 with soft_bound only, repeated "
        f"{QUICK_RUNS} times instead of {RUNS}. It leaves out the other dtypes and bounds, clamps, dopamine that is a "
        "tensor, spikes that carry values, weights in transposed memory, low rates, and all timings",
    )  # fmt: skip
    parser.add_argument(
        "--timings", type=_timing, metavar="SECONDS", default=0.5 if default == "cuda" else 0.0,
        help="for how many seconds each kernel is timed beside torch.compile; 0 for no times (default: 0.5 on cuda, "
        "0 on cpu)",
    )  # fmt: skip
    parser.add_argument(
        "--report", type=output_file, default="tritonstdp-verify.json", metavar="FILE",
        help="where the report is written, as JSON (default: %(default)s)",
    )  # fmt: skip


def _timing(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def run(arguments: argparse.Namespace) -> int:
    """Check, print and write the report; 0 if everything held, 1 if not."""
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device here: give --device cpu, or install a torch that was built for CUDA")
    console = Console(width=None if sys.stdout.isatty() else 140)
    done: list[Check] = []
    rows: list[Row] = []
    model: dict[str, Any] = {}
    for found, timed in _parts(arguments):
        done += found
        rows += timed
        write_output(arguments.report, _report(done, rows, device, model))
        if device == "cuda" and timed:
            model = model_beside(rows, device)
            write_output(arguments.report, _report(done, rows, device, model))
    failed = [check for check in done if not check.passed]
    console.print(_table(done, device))
    for table in tables_of(rows):
        console.print(table)
    if model.get("steps"):
        ratios = [step["measured_us"] / step["estimated_us"] for step in model["steps"]]
        console.print(f"steps take {min(ratios):.2f} to {max(ratios):.2f} times what the time model estimates for them")
    for check in failed:
        console.print(f"failed: {check.name} on {check.backend}: {_words(check.case)} {check.note}", markup=False)
    verdict = f"{len(failed)} of {len(done)} checks failed" if failed else f"all {len(done)} checks passed"
    console.print(f"{verdict}; the report is in {arguments.report}", markup=False)
    return 1 if failed else 0


def _report(done: list[Check], rows: list[Row], device: str, model: dict[str, Any]) -> bytes:
    return (json.dumps(report(done, rows, device, model), indent=1) + "\n").encode()


Part = tuple[list[Check], list[Row]]


def _parts(arguments: argparse.Namespace) -> Iterator[Part]:
    """What is checked and timed, one part after the other; on a GPU, what matters most in its first minutes."""
    device, seconds = arguments.device, 0.0 if arguments.quick else arguments.timings
    core = device == "cuda" and not arguments.quick
    if core:
        yield from _checked("first checks", arguments, quick=True)
        yield list(sanitizer_checks()), []
        yield [], timings(device, seconds, [CORE_RULE]) if seconds else []
    yield from _checked("checking", arguments, arguments.quick)
    if seconds:
        yield [], timings(device, seconds, [rule for rule in verification.RULES if not core or rule != CORE_RULE])


def _checked(title: str, arguments: argparse.Namespace, quick: bool) -> Iterator[Part]:
    progress = Progress(title, arguments.topology)
    processes = 1 if arguments.module else _cores()
    checked = checks_of_all(arguments.device, arguments.topology, quick, processes)
    for _, found in zip(progress, checked, strict=True):
        yield found, []


def _cores() -> int:
    return affinity() or os.cpu_count() or 1


def _words(case: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in case.items() if value is not False)


def _table(done: list[Check], device: str) -> Table:
    """How many checks of each kind passed, by topology and backend."""
    names = list(dict.fromkeys(check.name for check in done))
    table = Table(title=f"checks on {device}: passed / made")
    for heading in ("topology", "backend", *names, "greatest error / allowed"):
        table.add_column(heading)
    for topology, backend in dict.fromkeys((check.case["topology"], check.backend) for check in done):
        here = [check for check in done if (check.case["topology"], check.backend) == (topology, backend)]
        cells = []
        for name in names:
            passed = [check.passed for check in here if check.name == name]
            cells.append(f"{sum(passed)} / {len(passed)}" if passed else "")
        errors = [check.error for check in here if check.error is not None]
        table.add_row(topology, backend, *cells, f"{max(errors):.2f}" if errors else "")
    return table
