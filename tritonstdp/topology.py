"""How the synapses of a group lie: the shape of their weights, what fits it, and where each neuron's synapses are."""

from __future__ import annotations

import math
import operator
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tritonstdp.kernels.memory import address

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


WEIGHT_DTYPES = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
"""The dtypes that weights may have."""

MOST_ELEMENTS = 2**62
"""No more elements than that can be counted with the bytes that they take."""

MOST_NEURONS = 2**31 - 1
"""No more neurons than that can be told apart by the int32 indices of sparse synapses."""


def check_weights(name: str, weights: Any) -> None:
    """Refuse what can't be weights: anything but a tensor of a floating dtype.

    Parameters
    ----------
    name : str
        What the weights are to whoever passed them, for the message.
    weights : Tensor
        The weights, of any layout.

    Raises
    ------
    TypeError
        If they are no tensor, or of a dtype that is not in :data:`WEIGHT_DTYPES`.

    Examples
    --------
    >>> check_weights("weights", torch.zeros(2, 3))
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name} are {type(weights).__name__}, not a Tensor: pass torch.as_tensor({name})")
    if weights.dtype not in WEIGHT_DTYPES:
        wanted = "float16, bfloat16, float32 or float64"
        raise TypeError(f"{name} are {weights.dtype}: weights are {wanted}; pass {name}.to(torch.float32)")


def _int(value: Any) -> int:
    # a bool is an int to Python, and a tensor of one bool as well
    if isinstance(value, (bool, Tensor)):
        raise TypeError
    return operator.index(value)


def _size(name: str, value: Any, least: int = 0, most: int = MOST_ELEMENTS) -> int:
    try:
        size = _int(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}: give an int") from None
    if not least <= size <= most:
        raise ValueError(f"{name} is {size}: give an int from {least} to {most}")
    return size


def _sizes(name: str, value: Any, least: int, lengths: tuple[int, ...], wanted: str) -> tuple[int, ...]:
    many = isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, (str, bytes))
    try:
        sizes = tuple(_int(entry) for entry in (value if many else (value,)))
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


class _WeaklyReferable:
    # what dataclass(weakref_slot=True) does from Python 3.11 on
    __slots__ = ("__weakref__",)


@dataclass(frozen=True, eq=False, slots=True)
class Topology(_WeaklyReferable):
    """What every topology offers to the kernels.

    Kernels trust what a topology says, so it can't be changed once it is made: sizes are checked and shapes derived
    then, attributes can't be set, and there is no ``__dict__``. What ``object.__setattr__`` does to it all the same is
    not noticed, and leads kernels outside their tensors.

    Attributes
    ----------
    name : str
        The name under which the registry knows it.
    weights_shape : tuple of int
        The shape of the values that a kernel updates.
    pre_shape, post_shape : tuple of int
        The shapes of the vectors of spikes and traces on either side.
    shares_weights : bool
        Whether a weight serves several pairs of neurons.
    takes_strides : bool
        Whether compiled kernels take weights that are not contiguous.
    usual_layout : str
        The :meth:`layout` of contiguous weights.
    """

    name: ClassVar[str] = ""
    shares_weights: ClassVar[bool] = False
    takes_strides: ClassVar[bool] = False
    usual_layout: ClassVar[str] = "contiguous"
    weights_shape: tuple[int, ...] = field(init=False, repr=False)
    pre_shape: tuple[int] = field(init=False, repr=False)
    post_shape: tuple[int] = field(init=False, repr=False)

    def _set_shapes(self, weights: tuple[int, ...], n_pre: int, n_post: int) -> None:
        self._refuse_beyond("weights", *weights)
        self._refuse_beyond("pre neurons", n_pre)
        self._refuse_beyond("post neurons", n_post)
        self._set(weights_shape=weights, pre_shape=(n_pre,), post_shape=(n_post,))

    def _refuse_beyond(self, what: str, *shape: int) -> None:
        if math.prod(shape) > MOST_ELEMENTS:
            raise ValueError(f"{self} has {math.prod(shape)} {what}, more than 2**62: give smaller sizes")

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    @property
    def has_padding(self) -> bool:
        """Whether there are synapses without a pre neuron, whose signals and parameters count as 0."""
        return False

    @classmethod
    def example(cls) -> Topology:
        """A small topology of this kind, to ask about kernels without weights at hand."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        # copies and pickles go through the constructor, so that they are checked as well
        return type(self), tuple(getattr(self, f.name) for f in fields(self) if f.init)

    @property
    def kernel_key(self) -> Any:
        """What a kernel is specialised on beyond the topology's kind; None where one kernel serves all sizes."""
        return None

    def check(self) -> None:
        """Make sure that nothing was written into the topology's tensors since it was made; a step asks every time.

        Raises
        ------
        ValueError
            If something was (only :class:`Sparse` has tensors).
        """

    def values(self, weights: Tensor) -> Tensor:
        """The tensor of values that a kernel updates: the weights themselves, unless they are sparse.

        Raises
        ------
        TypeError
            If they are no tensor of a floating dtype, or of another layout.
        """
        if getattr(weights, "dtype", None) not in WEIGHT_DTYPES or weights.layout is not torch.strided:
            check_weights("weights", weights)
            raise TypeError(
                f"weights are {weights.layout}, {self.name} takes torch.strided: leave out topology=, or pass "
                "weights.to_dense()"
            )
        return weights

    def side_of(self, shape: Sequence[int]) -> str | None:
        """Whether a tensor that broadcasts to the weights has one value a "pre" or one a "post" neuron.

        Parameters
        ----------
        shape : sequence of int
            The tensor's shape.

        Returns
        -------
        str or None
            The side; None where its values are other ones, or the weights' shape does not tell.

        Examples
        --------
        >>> Dense(3, 5).side_of((5,)), Dense(3, 5).side_of((3, 1)), Dense(3, 5).side_of((3, 5))
        ('post', 'pre', None)
        """
        return None

    def layout(self, values: Tensor) -> str:
        """How the values lie in memory, as far as kernels are specialised on it."""
        return "contiguous" if values.is_contiguous() else "strided"


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
    n_pre: int
    n_post: int

    def __post_init__(self) -> None:
        n_pre, n_post = _size("n_pre", self.n_pre), _size("n_post", self.n_post)
        self._set(n_pre=n_pre, n_post=n_post)
        self._set_shapes((n_pre, n_post), n_pre, n_post)

    @classmethod
    def example(cls) -> Dense:
        return cls(4, 4)

    def side_of(self, shape: Sequence[int]) -> str | None:
        kinds = {(self.n_post,): "post", (1, self.n_post): "post", (self.n_pre, 1): "pre"}
        return kinds.get(tuple(shape))

    def layout(self, values: Tensor) -> str:
        """Which side's neurons have their synapses next to each other: "pre", "post", or neither ("strided")."""
        if values.is_contiguous():
            return "pre"
        pre_stride, post_stride = values.stride()
        return "pre" if post_stride == 1 else "post" if pre_stride == 1 else "strided"


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
    n: int

    def __post_init__(self) -> None:
        n = _size("n", self.n)
        self._set(n=n)
        self._set_shapes((n,), n, n)

    @classmethod
    def example(cls) -> OneToOne:
        return cls(4)

    def side_of(self, shape: Sequence[int]) -> str | None:
        return "post" if tuple(shape) == self.post_shape else None


@dataclass(frozen=True, eq=False, slots=True)
class _Patches(Topology):
    """The geometry that convolutional and local connections share."""

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

    @classmethod
    def example(cls) -> _Patches:
        return cls((2, 6, 6), (2, 4, 4), (3, 3))

    def _shape_of_weights(self) -> tuple[int, ...]:
        raise NotImplementedError

    @property
    def kernel_key(self) -> Any:
        return self.kernel_size, self.stride

    @property
    def has_padding(self) -> bool:
        return any(self.padding)


@dataclass(frozen=True, eq=False, slots=True)
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
    ValueError, TypeError
        If a size is no int or too small, the geometry does not give ``dst_shape``, or the divisor is no finite number
        other than 0.

    Examples
    --------
    >>> Conv2d((1, 8, 8), (4, 6, 6), 3).weights_shape
    (4, 1, 3, 3)
    """

    name: ClassVar[str] = "conv2d"
    shares_weights: ClassVar[bool] = True
    divisor: float | None = None

    def __post_init__(self) -> None:
        self._set(divisor=_divisor(self.divisor))
        _Patches.__post_init__(self)

    def _shape_of_weights(self) -> tuple[int, ...]:
        return (self.dst_shape[0], self.src_shape[0], *self.kernel_size)

    @property
    def positions(self) -> int:
        """The number of output positions, ``H_out * W_out``."""
        return self.dst_shape[1] * self.dst_shape[2]

    @property
    def weight_divisor(self) -> float:
        """What a summed change is divided by, under CoNeX's name for it: ``divisor``, or else ``positions``."""
        return float(self.positions if self.divisor is None else self.divisor)


@dataclass(frozen=True, eq=False, slots=True)
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
    ValueError, TypeError
        If a size is no int or too small, or the geometry does not give ``dst_shape``.

    Examples
    --------
    >>> Local2d((2, 8, 8), (4, 6, 6), 3).weights_shape
    (4, 36, 18)
    """

    name: ClassVar[str] = "local2d"

    def _shape_of_weights(self) -> tuple[int, ...]:
        positions = self.dst_shape[1] * self.dst_shape[2]
        return (self.dst_shape[0], positions, self.src_shape[0] * self.kernel_size[0] * self.kernel_size[1])

    def side_of(self, shape: Sequence[int]) -> str | None:
        return "post" if tuple(shape) == (*self.weights_shape[:2], 1) else None


def _index_vector(name: str, indices: Any, device: torch.device | None = None) -> Tensor:
    """Refuse what can't be a vector of indices that can be read."""
    wanted = "give a vector of int32 or int64"
    if not isinstance(indices, Tensor):
        raise TypeError(f"{name} is {type(indices).__name__}: {wanted}")
    if indices.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} is {indices.dtype}: {wanted}")
    if indices.layout is not torch.strided or indices.dim() != 1:
        raise ValueError(f"{name} is {indices.layout} of shape {tuple(indices.shape)}: {wanted}")
    if device is not None and indices.device != device:
        raise ValueError(f"{name} is on {indices.device}, major_start on {device}: move one of them")
    address(name, indices)
    return indices


def _check_range(name: str, indices: Tensor, size: int) -> None:
    if not indices.numel():
        return
    low, high = (int(n) for n in indices.aminmax())
    if not 0 <= low <= high < size:
        raise ValueError(f"{name} reaches from {low} to {high}: outside the {size} neurons of the shape")


def _check_starts(name: str, starts: Tensor, n: int, nnz: int) -> None:
    if starts.numel() != n + 1:
        raise ValueError(f"{name} has {starts.numel()} entries: {n} neurons need {n + 1}")
    if int(starts[0]) != 0 or int(starts[-1]) != nnz or bool((starts[1:] < starts[:-1]).any()):
        raise ValueError(f"{name} must rise from 0 to the number of synapses, {nnz}")


def _starts(neurons: Tensor, n: int) -> Tensor:
    """Where each neuron's entries start in a sorted list of neurons."""
    starts = neurons.new_zeros(n + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(neurons, minlength=n), 0, out=starts[1:])
    return starts


def _in_one_buffer(*tensors: Tensor) -> list[Tensor]:
    """Copies that lie in one buffer: whatever is written to one of them counts in the version that they share."""
    sizes = [-(-t.nbytes // _ALIGNMENT) * _ALIGNMENT for t in tensors]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=tensors[0].device)
    parts = [part[: t.nbytes].view(t.dtype) for part, t in zip(buffer.split(sizes), tensors, strict=True)]
    for part, tensor in zip(parts, tensors, strict=True):
        part.copy_(tensor)
    return parts


_ALIGNMENT = 64

_SPARSE_LAYOUTS = (torch.sparse_csc, torch.sparse_csr, torch.sparse_coo)


def _check_sparse(weights: Any) -> None:
    """Refuse what is no tensor of a sparse layout that can be planned."""
    check_weights("weights", weights)
    if weights.layout not in _SPARSE_LAYOUTS:
        raise TypeError(f"weights are {weights.layout}: pass a CSC, CSR or coalesced COO tensor")
    if weights.dim() != 2 or weights.dense_dim() != 0:
        raise ValueError(f"weights of shape {tuple(weights.shape)} are not a matrix (n_pre, n_post) of numbers")
    if weights.layout is torch.sparse_coo and not weights.is_coalesced():
        raise ValueError("the COO tensor is not coalesced: pass weights.coalesce()")


def _index_tensors(weights: Tensor) -> tuple[Tensor, ...]:
    """The tensors that hold the connectivity: of the major neurons first, then of the minor ones."""
    if weights.layout is torch.sparse_csc:
        return weights.ccol_indices(), weights.row_indices()
    if weights.layout is torch.sparse_csr:
        return weights.crow_indices(), weights.col_indices()
    return (weights._indices(),)


def _starts_and_minor(weights: Tensor) -> tuple[Tensor, Tensor]:
    """``(major_start, minor_of)`` of a sparse tensor, as they are."""
    if weights.layout is not torch.sparse_coo:
        starts, minor = _index_tensors(weights)
        return starts, minor
    rows, columns = weights._indices()
    _index_vector("the row indices", rows)
    _check_range("the row indices", rows, weights.shape[0])
    if bool((rows[1:] < rows[:-1]).any()):
        raise ValueError("the COO tensor is marked coalesced, but its rows are not in order: coalesce it")
    return _starts(rows, weights.shape[0]), columns


def _identity(weights: Tensor, indices: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """What tells the index tensors of a sparse tensor from others, as long as their storages live."""
    first, last = indices[0], indices[-1]
    return (
        weights.layout, weights.shape, first.data_ptr(), first.numel(), first.stride(), first.dtype,
        last.data_ptr(), last.numel(), last.stride(), last.dtype,
    )  # fmt: skip


class _Source(NamedTuple):
    """The index tensors that a plan was made from, without keeping them alive."""

    identity: tuple[Any, ...]
    first_storage: weakref.ref[Any]
    last_storage: weakref.ref[Any]


INT32_SYNAPSES = 2**31 - 1
"""Up to so many synapses, a position among the values fits in int32."""

_STARTS = "major_start (ccol_indices of CSC, crow_indices of CSR)"
_MINOR = "minor_of (row_indices of CSC, column indices of CSR and COO)"


@dataclass(frozen=True, eq=False, slots=True)
class Sparse(Topology):
    """The stored synapses of a sparse tensor, in its own order; made by :meth:`from_weights` or :meth:`of`.

    The stored order runs along one side, the *major* one (post for CSC, pre for CSR and COO): the synapses of a major
    neuron lie next to each other, in any order. Those of a minor neuron are found through a permutation. The
    per-synapse indices are int32, 12 bytes a synapse together.

    A plan holds copies of the indices, checked once. What is written into its tensors in place afterwards is noticed at
    the next step, unless it is written past torch: through ``numpy()``, ``.data`` or the storage. What is written into
    the indices of the weights is not noticed (torch counts it together with what is written into their values), and the
    plan goes on describing the weights as they were: give them other index tensors, or plan anew.

    Parameters
    ----------
    n_pre, n_post : int
        The numbers of neurons.
    post_is_major : bool
        Whether the stored order runs along post neurons.
    major_start : Tensor
        Where each major neuron's synapses start, ``(n_major + 1,)``; kept as int64.
    minor_of : Tensor
        The minor neuron of each stored synapse, ``(nnz,)``; kept as int32.

    Attributes
    ----------
    minor_start : Tensor
        Where each minor neuron's entries in ``by_minor`` start; int64 ``(n_minor + 1,)``.
    by_minor : Tensor
        The stored synapses ordered by minor neuron; int32 ``(nnz,)``, or int64 from 2**31 synapses on.
    major_by_minor : Tensor
        The major neuron of each entry of ``by_minor``; int32 ``(nnz,)``.

    Raises
    ------
    ValueError, TypeError
        If the indices are no connectivity: out of range or order, or a pair of neurons has several synapses.

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
    minor_start: Tensor = field(init=False, repr=False)
    by_minor: Tensor = field(init=False, repr=False)
    major_by_minor: Tensor = field(init=False, repr=False)
    _source: _Source | None = field(init=False, repr=False)
    _writes: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n_pre, n_post = (_size(name, getattr(self, name), most=MOST_NEURONS) for name in ("n_pre", "n_post"))
        if not isinstance(self.post_is_major, bool):
            raise TypeError(f"post_is_major is {self.post_is_major!r}: give True or False")
        n_major, n_minor = (n_post, n_pre) if self.post_is_major else (n_pre, n_post)
        starts = _index_vector(_STARTS, self.major_start)
        minor = _index_vector(_MINOR, self.minor_of, starts.device)
        nnz = minor.numel()
        _check_starts(_STARTS, starts, n_major, nnz)
        _check_range(_MINOR, minor, n_minor)
        # torch counts no writes to what is made in inference mode
        with torch.inference_mode(False):
            starts, minor = starts.to(torch.int64), minor.to(torch.int32)
            by_minor = torch.argsort(minor, stable=True)
            neurons = torch.arange(n_major, dtype=torch.int32, device=minor.device)
            major_by_minor = torch.repeat_interleave(neurons, starts.diff(), output_size=nnz)[by_minor]
            _refuse_twins(minor[by_minor], major_by_minor, self.post_is_major)
            by_minor = by_minor if nnz > INT32_SYNAPSES else by_minor.to(torch.int32)
            parts = _in_one_buffer(starts, minor, _starts(minor, n_minor), by_minor, major_by_minor)
        names = ("major_start", "minor_of", "minor_start", "by_minor", "major_by_minor")
        self._set(n_pre=n_pre, n_post=n_post, **dict(zip(names, parts, strict=True)))
        self._set(_source=None, _writes=parts[0]._version)
        self._set_shapes((nnz,), n_pre, n_post)

    @classmethod
    def example(cls) -> Sparse:
        return cls.from_weights(torch.eye(4, device="cpu").to_sparse_csr())

    def __reduce__(self) -> tuple[Any, ...]:
        # a part alone, without the buffer that it lies in; a copy was made from no weights
        return Sparse, (self.n_pre, self.n_post, self.post_is_major, self.major_start.clone(), self.minor_of.clone())

    @property
    def kernel_key(self) -> Any:
        return self.post_is_major, self.by_minor.dtype is torch.int64

    def check(self) -> None:
        if self.minor_of._version != self._writes:
            raise ValueError(
                "tensors of the plan have been written to since it was made: plan anew, by Sparse.of(weights)"
            )

    @staticmethod
    def from_weights(weights: Tensor) -> Sparse:
        """Plan the synapses of a sparse tensor; valid as long as its connectivity stays (see :meth:`fits`).

        Parameters
        ----------
        weights : Tensor
            ``(n_pre, n_post)`` in CSC, CSR or coalesced COO layout, with int32 or int64 indices. The synapses of one
            row or column may stand in any order.

        Returns
        -------
        Sparse
            The plan, on the tensor's device.

        Raises
        ------
        TypeError
            If it is no tensor, or its dtype or layout is another.
        ValueError
            If a COO tensor is not coalesced, an index lies outside the shape, a synapse is there twice, or the tensor
            is not a plain matrix with memory of its own.

        Examples
        --------
        >>> weights = torch.tensor([[0.0, 0.5], [0.25, 0.75]]).to_sparse_coo().coalesce()
        >>> plan = Sparse.from_weights(weights)
        >>> plan.minor_of.tolist(), plan.by_minor.tolist()
        ([1, 0, 1], [1, 0, 2])
        """
        _check_sparse(weights)
        indices = _index_tensors(weights)
        for tensor in indices:
            # a fake or meta tensor may say that it has no synapses
            address("weights' index tensor", tensor if tensor.numel() else tensor.new_zeros(1))
        (n_pre, n_post), post_is_major = weights.shape, weights.layout is torch.sparse_csc
        plan = Sparse(n_pre, n_post, post_is_major, *_starts_and_minor(weights))
        first, last = indices[0].untyped_storage(), indices[-1].untyped_storage()
        plan._set(_source=_Source(_identity(weights, indices), weakref.ref(first), weakref.ref(last)))
        return plan

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
        if getattr(weights, "layout", None) not in _SPARSE_LAYOUTS:
            _check_sparse(weights)
        indices = _index_tensors(weights)
        storage = indices[-1].untyped_storage()
        plans = _PLANS.get(storage)
        if plans is None:
            plans = _PLANS[storage] = OrderedDict()
        identity = _identity(weights, indices)
        plan = plans.get(identity)
        if plan is None or not plan._is_sound():
            plan = plans[identity] = Sparse.from_weights(weights)
            if len(plans) > PLANS_A_STORAGE:
                plans.popitem(last=False)
        plans.move_to_end(identity)
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
            False as well where the connectivity is equal but stands in other index tensors, or where the plan's own
            tensors have been written to. Indices that are written to in place are not noticed: plan anew then.

        Examples
        --------
        >>> weights = torch.eye(3).to_sparse_coo().coalesce()
        >>> plan = Sparse.from_weights(weights)
        >>> plan.fits(weights), plan.fits(weights.clone())
        (True, False)
        """
        if getattr(weights, "layout", None) not in _SPARSE_LAYOUTS:
            return False
        indices, source = _index_tensors(weights), self._source
        return source is not None and source.identity == _identity(weights, indices) and self._is_sound()

    def _is_sound(self) -> bool:
        """Whether what lies at the source's addresses is the source still, and the plan as it was made."""
        source = self._source
        return (
            source is not None
            and source.first_storage() is not None
            and source.last_storage() is not None
            and self.minor_of._version == self._writes
        )

    def values(self, weights: Tensor) -> Tensor:
        if getattr(weights, "dtype", None) not in WEIGHT_DTYPES or weights.layout not in _SPARSE_LAYOUTS:
            _check_sparse(weights)
        return weights._values() if weights.layout is torch.sparse_coo else weights.values()


def _refuse_twins(minor: Tensor, major: Tensor, post_is_major: bool) -> None:
    """Refuse pairs of neurons with several synapses; by minor and then by major neuron, these are neighbours."""
    twins = (minor[1:] == minor[:-1]) & (major[1:] == major[:-1])
    if not bool(twins.any()):
        return
    first = int(twins.nonzero()[0])
    pair = int(minor[first]), int(major[first])
    pre, post = pair if post_is_major else pair[::-1]
    raise ValueError(
        f"pre neuron {pre} and post neuron {post} have several synapses: give each pair one, such as their sum, by "
        "torch.sparse_coo_tensor(indices, values, shape).coalesce()"
    )


PLANS_A_STORAGE = 64
"""How many plans are kept for tensors whose indices lie in one storage; those that were used last."""

_PLANS: weakref.WeakKeyDictionary[Any, OrderedDict[tuple[Any, ...], Sparse]] = weakref.WeakKeyDictionary()


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
    return TOPOLOGIES[name].example()
