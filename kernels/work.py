"""What the launches of a step do on a GPU, from which times are estimated and configurations ranked without one.

A topology's ``work.py`` has ``work(topology, config, rate, itemsize, modulated)``, which gives the :class:`Work` of
each launch of a step, in order; and may have ``whole_pass(topology, itemsize, modulated)``, as below.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from tritonstdp.kernels.items import FEWEST_LISTED

LISTED = 1024
"""Neurons of either side that a program lists at least."""


FETCHED_BYTES = 64
"""What DRAM gives at least, seen in the counters of an H200."""


class Work(NamedTuple):
    """The busy programs of a launch.

    Attributes
    ----------
    programs : float
        How many there are.
    nbytes : float
        What each reads from and writes to DRAM: whole sectors.
    rounds : float
        How many loads from DRAM of each wait for another one, in a row.
    flight : float
        The bytes that each has asked for while it waits.
    near : float
        How many loads beside those wait in a row for what the launches before have just written, in the second-level
        cache.
    """

    programs: float
    nbytes: float
    rounds: float
    flight: float = 4096.0
    near: float = 0.0


def listing(neurons: int) -> Work:
    """The launch that lists who spiked (:mod:`tritonstdp.kernels.event_lists`)."""
    return Work(-(-neurons // LISTED), LISTED, 0, LISTED, near=1)


def is_pass(nbytes: float, modulated: bool) -> bool:
    """Whether a step is one launch, of a pass over all synapses that moves so many bytes."""
    return modulated or nbytes < FEWEST_LISTED


def reached_share(rate: float, itemsize: int, modulated: bool) -> float:
    """The share of fetches that hold a synapse which changes, where neighbours spike independently."""
    return 1.0 if modulated else 1 - (1 - rate) ** (1 + FETCHED_BYTES // itemsize)


def shared(config: Any, items: float, nbytes: float, lookups: int = 0) -> Work:
    """The programs that share items of work (:mod:`tritonstdp.kernels.items`), which move so many bytes together.

    Each item takes so many look-ups before its weights are known.
    """
    programs = min(config.programs, max(1.0, items))
    turns = -(-items // programs)
    # of each turn an entry, spikes and what these ask for are near, or less where nothing is listed
    return Work(programs, nbytes / programs, turns + lookups, nbytes / max(1.0, items) / 2, near=3 * turns)


def whole_pass(topology: Any, itemsize: int, modulated: bool, more: int = 0) -> list[Work]:
    """What ``torch.compile`` of a formula launches: one pass over all synapses, each with so many more bytes."""
    block, each = 1024, (4 if modulated else 2) * itemsize + more
    return [Work(math.prod(topology.weights_shape) / block, block * each, 2, block * each / 2)]
