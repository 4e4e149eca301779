"""The two sides of a convolution: whom a spike meets, and what its contribution depends on.

Where a contribution depends on the other side alone, it is what is laid out for each neuron there. Elsewhere the other
side's signals are laid out, and the contribution is computed at each tap that a spike meets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tritonstdp.kernels import loops
from tritonstdp.kernels.compose import Composed
from tritonstdp.kernels.protocol import Case
from tritonstdp.source import define


class Reach(NamedTuple):
    """The neurons that one spike meets in a channel, and how the sums at their taps are laid out.

    With a stride, a pre neuron meets every stride-th row and column of a kernel's taps only, starting at one of stride.

    Attributes
    ----------
    rows, columns : int
        How many neurons a spike meets.
    strides : (int, int)
        Sets of taps, by row and by column, of which a spike meets one.
    """

    rows: int
    columns: int
    strides: tuple[int, int]

    @property
    def vector(self) -> int:
        """Lanes that hold the taps of one row: the next power of 2."""
        return 1 << (self.columns - 1).bit_length()

    @property
    def sums(self) -> int:
        """Sums between two channels."""
        return self.strides[0] * self.strides[1] * self.rows * self.vector


def met_extent(kernel_key: Any) -> Any:
    """``extent(width, met_width, pad_w)``, compiled: the neurons that a row's pre spikes meet, and those between.

    Some lie outside the map: as many in front as a spike meets in a row but one, and some behind.
    """
    (_, kw), (_, sw) = kernel_key
    margin = -(-kw // sw) - 1

    @loops.njit_part
    def extent(width, met_width, pad_w):  # type: ignore[no-untyped-def]
        return margin + max(met_width, (width - 1 + pad_w) // sw + 1)

    return extent


class Side(NamedTuple):
    """The side whose spikes contribute, and the other.

    Attributes
    ----------
    is_post : bool
        Whether the spikes are those of post neurons.
    reach : Reach
        What one of them meets.
    own, other : Signals
        The signals of the spikes' side and of the other.
    n_other : int
        How many signals the other side has.
    read : list of int
        The other side's signals that a contribution reads; the spike where it reads none.
    alone : bool
        Whether they are all that it depends on, beside the spike and numbers.
    reads_w : bool
        Whether it reads the weight.
    term : callable
        ``term(own, other, w, state)``, compiled: what a spike contributes. ``state`` is ``(numbers, w_min, w_max)``.
    """

    is_post: bool
    reach: Reach
    own: loops.Signals
    other: loops.Signals
    n_other: int
    read: list[int]
    alone: bool
    reads_w: bool
    term: Any


def sides_of(case: Case, formula: Composed) -> tuple[Side, Side]:
    """The spikes of the post neurons and those of the pre neurons."""
    (kh, kw), (sh, sw) = case.kernel_key
    reaches = Reach(-(-kh // sh), -(-kw // sw), (sh, sw)), Reach(kh, kw, (1, 1))
    names, signals = case.names[:2], loops.signals_of(case)
    pre_term, post_term = formula.pre_term, formula.post_term

    @loops.njit_part
    def of_post(own, other, w, state):  # type: ignore[no-untyped-def]
        return post_term(other, own, state[0], w, state[1], state[2])

    @loops.njit_part
    def of_pre(own, other, w, state):  # type: ignore[no-untyped-def]
        return pre_term(own, other, state[0], w, state[1], state[2])

    def side(is_post: bool) -> Side:
        signature = case.formula.signatures["on_post" if is_post else "on_pre"]
        reads = {*signature.reads, *signature.parameters}
        own, other = int(is_post), int(not is_post)
        return Side(
            is_post, reaches[own], signals[own], signals[other], len(names[other]),
            read=[k for k, name in enumerate(names[other]) if name in reads] or [0],
            alone=reads.isdisjoint((*names[own][1:], "w")), reads_w="w" in reads,
            term=of_post if is_post else of_pre,
        )  # fmt: skip

    return side(True), side(False)


def tap_of(case: Case, side: Side) -> Any:
    """``tap(row, j)``, compiled: where the sums have column ``j`` of a row of taps; rows of all kernels in turn."""
    (kh, _), (sh, sw) = case.kernel_key
    rows, columns, vector, sums = side.reach.rows, side.reach.columns, side.reach.vector, side.reach.sums

    @loops.njit_part
    def of_post(row, j):  # type: ignore[no-untyped-def]
        return row * vector + j

    @loops.njit_part
    def of_pre(row, j):  # type: ignore[no-untyped-def]
        i = row % kh
        met = (i % sh * sw + j % sw) * rows + rows - 1 - i // sh
        return row // kh * sums + met * vector + columns - 1 - j // sw

    return of_post if side.is_post else of_pre


class Laid(NamedTuple):
    """A value that is laid out for each neuron of the other side.

    Attributes
    ----------
    value : callable
        ``value(other, neuron, state)``: what it is.
    outside : callable
        ``outside(state)``: what it is where there is no neuron.
    """

    value: Any
    outside: Any


def _contribution(case: Case, side: Side) -> tuple[list[Laid], Any]:
    """Lay out the contribution of a spike of 1."""
    real, bool_spikes, is_post = loops.REAL[case.dtype], case.bool_spikes, side.is_post
    of_one, traces, silent = side.term, side.other.traces, (real(0),) * side.n_other

    @loops.njit_part
    def value(other, neuron, state):  # type: ignore[no-untyped-def]
        return of_one((real(1),), (real(other[0][neuron]), *traces(other, neuron)), real(0), state)

    @loops.njit_part
    def outside(state):  # type: ignore[no-untyped-def]
        # a tap that looks outside the map sees a silent neuron; outside it there is no post neuron
        return of_one((real(1),), silent, real(0), state) if is_post else real(0)

    @loops.njit_part
    def term(own, laid, there, w, state):  # type: ignore[no-untyped-def]
        return laid[0] if bool_spikes else laid[0] * own[0]

    return [Laid(value, outside)], term


def _signals(case: Case, side: Side) -> tuple[list[Laid], Any]:
    """Lay out what a spike's contribution reads."""
    real, is_post, contribution, choose = loops.REAL[case.dtype], side.is_post, side.term, loops.choose

    @loops.njit_part
    def outside(state):  # type: ignore[no-untyped-def]
        return real(0)

    def signal(k: int) -> Laid:
        @loops.njit_part
        def value(other, neuron, state):  # type: ignore[no-untyped-def]
            return real(other[k][neuron])

        return Laid(value, outside)

    signals = ", ".join(f"laid[{side.read.index(k)}]" if k in side.read else "zero" for k in range(side.n_other))
    others = loops.njit_part(define(f"def others(laid):\n    return ({signals},)", "others", {"zero": real(0)}))

    @loops.njit_part
    def term(own, laid, there, w, state):  # type: ignore[no-untyped-def]
        value = contribution(own, others(laid), w, state)
        # a tap that looks outside the map sees a silent neuron; outside it there is no post neuron
        return value if is_post else choose(there, value, real(0))

    return [signal(k) for k in side.read], term


def laid_out(case: Case, side: Side) -> tuple[list[Laid], Any]:
    """What is laid out for the other side's neurons, and ``term(own, laid, there, w, state)``, compiled.

    A spike contributes the term to a tap; ``there`` says whether the tap looks at a neuron.
    """
    return (_contribution if side.alone else _signals)(case, side)
