"""The busy programs of a step on a GPU: sums over chunks of positions, and where they are applied."""

from __future__ import annotations

import math
from typing import Any

from tritonstdp.kernels.conv2d.gpu import APPLY_BLOCK
from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The busy programs of a step; see :class:`tritonstdp.kernels.work.Work`."""
    c_out, synapses = topology.weights_shape[0], math.prod(topology.weights_shape)
    taps, (_, kw) = synapses // c_out, topology.kernel_size
    chunks = math.ceil(topology.positions / config.splits / config.chunk)
    busy_post = 1 - (1 - rate) ** config.chunk
    busy_pre = 1 - (1 - rate) ** (config.chunk * max(1, min(config.taps, taps) / kw))
    # spikes and traces stay in the second-level cache, at about half the latency
    sums = Work(
        c_out * math.ceil(taps / config.taps) * config.splits, 2 * 4 * config.taps,
        0.5 * chunks * (2 + busy_post + busy_pre),
    )  # fmt: skip
    moved = (4 if modulated else 2) * itemsize + 2 * 4 * config.splits
    return [sums, Work(math.ceil(synapses / APPLY_BLOCK), APPLY_BLOCK * moved, 1 + 0.5 * config.splits)]
