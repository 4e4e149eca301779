"""Each neuron meets its partner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tritonstdp.topology.base import Examples, Part, Topology, checked_size
from tritonstdp.topology.parts import Window

__all__ = ["OneToOne"]


@dataclass(frozen=True, eq=False, slots=True)
class OneToOne(Topology):
    """Neuron k meets neuron k; weights ``(n,)``.

    Parameters
    ----------
    n : int
        The number of neurons on either side.

    Examples
    --------
    >>> OneToOne(4).weights_shape
    (4,)
    """

    name: ClassVar[str] = "one_to_one"
    takes_strides: ClassVar[bool] = True
    incoming: ClassVar[tuple[int, ...] | None] = ()
    sizes: ClassVar[str] = "N"
    examples: ClassVar[Examples] = Examples(
        compiled=(64,), metered=(4096,), timed=((1000,), (100_000,)), tuned=((4096,), (65536,), (1048576,))
    )
    n: int

    def __post_init__(self) -> None:
        n = checked_size("n", self.n)
        self._set(n=n)
        self._set_shapes((n,), n, n)

    @classmethod
    def example(cls) -> OneToOne:
        return cls(4)

    @classmethod
    def uneven_example(cls) -> OneToOne:
        return cls(1201)

    def pres(self, start: int, stop: int) -> Window:
        return self.posts(start, stop)

    def part(self, start: int, stop: int) -> Part:
        own = self.posts(start, stop)
        return Part(OneToOne(stop - start), own, own, own)

    def side_of(self, shape: Sequence[int]) -> str | None:
        return "post" if tuple(shape) == self.post_shape else None
