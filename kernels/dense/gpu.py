"""Dense connections in Triton: programs for rows and programs for groups of columns, in one grid.

Weights are walked along the side whose synapses lie next to each other (*major*: pre neurons for a contiguous
``(n_pre, n_post)``); *minor* is the other side. A row program takes a chunk of one major neuron's synapses and leaves
unless that neuron has spiked. A column program takes one group of neighbouring minor neurons, as many as one memory
sector holds, leaves unless one of them has spiked, and walks down the rows of silent major neurons. So each synapse has
one owner, and the mask is constant along the contiguous axis, which keeps accesses wide. A modulated rule changes
every synapse: there the row programs take all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from tritonstdp.kernels.blocks import (
    device_formula,
    each_at,
    launch_numbers,
    launch_options,
    real_type,
    values_at,
    values_of,
)
from tritonstdp.kernels.formula_gpu import fp64, numbers_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    columns : int
        Synapses of a row that one row program takes in float32; in other dtypes, as many bytes.
    rows : int
        Rows that a column program takes at once.
    splits : int
        Column programs that share a group of columns.
    num_warps : int
        Warps a program.
    """

    columns: int = 512
    rows: int = 64
    splits: int = 2
    num_warps: int = 4


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {
    "columns": (512, 1024),
    "rows": (64, 128),
    "splits": (1, 2, 4, 8),
    "num_warps": (2, 4),
}
"""Every combination gives each thread at least 16 neighbouring bytes of float32 weights, and so 128-bit accesses."""
SECTOR_BYTES = 32
FLOAT32_BYTES = 4


@triton.jit
def row_program(
    program, w_ptr, c_ptr, major, minor, n_minor, w_major_stride, w_minor_stride, c_major_stride, c_minor_stride,
    numbers, w_min, w_max,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Both terms for a chunk of one row; a plain rule leaves at once where the row's neuron is silent."""
    chunks = tl.cdiv(n_minor, COLUMNS)
    i = program // chunks
    spike = tl.load(major[0] + i).to(REAL)
    if MODULATED or spike != 0:
        j = (program % chunks) * COLUMNS + tl.arange(0, COLUMNS)
        inside = j < n_minor
        here = values_of(spike, major, i, i >= 0, REAL)
        there = values_at(minor, j, inside, REAL)
        address = w_ptr + i.to(tl.int64) * w_major_stride + j.to(tl.int64) * w_minor_stride
        w = tl.load(address, mask=inside).to(REAL)
        c = w
        c_address = address
        if MODULATED:
            c_address = c_ptr + i.to(tl.int64) * c_major_stride + j.to(tl.int64) * c_minor_stride
            c = tl.load(c_address, mask=inside).to(REAL)
        if PRE_IS_MAJOR:
            w, c = UPDATED(w, c, here, there, numbers, w_min, w_max)
        else:
            w, c = UPDATED(w, c, there, here, numbers, w_min, w_max)
        tl.store(address, w.to(w_ptr.dtype.element_ty), mask=inside)
        if MODULATED:
            tl.store(c_address, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def column_program(
    program, w_ptr, major, minor, n_major, n_minor, w_major_stride, w_minor_stride, numbers, w_min, w_max,
    UPDATED: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    ROWS: tl.constexpr, SPLITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The minor neurons' term for a group of columns, in rows of silent neurons; a silent group leaves at once."""
    j = (program // SPLITS) * GROUP + tl.arange(0, GROUP)
    spikes = tl.load(minor[0] + j, mask=j < n_minor, other=0)
    if tl.max((spikes != 0).to(tl.int32), axis=0) != 0:
        there = each_at(values_of(spikes.to(REAL), minor, j, j < n_minor, REAL), 0)
        silent = tl.zeros([ROWS], REAL)
        rows = tl.cdiv(tl.cdiv(n_major, SPLITS), ROWS) * ROWS
        first = (program % SPLITS) * rows
        for start in range(first, tl.minimum(first + rows, n_major), ROWS):
            i = start + tl.arange(0, ROWS)
            # a spiking row belongs to its row programs, and rows past the end to nobody
            spike = tl.load(major[0] + i, mask=i < n_major, other=1)
            mine = tl.broadcast_to((spike == 0)[:, None], [ROWS, GROUP]) & (j < n_minor)[None, :]
            here = each_at(values_of(silent, major, i, i < n_major, REAL), 1)
            address = w_ptr + i.to(tl.int64)[:, None] * w_major_stride + j.to(tl.int64)[None, :] * w_minor_stride
            w = tl.load(address, mask=mine).to(REAL)
            if PRE_IS_MAJOR:
                new, _ = UPDATED(w, w, here, there, numbers, w_min, w_max)
            else:
                new, _ = UPDATED(w, w, there, here, numbers, w_min, w_max)
            tl.store(address, new.to(w_ptr.dtype.element_ty), mask=mine)


@triton.jit
def dense_kernel(
    w_ptr, c_ptr, major, minor,
    n_major, n_minor, w_major_stride, w_minor_stride, c_major_stride, c_minor_stride, row_programs,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    program = tl.program_id(0)
    if MODULATED or program < row_programs:
        row_program(
            program, w_ptr, c_ptr, major, minor,
            n_minor, w_major_stride, w_minor_stride, c_major_stride, c_minor_stride, numbers, w_min, w_max,
            UPDATED, MODULATED, REAL, PRE_IS_MAJOR, COLUMNS,
        )  # fmt: skip
    else:
        column_program(
            program - row_programs, w_ptr, major, minor,
            n_major, n_minor, w_major_stride, w_minor_stride, numbers, w_min, w_max,
            UPDATED, REAL, PRE_IS_MAJOR, ROWS, SPLITS, GROUP,
        )  # fmt: skip


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    updated = device_formula(case, bound_first=False).updated
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    pre_is_major, modulated = case.layout != "post", case.modulated
    itemsize = case.dtype.itemsize
    group, columns = SECTOR_BYTES // itemsize, config.columns * FLOAT32_BYTES // itemsize
    settled = (
        updated, modulated, len(case.names.numbers) - case.names.n_scalars, real, pre_is_major,
        columns, config.rows, config.splits, group,
    )  # fmt: skip

    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        if weights.numel() == 0:
            return
        major, minor = tuple(pre), tuple(post)
        eligibility = weights if c is None else c
        sizes, w_strides, c_strides = topology.weights_shape, weights.stride(), eligibility.stride()
        if not pre_is_major:
            major, minor = minor, major
            sizes, w_strides, c_strides = sizes[::-1], w_strides[::-1], c_strides[::-1]
        n_major, n_minor = sizes
        row_programs = n_major * triton.cdiv(n_minor, columns)
        column_programs = 0 if modulated else triton.cdiv(n_minor, group) * config.splits
        dense_kernel[(row_programs + column_programs,)](
            weights, eligibility, major, minor, n_major, n_minor, *w_strides, *c_strides, row_programs,
            *launch_numbers(case, numbers, w_min, w_max), *settled,
            num_warps=config.num_warps, **options,
        )  # fmt: skip

    return step
