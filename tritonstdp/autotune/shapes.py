"""What a shape on the command line stands for, and the memory that tuning it takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from tritonstdp.problems import random_sparse
from tritonstdp.topology import Conv2d, Dense, Local2d, OneToOne, Topology

__all__ = ["SHAPES", "make_topology", "needed_bytes"]

SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "dense": ((256,), (512,), (1024,), (2048,), (4096,), (8192,)),
    "one_to_one": ((4096,), (65536,), (1048576,)),
    "sparse": ((1000, 1000, 65536), (4000, 4000, 262144), (10000, 10000, 1048576)),
    "conv2d": ((1, 28, 28, 16, 5), (16, 28, 28, 32, 5)),
    "local2d": ((1, 28, 28, 16, 5), (16, 28, 28, 32, 5)),
}
"""What is swept of a topology unless shapes are given."""

_COPIES = 6
"""Of the weights while they are tuned: the group, the expected result, a trial, and copies that take turns."""

_DRAWN_BYTES = 9
"""For each pair of neurons, while random synapses are drawn."""


@lru_cache(maxsize=64)
def make_topology(name: str, sizes: tuple[int, ...]) -> Topology | None:
    """The topology that a shape stands for, or None where it does not fit.

    Parameters
    ----------
    name : str
        The topology.
    sizes : tuple of int
        ``(n,)`` or ``(n_pre, n_post)`` for "dense", ``(n,)`` for "one_to_one", ``(n_pre, n_post, synapses)`` for
        "sparse", ``(c_in, height, width, c_out, kernel)`` for "conv2d" and "local2d".

    Returns
    -------
    Topology or None
        The topology.

    Examples
    --------
    >>> make_topology("dense", (64,)), make_topology("one_to_one", (3, 4))
    (Dense(n_pre=64, n_post=64), None)
    """
    if name == "dense" and len(sizes) <= 2:
        return Dense(sizes[0], sizes[-1])
    if name == "one_to_one" and len(sizes) == 1:
        return OneToOne(*sizes)
    if name == "sparse" and len(sizes) == 3:
        n_pre, n_post, synapses = sizes
        return random_sparse(n_pre, n_post, min(1.0, synapses / (n_pre * n_post)))
    if name in ("conv2d", "local2d") and len(sizes) == 5 and sizes[4] <= min(sizes[1:3]):
        c_in, height, width, c_out, k = sizes
        kind = Conv2d if name == "conv2d" else Local2d
        return kind((c_in, height, width), (c_out, height - k + 1, width - k + 1), (k, k))
    return None


def needed_bytes(name: str, sizes: tuple[int, ...], itemsize: int) -> int:
    """About the memory that tuning a shape takes, of the rule that takes most.

    Parameters
    ----------
    name, sizes
        As for :func:`make_topology`.
    itemsize : int
        Bytes a weight.

    Returns
    -------
    int
        Bytes; 0 where the shape does not fit the topology.

    Examples
    --------
    >>> needed_bytes("dense", (1000, 1000), itemsize=4)
    48000000
    """
    weights, drawn = _weights_of(name, sizes)
    return 2 * _COPIES * itemsize * weights + _DRAWN_BYTES * drawn


def _weights_of(name: str, sizes: Sequence[int]) -> tuple[int, int]:
    """The weights of a shape, and the pairs of neurons among which they are drawn."""
    if name == "dense" and len(sizes) <= 2:
        return sizes[0] * sizes[-1], 0
    if name == "one_to_one" and len(sizes) == 1:
        return sizes[0], 0
    if name == "sparse" and len(sizes) == 3:
        return sizes[2], sizes[0] * sizes[1]
    if name not in ("conv2d", "local2d") or len(sizes) != 5:
        return 0, 0
    c_in, height, width, c_out, k = sizes
    patches = c_in * k * k * height * width  # which the reference of a convolution lays out
    return (c_out * patches if name == "local2d" else c_out * c_in * k * k + patches + c_out * height * width), 0
