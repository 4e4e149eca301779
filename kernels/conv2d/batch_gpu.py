"""Learning from batches in Triton, over convolutions: the samples' maps are as those of one, and summed one by one."""

from __future__ import annotations

from tritonstdp.kernels.conv2d.gpu import DEFAULT, Config, build

__all__ = ["DEFAULT", "SPACE", "Config", "build"]

SPACE: dict[str, tuple[int, ...]] = {}
