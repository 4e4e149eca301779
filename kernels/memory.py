"""Where a tensor's numbers lie: the one place that hands out addresses, so that each is proved before it is used."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor


@lru_cache(maxsize=4096)
def extent(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How many elements lie between a tensor's first and its last, both counted; 0 where it has none."""
    if 0 in shape:
        return 0
    return 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))


def address(name: str, tensor: Tensor) -> int:
    """The address of a tensor's first element, once it is sure that all its elements have memory.

    Parameters
    ----------
    name : str
        What the tensor is to whoever passed it, for the message.
    tensor : Tensor
        The tensor.

    Returns
    -------
    int
        The address; of no use where the tensor has no elements.

    Raises
    ------
    ValueError
        If the tensor has no memory of its own: a fake or meta tensor, a wrapper subclass, a functional transform's
        tensor, a tensor of implicit zeros, or one whose storage has been resized to less than it needs.
    """
    try:
        pointer, offset, itemsize = tensor.data_ptr(), tensor.storage_offset(), tensor.itemsize
        needed = tensor.numel() if tensor.is_contiguous() else extent(tensor.shape, tensor.stride())
        # of a storage without memory, the pointer is nothing but the offset
        has_memory = pointer > offset * itemsize and (offset + needed) * itemsize <= tensor.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        has_memory, needed, pointer = False, 1, 0
    if needed and not has_memory:
        raise ValueError(
            f"{name} ({type(tensor).__name__}, shape {tuple(tensor.shape)}) has no memory of its own for all its "
            "elements: pass a plain tensor that holds its numbers, such as a clone"
        )
    return pointer
