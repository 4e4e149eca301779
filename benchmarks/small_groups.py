"""Time a step of each learning behavior on 100 neurons, beside CoNeX's own class in the same network.

Run it pinned and on one thread::

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/small_groups.py

It prints microseconds a step (the least of many interleaved samples) and exits with 1 where a behavior is slower than
CoNeX's. "synapse" and "neurons" are where CoNeX's main branch and its wheel keep spikes and traces.
"""

from __future__ import annotations

import sys
from pathlib import Path
from timeit import timeit
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from support import Wiring, import_conex, on_synapse, side_by_side

CALLS, SAMPLES = 50, 40
STDP = {"a_plus": 0.006, "a_minus": 0.008, "positive_bound": "soft_bound", "negative_bound": "soft_bound"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "STDP": STDP,
    "iSTDP": {"lr": 0.02, "alpha": 0.7},
    "RSTDP": {**STDP, "tau_c": 7},
}
VECTOR, IMAGE, MAPS = (1, 1, 100), (1, 10, 10), (4, 5, 5)
WIRINGS = (
    Wiring("Simple", VECTOR, VECTOR),
    Wiring("One2One", VECTOR, VECTOR),
    Wiring("Sparse", VECTOR, VECTOR, density=0.1),
    Wiring("Conv2d", IMAGE, MAPS, kernel=(6, 6)),
    Wiring("Local2d", IMAGE, MAPS, kernel=(6, 6)),
)


def microseconds(wiring: Wiring, rule: str, convention: str) -> tuple[float, float]:
    """The least time of a step of ours and of CoNeX's behavior (nan where it has none)."""
    import tritonstdp.behaviors as ours

    learning = [getattr(ours, wiring.prefix + rule)(**ARGUMENTS[rule], backend="cpu")]
    theirs = getattr(import_conex(), wiring.prefix + rule, None)
    if theirs is not None:
        learning.append((on_synapse(theirs) if convention == "synapse" else theirs)(**ARGUMENTS[rule]))
    network, groups = side_by_side(wiring, *learning, convention=convention, rate=0.05)
    network.simulate_iterations(3, measure_block_time=False)
    samples: list[list[float]] = [[] for _ in learning]
    for _ in range(SAMPLES):
        for times, behavior, group in zip(samples, learning, groups, strict=True):
            times.append(timeit(lambda step=behavior, group=group: step(group), number=CALLS) / CALLS * 1e6)
    return min(samples[0]), min(samples[-1]) if theirs is not None else float("nan")


def main() -> int:
    """Print the table; 1 where CoNeX is faster."""
    torch.set_num_threads(1)
    slower = []
    print(f"{'behavior':14}{'convention':12}{'tritonstdp':>12}{'CoNeX':>10}")
    for wiring in WIRINGS:
        for rule in ARGUMENTS:
            for convention in ("synapse", "neurons"):
                mine, theirs = microseconds(wiring, rule, convention)
                print(f"{wiring.prefix + rule:14}{convention:12}{mine:12.1f}{theirs:10.1f}")
                if mine > theirs:
                    slower.append(f"{wiring.prefix + rule} ({convention})")
    if slower:
        print("slower than CoNeX:", ", ".join(slower))
    return bool(slower)


if __name__ == "__main__":
    sys.exit(main())
