"""``python -m benchmarks.growth``: the cost of a step against the number of synapses and against the rate of spikes.

Of STDP, and of spike propagation.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.environment import restart_pinned
from tritonstdp.arguments import Parser, rows_file, seconds
from tritonstdp.kernels.propagation import PROPAGATION
from tritonstdp.measurement import OURS, Workload, measure, write_rows
from tritonstdp.terminal import free_bytes

SIDES = (100, 316, 1000, 3162, 10_000, 20_000)
"""Neurons on each side: 1e4 to 4e8 synapses."""

RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
SIDE_FOR_RATES = 3162
BYTES_A_SYNAPSE = 55
"""What the hungriest provider takes, which is CoNeX."""

LARGEST_HELP = "synapses of the largest network, 1e4 or more (default: 4e8, which take 22 GB)"
PROVIDERS_SHOWN = (OURS, "CoNeX", "torch.compile, float spikes", "indexed torch", "JAX")


def synapses(text: str) -> int:
    """A number of synapses, as a type of argument."""
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        number = 0
    if number < SIDES[0] ** 2:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of synapses, {SIDES[0] ** 2:g} or more")
    return number


def require_room(parser: Parser, most: int) -> None:
    """End with one line where the largest network would fill the memory."""
    largest = max(n * n for n in SIDES if n * n <= most)
    needed, free = largest * BYTES_A_SYNAPSE / 2**30, free_bytes("cpu") / 2**30
    if needed > free:
        parser.error(
            f"--largest: {largest:g} synapses take {needed:.1f} GiB of memory, and {free:.1f} GiB are free: give less, "
            "as 1e7"
        )


def grown(rule: str, bound: str, largest: int) -> list[Workload]:
    """Dense steps at 2 %, the largest first, while the memory is free in one piece; 1e7 synapses at every rate."""
    sizes = [((n, n), 0.02) for n in reversed(SIDES) if n * n <= largest]
    rates = [((SIDE_FOR_RATES, SIDE_FOR_RATES), rate) for rate in RATES]
    return [Workload(rule, "dense", bound, shape, rate) for shape, rate in (*sizes, *rates)]


def main() -> int:
    """Measure both and write the rows."""
    parser = Parser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--seconds", type=seconds, default=1.0, help="for each workload (default: 1)")
    parser.add_argument("--largest", type=synapses, default="4e8", help=LARGEST_HELP)
    parser.add_argument(
        "--out", nargs="+", type=rows_file, default=[], metavar="FILE", help="write rows to .json or .csv files"
    )
    arguments = parser.parse_args()
    require_room(parser, arguments.largest)
    restart_pinned()
    torch.set_num_threads(1)
    from benchmarks.providers import PROVIDERS, VERSIONS
    from benchmarks.providers.propagation import PROPAGATIONS

    learning = {name: PROVIDERS[name] for name in PROVIDERS_SHOWN}
    workloads = [(each, learning) for each in grown("stdp", "soft_bound", arguments.largest)]
    workloads += [(each, PROPAGATIONS) for each in grown(PROPAGATION.name, "no_bound", arguments.largest)]
    rows = []
    for workload, providers in workloads:
        measured = measure(workload, providers, arguments.seconds, VERSIONS)
        rows += measured
        times = ", ".join(f"{r.provider} {r.median_us:.4g} us" if r.median_us else r.provider for r in measured)
        print(f"{workload.name}: {times}", flush=True)
        for path in arguments.out:
            write_rows(rows, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
