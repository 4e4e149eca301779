"""Dense connections on torch: outer products."""

from __future__ import annotations

from tritonstdp.kernels.reference import elementwise

PAIRING = elementwise(
    lambda topology, values: values[:, None],
    lambda topology, values: values[None, :],
)
