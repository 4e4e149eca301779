"""The state of a simulation in one file: saved, loaded and continued, it ends in the bits of one that never stopped.

A file is in the safetensors format, which holds tensors and text, and no code. Each piece of memory is kept once, as
``3.cells.v``: the number of the object, its name, and the attribute. The text, JSON under ``tritonstdp`` in the header,
says which attribute is what part of which piece, what numbers are, and what the network is made of.
"""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from tritonstdp.state import attributes, name_of, owners
from tritonstdp.storage import replace_whole

__all__ = ["load", "save"]

logger = logging.getLogger("tritonstdp")

FORMAT = 1
_PLAIN = (bool, int, float, str, type(None))
_CONTAINERS = (list, tuple, dict)


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

    What is not: other objects and functions, NumPy's arrays and numbers, and containers that hold such; ``device``,
    ``tags`` and ``init_kwargs``; and what lies elsewhere than in attributes. All that is left to the network that is
    loaded, as its script has made it.

    Parameters
    ----------
    network : Network
        An initialized network, between two steps.
    path : str or Path
        The file; one that is there is replaced.

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
    >>> cells.v, network.iteration = torch.ones(3), 7
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(network, Path(folder) / "step_7.safetensors")
    ...     cells.v, network.iteration = torch.zeros(3), 0
    ...     load(network, Path(folder) / "step_7.safetensors")
    >>> cells.v, network.iteration
    (tensor([1., 1., 1.]), 7)
    """
    from tritonstdp import __version__

    safetensors, device = _safetensors(), torch.device(network.device)
    packing = _Packing()
    objects = [packing.object(k, label, owner) for k, (label, owner) in enumerate(_labelled(network))]
    packing.share_out()
    header = {
        "format": FORMAT, "version": __version__, "device": device.type, "objects": objects, "tensors": packing.tensors,
    }  # fmt: skip
    data = packing.data | _random_states(device)
    replace_whole(Path(path), safetensors.torch.save(data, {"tritonstdp": json.dumps(header)}), private=False)


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
        The file.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    ValueError
        If the file is no checkpoint, or one of another network: objects, shapes, dtypes, layouts and the indices of
        sparse tensors must agree. The message names the attribute, and nothing is changed.
    OSError
        If the file can't be read.

    Notes
    -----
    Nothing in a file is run. A generator whose state is of another kind of device goes on as it is, with a warning: its
    draws would be others in any case. What lists and dicts hold may differ in shape and number, as recordings do.

    Examples
    --------
    >>> load(network, "step_7.safetensors")  # doctest: +SKIP
    """
    loading = _Loading(network, path, *_read(path))
    loading.check()
    loading.fill()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("checkpoints need safetensors: pip install 'tritonstdp[save]'") from None
    return safetensors


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header of a file, and its pieces as bytes."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("tritonstdp", "null"))
            if not isinstance(header, dict):
                raise ValueError(f"{path} was not written by tritonstdp.save: give a file that was")
            if header.get("format") != FORMAT:
                raise ValueError(
                    f"{path} has format {header.get('format')!r}, and {FORMAT} is read here: use the version of "
                    f"tritonstdp that wrote it, {header.get('version')}"
                )
            return header, {name: file.get_tensor(name).reshape(-1).view(torch.uint8) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, or no checkpoint ({error}): give a file of tritonstdp.save") from None


def _labelled(network: Any) -> Iterator[tuple[str, Any]]:
    parents = {id(behavior): parent for _, parent, behavior in network.sorted_behavior_execution_list}
    for owner in owners(network):
        parent = parents.get(id(owner))
        yield name_of(owner) if parent is None else f"{name_of(parent)}.{name_of(owner)}", owner


def _facts(label: str, owner: Any) -> str:
    """What an object has in common with the one that takes its place."""
    size = f" of {owner.size} neurons" if hasattr(owner, "afferent_synapses") else ""
    return f"{label} ({type(owner).__name__}{size})"


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) in _PLAIN and _can_be_kept(of_key) for key, of_key in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_can_be_kept, value))
    return type(value) in _PLAIN or isinstance(value, (Tensor, torch.Generator))


def _parts(tensor: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The values of a tensor, and its indices where it is not strided."""
    if tensor.layout is torch.strided:
        return tensor, []
    if tensor.layout is torch.sparse_coo:
        return tensor._values(), [tensor._indices()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.values(), [tensor.ccol_indices(), tensor.row_indices()]
    return tensor.values(), [tensor.crow_indices(), tensor.col_indices()]


def _kind(tensor: Tensor) -> dict[str, Any]:
    """What must agree; strides that mean nothing are 0."""
    strides = [s if n > 1 and tensor.numel() else 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True)]
    return {"shape": [*tensor.shape], "strides": strides, "dtype": str(tensor.dtype).removeprefix("torch.")}


def _reach(kind: dict[str, Any]) -> int:
    """Over how many bytes a tensor of a kind reaches."""
    if 0 in kind["shape"]:
        return 0
    last = sum((n - 1) * s for n, s in zip(kind["shape"], kind["strides"], strict=True))
    return int(getattr(torch, kind["dtype"]).itemsize * (last + 1))


def _memory(tensor: Tensor) -> tuple[str, int]:
    # of tensors without elements, none lies where another does
    return str(tensor.device), tensor.untyped_storage().data_ptr() if tensor.numel() else -id(tensor)


def _span(tensor: Tensor) -> tuple[int, int]:
    """From which to which byte of its storage a tensor reaches."""
    start = tensor.storage_offset() * tensor.itemsize
    return start, start + _reach(_kind(tensor))


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies, and how: what is alike in this is one tensor."""
    return (*_memory(tensor), *_span(tensor), str(_kind(tensor)))


def _bytes(storage: Any, start: int, end: int) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage, start, (end - start,), (1,))


def _view(storage: Any, start: int, kind: dict[str, Any]) -> Tensor:
    empty = torch.empty(0, dtype=getattr(torch, kind["dtype"]), device=storage.device)
    return empty.set_(storage, start // empty.itemsize, tuple(kind["shape"]), tuple(kind["strides"]))


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"random.torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["random.cuda"] = torch.cuda.get_rng_state(device)
    kind, keys, *others = np.random.get_state()
    for name, state in (("random.python", random.getstate()), ("random.numpy", (kind, keys.tolist(), *others))):
        states[name] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)
    return states


def _set_random_states(data: dict[str, Tensor], device: torch.device | None) -> None:
    """Set all generators that have no owner; without a device, only find out whether that can be done."""
    version, keys, gauss = json.loads(bytes(data["random.python"].tolist()))
    of_numpy = tuple(json.loads(bytes(data["random.numpy"].tolist())))
    (random if device else random.Random()).setstate((version, tuple(keys), gauss))
    (np.random if device else np.random.RandomState()).set_state(of_numpy)
    (torch.default_generator if device else torch.Generator()).set_state(data["random.torch"].clone())
    if device and device.type == "cuda" and "random.cuda" in data:
        torch.cuda.set_rng_state(data["random.cuda"].clone(), device)


class _Packing:
    """What is kept of a network, as it is found."""

    def __init__(self) -> None:
        self.data: dict[str, Tensor] = {}
        self.tensors: list[dict[str, Any]] = []
        self._found: list[Tensor] = []
        self._numbers: dict[tuple[Any, ...], int] = {}

    def object(self, k: int, label: str, owner: Any) -> dict[str, Any]:
        """The facts of an object, its attributes that are kept, and the names of the others."""
        values = {name: value for _, name, value in attributes(owner)}
        left = [name for name, value in values.items() if not _can_be_kept(value)]
        kept = {n: self._packed(f"{k}.{label}.{n}", value) for n, value in values.items() if n not in left}
        return {"facts": _facts(label, owner), "kept": kept, "left": left}

    def _packed(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            values, indices = _parts(value)
            packed: dict[str, Any] = {"tensor": self._number(name, values)}
            if indices:
                numbers = [self._number(f"{name} index {k}", each) for k, each in enumerate(indices)]
                packed |= {"indices": numbers, "layout": str(value.layout), "shape": [*value.shape]}
            return packed
        if isinstance(value, torch.Generator):
            self.data[name] = value.get_state()
            return {"generator": name, "device": value.device.type}
        if isinstance(value, _CONTAINERS):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            items = [[key, self._packed(f"{name}[{key!r}]", of_key)] for key, of_key in pairs]
            return {"items": items, "of": next(kind.__name__ for kind in _CONTAINERS if isinstance(value, kind))}
        return value

    def _number(self, name: str, tensor: Tensor) -> int:
        if tensor.is_neg() or tensor.is_conj():
            raise TypeError(f"{name} is a view that changes what its memory holds: set it to a clone")
        place = _place(tensor)
        if place not in self._numbers:
            self._numbers[place] = len(self._found)
            self._found.append(tensor.detach())
            self.tensors.append({"name": name, "device": tensor.device.type, **_kind(tensor)})
        return self._numbers[place]

    def share_out(self) -> None:
        """Put what overlaps in memory into one piece of data, and note where in it each tensor lies."""
        pieces: list[tuple[int, int, list[int]]] = []
        memory = None
        for k in sorted(range(len(self._found)), key=lambda k: (_memory(self._found[k]), _span(self._found[k]))):
            start, end = _span(self._found[k])
            if _memory(self._found[k]) == memory and start < pieces[-1][1]:
                first, until, members = pieces.pop()
                pieces.append((first, max(until, end), [*members, k]))
            else:
                memory = _memory(self._found[k])
                pieces.append((start, end, [k]))
        for start, end, members in pieces:
            whole = [k for k in members if _span(self._found[k]) == (start, end) and self._is_plain(k)]
            name = self.tensors[min(whole or members)]["name"]
            storage = self._found[members[0]].untyped_storage()
            self.data[name] = (self._found[whole[0]] if whole else _bytes(storage, start, end)).cpu()
            for k in members:
                self.tensors[k] |= {"piece": name, "start": _span(self._found[k])[0] - start}

    def _is_plain(self, k: int) -> bool:
        return self._found[k].is_contiguous() and not self._found[k].is_complex()


class _Loading:
    """A network that is to be filled from a file."""

    def __init__(self, network: Any, path: str | Path, header: dict[str, Any], data: dict[str, Tensor]) -> None:
        self.path, self.header, self.data = path, header, data
        self.device = torch.device(network.device)
        self.owners = list(_labelled(network))
        self.parents = network.sorted_behavior_execution_list

    def check(self) -> None:
        """Refuse what does not fit; nothing is changed."""
        try:
            self._check_objects()
            for kind in self.header["tensors"]:
                self._check_memory(kind)
            for name, leaf, current in self._leaves():
                self._check(name, leaf, current)
            _set_random_states(self.data, None)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"{self.path} is damaged ({error!r}): give another checkpoint") from error

    def _check_objects(self) -> None:
        saved = [each["facts"] for each in self.header["objects"]]
        here = [_facts(label, owner) for label, owner in self.owners]
        for of_file, of_network in zip_longest(saved, here, fillvalue="nothing"):
            if of_file != of_network:
                self._refuse(f"there is {of_network} in the network where it has {of_file}")

    def _check_memory(self, kind: dict[str, Any]) -> None:
        lengths = [kind["start"], *kind["shape"], *kind["strides"]]
        is_sound = all(type(n) is int and n >= 0 for n in lengths) and len(kind["shape"]) == len(kind["strides"])
        itemsize = getattr(torch, kind["dtype"]).itemsize
        if not is_sound or kind["start"] % itemsize or kind["start"] + _reach(kind) > len(self.data[kind["piece"]]):
            raise IndexError(kind["name"])

    def _check(self, name: str, leaf: dict[str, Any], current: Any) -> None:
        if "generator" in leaf:
            if not isinstance(current, torch.Generator):
                self._refuse(f"{name} is {current!r} in the network where it has a generator")
            if leaf["device"] == "cpu":
                torch.Generator().set_state(self.data[leaf["generator"]].clone())
            return
        kind = self.header["tensors"][leaf["tensor"]]
        wanted = _said(leaf.get("layout", "torch.strided"), leaf.get("shape", kind["shape"]), kind["dtype"])
        if isinstance(current, Tensor):
            found = _said(str(current.layout), current.shape, str(current.dtype))
            is_listed = (
                name.endswith("]") and "indices" not in leaf
            )  # what lists hold may come and go, as recordings do
            if found != wanted and not is_listed:
                self._refuse(f"{name} is {found} in the network where it has {wanted}")
        elif "indices" in leaf:
            self._refuse(f"{name} is {current!r} in the network where it has {wanted}")
        for number, index in zip(leaf.get("indices", ()), _parts(current)[1] if "indices" in leaf else (), strict=True):
            if not torch.equal(self._of_file(number), index.cpu()):
                self._refuse(f"{name} connects other neurons in the network")

    def _refuse(self, difference: str) -> None:
        raise ValueError(
            f"{self.path} is of another network: {difference}. Build the network by the script that saved it; what its "
            "first step changes in kind, let it change before you load, and what grows, set to None"
        )

    def _of_file(self, number: int) -> Tensor:
        kind = self.header["tensors"][number]
        return _view(self.data[kind["piece"]].clone().untyped_storage(), kind["start"], kind)

    def _leaves(self) -> Iterator[tuple[str, dict[str, Any], Any]]:
        """What is no number in the file: its name, what is said of it, and what the network has of that name."""
        for (label, owner), saved in zip(self.owners, self.header["objects"], strict=True):
            now = {name: value for _, name, value in attributes(owner)}
            for name, tree in saved["kept"].items():
                yield from _leaves(f"{label}.{name}", tree, now.get(name))

    @torch.no_grad()
    def fill(self) -> None:
        """Put the file's state into the network."""
        for (_, owner), saved in zip(self.owners, self.header["objects"], strict=True):
            for kept, name, value in list(attributes(owner)):
                if name not in saved["kept"] and name not in saved["left"] and _can_be_kept(value):
                    del kept[name]
            for name, tree in saved["kept"].items():
                if type(tree) in _PLAIN:
                    _bind(owner, name, tree)
        tensors = self._placed()
        for (_, owner), saved in zip(self.owners, self.header["objects"], strict=True):
            now = {name: value for _, name, value in attributes(owner)}
            for name, tree in saved["kept"].items():
                if type(tree) not in _PLAIN:
                    _bind(owner, name, self._built(tree, now.get(name), tensors))
        _set_random_states(self.data, self.device)
        for _, parent, behavior in self.parents:
            if hasattr(behavior, "after_load"):
                behavior.after_load(parent)

    def _placed(self) -> list[Tensor]:
        """The file's tensors, in the network's memory where that is divided in the same way."""
        here, indices = defaultdict(list), []
        for _, leaf, current in self._leaves():
            if isinstance(current, Tensor) and "tensor" in leaf:
                values, of_network = _parts(current)
                here[leaf["tensor"]].append(values)
                for number, index in zip(leaf.get("indices", ()), of_network, strict=False):
                    here[number].insert(0, index)
                    indices.append(index)
        pieces = defaultdict(list)
        for number, kind in enumerate(self.header["tensors"]):
            pieces[kind["piece"]].append(number)
        placed: dict[int, Tensor] = {}
        taken: defaultdict[Any, list[tuple[int, int]]] = defaultdict(list)
        for piece, numbers in pieces.items():
            kinds, data = {number: self.header["tensors"][number] for number in numbers}, self.data[piece]
            widest = max(numbers, key=lambda number: _reach(kinds[number]))
            base = self._home(kinds[widest], here[widest], len(data), taken)
            start = _span(base)[0] - kinds[widest]["start"]
            placed[widest] = base
            for number in set(numbers) - {widest}:
                placed[number] = _in_memory_of(base, start + kinds[number]["start"], kinds[number], here[number])
            if not any(base is index for index in indices):  # which have been found to be equal
                _bytes(base.untyped_storage(), start, start + len(data)).copy_(data)
                for each in (base, *(tensor for number in numbers for tensor in (placed[number], *here[number]))):
                    if not each.is_inference():
                        increment_version(each)
        return [placed[number] for number in range(len(placed))]

    def _home(self, kind: dict[str, Any], here: list[Tensor], length: int, taken: Any) -> Tensor:
        """A tensor of a kind within as much memory as its piece takes: the network's, or else a new one."""
        for tensor in here:
            start = _span(tensor)[0] - kind["start"]
            end = start + length
            is_free = all(end <= first or until <= start for first, until in taken[_memory(tensor)])
            is_like = all(kind[key] == value for key, value in _kind(tensor).items()) and not tensor.is_inference()
            if is_like and is_free and start >= 0 and end <= tensor.untyped_storage().nbytes():
                taken[_memory(tensor)].append((start, end))
                return tensor
        stays_on_cpu = kind["device"] == "cpu" != self.header["device"]
        device = here[0].device if here else torch.device("cpu") if stays_on_cpu else self.device
        return _view(torch.empty(length, dtype=torch.uint8, device=device).untyped_storage(), kind["start"], kind)

    def _built(self, tree: Any, current: Any, tensors: list[Tensor]) -> Any:
        """What an attribute is bound to: what it is bound to, where that now holds the file's state."""
        if type(tree) in _PLAIN:
            return tree
        if "generator" in tree:
            if current.device.type == tree["device"]:
                current.set_state(self.data[tree["generator"]].clone())
            else:
                logger.warning("%s goes on as it is: it was a generator of %s", tree["generator"], tree["device"])
            return current
        if "items" in tree:
            items = [[key, self._built(of_key, _item(current, key), tensors)] for key, of_key in tree["items"]]
            return _contained(tree["of"], items, current)
        new = tensors[tree["tensor"]]
        if not isinstance(current, Tensor) or (current.layout is not torch.strided and "indices" not in tree):
            return new
        values, indices = _parts(current)
        return current if _place(values) == _place(new) else _with_values(current, indices, new)


def _said(layout: str, shape: Any, dtype: str) -> str:
    kind = "" if layout == "torch.strided" else f"{layout.removeprefix('torch.')} of "
    return f"{kind}{dtype.removeprefix('torch.')} {tuple(shape)}"


def _leaves(name: str, tree: Any, current: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    if type(tree) in _PLAIN or _is_left(current):
        return
    if "items" not in tree:
        yield name, tree, current
    for key, of_key in tree.get("items", ()):
        yield from _leaves(f"{name}[{key!r}]", of_key, _item(current, key))


def _is_left(current: Any) -> bool:
    return isinstance(current, _CONTAINERS) and not _can_be_kept(current)


def _item(container: Any, key: Any) -> Any:
    try:
        return container[key] if isinstance(container, _CONTAINERS) else None
    except LookupError:
        return None


def _contained(kind: str, items: list[list[Any]], current: Any) -> Any:
    """The list, tuple or dict that is there, with other contents; a tuple only where it has other contents."""
    values = [value for _, value in items]
    if kind == "dict":
        held = current if isinstance(current, dict) else {}
        held.clear()
        held.update((key, value) for key, value in items)
        return held
    if kind == "list":
        held = current if isinstance(current, list) else []
        held[:] = values
        return held
    if not isinstance(current, tuple):
        return tuple(values)
    if len(values) == len(current) and all(map(_is_same, values, current)):
        return current
    return type(current)._make(values) if hasattr(current, "_make") else type(current)(values)


def _is_same(new: Any, old: Any) -> bool:
    return new is old or (type(new) in _PLAIN and type(new) is type(old) and repr(new) == repr(old))


def _bind(owner: Any, name: str, value: Any) -> None:
    for kept in (owner.__dict__.get("_parameters", {}), owner.__dict__.get("_buffers", {})):
        if name in kept:
            kept[name] = value
            return
    # what behaviors do when they are set, they do where there is something new
    if name not in owner.__dict__ or not _is_same(value, owner.__dict__[name]):
        setattr(owner, name, value)


def _in_memory_of(base: Tensor, start: int, kind: dict[str, Any], here: list[Tensor]) -> Tensor:
    """A tensor of a kind from a byte of another's memory: the one that is there, or else a view."""
    wanted = _view(base.untyped_storage(), start, kind)
    there = next((tensor for tensor in here if _place(tensor) == _place(wanted)), None)
    if there is not None:
        return there
    if base.dtype is not wanted.dtype:
        return wanted
    return base.as_strided(wanted.shape, wanted.stride(), wanted.storage_offset())  # whose version is the base's


def _with_values(tensor: Tensor, indices: list[Tensor], values: Tensor) -> Tensor:
    """A tensor with other values, and the same indices."""
    if tensor.layout is torch.strided:
        return values
    if tensor.layout is torch.sparse_coo:
        return torch.sparse_coo_tensor(*indices, values, tensor.shape, is_coalesced=tensor.is_coalesced())
    return torch.sparse_compressed_tensor(*indices, values, tensor.shape, layout=tensor.layout)
