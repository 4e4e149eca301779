"""What is proved once for tensors of one kind, and what a step looks at every time.

A step's checks cost more than its loop where groups are small. Most of what they ask follows from a tensor's kind: its
class, dtype, device, shape, strides, whether it requires grad or is negated in name alone. torch compares all that in
one call. What is left are memory that has been taken away and tensors that have come to share it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from tritonstdp.kernels.memory import span
from tritonstdp.topology import Topology

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # not a public part of torch: without it, every step takes the longer way
    TensorGuards = None  # type: ignore[assignment,misc]

_PLAIN = (Tensor, torch.nn.Parameter)


Kernel = TypeVar("Kernel")


class Binding(Generic[Kernel]):
    """A kernel, and the kind of tensors that have been proved to fit it as they are.

    Parameters
    ----------
    choice : Choice or callable
        The kernel.
    topology : weakref of Topology
        The topology; what gives None, for a kernel that takes none.
    tensors : tuple of Tensor
        What a step reads and writes, each once; proved to fit, and not kept alive. Which of them stand for several
        of a step's arguments is for the caller to tell.
    n_written : int
        How many of the first are written: 1, or 2.
    """

    __slots__ = ("_alike", "_itemsizes", "_n_written", "_needed", "_topology", "choice")

    def __init__(
        self, choice: Kernel, topology: Callable[[], Topology | None], tensors: tuple[Tensor, ...], n_written: int
    ) -> None:
        self.choice = choice
        self._topology = topology
        self._alike = TensorGuards(
            *tensors,
            dynamic_dims_sizes=[list(tensor.shape) for tensor in tensors],  # type: ignore[misc]
            dynamic_dims_strides=[list(tensor.stride()) for tensor in tensors],  # type: ignore[misc]
        )
        self._itemsizes = tuple(tensor.itemsize for tensor in tensors)
        self._needed = tuple(span(tensor) for tensor in tensors)
        self._n_written = n_written

    @staticmethod
    def can_hold(tensors: tuple[Tensor, ...]) -> bool:
        """Whether tensors are of a kind that a binding knows again."""
        return TensorGuards is not None and all(type(tensor) in _PLAIN for tensor in tensors)

    def holds(self, topology: Topology | None, tensors: tuple[Tensor, ...]) -> bool:
        """Whether tensors are of the kind that was proved to fit, have their memory, and share none that is written.

        Where it is hard to tell, False.
        """
        if self._topology() is not topology:
            return False
        try:
            # the comparison below ends Python at a nested tensor
            return not any([t.is_nested for t in tensors]) and self._alike.check(*tensors) and self._is_free(tensors)
        except (AttributeError, RuntimeError):  # the longer way says what is wrong
            return False

    def _is_free(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether tensors have their memory, and share none that is written."""
        written, also = tensors[0], tensors[1]
        begin, also_begin = written.data_ptr(), also.data_ptr()
        end = begin + self._needed[0]
        also_end = also_begin + self._needed[1] if self._n_written == 2 else 0
        for tensor, itemsize, size in zip(tensors, self._itemsizes, self._needed):  # noqa: B905 (strict takes longer)
            if tensor.storage_offset() * itemsize + size > tensor.untyped_storage().nbytes():
                return False
            at = tensor.data_ptr()
            if at < end and begin < at + size and tensor is not written:
                return False
            if at < also_end and also_begin < at + size and tensor is not also:
                return False
        return True
