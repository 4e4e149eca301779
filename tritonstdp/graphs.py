"""An iteration of a PymoNNtorch network as a CUDA graph: replayed, none of its Python runs again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tritonstdp.state import attributes, name_of, owners

__all__ = ["CapturedNetwork", "capture", "obstacles"]


class CapturedNetwork:
    """A network whose iteration is a CUDA graph; made by :func:`capture`.

    Attributes
    ----------
    network : Network
        The network; its tensors are where they were, and hold the state of the last step.
    """

    def __init__(self, network: Any, graph: Any) -> None:
        self.network, self._graph = network, graph

    def simulate_iterations(self, iterations: int = 1) -> None:
        """Let the network go on.

        Parameters
        ----------
        iterations : int
            By how many steps.
        """
        for _ in range(iterations):
            self._graph.replay()
            self.network.iteration += 1


def capture(network: Any, warm_up: int = 3) -> CapturedNetwork:
    """Capture one iteration of a network on a GPU, to replay it from then on.

    The network first goes on by ``warm_up`` iterations, which compile what they need, and by one that is looked at. A
    tensor that a behavior replaces by another at each step, as ``neurons.spikes = neurons.v > 1``, stays where it was:
    at the end of the captured iteration the new one is copied into it.

    Parameters
    ----------
    network : Network
        An initialized network whose tensors are on a CUDA device.
    warm_up : int
        How many iterations to run before.

    Returns
    -------
    CapturedNetwork
        What replays it. Numbers that Python reads, as a parameter or ``behavior_enabled``, stay what they were: give
        parameters that are to change as 0-d tensors. What draws random numbers uses torch's own generator of the
        device, or a ``torch.Generator`` that is an attribute of a behavior.

    Raises
    ------
    ValueError
        If the network is not on a CUDA device, or :func:`tritonstdp.graphs.obstacles` finds something: the message
        names the behaviors.

    Notes
    -----
    ``tritonstdp verify --device cuda`` compares a captured network with one that runs: on an H200 they ended alike.

    Examples
    --------
    >>> captured = capture(network)  # doctest: +SKIP
    >>> captured.simulate_iterations(1000)  # doctest: +SKIP
    """
    device = torch.device(network.device)
    if device.type != "cuda":
        raise ValueError(f"the network is on {device}: a CUDA graph needs a CUDA device; make it with device='cuda'")
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            network.simulate_iteration()
        found = obstacles(network)
    torch.cuda.current_stream(device).wait_stream(stream)
    if found:
        raise ValueError("the network can't be captured:\n  " + "\n  ".join(found))
    graph = torch.cuda.CUDAGraph()
    for generator in _generators(network):
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=stream):
        iterate_in_place(network)
    network.iteration -= 1  # which was captured, and not run
    return CapturedNetwork(network, graph)


def iterate_in_place(network: Any) -> None:
    """Run one iteration, at whose end each tensor lies where it lay before.

    Parameters
    ----------
    network : Network
        The network, without :func:`obstacles`.
    """
    bound = list(_bound_tensors(network))
    network.simulate_iteration()
    replaced = [(place, new) for place in bound if (new := place.now) is not place.tensor]
    kept = {place.tensor.untyped_storage().data_ptr() for place in bound}
    # a tensor that is copied from may be one that was copied to before
    news = [new.clone() if new.untyped_storage().data_ptr() in kept else new for _, new in replaced]
    for (place, _), new in zip(replaced, news, strict=True):
        place.tensor.copy_(new)
        setattr(place.owner, place.name, place.tensor)


def obstacles(network: Any) -> list[str]:
    """What keeps a network from being captured, found by running one iteration.

    Parameters
    ----------
    network : Network
        An initialized network that has run before, on any device: what waits for a GPU can be told without one.

    Returns
    -------
    list of str
        For each obstacle, the behavior or the object, what it does, and what to do; empty where there is none. What
        Python keeps elsewhere than in attributes, or in lists and dicts of them, and what it reads of files or a
        clock, is not seen.

    Examples
    --------
    >>> from pymonntorch import Behavior, Network, NeuronGroup
    >>> class Counting(Behavior):
    ...     def initialize(self, neurons):
    ...         neurons.spikes, self.count = torch.zeros(neurons.size) > 0, 0
    ...     def forward(self, neurons):
    ...         self.count += int(neurons.spikes.sum())
    >>> network = Network()
    >>> _ = NeuronGroup(3, network, behavior={1: Counting()}, tag="cells")
    >>> network.initialize(info=False)
    >>> for found in obstacles(network):
    ...     print(found)
    Counting of cells waits for the device (aten._local_scalar_dense.default): keep what it reads in tensors
    """
    found: list[str] = []
    bound, numbers, drawn = list(_bound_tensors(network)), dict(_numbers(network)), _random_states(network)
    kept = {key: _tensors_in(value) for key, value in _containers(network)}
    network.iteration += 1
    for _, parent, behavior in network.sorted_behavior_execution_list:
        if not behavior.behavior_enabled or behavior.empty_iteration_function:
            continue
        name = f"{type(behavior).__name__} of {name_of(parent)}"
        with _watched_clock(network) as reads, _Watch() as watch:
            behavior(parent)
        if reads and not type(behavior).__module__.startswith("tritonstdp."):
            watch.found.append("reads network.iteration, which is a number of Python's: keep a tensor that counts")
        found += [f"{name} {text}" for text in dict.fromkeys(watch.found)]
    for place in bound:
        new = place.now
        if not isinstance(new, Tensor) or not _is_like(new, place.tensor):
            where = f"{name_of(place.owner)}.{place.name}"
            found.append(f"{where} changes its shape, its kind or its device: keep one tensor, and write into it")
    for (owner, name), (number, of) in numbers.items():
        now = of.__dict__.get(name)
        if now != number and (now == now or number == number):
            found.append(f"{owner}.{name} changes from {number} to {now} in Python: keep it in a tensor")
    for key, value in _containers(network):
        if list(map(id, _tensors_in(value))) != list(map(id, kept.get(key, ()))):
            found.append(f"{key[0]}.{key[1]} is a {type(value).__name__} whose tensors change: keep them as attributes")
    if any(a != b for a, b in zip(drawn, _random_states(network), strict=True)):
        found.append("random numbers are drawn on the host: keep draws on the device, by torch's own generator of it")
    return found


@contextmanager
def _watched_clock(network: Any) -> Iterator[list[int]]:
    """Note meanwhile who reads the number of the iteration, which a graph holds as it was when it was captured."""
    reads: list[int] = []

    def read(self: Any) -> int:
        reads.append(self.__dict__["_iteration"])
        return reads[-1]

    kind = type(network)
    clock = property(read, lambda self, value: self.__dict__.update(_iteration=value))
    network.__class__ = type(kind.__name__, (kind,), {"_iteration": clock})
    try:
        yield reads
    finally:
        network.__class__ = kind


def _random_states(network: Any) -> list[Any]:
    """The states of what draws random numbers on the host; of torch's own, where the network is elsewhere."""
    states: list[Any] = [random.getstate(), str(np.random.get_state())]
    if torch.device(network.device).type != "cpu":
        states.append(torch.get_rng_state().tolist())
        hosts = (value for value in _values(network) if isinstance(value, torch.Generator))
        states += [value.get_state().tolist() for value in hosts if value.device.type == "cpu"]
    return states


def _values(network: Any) -> Iterator[Any]:
    for owner in owners(network):
        yield from (value for _, _, value in attributes(owner))


def _containers(network: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    for owner in owners(network):
        for _, name, value in attributes(owner):
            if isinstance(value, (list, tuple, dict)):
                yield (f"{type(owner).__name__} {name_of(owner)}", name), value


def _tensors_in(container: Iterable[Any]) -> list[Tensor]:
    values = container.values() if isinstance(container, dict) else container
    return [value for value in values if isinstance(value, Tensor)]


class _Place(NamedTuple):
    """An attribute that is a tensor."""

    owner: Any
    name: str
    tensor: Tensor

    @property
    def now(self) -> Any:
        return getattr(self.owner, self.name, None)


def _bound_tensors(network: Any) -> Iterator[_Place]:
    for owner in owners(network):
        yield from (_Place(owner, name, value) for _, name, value in attributes(owner) if isinstance(value, Tensor))


_COUNTED = ("iteration", "_iteration")


def _numbers(network: Any) -> Iterator[tuple[tuple[str, str], tuple[Any, Any]]]:
    for owner in owners(network):
        for _, name, value in attributes(owner):
            if isinstance(value, (bool, int, float, str)) and name not in _COUNTED:
                yield (f"{type(owner).__name__} {name_of(owner)}", name), (value, owner)


def _generators(network: Any) -> list[torch.Generator]:
    return [value for value in _values(network) if isinstance(value, torch.Generator) and value.device.type == "cuda"]


def _is_like(new: Tensor, old: Tensor) -> bool:
    if new is old:
        return True
    plain = new.layout is torch.strided and old.layout is torch.strided
    return plain and new.shape == old.shape and new.dtype is old.dtype and new.device == old.device


_WAITING = frozenset(
    ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "bincount", "_unique", "_unique2",
     "unique_dim", "unique_consecutive", "unique_dim_consecutive")
)  # fmt: skip
"""Operators whose result, or its size, the host has to know."""


class _Watch(TorchDispatchMode):
    """Notes what operators do that a graph can't hold."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        name, keywords = operator.overloadpacket.__name__, keywords or {}
        if name in _WAITING or _waits(name, arguments, keywords):
            self.found.append(f"waits for the device ({operator}): keep what it reads in tensors")
        result = operator(*arguments, **keywords)
        if isinstance(result, Tensor):
            others = {each.device.type for each in arguments if isinstance(each, Tensor) and each.dim()}
            if name in ("copy_", "_to_copy") and len({result.device.type, *others}) > 1:
                self.found.append(f"moves a tensor between devices ({operator}): keep it on the network's")
        return result


def _waits(name: str, arguments: Sequence[Any], keywords: dict[str, Any]) -> bool:
    if name == "repeat_interleave":
        return keywords.get("output_size") is None
    if name not in ("index", "index_put", "index_put_") or not _has_mask(arguments[1]):
        return False
    # one number at a mask, as of v[spikes] = 0.0, is filled in without a look at how many there are
    is_filled = name != "index" and len(arguments[1]) == 1 and arguments[2].numel() == 1
    return not is_filled


def _has_mask(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)
