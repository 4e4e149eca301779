"""Spikes through convolutions in Triton: all positions have one kernel."""

from __future__ import annotations

from tritonstdp.kernels.patches import DEFAULT, SPACE, Config, build_patches
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep

__all__ = ["DEFAULT", "SPACE", "Config", "build"]


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Prepare the launches for one case."""
    return build_patches(case, config, shares_weights=True)
