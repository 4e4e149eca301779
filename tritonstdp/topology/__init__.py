"""How the synapses of a group lie: the shape of their weights, what fits it, and where each neuron's synapses are."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from tritonstdp.topology.base import DTYPES, WEIGHT_DTYPES, Examples, Needs, Part, Topology, check_weights
from tritonstdp.topology.conv2d import Conv2d
from tritonstdp.topology.dense import Dense
from tritonstdp.topology.local2d import Local2d
from tritonstdp.topology.one_to_one import OneToOne
from tritonstdp.topology.sparse import Sparse

__all__ = [
    "DTYPES",
    "TOPOLOGIES",
    "WEIGHT_DTYPES",
    "Conv2d",
    "Dense",
    "Examples",
    "Local2d",
    "Needs",
    "OneToOne",
    "Part",
    "Sparse",
    "Topology",
    "check_weights",
    "example_topology",
    "infer_topology",
]


TOPOLOGIES: dict[str, type[Topology]] = {kind.name: kind for kind in (Dense, OneToOne, Sparse, Conv2d, Local2d)}
"""The topologies by name; :func:`tritonstdp.register_topology` adds to it."""


def infer_topology(weights: Tensor) -> Topology:
    """The topology that a tensor of weights has by itself: dense, one-to-one or sparse.

    Parameters
    ----------
    weights : Tensor
        2-d for dense, 1-d for one-to-one, sparse for sparse.

    Returns
    -------
    Topology
        The topology.

    Raises
    ------
    TypeError
        If they are no tensor of a floating dtype.
    ValueError
        If the weights alone do not tell, as for convolutions.

    Examples
    --------
    >>> infer_topology(torch.zeros(2, 3))
    Dense(n_pre=2, n_post=3)
    """
    if getattr(weights, "dtype", None) not in WEIGHT_DTYPES:
        check_weights("weights", weights)
    if weights.layout is not torch.strided:
        return Sparse.of(weights)
    return topology_of_shape(weights.shape)


@lru_cache(maxsize=1024)
def topology_of_shape(shape: tuple[int, ...]) -> Topology:
    """The topology of strided weights of a shape; see :func:`infer_topology`."""
    if len(shape) == 2:
        return Dense(*shape)
    if len(shape) == 1:
        return OneToOne(*shape)
    raise ValueError(
        f"weights of shape {tuple(shape)} do not tell their topology: pass topology=Conv2d(...) or Local2d(...)"
    )


def example_topology(name: str) -> Topology:
    """A small topology of the kind that a name stands for, to ask about kernels without weights at hand.

    Parameters
    ----------
    name : str
        A name in :data:`TOPOLOGIES`.

    Returns
    -------
    Topology
        The topology.

    Raises
    ------
    ValueError
        If the name is not known; the message lists those that are.

    Examples
    --------
    >>> example_topology("dense")
    Dense(n_pre=4, n_post=4)
    """
    if name not in TOPOLOGIES:
        raise ValueError(f"unknown topology {name!r}: use one of {', '.join(sorted(TOPOLOGIES))}")
    return TOPOLOGIES[name].example()
