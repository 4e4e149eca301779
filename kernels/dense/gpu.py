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

from tritonstdp.kernels.device import device_formula, dopamine_arguments, launch_options, real_type, scalars, updated
from tritonstdp.kernels.formula_gpu import fp64, pack
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
    program, w_ptr, c_ptr, major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, dopamine_ptr,
    n_minor, w_major_stride, w_minor_stride, c_major_stride, c_minor_stride, dopamine_stride,
    number, w_min, w_max, parameters, decay,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    DOPAMINE_IS_TENSOR: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Both terms for a chunk of one row; a plain rule leaves at once where the row's neuron is silent."""
    chunks = tl.cdiv(n_minor, COLUMNS)
    i = program // chunks
    spike = tl.load(major_spike_ptr + i).to(REAL)
    if ELIGIBILITY is not None or spike != 0:
        j = (program % chunks) * COLUMNS + tl.arange(0, COLUMNS)
        inside = j < n_minor
        major_trace = tl.load(major_trace_ptr + i).to(REAL)
        minor_spike = tl.load(minor_spike_ptr + j, mask=inside, other=0).to(REAL)
        minor_trace = tl.load(minor_trace_ptr + j, mask=inside, other=0.0).to(REAL)
        address = w_ptr + i.to(tl.int64) * w_major_stride + j.to(tl.int64) * w_minor_stride
        w = tl.load(address, mask=inside).to(REAL)
        if ELIGIBILITY is not None:
            c_address = c_ptr + i.to(tl.int64) * c_major_stride + j.to(tl.int64) * c_minor_stride
            c = tl.load(c_address, mask=inside).to(REAL)
            if DOPAMINE_IS_TENSOR:
                post = j if PRE_IS_MAJOR else i + tl.zeros_like(j)
                dopamine = tl.load(dopamine_ptr + post * dopamine_stride, mask=inside, other=0.0).to(REAL)
            else:
                dopamine = tl.full([], number, REAL)
        else:
            c = w
            dopamine = w_min
        if PRE_IS_MAJOR:
            w, c = updated(
                w, c, dopamine, spike, major_trace, minor_spike, minor_trace, w_min, w_max, parameters, decay,
                ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, False,
            )  # fmt: skip
        else:
            w, c = updated(
                w, c, dopamine, minor_spike, minor_trace, spike, major_trace, w_min, w_max, parameters, decay,
                ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, False,
            )  # fmt: skip
        tl.store(address, w.to(w_ptr.dtype.element_ty), mask=inside)
        if ELIGIBILITY is not None:
            tl.store(c_address, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def column_program(
    program, w_ptr, major_spike_ptr, major_trace_ptr, minor_spike_ptr,
    n_major, n_minor, w_major_stride, w_minor_stride, w_min, w_max, parameters,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    CLAMP: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    ROWS: tl.constexpr, SPLITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The minor neurons' term for a group of columns, in rows of silent neurons; a silent group leaves at once."""
    j = (program // SPLITS) * GROUP + tl.arange(0, GROUP)
    spikes = tl.load(minor_spike_ptr + j, mask=j < n_minor, other=0)
    if tl.max((spikes != 0).to(tl.int32), axis=0) != 0:
        minor_spike = spikes.to(REAL)[None, :]
        rows = tl.cdiv(tl.cdiv(n_major, SPLITS), ROWS) * ROWS
        first = (program % SPLITS) * rows
        for start in range(first, tl.minimum(first + rows, n_major), ROWS):
            i = start + tl.arange(0, ROWS)
            # a spiking row belongs to its row programs, and rows past the end to nobody
            spike = tl.load(major_spike_ptr + i, mask=i < n_major, other=1)
            mine = tl.broadcast_to((spike == 0)[:, None], [ROWS, GROUP]) & (j < n_minor)[None, :]
            major_trace = tl.load(major_trace_ptr + i, mask=i < n_major, other=0.0).to(REAL)[:, None]
            address = w_ptr + i.to(tl.int64)[:, None] * w_major_stride + j.to(tl.int64)[None, :] * w_minor_stride
            w = tl.load(address, mask=mine).to(REAL)
            silent = tl.zeros([1, 1], REAL)
            if PRE_IS_MAJOR:
                new, _ = updated(
                    w, w, w_min, silent, major_trace, minor_spike, silent, w_min, w_max, parameters, (),
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, None, CLAMP, False,
                )  # fmt: skip
            else:
                new, _ = updated(
                    w, w, w_min, minor_spike, silent, silent, major_trace, w_min, w_max, parameters, (),
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, None, CLAMP, False,
                )  # fmt: skip
            tl.store(address, new.to(w_ptr.dtype.element_ty), mask=mine)


@triton.jit
def dense_kernel(
    w_ptr, c_ptr, major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, dopamine_ptr,
    n_major, n_minor, w_major_stride, w_minor_stride, c_major_stride, c_minor_stride, dopamine_stride, row_programs,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, low: fp64, high: fp64, d0: fp64, d1: fp64, number: fp64,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, N_PARAMETERS: tl.constexpr, N_DECAYS: tl.constexpr,
    REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr, DOPAMINE_IS_TENSOR: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, SPLITS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    parameters = pack(p0, p1, p2, p3, N_PARAMETERS, REAL)
    decay = pack(d0, d1, 0.0, 0.0, N_DECAYS, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    program = tl.program_id(0)
    if ELIGIBILITY is not None or program < row_programs:
        row_program(
            program, w_ptr, c_ptr, major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, dopamine_ptr,
            n_minor, w_major_stride, w_minor_stride, c_major_stride, c_minor_stride, dopamine_stride,
            number, w_min, w_max, parameters, decay, ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP,
            REAL, PRE_IS_MAJOR, DOPAMINE_IS_TENSOR, COLUMNS,
        )  # fmt: skip
    else:
        column_program(
            program - row_programs, w_ptr, major_spike_ptr, major_trace_ptr, minor_spike_ptr,
            n_major, n_minor, w_major_stride, w_minor_stride, w_min, w_max, parameters,
            ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, CLAMP, REAL, PRE_IS_MAJOR, ROWS, SPLITS, GROUP,
        )  # fmt: skip


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case.formula)
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    pre_is_major = case.layout != "post"
    modulated = case.formula.rule.modulated
    dopamine_is_tensor = case.dopamine != "number"
    itemsize = case.dtype.itemsize
    group, columns = SECTOR_BYTES // itemsize, config.columns * FLOAT32_BYTES // itemsize

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        if weights.numel() == 0:
            return
        pre, post = (pre_spike, pre_trace), (post_spike, post_trace)
        eligibility = weights if c is None else c
        sizes, w_strides, c_strides = topology.weights_shape, weights.stride(), eligibility.stride()
        if not pre_is_major:
            pre, post = post, pre
            sizes, w_strides, c_strides = sizes[::-1], w_strides[::-1], c_strides[::-1]
        pointer, number, dopamine_stride = dopamine_arguments(dopamine, weights)
        n_major, n_minor = sizes
        row_programs = n_major * triton.cdiv(n_minor, columns)
        column_programs = 0 if modulated else triton.cdiv(n_minor, group) * config.splits
        dense_kernel[(row_programs + column_programs,)](
            weights, eligibility, *pre, *post, pointer,
            n_major, n_minor, *w_strides, *c_strides, dopamine_stride, row_programs,
            *scalars(parameters, w_min, w_max, decay), number,
            *formula, real, pre_is_major, dopamine_is_tensor,
            columns, config.rows, config.splits, group,
            num_warps=config.num_warps, **options,
        )  # fmt: skip

    return step
