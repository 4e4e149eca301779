"""The launches of a step on a GPU: one lists who spiked, if anything does, and one shares the items of work."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels.items import SECTOR_BYTES
from tritonstdp.kernels.patch_items import cut_of
from tritonstdp.kernels.work import Work, is_pass, listing, shared


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The launches of a step; see :class:`tritonstdp.kernels.work.Work`."""
    cut = cut_of(topology, config, itemsize)
    patch = topology.weights_shape[-1]
    nbytes, items = (1.0 + modulated) * 2 * itemsize * cut.n_major * patch, float(cut.n_major * cut.row_parts)
    if is_pass(nbytes, modulated):
        return [shared(config, items, nbytes)]
    if 2 * rate < config.full_from:
        # neighbours in a sector are looked at by neurons that spike independently
        nbytes *= rate + (1 - rate) * (1 - (1 - rate) ** (SECTOR_BYTES // itemsize))
        items = rate * (items + cut.n_minor * cut.column_parts)
    return [listing(cut.n_major + cut.n_minor), shared(config, items, nbytes)]
