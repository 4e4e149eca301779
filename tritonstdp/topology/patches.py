"""The geometry that convolutional and local connections share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tritonstdp.topology.base import Topology, as_int
from tritonstdp.topology.parts import Window

__all__ = ["Patches"]


def _sizes(name: str, value: Any, least: int, lengths: tuple[int, ...], wanted: str) -> tuple[int, ...]:
    many = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))
    try:
        sizes = tuple(as_int(entry) for entry in (value if many else (value,)))
    except TypeError:
        raise TypeError(f"{name} is {value!r}: give {wanted}") from None
    if len(sizes) not in lengths:
        raise ValueError(f"{name} is {value!r}: give {wanted}")
    if min(sizes) < least:
        raise ValueError(f"{name} is {value!r}: every size must be at least {least}")
    return sizes


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    sizes = _sizes(name, value, least, (1, 2), "an int or (vertical, horizontal), two ints")
    return sizes[0], sizes[-1]


def _shape(name: str, value: Any) -> tuple[int, int, int]:
    channels, height, width = _sizes(name, value, 1, (3,), "(channels, height, width), three ints")
    return channels, height, width


@dataclass(frozen=True, eq=False, slots=True)
class Patches(Topology):
    """The geometry that convolutional and local connections share."""

    sizes: ClassVar[str] = "C_INxHEIGHTxWIDTHxC_OUTxKERNEL"
    cut_axis: ClassVar[int] = 0
    """Of ``dst_shape``: along which the post neurons are cut into parts."""
    src_shape: tuple[int, int, int]
    dst_shape: tuple[int, int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self._set(
            src_shape=_shape("src_shape", self.src_shape),
            dst_shape=_shape("dst_shape", self.dst_shape),
            kernel_size=_pair("kernel_size", self.kernel_size, 1),
            stride=_pair("stride", self.stride, 1),
            padding=_pair("padding", self.padding, 0),
        )
        c_in, *sizes = self.src_shape
        padded = tuple(size + 2 * padding for size, padding in zip(sizes, self.padding, strict=True))
        fitting = tuple((padded[k] - self.kernel_size[k]) // self.stride[k] + 1 for k in (0, 1))
        if fitting != self.dst_shape[1:]:
            raise ValueError(
                f"dst_shape {self.dst_shape} does not fit: src_shape {self.src_shape} with kernel_size "
                f"{self.kernel_size}, stride {self.stride} and padding {self.padding} gives height and width {fitting}"
            )
        self._refuse_beyond("pre neurons with padding", c_in, *padded)
        self._set_shapes(self._shape_of_weights(), math.prod(self.src_shape), math.prod(self.dst_shape))

    @property
    def units(self) -> int:
        return self.dst_shape[self.cut_axis]

    def posts(self, start: int, stop: int) -> Window:
        return Window(self.dst_shape, self.cut_axis, start, stop)

    @classmethod
    def example(cls) -> Patches:
        return cls((2, 6, 6), (2, 4, 4), (3, 3))

    @classmethod
    def uneven_example(cls) -> Patches:
        return cls((2, 13, 12), (3, 7, 11), (3, 2), (2, 1), (1, 0))

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> Patches:
        cls.check_sizes(sizes)
        c_in, height, width, c_out, k = sizes
        if k > min(height, width):
            raise ValueError(f"a kernel of {k} does not fit into {height} x {width}: give a smaller one")
        return cls((c_in, height, width), (c_out, height - k + 1, width - k + 1), (k, k))

    @property
    def positions(self) -> int:
        """The number of output positions, ``H_out * W_out``."""
        return self.dst_shape[1] * self.dst_shape[2]

    def _shape_of_weights(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def kernel_key(self) -> Any:
        return self.kernel_size, self.stride

    @property
    def has_padding(self) -> bool:
        return any(self.padding)
