"""Where a tensor's numbers lie: the one place that proves that a tensor has memory, of its own where it is written.

What a step is given is proved before a kernel sees it (:mod:`tritonstdp.functional`), so that kernels take
``data_ptr()`` for what it says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
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
        pointer, before = tensor.data_ptr(), tensor.storage_offset()
        if before:
            before *= tensor.itemsize
        needed = tensor.nbytes if tensor.is_contiguous() else span(tensor)
        # of a storage without memory, the pointer is nothing but the offset
        has_memory = pointer > before and before + needed <= tensor.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        has_memory, needed, pointer = False, 1, 0
    if needed and not has_memory:
        raise ValueError(
            f"{name} ({type(tensor).__name__}, shape {tuple(tensor.shape)}) has no memory of its own for all its "
            "elements: pass a plain tensor that holds its numbers, such as a clone"
        )
    return pointer


def span(tensor: Tensor) -> int:
    """How many bytes lie between the first and the last that a tensor names, both counted."""
    if tensor.is_contiguous():
        return tensor.numel() * tensor.itemsize
    return extent(tensor.shape, tensor.stride()) * tensor.itemsize


def check_apart(name: str, written: Tensor, others: tuple[tuple[str, Tensor], ...]) -> None:
    """Refuse a tensor that is to be written in place while it shares memory, with itself or with what is read.

    Parameters
    ----------
    name : str
        What the tensor is to whoever passed it, for the message.
    written : Tensor
        The tensor.
    others : tuple of (str, Tensor)
        What a step reads or writes beside it, with names.

    Raises
    ------
    ValueError
        If two of its elements lie at one address, or it overlaps another tensor.
    """
    try:
        begin = written.data_ptr()
        if not begin:  # no memory, as on the meta device
            return
        contiguous = written.is_contiguous()
        if not contiguous and meets_itself(written.shape, written.stride()):
            raise ValueError(
                f"{name} has several elements at one address (shape {tuple(written.shape)}, strides "
                f"{written.stride()}), as expanded tensors have: pass {name}.clone()"
            )
        end = begin + (written.nbytes if contiguous else span(written))
        for other_name, other in others:
            start = other.data_ptr()
            if start >= end or (start + other.nbytes <= begin and other.is_contiguous()):
                continue
            if begin < start + span(other) and _meet(start - begin, _form(written), _form(other)):
                for what, tensor in ((name, written), (other_name, other)):
                    address(what, tensor)  # beyond a storage that is too short lies what is another's
                raise ValueError(f"{name} shares memory with {other_name}, and is written in place: clone one of them")
    except (RuntimeError, NotImplementedError):
        for what, tensor in ((name, written), *others):
            address(what, tensor)
        raise


@lru_cache(maxsize=1024)
def meets_itself(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether two elements of a strided tensor lie at one address; where that is hard to tell, True."""
    if 0 in shape:
        return False
    axes = sorted((step, n) for step, n in zip(stride, shape, strict=True) if n > 1)
    reach = 0
    for step, n in axes:
        if step <= reach:
            break
        reach += step * (n - 1)
    else:
        return False
    if len(axes) != 2 or axes[0][0] == 0:
        return True
    (step, n), (other_step, other_n) = axes
    divisor = gcd(step, other_step)
    return other_step // divisor < n and step // divisor < other_n


class _Form(NamedTuple):
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    itemsize: int


def _form(tensor: Tensor) -> _Form:
    return _Form(tuple(tensor.shape), tensor.stride(), tensor.itemsize)


@lru_cache(maxsize=1024)
def _meet(distance: int, form: _Form, other: _Form) -> bool:
    """Whether two tensors, the second so many bytes behind the first, have a byte in common."""
    try:
        return np.shares_memory(_placed(0, form), _placed(distance, other), max_work=10_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


_SOMEWHERE = 1 << 46
"""An address for arrays that nobody reads: numpy compares where they lie."""


def _placed(distance: int, form: _Form) -> Any:
    class Placed:
        __array_interface__ = {  # noqa: RUF012
            "version": 3,
            "typestr": f"|V{form.itemsize}",
            "shape": form.shape,
            "strides": tuple(step * form.itemsize for step in form.stride),
            "data": (_SOMEWHERE + distance, False),
        }

    return np.asarray(Placed())


Made = TypeVar("Made")
Kept = WeakKeyDictionary[Any, dict[Any, Any]]


def kept_with(kept: Kept, owner: Any, key: Any, make: Callable[..., Made], *arguments: Any) -> Made:
    """What is made once and kept as long as its owner, so that a captured graph finds it where it was.

    Parameters
    ----------
    kept : WeakKeyDictionary
        Where.
    owner : object
        Which decides how long.
    key : hashable
        What else decides what is made.
    make : callable
        Makes it, of the arguments.

    Returns
    -------
    object
        What was made.
    """
    try:
        found: Made = kept[owner][key]
    except KeyError:
        found = kept.setdefault(owner, {})[key] = make(*arguments)
    return found
