"""Strong and weak scaling over two processes, each on a core of its own, and the bytes that they exchange.

``python -m benchmarks.scaling [N ...]`` steps a dense recurrent group of N neurons (propagation, both traces, stdp with
soft bounds, the exchange) in turns: all of it on one process, half of its post neurons on one process, and all on both.
Everything is timed within one start of both processes, so that whatever else the machine does meets all alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

RATE, TURNS, STEPS, PATTERNS = 0.02, 12, 10, 16
"""Spikes a neuron a step; how often each way has its turn, and of how many steps; spikes that are drawn in advance."""


def main() -> None:
    """Start both processes."""
    sizes = sys.argv[1:] or ["6400", "20000"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", __spec__.name]
    subprocess.run([*command, *sizes], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def measure(n: int) -> None:
    """Measure a group of so many neurons, and let the first rank say what was found."""
    import torch
    import torch.distributed as dist

    import tritonstdp as ts
    from tritonstdp.distributed import Exchange, shard

    rank, draws = dist.get_rank(), torch.Generator().manual_seed(0)
    part = shard(lambda start, stop: torch.full((n, stop - start), 0.5), topology=ts.Dense(n, n))
    whole = torch.full((n, n), 0.5) if rank == 0 else None
    spikes = [torch.rand(n, generator=draws) < RATE for _ in range(PATTERNS)]

    def stepping(weights: torch.Tensor, exchange: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int], float]:
        n_post = weights.shape[1]
        first = n - n_post if rank else 0
        posts = [every[first : first + n_post].contiguous() for every in spikes]
        pre_trace, post_trace, current = torch.zeros(n), torch.zeros(n_post), torch.zeros(n_post)
        fired = [spikes[0]]

        def step(k: int) -> float:
            """One step; the seconds that its exchange took."""
            ts.propagate_(current.mul_(0.9), weights, fired[0])
            post = posts[k % PATTERNS]
            ts.trace_(pre_trace, fired[0], tau=20.0)
            ts.trace_(post_trace, post, tau=20.0)
            ts.stdp_(
                weights, fired[0], pre_trace, post, post_trace, a_plus=1e-4, a_minus=1e-4,
                positive_bound="soft_bound", negative_bound="soft_bound", clamp=True,
            )  # fmt: skip
            began = time.perf_counter()
            fired[0] = exchange(post)
            return time.perf_counter() - began

        return step

    with Exchange(part) as exchange:
        every = iter(range(10**9))
        # what one process has fired is there already
        ways = {"both": stepping(part.weights, exchange)}
        if whole is not None:
            ways["whole"] = stepping(whole, lambda _: spikes[next(every) % PATTERNS])
            ways["half"] = stepping(whole[:, : part.n_post].contiguous(), lambda _: spikes[next(every) % PATTERNS])
        seconds: dict[str, list[float]] = {"whole": [], "half": [], "both": [], "exchange": [], "alone": []}
        for turn in range(TURNS + 1):
            for name in ("whole", "half", "both"):
                exchange.meet()
                if name not in ways:
                    continue
                for k in range(STEPS):
                    began = time.perf_counter()
                    exchanged = ways[name](k)
                    if turn:  # the first one compiles
                        seconds[name].append(time.perf_counter() - began)
                        seconds["exchange"] += [exchanged] if name == "both" else []
            for _ in range(STEPS):
                exchange.meet()
                began = time.perf_counter()
                exchange(spikes[0][: part.n_post])
                seconds["alone"].append(time.perf_counter() - began)
        if rank == 0:
            ms = {name: 1e3 * median(each) for name, each in seconds.items()}
            share = sum(seconds["exchange"]) / sum(seconds["both"])
            print(
                f"{n} neurons, {n * n:.1e} synapses: {ms['whole']:.2f} ms a step on one process, {ms['both']:.2f} on two: "
                f"{ms['whole'] / ms['both']:.2f}x\n"
                f"  half of them on one process {ms['half']:.2f}: weak scaling {ms['half'] / ms['both']:.0%}\n"
                f"  exchange {ms['exchange']:.3f} ms with what one rank waits for the other, {share:.1%} of all steps' time; "
                f"{ms['alone']:.3f} ms where none waits, {ms['alone'] / ms['both']:.1%} of a step\n"
                f"  {exchange.sent} bytes sent a rank a step (n / 8 + 64 = {part.n_post / 8 + 64:.0f})",
                flush=True,
            )


def run() -> None:
    """What each of the processes does."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[dist.get_rank() % len(cores)]})
    for n in sys.argv[1:]:
        measure(int(n))
    dist.destroy_process_group()


if __name__ == "__main__":
    run() if "RANK" in os.environ else main()
