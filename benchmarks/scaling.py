"""Strong and weak scaling over two processes, each on a core of its own, and the bytes that they exchange.

``python -m benchmarks.scaling [N ...]`` steps a dense recurrent group of N neurons (propagation, both traces, stdp with
soft bounds, the exchange) in turns: all of it on one process, half of its post neurons on one process, and all on both.
Everything is timed within one start of both processes, so that whatever else the machine does meets all alike; of a
way's turns, the fastest ones are those that it disturbed least.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

RATE, TURNS, STEPS, PATTERNS = 0.02, 20, 10, 16
"""Spikes a neuron a step; how often each way has its turn, and of how many steps; spikes that are drawn in advance."""


def main() -> None:
    """Start both processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", __spec__.name]
    sizes = sys.argv[1:] or ["6400", "20000"]
    subprocess.run([*command, *sizes], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


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


def measure(n: int) -> None:
    """Measure a group of so many neurons, and let the first rank say what was found."""
    import torch
    import torch.distributed as dist

    import tritonstdp as ts
    from tritonstdp.distributed import Exchange, shard

    draws = torch.Generator().manual_seed(0)
    spikes = [torch.rand(n, generator=draws) < RATE for _ in range(PATTERNS)]
    part = shard(lambda start, stop: torch.full((n, stop - start), 0.5), topology=ts.Dense(n, n))
    own = [part.post(every).contiguous() for every in spikes]
    with Exchange(part) as exchange:
        # what one process has fired is there already
        ways = {"both": stepping(part.weights, spikes, own, exchange)}
        if dist.get_rank() == 0:
            whole = torch.full((n, n), 0.5)
            half = whole[:, : part.n_post].contiguous()
            ways["whole"] = stepping(whole, spikes, spikes, torch.Tensor.clone)
            ways["half"] = stepping(half, spikes, own, torch.Tensor.clone)
        ways["exchange"] = lambda k: _timed(exchange, own[k])[0]
        found = {name: [] for name in ("whole", "half", "both", "exchange")}
        waits: list[float] = []
        for turn in range(TURNS + 1):
            for name, turns in found.items():
                exchange.meet()
                if name not in ways:
                    continue
                seconds, exchanged = _timed(lambda way: [way(k) for k in range(STEPS)], ways[name])
                if turn:  # the first one compiles
                    turns.append(seconds / STEPS)
                    waits += [sum(exchanged) / seconds] if name == "both" else []
        if dist.get_rank() == 0:
            say(n, {name: 1e3 * fast(turns) for name, turns in found.items()}, fast(waits), exchange.sent, part.n_post)


def stepping(weights: Any, spikes: list[Any], own: list[Any], exchange: Callable[[Any], Any]) -> Callable[[int], float]:
    """One step of a network, as a function of its number that gives the seconds of the exchange."""
    import torch

    import tritonstdp as ts

    pre_trace, post_trace, current = (torch.zeros(size) for size in (*weights.shape, weights.shape[1]))

    def step(k: int) -> float:
        pre, post = spikes[k - 1], own[k]
        ts.propagate_(current.mul_(0.9), weights, pre)
        ts.trace_(pre_trace, pre, tau=20.0)
        ts.trace_(post_trace, post, tau=20.0)
        ts.stdp_(
            weights, pre, pre_trace, post, post_trace, a_plus=1e-4, a_minus=1e-4,
            positive_bound="soft_bound", negative_bound="soft_bound", clamp=True,
        )  # fmt: skip
        return _timed(exchange, post)[0]

    return step


def _timed(call: Callable[[Any], Any], *given: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    done = call(*given)
    return time.perf_counter() - began, done


def fast(turns: list[float]) -> float:
    """The lower quartile."""
    return sorted(turns)[len(turns) // 4]


def say(n: int, ms: dict[str, float], share: float, sent: int, n_post: int) -> None:
    """Print what was found."""
    print(
        f"{n} neurons, {n * n:.1e} synapses: {ms['whole']:.2f} ms a step on one process, {ms['both']:.2f} on two",
        f"strong scaling {ms['whole'] / ms['both']:.2f}x",
        f"weak scaling {ms['half'] / ms['both']:.0%}: half of the neurons take {ms['half']:.2f} ms on one process",
        f"exchange {ms['exchange']:.3f} ms, {ms['exchange'] / ms['both']:.1%} of a step; {share:.1%} with waits",
        f"{sent} bytes sent a rank a step (n / 8 + 64 = {n_post / 8 + 64:.0f})",
        sep="\n  ", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    run() if "RANK" in os.environ else main()
