"""Dense connections on torch: outer products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tritonstdp.kernels.reference import Pairing
from tritonstdp.rules import Rule


def _terms(
    rule: Rule, topology: Any, s: Tensor, x: Tensor, q: Tensor, y: Tensor, parameters: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    return (
        rule.on_post(x[:, None], q[None, :], *parameters),
        rule.on_pre(s[:, None], y[None, :], *parameters),
    )


def _touched(topology: Any, s: Tensor, q: Tensor) -> Tensor:
    return (s != 0)[:, None] | (q != 0)[None, :]


PAIRING = Pairing(_terms, _touched)
