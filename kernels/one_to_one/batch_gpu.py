"""Learning from batches in Triton, over one-to-one connections: see :mod:`tritonstdp.kernels.batches_gpu`."""

from __future__ import annotations

from tritonstdp.kernels.one_to_one.gpu import Config, build

__all__ = ["DEFAULT", "SPACE", "Config", "build"]

DEFAULT = Config(block=32, num_warps=1)
SPACE: dict[str, tuple[int, ...]] = {}
