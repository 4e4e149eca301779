"""Batches over convolutions on a CPU: the sums of each sample, as one step takes them, and one move of the weights.

The samples' changes add up in their order, each tap's as often as samples have spikes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import batches, loops
from tritonstdp.kernels.batches import Config
from tritonstdp.kernels.conv2d import cpu
from tritonstdp.kernels.conv2d.cpu import changer, mover
from tritonstdp.kernels.conv2d.events import adder
from tritonstdp.kernels.conv2d.sides import sides_of, tap_of
from tritonstdp.kernels.formula_cpu import synapse_functions
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, Step

DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run, address_of = _compile(case), loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            5, run, weights.data_ptr(), 0 if c is None else c.data_ptr(), tuple(map(address_of, pre)),
            tuple(map(address_of, post)), topology.src_shape, topology.dst_shape, topology.padding,
            float(topology.weight_divisor), len(pre[0]),
        )  # fmt: skip

    return batches.step(case, place, cpu.build)


def _compile(case: Case) -> Any:
    formula = synapse_functions(case, bound_first=True)
    of_post, of_pre = sides_of(case, formula)
    add_up_post, add_up_pre = adder(case, of_post), adder(case, of_pre)
    change = changer(formula, tap_of(case, of_post), tap_of(case, of_pre))
    move, share = mover(case, formula), batches.sharing(case)
    pre_side, post_side = batches.samples_of(case)
    pres, posts = pre_side.of, post_side.of
    real, pointer, modulated = loops.REAL[case.dtype], loops.as_pointer, case.modulated
    (kh, kw), _ = case.kernel_key
    carray: Any = numba.carray

    @loops.njit_part
    def add_row(dw, w, row, potentiations, depressions, positions, state):  # type: ignore[no-untyped-def]
        for j in range(kw):
            k = row * kw + j
            dw[k] += change(w[k], row, j, potentiations, depressions, positions, state)

    def loop(
        w_address, c_address, pre_addresses, post_addresses, pre_shape, post_shape, padding, positions, samples,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        n_pre, n_post = pre_shape[0] * pre_shape[1] * pre_shape[2], post_shape[0] * post_shape[1] * post_shape[2]
        n = post_shape[0] * pre_shape[0] * kh * kw
        w = carray(pointer(w_address), n, real)
        c = carray(pointer(c_address), n if modulated else 0, real)
        state, dw = (numbers, w_min, w_max), np.zeros(n, real)
        for b in range(samples):
            pre, post = pres(pre_addresses, b, n_pre), posts(post_addresses, b, n_post)
            potentiations = add_up_post(post, post_shape, pre, pre_shape, padding, w, state)
            depressions = add_up_pre(pre, pre_shape, post, post_shape, padding, w, state)
            for row in range(n // kw):
                add_row(dw, w, row, potentiations, depressions, positions, state)
        for k in range(n):
            move(w, c, k, share(dw[k], samples), state)

    sides = pre_side.signals.addresses, post_side.signals.addresses
    shape, number = types.UniTuple(types.int64, 3), numba.from_dtype(np.dtype(real))
    geometry = shape, shape, types.UniTuple(types.int64, 2), number
    return loops.entry(loop, recipe_of(case), *[types.int64] * 2, *sides, *geometry, *batches.scalars(case))
