"""Local receptive fields in Triton: patches and what looks at a pre neuron, as items that programs share.

Major are the post neurons: the taps of a patch are a row. A column are the synapses through which post neurons may see
one pre neuron, each in a row of its own: as many as the kernel is large for each map, fewer where a stride steps over
some, so that only those at the border are candidates in vain.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tritonstdp.kernels.items import Config, build_items
from tritonstdp.kernels.patch_items import cut_of, margin, seen_from
from tritonstdp.kernels.protocol import Case, Step

# of a column each synapse costs a sector: a pass over all is cheaper sooner than with columns side by side
DEFAULT = Config(blocks=4, waves=16, full_from=0.5, num_warps=1)
SPACE: dict[str, tuple[float, ...]] = {
    "blocks": (2, 4),
    "waves": (8, 16),
    "full_from": (0.3, 0.5, 0.7),
    "num_warps": (1, 2),
}


@triton.jit
def row_at(i, k, sizes, plan):
    """The taps of a patch, and the pre neurons that they see; none is where the padding is."""
    _, _, taps, _, height, width, out_height, out_width = sizes
    PAD_H, PAD_W, KH, KW, SH, SW = plan
    line = k // KW
    channel = line // KH
    tap_row, tap_column = line - channel * KH, k - line * KW
    top, left = i // out_width % out_height * SH - PAD_H, i % out_width * SW - PAD_W
    inside = k < taps
    seen = inside
    if PAD_H + PAD_W > 0:
        seen &= margin(top + tap_row, left + tap_column, height, width) >= 0
    at = i.to(tl.int64) * taps + k
    # what depends on the tap alone is added up by itself: it is the same for all rows of a program
    return at, at, inside, (channel * height + tap_row) * width + tap_column + (top * width + left), seen


@triton.jit
def column_at(j, k, sizes, plan):
    """The synapses through which post neurons may see a pre neuron, and these."""
    i, found, _, tap, taps = seen_from(j, k, sizes, plan)
    return i, found, i.to(tl.int64) * taps + tap


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    return build_items(case, config, False, cut_of, row_at, column_at, bound_first=True)
