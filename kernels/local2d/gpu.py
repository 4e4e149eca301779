"""Local receptive fields in Triton: programs for post neurons and programs for pre neurons, in one grid.

Weights are read and written in groups of neighbours as large as one memory sector, whole, so that accesses stay wide
whatever the size of a patch. A post program leaves unless its neuron has spiked, and takes the groups of its patch; a
pre program leaves unless its neuron has spiked, and takes the groups of the synapses that see it. A group belongs to
the first spiking post neuron in it, or else to the first synapse in it whose pre neuron has spiked, so it has one
owner. A modulated rule changes every synapse: there each program takes a block of groups.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from tritonstdp.kernels.device import (
    LAUNCH_OPTIONS,
    device_formula,
    dopamine_arguments,
    fp64,
    new_weight,
    pack,
    real_type,
    scalars,
)
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    groups : int
        Groups of synapses that a program takes at once.
    num_warps : int
        Warps a program.
    """

    groups: int = 32
    num_warps: int = 2


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"groups": (16, 32, 64, 128), "num_warps": (1, 2, 4)}
SECTOR_BYTES = 32


@triton.jit
def visit_groups(
    first, n, k, mine, owner_lane, owner_post,
    w_ptr, c_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr, dopamine,
    total, taps, height, width, positions, out_width, pad_h, pad_w, w_min, w_max, parameters, decay,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, REAL: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, GROUP: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Update the groups that start at ``first`` with tap ``k`` of post neuron ``n``, those of them that are owned.

    ``owner_lane`` and ``owner_post`` say by which synapse or post neuron the caller claims a group: at most one is
    not None.
    """
    lane = tl.arange(0, GROUP)[None, :]
    synapse = first[:, None] + lane
    k = k[:, None] + lane
    n = n[:, None]
    if not ALIGNED:  # a group may hold the end of one patch and the start of the next
        patches_on = (k + GROUP * taps) // taps - GROUP
        n += patches_on
        k -= patches_on * taps
    inside = (synapse < total) & mine[:, None]
    position = n % positions
    row = position // out_width * SH - pad_h + k // KW % KH
    column = position % out_width * SW - pad_w + k % KW
    pre = (k // (KH * KW) * height + row) * width + column
    seen = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pre_spike = tl.load(pre_spike_ptr + pre, mask=seen, other=0).to(REAL)
    post_spike = tl.load(post_spike_ptr + n + tl.zeros_like(k), mask=inside, other=0).to(REAL)
    if owner_post is not None:
        spiking_post = tl.where(post_spike != 0, n, 2147483647)
        mine = mine & (tl.min(spiking_post, axis=1) == owner_post)
    if owner_lane is not None:
        spiking_lane = tl.where(post_spike != 0, -1, tl.where(pre_spike != 0, lane, GROUP))
        mine = mine & (tl.min(spiking_lane, axis=1) == owner_lane)
    inside = (synapse < total) & mine[:, None]
    pre_trace = tl.load(pre_trace_ptr + pre, mask=seen & inside, other=0.0).to(REAL)
    post_trace = tl.load(post_trace_ptr + n + tl.zeros_like(k), mask=inside, other=0.0).to(REAL)
    w = tl.load(w_ptr + synapse, mask=inside, other=0.0).to(REAL)
    c = w
    if ELIGIBILITY is not None:
        c = tl.load(c_ptr + synapse, mask=inside, other=0.0).to(REAL)
    potentiation = ON_POST(pre_trace, post_spike, *parameters)
    depression = ON_PRE(pre_spike, post_trace, *parameters)
    new, c = new_weight(
        w, c, dopamine, potentiation, depression, 1, w_min, w_max, parameters, decay,
        CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, True,
    )  # fmt: skip
    if CLAMP and ELIGIBILITY is None:
        # a clamp leaves alone what the step has not touched
        new = tl.where((pre_spike != 0) | (post_spike != 0), new, w)
    tl.store(w_ptr + synapse, new.to(w_ptr.dtype.element_ty), mask=inside)
    if ELIGIBILITY is not None:
        tl.store(c_ptr + synapse, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def local2d_kernel(
    w_ptr, c_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr, dopamine_ptr,
    total, n_post, c_out, taps, height, width, positions, out_width, pad_h, pad_w,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, low: fp64, high: fp64, d0: fp64, d1: fp64, number: fp64,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, N_PARAMETERS: tl.constexpr, N_DECAYS: tl.constexpr,
    REAL: tl.constexpr, DOPAMINE_IS_TENSOR: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, GROUP: tl.constexpr, ALIGNED: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    parameters = pack(p0, p1, p2, p3, N_PARAMETERS, REAL)
    decay = pack(d0, d1, 0.0, 0.0, N_DECAYS, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    program = tl.program_id(0)
    if ELIGIBILITY is not None:
        dopamine = tl.full([], number, REAL)
        if DOPAMINE_IS_TENSOR:
            dopamine = tl.load(dopamine_ptr).to(REAL)
        first = (program.to(tl.int64) * GROUPS + tl.arange(0, GROUPS)) * GROUP
        n = first // taps
        visit_groups(
            first, n.to(tl.int32), (first - n * taps).to(tl.int32), first < total, None, None,
            w_ptr, c_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr, dopamine,
            total, taps, height, width, positions, out_width, pad_h, pad_w, w_min, w_max, parameters, decay,
            ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, REAL, KH, KW, SH, SW, GROUP, ALIGNED,
        )  # fmt: skip
    elif program < n_post:
        if tl.load(post_spike_ptr + program).to(REAL) != 0:
            start = program.to(tl.int64) * taps
            first_group = start // GROUP
            n_groups = ((start + taps + GROUP - 1) // GROUP - first_group).to(tl.int32)
            for done in range(0, n_groups, GROUPS):
                group = done + tl.arange(0, GROUPS)
                n = tl.zeros_like(group) + program
                first = (first_group + group) * GROUP
                visit_groups(
                    first, n, (first - start).to(tl.int32), group < n_groups, None, program,
                    w_ptr, c_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr, w_min,
                    total, taps, height, width, positions, out_width, pad_h, pad_w, w_min, w_max, parameters, decay,
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, REAL,
                    KH, KW, SH, SW, GROUP, ALIGNED,
                )  # fmt: skip
    else:
        pre = program - n_post
        if tl.load(pre_spike_ptr + pre).to(REAL) != 0:
            out_height = positions // out_width
            channel = pre // (height * width)
            row = pre // width % height + pad_h
            column = pre % width + pad_w
            for done in range(0, KH * KW * c_out, GROUPS):
                synapse = done + tl.arange(0, GROUPS)
                i = synapse // KW % KH
                j = synapse % KW
                u = (row - i) // SH
                v = (column - j) // SW
                meets = (synapse < KH * KW * c_out) & (row >= i) & (column >= j) & (u < out_height) & (v < out_width)
                meets = meets & (u * SH + i == row) & (v * SW + j == column)
                n = synapse // (KH * KW) * positions + u * out_width + v
                k = (channel * KH + i) * KW + j
                first = n.to(tl.int64) * taps + k
                lane = (first % GROUP).to(tl.int32)
                visit_groups(
                    first // GROUP * GROUP, n, k - lane, meets, lane, None,
                    w_ptr, c_ptr, pre_spike_ptr, pre_trace_ptr, post_spike_ptr, post_trace_ptr, w_min,
                    total, taps, height, width, positions, out_width, pad_h, pad_w, w_min, w_max, parameters, decay,
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, REAL,
                    KH, KW, SH, SW, GROUP, ALIGNED,
                )  # fmt: skip


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case.formula)
    real = real_type(case.dtype)
    modulated = case.formula.rule.modulated
    dopamine_is_tensor = case.dopamine != "number"
    group = SECTOR_BYTES // torch.empty(0, dtype=case.dtype).element_size()
    (kh, kw), (sh, sw) = case.kernel_key

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        total = weights.numel()
        c_out, positions, taps = topology.weights_shape
        (_, height, width), (_, _, out_width) = topology.src_shape, topology.dst_shape
        pointer, number, _ = dopamine_arguments(dopamine, weights)
        programs = triton.cdiv(total, group * config.groups) if modulated else c_out * positions + pre_spike.numel()
        local2d_kernel[(programs,)](
            weights, weights if c is None else c, pre_spike, pre_trace, post_spike, post_trace, pointer,
            total, c_out * positions, c_out, taps, height, width, positions, out_width, *topology.padding,
            *scalars(parameters, w_min, w_max, decay), number,
            *formula, real, dopamine_is_tensor, kh, kw, sh, sw, group, taps % group == 0, config.groups,
            num_warps=config.num_warps, **LAUNCH_OPTIONS,
        )  # fmt: skip

    return step
