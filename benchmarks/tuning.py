"""Tune dense kernels on this CPU, then time what is used from then on against the defaults, and write the table.

``python -m benchmarks.tuning benchmarks/tuning_table.md`` starts itself anew, pinned to as many cores as it has
threads, with a cache of its own. The figures are taken after tuning, from new spikes and weights: no setting profits
from having been picked by them. A tuned setting that is slower than the default by more than the spread makes the exit
status 1.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.environment import restart_pinned
from tritonstdp import Dense, autotune
from tritonstdp.arguments import Parser, output_file, seconds, whole
from tritonstdp.autotune.sweep import tuning_case
from tritonstdp.autotune.timing import Scratch, Timing, paired_ratio, take_turns
from tritonstdp.autotune.use import configured_step
from tritonstdp.machine import device_name, machine
from tritonstdp.rules import BOUNDS, RULES, Formula

SIDES = (256, 512, 1024, 2048, 4096, 8192)
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
TURNS = 31


class Row(NamedTuple):
    """The default and the tuned setting on one shape at one rate."""

    side: int
    rate: float
    default: Timing
    tuned: Timing
    speedup: Timing
    setting: str

    @property
    def slower(self) -> bool:
        """Whether tuning has made it slower by more than the default's own times vary."""
        return self.speedup.median < 1 - self.default.spread


def rows_of(formula: Formula, side: int, seconds: float) -> list[Row]:
    """Tune one shape, then time the default and what a step uses from now on."""
    topology = Dense(side, side)
    outcome = autotune.tune(formula, topology, rates=RATES, seconds=seconds)
    entry, case = tuning_case(formula, topology, torch.float32, "cpu")
    tuned = configured_step(entry, entry.space(), case) if entry.space else entry.build(case)
    steps = {"default": entry.build(case, outcome.default), "tuned": tuned}
    changed = {k: v for k, v in outcome.best._asdict().items() if v != getattr(outcome.default, k)}
    setting = ", ".join(f"{name} {value}" for name, value in changed.items()) or "the default"
    scratch = Scratch(formula, topology, torch.float32, "cpu", RATES)
    scratch.calibrate(steps["default"])
    samples: dict[tuple[str, float], list[float]] = {}
    deadline = time.perf_counter() + 4 * seconds
    for turn in range(TURNS):
        if turn >= 9 and time.perf_counter() > deadline:
            break
        take_turns(scratch, steps, range(turn, turn + 1), samples)
    return [
        Row(
            side, rate, Timing.of(samples["default", rate]), Timing.of(samples["tuned", rate]),
            paired_ratio(samples["default", rate], samples["tuned", rate]), setting,
        )
        for rate in RATES
    ]  # fmt: skip


def table_of(formula: Formula, rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    facts = machine()
    where = f"{device_name('cpu')}; torch {facts['torch']}, numba {facts['numba']}, Triton {facts['triton']}"
    lines = [
        "# Tuned settings against the defaults",
        "",
        f"Dense {formula.rule.name}, {formula.positive.__name__}, float32, pinned. {where}.",
        "",
        "Microseconds a step, medians over turns that both take with the same spikes. The speed-up is the median of",
        "the turns' ratios, the spread the range of their middle half. Weights rotate through copies that together",
        "outgrow the last-level cache. Written by `python -m benchmarks.tuning`, from other samples than those by",
        "which the settings were chosen.",
        "",
        "| shape | spikes | default | tuned | speed-up | spread | setting |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row.side} x {row.side} | {100 * row.rate:g} % | {1e6 * row.default.median:.1f} | "
        f"{1e6 * row.tuned.median:.1f} | {row.speedup.median:.2f} | {100 * row.speedup.spread:.0f} % | {row.setting} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def measured(formula: Formula, sides: Sequence[int], seconds: float, table: Path) -> list[Row]:
    """Measure one shape after the other, and write the table after each."""
    rows: list[Row] = []
    for side in sides:
        rows += rows_of(formula, side, seconds)
        table.write_text(table_of(formula, rows))
        print(f"{side} x {side}: {rows[-1].setting}", flush=True)
    return rows


def main() -> int:
    """Measure, and write the table."""
    parser = Parser(
        prog="python -m benchmarks.tuning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=output_file, help="the Markdown file to write")
    parser.add_argument("--rule", choices=sorted(RULES), default="stdp", help="default: stdp")
    parser.add_argument("--bound", choices=sorted(BOUNDS), default="soft_bound", help="default: soft_bound")
    parser.add_argument(
        "--side", type=whole(1, 2**16), nargs="+", default=SIDES, help=f"neurons (default: {' '.join(map(str, SIDES))})"
    )
    parser.add_argument("--seconds", type=seconds, default=6.0, help="about how long to time each shape (default: 6)")
    parser.add_argument("--threads", type=whole(1, os.cpu_count() or 1), default=1, help="of the CPU (default: 1)")
    arguments = parser.parse_args()
    restart_pinned(arguments.threads)
    torch.set_num_threads(arguments.threads)
    bound = BOUNDS[arguments.bound]
    formula = Formula.of(RULES[arguments.rule], bound, bound)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRITONSTDP_CACHE_DIR"] = folder
        rows = measured(formula, arguments.side, arguments.seconds, arguments.table)
    slower = [row for row in rows if row.slower]
    for row in slower:
        print(f"slower by more than the spread: {row}")
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(main())
