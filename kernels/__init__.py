"""The kernels: one folder a topology, each with the same step on torch (reference), numba (cpu) and Triton (gpu).

Every ``build(case, config)`` returns a ``step`` with the one signature that
:class:`tritonstdp.kernels.protocol.Step` states. A folder knows its topology and nothing of rules; what a rule and its
bounds do at one synapse is composed in :mod:`~tritonstdp.kernels.compose`, for all three compilers. What the loops of a
CPU share is in :mod:`~tritonstdp.kernels.loops`, what Triton's kernels share in :mod:`~tritonstdp.kernels.blocks`.
"""
