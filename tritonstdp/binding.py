"""What is proved once for tensors of one kind, and what a step looks at every time.

A step's checks cost more than its loop where groups are small. Most of what they ask follows from a tensor's kind: its
class, dtype, device, shape, strides, whether it requires grad or is negated in name alone. torch compares all that in
one call. What is left are memory that has been taken away and tensors that have come to share it, which is proved once
for tensors that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from tritonstdp.kernels.memory import span
from tritonstdp.kernels.protocol import placed
from tritonstdp.topology import Topology

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # not a public part of torch: without it, every step takes the longer way
    TensorGuards = None  # type: ignore[assignment,misc]

_PLAIN = (Tensor, torch.nn.Parameter)
_address, _storage, _nbytes = Tensor.data_ptr, Tensor.untyped_storage, torch.UntypedStorage.nbytes
_MOST_PLACES = 128
"""Of tensors that are made anew at each step, as spikes often are, a few places come again and again."""


Step = TypeVar("Step", bound=Callable[..., None])


class Binding(Generic[Step]):
    """A step, and the kind of tensors that have been proved to fit it as they are.

    Parameters
    ----------
    step : callable
        The step.
    topology : weakref of Topology
        The topology; what gives None, for a step that takes none.
    tensors : tuple of Tensor
        What a step reads and writes, each once; proved to fit, and not kept alive. Which of them stand for several
        of a step's arguments is for the caller to tell.
    n_written : int
        How many of the first are written: 1, or 2.
    choice : Any
        What the step was chosen by, for whoever asks.
    """

    __slots__ = ("_alike", "_n_written", "_needed", "_placed", "_step", "_topology", "choice")

    def __init__(
        self,
        step: Step,
        topology: Callable[[], Topology | None],
        tensors: tuple[Tensor, ...],
        n_written: int,
        choice: Any = None,
    ) -> None:
        self._step, self.choice = step, choice
        self._topology = topology
        self._alike = TensorGuards(
            *tensors,
            dynamic_dims_sizes=[list(tensor.shape) for tensor in tensors],  # type: ignore[misc]
            dynamic_dims_strides=[list(tensor.stride()) for tensor in tensors],  # type: ignore[misc]
        )
        self._needed = tuple(span(tensor) for tensor in tensors)
        self._n_written = n_written
        self._placed: dict[tuple[int, ...], Step] = {}

    @staticmethod
    def can_hold(tensors: tuple[Tensor, ...]) -> bool:
        """Whether tensors are of a kind that a binding knows again."""
        return TensorGuards is not None and all(type(tensor) in _PLAIN for tensor in tensors)

    def step_for(self, topology: Topology | None, tensors: tuple[Tensor, ...], *arguments: Any) -> Step | None:
        """The step for some arguments, of which the tensors lie where they do.

        None unless they are of the kind that was proved to fit, have their memory, and share none that is written; also
        where that is hard to tell.
        """
        if self._topology() is not topology:
            return None
        try:
            # the comparison ends Python at a nested tensor
            if any([t.is_nested for t in tensors]) or not self._alike.check(*tensors):
                return None
            place = *map(_address, tensors), *map(_nbytes, map(_storage, tensors))
            step = self._placed.get(place)
            if step is not None:
                return step
            if not self._is_free(tensors):
                return None
        except (AttributeError, RuntimeError):  # the longer way says what is wrong
            return None
        if len(self._placed) >= _MOST_PLACES:
            self._placed.clear()
        step = self._placed[place] = placed(self._step, *arguments)
        return step

    def _is_free(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether tensors have their memory, and share none that is written."""
        written, also = tensors[0], tensors[1]
        begin, also_begin = written.data_ptr(), also.data_ptr()
        end = begin + self._needed[0]
        also_end = also_begin + self._needed[1] if self._n_written == 2 else 0
        for tensor, size in zip(tensors, self._needed, strict=True):
            if tensor.storage_offset() * tensor.itemsize + size > tensor.untyped_storage().nbytes():
                return False
            at = tensor.data_ptr()
            if at < end and begin < at + size and tensor is not written:
                return False
            if at < also_end and also_begin < at + size and tensor is not also:
                return False
        return True
