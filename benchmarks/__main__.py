"""``python -m benchmarks``: measure everything, then draw the README's figures into benchmarks/figures/.

Each part runs in a process of its own, pinned to as many cores as it has threads. Rows go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.environment import run_pinned
from benchmarks.figures import draw
from benchmarks.gate import gate_providers, lead_of
from benchmarks.growth import LARGEST_HELP, require_room, synapses
from benchmarks.steps import SUITES
from tritonstdp.arguments import Parser, seconds
from tritonstdp.bench import is_other
from tritonstdp.measurement import OURS, Row, read_rows, write_rows

HERE = Path(__file__).parent
PARTS = ("steps", "full", "threads", "growth", "simulations", "networks", "figures")


def geometric_mean(values: list[float]) -> float:
    """The mean that ratios have."""
    return math.exp(statistics.fmean(map(math.log, values)))


def summary(rows: list[Row]) -> str:
    """The headline figures of measured steps: leads over the fastest other provider and over CoNeX."""
    names = list(dict.fromkeys(row.workload for row in rows))
    leads = {name: lead_of((row for row in rows if row.workload == name), "median_us") for name in names}
    conex = [row.ratio for row in rows if row.provider == "CoNeX" and is_other(row) and row.ratio is not None]
    lines = [
        f"{len(names)} workloads; geometric mean over the fastest other provider "
        f"{geometric_mean([lead for lead, _ in leads.values()]):.2f}x, over CoNeX {geometric_mean(conex):.1f}x"
    ]
    lines += [f"not the fastest: {name} ({who} takes {lead:.2f}x)" for name, (lead, who) in leads.items() if lead < 1]
    return "\n".join(lines)


def main() -> int:
    """Run the parts."""
    parser = Parser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--suite", choices=SUITES, default="headline", help="the workloads of the part steps (default: headline)"
    )
    parser.add_argument("--seconds", type=seconds, default=1.0, help="for each workload (default: 1)")
    parser.add_argument("--largest", type=synapses, default="4e8", help=LARGEST_HELP)
    parser.add_argument(
        "--results", type=Path, default=HERE / "results", metavar="FOLDER", help="of rows (default: %(default)s)"
    )
    parser.add_argument(
        "--figures", type=Path, default=HERE / "figures", metavar="FOLDER", help="of pictures (default: %(default)s)"
    )
    arguments = parser.parse_args()
    for part in arguments.parts:
        if part not in PARTS:
            parser.error(f"unknown part {part!r}: use some of {', '.join(PARTS)}")
    try:
        for folder in (arguments.results, arguments.figures):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(str(error))
    if "growth" in arguments.parts:
        require_room(parser, arguments.largest)
    try:
        run_parts(arguments)
    except subprocess.CalledProcessError as error:  # which has said why
        return error.returncode
    return 0


def run_parts(arguments: argparse.Namespace) -> None:
    """Measure and draw what is asked for."""
    others = [name for name in gate_providers() if name != OURS]
    results, duration = arguments.results, ["--seconds", str(arguments.seconds)]

    def out(name: str) -> list[str]:
        return ["--out", str(results / f"{name}.json")]

    if "steps" in arguments.parts:
        suite = ["-m", "benchmarks.steps", "--suite", arguments.suite, *duration]
        run_pinned([*suite, *out("tuned")])
        untuned = [*suite, "--providers", "CoNeX", "--allocator-as-it-comes", *out("untuned")]
        run_pinned(untuned, tuned_allocator=False)
        rows = read_rows(results / "tuned.json") + [r for r in read_rows(results / "untuned.json") if is_other(r)]
        for suffix in ("json", "csv"):
            write_rows(rows, results / f"steps.{suffix}")
        for name in ("tuned", "untuned"):
            (results / f"{name}.json").unlink()
    if "full" in arguments.parts:
        # Brian2 compiles a program for each workload, which would take hours
        every = ["-m", "benchmarks.steps", "--suite", "full", "--providers", *others, "JAX", "--seconds", "0.1"]
        run_pinned([*every, "--out", *(str(results / f"full.{suffix}") for suffix in ("json", "csv"))])
        print("full suite:", summary(read_rows(results / "full.json")))
        (results / "full.json").unlink()
    if "threads" in arguments.parts:
        two = ["-m", "benchmarks.steps", "--suite", "quick", "--threads", "2", "--providers", *others]
        run_pinned([*two, *duration, *out("threads")], threads=2)
    if "growth" in arguments.parts:
        run_pinned(["-m", "benchmarks.growth", "--largest", str(arguments.largest), *duration, *out("growth")])
    if "simulations" in arguments.parts:
        run_pinned(["-m", "benchmarks.simulations", *out("simulations")])
    if "networks" in arguments.parts:
        run_pinned(["-m", "benchmarks.networks", *out("networks")])
    if "figures" in arguments.parts:
        for path in draw(results, arguments.figures):
            print(path)
    if (results / "steps.json").exists():
        print(summary(read_rows(results / "steps.json")))


if __name__ == "__main__":
    sys.exit(main())
