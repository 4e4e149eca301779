"""Dense connections on torch: outer products."""

from __future__ import annotations

from tritonstdp.kernels.reference import Meeting

MEETING = Meeting(
    lambda topology, values: values[:, None],
    lambda topology, values: values[None, :],
    onto_post=lambda topology, values: values.sum(0),
)
