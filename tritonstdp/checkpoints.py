"""The state of a simulation in one file: saved, loaded and continued, it ends in the bits of one that never stopped."""

from __future__ import annotations

import glob
import json
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from tritonstdp.checkpoint_files import (
    FORMAT,
    Packing,
    check_memory,
    facts_of,
    is_same,
    item_of,
    labelled,
    opened,
    safetensors_module,
    said_of,
    set_torch_states,
    stored,
    torch_states,
)
from tritonstdp.machine import version_of
from tritonstdp.places import (
    bytes_of,
    in_memory_of,
    kind_of,
    memory_of,
    parts_of,
    place_of,
    reach_of,
    span_of,
    view_of,
    with_values,
)
from tritonstdp.recut import recut
from tritonstdp.state import CONTAINERS, PLAIN, attributes, is_state
from tritonstdp.storage import remove_leftovers, replace_whole

__all__ = ["load", "save"]

logger = logging.getLogger("tritonstdp")


def save(network: Any, path: str | Path) -> None:
    """Write the state of a network to a file, whole or not at all: killed meanwhile, the old file stands.

    What is kept, of the network, its neuron and synapse groups, and the behaviors of all:

    - attributes that are tensors, dense or sparse, buffers and parameters included; what lies in the same memory
      still does after :func:`load`;
    - attributes that are numbers, bools, strings or None, private ones too, among them the step, learning parameters
      and ``behavior_enabled``;
    - lists, tuples and dicts of these, but those whose name begins with ``_``;
    - attributes that are a ``torch.Generator``, torch's own generator of the CPU and of the network's CUDA device,
      and those of ``random`` and ``numpy.random``.

    What is not: other objects and functions, sets, NumPy's arrays and numbers, and containers that hold such;
    ``device``, ``tags`` and ``init_kwargs``; and what lies elsewhere than in attributes of these. The network that is
    loaded has such as it had it before.

    Parameters
    ----------
    network : Network
        An initialized network, between two steps.
    path : str or Path
        The file; one that is there is replaced. Of a network that is dealt out among ranks, a folder that all see, in
        which each writes one: see :func:`tritonstdp.distributed.shard_network`.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    TypeError
        If a tensor's memory is not what it stands for, as of a negated view; the message names it.
    OSError
        If the file can't be written; an old one is as it was.

    Examples
    --------
    >>> import tempfile
    >>> from pymonntorch import Network, NeuronGroup
    >>> network = Network()
    >>> cells = NeuronGroup(3, network, tag="cells")
    >>> network.initialize(info=False)
    >>> cells.v, network.iteration = torch.ones(3), 7
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(network, Path(folder) / "step_7.safetensors")
    ...     cells.v, network.iteration = torch.zeros(3), 0
    ...     load(network, Path(folder) / "step_7.safetensors")
    >>> cells.v, network.iteration
    (tensor([1., 1., 1.]), 7)
    """
    ranks = _ranks_of(network)
    if ranks is None:
        _write(network, None, Path(path))
    else:
        ranks.save_of_ranks(Path(path), partial(_write, network, ranks))


def _write(network: Any, ranks: Any, path: Path) -> None:
    safetensors, device = safetensors_module(), torch.device(network.device)
    packing = Packing()
    objects = list(_objects(network, ranks, packing))
    packing.share_out()
    header = {
        "format": FORMAT, "version": version_of("tritonstdp"), "device": device.type,
        "objects": objects, "tensors": packing.tensors,
    }  # fmt: skip
    data = packing.data | _random_states(device)
    replace_whole(path, safetensors.torch.save(data, {"tritonstdp": json.dumps(header)}), private=False)
    remove_leftovers(path.parent, f"tmp-{glob.escape(path.name)}-*")


def _objects(network: Any, ranks: Any, packing: Packing) -> Iterator[dict[str, Any]]:
    """What is said of each object; of a slice, also where it lies, and of what ranks alone have, that it is theirs."""
    for k, (label, owner, holder) in enumerate(labelled(network)):
        part = ranks and ranks.part_of(holder)
        if part is None:
            is_theirs = ranks is not None and owner in ranks.stand_ins
            yield packing.object(k, label, owner) | ({"of_ranks": True} if is_theirs else {})
        else:
            yield packing.object(k, label, owner, part.ways_of) | {"part": part.ranges()}


def load(network: Any, path: str | Path) -> None:
    """Fill a network with the state that :func:`save` has written, on whatever device it is.

    Tensors are written in place where they lie in memory as they did when they were saved, so that captured graphs
    follow; else their attributes are bound to new ones on the same device. Attributes of the kinds that are kept
    and that were not there when the network was saved are removed.

    Parameters
    ----------
    network : Network
        A network that the same script has built and initialized; it may have run.
    path : str or Path
        The file, or the folder that ranks have written; the network may be dealt out among as many ranks, others or
        none.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    ValueError
        If the network is not initialized, or the file is no checkpoint, or one of another network: objects, shapes,
        dtypes, layouts and the indices of sparse tensors must agree; or if it was dealt out in another way, and holds
        what can't be cut or put together. The message names the attribute, and nothing is changed.
    OSError
        If the file can't be read.

    Notes
    -----
    Nothing in a file is run. But strings are state, and PymoNNtorch's ``Recorder`` evaluates some in later steps: load
    what comes from where the script does. A generator whose state is of another kind of device goes on as it is, with
    a warning: its draws would be others in any case. What lists and dicts hold may differ in shape and number, as
    recordings do. A behavior that has state of another kind may have a method ``after_load(owner)``, which is called
    at the end.

    Examples
    --------
    >>> load(network, "step_7.safetensors")  # doctest: +SKIP
    """
    if network.Structures and not network.sub_structures:  # which PymoNNtorch finds when it initializes
        raise ValueError("the network is not initialized: call network.initialize() before you load")
    ranks = _ranks_of(network)
    if ranks is not None:
        ranks.load_of_ranks(Path(path), partial(_fill, network, ranks))
    else:
        _fill(network, None, Path(path), is_cut_alike=not Path(path).is_dir())


def _fill(network: Any, ranks: Any, path: Path, *, is_cut_alike: bool, meet: Callable[[], None] | None = None) -> None:
    """Fill a network from what fits; where there are others, once all of them have what does."""
    loading = _Loading(network, path, *(_read(path) if is_cut_alike else recut(network, ranks, path)))
    loading.check()
    if meet is not None:
        meet()
    loading.fill()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, and its pieces as bytes."""
    with opened(path) as saved:
        return saved.header, dict(saved)


def _ranks_of(network: Any) -> Any:
    """What saves and loads the slices of a network that is dealt out among ranks; None of any other."""
    behaviors = (behavior for _, _, behavior in network.sorted_behavior_execution_list)
    return next((behavior for behavior in behaviors if hasattr(behavior, "save_of_ranks")), None)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = torch_states(device)
    of_numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]
    for name, state in (("random.python", random.getstate()), ("random.numpy", of_numpy)):
        states[name] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    return states


def _set_random_states(data: dict[str, Tensor], device: torch.device | None) -> None:
    """Set all generators that have no owner; without a device, only find out whether that can be done."""
    version, keys, gauss = json.loads(bytes(data["random.python"].numpy()))
    of_numpy = tuple(json.loads(bytes(data["random.numpy"].numpy())))
    (random if device else random.Random()).setstate((version, tuple(keys), gauss))
    (np.random if device else np.random.RandomState()).set_state(of_numpy)
    set_torch_states(data, device)


class _Loading:
    """A network that is to be filled from a file."""

    def __init__(self, network: Any, path: str | Path, header: dict[str, Any], data: dict[str, Tensor]) -> None:
        self.path, self.header, self.data = path, header, data
        self.device = torch.device(network.device)
        self.owners = [(label, owner) for label, owner, _ in labelled(network)]
        self.behaviors = network.sorted_behavior_execution_list

    def check(self) -> None:
        """Refuse what does not fit; nothing is changed."""
        try:
            difference = next(self._differences(), None)
            _set_random_states(self.data, None)
        except Exception as error:  # whatever a file of somebody else's making leads to
            raise ValueError(f"{self.path} is damaged ({error!r}): give another checkpoint") from error
        if difference is not None:
            raise ValueError(
                f"{self.path} is of another network: {difference}. Build the network by the script that saved it; if a "
                "step changes a tensor's shape or dtype, run one step before you load, or set the attribute to None"
            )

    def _differences(self) -> Iterator[str]:
        saved = [each["facts"] for each in self.header["objects"]]
        here = [facts_of(label, owner) for label, owner in self.owners]
        for of_file, of_network in zip_longest(saved, here, fillvalue="nothing"):
            if of_file != of_network:
                yield f"there is {of_network} in the network where it has {of_file}"
        names = [name for each in self.header["objects"] for name in each["kept"]]
        if any(name.startswith("__") for name in names):  # which are Python's own
            raise KeyError(names)
        for kind in self.header["tensors"]:
            check_memory(kind, len(self.data[kind["piece"]]))
        for name, leaf, current in self._leaves():
            yield from self._unlike(name, leaf, current)

    def _unlike(self, name: str, leaf: dict[str, Any], current: Any) -> Iterator[str]:
        """In what the network's value of an attribute can't be what the file has."""
        if "class" in leaf:  # a named tuple, which is made anew by the class that is there
            if type(current).__name__ != leaf["class"]:
                yield f"{name} is {said_of(current)} in the network where it has {leaf['class']}"
            return
        if "generator" in leaf:
            if not isinstance(current, torch.Generator):
                yield f"{name} is {said_of(current)} in the network where it has a generator"
            elif leaf["device"] == "cpu":
                torch.Generator().set_state(self.data[leaf["generator"]].clone())
            return
        kind, indices = self.header["tensors"][leaf["tensor"]], leaf.get("indices", ())
        wanted = f"{leaf.get('layout', torch.strided)} torch.{kind['dtype']} {tuple(leaf.get('shape', kind['shape']))}"
        is_recording = name.endswith("]") and not indices  # which may be longer here, or shorter
        if said_of(current) != wanted and (indices or (isinstance(current, Tensor) and not is_recording)):
            yield f"{name} is {said_of(current)} in the network where it has {wanted}"
        elif indices:
            pairs = zip(map(self._of_file, indices), parts_of(current)[1], strict=True)
            if not all(torch.equal(index, there.cpu()) for index, there in pairs):
                yield f"{name} connects other neurons in the network"

    def _of_file(self, number: int) -> Tensor:
        return stored(self.header["tensors"][number], self.data)

    def _leaves(self) -> Iterator[tuple[str, dict[str, Any], Any]]:
        """What is no number in the file: its name, what is said of it, and what the network has of that name."""
        for _, name, tree, current in self._trees():
            yield from _leaves(name, tree, current)

    def _trees(self) -> Iterator[tuple[Any, str, Any, Any]]:
        """What the file has of each attribute that is kept, and what the network has; less what holds objects now."""
        for (label, owner), saved in zip(self.owners, self.header["objects"], strict=True):
            now = {name: value for _, name, value in attributes(owner)}
            for name, tree in saved["kept"].items():
                current = now.get(name)
                if not isinstance(current, CONTAINERS) or is_state(current):
                    yield owner, f"{label}.{name}", tree, current

    @torch.no_grad()
    def fill(self) -> None:
        """Put the file's state into the network."""
        for (_, owner), saved in zip(self.owners, self.header["objects"], strict=True):
            for kept, name, value in list(attributes(owner)):
                if name not in saved["kept"] and name not in saved["left"] and is_state(value):
                    del kept[name]
            for name, tree in saved["kept"].items():
                if type(tree) in PLAIN:
                    _bind(owner, name, tree)
        tensors = self._placed()
        for owner, name, tree, current in list(self._trees()):
            if type(tree) not in PLAIN:
                _bind(owner, name.rpartition(".")[2], self._built(tree, current, tensors))
        _set_random_states(self.data, self.device)
        for _, parent, behavior in self.behaviors:
            if hasattr(behavior, "after_load"):
                behavior.after_load(parent)

    def _placed(self) -> dict[int, Tensor]:
        """The file's tensors, in the network's memory where that is divided in the same way."""
        here, indices = self._here()
        pieces: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for number, kind in enumerate(self.header["tensors"]):
            pieces[kind["piece"]][number] = kind
        placed: dict[int, Tensor] = {}
        taken: defaultdict[Any, list[tuple[int, int]]] = defaultdict(list)
        for piece, kinds in pieces.items():
            data = self.data[piece]
            widest = max(kinds, key=lambda number: reach_of(kinds[number]))
            base = self._home(kinds[widest], here[widest], len(data), taken)
            start = span_of(base)[0] - kinds[widest]["start"]
            for number, kind in kinds.items():
                lies = number == widest
                placed[number] = base if lies else in_memory_of(base, start + kind["start"], kind, here[number])
            if any(base is index for index in indices):  # which have been found to be equal
                continue
            bytes_of(base.untyped_storage(), start, start + len(data)).copy_(data)
            for written in (tensor for number in kinds for tensor in (placed[number], *here[number])):
                if not written.is_inference():
                    increment_version(written)
        return placed

    def _here(self) -> tuple[defaultdict[int, list[Tensor]], list[Tensor]]:
        """The network's tensors by the numbers of those that take their places, and which of them are indices."""
        here: defaultdict[int, list[Tensor]] = defaultdict(list)
        indices: list[Tensor] = []
        for _, leaf, current in self._leaves():
            if isinstance(current, Tensor) and "tensor" in leaf:
                values, of_current = parts_of(current)
                here[leaf["tensor"]].append(values)
                for number, index in zip(leaf.get("indices", ()), of_current, strict=False):
                    here[number].insert(0, index)
                    indices.append(index)
        return here, indices

    def _home(self, kind: dict[str, Any], here: list[Tensor], length: int, taken: Any) -> Tensor:
        """A tensor of a kind within as much memory as its piece takes: the network's, or else a new one."""
        for tensor in here:
            start = span_of(tensor)[0] - kind["start"]
            end = start + length
            is_free = all(end <= first or until <= start for first, until in taken[memory_of(tensor)])
            is_like = all(kind[key] == value for key, value in kind_of(tensor).items()) and not tensor.is_inference()
            if is_like and is_free and start >= 0 and end <= tensor.untyped_storage().nbytes():
                taken[memory_of(tensor)].append((start, end))
                return tensor
        stays_on_cpu = kind["device"] == "cpu" != self.header["device"]
        device = here[0].device if here else torch.device("cpu") if stays_on_cpu else self.device
        return view_of(torch.empty(length, dtype=torch.uint8, device=device).untyped_storage(), kind["start"], kind)

    def _built(self, tree: Any, current: Any, tensors: dict[int, Tensor]) -> Any:
        """What an attribute is bound to: what it is bound to, where that now holds the file's state."""
        if type(tree) in PLAIN:
            return tree
        if "generator" in tree:
            if current.device.type == tree["device"]:
                current.set_state(self.data[tree["generator"]].clone())
            else:
                logger.warning("%s goes on as it is: it was a generator of %s", tree["generator"], tree["device"])
            return current
        if "items" in tree:
            items = [[key, self._built(of_key, item_of(current, key), tensors)] for key, of_key in tree["items"]]
            return _contained(tree["of"], items, current)
        new = tensors[tree["tensor"]]
        if not isinstance(current, Tensor) or (current.layout is not torch.strided and "indices" not in tree):
            return new
        return current if place_of(parts_of(current)[0]) == place_of(new) else with_values(current, new)


def _leaves(name: str, tree: Any, current: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    if type(tree) in PLAIN:
        return
    if "items" not in tree or "class" in tree:
        yield name, tree, current
    for key, of_key in tree.get("items", ()):
        yield from _leaves(f"{name}[{key!r}]", of_key, item_of(current, key))


def _contained(kind: str, items: list[list[Any]], current: Any) -> Any:
    """The list, tuple or dict that is there, with other contents; a tuple only where it has other contents."""
    values = [value for _, value in items]
    if kind == "dict":
        by_key = current if isinstance(current, dict) else {}
        by_key.clear()
        by_key.update((key, value) for key, value in items)
        return by_key
    if kind == "list":
        listed = current if isinstance(current, list) else []
        listed[:] = values
        return listed
    if not isinstance(current, tuple):
        return tuple(values)
    if len(values) == len(current) and all(map(is_same, values, current)):
        return current
    return type(current)._make(values) if hasattr(current, "_make") else type(current)(values)


def _bind(owner: Any, name: str, value: Any) -> None:
    for kept in (owner.__dict__.get("_parameters", {}), owner.__dict__.get("_buffers", {})):
        if name in kept:
            kept[name] = value
            return
    # what behaviors do when they are set, they do where there is something new
    if name not in owner.__dict__ or not is_same(value, owner.__dict__[name]):
        setattr(owner, name, value)
