"""How the synapses of a group lie: the shape of their weights, what fits it, and where each neuron's synapses are."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = [
    "TOPOLOGIES",
    "Conv2d",
    "Dense",
    "Local2d",
    "OneToOne",
    "Sparse",
    "Topology",
    "example_topology",
    "infer_topology",
]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


@dataclass(frozen=True, eq=False)
class Topology:
    """What every topology offers to the kernels.

    Attributes
    ----------
    name : str
        The name under which the registry knows it.
    weights_shape : tuple of int
        The shape of the values that a kernel updates.
    pre_shape, post_shape : tuple of int
        The shapes of the vectors of spikes and traces on either side.
    """

    name: ClassVar[str] = ""
    weights_shape: tuple[int, ...] = field(init=False, repr=False)
    pre_shape: tuple[int] = field(init=False, repr=False)
    post_shape: tuple[int] = field(init=False, repr=False)

    def _set_shapes(self, weights: tuple[int, ...], n_pre: int, n_post: int) -> None:
        object.__setattr__(self, "weights_shape", weights)
        object.__setattr__(self, "pre_shape", (n_pre,))
        object.__setattr__(self, "post_shape", (n_post,))

    @property
    def kernel_key(self) -> Any:
        """What a kernel is specialised on beyond the topology's kind; None where one kernel serves all sizes."""
        return None

    def values(self, weights: Tensor) -> Tensor:
        """The tensor of values that a kernel updates: the weights themselves, unless they are sparse."""
        return weights

    def layout(self, values: Tensor) -> str:
        """How the values lie in memory, as far as kernels are specialised on it."""
        return "contiguous" if values.is_contiguous() else "strided"


@dataclass(frozen=True, eq=False)
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
    n_pre: int
    n_post: int

    def __post_init__(self) -> None:
        self._set_shapes((self.n_pre, self.n_post), self.n_pre, self.n_post)

    def layout(self, values: Tensor) -> str:
        """Which side's neurons have their synapses next to each other: "pre", "post", or neither ("strided")."""
        if values.is_contiguous():
            return "pre"
        pre_stride, post_stride = values.stride()
        return "pre" if post_stride == 1 else "post" if pre_stride == 1 else "strided"


@dataclass(frozen=True, eq=False)
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
    n: int

    def __post_init__(self) -> None:
        self._set_shapes((self.n,), self.n, self.n)


@dataclass(frozen=True, eq=False)
class _Patches(Topology):
    """The geometry that convolutional and local connections share."""

    src_shape: tuple[int, int, int]
    dst_shape: tuple[int, int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name in ("kernel_size", "stride", "padding"):
            object.__setattr__(self, name, _pair(getattr(self, name)))
        for name in ("src_shape", "dst_shape"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))
        self._check_sizes()
        fitting = tuple(
            (self.src_shape[k + 1] + 2 * self.padding[k] - self.kernel_size[k]) // self.stride[k] + 1 for k in (0, 1)
        )
        if fitting != self.dst_shape[1:]:
            raise ValueError(
                f"dst_shape {self.dst_shape} does not fit: src_shape {self.src_shape} with kernel_size "
                f"{self.kernel_size}, stride {self.stride} and padding {self.padding} gives height and width {fitting}"
            )
        n_pre = self.src_shape[0] * self.src_shape[1] * self.src_shape[2]
        n_post = self.dst_shape[0] * self.dst_shape[1] * self.dst_shape[2]
        self._set_shapes(self._shape_of_weights(), n_pre, n_post)

    def _check_sizes(self) -> None:
        for name in ("src_shape", "dst_shape"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} is {getattr(self, name)}: give (channels, height, width)")
        for name in ("src_shape", "dst_shape", "kernel_size", "stride"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: every size must be at least 1")
        if min(self.padding) < 0:
            raise ValueError(f"padding is {self.padding}: it can't be negative")

    def _shape_of_weights(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def kernel_key(self) -> Any:
        return self.kernel_size, self.stride


@dataclass(frozen=True, eq=False)
class Conv2d(_Patches):
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
    ValueError
        If the geometry does not give ``dst_shape``.

    Examples
    --------
    >>> Conv2d((1, 8, 8), (4, 6, 6), 3).weights_shape
    (4, 1, 3, 3)
    """

    name: ClassVar[str] = "conv2d"
    divisor: float | None = None

    def _shape_of_weights(self) -> tuple[int, ...]:
        return (self.dst_shape[0], self.src_shape[0], *self.kernel_size)

    @property
    def positions(self) -> int:
        """The number of output positions."""
        return self.dst_shape[1] * self.dst_shape[2]

    @property
    def weight_divisor(self) -> float:
        """What a summed change is divided by, as CoNeX's ``weight_divisor``: the given divisor, or else positions."""
        return self.positions if self.divisor is None else self.divisor


@dataclass(frozen=True, eq=False)
class Local2d(_Patches):
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
    ValueError
        If the geometry does not give ``dst_shape``.

    Examples
    --------
    >>> Local2d((2, 8, 8), (4, 6, 6), 3).weights_shape
    (4, 36, 18)
    """

    name: ClassVar[str] = "local2d"

    def _shape_of_weights(self) -> tuple[int, ...]:
        positions = self.dst_shape[1] * self.dst_shape[2]
        return (self.dst_shape[0], positions, self.src_shape[0] * self.kernel_size[0] * self.kernel_size[1])


def _check_indices(name: str, indices: Tensor, size: int) -> None:
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < size:
        raise ValueError(
            f"{name} reach from {int(indices.min())} to {int(indices.max())}: outside the {size} neurons of the shape"
        )


def _check_starts(name: str, starts: Tensor, nnz: int) -> None:
    if int(starts[0]) != 0 or int(starts[-1]) != nnz or bool((starts[1:] < starts[:-1]).any()):
        raise ValueError(f"{name} must rise from 0 to the number of synapses, {nnz}")


def _starts(neurons: Tensor, n: int) -> Tensor:
    """Where each neuron's entries start in a sorted list of neurons."""
    starts = neurons.new_zeros(n + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(neurons, minlength=n), 0, out=starts[1:])
    return starts


_SPARSE_LAYOUTS = (torch.sparse_csc, torch.sparse_csr, torch.sparse_coo)


def _index_tensors(weights: Tensor) -> tuple[Tensor, ...]:
    """The tensors that hold the connectivity: of the major neurons first, then of the minor ones."""
    if weights.layout is torch.sparse_csc:
        return weights.ccol_indices(), weights.row_indices()
    if weights.layout is torch.sparse_csr:
        return weights.crow_indices(), weights.col_indices()
    return (weights._indices(),)


def _major_and_minor(weights: Tensor) -> tuple[Tensor, Tensor]:
    """``(major_start, minor_of)`` of a tensor whose indices have been checked."""
    nnz = weights._nnz()
    if weights.layout is torch.sparse_coo:
        if not weights.is_coalesced():
            raise ValueError("the COO tensor is not coalesced: pass weights.coalesce()")
        pre, post = weights._indices()
        _check_indices("row indices", pre, weights.shape[0])
        _check_indices("column indices", post, weights.shape[1])
        if bool((pre[1:] < pre[:-1]).any()):
            raise ValueError("the COO tensor is marked coalesced, but its rows are not in order: coalesce it")
        return _starts(pre, weights.shape[0]), post
    starts, minor = _index_tensors(weights)
    post_is_major = weights.layout is torch.sparse_csc
    _check_starts("ccol_indices" if post_is_major else "crow_indices", starts, nnz)
    _check_indices("row_indices" if post_is_major else "col_indices", minor, weights.shape[0 if post_is_major else 1])
    return starts.to(torch.int64, copy=True), minor


INT32_SYNAPSES = 2**31 - 1
"""Up to so many synapses, a position among the values fits in int32."""


@dataclass(frozen=True, eq=False)
class Sparse(Topology):
    """The stored synapses of a sparse tensor, in its own order; made by :meth:`from_weights` or :meth:`of`.

    The stored order runs along one side, the *major* one (post for CSC, pre for CSR and COO): the synapses of a major
    neuron lie next to each other. Those of a minor neuron are found through a permutation. The per-synapse indices are
    int32, 12 bytes a synapse together.

    Attributes
    ----------
    n_pre, n_post : int
        The numbers of neurons.
    post_is_major : bool
        Whether the stored order runs along post neurons.
    major_start : Tensor
        Where each major neuron's synapses start; int64 ``(n_major + 1,)``.
    minor_of : Tensor
        The minor neuron of each stored synapse; int32 ``(nnz,)``.
    minor_start : Tensor
        Where each minor neuron's entries in ``by_minor`` start; int64 ``(n_minor + 1,)``.
    by_minor : Tensor
        The stored synapses ordered by minor neuron; int32 ``(nnz,)``, or int64 from 2**31 synapses on.
    major_by_minor : Tensor
        The major neuron of each entry of ``by_minor``; int32 ``(nnz,)``.

    Examples
    --------
    >>> weights = torch.eye(3).to_sparse_coo().coalesce()
    >>> Sparse.from_weights(weights).weights_shape
    (3,)
    """

    name: ClassVar[str] = "sparse"
    n_pre: int
    n_post: int
    post_is_major: bool
    major_start: Tensor = field(repr=False)
    minor_of: Tensor = field(repr=False)
    minor_start: Tensor = field(repr=False)
    by_minor: Tensor = field(repr=False)
    major_by_minor: Tensor = field(repr=False)
    _source: tuple[Any, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        self._set_shapes((self.minor_of.numel(),), self.n_pre, self.n_post)

    def __getstate__(self) -> dict[str, Any]:
        # a copy's tensors are others, and a weak reference can't be pickled
        return {**self.__dict__, "_source": ()}

    @property
    def kernel_key(self) -> Any:
        return self.post_is_major, self.by_minor.dtype is torch.int64

    @staticmethod
    def from_weights(weights: Tensor) -> Sparse:
        """Plan the synapses of a sparse tensor; valid as long as its connectivity stays (see :meth:`fits`).

        Parameters
        ----------
        weights : Tensor
            ``(n_pre, n_post)`` in CSC, CSR or coalesced COO layout.

        Returns
        -------
        Sparse
            The plan, on the tensor's device.

        Raises
        ------
        TypeError
            If the layout is another.
        ValueError
            If a COO tensor is not coalesced, an index lies outside the shape, or the tensor is not a plain matrix.

        Examples
        --------
        >>> weights = torch.tensor([[0.0, 0.5], [0.25, 0.75]]).to_sparse_coo().coalesce()
        >>> plan = Sparse.from_weights(weights)
        >>> plan.minor_of.tolist(), plan.by_minor.tolist()
        ([1, 0, 1], [1, 0, 2])
        """
        if weights.layout not in _SPARSE_LAYOUTS:
            raise TypeError(f"weights are {weights.layout}: pass a CSC, CSR or coalesced COO tensor")
        if weights.dim() != 2 or weights.dense_dim() != 0:
            raise ValueError(f"weights of shape {tuple(weights.shape)} are not a matrix (n_pre, n_post) of numbers")
        post_is_major = weights.layout is torch.sparse_csc
        n_pre, n_post = weights.shape
        n_major, n_minor = (n_post, n_pre) if post_is_major else (n_pre, n_post)
        major_start, minor = _major_and_minor(weights)
        wide = minor.numel() > INT32_SYNAPSES
        minor_of = minor.to(torch.int32, copy=True)
        by_minor = torch.argsort(minor_of, stable=True)
        neurons = torch.arange(n_major, dtype=torch.int32, device=minor.device)
        major_of = torch.repeat_interleave(neurons, major_start.diff(), output_size=minor.numel())
        indices = _index_tensors(weights)
        return Sparse(
            n_pre,
            n_post,
            post_is_major,
            major_start,
            minor_of,
            _starts(minor_of, n_minor),
            by_minor if wide else by_minor.to(torch.int32),
            major_of[by_minor],
            (weights.layout, *(_identity(t) for t in indices)),
        )

    @staticmethod
    def of(weights: Tensor) -> Sparse:
        """The plan of a sparse tensor: made at its first use, and kept as long as its index tensors live.

        Parameters
        ----------
        weights : Tensor
            As for :meth:`from_weights`. Tensors that share their indices share the plan.

        Returns
        -------
        Sparse
            The plan.

        Raises
        ------
        TypeError, ValueError
            As :meth:`from_weights`.

        Examples
        --------
        >>> weights = torch.eye(3).to_sparse_coo().coalesce()
        >>> Sparse.of(weights) is Sparse.of(weights.detach())
        True
        """
        if weights.layout not in _SPARSE_LAYOUTS:
            raise TypeError(f"weights are {weights.layout}: pass a CSC, CSR or coalesced COO tensor")
        indices = _index_tensors(weights)
        key = indices[-1].untyped_storage()
        plan = _PLANS.get(key)
        if plan is None or not plan._describes(weights, indices):
            plan = _PLANS[key] = Sparse.from_weights(weights)
        return plan

    def fits(self, weights: Tensor) -> bool:
        """Whether the plan still describes a tensor: the same index tensors. Costs a few microseconds.

        Parameters
        ----------
        weights : Tensor
            A sparse tensor.

        Returns
        -------
        bool
            False as well where the connectivity is equal but stands in other index tensors. Indices that are written
            to in place are not noticed: plan anew then.

        Examples
        --------
        >>> weights = torch.eye(3).to_sparse_coo().coalesce()
        >>> plan = Sparse.from_weights(weights)
        >>> plan.fits(weights), plan.fits(weights.clone())
        (True, False)
        """
        return weights.layout in _SPARSE_LAYOUTS and self._describes(weights, _index_tensors(weights))

    def _describes(self, weights: Tensor, indices: tuple[Tensor, ...]) -> bool:
        if not self._source:
            return False
        layout, *known = self._source
        if weights.layout is not layout or weights.shape != (self.n_pre, self.n_post):
            return False
        for (storage, address, size), tensor in zip(known, indices, strict=True):
            if tensor.data_ptr() != address or tensor.numel() != size or storage() is None:
                return False
        return True

    def values(self, weights: Tensor) -> Tensor:
        return weights._values() if weights.layout is torch.sparse_coo else weights.values()


def _identity(indices: Tensor) -> tuple[Any, ...]:
    """What tells an index tensor from others, without keeping it alive: an address alone may be used again."""
    return weakref.ref(indices.untyped_storage()), indices.data_ptr(), indices.numel()


_PLANS: weakref.WeakKeyDictionary[Any, Sparse] = weakref.WeakKeyDictionary()


TOPOLOGIES: dict[str, type[Topology]] = {kind.name: kind for kind in (Dense, OneToOne, Sparse, Conv2d, Local2d)}
"""The topologies by name."""


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
    ValueError
        If the weights alone do not tell, as for convolutions.

    Examples
    --------
    >>> infer_topology(torch.zeros(2, 3))
    Dense(n_pre=2, n_post=3)
    """
    if weights.layout != torch.strided:
        return Sparse.of(weights)
    return _topology_of_shape(weights.shape)


@lru_cache(maxsize=1024)
def _topology_of_shape(shape: tuple[int, ...]) -> Topology:
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
    if name == "sparse":
        return Sparse.from_weights(torch.eye(4).to_sparse_csr())
    if name in ("conv2d", "local2d"):
        return (Conv2d if name == "conv2d" else Local2d)((2, 6, 6), (2, 4, 4), (3, 3))
    return Dense(4, 4) if name == "dense" else OneToOne(4)
