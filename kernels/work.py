"""How Triton kernels cut a step into programs, from which configurations are ranked without a GPU.

A topology's ``work.py`` has ``work(topology, config, rate, itemsize, modulated)``,
which gives the kinds of busy programs.
"""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """The busy programs of one kind in a launch.

    Attributes
    ----------
    programs : float
        How many there are.
    nbytes : float
        What each reads from and writes to DRAM.
    rounds : float
        How many loads of each wait for another one, in a row.
    """

    programs: float
    nbytes: float
    rounds: float
