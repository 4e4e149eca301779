"""A PymoNNtorch network over several processes: each rank has a slice of each group of neurons, and what leads into it.

Behaviors see a slice where neurons are post neurons, and all where they are pre neurons: their spikes, which come from
all ranks once a step, and what is kept of spikes, which each rank keeps of all. Where they are one-to-one with the post
neurons, it is those of the slice.
"""

from __future__ import annotations

import copy
import random
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pymonntorch import Behavior, NeuronGroup
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tritonstdp.checkpoint_files import manifest_of, torch_states
from tritonstdp.distributed.checkpoints import write_all
from tritonstdp.distributed.exchange import Exchange, ExchangeError
from tritonstdp.distributed.groups import Cut, Size, Slice
from tritonstdp.distributed.slices import this_rank

__all__ = ["shard_network"]

KEPT_OF_SPIKES = ("SpikeTrace", "NeuronAxon")
"""Behaviors of neurons that read spikes alone, and that synapses read: each rank has them of all pre neurons."""


def shard_network(network: Any, *, whole: Collection[Any] = (), timeout: float = 300.0) -> None:
    """Deal a network out among the ranks; the line before ``network.initialize()``.

    Each group of neurons keeps this rank's slice: its ``size``, what ``vector`` gives, and the weights into it, of
    those that are set already and those that behaviors draw. Once all neurons have fired in a step, the spikes of all
    ranks are exchanged, which ``synapse.src`` has from then on. A group into which a convolution or a local connection
    leads is cut between channels, and has the ``depth`` of its slice; any other one between neurons.

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
        If the network is initialized or dealt out already, ``whole`` holds anything but its groups, its synapses join
        parts of groups, its weights are of PymoNNtorch's mode DxS, or they do not fit: neither dense, sparse nor
        one-to-one, nor of a convolution or local connection into channels whose number is known; nothing is changed
        then. At ``initialize``, if a behavior sets weights of a kind that was not known, or draws them by Python's
        ``random`` for the slice.
    TypeError
        In a step, if the spikes of a group have another dtype than after ``initialize``.
    ExchangeError
        In a step, on all ranks, as :class:`Exchange`.

    Notes
    -----
    A behavior of neurons has to treat them alike, as it sees a slice: what tells them apart comes from ``neurons.id``,
    or the group stays whole. Random numbers are those of one process: ``neurons.vector("rand")``,
    ``synapse.matrix(...)`` and ``torch.rand(neurons.size)`` draw for all ranks' neurons, and a rank keeps its own, of a
    matrix some rows at a time; weights that a behavior sets for all neurons in ``initialize`` are cut as well. What
    draws for a slice otherwise, as ``torch.rand_like(neurons.v)`` or ``torch.rand(len(neurons.v))``, is refused, as far
    as a size tells that it is one; and ranks whose torch generators differ after a step are named. What numpy or Python
    draws is for the user to see to.

    :func:`tritonstdp.save` and :func:`tritonstdp.load`, called by all ranks with a folder that all see, write a file a
    rank, and go on from it on any number of ranks, or on one process where the network is not dealt out.

    What kind of weights will lead into a group is told by those that are set, or else by the names of the synapses'
    behaviors, which begin with Conv2d, Local2d or One2One, and by ``depth``, as ``NeuronDimension`` gives it.

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
    _check(network, whole)
    slices = {
        group: Slice(group, [synapse for synapse in network.SynapseGroups if synapse.dst is group])
        for group in network.NeuronGroups
        if group not in whole
    }
    cuts = {s: Cut(s, slices[s.dst]) for s in network.SynapseGroups if s.dst in slices}
    parts = {synapse: cut.parts() for synapse, cut in cuts.items()}  # by which all that does not fit is refused
    everyone = {group: _Everyone(group) for group in slices}
    for synapse in network.SynapseGroups:
        if synapse.src in everyone:
            _show(synapse, everyone[synapse.src])
    for synapse, cut in cuts.items():
        if cut.dimensions == 1:
            _show(synapse, _Partners(synapse.src, cut.own.size))
        for name, value in parts[synapse].items():
            setattr(synapse, name, value)
        synapse.tensor_of_slice = cut.tensor_of_slice
    for own in slices.values():
        own.take()
    sizes = _sizes_of_slices([*slices.values()], [group for group in network.NeuronGroups if group not in slices])
    exchange = SpikeExchange([*slices.values()], [*everyone.values()], cuts.values(), sizes, timeout)
    last = max((key for key, parent, _ in network.sorted_behavior_execution_list if parent in slices), default=0)
    network.add_behavior(last + 0.5, exchange, initialize=False)
    for name in ("initialize", "simulate_iteration", "simulate_iterations"):
        setattr(network, name, partial(_watched, getattr(network, name), exchange))
    network.initialize = partial(_initialized, network.initialize, cuts)


def _sizes_of_slices(slices: Collection[Slice], whole: Collection[Any]) -> set[int]:
    """How many neurons or channels slices have, but for numbers that are also those of a whole group."""
    cut = [size for own in slices for size in (own.size, own.depth) if size is not None]
    return {int(size) for size in cut} - {size.whole for size in cut} - {int(group.size) for group in whole}


def _check(network: Any, whole: Collection[Any]) -> None:
    if network.Structures and network.sub_structures:
        raise ValueError("the network is initialized already: call shard_network before network.initialize()")
    if any(isinstance(behavior, SpikeExchange) for behavior in network.behavior.values()):
        raise ValueError("the network is dealt out already: call shard_network once")
    if not network.transposed_synapse_matrix_mode:
        raise ValueError("the network has weights (n_post, n_pre): make it in PymoNNtorch's mode SxD")
    for group in whole:
        if group not in network.NeuronGroups:
            raise ValueError(f"whole holds {group!r}: give neuron groups of the network")
    for synapse in network.SynapseGroups:
        for neurons in (synapse.src, synapse.dst):
            if neurons.BaseNeuronGroup is not neurons and neurons.BaseNeuronGroup not in whole:
                raise ValueError(f"{synapse.tag} is of a part of {neurons.BaseNeuronGroup.tag}: connect whole groups")


def _show(synapse: Any, pre: Any) -> None:
    """Let a synapse group have something else for its pre neurons."""
    del synapse.src  # a module to torch, in whose place nothing else can be set
    synapse.__dict__["src"] = pre


def _initialized(initialize: Callable[..., None], cuts: dict[Any, Cut], *given: Any, **options: Any) -> None:
    """Initialize a network whose behaviors may set weights and shapes of synapses for all post neurons."""
    behaviors = {behavior for synapse in cuts for behavior in synapse.behavior.values()}
    for behavior in behaviors:
        behavior.initialize = partial(_cut_after, behavior.initialize, cuts)
    try:
        initialize(*given, **options)
    finally:
        for behavior in behaviors:
            del behavior.initialize  # the class's is there again


def _cut_after(initialize: Callable[[Any], None], cuts: dict[Any, Cut], synapse: Any) -> None:
    weights, drawn = getattr(synapse, "weights", None), random.getstate()
    initialize(synapse)
    if synapse not in cuts:
        return
    was_whole = cuts[synapse].make()
    is_drawn = getattr(synapse, "weights", None) is not weights and random.getstate() != drawn
    if is_drawn and not was_whole and cuts[synapse].own.size != cuts[synapse].own.size.whole:
        raise ValueError(
            f"the weights of {synapse.tag} are drawn by Python's random for this rank's neurons alone, as CoNeX's "
            "WeightInitializer draws sparse ones, and would be others on other numbers of ranks: set synapse.weights "
            "before shard_network, or have a behavior set those of all neurons (weights=)"
        )


class SpikeExchange(Behavior):
    """Give all ranks the spikes of all neurons; added by :func:`shard_network` behind what makes neurons fire.

    Attributes
    ----------
    exchanges : dict of torch.dtype to Exchange
        What carries the spikes of each dtype.
    state_owners : list
        What each rank keeps of all neurons; a checkpoint holds it as well.
    stand_ins : dict
        What ranks alone have, this and what they keep of all neurons, and for what of one process it stands.
    sizes : set of int
        Of slices alone, and of no group that each rank has whole.
    """

    def __init__(
        self, slices: list[Slice], everyone: list[_Everyone], cuts: Collection[Cut], sizes: Collection[int],
        timeout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.slices, self.everyone, self.sizes, self.timeout = slices, everyone, sizes, timeout
        self._parts = {own.group: own for own in slices} | {cut.synapse: cut for cut in cuts}
        self.exchanges: dict[torch.dtype, Exchange] = {}
        self.owners: list[_Owner] = []

    def initialize(self, network: Any) -> None:
        for own in self.slices:
            if not isinstance(getattr(own.group, "spikes", None), Tensor):
                own.group.spikes = own.group.vector(0).bool()
        self._dtypes = [own.group.spikes.dtype for own in self.slices]
        for dtype in sorted({*self._dtypes}, key=str) or [torch.bool]:
            owner = _Owner(network, [own for own, kind in zip(self.slices, self._dtypes, strict=True) if kind is dtype])
            self.owners.append(owner)
            self.exchanges[dtype] = Exchange(owner, dtype=dtype, timeout=self.timeout)
        self._share()
        for each in self.everyone:
            each.begin()
        self.stand_ins = {self: None} | {own: of for each in self.everyone for own, of in each.stand_ins()}
        self.state_owners = [owner for owner in self.stand_ins if owner is not self]

    def forward(self, network: Any) -> None:
        self._share()
        for each in self.everyone:
            each.go_on()

    def meet(self) -> None:
        """Wait for all ranks, once they have begun."""
        for exchange in self.exchanges.values():
            exchange.meet()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the other ranks, which wait for the first of what this one sends, what it raises."""
        try:
            yield
        except ExchangeError:
            raise
        except BaseException as error:
            for exchange in [*self.exchanges.values()][:1]:
                exchange.give_up(error)
            raise

    def save_of_ranks(self, folder: Path, write: Callable[[Path], None]) -> None:
        """Have each rank write its slice of the network; a call of all."""
        if not self.exchanges:
            raise ValueError("the network is not initialized: call network.initialize() before you save")
        with self.telling():
            bounds = [[own.bounds[rank] for own in self.slices] for rank in range(this_rank()[1])]
            write_all(folder, next(iter(self.exchanges.values())), self._said, bounds, write)

    def load_of_ranks(self, path: Path, fill: Callable[..., None]) -> None:
        """Have each rank read its slice of the network, once all have found that they can; a call of all."""
        with self.telling():
            manifest = {} if path.is_file() else manifest_of(path)
            is_cut_alike = manifest.get("network") == self._said
            if is_cut_alike:
                path /= manifest["files"][this_rank()[0]]["name"]
            fill(path, is_cut_alike=is_cut_alike, meet=self.meet)
            self.meet()

    def part_of(self, owner: Any) -> Slice | Cut | None:
        """How a group is cut; None where each rank has all of it."""
        return self._parts.get(owner)

    @property
    def _said(self) -> str:
        """Where the slices of all ranks lie."""
        return ", ".join(f"{own.group.tag} {own.bounds}" for own in self.slices)

    def _share(self) -> None:
        for own, dtype in zip(self.slices, self._dtypes, strict=True):
            if own.group.spikes.dtype is not dtype:  # here, where no rank waits for another one's second message
                raise TypeError(
                    f"{own.group.tag}.spikes are {own.group.spikes.dtype} in this step, and were {dtype} when the "
                    "network was initialized: set them to the same dtype in initialize"
                )
        for owner in self.owners if this_rank()[1] > 1 else ():
            owner.note_draws()
        for dtype, exchange in self.exchanges.items():
            alike = [k for k, kind in enumerate(self._dtypes) if kind is dtype]
            if alike:
                fired = exchange(torch.cat([self.slices[k].group.spikes for k in alike]))
                sizes = [self.everyone[k].size for k in alike]
                for k, spikes in zip(alike, fired.split(sizes), strict=True):
                    self.everyone[k].spikes = spikes.clone()


class _Pre:
    """Neurons as their efferent synapses see them, in place of their group."""

    def __init__(self, group: Any, size: int) -> None:
        self.group, self.size = group, size

    def vector(self, *given: Any, **options: Any) -> Tensor:
        vector: Tensor = NeuronGroup.vector(self, *given, **options)
        return vector

    def vector_buffer(self, *given: Any, **options: Any) -> Tensor:
        buffer: Tensor = NeuronGroup.vector_buffer(self, *given, **options)
        return buffer


class _Everyone(_Pre):
    """All neurons of a group, of all ranks."""

    def __init__(self, group: Any) -> None:
        super().__init__(group, int(group.size))
        self.spikes: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "group":
            raise AttributeError(name)
        value = getattr(self.group, name)
        if isinstance(value, Tensor) or name == "axon":
            raise AttributeError(f"{name} of {self.group.tag} is of this rank's neurons: others' are not known here")
        return value.whole if isinstance(value, Size) else value  # as its depth

    def begin(self) -> None:
        """Keep of all neurons what the group keeps of its spikes."""
        of_group = sorted(self.group.behavior.items())
        self.kept = [behavior for _, behavior in of_group if type(behavior).__name__ in KEPT_OF_SPIKES]
        self.keepers = [copy.copy(behavior) for behavior in self.kept]
        for keeper in self.keepers:
            keeper.initialize(self)

    def stand_ins(self) -> Iterator[tuple[Any, Any]]:
        """What is kept of all neurons, and what of the group keeps the same of this rank's."""
        yield from ((self, self.group), *zip(self.keepers, self.kept, strict=True))

    def go_on(self) -> None:
        for keeper, of_group in zip(self.keepers, self.kept, strict=True):
            if of_group.behavior_enabled:
                keeper.forward(self)


class _Partners(_Pre):
    """Those of a group's neurons that this rank's neurons of another are one-to-one with."""

    size: Size

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("group", "size"):
            raise AttributeError(name)
        value = getattr(self.group, name)
        if name != "axon":
            return self._own(value)
        axon = copy.copy(value)
        axon.__dict__ |= {of_axon: self._own(each) for of_axon, each in value.__dict__.items()}
        return axon

    def _own(self, value: Any) -> Any:
        """What is theirs of a tensor with one value a neuron, or several; anything else as it is."""
        if not isinstance(value, Tensor) or value.shape[-1:] != (self.size.whole,):
            return value
        return value.narrow(-1, self.size.start, self.size)


class _Owner:
    """The neurons of some groups, one after the other, as an exchange carries their spikes."""

    def __init__(self, network: Any, slices: list[Slice]) -> None:
        self.slices, self.n_post = slices, sum(own.size for own in slices)
        self.device = torch.device(network.device)
        behaviors = network.sorted_behavior_execution_list
        kinds = [f"{type(parent).__name__} {key} {type(behavior).__name__}" for key, parent, behavior in behaviors]
        said = f"{[own.bounds for own in slices]} {network.def_dtype} {this_rank()[1]}"
        self.facts = {"network": said, "rule": " ".join(kinds)}
        self.note_draws()

    def note_draws(self) -> None:
        """Keep where torch's generators are: ranks that have drawn otherwise are named."""
        states = torch_states(self.device).values()
        self.facts["seed"] = str([zlib.crc32(bytes(state.numpy())) for state in states])

    def neurons_of(self, rank: int) -> Tensor:
        """The numbers of a rank's neurons, those of the first group first."""
        offsets = [sum(own.size.whole for own in self.slices[:k]) for k in range(len(self.slices))]
        own = [torch.arange(*each.bounds[rank]) + n for each, n in zip(self.slices, offsets, strict=True)]
        return torch.cat(own) if own else torch.arange(0)


def _watched(call: Callable[..., Any], exchange: SpikeExchange, *given: Any, **options: Any) -> Any:
    """Do what a network does: with random numbers as of one process, and if this rank fails, the others get to know."""
    with exchange.telling(), _Draws(exchange.sizes):
        done = call(*given, **options)
        if call.__name__ == "simulate_iterations":
            exchange.meet()
    return done


DRAWS = frozenset((torch.rand, torch.randn, torch.normal, torch.randint))
REFUSED = frozenset((
    torch.rand_like, torch.randn_like, torch.randint_like, torch.bernoulli, torch.poisson, torch.Tensor.bernoulli,
    torch.Tensor.bernoulli_, torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.exponential_,
    torch.Tensor.random_, torch.Tensor.geometric_, torch.Tensor.log_normal_, torch.Tensor.cauchy_, torch.binomial,
    torch.dropout, torch.nn.functional.dropout, torch.nn.init.uniform_, torch.nn.init.normal_, torch.multinomial,
))  # fmt: skip
WATCHED = DRAWS | REFUSED | {torch.randperm}
TELLING = 64
"""As large a number that is also a slice's size is taken to be that; a smaller one may be anything."""
AT_A_TIME = 16
"""Rows; torch draws normal numbers in sixteens, so that so many rows are drawn alike alone and among others."""


class _Draws(TorchFunctionMode):
    """Random numbers for a slice of neurons are those that one process would draw for it, or none.

    Parameters
    ----------
    sizes : set of int
        Of slices alone: by which a draw for one is known that does not say so.
    """

    def __init__(self, sizes: Collection[int]) -> None:
        super().__init__()
        self.sizes = sizes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in WATCHED:  # as nearly all that a step calls
            return func(*args, **kwargs)
        if self._draws_otherwise(func, args, kwargs) and this_rank()[1] > 1:
            raise ValueError(
                f"{func.__name__} would draw other numbers on other numbers of ranks: draw by vector('rand') of the "
                "neurons, or torch.rand(neurons.size)"
            )
        if func in DRAWS:
            others, sizes = _parted(func, args, kwargs)
            at = next((k for k, size in enumerate(sizes) if isinstance(size, Size)), None)
            if at is not None:
                options = {name: value for name, value in kwargs.items() if name != "size"}
                return _drawn(partial(func, *others, **options), sizes, at)
        return func(*args, **kwargs)

    def _draws_otherwise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a function draws for a slice that is there, or of as many numbers as a slice has neurons."""
        given = *args, *(value for name, value in kwargs.items() if name != "out")
        if func in REFUSED or func is torch.normal:
            shapes = [value.shape for value in given if isinstance(value, Tensor)]
            if any(n in self.sizes for shape in shapes for n in shape):
                return True
        if func in (torch.randperm, torch.randint) and any(isinstance(value, Size) for value in given):
            return True
        if func in REFUSED:
            return False
        _, sizes = _parted(func, args, kwargs)
        # of several sizes are also the weights of all, which are cut once they are there
        says_so = len(sizes) != 1 or isinstance(sizes[0], Size)
        return not says_so and sizes[0] >= TELLING and sizes[0] in self.sizes


def _parted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What a draw is given beside the sizes, and these, in whichever way they are given."""
    if "size" in kwargs:
        size = kwargs["size"]
        return args, tuple(size) if isinstance(size, (tuple, list)) else (size,)
    at = next((k for k, each in enumerate(args) if isinstance(each, (tuple, list))), None)
    if at is None:  # sizes alone, one by one, as torch.rand(3, neurons.size)
        return ((), args) if func in (torch.rand, torch.randn, torch.randperm) else (args, ())
    return args[:at], tuple(args[at])


def _drawn(draw: Callable[..., Tensor], sizes: tuple[Any, ...], at: int) -> Tensor:
    """Draw for all neurons, some rows at a time, and keep this rank's."""
    own, (rows, *others) = sizes[at], [getattr(size, "whole", size) for size in sizes]
    if at == 0:
        return draw(size=(rows, *others)).narrow(0, own.start, own).clone()
    starts = [*range(0, rows - AT_A_TIME + 1, AT_A_TIME)] or [0]  # the last ones with those that are left
    counts = [stop - start for start, stop in zip(starts, [*starts[1:], rows], strict=True)]
    return torch.cat([draw(size=(count, *others)).narrow(at, own.start, own).clone() for count in counts])
