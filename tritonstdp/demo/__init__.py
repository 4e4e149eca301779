"""What ``tritonstdp demo`` shows: a network learns real digits by STDP, or two-choice tasks from reward alone.

:mod:`~tritonstdp.demo.network` is the network, as an example of how the behaviors are used;
:mod:`~tritonstdp.demo.unsupervised` and :mod:`~tritonstdp.demo.reward` are the two ways to train it.
"""
