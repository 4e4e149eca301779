"""Dense connections in Triton: a fixed number of programs share the work of this step.

Weights are walked along the side whose synapses lie next to each other (*major*: pre neurons for a contiguous
``(n_pre, n_post)``); *minor* is the other side. One launch lists who spiked (:mod:`tritonstdp.kernels.event_lists`).
The other's programs read the counts and stride over items of equal size: a chunk of a spiking major neuron's row, with
both terms; or a block of silent rows of a group of neighbouring minor neurons, as many as one memory sector holds, of
which one spiked. So each synapse has one owner. Where so many are touched that a pass over all is cheaper, the rows of
all major neurons are items, as those of a modulated rule always are, which changes every synapse.

An item's accesses are all asked for before the first is used, in blocks of 16 bytes a thread: more at once would go
through shared memory. The grid never depends on what spiked, so that a graph can be captured.
"""

from __future__ import annotations

from functools import cache
from math import gcd
from typing import Any, NamedTuple

import torch
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
from tritonstdp.kernels.event_lists import Lists, counted_of, kept_with, place_of
from tritonstdp.kernels.formula_gpu import fp64, numbers_of
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """How the work is cut into items, and who takes them.

    Attributes
    ----------
    blocks : int
        Accesses that a thread has in flight, to weights, or to weights and as many minor neurons.
    waves : int
        Programs a processor.
    full_from : float
        The share of touched synapses from which on a pass over all is cheaper.
    num_warps : int
        Warps a program.
    """

    blocks: int = 4
    waves: int = 4
    full_from: float = 0.7
    num_warps: int = 4

    @property
    def programs(self) -> int:
        """Programs on a usual GPU."""
        return self.waves * USUAL_PROCESSORS


SECTOR_BYTES, WIDEST_BYTES, WARP = 32, 16, 32
REGISTERS = 64
"""Of a thread, where programs of four warps fill the registers of a processor four times."""
USUAL_PROCESSORS = 132
"""Of an H100: where no GPU is."""
DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {
    "blocks": (2, 4, 8),
    "waves": (2, 4, 8),
    "full_from": (0.5, 0.7, 0.9),
    "num_warps": (2, 4),
}


class Cut(NamedTuple):
    """How a group's weights are cut into items.

    Attributes
    ----------
    unit : int
        Elements by which widths and strides can be divided, up to those of the widest access.
    wide : int
        Blocks of a row that an item takes.
    chunks : int
        Items of a row.
    group : int
        Columns that an item of silent rows takes.
    row_blocks : int
        Items of such a group.
    is_wide : bool
        Whether accesses are as wide as can be.
    """

    unit: int
    wide: int
    chunks: int
    group: int
    row_blocks: int

    is_wide: bool

    @staticmethod
    def of(config: Config, itemsize: int, n_major: int, n_minor: int, *strides: int) -> Cut:
        """Cut the weights of a group whose rows lie so many elements apart."""
        unit, group = gcd(n_minor, *strides, WIDEST_BYTES // itemsize), SECTOR_BYTES // itemsize
        width = config.num_warps * WARP * unit
        # each reads as much of the minor neurons
        wide = min(max(1, config.blocks // 2), triton.cdiv(n_minor, width))
        return Cut(
            unit, wide, triton.cdiv(n_minor, wide * width), group,
            triton.cdiv(n_major, config.blocks * width // group), unit * itemsize == WIDEST_BYTES,
        )  # fmt: skip


@triton.jit
def item_at(item, items, row_items, rows, groups, chunks, counted, gaps, list_ptr, full, MODULATED: tl.constexpr):
    """What an item is: its entry in the lists, and which chunk of the row (or block of the group's rows) it takes."""
    is_row = item < row_items
    k = tl.where(is_row, item, item - row_items)
    # neighbouring programs take one row's chunks, but one block of rows in different groups
    by = tl.where(is_row, chunks, tl.maximum(groups, 1))
    quotient = k // by
    rest = k - quotient * by
    if MODULATED:
        return quotient, rest
    else:
        place = place_of(tl.where(is_row, quotient, rows + rest), counted, gaps)
        entry = tl.load(list_ptr + place, mask=(item < items) & (full == 0), other=0)
        return tl.where(full, quotient, entry), tl.where(is_row, rest, quotient)


@triton.jit
def row_item(
    i, first, w_ptr, c_ptr, major, minor, n_minor, w_strides, c_strides, numbers, w_min, w_max,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Both terms for a chunk of one row; once ``i`` is known, no load waits for another."""
    j = first + tl.arange(0, WIDTH)
    here = values_at(major, i, i >= 0, REAL)
    row = w_ptr + i.to(tl.int64) * w_strides[0]
    c_row = c_ptr + i.to(tl.int64) * c_strides[0]
    w = ()
    c = ()
    there = ()
    for k in tl.static_range(BLOCKS):
        at = j + k * WIDTH
        w += (tl.load(row + at.to(tl.int64) * w_strides[1], mask=at < n_minor, other=0.0),)  # type: ignore[assignment]
        if MODULATED:
            c += (tl.load(c_row + at.to(tl.int64) * c_strides[1], mask=at < n_minor, other=0.0),)  # type: ignore[assignment]
        there += (values_at(minor, at, at < n_minor, REAL),)  # type: ignore[assignment]
    for k in tl.static_range(BLOCKS):
        at = j + k * WIDTH
        old = w[k].to(REAL)
        old_c = old
        if MODULATED:
            old_c = c[k].to(REAL)
        if PRE_IS_MAJOR:
            new, new_c = UPDATED(old, old_c, here, there[k], numbers, w_min, w_max)
        else:
            new, new_c = UPDATED(old, old_c, there[k], here, numbers, w_min, w_max)
        tl.store(row + at.to(tl.int64) * w_strides[1], new.to(w_ptr.dtype.element_ty), mask=at < n_minor)
        if MODULATED:
            tl.store(c_row + at.to(tl.int64) * c_strides[1], new_c.to(c_ptr.dtype.element_ty), mask=at < n_minor)


@triton.jit
def column_item(
    group, first, w_ptr, major, minor, n_major, n_minor, w_strides, numbers, w_min, w_max,
    AFTER_MINOR: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr,
    BLOCKS: tl.constexpr, HEIGHT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The minor neurons' term for a group of columns in a block of rows; spiking rows belong to the row items."""
    j = group * GROUP + tl.arange(0, GROUP)
    there = each_at(values_at(minor, j, j < n_minor, REAL), 0)
    silent = tl.zeros([HEIGHT], REAL)
    columns = j.to(tl.int64)[None, :] * w_strides[1]
    w = ()
    mine = ()
    here = ()
    for k in tl.static_range(BLOCKS):
        i = first + k * HEIGHT + tl.arange(0, HEIGHT)
        spike = tl.load(major[0] + i, mask=i < n_major, other=1)
        mine += ((spike == 0)[:, None] & (j < n_minor)[None, :],)  # type: ignore[assignment]
        here += (each_at(values_of(silent, major, i, i < n_major, REAL), 1),)  # type: ignore[assignment]
    for k in tl.static_range(BLOCKS):
        i = first + k * HEIGHT + tl.arange(0, HEIGHT)
        address = w_ptr + i.to(tl.int64)[:, None] * w_strides[0] + columns
        w += (tl.load(address, mask=mine[k], other=0.0),)  # type: ignore[assignment]
    for k in tl.static_range(BLOCKS):
        i = first + k * HEIGHT + tl.arange(0, HEIGHT)
        address = w_ptr + i.to(tl.int64)[:, None] * w_strides[0] + columns
        old = w[k].to(REAL)
        if PRE_IS_MAJOR:
            new = AFTER_MINOR(old, here[k], there, numbers, w_min, w_max)
        else:
            new = AFTER_MINOR(old, there, here[k], numbers, w_min, w_max)
        new = tl.where(there[0] != 0, new, old)
        tl.store(address, new.to(w_ptr.dtype.element_ty), mask=mine[k])


@triton.jit(do_not_specialize=["n_major", "minor_units", "w_units", "c_units", "chunks"])
def dense_kernel(
    w_ptr, c_ptr, count_ptr, list_ptr, major, minor,
    n_major, minor_units, w_units, w_minor_stride, c_units, c_minor_stride, chunks, full_from,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    UPDATED: tl.constexpr, AFTER_MINOR: tl.constexpr, MODULATED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr,
    PRE_IS_MAJOR: tl.constexpr, UNIT: tl.constexpr, WIDE: tl.constexpr, BLOCKS: tl.constexpr, THREADS: tl.constexpr,
    MAJORS: tl.constexpr, MINORS: tl.constexpr, SEGMENT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    # a product with a constant says by what it can be divided, and keeps accesses 16 bytes wide at widths like 1000
    n_minor = minor_units * UNIT
    w_strides = (w_units.to(tl.int64) * UNIT, w_minor_stride)
    c_strides = (c_units.to(tl.int64) * UNIT, c_minor_stride)
    WIDTH: tl.constexpr = THREADS * UNIT
    HEIGHT: tl.constexpr = WIDTH // GROUP
    rows, groups, counted, gaps, full = n_major, 0, 0, 0, 1
    if not MODULATED:
        rows, groups, counted, gaps = counted_of(count_ptr, MAJORS, MINORS, SEGMENT, GROUP)
        synapses = n_major.to(tl.float32) * n_minor
        touched = rows.to(tl.float32) * n_minor + groups.to(tl.float32) * GROUP * n_major
        full = touched >= full_from * synapses
        rows = tl.where(full, n_major, rows)
        groups = tl.where(full, 0, groups)
    row_items = rows * chunks
    items = row_items + groups * tl.cdiv(n_major, BLOCKS * HEIGHT)
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    entry, part = item_at(
        program, items, row_items, rows, groups, chunks, counted, gaps, list_ptr, full, MODULATED
    )  # fmt: skip
    for item in range(program, items, programs):
        # asked for now, needed only in the next turn
        later = entry
        later_part = part
        if item + programs < items:
            later, later_part = item_at(
                item + programs, items, row_items, rows, groups, chunks, counted, gaps, list_ptr, full, MODULATED
            )  # fmt: skip
        if MODULATED or item < row_items:
            row_item(
                entry, part * WIDE * WIDTH, w_ptr, c_ptr, major, minor, n_minor, w_strides, c_strides,
                numbers, w_min, w_max, UPDATED, MODULATED, REAL, PRE_IS_MAJOR, WIDE, WIDTH,
            )  # fmt: skip
        else:
            column_item(
                entry, part * BLOCKS * HEIGHT, w_ptr, major, minor, n_major, n_minor, w_strides,
                numbers, w_min, w_max, AFTER_MINOR, REAL, PRE_IS_MAJOR, BLOCKS, HEIGHT, GROUP,
            )  # fmt: skip
        entry = later
        part = later_part


@cache
def processors(device: torch.device) -> int:
    """How many processors a device has; those of a usual GPU where it is none."""
    if device.type == "cpu":
        return USUAL_PROCESSORS
    properties: Any = torch.get_device_module(device).get_device_properties(device)
    return int(getattr(properties, "multi_processor_count", 0) or getattr(properties, "max_compute_units", 0))


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case, bound_first=False)
    real = real_type(case.dtype)
    n_signals = len(case.names.pre) + len(case.names.post)
    pre_is_major, modulated = case.layout != "post", case.modulated
    itemsize = case.dtype.itemsize
    threads = WARP * config.num_warps
    after_minor = formula.after_post if pre_is_major else formula.after_pre
    n_passed = len(case.names.numbers) - case.names.n_scalars
    settled = formula.updated, after_minor, modulated, n_passed, real, pre_is_major
    options = launch_options(case.dtype, case.device, n_signals)
    # so many are there for the programs of a wave anyway; ptxas would save some by asking for weights one by one
    usual = "maxnreg" not in options and case.device != "xpu" and torch.version.hip is None

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
        cut = Cut.of(config, itemsize, n_major, n_minor, w_strides[0], c_strides[0])
        lists = kept_with(weights, itemsize, lambda: Lists.of(n_major, n_minor, cut.group, weights.device))
        most_items = n_major * cut.chunks
        if not modulated:
            lists.fill(major[0], minor[0], n_major, n_minor)
            most_items += triton.cdiv(n_minor, cut.group) * cut.row_blocks
        programs = min(processors(weights.device) * config.waves, most_items)
        dense_kernel[(programs,)](
            weights, eligibility, lists.counts, lists.entries, major, minor,
            n_major, n_minor // cut.unit, w_strides[0] // cut.unit, w_strides[1],
            c_strides[0] // cut.unit, c_strides[1], cut.chunks, config.full_from,
            *launch_numbers(case, numbers, w_min, w_max), *settled,
            cut.unit, cut.wide, config.blocks, threads, lists.majors, lists.minors, lists.segment, cut.group,
            num_warps=config.num_warps, **options, **({"maxnreg": REGISTERS if cut.is_wide else 128} if usual else {}),
        )  # fmt: skip

    return step
