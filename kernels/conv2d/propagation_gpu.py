"""Spikes through convolutions in Triton: all positions have one kernel."""

from __future__ import annotations

import triton
import triton.language as tl

from tritonstdp.kernels.patch_items import seen_from
from tritonstdp.kernels.patches import DEFAULT, SPACE, Config, build_patches
from tritonstdp.kernels.propagation import PropagationCase, PropagationStep

__all__ = ["DEFAULT", "SPACE", "Config", "build"]


@triton.jit
def column_at(j, k, sizes, plan):
    """The post neurons that may see a pre neuron, and the weights through which they do, whatever their position."""
    i, found, channel, tap, taps = seen_from(j, k, sizes, plan)
    return i, found, channel.to(tl.int64) * taps + tap


def build(case: PropagationCase, config: Config = DEFAULT) -> PropagationStep:
    """Prepare the launches for one case."""
    return build_patches(case, config, True, column_at)
