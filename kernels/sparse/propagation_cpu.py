"""Spikes over sparse connections on a CPU: the stored synapses of neurons that spiked, by the plan.

Where pre neurons are the major side, these lie next to each other; else the plan's permutation leads to them. Threads
take some post neurons each, and find theirs among a pre neuron's synapses, which the plan has in order of the post
neuron: always where post neurons are the major side, and mostly else.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops, threads
from tritonstdp.kernels.memory import address
from tritonstdp.kernels.object_cache import Recipe
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep
from tritonstdp.kernels.protocol import PlacedStep
from tritonstdp.kernels.sparse.cpu import AHEAD, fetchers, once_a_plan

DEFAULT = threads.Shared(32_000_000)
SPACE: dict[str, tuple[float, ...]] = {
    "parallel_work": (1_000_000, 8_000_000, 32_000_000, 128_000_000),
    "tasks": (4, 16, 64),
}


def build(case: PropagationCase, config: threads.Shared = DEFAULT) -> PropagationStep:
    """Compile the step for one case."""
    loop_for, tasks = threads.by_work(partial(_compile, case), config.parallel_work), config.tasks
    names = ("minor_start", "major_by_minor", "by_minor") if case.kernel_key[0] else ("major_start", "minor_of")

    @once_a_plan
    def read(topology):  # type: ignore[no-untyped-def]
        addresses = [address(f"topology.{name}", getattr(topology, name)) for name in names]
        return *addresses, *[0] * (3 - len(names)), case.kernel_key[0] or is_ordered(topology)

    def place(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        *addresses, ordered = read(topology)
        nnz = weights.numel()
        return loops.placed_step(
            4, loop_for(nnz if ordered else 0), weights.data_ptr(), nnz, *addresses, current.data_ptr(),
            pre_spike.data_ptr(), topology.n_pre, topology.n_post, tasks,
        )  # fmt: skip

    return PlacedStep(place)


def is_ordered(topology: Any) -> bool:
    """Whether the synapses of each major neuron stand in order of the minor one."""
    minor_of = topology.minor_of
    begins = minor_of.new_zeros(len(minor_of) + 1, dtype=bool).index_fill_(0, topology.major_start, True)
    return bool((begins[1:-1] | (minor_of[1:] > minor_of[:-1])).all())


@loops.while_used
def _compile(case: PropagationCase, parallel: bool) -> Any:
    real, pointer = loops.REAL[case.dtype], loops.as_pointer
    spike_type = np.bool_ if case.bool_spikes else real
    permuted, wide = case.kernel_key
    # indices are read as unsigned, which spares the test for negative ones
    neuron, position = np.uint32, np.uint64 if wide else np.uint32
    find_events: Any = loops.event_finder(case.dtype, case.bool_spikes)
    fetch, fetch_scattered = fetchers(np.dtype(real).itemsize, False)
    carray: Any = numba.carray
    parts = numba.prange if parallel else range

    @loops.njit_part
    def add(current, w, w_address, post_of, positions, value):  # type: ignore[no-untyped-def]
        for k in range(len(post_of)):
            if permuted and k + AHEAD < len(post_of):
                fetch_scattered(w_address, 0, positions[k + AHEAD : k + AHEAD + 1])
            current[post_of[k]] += w[positions[k] if permuted else k] * value

    def loop(
        w_address, nnz, start_address, post_of_address, position_address, current_address, spike_address,
        n_pre, n_post, tasks,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        w = carray(pointer(w_address), nnz, real)
        start = carray(pointer(start_address), n_pre + 1, np.int64)
        post_of = carray(pointer(post_of_address), nnz, neuron)
        positions = carray(pointer(position_address), nnz if permuted else 0, position)
        current = carray(pointer(current_address), n_post, real)
        spikes = carray(pointer(spike_address), n_pre, spike_type)
        events = find_events(spikes)
        n_parts = min(tasks, n_post) if parallel else 1
        for part in parts(n_parts):
            low, high = part * n_post // n_parts, (part + 1) * n_post // n_parts
            for e in range(len(events)):
                if e + 2 < len(events):
                    later = events[e + 2]
                    fetch(post_of_address, start[later], start[later + 1], post_of.itemsize)
                    if permuted:
                        fetch(position_address, start[later], start[later + 1], positions.itemsize)
                    else:
                        fetch(w_address, start[later], start[later + 1], w.itemsize)
                if permuted and e + 1 < len(events):
                    first, last = start[events[e + 1]], start[events[e + 1] + 1]
                    fetch_scattered(w_address, 0, positions[first : min(last, first + AHEAD)])
                i = events[e]
                first, last = start[i], start[i + 1]
                if parallel:
                    own = post_of[first:last]
                    first, last = first + np.searchsorted(own, low), first + np.searchsorted(own, high)
                if permuted:
                    add(current, w, w_address, post_of[first:last], positions[first:last], real(spikes[i]))
                else:
                    add(current, w[first:last], w_address, post_of[first:last], positions, real(spikes[i]))

    return loops.entry(loop, Recipe((), case[1:]), *[types.int64] * 10, parallel=parallel)
