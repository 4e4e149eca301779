"""Strong and weak scaling over two processes, each on a core of its own, and the bytes that they exchange.

``python -m benchmarks.scaling [N ...]`` steps a dense recurrent group of N neurons (propagation, both traces, stdp with
soft bounds, the exchange) in turns: all of it on one process, half of its post neurons on one process, all on both, and
both halves at once without an exchange, which is what the cores' common way to memory leaves to win.
Everything is timed within one start of both processes, so that whatever else the machine does meets all alike; figures
are lower quartiles, of the steps that it disturbed least. The processor time of what computes, the longer one
of both processes, is that of cores that nobody else uses, less the waits of an exchange.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

RATE, TURNS, STEPS, PATTERNS = 0.02, 24, 10, 16
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
        ways = {"both": stepping(part.weights, spikes, own, exchange.send, exchange.receive)}
        ways["apart"] = stepping(part.weights, spikes, own, torch.Tensor.clone, float)
        if dist.get_rank() == 0:
            whole = torch.full((n, n), 0.5)
            half = whole[:, : part.n_post].contiguous()
            ways["whole"] = stepping(whole, spikes, spikes, torch.Tensor.clone, float)
            ways["half"] = stepping(half, spikes, own, torch.Tensor.clone, float)
        ways["exchange"] = lambda k: _timed(exchange, own[k])
        found: dict[str, list[float]] = {name: [] for name in ("whole", "half", "apart", "both", "exchange")}
        busy: dict[str, list[float]] = {name: [] for name in found}
        waits: list[float] = []
        for turn in range(TURNS + 1):
            for name in found:
                exchange.meet()
                for k in range(STEPS if name in ways else 0):
                    before = time.thread_time()
                    seconds, exchanged = _timed(ways[name], k)
                    if turn:  # the first one compiles
                        found[name].append(seconds)
                        busy[name].append(time.thread_time() - before)
                        waits += [exchanged / seconds] if name == "both" else []
        of_all: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(of_all, {name: usual(each) for name, each in busy.items() if each})
        if dist.get_rank() == 0:
            longest = {name: 1e3 * max(each.get(name, 0.0) for each in of_all) for name in busy}
            say(n, {name: 1e3 * usual(each) for name, each in found.items()}, longest)
            print(f"  {usual(waits):.1%} of the clock in exchanges, the wait for the other rank included")
            print(f"  {exchange.sent} bytes sent a rank a step (n / 8 + 64 = {part.n_post / 8 + 64:.0f})", flush=True)


def stepping(
    weights: Any, spikes: list[Any], own: list[Any], send: Callable[[Any], Any], receive: Callable[[], Any]
) -> Callable[[int], float]:
    """One step of a network, as a function of its number that gives the seconds of the exchange."""
    import torch

    import tritonstdp as ts

    pre_trace, post_trace, current = (torch.zeros(size) for size in (*weights.shape, weights.shape[1]))

    def step(k: int) -> float:
        pre, post = spikes[k - 1], own[k]
        ts.propagate_(current.mul_(0.9), weights, pre)
        sent, _ = _timed(send, post)
        ts.trace_(pre_trace, pre, tau=20.0)
        ts.trace_(post_trace, post, tau=20.0)
        ts.stdp_(
            weights, pre, pre_trace, post, post_trace, a_plus=1e-4, a_minus=1e-4,
            positive_bound="soft_bound", negative_bound="soft_bound", clamp=True,
        )  # fmt: skip
        return sent + _timed(receive)[0]

    return step


def _timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    done = call(*given)
    return time.perf_counter() - began, done


def usual(seconds: list[float]) -> float:
    """The lower quartile."""
    return sorted(seconds)[len(seconds) // 4]


def say(n: int, clock: dict[str, float], busy: dict[str, float]) -> None:
    """Print what was found, in ms a step."""
    print(f"{n} neurons, {n * n:.1e} synapses")
    for name, ms in (("clock", clock), ("processor", busy)):
        strong, limit, weak = ms["whole"] / ms["both"], ms["whole"] / ms["apart"], ms["half"] / ms["both"]
        print(
            f"  {name}: {ms['whole']:.2f} ms a step on one process, {ms['both']:.2f} on two ({strong:.2f}x), "
            f"{ms['apart']:.2f} without an exchange ({limit:.2f}x); half of them on one {ms['half']:.2f} (weak scaling "
            f"{weak:.0%}); exchange {ms['exchange']:.3f} ({ms['exchange'] / ms['both']:.1%})"
        )


if __name__ == "__main__":
    run() if "RANK" in os.environ else main()
