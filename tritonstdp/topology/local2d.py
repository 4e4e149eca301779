"""A kernel of its own for each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tritonstdp.topology.base import Examples, Part
from tritonstdp.topology.parts import Window
from tritonstdp.topology.patches import Patches

__all__ = ["Local2d"]


@dataclass(frozen=True, eq=False, slots=True)
class Local2d(Patches):
    """Local receptive fields, each position its own; weights ``(C_out, H_out * W_out, C_in * kh * kw)``.

    Parameters
    ----------
    src_shape, dst_shape : tuple of int
        ``(channels, height, width)`` of the pre and of the post neurons.
    kernel_size : int or tuple of int
        ``(kh, kw)``.
    stride, padding : int or tuple of int
        As for :class:`torch.nn.Unfold`.

    Raises
    ------
    ValueError, TypeError
        If a size is no int or too small, or the geometry does not give ``dst_shape``.

    Examples
    --------
    >>> Local2d((2, 8, 8), (4, 6, 6), 3).weights_shape
    (4, 36, 18)
    """

    name: ClassVar[str] = "local2d"
    cut_axis: ClassVar[int] = 1
    incoming: ClassVar[tuple[int, ...] | None] = (2,)
    examples: ClassVar[Examples] = Examples(
        compiled=(16, 6, 6, 16, 3),
        metered=(4, 18, 18, 8, 3),
        timed=((1, 28, 28, 8, 5), (8, 32, 32, 8, 5)),
        tuned=((1, 28, 28, 16, 5), (16, 28, 28, 32, 5)),
    )

    def _shape_of_weights(self) -> tuple[int, ...]:
        return (self.dst_shape[0], self.positions, self.src_shape[0] * self.kernel_size[0] * self.kernel_size[1])

    def side_of(self, shape: Sequence[int]) -> str | None:
        return "post" if tuple(shape) == (*self.weights_shape[:2], 1) else None

    def pres(self, start: int, stop: int) -> Window:
        top = start * self.stride[0] - self.padding[0]
        rows = (stop - start - 1) * self.stride[0] + self.kernel_size[0] if stop > start else 0
        return Window(self.src_shape, 1, top, top + rows)

    def part(self, start: int, stop: int) -> Part:
        """The part of some output rows; of the padding above and below the map, what it sees is pre neurons of its own.

        They are to be silent, and so nothing is brought by them.
        """
        pre, post = self.pres(start, stop), self.posts(start, stop)
        sizes: dict[str, Any] = {"src_shape": pre.kept, "dst_shape": post.kept, "padding": (0, self.padding[1])}
        weights = Window((*self.dst_shape, self.weights_shape[2]), 1, start, stop)
        return Part(replace(self, **sizes) if stop > start else None, weights, pre, post)
