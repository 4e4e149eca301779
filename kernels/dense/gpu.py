"""Dense connections in Triton: the rows and columns of a matrix as items that programs share.

Weights are walked along the side whose synapses lie next to each other: major are the pre neurons of a contiguous
``(n_pre, n_post)``. A column item takes 32 spiking minor neurons, a lane each, and goes down some rows with them.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import triton
import triton.language as tl

from tritonstdp.kernels.event_lists import LANES
from tritonstdp.kernels.items import WARP, Config, Cut, build_items
from tritonstdp.kernels.launch import WIDEST_BYTES
from tritonstdp.kernels.protocol import Case, Step

# a sector holds what neighbouring columns share, so that many are touched where few neurons spike; measured on an H200
DEFAULT = Config(waves=6, full_from=0.5)
ROWS_OF_A_LANE = 2
"""Of a block of a column item."""
SPACE: dict[str, tuple[float, ...]] = {
    "blocks": (2, 4, 8),
    "waves": (4, 6, 12),
    "full_from": (0.3, 0.5, 0.7),
    "num_warps": (2, 4),
}


def cut_of(
    config: Config, itemsize: int, modulated: bool, n_major: int, n_minor: int, w_strides: Any, c_strides: Any
) -> Cut:
    """Cut weights whose rows lie ``w_strides[0]`` elements apart."""
    unit = gcd(n_minor, w_strides[0], c_strides[0], WIDEST_BYTES // itemsize)
    width, height = config.num_warps * WARP * unit, config.num_warps * ROWS_OF_A_LANE
    return Cut(
        n_major, n_minor, triton.cdiv(n_minor, width), triton.cdiv(n_major, config.blocks * height),
        sizes=(w_strides[0] // unit, c_strides[0] // unit),
        plan=(w_strides[1], c_strides[1], tl.constexpr(unit)), unit=unit,
        tall=max(1, config.blocks // (1 + modulated)), height=height, at_once=LANES.value,
    )  # fmt: skip


@triton.jit
def row_at(i, k, sizes, plan):
    """The k-th weights of a row, and their columns."""
    _, n_minor, w_units, c_units = sizes
    w_step, c_step, UNIT = plan
    row, column = i.to(tl.int64), k.to(tl.int64)
    w_at = row * (tl.cast(w_units, tl.int64) * UNIT) + column * w_step
    c_at = row * (tl.cast(c_units, tl.int64) * UNIT) + column * c_step
    return w_at, c_at, k < n_minor, k, k < n_minor


@triton.jit
def column_at(j, k, sizes, plan):
    """The k-th weights of some columns, or of one, and their rows."""
    n_major, _, w_units, _ = sizes
    w_step, _, UNIT = plan
    rows = k.to(tl.int64) * (tl.cast(w_units, tl.int64) * UNIT)
    columns = j.to(tl.int64) * w_step
    if len(j.shape) > 0:
        return k, k < n_major, rows[:, None] + columns[None, :]
    else:
        return k, k < n_major, rows + columns


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    pre_is_major = case.layout != "post"

    def cut(topology: Any, config: Config, weights: Any, eligibility: Any) -> Cut:
        turn = 1 if pre_is_major else -1
        n_major, n_minor = topology.weights_shape[::turn]
        strides = weights.stride()[::turn], eligibility.stride()[::turn]
        return cut_of(config, case.dtype.itemsize, case.modulated, n_major, n_minor, *strides)

    return build_items(case, config, pre_is_major, cut, row_at, column_at)
