"""Ranks of a test's own, and the simulation that they share: any rule on any group, of which each rank has its part."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import tritonstdp as ts
from tritonstdp import distributed
from tritonstdp.measurement import parameters_of
from tritonstdp.rules import Formula, resolve_rule
from tritonstdp.topology import Topology


def on_ranks(size: int, folder: Path, work: Callable[..., Any], *arguments: Any, seconds: float = 120.0) -> list[Any]:
    """What a function gives on each of so many ranks, or the exception that it raises there; None where it was killed.

    Parameters
    ----------
    size : int
        The number of processes.
    folder : Path
        Empty; the processes meet in a file of it.
    work : callable
        A function of a module; what it takes and gives is pickled.
    *arguments
        What it takes.
    seconds : float
        How long all may take together.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tritonstdp.distributed", "tritonstdp.measurement"])  # once for all processes
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    meeting = f"file://{folder / 'meeting'}"
    ranks = [
        context.Process(target=_run, args=(rank, size, meeting, pipe[1], pickle.dumps((work, arguments))), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process, (_, end) in zip(ranks, pipes, strict=True):
        process.start()
        end.close()
    given = []
    for start, _ in pipes:
        try:
            assert start.poll(seconds), "a rank is not done in time"
            given.append(pickle.loads(start.recv_bytes()))
        except EOFError:
            given.append(None)
    for process in ranks:
        process.kill()
        process.join()
    return given


def _run(rank: int, size: int, meeting: str, end: Any, pickled: bytes) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # each process draws another one by itself
    work, arguments = pickle.loads(pickled)  # by itself, as multiprocessing shares tensors' memory
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    try:
        given = work(*arguments)
    except Exception as error:
        traceback.print_exc()
        given = error
    end.send_bytes(pickle.dumps(given))


class Group(NamedTuple):
    """A group to simulate: what each rank makes of it, the same everywhere."""

    rule: str
    topology: Topology
    dtype: torch.dtype = torch.float32
    float_spikes: bool = False

    @property
    def backend(self) -> str:
        """What a plain process takes; in Triton's interpreter, as tests have it, it would be the kernels of a GPU."""
        return "cpu" if self.dtype.itemsize > 2 else "reference"

    @property
    def weights(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand(self.topology.weights_shape, generator=generator, dtype=self.dtype)


class Whole:
    """A group on one process, by the functions that a shard's methods are named after, and with no exchange."""

    def __init__(self, group: Group) -> None:
        self.weights, topology = group.weights, group.topology
        self.n_pre, self.n_post = *topology.pre_shape, *topology.post_shape
        self.pre = self.post = self.synapses = lambda values: values
        self.update_ = lambda rule, **given: ts.update_(rule, self.weights, topology=topology, **given)
        self.propagate_ = lambda *given, **o: ts.propagate_(given[0], self.weights, given[1], topology=topology, **o)
        self.normalize_ = lambda target: ts.normalize_(self.weights, target, topology=topology)


def simulated(group: Group, steps: int, part: Any, exchange: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The weights, currents and eligibility of a part after so many steps of a recurrent network."""
    rule, (n_pre,), (n_post,) = resolve_rule(group.rule), group.topology.pre_shape, group.topology.post_shape
    bounds = {"positive_bound": "soft_bound", "negative_bound": "hard_bound"}
    settings: dict[str, Any] = dict(parameters_of(Formula.of(rule, ts.BOUNDS["soft_bound"], ts.BOUNDS["hard_bound"])))
    draws = torch.Generator().manual_seed(2)
    if "a_minus" in settings and not group.topology.shares_weights:
        settings["a_minus"] = ts.per_post(part.post(torch.rand(n_post, generator=draws, dtype=group.dtype)))
    if rule.modulated:
        settings["c"] = torch.zeros_like(part.weights)
    pre_traces = {name: torch.zeros(part.n_pre, dtype=group.dtype) for name in rule.pre[1:]}
    post_traces = {name: torch.zeros(part.n_post, dtype=group.dtype) for name in rule.post[1:]}
    current, of_all = torch.zeros(part.n_post, dtype=group.dtype), torch.arange(n_pre) % n_post
    fired = torch.zeros(n_post, dtype=torch.bool)
    kind = kind_of(group)
    for step in range(steps):
        pre_spike = part.pre((fired[of_all] != 0) ^ (torch.rand(n_pre, generator=draws) < 0.05)).to(kind)
        part.propagate_(current.mul_(0.9), pre_spike, backend=group.backend)
        noise = part.post(torch.rand(n_post, generator=draws))
        post_spike = ((noise < 0.05) | (current > 3 + 2 * noise)).to(kind)
        if group.float_spikes:
            post_spike *= part.post(torch.rand(n_post, generator=draws)).to(kind)
        for traces, spikes in ((pre_traces, pre_spike), (post_traces, post_spike)):
            for k, trace in enumerate(traces.values()):
                ts.trace_(trace, spikes, tau=10.0 + 7 * k, backend=group.backend)
        signals = {"pre_spike": pre_spike, "post_spike": post_spike, **pre_traces, **post_traces}
        part.update_(rule, **signals, **settings, **bounds, clamp=True, backend=group.backend)
        if step % 50 == 20:
            part.normalize_(3.0)
        fired = exchange(post_spike)
    return [part.weights, current, *([settings["c"]] if rule.modulated else [])]


def kind_of(group: Group) -> torch.dtype:
    """The dtype of a group's spikes."""
    return group.dtype if group.float_spikes else torch.bool


def alone(groups: list[Group], steps: int) -> list[list[Tensor]]:
    """What one process ends with, as :func:`compared` takes it."""
    return [simulated(group, steps, Whole(group), Tensor.clone) for group in groups]


def compared(groups: list[Group], steps: int, wholes: list[list[Tensor]]) -> list[str]:
    """Which groups end in other bits here than on one process, and in what."""
    wrong = []
    for group, expected in zip(groups, wholes, strict=True):
        part = distributed.shard(group.weights, topology=group.topology)
        with distributed.Exchange(part, dtype=kind_of(group), timeout=60.0) as exchange:
            found = simulated(group, steps, part, exchange)
        cuts = (part.synapses, part.post, part.synapses)
        same = [torch.equal(own, cut(values)) for own, cut, values in zip(found, cuts, expected, strict=False)]
        if not all(same):
            wrong.append(
                f"{group.rule} on {group.topology}: {dict(zip(('weights', 'currents', 'c'), same, strict=False))}"
            )
    return wrong
