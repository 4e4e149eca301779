"""Convolutions on a CPU: for every spike, add what it contributes at the neurons that it meets to the taps' sums.

See :mod:`tritonstdp.kernels.conv2d.events` for the sums. Here, the weights of the taps move by them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types

from tritonstdp.kernels import loops
from tritonstdp.kernels.conv2d.events import adder
from tritonstdp.kernels.conv2d.sides import sides_of, tap_of
from tritonstdp.kernels.formula_cpu import synapse_functions
from tritonstdp.kernels.object_cache import recipe_of
from tritonstdp.kernels.protocol import Case, PlacedStep, Step


class Config(NamedTuple):
    """Nothing to choose: the work is proportional to the spikes."""


DEFAULT = Config()
SPACE: dict[str, tuple[float, ...]] = {}


def build(case: Case, config: Config = DEFAULT) -> Step:
    """Compile the step for one case; raises ``CannotCompileError`` where numba can't."""
    run, address_of = _compile(case), loops.address_of

    def place(topology, weights, c, pre, post, *_):  # type: ignore[no-untyped-def]
        return loops.placed_step(
            5, run, weights.data_ptr(), 0 if c is None else c.data_ptr(), tuple(map(address_of, pre)),
            tuple(map(address_of, post)), topology.src_shape, topology.dst_shape, topology.padding,
            float(topology.weight_divisor),
        )  # fmt: skip

    return PlacedStep(place)


def _compile(case: Case) -> Any:
    formula = synapse_functions(case, bound_first=True)
    of_post, of_pre = sides_of(case, formula)
    add_up_post, add_up_pre = adder(case, of_post), adder(case, of_pre)
    move_row = _row_mover(case, formula, tap_of(case, of_post), tap_of(case, of_pre))
    pre_arrays, post_arrays = of_pre.own.arrays, of_post.own.arrays
    real, pointer, modulated = loops.REAL[case.dtype], loops.as_pointer, case.modulated
    (kh, kw), _ = case.kernel_key
    carray: Any = numba.carray

    def loop(
        w_address, c_address, pre_addresses, post_addresses, pre_shape, post_shape, padding, divisor,
        numbers, w_min, w_max,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        pre = pre_arrays(pre_addresses, pre_shape[0] * pre_shape[1] * pre_shape[2])
        post = post_arrays(post_addresses, post_shape[0] * post_shape[1] * post_shape[2])
        n = post_shape[0] * pre_shape[0] * kh * kw
        w = carray(pointer(w_address), n, real)
        c = carray(pointer(c_address), n if modulated else 0, real)
        state = numbers, w_min, w_max
        potentiations = add_up_post(post, post_shape, pre, pre_shape, padding, w, state)
        depressions = add_up_pre(pre, pre_shape, post, post_shape, padding, w, state)
        for row in range(n // kw):
            move_row(w, c, row, potentiations, depressions, divisor, state)

    sides = of_pre.own.addresses, of_post.own.addresses
    shape = types.UniTuple(types.int64, 3)
    geometry = shape, shape, types.UniTuple(types.int64, 2), numba.from_dtype(np.dtype(real))
    return loops.entry(loop, recipe_of(case), *[types.int64] * 2, *sides, *geometry, *loops.scalars(case))


def _row_mover(case: Case, formula: Any, post_tap: Any, pre_tap: Any) -> Any:
    """``move_row(w, c, row, potentiations, depressions, divisor, state)``, compiled: move a row of a kernel's taps."""
    change, move, kw = changer(formula, post_tap, pre_tap), mover(case, formula), case.kernel_key[0][1]

    @loops.njit_part
    def move_row(w, c, row, potentiations, depressions, divisor, state):  # type: ignore[no-untyped-def]
        for j in range(kw):
            k = row * kw + j
            move(w, c, k, change(w[k], row, j, potentiations, depressions, divisor, state), state)

    return move_row


def changer(formula: Any, post_tap: Any, pre_tap: Any) -> Any:
    """``change(w, row, j, potentiations, depressions, divisor, state)``, compiled: how sums change a weight."""
    changed = formula.changed

    @loops.njit_part
    def change(w, row, j, potentiations, depressions, divisor, state):  # type: ignore[no-untyped-def]
        sums = potentiations[post_tap(row, j)], depressions[pre_tap(row, j)]
        return changed(w, *sums, True, True, (), (), state[0], state[1], state[2]) / divisor

    return change


def mover(case: Case, formula: Any) -> Any:
    """``move(w, c, k, dw, state)``, compiled: move a weight, and the eligibility of a modulated rule."""
    moved, modulated = formula.moved, case.modulated

    @loops.njit_part
    def move(w, c, k, dw, state):  # type: ignore[no-untyped-def]
        if modulated:
            w[k], c[k] = moved(w[k], dw, c[k], (), (), state[0], state[1], state[2])
        else:
            w[k], _ = moved(w[k], dw, dw, (), (), state[0], state[1], state[2])

    return move
