"""The busy programs of a step on a GPU: those of spiking pre neurons, and those of spiking post neurons."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels.dense.gpu import FLOAT32_BYTES, SECTOR_BYTES
from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The busy programs of a step; see :class:`tritonstdp.kernels.work.Work`."""
    n_major, n_minor = topology.weights_shape
    chunks = -(-n_minor * itemsize // (config.columns * FLOAT32_BYTES))
    if modulated:
        return [Work(n_major * chunks, 4 * itemsize * n_minor / chunks, 2)]
    group = max(1, SECTOR_BYTES // itemsize)
    rows_each = -(-n_major // config.splits)
    busy_groups = -(-n_minor // group) * (1 - (1 - rate) ** group)
    return [
        Work(rate * n_major * chunks, 2 * itemsize * n_minor / chunks, 2),
        Work(
            busy_groups * config.splits, 2 * SECTOR_BYTES * (1 - rate) * rows_each, 1 + 2 * -(-rows_each // config.rows)
        ),
    ]
