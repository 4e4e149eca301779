"""How the groups of a PymoNNtorch network are cut, and what behaviors read of a slice.

A rank's neurons are neighbours. Where a convolution or a local connection leads into a group, they are whole channels,
for all that leads into it: channels lie next to each other in both kinds of weights, and among the neurons.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.distributed.slices import bounds_of, sums_of_slice, this_rank
from tritonstdp.functional import topology_of
from tritonstdp.places import parts_of
from tritonstdp.topology.parts import Selection

__all__ = ["Cut", "Size", "Slice", "Way"]

NAMED = {"One2One": 1, "Local2d": 3, "Conv2d": 4}
"""How behaviors are called that go with weights of so many dimensions; others go with matrices, dense or sparse."""

POSTS = {1: 0, 2: 1, 3: 0, 4: 0}
"""Along which axis of weights of so many dimensions their post neurons lie, or those neurons' channels."""


def dimensions_of(synapse: Any) -> int:
    """Of how many dimensions the weights of a synapse group are, or will be by what its behaviors are called."""
    weights = getattr(synapse, "weights", None)
    if weights is not None:
        return int(weights.dim())
    names = [kind.__name__ for behavior in synapse.behavior.values() for kind in type(behavior).__mro__]
    return next((n for prefix, n in NAMED.items() if any(name.startswith(prefix) for name in names)), 2)


class Size(int):
    """How many neurons or channels are this rank's, which knows of how many they are a slice."""

    whole: int
    start: int

    @classmethod
    def of(cls, whole: int, start: int, stop: int) -> Size:
        """That of a slice."""
        size = cls(stop - start)
        size.whole, size.start = whole, start
        return size


class Way(NamedTuple):
    """How a tensor may lie among ranks: along an axis, each has the values of its slice.

    Attributes
    ----------
    unit : str
        Of what there is one value: "neurons", "channels", or "synapses", those that sparse weights store.
    axis : int
        Along which axis.
    """

    unit: str
    axis: int


class Slice:
    """What becomes of a group of neurons.

    Attributes
    ----------
    bounds : list of tuple of int
        From where to where the neurons of each rank go.
    size : Size
        How many are this rank's.
    depth : Size or None
        How many channels are; None where the group is cut between neurons.
    """

    def __init__(self, group: Any, afferent: Collection[Any]) -> None:
        rank, ranks = this_rank()
        self.group, n = group, int(group.size)
        channels = _channels_of(group, afferent)
        units = bounds_of(n if channels is None else channels, ranks)
        width = 1 if channels is None else n // channels
        self.bounds = [(start * width, stop * width) for start, stop in units]
        self.size = Size.of(n, *self.bounds[rank])
        self.depth = None if channels is None else Size.of(channels, *units[rank])

    def ranges(self, of_all: bool = False) -> dict[str, tuple[int, int]]:
        """From where to where the slice goes, or all of the group, in neurons and where it is cut so in channels."""
        sizes = {"neurons": self.size} | ({} if self.depth is None else {"channels": self.depth})
        return {unit: (0, n.whole) if of_all else (n.start, n.start + n) for unit, n in sizes.items()}

    def ways(self, shape: Sequence[int], of_all: bool = False, weights: Any = None) -> list[Way | None]:
        """In which ways a tensor of the group may lie among ranks, as far as its shape tells; the likeliest first.

        Parameters
        ----------
        shape : sequence of int
            That of this rank's slice.
        of_all : bool
            Whether it is that of all.
        weights : Any
            For groups of synapses: see :meth:`Cut.ways`.

        Returns
        -------
        list of Way or None
            None for what each rank may have whole; nothing at all for what each surely has.
        """
        sizes = {unit: stop - start for unit, (start, stop) in self.ranges(of_all).items()}
        axes = range(len(shape))[::-1]  # histories have neurons along their last one
        return [Way(unit, axis) for unit, size in sizes.items() for axis in axes if shape[axis] == size]

    def ways_of(self, tensor: Tensor) -> list[Way | None]:
        """:meth:`ways` of what is there."""
        return self.ways(tensor.shape)

    def take(self) -> None:
        """Leave the group this rank's neurons."""
        for name, value in list(self.group.__dict__.items()):
            if isinstance(value, Tensor) and tuple(value.shape) == (self.size.whole,):  # as its id
                setattr(self.group, name, _narrowed(value, 0, self.size))
        self.group.size = self.size
        if self.depth is not None and hasattr(self.group, "depth"):
            self.group.depth = self.depth
        self.group.into_posts = partial(sums_of_slice, start=self.size.start, n=self.size.whole)


class Cut:
    """How a synapse group into a slice of neurons is cut.

    Attributes
    ----------
    synapse : SynapseGroup
        The group.
    own : Slice
        That of its post neurons.
    dimensions : int
        How many its weights have, or will have: see :func:`dimensions_of`.
    """

    def __init__(self, synapse: Any, own: Slice) -> None:
        self.synapse, self.own, self.dimensions = synapse, own, dimensions_of(synapse)
        self._n_pre, self._n_post = int(synapse.src.size), own.size.whole
        size = own.depth if self.dimensions > 2 else own.size
        assert size is not None, "the slice knows what leads into it"
        self._axis, self._size = POSTS.get(self.dimensions, 0), size
        self._sparse: tuple[Tensor, int, Selection] | None = None  # of all, what has been cut
        if self.dimensions == 1 and self._n_pre != self._n_post:
            raise ValueError(
                f"{synapse.tag} has {self._n_pre} pre and {self._n_post} post neurons: one-to-one connections need as "
                "many of both"
            )

    def make(self) -> bool:
        """Leave the group its part of what is set on it for all post neurons, and say whether its weights were."""
        parts = self.parts()
        for name, value in parts.items():
            setattr(self.synapse, name, value)
        return "weights" in parts

    def parts(self) -> dict[str, Any]:
        """What is set on the group for all post neurons, as it is for this rank's.

        Returns
        -------
        dict
            By attribute.

        Raises
        ------
        ValueError
            If its weights do not fit.
        """
        parts: dict[str, Any] = {}
        weights, size, depth = getattr(self.synapse, "weights", None), self.own.size, self.own.depth
        if weights is not None and self._is_whole(weights):
            parts["weights"] = self._part_of(weights)
        for name in ("src_delay", "dst_delay") if self.dimensions == 1 else ("dst_delay",):
            delay = getattr(self.synapse, name, None)
            if isinstance(delay, Tensor) and tuple(delay.shape) == (size.whole,):
                parts[name] = _narrowed(delay, 0, size)
        for name in ("dst_shape", "kernel_shape"):
            shape = getattr(self.synapse, name, None)
            # what has two entries is (kh, kw)
            if depth is not None and shape is not None and len(shape) > 2 and shape[0] == depth.whole:
                parts[name] = depth, *shape[1:]
        return parts

    def tensor_of_slice(self, mode: Any, dim: Sequence[int]) -> Tensor:
        """One value for each of this rank's synapses, of those that one process would draw for all.

        Parameters
        ----------
        mode : int or str
            As PymoNNtorch's ``tensor`` has it.
        dim : sequence of int
            The shape of this rank's weights (sparse: of their values).
        """
        if self._sparse is not None and self._sparse[0] is self.synapse.weights:
            _, n, own = self._sparse
            return own.of(self.synapse.tensor(mode=mode, dim=(n,))).clone()
        dim = tuple(self._size if axis == self._axis else n for axis, n in enumerate(dim))
        drawn: Tensor = self.synapse.tensor(mode=mode, dim=dim)
        return drawn

    def ranges(self, of_all: bool = False) -> dict[str, tuple[int, int]]:
        """As :meth:`Slice.ranges`, of the post neurons."""
        return self.own.ranges(of_all)

    def ways(
        self, shape: Sequence[int], of_all: bool = False, weights: tuple[Sequence[int], bool] | None = None
    ) -> list[Way | None]:
        """As :meth:`Slice.ways`.

        Parameters
        ----------
        shape : sequence of int
            That of this rank's slice.
        of_all : bool
            Whether it is that of all.
        weights : tuple, optional
            The shape of the group's weights (sparse: of their values), and whether they are sparse.
        """
        of_weights, is_sparse = weights or (None, False)
        ways = self.own.ways(shape, of_all)
        if of_weights is not None and tuple(shape) == tuple(of_weights):
            unit = "synapses" if is_sparse else "channels" if self.dimensions > 2 else "neurons"
            return [Way(unit, 0 if is_sparse else self._axis), *(ways if is_sparse else ())]
        sees_all = self.dimensions != 1  # of the pre neurons, which may be as many as there are post neurons here
        return [*ways, None] if sees_all and any(shape[way.axis] == self._n_pre for way in ways if way) else ways

    def ways_of(self, tensor: Tensor) -> list[Way | None]:
        """:meth:`ways` of what is there."""
        weights = getattr(self.synapse, "weights", None)
        if weights is None:
            return self.ways(tensor.shape)
        return self.ways(tensor.shape, weights=(parts_of(weights)[0].shape, weights.layout is not torch.strided))

    def _is_whole(self, weights: Tensor) -> bool:
        """Whether weights lead into all neurons, and not into this rank's already."""
        shape, own = tuple(weights.shape), self._size
        fits = self.dimensions in POSTS and len(shape) == self.dimensions and shape[self._axis] in (own, own.whole)
        if not fits or (self.dimensions == 2 and shape[0] != self._n_pre):
            raise ValueError(
                f"the weights of {self.synapse.tag} have shape {shape}: as the network is dealt out, they are "
                f"{self._wanted()}; weights of another kind have to be set before shard_network, or to go with "
                "behaviors whose names begin with One2One, Local2d or Conv2d"
            )
        return bool(shape[self._axis] != own)

    def _wanted(self) -> str:
        wanted = {
            1: f"({self._n_post},), one-to-one",
            3: f"({self._size.whole}, H_out * W_out, C_in * kh * kw), local",
            4: f"({self._size.whole}, C_in, kh, kw), a convolution",
        }
        return wanted.get(self.dimensions, f"{(self._n_pre, self._n_post)}, dense or sparse")

    def _part_of(self, weights: Tensor) -> Tensor:
        if weights.layout is torch.strided:
            return _narrowed(weights, self._axis, self._size)
        whole = topology_of(weights, None)
        part = whole.part(self.own.size.start, self.own.size.start + self.own.size)
        assert part.topology is not None
        own = part.topology.weights_of(part.weights.of(whole.values(weights)).clone())
        self._sparse = own, whole.weights_shape[0], part.weights
        return own


def _narrowed(whole: Tensor, axis: int, size: Size) -> Tensor:
    """A slice along an axis, in memory of its own."""
    return whole.narrow(axis, size.start, size).clone(memory_format=torch.contiguous_format)


def _channels_of(group: Any, afferent: Collection[Any]) -> int | None:
    """How many channels lead into a group of neurons; None where no convolution and no local connection does."""
    into_channels = [synapse for synapse in afferent if dimensions_of(synapse) > 2]
    if not into_channels:
        return None
    said = {int(group.depth)} if hasattr(group, "depth") else set()
    for synapse in into_channels:
        shapes = [getattr(synapse, "dst_shape", None), getattr(getattr(synapse, "weights", None), "shape", None)]
        said |= {int(shape[0]) for shape in shapes if shape is not None}
    if len(said) == 1 and group.size % max(1, *said) == 0:
        return said.pop()
    number = f"is said to be {' and '.join(map(str, sorted(said)))}" if said else "is not known"
    raise ValueError(
        f"{into_channels[0].tag} leads into channels of {group.tag}, whose number {number}: make its {group.size} "
        "neurons by NeuronDimension(depth=, height=, width=), with as many channels as the weights have"
    )
