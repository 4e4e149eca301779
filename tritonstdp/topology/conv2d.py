"""One kernel for all positions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar

from tritonstdp.topology.base import Examples, Part
from tritonstdp.topology.parts import Window
from tritonstdp.topology.patches import Patches

__all__ = ["Conv2d"]


def _divisor(value: Any) -> float | None:
    if value is None:
        return None
    wanted = "give a finite number other than 0, or None for the number of output positions"
    said = f"divisor (a behavior's weight_divisor) is {value!r}: {wanted}"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(said)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if number == 0 or not math.isfinite(number):
        raise ValueError(said)
    return int(value) if isinstance(value, Integral) else number


@dataclass(frozen=True, eq=False, slots=True)
class Conv2d(Patches):
    """Convolution: one kernel for all positions; weights ``(C_out, C_in, kh, kw)``, changes averaged over positions.

    Parameters
    ----------
    src_shape, dst_shape : tuple of int
        ``(channels, height, width)`` of the pre and of the post neurons.
    kernel_size : int or tuple of int
        ``(kh, kw)``.
    stride, padding : int or tuple of int
        As for :class:`torch.nn.Conv2d`.
    divisor : float, optional
        What the changes summed over positions are divided by; the number of positions by default.

    Raises
    ------
    ValueError, TypeError
        If a size is no int or too small, the geometry does not give ``dst_shape``, or the divisor is no finite number
        other than 0.

    Examples
    --------
    >>> Conv2d((1, 8, 8), (4, 6, 6), 3).weights_shape
    (4, 1, 3, 3)
    """

    name: ClassVar[str] = "conv2d"
    incoming: ClassVar[tuple[int, ...] | None] = (1, 2, 3)
    shares_weights: ClassVar[bool] = True
    examples: ClassVar[Examples] = Examples(
        compiled=(16, 18, 18, 16, 3),
        metered=(4, 18, 18, 8, 3),
        timed=((1, 28, 28, 16, 5), (8, 64, 64, 16, 5)),
        tuned=((1, 28, 28, 16, 5), (16, 28, 28, 32, 5)),
    )
    divisor: float | None = None

    def __post_init__(self) -> None:
        self._set(divisor=_divisor(self.divisor))
        Patches.__post_init__(self)

    def _shape_of_weights(self) -> tuple[int, ...]:
        return (self.dst_shape[0], self.src_shape[0], *self.kernel_size)

    def part(self, start: int, stop: int) -> Part:
        """The part of some output channels: all positions of each, as a change is a sum over these."""
        topology = replace(self, dst_shape=(stop - start, *self.dst_shape[1:])) if stop > start else None
        weights = Window(self.weights_shape, 0, start, stop)
        return Part(topology, weights, self.pres(start, stop), self.posts(start, stop))

    @property
    def synapses(self) -> int:
        return math.prod(self.weights_shape) * self.positions

    @property
    def scratch(self) -> int:
        # the reference lays out what all windows see
        return 40 * math.prod(self.weights_shape) + 16 * math.prod(self.weights_shape[1:]) * self.positions

    @property
    def weight_divisor(self) -> float:
        """What a summed change is divided by, under CoNeX's name for it: ``divisor``, or else ``positions``."""
        return float(self.positions if self.divisor is None else self.divisor)
