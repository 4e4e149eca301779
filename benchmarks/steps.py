"""Which single steps are measured."""

from __future__ import annotations

from itertools import product

from tritonstdp.measurement import Workload

RATES = (0.005, 0.02, 0.1)

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "dense": ((256, 256), (1000, 1000), (4000, 4000)),
    "one_to_one": ((1000,), (100_000,)),
    "sparse": ((1000, 1000, 50_000), (10_000, 10_000, 1_000_000)),
    "conv2d": ((1, 28, 28, 16, 5), (8, 64, 64, 16, 5)),
    "local2d": ((1, 28, 28, 8, 5), (8, 32, 32, 8, 5)),
}

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
