"""``python -m benchmarks.batches``: a step of a batch against a step of each of its samples, interleaved."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import tritonstdp as ts
from benchmarks.environment import restart_pinned
from tritonstdp.arguments import Parser, seconds
from tritonstdp.topology import Topology

IMAGE, MAPS, KERNEL = (8, 32, 32), (16, 28, 28), (5, 5)
GROUPS: dict[str, Callable[[], Topology]] = {
    "dense 784 x 400": lambda: ts.Dense(784, 400),
    "dense 4000 x 4000": lambda: ts.Dense(4000, 4000),
    "one-to-one 100,000": lambda: ts.OneToOne(100_000),
    "sparse 1e5": lambda: ts.Sparse.random(2000, 2000, 10**5),
    "sparse 1e6": lambda: ts.Sparse.random(10_000, 10_000, 10**6),
    "conv2d 8x32x32 to 16x28x28": lambda: ts.Conv2d(IMAGE, MAPS, KERNEL),
    "local2d 8x32x32 to 16x28x28": lambda: ts.Local2d(IMAGE, MAPS, KERNEL),
}
RULES = {"stdp": {}, "rstdp": {"tau_c": 100.0, "dopamine": 1e-6}}
SAMPLES, RATE = (2, 8, 32), 0.02


def ways(rule: str, topology: Topology, samples: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A step of a batch, and steps of its samples, over the same weights."""
    weights = torch.rand(topology.weights_shape)
    (n_pre,), (n_post,) = topology.pre_shape, topology.post_shape
    signals = {
        "pre_spike": torch.rand(samples, n_pre) < RATE, "pre_trace": torch.rand(samples, n_pre),
        "post_spike": torch.rand(samples, n_post) < RATE, "post_trace": torch.rand(samples, n_post),
    }  # fmt: skip
    of_each = [{name: values[b].clone() for name, values in signals.items()} for b in range(samples)]
    c = torch.zeros_like(weights) if rule == "rstdp" else None
    # so small that weights stay where they are
    options = {"a_plus": 1e-6, "a_minus": 1e-6, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}

    def step(signals: dict[str, torch.Tensor]) -> object:
        return ts.update_(rule, weights, c=c, topology=topology, **signals, **options, **RULES[rule])  # type: ignore[arg-type]

    return lambda: step(signals), lambda: [step(one) for one in of_each]


def medians(ways: tuple[Callable[[], object], ...], lasting: float) -> list[float]:
    """The median time of each, in microseconds, taken in turns."""
    for way in ways:
        way(), way()
    taken: list[list[float]] = [[] for _ in ways]
    end = time.perf_counter() + lasting
    while time.perf_counter() < end or len(taken[0]) < 5:
        for way, times in zip(ways, taken, strict=True):
            start = time.perf_counter()
            way()
            times.append(1e6 * (time.perf_counter() - start))
    return [statistics.median(times) for times in taken]


def main() -> int:
    """Measure all, and show them."""
    parser = Parser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("--seconds", type=seconds, default=1.0, help="for each row (default: 1)")
    arguments = parser.parse_args()
    restart_pinned()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("group", "rule", "samples", "a batch, us", "its samples, us", "ratio", title="2 % spikes, one thread")
    for (name, group), (rule, samples) in itertools.product(GROUPS.items(), itertools.product(RULES, SAMPLES)):
        batch, each = medians(ways(rule, group(), samples), arguments.seconds)
        table.add_row(name, rule, str(samples), f"{batch:,.0f}", f"{each:,.0f}", f"{batch / each:.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
