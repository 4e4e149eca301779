"""Learning from batches in Triton, over local2d connections: see :mod:`tritonstdp.kernels.batches_gpu`."""

from __future__ import annotations

from tritonstdp.kernels.items import Config
from tritonstdp.kernels.local2d.gpu import build

__all__ = ["DEFAULT", "SPACE", "Config", "build"]

DEFAULT = Config(blocks=8, waves=32, full_from=1.65, num_warps=1)
SPACE: dict[str, tuple[float, ...]] = {}
