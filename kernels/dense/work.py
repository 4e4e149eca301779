"""The busy programs of a step on a GPU: those that list who spiked, and those that share the items of work."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels.dense.gpu import Cut
from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The busy programs of a step; see :class:`tritonstdp.kernels.work.Work`."""
    n_major, n_minor = topology.weights_shape
    cut = Cut.of(config, itemsize, n_major, n_minor, n_minor, n_minor)
    row_bytes = 2 * itemsize * n_minor
    if modulated:
        return [_shared(config, n_major * cut.chunks, 2 * n_major * row_bytes)]
    rows, groups = rate * n_major, -(-n_minor // cut.group) * (1 - (1 - rate) ** cut.group)
    items = rows * cut.chunks + groups * cut.row_blocks
    nbytes = rows * row_bytes + groups * (n_major - rows) * 2 * itemsize * cut.group
    if rows * n_minor + groups * cut.group * n_major >= config.full_from * n_major * n_minor:
        items, nbytes = n_major * cut.chunks, n_major * row_bytes
    listed = n_major + n_minor
    return [Work(-(-listed // 1024), 1024, 2), _shared(config, items, nbytes)]


def _shared(config: Any, items: float, nbytes: float) -> Work:
    programs = min(config.programs, max(1.0, items))
    # the counts, an entry, its signals and weights; from then on, each item's own
    return Work(programs, nbytes / programs, 3 + -(-items // programs))
