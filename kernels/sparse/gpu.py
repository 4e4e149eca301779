"""Sparse connections in Triton: a program for every neuron of either side, which leaves unless the neuron has spiked.

The program of a major neuron takes its neighbouring synapses with both terms. That of a minor neuron goes through the
plan's permutation and takes the synapses whose major neuron is silent, so each synapse has one owner. A neuron with
many synapses is served by several programs, each of one piece; which they are is settled when a plan is first used. A
modulated rule changes every synapse: there the programs of the major neurons take all.
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.device import device_formula, dopamine_arguments, launch_options, real_type, scalars, updated
from tritonstdp.kernels.formula_gpu import fp64, pack
from tritonstdp.kernels.protocol import Case, Step
from tritonstdp.topology import Sparse


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
    major_rest, minor_rest : Tensor
        ``(neuron, piece)`` of the programs beyond each neuron's first; int32 ``(n, 2)``.
    """

    major_block: int
    minor_block: int
    major_rest: Tensor
    minor_rest: Tensor


_launches: WeakKeyDictionary[Sparse, dict[Config, Launch]] = WeakKeyDictionary()


def _launch(topology: Sparse, config: Config) -> Launch:
    launches = _launches.setdefault(topology, {})
    if config not in launches:
        major, minor = topology.major_start, topology.minor_start
        launches[config] = Launch(
            _block(major, config.block),
            _block(minor, config.block),
            _rest(major, config.piece),
            _rest(minor, config.piece),
        )
    return launches[config]


def _block(starts: Tensor, most: int) -> int:
    """The largest block that leaves few lanes idle."""
    sizes = [most >> k for k in range(most.bit_length()) if most >> k >= SMALLEST_BLOCK]
    synapses = starts.diff()
    lanes = torch.stack([(synapses + size - 1).div(size, rounding_mode="floor").sum() * size for size in sizes])
    fitting = lanes <= MOST_LANES * starts[-1]
    return next((size for size, fits in zip(sizes, fitting.tolist(), strict=True) if fits), sizes[-1])


def _rest(starts: Tensor, piece: int) -> Tensor:
    beyond_first = (starts.diff() - 1).clamp(min=0).div(piece, rounding_mode="floor")
    neurons = torch.arange(len(beyond_first), device=starts.device).repeat_interleave(beyond_first)
    before = beyond_first.cumsum(0) - beyond_first
    pieces = torch.arange(len(neurons), device=starts.device) - before[neurons] + 1
    return torch.stack([neurons, pieces], 1).to(torch.int32)


@triton.jit
def piece_of(program, n, rest_ptr):
    """The neuron that a program serves, and which piece of its synapses."""
    beyond = program >= n
    entry = rest_ptr + 2 * (program - n)
    neuron = tl.where(beyond, tl.load(entry, mask=beyond, other=0), program)
    return neuron, tl.load(entry + 1, mask=beyond, other=0)


@triton.jit
def extent_of(neuron, piece, start_ptr, PIECE: tl.constexpr):
    """Where a piece of a neuron's synapses starts and ends."""
    first = tl.load(start_ptr + neuron) + piece.to(tl.int64) * PIECE
    return first, tl.minimum(first + PIECE, tl.load(start_ptr + neuron + 1))


@triton.jit
def major_program(
    program, n_major, rest_ptr, w_ptr, c_ptr, start_ptr, minor_of_ptr,
    major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, dopamine, w_min, w_max, parameters, decay,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, REAL: tl.constexpr, POST_IS_MAJOR: tl.constexpr,
    PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Both terms for a piece of one major neuron's synapses; a plain rule leaves at once where it is silent."""
    j, piece = piece_of(program, n_major, rest_ptr)
    spike = tl.load(major_spike_ptr + j).to(REAL)
    if ELIGIBILITY is not None or spike != 0:
        major_trace = tl.load(major_trace_ptr + j).to(REAL)
        first, last = extent_of(j, piece, start_ptr, PIECE)
        for start in range(first, last, BLOCK):
            k = start + tl.arange(0, BLOCK)
            inside = k < last
            i = tl.load(minor_of_ptr + k, mask=inside, other=0)
            minor_spike = tl.load(minor_spike_ptr + i, mask=inside, other=0).to(REAL)
            spiking = tl.full([BLOCK], spike, REAL) != 0
            minor_trace = tl.load(minor_trace_ptr + i, mask=inside & spiking, other=0.0).to(REAL)
            w = tl.load(w_ptr + k, mask=inside, other=0.0).to(REAL)
            c = w
            if ELIGIBILITY is not None:
                c = tl.load(c_ptr + k, mask=inside, other=0.0).to(REAL)
            if POST_IS_MAJOR:
                w, c = updated(
                    w, c, dopamine, minor_spike, minor_trace, spike, major_trace, w_min, w_max, parameters, decay,
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, False,
                )  # fmt: skip
            else:
                w, c = updated(
                    w, c, dopamine, spike, major_trace, minor_spike, minor_trace, w_min, w_max, parameters, decay,
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP, False,
                )  # fmt: skip
            tl.store(w_ptr + k, w.to(w_ptr.dtype.element_ty), mask=inside)
            if ELIGIBILITY is not None:
                tl.store(c_ptr + k, c.to(c_ptr.dtype.element_ty), mask=inside)


@triton.jit
def minor_program(
    program, n_minor, rest_ptr, w_ptr, start_ptr, by_minor_ptr, major_by_minor_ptr,
    major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, w_min, w_max, parameters,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    CLAMP: tl.constexpr, REAL: tl.constexpr, POST_IS_MAJOR: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The minor neuron's term for a piece of its synapses with silent major neurons; leaves at once where silent."""
    i, piece = piece_of(program, n_minor, rest_ptr)
    spike = tl.load(minor_spike_ptr + i).to(REAL)
    if spike != 0:
        first, last = extent_of(i, piece, start_ptr, PIECE)
        for start in range(first, last, BLOCK):
            e = start + tl.arange(0, BLOCK)
            inside = e < last
            j = tl.load(major_by_minor_ptr + e, mask=inside, other=0)
            k = tl.load(by_minor_ptr + e, mask=inside, other=0).to(tl.int64)
            # the synapses of a spiking major neuron belong to its own programs
            mine = tl.load(major_spike_ptr + j, mask=inside, other=1) == 0
            major_trace = tl.load(major_trace_ptr + j, mask=mine, other=0.0).to(REAL)
            w = tl.load(w_ptr + k, mask=mine, other=0.0).to(REAL)
            silent = tl.zeros([BLOCK], REAL)
            if POST_IS_MAJOR:
                w, _ = updated(
                    w, w, w_min, spike, silent, silent, major_trace, w_min, w_max, parameters, (),
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, None, CLAMP, False,
                )  # fmt: skip
            else:
                w, _ = updated(
                    w, w, w_min, silent, major_trace, spike, silent, w_min, w_max, parameters, (),
                    ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, None, CLAMP, False,
                )  # fmt: skip
            tl.store(w_ptr + k, w.to(w_ptr.dtype.element_ty), mask=mine)


@triton.jit
def sparse_kernel(
    w_ptr, c_ptr, major_start_ptr, minor_of_ptr, minor_start_ptr, by_minor_ptr, major_by_minor_ptr,
    major_rest_ptr, minor_rest_ptr, major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, dopamine_ptr,
    n_major, n_minor, major_programs,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, low: fp64, high: fp64, d0: fp64, d1: fp64, number: fp64,
    ON_PRE: tl.constexpr, ON_POST: tl.constexpr, CHANGE: tl.constexpr, POSITIVE: tl.constexpr, NEGATIVE: tl.constexpr,
    ELIGIBILITY: tl.constexpr, CLAMP: tl.constexpr, N_PARAMETERS: tl.constexpr, N_DECAYS: tl.constexpr,
    REAL: tl.constexpr, POST_IS_MAJOR: tl.constexpr, DOPAMINE_IS_TENSOR: tl.constexpr,
    PIECE: tl.constexpr, MAJOR_BLOCK: tl.constexpr, MINOR_BLOCK: tl.constexpr,
):  # fmt: skip
    """One step; see the module for how programs share the synapses."""
    parameters = pack(p0, p1, p2, p3, N_PARAMETERS, REAL)
    decay = pack(d0, d1, 0.0, 0.0, N_DECAYS, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    program = tl.program_id(0)
    if ELIGIBILITY is not None or program < major_programs:
        dopamine = tl.load(dopamine_ptr).to(REAL) if DOPAMINE_IS_TENSOR else tl.full([], number, REAL)
        major_program(
            program, n_major, major_rest_ptr, w_ptr, c_ptr, major_start_ptr, minor_of_ptr,
            major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr,
            dopamine, w_min, w_max, parameters, decay, ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, ELIGIBILITY, CLAMP,
            REAL, POST_IS_MAJOR, PIECE, MAJOR_BLOCK,
        )  # fmt: skip
    else:
        minor_program(
            program - major_programs, n_minor, minor_rest_ptr, w_ptr, minor_start_ptr, by_minor_ptr, major_by_minor_ptr,
            major_spike_ptr, major_trace_ptr, minor_spike_ptr, minor_trace_ptr, w_min, w_max, parameters,
            ON_PRE, ON_POST, CHANGE, POSITIVE, NEGATIVE, CLAMP, REAL, POST_IS_MAJOR, PIECE, MINOR_BLOCK,
        )  # fmt: skip


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launch for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case.formula)
    real, options = real_type(case.dtype), launch_options(case.dtype, case.device)
    post_is_major, _ = case.kernel_key
    modulated = case.formula.rule.modulated
    dopamine_is_tensor = case.dopamine != "number"

    def step(
        topology, weights, pre_spike, pre_trace, post_spike, post_trace,
        parameters, w_min, w_max, c, decay, dopamine,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        if weights.numel() == 0:
            return
        launch = _launch(topology, config)
        pre, post = (pre_spike, pre_trace), (post_spike, post_trace)
        major, minor = (post, pre) if post_is_major else (pre, post)
        pointer, number, _ = dopamine_arguments(dopamine, weights)
        major_programs = major[0].numel() + len(launch.major_rest)
        minor_programs = 0 if modulated else minor[0].numel() + len(launch.minor_rest)
        warps = max(launch.major_block, launch.minor_block) // WARP
        sparse_kernel[(major_programs + minor_programs,)](
            weights, weights if c is None else c,
            topology.major_start, topology.minor_of, topology.minor_start, topology.by_minor, topology.major_by_minor,
            launch.major_rest, launch.minor_rest, *major, *minor, pointer,
            major[0].numel(), minor[0].numel(), major_programs,
            *scalars(parameters, w_min, w_max, decay), number,
            *formula, real, post_is_major, dopamine_is_tensor, config.piece, launch.major_block, launch.minor_block,
            num_warps=max(1, min(config.num_warps, warps)), **options,
        )  # fmt: skip

    return step
