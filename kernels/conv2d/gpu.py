"""Convolutions in Triton: one launch lists who spiked, map by map; in a second, weights meet the events of their maps.

A thread belongs to a weight, and goes through the events of its pre map and of its post map
(:mod:`tritonstdp.kernels.event_lists`) side by side, with several of each in flight: nothing is read where nobody has
spiked. Where maps are large and weights few, lanes of a program share a weight's events. Each adds up its own in
registers, and then lanes are added, in an order that sizes alone decide; the sums move the weight at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from tritonstdp.kernels.batches_gpu import of_sample
from tritonstdp.kernels.blocks import device_formula, launch_options, real_type, spiking_at, values_at
from tritonstdp.kernels.event_lists import Listing, listed_step
from tritonstdp.kernels.formula_gpu import fp64, numbers_of, quotient
from tritonstdp.kernels.launch import Launch
from tritonstdp.kernels.protocol import Case, Step


class Config(NamedTuple):
    """How the work is cut into programs.

    Attributes
    ----------
    share : int
        Neurons of a map for each event in flight.
    events : int
        Events of either side that a lane has in flight, at most.
    num_warps : int
        Warps a program.
    """

    share: int = 16
    events: int = 4
    num_warps: int = 4

    def at_once(self, synapses: int, sizes: tuple[int, int]) -> tuple[int, int]:
        """How many lanes share a weight's events, and how many events each has in flight; powers of 2."""
        lanes, flight = MOST_THREADS // synapses, triton.cdiv(max(sizes), self.share)
        lanes, flight = (1 << (max(1, n).bit_length() - 1) for n in (lanes, flight))
        events = min(flight, self.events)
        return min(lanes, flight // events, WARP * self.num_warps), events


WARP = 32
MOST_THREADS = 2**18
"""About as many as a GPU holds at once: so many weights have a lane each."""
DEFAULT = Config()
SPACE: dict[str, tuple[int, ...]] = {"share": (8, 16, 32), "events": (2, 4), "num_warps": (1, 2, 4)}


@triton.jit
def met(event, width, top, left, rows, columns, SH: tl.constexpr, SW: tl.constexpr, IS_POST: tl.constexpr):
    """Whom an event of a map meets at a tap: the place in the other map, and whether there is one."""
    # a division is shorter where no sign can be
    r = (event.to(tl.uint32) // width.to(tl.uint32)).to(tl.int32)
    q = event - r * width
    if IS_POST:
        row, column, there = r * SH + top, q * SW + left, True
    else:
        row, column = (r - top) // SH, (q - left) // SW
        there = (row * SH == r - top) & (column * SW == q - left)
    there &= (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    return row * columns + column, there


@triton.jit(do_not_specialize=["height", "width", "out_height", "out_width", "pad_h", "pad_w"])
def conv2d_kernel(
    w_ptr, c_ptr, lists, pre, post,
    p0: fp64, p1: fp64, p2: fp64, p3: fp64, p4: fp64, p5: fp64, p6: fp64, p7: fp64, p8: fp64, p9: fp64, p10: fp64,
    p11: fp64, scalars, low: fp64, high: fp64,
    total, c_in, height, width, out_height, out_width, pad_h, pad_w, divisor: fp64,
    SAMPLES: tl.constexpr, PRE_TERM: tl.constexpr, POST_TERM: tl.constexpr, CHANGED: tl.constexpr, MOVED: tl.constexpr,
    MODULATED: tl.constexpr, N: tl.constexpr, REAL: tl.constexpr, PRE_OWN: tl.constexpr, POST_OWN: tl.constexpr,
    MEAN: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
    PRE_PARTS: tl.constexpr, POST_PARTS: tl.constexpr, PRE_SLOT: tl.constexpr, POST_SLOT: tl.constexpr,
    EVENTS: tl.constexpr, TAPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Sum what the events of a weight's two maps contribute, and update the weight by it."""
    numbers = numbers_of(p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10, p11, scalars, N, REAL)
    w_min = tl.full([], low, REAL)
    w_max = tl.full([], high, REAL)
    first = tl.program_id(0).to(tl.int64) * TAPS
    synapse = first + tl.arange(0, TAPS)
    w = tl.load(w_ptr + synapse, mask=synapse < total, other=0.0).to(REAL)
    c = w
    if MODULATED:
        c = tl.load(c_ptr + synapse, mask=synapse < total, other=0.0).to(REAL)
    thread = tl.arange(0, TAPS * LANES)
    lane = thread % LANES
    tap = (first % (KH * KW)).to(tl.int32) + thread // LANES
    pair = (first // (KH * KW)).to(tl.int32) + tap // (KH * KW)
    top = tap // KW % KH - pad_h
    left = tap % KW - pad_w
    o = pair // c_in
    source = pair - o * c_in
    inside = pair < total // (KH * KW)
    mine = tl.broadcast_to(w[:, None], [TAPS, LANES]).reshape([TAPS * LANES])
    pre_map = source * height * width
    post_map = o * out_height * out_width
    pres_ptr, pre_list_ptr = lists[0]
    posts_ptr, post_list_ptr = lists[1]
    c_out = total // (KH * KW) // c_in
    dw = tl.zeros([TAPS], REAL)
    for sample in range(max(SAMPLES, 1)):
        sampled_pre = of_sample(pre, sample, c_in * height * width, PRE_OWN)
        sampled_post = of_sample(post, sample, c_out * out_height * out_width, POST_OWN)
        potentiation = tl.zeros([TAPS * LANES], REAL)
        depression = tl.zeros([TAPS * LANES], REAL)
        for part in range(max(PRE_PARTS, POST_PARTS)):
            of_pre = (sample * c_in + source) * PRE_PARTS + part
            of_post = (sample * c_out + o) * POST_PARTS + part
            n_pre = tl.load(pres_ptr + of_pre, mask=inside & (part < PRE_PARTS), other=0)
            n_post = tl.load(posts_ptr + of_post, mask=inside & (part < POST_PARTS), other=0)
            for start in range(0, tl.max(tl.maximum(n_pre, n_post)), EVENTS * LANES):
                pres = ()
                posts = ()
                of_pres = ()
                of_posts = ()
                for k in tl.static_range(EVENTS):
                    rank = start + k * LANES + lane
                    pres += (tl.load(pre_list_ptr + of_pre * PRE_SLOT + rank, mask=rank < n_pre, other=0),)  # type: ignore[assignment]
                    posts += (tl.load(post_list_ptr + of_post * POST_SLOT + rank, mask=rank < n_post, other=0),)  # type: ignore[assignment]
                for k in tl.static_range(EVENTS):
                    rank = start + k * LANES + lane
                    at, there = met(pres[k], width, top, left, out_height, out_width, SH, SW, False)
                    there &= rank < n_pre
                    spiking = spiking_at(sampled_pre, pre_map + pres[k], there, REAL)
                    of_pres += ((spiking, values_at(sampled_post, post_map + at, there, REAL), there),)  # type: ignore[assignment]
                    at, there = met(posts[k], out_width, top, left, height, width, SH, SW, True)
                    spiking = spiking_at(sampled_post, post_map + posts[k], rank < n_post, REAL)
                    there &= rank < n_post
                    of_posts += ((values_at(sampled_pre, pre_map + at, there, REAL), spiking, rank < n_post),)  # type: ignore[assignment]
                for k in tl.static_range(EVENTS):
                    term = PRE_TERM(of_pres[k][0], of_pres[k][1], numbers, mine, w_min, w_max)
                    depression += tl.where(of_pres[k][2], term, 0.0)
                    term = POST_TERM(of_posts[k][0], of_posts[k][1], numbers, mine, w_min, w_max)
                    potentiation += tl.where(of_posts[k][2], term, 0.0)
        potentiation = tl.sum(potentiation.reshape([TAPS, LANES]), axis=1)
        depression = tl.sum(depression.reshape([TAPS, LANES]), axis=1)
        change = CHANGED(w, potentiation, depression, True, True, (), (), numbers, w_min, w_max)
        change = quotient(change, tl.full([], divisor, REAL))
        if SAMPLES:
            change += dw
        dw = change
    if MEAN:
        dw = quotient(dw, tl.full([], SAMPLES, REAL))
    w, c = MOVED(w, dw, c, (), (), numbers, w_min, w_max)
    tl.store(w_ptr + synapse, w.to(w_ptr.dtype.element_ty), mask=synapse < total)
    if MODULATED:
        tl.store(c_ptr + synapse, c.to(c_ptr.dtype.element_ty), mask=synapse < total)


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Prepare the launches for one case; raises ``CannotCompileError`` where Triton can't take the formula."""
    formula = device_formula(case, bound_first=True)
    # where a sample's signals lie takes registers, as a further signal does
    n_signals = len(case.names.pre) + len(case.names.post) + (case.reduction != "")
    options = launch_options(case.dtype, case.device, n_signals)
    kernel_size, stride = case.kernel_key
    settled = (
        formula.pre_term, formula.post_term, formula.changed, formula.moved, case.modulated,
        len(case.names.numbers) - case.names.n_scalars, real_type(case.dtype),
        len(case.formula.rule.pre), len(case.formula.rule.post), case.reduction == "mean", *kernel_size, *stride,
    )  # fmt: skip

    def launches(topology: Any, weights: Tensor, eligibility: Tensor, samples: int) -> Any:
        (c_in, *in_size), (c_out, *out_size) = topology.src_shape, topology.dst_shape
        sizes, total = (in_size[0] * in_size[1], topology.positions), weights.numel()
        maps = max(samples, 1)
        listings = Listing.of_maps(maps * c_in, sizes[0]), Listing.of_maps(maps * c_out, sizes[1])
        lanes, events = config.at_once(total, sizes)
        taps = WARP * config.num_warps // lanes
        shape = total, c_in, *in_size, *out_size, *topology.padding, float(topology.weight_divisor), samples
        cut = *(one.parts for one in listings), *(one.segment for one in listings), events, taps, lanes
        update = Launch(
            conv2d_kernel, triton.cdiv(total, taps), weights.device, (*shape, *settled, *cut),
            num_warps=config.num_warps, **options,
        )  # fmt: skip
        return listings, update

    return listed_step(case, launches)
