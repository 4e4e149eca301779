"""Where tensors lie in memory, and views of what lies there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tritonstdp.kernels.memory import extent, span

__all__ = [
    "bytes_of",
    "in_memory_of",
    "kind_of",
    "memory_of",
    "parts_of",
    "place_of",
    "reach_of",
    "span_of",
    "view_of",
    "with_values",
]


def parts_of(tensor: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The values of a tensor, and its indices where it is sparse.

    Examples
    --------
    >>> parts_of(torch.eye(2).to_sparse_coo())
    (tensor([1., 1.]), [tensor([[0, 1], [0, 1]])])
    """
    if tensor.layout is torch.strided:
        return tensor, []
    if tensor.layout is torch.sparse_coo:
        return tensor._values(), [tensor._indices()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.values(), [tensor.ccol_indices(), tensor.row_indices()]
    return tensor.values(), [tensor.crow_indices(), tensor.col_indices()]


def with_values(tensor: Tensor, values: Tensor) -> Tensor:
    """A tensor with other values; a sparse one keeps its indices.

    Examples
    --------
    >>> with_values(torch.eye(2).to_sparse_coo(), torch.tensor([3.0, 4.0])).to_dense()
    tensor([[3., 0.], [0., 4.]])
    """
    indices = parts_of(tensor)[1]
    if not indices:
        return values
    if tensor.layout is torch.sparse_coo:
        is_sorted = tensor.is_coalesced()
        return torch.sparse_coo_tensor(indices[0], values, tensor.shape, is_coalesced=is_sorted, check_invariants=False)
    return torch.sparse_compressed_tensor(
        indices[0], indices[1], values, tensor.shape, layout=tensor.layout, check_invariants=False
    )


def kind_of(tensor: Tensor) -> dict[str, Any]:
    """The shape, the strides and the dtype of a strided tensor, for JSON; strides that mean nothing are 0.

    Examples
    --------
    >>> kind_of(torch.ones(2, 1))
    {'shape': [2, 1], 'strides': [1, 0], 'dtype': 'float32'}
    """
    strides = [s if n > 1 and tensor.numel() else 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True)]
    return {"shape": [*tensor.shape], "strides": strides, "dtype": str(tensor.dtype).removeprefix("torch.")}


def reach_of(kind: dict[str, Any]) -> int:
    """Over how many bytes a tensor of a kind reaches, from its first element to its last.

    Examples
    --------
    >>> reach_of(kind_of(torch.ones(3, 2)[:, 0]))
    20
    """
    return int(getattr(torch, kind["dtype"]).itemsize) * extent(tuple(kind["shape"]), tuple(kind["strides"]))


def span_of(tensor: Tensor) -> tuple[int, int]:
    """From which to which byte of its storage a tensor reaches.

    Examples
    --------
    >>> span_of(torch.ones(3)[1:])
    (4, 12)
    """
    start = int(tensor.storage_offset()) * tensor.itemsize
    return start, start + span(tensor)


def memory_of(tensor: Tensor) -> tuple[str, int]:
    """Which memory a tensor lies in; what has no elements lies in one of its own.

    Examples
    --------
    >>> memory_of(whole := torch.ones(3)) == memory_of(whole[1:])
    True
    """
    return str(tensor.device), tensor.untyped_storage().data_ptr() if tensor.numel() else -id(tensor)


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies and how: what is alike in this is one tensor.

    Examples
    --------
    >>> place_of(whole := torch.ones(3)) == place_of(whole[:]), place_of(whole) == place_of(whole[1:])
    (True, False)
    """
    return (*memory_of(tensor), *span_of(tensor), str(kind_of(tensor)))


def bytes_of(storage: torch.UntypedStorage, start: int, end: int) -> Tensor:
    """What lies from one byte of a storage to another; autograd does not count what is written there.

    Examples
    --------
    >>> bytes_of(torch.tensor([1, 2]).untyped_storage(), 8, 10)
    tensor([2, 0], dtype=torch.uint8)
    """
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, start, (end - start,), (1,))


def view_of(storage: torch.UntypedStorage, start: int, kind: dict[str, Any]) -> Tensor:
    """A tensor of a kind at a byte of a storage.

    Examples
    --------
    >>> view_of(torch.arange(4.0).untyped_storage(), 4, kind_of(torch.ones(2)))
    tensor([1., 2.])
    """
    empty = torch.empty(0, dtype=getattr(torch, kind["dtype"]), device=storage.device)
    return empty.set_(storage, start // empty.itemsize, tuple(kind["shape"]), tuple(kind["strides"]))


def in_memory_of(base: Tensor, start: int, kind: dict[str, Any], known: list[Tensor]) -> Tensor:
    """A tensor of a kind at a byte of another's memory: one that is known, or else a view.

    Examples
    --------
    >>> base = torch.arange(4.0)
    >>> known = base[1:3]
    >>> in_memory_of(base, 4, kind_of(known), [known]) is known, in_memory_of(base, 8, kind_of(known), [known])
    (True, tensor([2., 3.]))
    """
    wanted = view_of(base.untyped_storage(), start, kind)
    found = next((tensor for tensor in known if place_of(tensor) == place_of(wanted)), None)
    if found is not None:
        return found
    if base.dtype is not wanted.dtype:
        return wanted
    return base.as_strided(wanted.shape, wanted.stride(), wanted.storage_offset())  # whose version is the base's
