"""The busy programs of a step on a GPU: patches of spiking post neurons, and what spiking pre neurons reach."""

from __future__ import annotations

import math
from typing import Any

from tritonstdp.kernels.local2d.gpu import PATCH_BLOCKS
from tritonstdp.kernels.work import Work


def work(topology: Any, config: Any, rate: float, itemsize: int, modulated: bool) -> list[Work]:
    """The busy programs of a step; see :class:`tritonstdp.kernels.work.Work`."""
    c_out, positions, taps = topology.weights_shape
    group = max(1, 32 // itemsize)
    synapses = c_out * positions * taps
    if modulated:
        return [Work(synapses / (group * config.groups), 4 * 32 * config.groups, 2)]
    (n_pre,), (n_post,) = topology.pre_shape, topology.post_shape
    kh, kw = topology.kernel_size
    patch = math.ceil(taps / group)
    neighbours = 1 << (math.ceil(PATCH_BLOCKS * config.groups / patch) - 1).bit_length()
    busy = math.ceil(n_post / neighbours) * (1 - (1 - rate) ** neighbours)
    groups = rate * n_post * patch / busy
    # a candidate's neighbours in its group are looked up one after the other, in the second-level cache
    found = min(config.candidates, kh * kw * c_out) * synapses / n_pre / (kh * kw * c_out)
    searches = math.ceil(kh * kw * c_out / config.candidates)
    return [
        Work(busy, 2 * 32 * groups, 1 + 2 * math.ceil(groups / config.groups)),
        Work(
            rate * n_pre, 2 * 32 * (1 - rate) * synapses / n_pre,
            1 + searches * (0.5 * group + 2 * math.ceil(found / config.groups)),
        ),
    ]  # fmt: skip
