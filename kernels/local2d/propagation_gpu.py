"""Spikes through local receptive fields in Triton: each position has a kernel of its own."""

from __future__ import annotations

from tritonstdp.kernels.local2d.gpu import column_at
from tritonstdp.kernels.patches import DEFAULT, SPACE, Config, build_patches
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep

__all__ = ["DEFAULT", "SPACE", "Config", "build"]


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Prepare the launches for one case."""
    return build_patches(case, config, False, column_at)
