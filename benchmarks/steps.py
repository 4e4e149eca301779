"""Which single steps are measured, and ``python -m benchmarks.steps``, which measures them."""

from __future__ import annotations

import os
import sys
from itertools import product

import torch
from rich.console import Console

from benchmarks.environment import restart_pinned
from tritonstdp.arguments import Parser, rows_file, seconds, whole
from tritonstdp.bench import tables_of
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.measurement import OURS, Workload, measure, write_rows
from tritonstdp.problems import RATES
from tritonstdp.topology import TOPOLOGIES

SHAPES = {name: kind.examples.timed for name, kind in TOPOLOGIES.items()}
BOUNDS = ("soft_bound", "hard_bound", "no_bound")
RULES = ("stdp", "istdp", "rstdp")


def full_suite() -> list[Workload]:
    """Every rule, topology, bound, shape and rate."""
    return [
        Workload(rule, topology, bound, shape, rate)
        for topology, shapes in SHAPES.items()
        for shape, rule, bound, rate in product(shapes, RULES, BOUNDS, RATES)
    ]


def quick_suite() -> list[Workload]:
    """Every rule and topology at the larger shape and 2 %, with CoNeX's usual bound where it has one."""
    return [
        Workload(rule, topology, "no_bound" if rule == "istdp" else "soft_bound", shapes[-1], 0.02)
        for topology, shapes in SHAPES.items()
        for rule in RULES
    ]


def headline_suite() -> list[Workload]:
    """What the README shows: the quick suite, and STDP at every rate."""
    quick = quick_suite()
    return quick + [
        Workload("stdp", w.topology, w.bound, w.shape, rate)
        for w in quick
        if w.rule == "stdp"
        for rate in RATES
        if rate != w.rate
    ]


def propagation_suite() -> list[Workload]:
    """Spike propagation over every topology, at every shape and rate, and where next to nobody spikes."""
    return [
        Workload(PROPAGATION.name, topology, "no_bound", shape, rate)
        for topology, shapes in SHAPES.items()
        for shape, rate in product(shapes, (0.001, *RATES))
    ]


SUITES = {
    "quick": quick_suite,
    "headline": headline_suite,
    "full": full_suite,
    PROPAGATION.name: propagation_suite,
}
AS_IT_COMES = "CoNeX, allocator as it comes"


def main() -> int:
    """Measure a suite with every provider, or with some."""
    parser = Parser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--suite", choices=SUITES, default="quick", help="which steps (default: quick)")
    parser.add_argument("--providers", nargs="+", help=f"beside {OURS}; all by default")
    parser.add_argument("--threads", type=whole(1, os.cpu_count() or 1), default=1, help="of the CPU (default: 1)")
    parser.add_argument("--allocator-as-it-comes", action="store_true", help="not at its best for eager torch")
    parser.add_argument("--seconds", type=seconds, default=1.0, help="for each workload (default: 1)")
    parser.add_argument(
        "--out", nargs="+", type=rows_file, default=[], metavar="FILE", help="write rows to .json or .csv files"
    )
    arguments = parser.parse_args()
    restart_pinned(arguments.threads, tuned_allocator=not arguments.allocator_as_it_comes)
    torch.set_num_threads(arguments.threads)
    from benchmarks.providers import PROVIDERS, VERSIONS
    from benchmarks.providers.propagation import PROPAGATIONS

    known = PROPAGATIONS if arguments.suite == PROPAGATION.name else PROVIDERS
    for name in arguments.providers or ():
        if name not in known:
            parser.error(f"unknown provider {name!r}: use some of {', '.join(known)}")
    chosen = [OURS, *(arguments.providers or [name for name in known if name != OURS])]
    providers = {name: known[name] for name in chosen}
    versions = dict(VERSIONS)
    if arguments.allocator_as_it_comes and "CoNeX" in providers:
        providers[AS_IT_COMES], versions[AS_IT_COMES] = providers.pop("CoNeX"), versions["CoNeX"]
    console, rows = Console(), []
    for workload in SUITES[arguments.suite]():
        measured = measure(workload, providers, arguments.seconds, versions)
        console.print(*tables_of(measured))
        rows += measured
        for path in arguments.out:
            write_rows(rows, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
