"""A checkpoint as another number of ranks, or one process, would have written it.

What a rank has saved of an object says from where to where its slice goes, and in which ways each tensor may lie among
ranks, as far as its shape tells; the network that is there tells the rest. What one process has saved is cut by the
slices of the ranks that load it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.checkpoint_files import (
    Packing,
    Saved,
    facts_of,
    is_same,
    item_of,
    labelled,
    manifest_of,
    opened,
    said_of,
    stored,
)
from tritonstdp.places import bytes_of, kind_of, memory_of, parts_of, reach_of, span_of, view_of
from tritonstdp.state import PLAIN, attributes, is_state

__all__ = ["recut"]

Ranges = Mapping[str, Sequence[int]]


def recut(network: Any, ranks: Any, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the file of a network, or its slice of one, would hold if it had the state of others.

    Parameters
    ----------
    network : Network
        The network; it is only looked at.
    ranks : Any
        What knows how it is dealt out; None where it is not.
    path : Path
        A folder that ranks have written, or the file of one process.

    Returns
    -------
    header : dict
        What is said of the pieces.
    data : dict of str to Tensor
        The pieces, as bytes.

    Raises
    ------
    ValueError
        If it is of another network, or holds what can't be cut; the message names it.
    """
    paths = [path / file["name"] for file in manifest_of(path)["files"]] if path.is_dir() else [path]
    with ExitStack() as stack:
        files = [_File(stack.enter_context(opened(each))) for each in paths]
        try:
            return _Recutting(network, ranks, path, files).written()
        except (AttributeError, LookupError, RuntimeError, TypeError) as error:  # whatever a file leads to
            raise ValueError(f"{path} is damaged ({error!r}): give another checkpoint") from error


class _File:
    """A file that holds a slice of a network, or all of it."""

    def __init__(self, saved: Saved) -> None:
        self.saved, self.header = saved, saved.header
        # what only ranks have, others make of what it stands for
        self.objects = [each for each in self.header["objects"] if not each.get("of_ranks")]

    def kind(self, number: int) -> dict[str, Any]:
        """What is said of a tensor."""
        kind: dict[str, Any] = self.header["tensors"][number]
        return kind

    def tensor(self, number: int) -> Tensor:
        """The tensor."""
        return stored(self.kind(number), self.saved)


class _Way(NamedTuple):
    """How a tensor lies among ranks: see :class:`tritonstdp.distributed.groups.Way`; synapses by where they are."""

    unit: str
    axis: int
    places: Any = None


@dataclass
class _Source:
    """What the files hold of an object.

    Attributes
    ----------
    saved : list of dict
        What each says of it.
    ranges : list of dict
        Which slice each holds.
    wanted : dict
        Which one is wanted; empty of what each file has whole.
    of_all : bool
        Whether it is for what ranks keep of all beside their slice.
    weights : tuple
        Of a group of synapses and its behaviors, what the files say of the weights, and those that are there.
    ways : callable
        In which ways a tensor may lie among the ranks, given what each file says of it.
    """

    files: list[_File]
    saved: list[dict[str, Any]]
    ranges: list[Ranges]
    wanted: Ranges
    of_all: bool
    weights: tuple[list[Any], Any]
    ways: Callable[[list[dict[str, Any]]], Sequence[Any]]

    def kept(self) -> dict[str, list[Any]]:
        """What each file says of each attribute that is kept."""
        names = dict.fromkeys(name for saved in self.saved for name in saved["kept"])
        return {name: [saved["kept"].get(name, {}) for saved in self.saved] for name in names}

    def shares(self, unit: str) -> Iterator[tuple[int, int, int]]:
        """The files that hold some of what is wanted, each by its place, and from where to where of their own."""
        start, stop = self.wanted[unit]
        for k, of_file in enumerate(self.ranges):
            first, last = of_file[unit]
            if max(start, first) < min(stop, last):
                yield k, max(start, first) - first, min(stop, last) - first

    def tensors(self, trees: Sequence[dict[str, Any]]) -> Iterator[Tensor]:
        """A tensor of each file, one at a time."""
        return (file.tensor(tree["tensor"]) for file, tree in zip(self.files, trees, strict=True))

    def is_alike(self, trees: Sequence[dict[str, Any]]) -> bool:
        """Whether all files have the same tensor."""
        tensors = self.tensors(trees)
        first = next(tensors)
        return all(_are_same(tensor, first) for tensor in tensors)


class _Leaf(NamedTuple):
    """A tensor that is to be written; what is said of it is filled in once all are known.

    Attributes
    ----------
    kind : dict
        What is said of it in the file that has most of it.
    piece : tuple
        Which file that is, and in which of its pieces it lies.
    """

    said: dict[str, Any]
    name: str
    key: Any
    current: Any
    is_sparse: bool
    kind: dict[str, Any]
    piece: tuple[int, str]


class _Recutting:
    """A network's own checkpoint, made of the files of others."""

    def __init__(self, network: Any, ranks: Any, path: Path, files: list[_File]) -> None:
        self.ranks, self.path, self.files = ranks, path, files
        self.stand_ins = {} if ranks is None else ranks.stand_ins
        self.labelled = list(labelled(network))
        self.others = [each for each in self.labelled if each[1] not in self.stand_ins]
        self.numbers = {id(owner): k for k, (_, owner, _) in enumerate(self.others)}
        self.packing = Packing()
        self.leaves: list[_Leaf] = []
        self.values: dict[Any, Tensor] = {}
        self.places: dict[Any, Tensor] = {}

    def written(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The header, and the pieces."""
        self._check_objects()
        objects = [self._object(k, *each) for k, each in enumerate(self.labelled)]
        self._pack()
        saved, header = self.files[0].saved, self.files[0].header
        data = {name: _bytes(value) for name, value in self.packing.data.items()}
        data |= {name: saved[name] for name in saved if name.startswith("random.")}  # ranks draw alike
        said = {name: header[name] for name in ("format", "version", "device")}
        return said | {"objects": objects, "tensors": self.packing.tensors}, data

    def _check_objects(self) -> None:
        here = [facts_of(label, owner) for label, owner, _ in self.others]
        for file in self.files:
            for saved, of_network in zip_longest((each["facts"] for each in file.objects), here, fillvalue="nothing"):
                if saved != of_network:
                    raise ValueError(
                        f"{self.path} is of another network: there is {of_network} in the network where it has "
                        f"{saved}. Build the network by the script that saved it"
                    )

    def _object(self, k: int, label: str, owner: Any, holder: Any) -> dict[str, Any]:
        """What the file would say of an object."""
        here = {name: value for _, name, value in attributes(owner)}
        stands_for = self.stand_ins.get(owner, owner)
        if stands_for is None:  # what carries spikes between ranks
            return {"facts": facts_of(label, owner), "kept": {}, "left": [*here]}
        if stands_for is owner:
            source = self._source(owner, holder)
            # a slice knows itself how many neurons it has
            trees = {name: tree for name, tree in source.kept().items() if name not in here or is_state(here[name])}
            left = {name for saved in source.saved for name in (*saved["left"], *saved["kept"])} - trees.keys()
        else:
            holder = next(holder for _, other, holder in self.others if other is stands_for)
            source = self._source(stands_for, holder, of_all=True)
            trees = {name: tree for name, tree in source.kept().items() if name in here and is_state(here[name])}
            left = here.keys() - trees.keys()
        kept = {
            name: self._tree(source, f"{k}.{label}.{name}", of_files, here.get(name))
            for name, of_files in trees.items()
        }
        return {"facts": facts_of(label, owner), "kept": kept, "left": sorted(left)}

    def _source(self, owner: Any, holder: Any, of_all: bool = False) -> _Source:
        """What the files hold of an object that belongs to a group, of which a slice is wanted, or all."""
        saved = [file.objects[self.numbers[id(owner)]] for file in self.files]
        of_holder = [file.objects[self.numbers[id(holder)]] for file in self.files]
        weights = [each["kept"].get("weights") for each in of_holder], getattr(holder, "weights", None)
        part = None if self.ranks is None else self.ranks.part_of(holder)
        own = None if part is None or of_all else part.ranges()
        if "part" in saved[0]:
            ranges = [each["part"] for each in saved]
            every = {unit: (0, max(each[unit][1] for each in ranges)) for unit in ranges[0]}
            return _Source(self.files, saved, ranges, own or every, of_all, weights, _ways_of_all)
        if part is None:
            return _Source(self.files, saved, [{} for _ in saved], {}, of_all, weights, lambda trees: ())
        every, kind = part.ranges(of_all=True), self.files[0].kind

        def ways(trees: list[dict[str, Any]]) -> Sequence[Any]:
            said = weights[0][0] and (kind(weights[0][0]["tensor"])["shape"], "indices" in weights[0][0])
            return [way and _Way(*way) for way in part.ways(kind(trees[0]["tensor"])["shape"], True, said)]

        of_file = weights[0][:1], weights[1]
        return _Source(self.files[:1], saved[:1], [every], own or every, of_all, of_file, ways)

    def _tree(self, source: _Source, name: str, trees: list[Any], current: Any) -> Any:
        """What the file would say of a value; what is said of tensors comes later."""
        first = trees[0]
        if all(type(tree) in PLAIN for tree in trees):
            return self._plain(source, name, trees, current)
        if not all(isinstance(tree, dict) and _outline(tree) == _outline(first) for tree in trees):
            raise self._refusal(name, "is of another kind on other ranks")
        if "items" in first:
            below = [(key, [tree["items"][k][1] for tree in trees]) for k, (key, _) in enumerate(first["items"])]
            items = [[k, self._tree(source, f"{name}[{k!r}]", each, item_of(current, k))] for k, each in below]
            return first | {"items": items}
        if "generator" in first:
            states = [file.saved[tree["generator"]] for file, tree in zip(source.files, trees, strict=True)]
            if not all(_are_same(state, states[0]) for state in states):
                raise self._refusal(name, "draws other numbers on other ranks")
            self.packing.data[name] = states[0]
            return first | {"generator": name}
        return self._tensor(source, name, trees, current)

    def _plain(self, source: _Source, name: str, values: list[Any], current: Any) -> Any:
        """A number or text that all ranks have, or how many neurons or channels are in a slice."""
        for unit, own in source.wanted.items():
            sizes = [stop - start for start, stop in (of_file[unit] for of_file in source.ranges)]
            if values == sizes and type(current) is int and current == own[1] - own[0]:
                return current
        if not all(is_same(value, values[0]) for value in values):
            raise self._refusal(name, f"is {', '.join(map(repr, values))} on the ranks")
        return values[0]

    def _tensor(self, source: _Source, name: str, trees: list[dict[str, Any]], current: Any) -> dict[str, Any]:
        kinds = [file.kind(tree["tensor"]) for file, tree in zip(source.files, trees, strict=True)]
        if any(kind["dtype"] != kinds[0]["dtype"] for kind in kinds):
            raise self._refusal(name, "has another dtype on other ranks")
        is_sparse = "indices" in trees[0]
        way = (self._way_of_sparse if is_sparse else self._way)(source, name, trees, current)
        numbers = tuple(tree["tensor"] for tree in trees)
        key = numbers, way, way and tuple(source.wanted[way.unit]), source.of_all
        if key not in self.values:
            self.values[key] = self._value(source, name, trees, way)
        most = max(range(len(kinds)), key=lambda k: reach_of(kinds[k]))
        leaf = _Leaf({}, name, key, current, is_sparse, kinds[most], (most, kinds[most]["piece"]))
        self.leaves.append(leaf)
        return leaf.said

    def _way(self, source: _Source, name: str, trees: list[dict[str, Any]], current: Any) -> _Way | None:
        """In which of the ways that its shape leaves open a tensor lies among ranks; None of one that each has."""
        ways = [self._with_places(source, name, way) for way in source.ways(trees)]
        if isinstance(current, Tensor) and current.layout is torch.strided:
            fitting = [way for way in ways if self._shape(source, trees, way) == tuple(current.shape)]
            ways = fitting or (ways if name.endswith("]") else [None])
        if name.endswith("]"):  # a recording, which may be longer here, or shorter: time comes first
            ways = [*[way for way in ways if way is not None][:1], *[way for way in ways if way is None]]
        if None in ways and len(ways) > 1 and not source.is_alike(trees):
            ways = [way for way in ways if way is not None]
        found = [self._value(source, name, trees, way) for way in (ways if len(ways) > 1 else ())]
        if not all(_are_same(value, found[0]) for value in found):
            raise self._refusal(name, "may be cut in several ways, which one step before you load would tell")
        return next(iter(ways), None)

    def _with_places(self, source: _Source, name: str, way: _Way | None) -> _Way | None:
        if way is None or way.unit != "synapses":
            return way
        return self._way_of_sparse(source, f"{name.rpartition('.')[0]}.weights", *source.weights)

    def _shape(self, source: _Source, trees: list[dict[str, Any]], way: _Way | None) -> tuple[int, ...] | None:
        """The shape of what is wanted; None where those of the files do not go together."""
        shapes = [list(file.kind(tree["tensor"])["shape"]) for file, tree in zip(source.files, trees, strict=True)]
        if way is not None:
            start, stop = source.wanted[way.unit] if way.places is None else (0, len(self.places[way.places]))
            for shape in shapes:
                shape[way.axis] = stop - start
        return tuple(shapes[0]) if all(shape == shapes[0] for shape in shapes) else None

    def _value(self, source: _Source, name: str, trees: list[dict[str, Any]], way: _Way | None) -> Tensor:
        """What is wanted of a tensor."""
        if way is None:
            if not source.is_alike(trees):
                raise self._refusal(name, "is another one on other ranks, and not known to be a slice")
            return next(source.tensors(trees))
        slices = []
        for k, low, high in [*source.shares(way.unit)] or [(0, 0, 0)]:
            own = source.files[k].tensor(trees[k]["tensor"])
            slices.append(own if way.places is not None else own.narrow(way.axis, low, high - low))
        joined = torch.cat(slices, way.axis)
        return joined if way.places is None else joined[self.places[way.places]]

    def _way_of_sparse(self, source: _Source, name: str, trees: list[dict[str, Any]], current: Any) -> _Way | None:
        """As :meth:`_way`, of sparse weights and what else has one value a stored synapse."""
        if not isinstance(current, Tensor) or current.layout is torch.strided:
            raise self._refusal(name, f"is sparse, and {said_of(current)} in the network")
        if not source.wanted:
            for file, tree in zip(source.files, trees, strict=True):
                pairs = zip(map(file.tensor, tree["indices"]), parts_of(current)[1], strict=True)
                if not all(torch.equal(saved, here.cpu()) for saved, here in pairs):
                    raise self._refusal(name, "connects other neurons in the network")
            return None
        key = tuple(tree["tensor"] for tree in trees), tuple(source.wanted["neurons"]), id(current)
        if key not in self.places:
            self.places[key] = self._found(source, name, trees, current)
        return _Way("neurons", 0, key)

    def _found(self, source: _Source, name: str, trees: list[dict[str, Any]], current: Tensor) -> Tensor:
        """Where the synapses of a sparse tensor are among those of the files, one file after the other."""
        start, stop = source.wanted["neurons"]
        pre, post = _ends(str(current.layout), [index.cpu() for index in parts_of(current)[1]])
        own, saved = pre * stop + post + start, [pre[:0]]
        for k, low, high in source.shares("neurons"):
            pre, post = _ends(trees[k]["layout"], [source.files[k].tensor(number) for number in trees[k]["indices"]])
            of_all = pre * stop + post + source.ranges[k]["neurons"][0]
            saved.append(torch.where((post >= low) & (post < high), of_all, -1))  # others are not wanted
        keys = torch.cat(saved)
        in_order, order = keys.sort()
        at = torch.searchsorted(in_order, own).clamp_(max=max(len(keys) - 1, 0))
        if int((keys >= 0).sum()) != len(own) or not torch.equal(in_order[at], own):
            raise self._refusal(name, "connects other neurons in the network")
        return order[at]

    def _pack(self) -> None:
        """Write what has been found, into one piece where the network's tensors or those of the file share memory."""
        currents: defaultdict[Any, list[Tensor]] = defaultdict(list)
        widest: dict[tuple[int, str], _Leaf] = {}
        for leaf in self.leaves:
            if isinstance(leaf.current, Tensor):
                currents[leaf.key].append(parts_of(leaf.current)[0])
            widest[leaf.piece] = max(widest.get(leaf.piece, leaf), leaf, key=lambda leaf: reach_of(leaf.kind))
        mirror, leaf_of = _Mirror(), {leaf.key: leaf for leaf in self.leaves}
        for key in sorted(self.values, key=lambda key: self.values[key].nbytes, reverse=True):  # views behind the whole
            view = self._as_view(leaf_of[key], widest[leaf_of[key].piece])
            self.values[key] = mirror.put(self.values[key], currents[key]) if view is None else view
        for leaf in self.leaves:
            value = self.values[leaf.key]
            leaf.said.update(self.packing.tensor(leaf.name, leaf.current if leaf.is_sparse else value, value))
            self.packing.tensors[leaf.said["tensor"]]["device"] = leaf.kind["device"]
        self.packing.share_out()
        self._check_views()

    def _as_view(self, leaf: _Leaf, base: _Leaf) -> Tensor | None:
        """A value as the view that it is in the file; None where it is none, or can't be one here."""
        index = None if leaf.kind is base.kind else _index_of(base.kind, leaf.kind)
        whole = self.values[base.key]
        if index is None or not all(i == slice(None) or i < n for i, n in zip(index, whole.shape, strict=True)):
            return None
        view = whole[index]
        return view if _are_same(view, self.values[leaf.key]) else None

    def _check_views(self) -> None:
        """Refuse what is a view in the files, and would not be here."""
        pieces: defaultdict[Any, dict[int, str]] = defaultdict(dict)
        for leaf in self.leaves:
            if self.values[leaf.key].numel():
                pieces[leaf.piece][id(leaf.kind)] = self.packing.tensors[leaf.said["tensor"]]["piece"]
            if len({*pieces[leaf.piece].values()}) > 1:
                raise self._refusal(leaf.name, "is a view of another tensor, and none in the network that is there")

    def _refusal(self, name: str, why: str) -> ValueError:
        return ValueError(
            f"{name.partition('.')[2]} {why}; so {self.path} can't be cut as this network is: load it on as many ranks "
            "as have saved it, by the script that did"
        )


class _Mirror:
    """Copies of the memory in which a network's tensors lie, so that what lies together stays together."""

    def __init__(self) -> None:
        self._copies: dict[Any, torch.UntypedStorage] = {}
        self._written: defaultdict[Any, list[tuple[int, int]]] = defaultdict(list)

    def put(self, value: Tensor, tensors: list[Tensor]) -> Tensor:
        """A value in the copy of one of some tensors that are like it, if it can be there; or else as it is.

        Parameters
        ----------
        value : Tensor
            The value.
        tensors : list of Tensor
            Those of the network in whose place it comes.
        """
        for tensor in tensors:
            kind = kind_of(tensor)
            is_like = tensor.shape == value.shape and tensor.dtype is value.dtype and value.numel()
            if not is_like or 0 in [s for n, s in zip(kind["shape"], kind["strides"], strict=True) if n > 1]:
                continue
            memory, (start, end) = memory_of(tensor), span_of(tensor)
            if memory not in self._copies:
                storage = tensor.untyped_storage()
                self._copies[memory] = bytes_of(storage, 0, storage.nbytes()).cpu().clone().untyped_storage()
            copy = view_of(self._copies[memory], start, kind)
            if all(end <= first or last <= start for first, last in self._written[memory]):
                self._written[memory].append((start, end))
                return copy.copy_(value)
            if _are_same(copy, value):
                return copy
        return value


def _ways_of_all(trees: list[dict[str, Any]]) -> Sequence[_Way | None]:
    """The ways that all ranks have found."""
    of_each = [[way and _Way(*way) for way in tree["ways"]] for tree in trees]
    return [way for way in of_each[0] if all(way in ways for ways in of_each)]


def _outline(tree: dict[str, Any]) -> Any:
    """What the trees of all ranks have in common."""
    return tree.keys(), tree.get("of"), tree.get("layout"), [key for key, _ in tree.get("items", ())]


def _index_of(base: dict[str, Any], view: dict[str, Any]) -> tuple[Any, ...] | None:
    """By which index of numbers and whole axes a view is taken of a contiguous tensor; None where there is none."""
    like = torch.empty(base["shape"], device="meta")
    if base["dtype"] != view["dtype"] or base["strides"] != kind_of(like)["strides"]:
        return None
    left, places = (view["start"] - base["start"]) // getattr(torch, base["dtype"]).itemsize, []
    for stride in like.stride():
        place, left = divmod(left, stride)
        places.append(place)
    axes, index = list(zip(view["shape"], view["strides"], strict=True)), []
    for n, stride, place in zip(base["shape"][::-1], base["strides"][::-1], places[::-1], strict=True):
        is_whole = place == 0 and axes[-1:] == [(n, stride)]
        index.append(slice(None) if is_whole else place)
        axes = axes[:-1] if is_whole else axes
    return None if axes else tuple(index[::-1])


def _ends(layout: str, indices: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The pre and the post neuron of each stored synapse."""
    if layout == str(torch.sparse_coo):
        return indices[0][0], indices[0][1]
    starts, minor = (index.long() for index in indices)
    major = torch.arange(len(starts) - 1).repeat_interleave(starts.diff())
    return (minor, major) if layout == str(torch.sparse_csc) else (major, minor)


def _bytes(tensor: Tensor) -> Tensor:
    own = tensor.contiguous()
    return bytes_of(own.untyped_storage(), *span_of(own))


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are of the same bits, those of NaN included."""
    return one.shape == other.shape and one.dtype is other.dtype and torch.equal(_bytes(one), _bytes(other))
