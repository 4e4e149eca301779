"""``tritonstdp demo``: a spiking network learns real digits by STDP, or two-choice tasks from reward alone.

:mod:`~tritonstdp.demo.network` is the network, as an example of how the behaviors are used;
:mod:`~tritonstdp.demo.unsupervised` and :mod:`~tritonstdp.demo.reward` are the two ways to train it.
"""

from tritonstdp.demo.command import add_arguments, run

__all__ = ["add_arguments", "run"]
