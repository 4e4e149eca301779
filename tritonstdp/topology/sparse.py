"""The stored synapses of a sparse tensor, and the plan by which each neuron finds its own."""

from __future__ import annotations

import warnings
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tritonstdp.kernels.memory import address
from tritonstdp.topology.base import (
    MOST_NEURONS,
    WEIGHT_DTYPES,
    Examples,
    Needs,
    Part,
    Topology,
    check_weights,
    checked_size,
)
from tritonstdp.topology.parts import Picked, Selection, Window

__all__ = ["Sparse"]


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
    """The stored synapses of a sparse tensor, in its order; made by :meth:`Sparse.from_weights` or :meth:`Sparse.of`.

    The stored order runs along one side, the *major* one (post for CSC, pre for CSR and COO): the synapses of a major
    neuron lie next to each other, in any order. Those of a minor neuron are found through a permutation. The
    per-synapse indices are int32, 12 bytes a synapse together.

    A plan holds copies of the indices, checked once. What is written into its tensors in place afterwards is noticed at
    the next step, unless it is written past torch: through ``numpy()``, ``.data`` or the storage. What is written into
    the indices of the weights is not noticed (torch counts it together with what is written into their values), and the
    plan goes on describing the weights as they were: give them other index tensors, or plan anew.

    Where a plan is given, steps also take the values alone, ``(nnz,)`` in the stored order, as ``torch.compile`` needs
    them: it takes no sparse tensor.

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
    sizes: ClassVar[str] = "N_PRExN_POSTxSYNAPSES"
    examples: ClassVar[Examples] = Examples(
        compiled=(64, 64, 1024),
        metered=(512, 512, 26214),
        timed=((1000, 1000, 50_000), (10_000, 10_000, 1_000_000)),
        tuned=((1000, 1000, 65536), (4000, 4000, 262144), (10000, 10000, 1048576)),
    )
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
        n_pre, n_post = (checked_size(name, getattr(self, name), most=MOST_NEURONS) for name in ("n_pre", "n_post"))
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

    @classmethod
    def uneven_example(cls) -> Sparse:
        return cls.random(150, 130, 5850)

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> Sparse:
        cls.needs(sizes)
        n_pre, n_post, synapses = sizes
        return cls.random(n_pre, n_post, synapses)

    @classmethod
    def needs(cls, sizes: Sequence[int]) -> Needs:
        cls.check_sizes(sizes)
        n_pre, n_post, synapses = sizes
        if synapses > n_pre * n_post:
            pairs = f"{n_pre} and {n_post} neurons have {n_pre * n_post} pairs"
            raise ValueError(f"{pairs}, too few for {synapses} synapses: give fewer")
        return Needs(synapses, n_pre + n_post, 80 * synapses)

    @staticmethod
    def random(n_pre: int, n_post: int, synapses: int, layout: torch.layout = torch.sparse_csc) -> Sparse:
        """Plan a random connectivity, the same for the same arguments.

        Parameters
        ----------
        n_pre, n_post : int
            The numbers of neurons.
        synapses : int
            How many of their pairs have a synapse.
        layout : torch.layout
            ``torch.sparse_csc``, whose synapses are ordered by post neuron, or one that orders them by pre neuron.

        Returns
        -------
        Sparse
            The plan, on the CPU.

        Examples
        --------
        >>> plan = Sparse.random(20, 30, 60)
        >>> plan.pre_shape, plan.post_shape, plan.weights_shape
        ((20,), (30,), (60,))
        """
        post_is_major = layout is torch.sparse_csc
        n_major, n_minor = (n_post, n_pre) if post_is_major else (n_pre, n_post)
        pairs = _distinct(synapses, n_major * n_minor)
        starts = torch.searchsorted(pairs, n_minor * torch.arange(n_major + 1))
        return Sparse(n_pre, n_post, post_is_major, starts, pairs % max(n_minor, 1))

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
        if self._are_values(weights):
            return True
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

    def weights_of(self, values: Tensor) -> Tensor:
        layout = torch.sparse_csc if self.post_is_major else torch.sparse_csr
        shape = self.n_pre, self.n_post
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CS")  # torch announces that they are new
            return torch.sparse_compressed_tensor(
                self.major_start, self.minor_of.long(), values, shape,
                layout=layout, device=values.device, check_invariants=False,
            )  # fmt: skip

    def part(self, start: int, stop: int) -> Part:
        weights: Selection
        if self.post_is_major:
            starts = self.major_start[start : stop + 1]
            first, end = int(starts[0]), int(starts[-1])
            starts, minor = starts - first, self.minor_of[first:end]
            weights = Window(self.weights_shape, 0, first, end)
        else:
            own = (self.minor_of >= start) & (self.minor_of < stop)
            starts = torch.nn.functional.pad(own.cumsum(0), (1, 0))[self.major_start]
            minor, weights = self.minor_of[own] - start, Picked(own.nonzero().flatten())
        topology = Sparse(self.n_pre, stop - start, self.post_is_major, starts, minor)
        return Part(topology, weights, self.pres(start, stop), self.posts(start, stop))

    def _are_values(self, weights: Any) -> bool:
        """Whether they are the values alone, in the stored order."""
        return getattr(weights, "layout", None) is torch.strided and tuple(weights.shape) == self.weights_shape

    def ends(self) -> tuple[Tensor, Tensor]:
        counts = self.major_start.diff()
        major = torch.arange(len(counts), dtype=torch.int32, device=counts.device).repeat_interleave(counts)
        return (self.minor_of, major) if self.post_is_major else (major, self.minor_of)

    def entries_read(self, pre_spike: Tensor, post_spike: Tensor) -> dict[str, Tensor]:
        major, minor = (post_spike, pre_spike) if self.post_is_major else (pre_spike, post_spike)
        of_minor = torch.repeat_interleave(minor, self.minor_start.diff())
        of_major = torch.repeat_interleave(major, self.major_start.diff())
        return {"minor_of": of_major, "by_minor": of_minor, "major_by_minor": of_minor}

    def values(self, weights: Tensor) -> Tensor:
        if self._are_values(weights):
            return weights
        if getattr(weights, "dtype", None) not in WEIGHT_DTYPES or weights.layout not in _SPARSE_LAYOUTS:
            _check_sparse(weights)
        return weights._values() if weights.layout is torch.sparse_coo else weights.values()


def _distinct(count: int, below: int) -> Tensor:
    """So many different numbers below one, in order."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(max(below, 1), (count + count // 8 + 16,), generator=generator).unique()
    if len(drawn) < count:  # so many that most were drawn twice
        return torch.randperm(below, generator=generator)[:count].sort().values
    return drawn[torch.randperm(len(drawn), generator=generator)[:count].sort().values]


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
