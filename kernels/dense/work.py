"""The launches of a step on a GPU: one lists who spiked, if anything does, and one shares the items of work."""

from __future__ import annotations

import math
from typing import Any

from tritonstdp.kernels.dense.gpu import cut_of
from tritonstdp.kernels.items import SECTOR_BYTES
from tritonstdp.kernels.work import Work, is_pass, listing, reached_share, shared


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The launches of a step; see :class:`tritonstdp.kernels.work.Work`."""
    n_major, n_minor = topology.weights_shape
    cut = cut_of(config, itemsize, modulated, n_major, n_minor, (n_minor, 1), (n_minor, 1))
    items, nbytes = math.ceil(n_major / cut.tall) * cut.row_parts, (1.0 + modulated) * 2 * itemsize * n_major * n_minor
    share = reached_share(rate, itemsize, modulated)
    if is_pass(nbytes, modulated):
        return [shared(config, items, nbytes * (1 + share) / 2)]
    rows, columns = rate * n_major, rate * n_minor
    touched = rows * n_minor + min(n_minor, columns * SECTOR_BYTES // itemsize) * n_major
    if touched < config.full_from * n_major * n_minor:
        items = math.ceil(rows / cut.tall) * cut.row_parts + math.ceil(columns / cut.at_once) * cut.column_parts
    return [listing(n_major + n_minor), shared(config, items, nbytes * share)]
