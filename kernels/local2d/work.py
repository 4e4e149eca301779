"""The launches of a step on a GPU: one lists who spiked, if anything does, and one shares the items of work."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels.patch_items import cut_of
from tritonstdp.kernels.work import Work, is_pass, listing, reached_share, shared


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The launches of a step; see :class:`tritonstdp.kernels.work.Work`."""
    cut = cut_of(topology, config)
    patch = topology.weights_shape[-1]
    nbytes, items = (1.0 + modulated) * 2 * itemsize * cut.n_major * patch, float(cut.n_major * cut.row_parts)
    # neighbours are looked at by neurons that spike independently
    share = reached_share(rate, itemsize, modulated)
    of_pass = shared(config, items, nbytes * (1 + share) / 2)
    if is_pass(nbytes, modulated):
        return [of_pass]
    listed = listing(cut.n_major + cut.n_minor)
    if 2 * rate >= config.full_from:
        return [listed, of_pass]
    return [listed, shared(config, rate * (items + cut.n_minor * cut.column_parts), nbytes * share)]
