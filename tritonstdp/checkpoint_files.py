"""What lies in the files of checkpoints, and in which of them: pieces of memory, and what is said of these.

A file of a network is in the safetensors format, which holds tensors and text, and no code. Each piece of memory is
kept once, as ``3.cells.v``: the number of the object, its name, and the attribute. The text, JSON under ``tritonstdp``
in the header, says which attribute is what part of which piece, what numbers are, and what the network is made of.
Ranks write a file each, into a folder whose ``checkpoint.json`` names them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tritonstdp.places import bytes_of, kind_of, memory_of, parts_of, place_of, reach_of, span_of, view_of
from tritonstdp.state import CONTAINERS, PLAIN, attributes, is_state, name_of, owners

__all__ = [
    "MANIFEST",
    "Packing",
    "Saved",
    "check_memory",
    "facts_of",
    "is_same",
    "item_of",
    "labelled",
    "manifest_of",
    "opened",
    "safetensors_module",
    "said_of",
    "set_torch_states",
    "stored",
    "torch_states",
]

FORMAT = 1
MANIFEST, MANIFEST_FORMAT = "checkpoint.json", 2


def safetensors_module() -> Any:
    """The library that reads and writes the files, or an error that says how to get it."""
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError("checkpoints need safetensors: pip install 'tritonstdp[save]'") from None
    return safetensors


def manifest_of(folder: Path) -> dict[str, Any]:
    """What is said of the checkpoint in a folder: its number and step, of what it is, and the files of the ranks."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    if manifest.get("format") != MANIFEST_FORMAT:
        said = f"has format {manifest.get('format')!r}, and {MANIFEST_FORMAT} is read here"
        raise ValueError(f"{folder / MANIFEST} {said}")
    return manifest


class Saved(Mapping[str, Tensor]):
    """A file of a network: its pieces as bytes, each read when it is asked for.

    Attributes
    ----------
    path : str or Path
        Where it is.
    header : dict
        What is said of the pieces.
    """

    def __init__(self, path: str | Path, header: dict[str, Any], file: Any) -> None:
        self.path, self.header, self._file = path, header, file

    def __getitem__(self, piece: str) -> Tensor:
        read: Tensor = self._file.get_tensor(piece)
        return read.reshape(-1).view(torch.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


@contextmanager
def opened(path: str | Path) -> Iterator[Saved]:
    """A file of a network, open.

    Parameters
    ----------
    path : str or Path
        The file.

    Yields
    ------
    Saved
        What is in it.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    ValueError
        If it is no such file, or of another format.
    """
    safetensors = safetensors_module()
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
            yield Saved(path, header, file)
    except (safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged, or no checkpoint ({error}): give a file of tritonstdp.save") from None


def check_memory(kind: dict[str, Any], length: int) -> None:
    """Refuse a tensor that reaches beyond its piece, of so many bytes."""
    sizes = [kind["start"], *kind["shape"], *kind["strides"]]
    itemsize = getattr(torch, kind["dtype"]).itemsize
    is_sound = all(type(n) is int and n >= 0 for n in sizes) and len(kind["shape"]) == len(kind["strides"])
    if not is_sound or kind["start"] % itemsize or kind["start"] + reach_of(kind) > length:
        raise IndexError(kind["name"])


def stored(kind: dict[str, Any], data: Mapping[str, Tensor]) -> Tensor:
    """A tensor of a file, in memory of its own.

    Parameters
    ----------
    kind : dict
        What the header says of it.
    data : mapping of str to Tensor
        The pieces.
    """
    piece = data[kind["piece"]]
    check_memory(kind, len(piece))
    return view_of(piece[kind["start"] : kind["start"] + reach_of(kind)].clone().untyped_storage(), 0, kind)


def labelled(network: Any) -> Iterator[tuple[str, Any, Any]]:
    """What holds the state of a network: its label, itself, and the group whose behavior it is, or itself again."""
    parents = {id(behavior): parent for _, parent, behavior in network.sorted_behavior_execution_list}
    for owner in owners(network):
        parent = parents.get(id(owner))
        label = name_of(owner) if parent is None else f"{name_of(parent)}.{name_of(owner)}"
        yield label, owner, owner if parent is None else parent


def facts_of(label: str, owner: Any) -> str:
    """What an object has in common with the one that takes its place; of a slice of neurons, how many all are."""
    size = getattr(owner, "size", None)
    said = f" of {getattr(size, 'whole', size)} neurons" if hasattr(owner, "afferent_synapses") else ""
    return f"{label} ({type(owner).__name__}{said})"


def torch_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's own generators, of the CPU and of a CUDA device, by their names in a file."""
    of_cpu = {"random.torch": torch.get_rng_state()}
    return of_cpu | ({"random.cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_torch_states(data: dict[str, Tensor], device: torch.device | None) -> None:
    """Set torch's own generators; without a device, only find out whether that can be done."""
    (torch.default_generator if device else torch.Generator()).set_state(data["random.torch"].clone())
    if device and device.type == "cuda" and "random.cuda" in data:
        torch.cuda.set_rng_state(data["random.cuda"].clone(), device)


def said_of(value: Any) -> str:
    """What kind of value it is, for messages."""
    return f"{value.layout} {value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def item_of(container: Any, key: Any) -> Any:
    """What a container has under a key; None where it has nothing, or is none."""
    try:
        return container[key] if isinstance(container, CONTAINERS) else None
    except LookupError:
        return None


def is_same(new: Any, old: Any) -> bool:
    """Whether a value is another one, or the same number or text."""
    return new is old or (type(new) in PLAIN and type(new) is type(old) and repr(new) == repr(old))


Ways = Callable[[Tensor], list[Any]]


class Packing:
    """What is kept of a network, as it is found.

    Attributes
    ----------
    data : dict of str to Tensor
        The pieces of memory.
    tensors : list of dict
        What is said of each tensor.
    """

    def __init__(self) -> None:
        self.data: dict[str, Tensor] = {}
        self.tensors: list[dict[str, Any]] = []
        self._found: list[Tensor] = []
        self._numbers: dict[tuple[Any, ...], int] = {}

    def object(self, k: int, label: str, owner: Any, ways: Ways | None = None) -> dict[str, Any]:
        """The facts of an object, its attributes that are kept, and the names of the others.

        Parameters
        ----------
        k : int
            Its number.
        label : str
            Its name.
        owner : Any
            The object.
        ways : callable, optional
            Where it is a slice: how a tensor of it may lie among ranks, for whoever has other slices.
        """
        values = {name: value for _, name, value in attributes(owner)}
        left = [name for name, value in values.items() if not is_state(value)]
        kept = {n: self._packed(f"{k}.{label}.{n}", value, ways) for n, value in values.items() if n not in left}
        return {"facts": facts_of(label, owner), "kept": kept, "left": left}

    def tensor(self, name: str, tensor: Tensor, values: Tensor | None = None) -> dict[str, Any]:
        """What a tensor is in the file, where it may have other values."""
        own, indices = parts_of(tensor)
        packed: dict[str, Any] = {"tensor": self._number(name, own if values is None else values)}
        if indices:
            numbers = [self._number(f"{name} index {k}", each) for k, each in enumerate(indices)]
            packed |= {"indices": numbers, "layout": str(tensor.layout), "shape": [*tensor.shape]}
        return packed

    def _packed(self, name: str, value: Any, ways: Ways | None) -> Any:
        if isinstance(value, Tensor):
            return self.tensor(name, value) | ({} if ways is None else {"ways": ways(value)})
        if isinstance(value, torch.Generator):
            self.data[name] = value.get_state()
            return {"generator": name, "device": value.device.type}
        if isinstance(value, CONTAINERS):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            items = [[key, self._packed(f"{name}[{key!r}]", of_key, ways)] for key, of_key in pairs]
            packed = {"items": items, "of": next(kind.__name__ for kind in CONTAINERS if isinstance(value, kind))}
            return packed | ({"class": type(value).__name__} if hasattr(value, "_fields") else {})
        return value

    def _number(self, name: str, tensor: Tensor) -> int:
        if tensor.is_neg() or tensor.is_conj():
            raise TypeError(f"{name} is a view that changes what its memory holds: set it to a clone")
        place = place_of(tensor)
        if place not in self._numbers:
            self._numbers[place] = len(self._found)
            self._found.append(tensor.detach())
            self.tensors.append({"name": name, "device": tensor.device.type, **kind_of(tensor)})
        return self._numbers[place]

    def share_out(self) -> None:
        """Put what overlaps in memory into one piece of data, and note where in it each tensor lies."""
        pieces: list[tuple[int, int, list[int]]] = []
        memory = None
        for k in sorted(range(len(self._found)), key=lambda k: (memory_of(self._found[k]), span_of(self._found[k]))):
            start, end = span_of(self._found[k])
            if memory_of(self._found[k]) == memory and start < pieces[-1][1]:
                first, until, members = pieces.pop()
                pieces.append((first, max(until, end), [*members, k]))
            else:
                memory = memory_of(self._found[k])
                pieces.append((start, end, [k]))
        for start, end, members in pieces:
            found = {k: self._found[k] for k in members}
            whole = [k for k, tensor in found.items() if span_of(tensor) == (start, end) and tensor.is_contiguous()]
            name = self.tensors[min(whole or members)]["name"]
            data = found[whole[0]] if whole else bytes_of(found[members[0]].untyped_storage(), start, end)
            self.data[name] = (torch.view_as_real(data) if data.is_complex() else data).cpu()
            for k, tensor in found.items():
                self.tensors[k] |= {"piece": name, "start": span_of(tensor)[0] - start}
