"""The launches of a step on a GPU: one lists who spiked, in one weights meet the events."""

from __future__ import annotations

import math
from typing import Any

from tritonstdp.kernels import work as works
from tritonstdp.kernels.conv2d.gpu import WARP
from tritonstdp.kernels.event_lists import LARGEST_SEGMENT
from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The launches of a step; see :class:`tritonstdp.kernels.work.Work`."""
    maps = topology.src_shape[0] + topology.dst_shape[0]
    sizes = math.prod(topology.src_shape[1:]), topology.positions
    synapses, parts = math.prod(topology.weights_shape), math.ceil(max(sizes) / LARGEST_SEGMENT)
    lanes, events = config.at_once(synapses, sizes)
    taps = WARP * config.num_warps // lanes
    turns = parts * max(1, math.ceil(rate * max(sizes) / parts / lanes / events))
    # counts, entries and signals are near
    each = taps * (4 if modulated else 2) * itemsize
    met = Work(math.ceil(synapses / taps), each, 1, each / 2, near=parts + 2 * turns)
    return [Work(maps * parts, max(sizes) / parts, 0, max(sizes) / parts, near=1), met]


def whole_pass(topology: Any, itemsize: int, modulated: bool) -> list[Work]:
    """What ``torch.compile`` launches: spikes and traces of the pre neurons are unfolded, two products, one update."""
    taps = math.prod(topology.weights_shape[1:])
    unfolded = 2 * itemsize * topology.positions * taps
    unfolding = Work(max(1, unfolded / 4096), 4096, 1, 2048)
    product = Work(math.prod(topology.dst_shape) / 64, 4096, 4)
    return [*[unfolding, product] * 2, *works.whole_pass(topology, itemsize, modulated)]
