"""The launches of a step on a GPU: one lists who spiked, one shares the items of work."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels.dense.gpu import cut_of
from tritonstdp.kernels.work import Work, listing, shared


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The launches of a step; see :class:`tritonstdp.kernels.work.Work`."""
    n_major, n_minor = topology.weights_shape
    cut = cut_of(config, itemsize, n_major, n_minor, (n_minor, 1), (n_minor, 1))
    row_bytes = 2 * itemsize * n_minor
    if modulated:
        return [shared(config, n_major * cut.row_parts, 2 * n_major * row_bytes)]
    rows, groups = rate * n_major, -(-n_minor // cut.group) * (1 - (1 - rate) ** cut.group)
    items = rows * cut.row_parts + groups * cut.column_parts
    nbytes = rows * row_bytes + groups * (n_major - rows) * 2 * itemsize * cut.group
    if rows * n_minor + groups * cut.group * n_major >= config.full_from * n_major * n_minor:
        items, nbytes = n_major * cut.row_parts, n_major * row_bytes
    return [listing(n_major + n_minor), shared(config, items, nbytes)]
