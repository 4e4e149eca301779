"""The gate: fail where tritonstdp's lead over the fastest other provider has fallen below its checked-in floor.

A lead is a ratio within one run of one pinned thread, so that a slow or busy machine does not decide. The others are
those that the test extra installs. ``python -m benchmarks.gate`` judges; ``--propose`` measures and writes new floors.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from benchmarks.environment import restart_pinned
from tritonstdp.arguments import Parser
from tritonstdp.bench import is_other
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.measurement import OURS, Provider, Row, Workload, measure

FLOORS = Path(__file__).parent / "floors.json"

SLACK = 1.4
"""Floors stand this far below the measured lead: more than two runs differ by, less than a slow-down of two."""

ATTEMPTS = 3
"""A workload fails when it fails so often in a row: noise passes, a slower kernel does not."""

SECONDS = 1.0

WORKLOADS: tuple[Workload, ...] = (
    *(Workload("stdp", "dense", "soft_bound", (4000, 4000), rate) for rate in (0.005, 0.02, 0.1)),
    *(Workload("stdp", "dense", "soft_bound", (1000, 1000), rate) for rate in (0.005, 0.02, 0.1)),
    Workload("stdp", "dense", "hard_bound", (1000, 1000), 0.02),
    Workload("istdp", "dense", "no_bound", (1000, 1000), 0.02),
    Workload("rstdp", "dense", "soft_bound", (1000, 1000), 0.02),
    Workload("stdp", "one_to_one", "soft_bound", (10_000,), 0.02),
    *(Workload("stdp", "sparse", "soft_bound", (10_000, 10_000, 1_000_000), rate) for rate in (0.005, 0.02, 0.1)),
    Workload("rstdp", "sparse", "soft_bound", (10_000, 10_000, 1_000_000), 0.02),
    *(Workload("stdp", "conv2d", "soft_bound", (8, 64, 64, 16, 5), rate) for rate in (0.005, 0.1)),
    *(Workload("stdp", "local2d", "soft_bound", (8, 32, 32, 8, 5), rate) for rate in (0.005, 0.1)),
    *(Workload("propagation", "dense", "no_bound", (4000, 4000), rate) for rate in (0.005, 0.02, 0.1)),
    Workload("propagation", "dense", "no_bound", (1000, 1000), 0.02),
    *(Workload("propagation", "sparse", "no_bound", (10_000, 10_000, 1_000_000), rate) for rate in (0.005, 0.02, 0.1)),
)

Measure = Callable[[Workload], list[Row]]


class Verdict(NamedTuple):
    """What the gate has found for one workload.

    Attributes
    ----------
    workload : str
        Its name.
    lead : float
        The fastest other provider's time over tritonstdp's.
    fastest : str
        That provider.
    floor : float
        What the lead must not fall below.
    """

    workload: str
    lead: float
    fastest: str
    floor: float

    @property
    def passes(self) -> bool:
        """Whether the lead stands at its floor or above."""
        return self.lead >= self.floor


def lead_of(rows: Iterable[Row], statistic: str = "min_us") -> tuple[float, str]:
    """The lead over the fastest other provider, and which that is; by each one's best time, since noise only adds.

    Raises
    ------
    RuntimeError
        If tritonstdp itself is wrong or missing, or nobody is there to compare with.
    """
    rows = list(rows)
    ours = next(row for row in rows if row.provider == OURS)
    if ours.status != "ok":
        raise RuntimeError(f"{ours.workload}: {OURS} is {ours.status}: {ours.note}")
    others = [(getattr(row, statistic) / getattr(ours, statistic), row.provider) for row in rows if is_other(row)]
    if not others:
        raise RuntimeError(f"{ours.workload}: nobody to compare with")
    return min(others)


def judge(workload: Workload, floor: float, measure_rows: Measure, attempts: int = ATTEMPTS) -> Verdict:
    """Measure a workload, again while it fails, and return the best verdict."""
    best = Verdict(workload.name, 0.0, "", floor)
    for _ in range(attempts):
        verdict = Verdict(workload.name, *lead_of(measure_rows(workload)), floor)
        best = max(best, verdict, key=lambda v: v.lead)
        if best.passes:
            break
    return best


def propose(workload: Workload, measure_rows: Measure, attempts: int = ATTEMPTS) -> float:
    """A floor: the median lead of some runs, less the slack."""
    leads = sorted(lead_of(measure_rows(workload))[0] for _ in range(attempts))
    return float(f"{leads[len(leads) // 2] / SLACK:.3g}")


def gate_providers() -> dict[str, Provider]:
    """Who learns beside tritonstdp: what the test extra installs, less what is never the fastest."""
    from benchmarks.providers import INSTALLED_WITH_TESTS

    slow = ("torch.compile, bool spikes", f"{OURS} reference")
    return {name: provider for name, provider in INSTALLED_WITH_TESTS.items() if name not in slow}


def main() -> int:
    """Judge every workload, or propose floors."""
    parser = Parser(
        prog="python -m benchmarks.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--propose", action="store_true", help=f"write new floors to {FLOORS.name}")
    arguments = parser.parse_args()
    restart_pinned()
    from benchmarks.providers.propagation import PROPAGATIONS

    learning = gate_providers()

    def measure_rows(workload: Workload) -> list[Row]:
        return measure(workload, PROPAGATIONS if workload.rule == PROPAGATION.name else learning, SECONDS)

    began = time.perf_counter()
    if arguments.propose:
        floors = {}
        for workload in WORKLOADS:
            floors[workload.name] = propose(workload, measure_rows)
            print(f"{workload.name:<60} floor {floors[workload.name]:.2f}", flush=True)
        FLOORS.write_text(json.dumps(floors, indent=1) + "\n")
        return 0
    floors = json.loads(FLOORS.read_text())
    verdicts = []
    for workload in WORKLOADS:
        verdict = judge(workload, floors[workload.name], measure_rows)
        verdicts.append(verdict)
        mark = "ok    " if verdict.passes else "FAILED"
        print(f"{mark} {verdict.workload:<55} {verdict.lead:7.2f}x over {verdict.fastest} (floor {verdict.floor:.2f})")
        sys.stdout.flush()
    failed = [verdict for verdict in verdicts if not verdict.passes]
    seconds = time.perf_counter() - began
    print(f"{len(verdicts) - len(failed)} workloads at or above their floors, {len(failed)} below, in {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
