"""Every pre neuron meets every post neuron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tritonstdp.topology.base import Examples, Part, Topology, checked_size
from tritonstdp.topology.parts import Window

__all__ = ["Dense"]


@dataclass(frozen=True, eq=False, slots=True)
class Dense(Topology):
    """Every pre neuron meets every post neuron (CoNeX: "Simple"); weights ``(n_pre, n_post)``, any strides.

    Parameters
    ----------
    n_pre, n_post : int
        The numbers of neurons.

    Examples
    --------
    >>> Dense(3, 5).weights_shape
    (3, 5)
    """

    name: ClassVar[str] = "dense"
    takes_strides: ClassVar[bool] = True
    usual_layout: ClassVar[str] = "pre"
    incoming: ClassVar[tuple[int, ...] | None] = (0,)
    sizes: ClassVar[str] = "N_PRExN_POST"
    examples: ClassVar[Examples] = Examples(
        compiled=(64, 64),
        metered=(512, 512),
        timed=((256, 256), (1000, 1000), (4000, 4000)),
        tuned=tuple((side, side) for side in (256, 512, 1024, 2048, 4096, 8192)),
    )
    n_pre: int
    n_post: int

    def __post_init__(self) -> None:
        n_pre, n_post = checked_size("n_pre", self.n_pre), checked_size("n_post", self.n_post)
        self._set(n_pre=n_pre, n_post=n_post)
        self._set_shapes((n_pre, n_post), n_pre, n_post)

    @classmethod
    def example(cls) -> Dense:
        return cls(4, 4)

    @classmethod
    def uneven_example(cls) -> Dense:
        return cls(70, 537)

    @property
    def scratch(self) -> int:
        return 8 * self.synapses  # the rest is taken for some rows at a time

    def rows(self, rows: slice) -> Dense:
        return Dense(len(range(self.n_pre)[rows]), self.n_post)

    def part(self, start: int, stop: int) -> Part:
        weights = Window(self.weights_shape, 1, start, stop)
        return Part(Dense(self.n_pre, stop - start), weights, self.pres(start, stop), self.posts(start, stop))

    def side_of(self, shape: Sequence[int]) -> str | None:
        kinds = {(self.n_post,): "post", (1, self.n_post): "post", (self.n_pre, 1): "pre"}
        return kinds.get(tuple(shape))

    def layout(self, values: Tensor) -> str:
        """Which side's neurons have their synapses next to each other: "pre", "post", or neither ("strided")."""
        if values.is_contiguous():
            return "pre"
        pre_stride, post_stride = values.stride()
        return "pre" if post_stride == 1 else "post" if pre_stride == 1 else "strided"
