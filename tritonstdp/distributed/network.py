"""A PymoNNtorch network over several processes: each rank has a slice of each group of neurons, and what leads into it.

Behaviors see a slice where neurons are post neurons, and all where they are pre neurons: their spikes, which come from
all ranks once a step, and what is kept of spikes, which each rank keeps of all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from pymonntorch import Behavior
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tritonstdp.distributed.exchange import Exchange, ExchangeError
from tritonstdp.distributed.slices import bounds_of, shard, this_rank

__all__ = ["shard_network"]

KEPT_OF_SPIKES = ("SpikeTrace", "NeuronAxon")
"""Behaviors of neurons that read spikes alone, and that synapses read: each rank has them of all pre neurons."""


def shard_network(network: Any, *, whole: Collection[Any] = (), timeout: float = 300.0) -> None:
    """Deal a network out among the ranks; the line before ``network.initialize()``.

    Each group of neurons keeps this rank's slice: its ``size``, what ``vector`` gives, and the columns of dense or
    sparse weights into it, of those that are set already and those that behaviors draw. Once all neurons have fired
    in a step, the spikes of all ranks are exchanged, which ``synapse.src`` has from then on.

    Parameters
    ----------
    network : Network
        With all its groups and behaviors; not initialized yet.
    whole : collection of NeuronGroup
        Groups that every rank simulates whole, as inputs that it draws or reads; they are not exchanged.
    timeout : float
        As for :class:`Exchange`.

    Raises
    ------
    ValueError
        If the network is initialized, its synapses join parts of groups, or its weights are neither dense nor sparse,
        or of PymoNNtorch's mode DxS.
    ExchangeError
        In a step, on all ranks, as :class:`Exchange`.

    Notes
    -----
    A behavior of neurons has to treat them alike, as it sees a slice: what tells them apart comes from ``neurons.id``,
    or the group stays whole. Random numbers are those of one process: ``neurons.vector("rand")``,
    ``synapse.matrix(...)`` and ``torch.rand(neurons.size)`` draw for all ranks' neurons, and a rank keeps its own, of a
    matrix some rows at a time. What draws for a tensor that is there, as ``torch.rand_like``, is refused.

    Examples
    --------
    >>> from pymonntorch import Network, NeuronGroup
    >>> network = Network()
    >>> cells = NeuronGroup(3, network)
    >>> shard_network(network)
    >>> network.initialize(info=False)
    >>> cells.size
    3
    """
    if network.Structures and network.sub_structures:
        raise ValueError("the network is initialized already: call shard_network before network.initialize()")
    if not network.transposed_synapse_matrix_mode:
        raise ValueError("the network has weights (n_post, n_pre): make it in PymoNNtorch's mode SxD")
    slices = {group: _Slice(group) for group in network.NeuronGroups if group not in whole}
    seen = {group: _Everyone(group) for group in slices}
    for synapse in network.SynapseGroups:
        for neurons in (synapse.src, synapse.dst):
            if neurons not in slices and neurons.BaseNeuronGroup in slices:
                raise ValueError(f"{synapse.tag} is of a part of {neurons.BaseNeuronGroup.tag}: connect whole groups")
        _cut(synapse, slices)
    for own in slices.values():
        own.take()
    for synapse in network.SynapseGroups:
        if synapse.src in seen:
            everyone = seen[synapse.src]
            del synapse.src  # a module to torch, in whose place nothing else can be set
            synapse.__dict__["src"] = everyone
    exchange = SpikeExchange([*seen.values()], timeout)
    last = max((key for key, parent, _ in network.sorted_behavior_execution_list if parent in slices), default=0)
    network.add_behavior(last + 0.5, exchange, initialize=False)
    for name in ("initialize", "simulate_iteration", "simulate_iterations"):
        setattr(network, name, partial(_watched, getattr(network, name), exchange))


class SpikeExchange(Behavior):
    """Give all ranks the spikes of all neurons; added by :func:`shard_network` behind what makes neurons fire.

    Attributes
    ----------
    exchange : Exchange
        What carries them.
    """

    def __init__(self, everyone: list[_Everyone], timeout: float) -> None:
        super().__init__()
        self.everyone, self.timeout = everyone, timeout
        self.exchange: Exchange | None = None

    def initialize(self, network: Any) -> None:
        for each in self.everyone:
            if not isinstance(getattr(each.group, "spikes", None), Tensor):
                each.group.spikes = each.group.vector(0).bool()
        self.exchange = Exchange(_Owner(network, [each.group for each in self.everyone]), timeout=self.timeout)
        self._share()
        for each in self.everyone:
            each.begin()

    def forward(self, network: Any) -> None:
        self._share()
        for each in self.everyone:
            each.go_on()

    def _share(self) -> None:
        assert self.exchange is not None
        if not self.everyone:
            return
        fired = self.exchange(torch.cat([each.group.spikes for each in self.everyone]))
        for each, spikes in zip(self.everyone, fired.split([each.size for each in self.everyone]), strict=True):
            each.spikes = spikes.clone()


class _Size(int):
    """The number of a rank's neurons, which knows of how many they are a slice."""

    whole: int
    start: int


class _Slice:
    """What becomes of a group of neurons."""

    def __init__(self, group: Any) -> None:
        rank, size = this_rank()
        self.group, self.n = group, int(group.size)
        self.start, self.stop = bounds_of(self.n, size)[rank]

    def take(self) -> None:
        size = _Size(self.stop - self.start)
        size.whole, size.start = self.n, self.start
        self.group.size = size
        for name, value in list(self.group.__dict__.items()):
            if isinstance(value, Tensor) and tuple(value.shape) == (self.n,):  # as its id
                setattr(self.group, name, value[self.start : self.stop].clone())


def _cut(synapse: Any, slices: dict[Any, _Slice]) -> None:
    """Keep this rank's columns of weights that are there already."""
    weights = getattr(synapse, "weights", None)
    if weights is None or synapse.dst not in slices:
        return
    if tuple(weights.shape) != (synapse.src.size, synapse.dst.size):
        raise ValueError(
            f"the weights of {synapse.tag} have shape {tuple(weights.shape)}: a network is dealt out where they are "
            f"{(synapse.src.size, synapse.dst.size)}, dense or sparse"
        )
    part = shard(weights)
    assert part.topology is not None
    synapse.weights = part.topology.weights_of(part.weights)


class _Everyone:
    """A group of neurons as its efferent synapses see it: all neurons of all ranks."""

    def __init__(self, group: Any) -> None:
        self.group, self.size = group, int(group.size)
        self.spikes: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "group":
            raise AttributeError(name)
        value = getattr(self.group, name)
        if isinstance(value, Tensor) or name == "axon":
            raise AttributeError(f"{name} of {self.group.tag} is of this rank's neurons: others' are not known here")
        return value

    def vector(self, *given: Any, **options: Any) -> Tensor:
        vector: Tensor = type(self.group).vector(self, *given, **options)
        return vector

    def vector_buffer(self, *given: Any, **options: Any) -> Tensor:
        buffer: Tensor = type(self.group).vector_buffer(self, *given, **options)
        return buffer

    def begin(self) -> None:
        """Keep of all neurons what the group keeps of its spikes."""
        of_group = sorted(self.group.behavior.items())
        self._keepers = [copy.copy(b) for _, b in of_group if type(b).__name__ in KEPT_OF_SPIKES]
        for keeper in self._keepers:
            keeper.initialize(self)

    def go_on(self) -> None:
        for keeper in self._keepers:
            keeper.forward(self)


class _Owner:
    """The neurons of all groups, one after the other, as an exchange carries their spikes."""

    def __init__(self, network: Any, groups: list[Any]) -> None:
        self.sizes, self.n_post = [group.size.whole for group in groups], sum(int(group.size) for group in groups)
        self.device = torch.device(network.device)
        behaviors = network.sorted_behavior_execution_list
        kinds = [f"{type(parent).__name__} {key} {type(behavior).__name__}" for key, parent, behavior in behaviors]
        said = f"{self.sizes} {network.def_dtype} {this_rank()[1]}"
        self.facts = {"network": said, "rule": " ".join(kinds), "seed": str(torch.initial_seed())}

    def neurons_of(self, rank: int) -> Tensor:
        """The numbers of a rank's neurons, those of the first group first."""
        bounds = [bounds_of(size, this_rank()[1])[rank] for size in self.sizes]
        offsets = [sum(self.sizes[:k]) for k in range(len(self.sizes))]
        return torch.cat([torch.arange(*each) + offset for each, offset in zip(bounds, offsets, strict=True)])


def _watched(call: Callable[..., Any], exchange: SpikeExchange, *given: Any, **options: Any) -> Any:
    """Do what a network does: with random numbers as of one process, and if this rank fails, the others get to know."""
    try:
        with _Draws():
            done = call(*given, **options)
        if call.__name__ == "simulate_iterations" and exchange.exchange is not None:
            exchange.exchange.meet()
        return done
    except ExchangeError:
        raise
    except BaseException as error:
        if exchange.exchange is not None:
            exchange.exchange.give_up(error)
        raise


DRAWS = frozenset((torch.rand, torch.randn, torch.normal, torch.randint))
REFUSED = frozenset((
    torch.rand_like, torch.randn_like, torch.randint_like, torch.bernoulli, torch.poisson, torch.Tensor.bernoulli,
    torch.Tensor.bernoulli_, torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.exponential_,
    torch.Tensor.random_,
))  # fmt: skip
AT_A_TIME = 16
"""Rows; torch draws normal numbers in sixteens, so that so many rows are drawn alike alone and among others."""


class _Draws(TorchFunctionMode):
    """Random numbers for a slice of neurons are those that one process would draw for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in REFUSED and this_rank()[1] > 1:
            raise ValueError(
                f"{func.__name__} would draw other numbers on other numbers of ranks: draw by vector('rand') of the "
                "neurons, or torch.rand(neurons.size)"
            )
        if func in DRAWS:
            others, sizes = _parted(args, kwargs)
            at = next((k for k, size in enumerate(sizes) if isinstance(size, _Size)), None)
            if at is not None:
                options = {name: value for name, value in kwargs.items() if name != "size"}
                return _drawn(partial(func, *others, **options), sizes, at)
        return func(*args, **kwargs)


def _parted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a draw is given beside the sizes, and these, in whichever way they are given."""
    if "size" in kwargs:
        size = kwargs["size"]
        return args, tuple(size) if isinstance(size, (tuple, list)) else (size,)
    at = next((k for k, each in enumerate(args) if isinstance(each, (_Size, tuple, list))), len(args))
    return args[:at], tuple(args[at]) if at < len(args) and isinstance(args[at], (tuple, list)) else args[at:]


def _drawn(draw: Callable[..., Tensor], sizes: tuple[Any, ...], at: int) -> Tensor:
    """Draw for all neurons, some rows at a time, and keep this rank's."""
    own, (rows, *others) = sizes[at], [getattr(size, "whole", size) for size in sizes]
    if at == 0:
        return draw(size=(rows, *others)).narrow(0, own.start, own).clone()
    starts = [*range(0, rows - AT_A_TIME + 1, AT_A_TIME)] or [0]  # the last ones with those that are left
    counts = [stop - start for start, stop in zip(starts, [*starts[1:], rows], strict=True)]
    return torch.cat([draw(size=(count, *others)).narrow(at, own.start, own).clone() for count in counts])
