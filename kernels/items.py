"""A step in Triton as items of work that a fixed number of programs share: dense, sparse and local2d connections.

Weights lie along one side (*major*: the neurons whose synapses are neighbours in memory); *minor* is the other side.
One launch lists who spiked (:mod:`tritonstdp.kernels.event_lists`). The other's programs read the counts and stride
over items of equal size: a part of the synapses of some spiking major neurons (*rows*), with both terms; or a part of
those of some spiking minor neurons (*columns*) whose major neuron is silent. So each synapse has one owner.

Where so many are touched that a pass over all is cheaper, items are parts of all rows, of which only what a spike
reaches moves. They always are where a rule is modulated, which changes every synapse, and in groups so small that to
list who spiked takes longer: then the pass is the only launch.

Of a batch, the same items are those of who spiked in any sample (:mod:`tritonstdp.kernels.batches_gpu`).

A topology says where the synapses of a row and of a column lie, by two device functions. An item's weights are all
asked for before the first is used, in blocks of at most 16 bytes a thread: more at once would go through shared memory.
The grid never depends on what spiked, so that a graph can be captured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from tritonstdp.kernels.batches_gpu import Samples, packed_step, sampled_column, sampled_row
from tritonstdp.kernels.blocks import (
    device_formula,
    each_at,
    launch_options,
    real_type,
    values_at,
    values_of,
)
from tritonstdp.kernels.event_lists import Listing, counted_of, entry_of, listed_step, part_of, place_of
from tritonstdp.kernels.formula_gpu import fp64, numbers_of
from tritonstdp.kernels.launch import WIDEST_BYTES, Launch
from tritonstdp.kernels.protocol import Case, Step

SECTOR_BYTES, WARP = 32, 32
REGISTERS = 80
"""Of a thread, of which six programs of four warps have a processor's; with fewer, accesses wait for each other."""
MOST_BLOCKS = 4
"""Which these are enough for."""
USUAL_PROCESSORS = 132
"""Of an H100: where no GPU is."""
interpreted_processors = 2
"""In Triton's interpreter, which runs one program after the other."""
FEWEST_LISTED = 2**23
"""Where a pass over all synapses moves fewer bytes, it takes less time than to list who spiked, on an H200 at 2 %."""


def fewest_listed(device: torch.device) -> int:
    """From how many bytes on it is listed who spiked; always where no GPU is, to try what serves large groups."""
    return 0 if device.type == "cpu" else FEWEST_LISTED


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


class Cut(NamedTuple):
    """How a group's synapses are cut into items.

    Attributes
    ----------
    n_major, n_minor : int
        Neurons, and the further parts of those whose synapses are too many for one item.
    row_parts, column_parts : int
        Items of a spiking major neuron, and of a spiking minor neuron.
    sizes, plan : tuple
        What the topology's device functions take: sizes, behind the numbers of neurons; and addresses, strides and
        constants.
    unit : int
        Elements of the widest access; it divides the number of minor neurons.
    tall : int
        Rows that an item takes a part of: more than one only where the k-th synapses of all rows have the same minor
        neurons, of which they then share what they read.
    wide : int
        Blocks of each row that an item takes.
    high : int or None
        Blocks of a column that an item takes; the configuration's where None.
    height : int
        Synapses of such a block for each minor neuron.
    further : tuple of Tensor or None
        Those parts, of either side: see :class:`tritonstdp.kernels.event_lists.Listing`.
    at_once : int
        Columns that an item takes, a lane each: more than one where neighbouring ones share memory sectors.
    index_bytes : int
        What a row reads beside each weight, to know its minor neuron.
    """

    n_major: int
    n_minor: int
    row_parts: int
    column_parts: int
    sizes: tuple[Any, ...] = ()
    plan: tuple[Any, ...] = ()
    unit: int = 1
    tall: int = 1
    wide: int = 1
    high: int | None = None
    height: int = 1
    further: tuple[Tensor | None, Tensor | None] = (None, None)
    at_once: int = 1
    index_bytes: int = 0


@triton.jit
def reached(spiked, spikes, UNIT: tl.constexpr):
    """Which synapses of a row a spike reaches, or shares an access with one that it reaches."""
    found = tl.where(spiked, True, spikes != 0)
    if UNIT > 1:  # each access has one predicate
        units = tl.max(found.to(tl.int32).reshape([found.shape[0] // UNIT, UNIT]), axis=1, keep_dims=True)
        together = tl.broadcast_to(units, [found.shape[0] // UNIT, UNIT]).reshape([found.shape[0]])
        found = tl.max_constancy(together != 0, UNIT)
    return found


@triton.jit
def once_all_are_there(first, values, zero, REAL: tl.constexpr):
    """The first of some values, made of all, of which the others change nothing."""
    BITS: tl.constexpr = tl.int64 if tl.float64 == REAL else tl.int32
    late = tl.zeros_like(first).to(BITS, bitcast=True)
    for k in tl.static_range(1, len(values)):
        late ^= values[k].to(REAL).to(BITS, bitcast=True)
    return (first.to(BITS, bitcast=True) | (late & zero)).to(REAL, bitcast=True)


@triton.jit
def row_item(
    rank, rows, part, listed, w_ptr, c_ptr, major, minor, major_neurons, minor_neurons, further_ptr, sizes, plan,
    numbers, w_min, w_max,
    ROW_AT: tl.constexpr, UPDATED: tl.constexpr, AFTER_MINOR: tl.constexpr, MODULATED: tl.constexpr, REAL: tl.constexpr,
    PRE_IS_MAJOR: tl.constexpr, SPARING: tl.constexpr, TALL: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr,
    UNIT: tl.constexpr, EAGER: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """Both terms for a part of some rows; weights wait for spikes unless they are asked for eagerly."""
    here = ()  # type: Any
    places = ()  # type: Any
    w = ()  # type: Any
    c = ()
    mine = ()
    spiked = ()
    spikes = ()
    there = ()
    for r in tl.static_range(TALL):
        exists = rank + r < rows
        entry, may_be_silent = entry_of(rank + r, exists, listed)
        i, further = part_of(entry, exists, major_neurons, further_ptr)
        here += (values_at(major, i, exists, REAL),)
        if not MODULATED:  # weights wait for no spike of who is listed
            spiked += (tl.load(major[0] + i, mask=exists & may_be_silent, other=1) != 0,)  # type: ignore[assignment]
        for k in tl.static_range(BLOCKS):
            first = ((part + further) * BLOCKS + k) * WIDTH
            at, c_at, inside, j, seen = ROW_AT(i, first + tl.arange(0, WIDTH), sizes, plan)
            if TALL > 1:
                inside = tl.where(exists, inside, False)
            places += ((at, c_at, inside, j, seen),)  # type: ignore[assignment]
    for k in tl.static_range(BLOCKS):
        _, _, _, j, seen = places[k]
        spikes += (tl.load(minor[0] + j, mask=seen, other=0).to(REAL),)  # type: ignore[assignment]
    for k in tl.static_range(TALL * BLOCKS):
        at, c_at, inside, _, _ = places[k]
        changing = inside
        if not MODULATED:
            changing = inside & reached(spiked[k // BLOCKS], spikes[k % BLOCKS], UNIT)
        mine += (changing,)  # type: ignore[assignment]
        w += (tl.load(w_ptr + at, mask=inside if EAGER else changing, other=0.0),)
        if MODULATED:
            c += (tl.load(c_ptr + c_at, mask=inside, other=0.0),)  # type: ignore[assignment]
    for k in tl.static_range(BLOCKS):
        _, _, _, j, seen = places[k]
        if SPARING:
            # nothing else is read between silent neurons, as most are
            seen = seen & tl.where(here[0][0] != 0, True, spikes[k] != 0)
        there += (values_of(spikes[k], minor, j, seen, REAL),)  # type: ignore[assignment]
    for k in tl.static_range(TALL * BLOCKS):
        at, c_at, _, _, _ = places[k]
        old = w[k].to(REAL)
        if TALL > 1 and k == 0:
            # ptxas would ask for a row's weights when it is done with the row before, and can't know
            # that the number of rows is not negative
            old = once_all_are_there(old, w, rows >> 31, REAL)
        old_c = old
        if MODULATED:
            old_c = c[k].to(REAL)
        if PRE_IS_MAJOR:
            new, new_c = UPDATED(old, old_c, here[k // BLOCKS], there[k % BLOCKS], numbers, w_min, w_max)
        else:
            new, new_c = UPDATED(old, old_c, there[k % BLOCKS], here[k // BLOCKS], numbers, w_min, w_max)
        tl.store(w_ptr + at, new.to(w_ptr.dtype.element_ty), mask=mine[k])
        if MODULATED:
            tl.store(c_ptr + c_at, new_c.to(c_ptr.dtype.element_ty), mask=mine[k])


@triton.jit
def column_item(
    entries_ptr, part, w_ptr, major, minor, major_neurons, minor_neurons, further_ptr, sizes, plan, numbers, w_min,
    w_max,
    COLUMN_AT: tl.constexpr, UPDATED: tl.constexpr, AFTER_MINOR: tl.constexpr, REAL: tl.constexpr,
    PRE_IS_MAJOR: tl.constexpr, BLOCKS: tl.constexpr, HEIGHT: tl.constexpr, AT_ONCE: tl.constexpr,
    SAMPLES: tl.constexpr,
):  # fmt: skip
    """The minor neurons' term for a part of one column, or of as many columns as there are lanes.

    What spiking major neurons have belongs to the row items.
    """
    if AT_ONCE > 1:
        j = tl.load(entries_ptr + tl.arange(0, AT_ONCE))
        listed, further = j >= 0, 0
        there = each_at(values_at(minor, j, listed, REAL), 0)
    else:
        entry = tl.load(entries_ptr)
        j, further = part_of(entry, entry >= 0, minor_neurons, further_ptr)
        there = values_at(minor, j, j >= 0, REAL)
    silent = tl.zeros([HEIGHT], REAL)
    places = ()  # type: Any
    mine = ()
    here = ()
    w = ()  # type: Any
    for k in tl.static_range(BLOCKS):
        first = ((part + further) * BLOCKS + k) * HEIGHT
        places += (COLUMN_AT(j, first + tl.arange(0, HEIGHT), sizes, plan),)
    for k in tl.static_range(BLOCKS):
        i, exists, _ = places[k]
        owned = tl.load(major[0] + i, mask=exists, other=1) == 0
        values = values_of(silent, major, i, exists, REAL)
        if AT_ONCE > 1:
            owned = owned[:, None] & listed[None, :]
            values = each_at(values, 1)
        mine += (owned,)  # type: ignore[assignment]
        here += (values,)  # type: ignore[assignment]
    for k in tl.static_range(BLOCKS):
        w += (tl.load(w_ptr + places[k][2], mask=mine[k], other=0.0),)
    for k in tl.static_range(BLOCKS):
        old = w[k].to(REAL)
        if PRE_IS_MAJOR:
            new = AFTER_MINOR(old, here[k], there, numbers, w_min, w_max)
        else:
            new = AFTER_MINOR(old, there, here[k], numbers, w_min, w_max)
        tl.store(w_ptr + places[k][2], new.to(w_ptr.dtype.element_ty), mask=mine[k])


@triton.jit(do_not_specialize=["n_major", "minor_units", "row_parts", "column_parts", "major_neurons", "minor_neurons"])
def items_kernel(
    w_ptr, c_ptr, lists, major, minor,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    n_major, minor_units, row_parts, column_parts, full_work,
    major_neurons, minor_neurons, major_further_ptr, minor_further_ptr, sizes, plan,
    ROW_ITEM: tl.constexpr, COLUMN_ITEM: tl.constexpr, ROW_AT: tl.constexpr, COLUMN_AT: tl.constexpr,
    FORMULA: tl.constexpr, OTHER_FORMULA: tl.constexpr, MODULATED: tl.constexpr, SPARING: tl.constexpr,
    N: tl.constexpr, REAL: tl.constexpr, PRE_IS_MAJOR: tl.constexpr, SAMPLES: tl.constexpr, UNIT: tl.constexpr,
    EAGER: tl.constexpr, WHOLE: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr, HEIGHT: tl.constexpr, AT_ONCE: tl.constexpr, SECTOR: tl.constexpr, CUTS: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses.

    Items take the formula as it is for one sample (``updated`` and what it is after a minor neuron's spike), or for a
    batch (``delta`` and ``moved``).
    """
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    # a product with a constant says by what it can be divided, and keeps accesses 16 bytes wide at widths like 1000
    n_minor = minor_units * UNIT
    sizes = (n_major, n_minor) + sizes  # noqa: RUF005
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    rows, chunks = n_major, 0
    listed = ()  # type: Any
    if len(lists) > 0:
        majors_ptr, major_list_ptr = lists[0]
        minors_ptr, minor_list_ptr = lists[1]
        MAJORS: tl.constexpr = CUTS[0][0]
        SLOT: tl.constexpr = CUTS[0][1]
        spiking, columns, chunks, counted, gaps = counted_of(
            majors_ptr, minors_ptr, MAJORS, CUTS[1][0], SLOT, CUTS[1][1], AT_ONCE
        )
        touched = tl.minimum(columns.to(tl.float32) * SECTOR, n_minor) * n_major
        full = spiking.to(tl.float32) * n_minor + touched >= full_work
        rows, chunks = tl.where(full, n_major, spiking), tl.where(full, 0, chunks)
        listed = full, counted, gaps, major_list_ptr
    row_items = tl.cdiv(rows, TALL) * row_parts
    for item in range(program, row_items, programs):
        tile, part = tl.cast(item, tl.int32), 0  # a number in the interpreter
        if not WHOLE:
            tile = tile // row_parts
            part = item - tile * row_parts
        ROW_ITEM(
            tile * TALL, rows, part, listed, w_ptr, c_ptr, major, minor, major_neurons, minor_neurons,
            major_further_ptr, sizes, plan, numbers, w_min, w_max, ROW_AT, FORMULA, OTHER_FORMULA,
            MODULATED, REAL, PRE_IS_MAJOR, SPARING, TALL, WIDE, WIDTH, UNIT, EAGER, SAMPLES,
        )  # fmt: skip
    if len(lists) > 0:
        # who runs out of rows goes on with columns; neighbours take one part of different ones
        first = (program + programs - row_items % programs) % programs
        for item in range(first, chunks * column_parts, programs):
            part = tl.cast(item, tl.int32) // chunks
            place = place_of(rows + item - part * chunks, counted, gaps) - MAJORS * SLOT
            COLUMN_ITEM(
                minor_list_ptr + place * AT_ONCE, part, w_ptr, major, minor, major_neurons, minor_neurons,
                minor_further_ptr, sizes, plan, numbers, w_min, w_max, COLUMN_AT, FORMULA, OTHER_FORMULA, REAL,
                PRE_IS_MAJOR, BLOCKS, HEIGHT, AT_ONCE, SAMPLES,
            )  # fmt: skip


def processors(device: torch.device) -> int:
    """How many processors a device has; where it is none, those of a usual GPU, or few for an interpreter."""
    if device.type == "cpu":
        return interpreted_processors if knobs.runtime.interpret else USUAL_PROCESSORS
    return _processors(device)


@cache
def _processors(device: torch.device) -> int:
    properties: Any = torch.get_device_module(device).get_device_properties(device)
    return int(getattr(properties, "multi_processor_count", 0) or getattr(properties, "max_compute_units", 0))


Cutting = Callable[[Any, Config, Tensor, Tensor], Cut]
"""How a topology's synapses are cut: of the topology, the configuration, the weights and the eligibility."""


def build_items(
    case: Case, config: Config, pre_is_major: bool, cut_of: Cutting, row_at: Any, column_at: Any,
    bound_first: bool = False, sparing: bool = False,
) -> Step:  # fmt: skip
    """Prepare the launches for one case.

    Parameters
    ----------
    case : Case
        The case.
    config : Config
        How to cut the work.
    pre_is_major : bool
        Whether the synapses of a pre neuron are neighbours in memory.
    cut_of : callable
        Cuts a group's synapses.
    row_at : device function
        ``row_at(i, k, sizes, plan)``: of the k-th synapses of a major neuron's row, the places of their weights and of
        their eligibilities, whether they exist, their minor neurons, and whether these exist.
    column_at : device function
        ``column_at(j, k, sizes, plan)``: of the k-th synapses of a minor neuron, their major neurons, whether they
        exist, and the places of their weights.
    bound_first : bool
        Whether bounds multiply the terms or their sum.
    sparing : bool
        Whether a modulated rule should not read signals between silent neurons, which it does not need.

    Returns
    -------
    callable
        The step.

    Raises
    ------
    CannotCompileError
        Where Triton can't take the formula.
    """
    formula = device_formula(case, bound_first)
    real, modulated = real_type(case.dtype), case.modulated
    after_minor = formula.after_post if pre_is_major else formula.after_pre
    n_passed = len(case.names.numbers) - case.names.n_scalars
    items: Any = row_item, column_item, row_at, column_at, formula.updated, after_minor
    if case.reduction:
        items = sampled_row, sampled_column, row_at, column_at, formula.delta, formula.moved
    settled = *items, modulated, sparing, n_passed, real, pre_is_major
    options = launch_options(case.dtype, case.device, len(case.names.pre) + len(case.names.post))
    # so many are there for the programs of a wave anyway; ptxas would save some by asking for weights one by one
    limited = "maxnreg" not in options and case.device != "xpu" and torch.version.hip is None
    threads = WARP * config.num_warps

    def launches(topology: Any, weights: Tensor, eligibility: Tensor, samples: int) -> Any:
        cut = cut_of(topology, config, weights, eligibility)
        listings = [Listing.of(cut.n_major, cut.further[0]), Listing.of(cut.n_minor, cut.further[1])]
        pass_bytes = weights.numel() * (2 * weights.itemsize + cut.index_bytes)
        if modulated or (not samples and pass_bytes < fewest_listed(weights.device)):
            listings = []
        (n_pre,), (n_post,) = topology.pre_shape, topology.post_shape
        neurons = (n_pre, n_post) if pre_is_major else (n_post, n_pre)
        tall, wide, width = cut.tall, cut.wide, threads * cut.unit
        high, height, at_once = cut.high or config.blocks, cut.height, cut.at_once
        if samples:  # a weight a lane: the fewer go through samples together, the less they wait for each other
            tall, wide, width, at_once = 1, wide * cut.unit, threads, 1
            high, height = high * height // min(threads, high * height), min(threads, high * height)
        # weights wait for spikes where many rows share these, but not in groups so small that waiting is all they do
        is_eager = not listings or cut.tall == 1
        # what depends on the place in a row is found once for all of them, unless it takes registers of several rows
        is_whole = cut.row_parts == cut.tall == 1
        most_items = triton.cdiv(cut.n_major, tall) * cut.row_parts
        if listings:
            most_items += triton.cdiv(cut.n_minor, at_once) * cut.column_parts
        is_wide = cut.unit * case.dtype.itemsize == WIDEST_BYTES and config.blocks <= MOST_BLOCKS and not samples
        update = Launch(
            items_kernel, min(processors(weights.device) * config.waves, most_items), weights.device,
            (
                cut.n_major, cut.n_minor // cut.unit, cut.row_parts, cut.column_parts,
                config.full_from * cut.n_major * cut.n_minor,
                *neurons, *cut.further, cut.sizes, cut.plan, *settled, Samples.of(case, samples, pre_is_major, neurons),
                cut.unit, is_eager, is_whole, tall, wide, high, width, height, at_once,
                SECTOR_BYTES // case.dtype.itemsize if cut.at_once > 1 else 1,
                tuple([(listing.segments, listing.segment) for listing in listings]),
            ),
            num_warps=config.num_warps, **options, **({"maxnreg": REGISTERS if is_wide else 128} if limited else {}),
        )  # fmt: skip
        return listings, update

    step = listed_step(case, launches, pre_is_major)
    return packed_step(step) if case.reduction else step
