"""The busy programs of a step on a GPU: neurons of either side, in pieces."""

from __future__ import annotations

import math
from typing import Any

from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The busy programs of a step; see :class:`tritonstdp.kernels.work.Work`."""
    (synapses,) = topology.weights_shape

    def side(neurons: int, busy: float, nbytes: float, rounds: int) -> Work:
        each = synapses / max(neurons, 1)
        pieces = max(1, math.ceil(each / config.piece))
        blocks = math.ceil(min(each, config.piece) / config.block)
        return Work(busy * neurons * pieces, nbytes * each / pieces, 2 + rounds * blocks)

    n_major, n_minor = topology.major_start.numel() - 1, topology.minor_start.numel() - 1
    if modulated:
        return [side(n_major, 1.0, 4 + 4 * itemsize, 2)]
    # a minor neuron's synapses are scattered: each moves a sector, and is found by two indices and a spike
    return [side(n_major, rate, 4 + 2 * itemsize, 2), side(n_minor, rate, 8 + 2 * 32 * (1 - rate), 3)]
