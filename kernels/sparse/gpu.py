"""Sparse connections in Triton: a program for every neuron of either side, which leaves unless the neuron has spiked.

The program of a major neuron takes its neighbouring synapses with both terms. That of a minor neuron goes through the
plan's permutation and takes the synapses whose major neuron is silent, so each synapse has one owner. A neuron with
many synapses is served by several programs, each of one piece; which they are is settled when a plan is first used. A
modulated rule changes every synapse: there the programs of the major neurons take all.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.blocks import device_formula, launch_numbers, launch_options, real_type, values_of
from tritonstdp.kernels.formula_gpu import fp64, numbers_of
from tritonstdp.kernels.protocol import Case, Step
from tritonstdp.kernels.sparse import is_indexed


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    block : int
        The most synapses that a program takes at once; fewer where most neurons have fewer.
    piece : int
        The most synapses that one program takes altogether.
    num_warps : int
        The most warps a program; one where a block has 32 synapses or fewer.
    """

    block: int = 256
    piece: int = 1024
    num_warps: int = 2


DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"block": (128, 256, 512), "piece": (512, 1024, 4096), "num_warps": (1, 2, 4)}
SMALLEST_BLOCK, WARP = 16, 32
MOST_LANES = 1.5
"""How many lanes may be computed for one synapse, on average over the neurons."""


class Launch(NamedTuple):
    """How one plan is cut into programs.

    Attributes
    ----------
    major_block, minor_block : int
        Synapses of a major and of a minor neuron that a program takes at once.
    major_further, minor_further : Tensor
        ``(neuron, piece)`` of the programs beyond each neuron's first; int32 ``(n, 2)``.
    """

    major_block: int
    minor_block: int
    major_further: Tensor
    minor_further: Tensor


_launches: WeakKeyDictionary[Any, dict[Config, Launch]] = WeakKeyDictionary()


def _launch(topology: Any, config: Config) -> Launch:
    launches = _launches.setdefault(topology, {})
    if config not in launches:
        major, minor = topology.major_start, topology.minor_start
        launches[config] = Launch(
            _block(major, config.block),
            _block(minor, config.block),
            _further_pieces(major, config.piece),
            _further_pieces(minor, config.piece),
        )
    return launches[config]


def _block(starts: Tensor, most: int) -> int:
    """The largest block that leaves few lanes idle."""
    sizes = [most >> k for k in range(most.bit_length()) if most >> k >= SMALLEST_BLOCK]
    synapses = starts.diff()
    lanes = torch.stack([(synapses + size - 1).div(size, rounding_mode="floor").sum() * size for size in sizes])
    fitting = lanes <= MOST_LANES * starts[-1]
    return next((size for size, fits in zip(sizes, fitting.tolist(), strict=True) if fits), sizes[-1])


def _further_pieces(starts: Tensor, piece: int) -> Tensor:
    beyond_first = (starts.diff() - 1).clamp(min=0).div(piece, rounding_mode="floor")
    neurons = torch.arange(len(beyond_first), device=starts.device).repeat_interleave(beyond_first)
    before = beyond_first.cumsum(0) - beyond_first
    pieces = torch.arange(len(neurons), device=starts.device) - before[neurons] + 1
    return torch.stack([neurons, pieces], 1).to(torch.int32)


@triton.jit
def piece_of(program, n, further_ptr):
    """The neuron that a program serves, and which piece of its synapses."""
    beyond = program >= n
    entry = further_ptr + 2 * (program - n)
    neuron = tl.where(beyond, tl.load(entry, mask=beyond, other=0), program)
    return neuron, tl.load(entry + 1, mask=beyond, other=0)


@triton.jit
def extent_of(neuron, piece, start_ptr, PIECE: tl.constexpr):
    """Where a piece of a neuron's synapses starts and ends."""
    first = tl.load(start_ptr + neuron) + piece.to(tl.int64) * PIECE
    return first, tl.minimum(first + PIECE, tl.load(start_ptr + neuron + 1))


@triton.jit
def major_program(
    program, n_major, further_ptr, w_ptr, c_ptr, start_ptr, minor_of_ptr, major, minor, numbers, w_min, w_max,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, INDEXED: tl.constexpr, REAL: tl.constexpr,
    POST_IS_MAJOR: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both terms for a piece of one major neuron's synapses; a plain rule leaves at once where it is silent."""
    j, piece = piece_of(program, n_major, further_ptr)
    spike = tl.load(major[0] + j).to(REAL)
    if MODULATED or spike != 0:
        here = values_of(spike, major, j, j >= 0, REAL)
        first, last = extent_of(j, piece, start_ptr, PIECE)
        for start in range(first, last, BLOCK):
            k = start + tl.arange(0, BLOCK)
            inside = k < last
            i = tl.load(minor_of_ptr + k, mask=inside, other=0)
            minor_spike = tl.load(minor[0] + i, mask=inside, other=0).to(REAL)
            read = inside
            if MODULATED and not INDEXED:
                # nothing else is read between silent neurons, as most are
                spiking = tl.full([BLOCK], spike, REAL) != 0
                read = inside & (spiking | (minor_spike != 0))
            there = values_of(minor_spike, minor, i, read, REAL)
            w = tl.load(w_ptr + k, mask=inside, other=0.0).to(REAL)
            c = w
            if MODULATED:
                c = tl.load(c_ptr + k, mask=inside, other=0.0).to(REAL)
            if POST_IS_MAJOR:
                w, c = UPDATED(w, c, there, here, numbers, w_min, w_max)
            else:
                w, c = UPDATED(w, c, here, there, numbers, w_min, w_max)
            tl.store(w_ptr + k, w.to(w_ptr.dtype.element_ty), mask=inside)
            if MODULATED:
                tl.store(c_ptr + k, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def minor_program(
    program, n_minor, further_ptr, w_ptr, start_ptr, by_minor_ptr, major_by_minor_ptr, major, minor,
    numbers, w_min, w_max,
    UPDATED: tl.constexpr, REAL: tl.constexpr, POST_IS_MAJOR: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The minor neuron's term for a piece of its synapses with silent major neurons; leaves at once where silent."""
    i, piece = piece_of(program, n_minor, further_ptr)
    spike = tl.load(minor[0] + i).to(REAL)
    if spike != 0:
        here = values_of(spike, minor, i, i >= 0, REAL)
        first, last = extent_of(i, piece, start_ptr, PIECE)
        for start in range(first, last, BLOCK):
            e = start + tl.arange(0, BLOCK)
            inside = e < last
            j = tl.load(major_by_minor_ptr + e, mask=inside, other=0)
            k = tl.load(by_minor_ptr + e, mask=inside, other=0).to(tl.int64)
            # the synapses of a spiking major neuron belong to its own programs
            mine = tl.load(major[0] + j, mask=inside, other=1) == 0
            there = values_of(tl.zeros([BLOCK], REAL), major, j, mine, REAL)
            w = tl.load(w_ptr + k, mask=mine, other=0.0).to(REAL)
            if POST_IS_MAJOR:
                w, _ = UPDATED(w, w, here, there, numbers, w_min, w_max)
            else:
                w, _ = UPDATED(w, w, there, here, numbers, w_min, w_max)
            tl.store(w_ptr + k, w.to(w_ptr.dtype.element_ty), mask=mine)


@triton.jit
def sparse_kernel(
    w_ptr, c_ptr, major_start_ptr, minor_of_ptr, minor_start_ptr, by_minor_ptr, major_by_minor_ptr,
    major_further_ptr, minor_further_ptr, major, minor, n_major, n_minor, major_programs,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    UPDATED: tl.constexpr, MODULATED: tl.constexpr, INDEXED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr,
    POST_IS_MAJOR: tl.constexpr, PIECE: tl.constexpr, MAJOR_BLOCK: tl.constexpr, MINOR_BLOCK: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    program = tl.program_id(0)
    if MODULATED or program < major_programs:
        major_program(
            program, n_major, major_further_ptr, w_ptr, c_ptr, major_start_ptr, minor_of_ptr, major, minor,
            numbers, w_min, w_max, UPDATED, MODULATED, INDEXED, REAL, POST_IS_MAJOR, PIECE, MAJOR_BLOCK,
        )  # fmt: skip
    else:
        minor_program(
            program - major_programs, n_minor, minor_further_ptr, w_ptr, minor_start_ptr, by_minor_ptr,
            major_by_minor_ptr, major, minor, numbers, w_min, w_max, UPDATED, REAL, POST_IS_MAJOR, PIECE, MINOR_BLOCK,
        )  # fmt: skip


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    updated = device_formula(case, bound_first=False).updated
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    post_is_major, _ = case.kernel_key
    modulated, n_numbers = case.modulated, len(case.names.numbers) - case.names.n_scalars
    settled = updated, modulated, is_indexed(case), n_numbers, real, post_is_major, config.piece

    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        if weights.numel() == 0:
            return
        launch = _launch(topology, config)
        major, minor = (tuple(post), tuple(pre)) if post_is_major else (tuple(pre), tuple(post))
        n_major, n_minor = major[0].numel(), minor[0].numel()
        major_programs = n_major + len(launch.major_further)
        minor_programs = 0 if modulated else n_minor + len(launch.minor_further)
        warps = max(launch.major_block, launch.minor_block) // WARP
        sparse_kernel[(major_programs + minor_programs,)](
            weights, weights if c is None else c,
            topology.major_start, topology.minor_of, topology.minor_start, topology.by_minor, topology.major_by_minor,
            launch.major_further, launch.minor_further, major, minor, n_major, n_minor, major_programs,
            *launch_numbers(case, numbers, w_min, w_max), *settled, launch.major_block, launch.minor_block,
            num_warps=max(1, min(config.num_warps, warps)), **options,
        )  # fmt: skip

    return step
