"""The busy programs of a step on a GPU: blocks of synapses."""

from __future__ import annotations

from typing import Any

from tritonstdp.kernels import work as works
from tritonstdp.kernels.one_to_one.gpu import pass_bytes
from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The busy programs of a step; see :class:`tritonstdp.kernels.work.Work`."""
    written = 1.0 if modulated else 1 - (1 - rate) ** (2 * works.FETCHED_BYTES // itemsize)
    is_small = works.is_pass(pass_bytes(topology.n, itemsize), modulated)
    states, read = (2, 1.0) if modulated else (1, 1.0 if is_small else written)
    nbytes = config.block * (2 + itemsize * (states * written + (2 + states) * read))
    return [Work(-(-topology.n // config.block), nbytes, 1 if is_small else 2)]


def whole_pass(topology: Any, itemsize: int, modulated: bool) -> list[Work]:
    """What ``torch.compile`` launches: here each synapse has signals of its own, a spike and a trace on either side."""
    return works.whole_pass(topology, itemsize, modulated, 2 + 2 * itemsize)
