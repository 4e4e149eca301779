"""Published networks by tritonstdp and by their references, in one run of one pinned thread.

Each benchmark first proves that both programs' networks did the same; then their times are compared.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch
from rich.console import Console

from benchmarks.environment import restart_pinned
from benchmarks.networks import brunel, images, izhikevich
from benchmarks.networks.benchmark import table_of
from tritonstdp.arguments import Parser, output_file, seconds
from tritonstdp.machine import machine

BENCHMARKS = {b.name: b for b in (brunel.BENCHMARK, izhikevich.BENCHMARK)}


def main() -> int:
    """Run the benchmarks that are asked for."""
    names = " ".join((*BENCHMARKS, images.NAME))
    parser = Parser(
        prog="python -m benchmarks.networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    help_of_names = f"some of {names}; by default all but {images.NAME}"
    parser.add_argument("names", nargs="*", default=list(BENCHMARKS), help=help_of_names)
    parser.add_argument("--seconds", type=seconds, help="biological seconds (default: each benchmark's own number)")
    parser.add_argument("--out", type=output_file, help="write results to a .json file")
    images.add_arguments(parser)
    arguments = parser.parse_args()
    benchmarks = dict(BENCHMARKS)
    if images.NAME in arguments.names:
        try:
            benchmarks[images.NAME] = images.benchmark(arguments)
        except ValueError as error:
            parser.error(str(error))
    for name in arguments.names:
        if name not in benchmarks:
            parser.error(f"unknown benchmark {name!r}: use some of {names}")
    restart_pinned()
    torch.set_num_threads(1)
    console, rows = Console(), []
    where = {f"machine_{key}": value for key, value in machine().items()}
    for name in arguments.names:
        results = benchmarks[name].run(arguments.seconds)
        console.print(table_of(benchmarks[name], results))
        rows += [r.row() | where for r in results]
        if arguments.out:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
