"""One-to-one connections on torch: products."""

from __future__ import annotations

from tritonstdp.kernels.reference import Meeting

MEETING = Meeting(
    lambda topology, values: values,
    lambda topology, values: values,
    onto_post=lambda topology, values: values,
)
