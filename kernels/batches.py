"""What the CPU loops over batches share: the signals of a sample, and what it changes at one synapse."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numba
from numba import types

from tritonstdp.kernels import loops
from tritonstdp.kernels.formula_cpu import synapse_functions
from tritonstdp.kernels.protocol import Case, PlacedStep, Step, placed
from tritonstdp.source import define


class Config(NamedTuple):
    """Nothing to choose."""


class Samples(NamedTuple):
    """How loops see one side of a batch.

    Attributes
    ----------
    signals : Signals
        How they see one sample.
    of : callable
        ``of(addresses, b, n)``: the signals of the ``b``-th sample's ``n`` neurons, as a tuple of arrays.
    at : callable
        ``at(spike, arrays, k)``: the signals of one of them, whose spike is known.
    among : callable
        ``among(spike, addresses, samples, n, b, k)``: the same of the ``b``-th sample's ``k``-th neuron.
    """

    signals: loops.Signals
    of: Any
    at: Any
    among: Any


def samples_of(case: Case) -> tuple[Samples, Samples]:
    """How loops see the pre and the post neurons of a batch; a parameter's values are the same in all samples."""
    rule = case.formula.rule
    own = len(rule.pre), len(rule.post)
    pre, post = (_samples(case, side, n) for side, n in zip(loops.signals_of(case), own, strict=True))
    return pre, post


def _samples(case: Case, signals: loops.Signals, own: int) -> Samples:
    itemsize = case.dtype.itemsize
    sizes = [1 if case.bool_spikes else itemsize, *[itemsize] * (own - 1), *[0] * (signals.addresses.count - own)]
    moved = ", ".join(f"addresses[{k}] + b * n * {size}" for k, size in enumerate(sizes))
    text = f"def of(addresses, b, n):\n    return arrays(({moved},), n)"
    extents = [("samples * n", "b * n + k")] * own + [("n", "k")] * (signals.addresses.count - own)
    values = "".join(
        f"carray(pointer(addresses[{k}]), {extents[k][0]}, real)[{extents[k][1]}], " for k in range(1, len(extents))
    )
    among = f"def among(spike, addresses, samples, n, b, k):\n    return (spike, {values})"
    words = {"carray": numba.carray, "pointer": loops.as_pointer, "real": loops.REAL[case.dtype]}
    traces = signals.traces

    @loops.njit_part
    def at(spike, arrays, k):  # type: ignore[no-untyped-def]
        return (spike, *traces(arrays, k))

    return Samples(
        signals,
        loops.njit_part(define(text, "of", {"arrays": signals.arrays})),
        at,
        loops.njit_part(define(among, "among", words)),
    )


class Changes(NamedTuple):
    """What a batch does to one synapse with one pre and one post neuron.

    Attributes
    ----------
    change : callable
        ``change(w, first, second, first_spiked, second_spiked, state)``: by what a sample changes it, given the signals
        of both neurons, those of the first side first, and where one has spiked. ``state`` is
        ``(numbers, w_min, w_max, samples)``.
    moved : callable
        ``moved(w, c, dw, first, second, state)``: the new weight and eligibility after the sum of all samples' changes.
    move : callable
        ``move(w, c, k, m, dw, first, second, state)``: write them at a place of the weights, and of the eligibility.
    """

    change: Any
    moved: Any
    move: Any


def changes_of(case: Case, bound_first: bool, post_is_first: bool = False) -> Changes:
    """Compile them for a case; raises ``CannotCompileError`` where numba can't."""
    formula = synapse_functions(case, bound_first)
    delta, moved, share = formula.delta, formula.moved, sharing(case)

    @loops.njit_part
    def change(w, pre, post, pre_spiked, post_spiked, state):  # type: ignore[no-untyped-def]
        return delta(w, pre, post, pre_spiked, post_spiked, state[0], state[1], state[2])

    @loops.njit_part
    def change_of_post(w, post, pre, post_spiked, pre_spiked, state):  # type: ignore[no-untyped-def]
        return change(w, pre, post, pre_spiked, post_spiked, state)

    @loops.njit_part
    def moved_by(w, c, dw, pre, post, state):  # type: ignore[no-untyped-def]
        return moved(w, share(dw, state[3]), c, pre, post, state[0], state[1], state[2])

    @loops.njit_part
    def moved_by_of_post(w, c, dw, post, pre, state):  # type: ignore[no-untyped-def]
        return moved_by(w, c, dw, pre, post, state)

    change_of, new_of = (change_of_post, moved_by_of_post) if post_is_first else (change, moved_by)
    modulated, real = case.modulated, loops.REAL[case.dtype]

    @loops.njit_part
    def move(w, c, k, m, dw, first, second, state):  # type: ignore[no-untyped-def]
        if modulated:
            w[k], c[m] = new_of(w[k], c[m], dw, first, second, state)
        else:
            w[k], _ = new_of(w[k], real(0), dw, first, second, state)

    return Changes(change_of, new_of, move)


def step(case: Case, place: Callable[..., Any], build_plain: Callable[[Case], Any]) -> Step:
    """The step of a batch that ``place`` places; a batch of one sample is a plain step, and takes that one's time."""

    @cache
    def plain() -> Any:
        return build_plain(case._replace(reduction=""))

    def place_any(*arguments: Any) -> Any:
        return placed(plain(), *arguments) if len(arguments[3][0]) == 1 else place(*arguments)

    return PlacedStep(place_any)


def sharing(case: Case) -> Any:
    """``share(dw, samples)``, compiled: what a batch makes of the sum of its samples' changes."""
    real, is_mean = loops.REAL[case.dtype], case.reduction == "mean"

    @loops.njit_part
    def share(dw, samples):  # type: ignore[no-untyped-def]
        return dw / real(samples) if is_mean else dw

    return share


def scalars(case: Case) -> tuple[Any, ...]:
    """The numba types of the number of samples, and of ``numbers, w_min, w_max``."""
    return types.int64, *loops.scalars(case)
