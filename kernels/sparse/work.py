"""The launches of a step on a GPU: one lists who spiked, if anything does, and one shares the items of work."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels import work as works
from tritonstdp.kernels.items import SECTOR_BYTES
from tritonstdp.kernels.sparse.gpu import cut_of
from tritonstdp.kernels.work import Work, is_pass, listing, reached_share, shared

LOOKUPS = 2
"""Where a neuron's synapses start, and whom they come from or go to."""
GATHERED = 16
"""Bytes by which torch finds the neurons of a synapse: two int64."""


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The launches of a step; see :class:`tritonstdp.kernels.work.Work`."""
    (synapses,) = topology.weights_shape
    cut = cut_of(topology, config)
    items, nbytes = float(cut.n_major), (cut.index_bytes + (1.0 + modulated) * 2 * itemsize) * synapses
    written = reached_share(rate, itemsize, modulated)
    of_pass = shared(config, items, nbytes - (1 - written) * itemsize * synapses, LOOKUPS)
    if is_pass(nbytes, modulated):
        return [of_pass]
    if 2 * rate >= config.full_from:
        return [listing(cut.n_major + cut.n_minor), of_pass]
    items = rate * (cut.n_major + cut.n_minor)
    # a minor neuron's synapses are scattered: each moves a sector both ways, and is found by two indices
    nbytes = rate * (nbytes + (8 + 2 * SECTOR_BYTES * (1 - rate)) * synapses)
    return [listing(cut.n_major + cut.n_minor), shared(config, items, nbytes, LOOKUPS)]


def whole_pass(topology: Any, itemsize: int, modulated: bool) -> list[Work]:
    """What ``torch.compile`` launches: a pass that reads where each synapse's neurons are."""
    return works.whole_pass(topology, itemsize, modulated, GATHERED)
