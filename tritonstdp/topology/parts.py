"""Which values of a group are those of a part that learns by itself: some post neurons, and what leads into them."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["Picked", "Selection", "Window"]


class Selection(Protocol):
    """Which of a group's values are a part's."""

    def of(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """The part's values, out of the group's."""

    def put(self, values: Tensor, part: Tensor) -> None:
        """Write a part's values to where they are among the group's."""


class Window(NamedTuple):
    """Neighbours along one axis of an array; they may reach beyond it.

    Attributes
    ----------
    shape : tuple of int
        That of the array, as which values are seen.
    axis, start, stop : int
        From where to where along which axis.

    Examples
    --------
    >>> import torch
    >>> Window((2, 3), 1, 2, 4).of(torch.arange(6))
    tensor([[2, 0],
            [5, 0]])
    """

    shape: tuple[int, ...]
    axis: int
    start: int
    stop: int

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of what is in the window."""
        return (*self.shape[: self.axis], self.stop - self.start, *self.shape[self.axis + 1 :])

    @property
    def size(self) -> int:
        """How many values are in the window."""
        return math.prod(self.kept)

    def of(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """What is in the window, a view where that is all inside the array.

        Parameters
        ----------
        values : Tensor
            As many as ``shape`` has.
        padding : float
            What lies beyond the array.

        Returns
        -------
        Tensor
            Of the shape ``kept``.
        """
        inside, array = self._inside, values.reshape(self.shape)
        seen = array.narrow(self.axis, inside.start, len(inside))
        if len(inside) == self.stop - self.start:
            return seen
        padded = array.new_full(self.kept, padding)
        padded.narrow(self.axis, inside.start - self.start, len(inside)).copy_(seen)
        return padded

    def put(self, values: Tensor, part: Tensor) -> None:
        """Write what is in the window, less what lies beyond the array.

        Parameters
        ----------
        values : Tensor
            As many as ``shape`` has, contiguous; they are written.
        part : Tensor
            As many as ``kept`` has.
        """
        inside = self._inside
        seen = part.reshape(self.kept).narrow(self.axis, inside.start - self.start, len(inside))
        values.view(self.shape).narrow(self.axis, inside.start, len(inside)).copy_(seen)

    @property
    def _inside(self) -> range:
        first = min(max(self.start, 0), self.shape[self.axis])
        return range(first, max(first, min(self.stop, self.shape[self.axis])))


class Picked(NamedTuple):
    """Values that lie anywhere in a vector.

    Attributes
    ----------
    places : Tensor
        Where they are.

    Examples
    --------
    >>> import torch
    >>> Picked(torch.tensor([0, 2])).of(torch.tensor([5.0, 6.0, 7.0]))
    tensor([5., 7.])
    """

    places: Tensor

    def of(self, values: Tensor, padding: float = 0.0) -> Tensor:
        """The values."""
        return values[self.places]

    def put(self, values: Tensor, part: Tensor) -> None:
        """Write them."""
        values[self.places] = part
