"""What the ranks hold, in a file a rank, and on as many other ranks again.

A folder holds the last checkpoint that is whole: ``checkpoint.json`` names its files, and is replaced once all ranks
have written theirs. The files, in the safetensors format, say from where to where the slice goes that they hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tritonstdp.checkpoint_files import (
    MANIFEST,
    MANIFEST_FORMAT,
    manifest_of,
    safetensors_module,
    set_torch_states,
    torch_states,
)
from tritonstdp.distributed.exchange import Exchange
from tritonstdp.distributed.slices import Shard, this_rank
from tritonstdp.storage import replace_whole
from tritonstdp.topology import Topology
from tritonstdp.topology.parts import Selection, Window

__all__ = ["load", "save"]

State = Mapping[str, Tensor]


def save(
    folder: str | Path,
    exchange: Exchange,
    shard: Shard,
    *,
    synapses: State | None = None,
    pre: State | None = None,
    post: State | None = None,
) -> None:
    """Write a shard of each rank to a folder that all see; a call of all ranks, between two steps.

    With it goes the state of torch's own generators, by which a run that is resumed draws the same numbers. Whenever a
    rank is killed meanwhile, the checkpoint that was there before is still whole.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there; that of this shard alone.
    exchange : Exchange
        Of the ranks; its ``step`` is kept.
    shard : Shard
        Its weights are kept.
    synapses, pre, post : dict of str to Tensor, optional
        What else is: tensors of one value a synapse, as eligibility, of one a pre and one a post neuron, as traces and
        potentials; of this rank's part, all ranks by the same names.

    Raises
    ------
    ExchangeError
        As :class:`Exchange`.
    ImportError
        If safetensors is not installed.
    OSError
        If a file can't be written.

    Examples
    --------
    >>> import tempfile
    >>> from tritonstdp.distributed import shard
    >>> part, trace = shard(torch.ones(2, 3)), torch.full((3,), 0.5)
    >>> with tempfile.TemporaryDirectory() as folder, Exchange(part) as exchange:
    ...     save(folder, exchange, part, post={"trace": trace})
    ...     part.weights.zero_(), trace.zero_()
    ...     load(folder, exchange, part, post={"trace": trace})
    (tensor([[0., 0., 0.],
            [0., 0., 0.]]), tensor([0., 0., 0.]))
    >>> part.weights, trace
    (tensor([[1., 1., 1.],
            [1., 1., 1.]]), tensor([0.5000, 0.5000, 0.5000]))
    """
    state = _kinds(shard, synapses, pre, post)
    write_all(Path(folder), exchange, repr(shard.whole), shard.bounds, partial(_write, shard, state))


def load(
    folder: str | Path,
    exchange: Exchange,
    shard: Shard,
    *,
    synapses: State | None = None,
    pre: State | None = None,
    post: State | None = None,
) -> None:
    """Fill a shard of each rank, however many there are, with what :func:`save` has written; a call of all ranks.

    torch's own generators go on from where they were; ranks draw alike, so that one state serves all of them.

    Parameters
    ----------
    folder : str or Path
        The folder.
    exchange : Exchange
        Of the ranks; its ``step`` becomes that of the checkpoint.
    shard : Shard
        Of the same group; its weights are written, in place.
    synapses, pre, post : dict of str to Tensor, optional
        Tensors of this rank's part, which are written in place; by the names of :func:`save`.

    Raises
    ------
    ValueError
        If the folder's checkpoint is of another group (topology, dtype, connectivity) or lacks one of the names;
        nothing is changed then.
    FileNotFoundError
        If there is none.
    ImportError
        If safetensors is not installed.

    Examples
    --------
    See :func:`save`.
    """
    folder = Path(folder)
    manifest, state = manifest_of(folder), _kinds(shard, synapses, pre, post)
    if manifest["network"] != repr(shard.whole):
        raise ValueError(f"{folder} is a checkpoint of {manifest['network']}: this is {shard.whole}")
    with ExitStack() as stack:
        pieces = [_Piece(stack, folder / file["name"], file["bounds"], shard) for file in manifest["files"]]
        for piece in pieces:
            piece.check(state)
        for piece in pieces:
            piece.fill(state["synapses"])
        for kind, window_of in (("pre", shard.whole.pres), ("post", shard.whole.posts)):
            for name, own in state[kind].items():
                _gather(pieces, f"{kind}.{name}", own, window_of, shard)
        set_torch_states(pieces[0].random_states(), shard.device)
    exchange.step = manifest["step"]
    exchange.meet()


def write_all(
    folder: Path, exchange: Exchange, network: str, bounds: Sequence[Any], write: Callable[[Path], None]
) -> None:
    """Have each rank write its file to a folder that all see, and name them once they are there.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    exchange : Exchange
        Of the ranks.
    network : str
        What it is a checkpoint of.
    bounds : sequence
        Of each rank, what its file holds.
    write : callable
        Writes this rank's, given its path.
    """
    rank, size = this_rank()
    folder.mkdir(parents=True, exist_ok=True)
    # never the name of a file of the checkpoint that is there, which stands until all have met
    number = manifest_of(folder)["number"] + 1 if (folder / MANIFEST).exists() else 0
    names = [f"{number}-rank-{each}-of-{size}.safetensors" for each in range(size)]
    write(folder / names[rank])
    exchange.meet()
    if rank == 0:
        files = [{"name": name, "bounds": of_rank} for name, of_rank in zip(names, bounds, strict=True)]
        manifest = {
            "format": MANIFEST_FORMAT,
            "number": number,
            "step": exchange.step,
            "network": network,
            "files": files,
        }
        replace_whole(folder / MANIFEST, json.dumps(manifest).encode(), private=False)
        for path in folder.glob("*-rank-*-of-*.safetensors"):
            if path.name not in names:
                path.unlink()
    exchange.meet()


def _kinds(shard: Shard, synapses: State | None, pre: State | None, post: State | None) -> dict[str, dict[str, Tensor]]:
    """All that is kept, by its kind; each of the right shape."""
    state = {
        "synapses": {"weights": shard.weights, **(synapses or {})},
        "pre": dict(pre or {}),
        "post": dict(post or {}),
    }
    shapes = {"synapses": tuple(shard.weights.shape), "pre": (shard.n_pre,), "post": (shard.n_post,)}
    for kind, tensors in state.items():
        for name, tensor in tensors.items():
            if tuple(tensor.shape) != shapes[kind]:
                raise ValueError(
                    f"{kind} {name!r} has shape {tuple(tensor.shape)}: this rank's part has {shapes[kind]}"
                )
            if not tensor.is_contiguous():
                raise ValueError(f"{kind} {name!r} is not contiguous: pass a tensor that is")
    return state


def _write(shard: Shard, state: dict[str, dict[str, Tensor]], path: Path) -> None:
    tensors = dict(_named({kind: state[kind] for kind in ("pre", "post")})) | torch_states(shard.device)
    said: list[Any] = []
    if shard.topology is not None:
        whole = shard.topology.part(0, shard.topology.units).weights
        for name, tensor in state["synapses"].items():
            # as it is cut, so that others can read what is theirs alone
            tensors[f"synapses.{name}"] = tensor.reshape(whole.shape) if isinstance(whole, Window) else tensor
        said, own = _said_of(shard.topology)
        tensors |= own
    safetensors_module().torch.save_file(tensors, path, {"topology": json.dumps(said)})
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _said_of(topology: Topology) -> tuple[list[Any], dict[str, Tensor]]:
    """What a topology is made with: text, and its tensors by the place where each stands."""
    _, given = topology.__reduce__()
    tensors = {f"topology.{k}": value for k, value in enumerate(given) if isinstance(value, Tensor)}
    return [None if isinstance(value, Tensor) else value for value in given], tensors


class _Piece:
    """A rank's file, as far as it holds what is this rank's."""

    def __init__(self, stack: ExitStack, path: Path, bounds: tuple[int, int], shard: Shard) -> None:
        self.path, self.bounds, self.shard = path, bounds, shard
        self.file = stack.enter_context(safetensors_module().safe_open(path, framework="pt"))
        self.names = set(self.file.keys())
        (start, stop), (first, last) = shard.bounds[this_rank()[0]], bounds
        low, high = max(start, first), min(stop, last)
        self.theirs: Selection | None = None
        if low < high and shard.topology is not None:
            topology = self._topology(type(shard.topology))
            their_part, own_part = (
                topology.part(low - first, high - first),
                shard.topology.part(low - start, high - start),
            )
            self.theirs, self.own = their_part.weights, own_part.weights
            self.is_alike = _are_alike(their_part.topology, own_part.topology)

    def _topology(self, kind: type[Topology]) -> Topology:
        said = json.loads(self.file.metadata()["topology"])
        given = [
            self.file.get_tensor(f"topology.{k}") if f"topology.{k}" in self.names else v for k, v in enumerate(said)
        ]
        return kind(*given)

    def random_states(self) -> dict[str, Tensor]:
        return {name: self.file.get_tensor(name) for name in self.names if name.startswith("random.")}

    def check(self, state: dict[str, dict[str, Tensor]]) -> None:
        for name, own in _named(state):
            if name.startswith("synapses.") and self.theirs is None:
                continue
            if name not in self.names:
                raise ValueError(f"{self.path} holds no {name}: it holds {', '.join(sorted(self.names))}")
            kept = self.file.get_slice(name).get_dtype()
            if kept != _DTYPES.get(own.dtype):
                raise ValueError(f"{name} is {own.dtype}, and {kept} in {self.path}: use the same dtype")
        if self.theirs is not None and not self.is_alike:
            raise ValueError(
                f"{self.path} has synapses between other neurons than this group: build it as when it was saved"
            )

    def fill(self, synapses: dict[str, Tensor]) -> None:
        if self.theirs is None:
            return
        for name, own in synapses.items():
            self.own.put(own, self._read(f"synapses.{name}", self.theirs).to(own.device))

    def _read(self, name: str, selection: Selection) -> Tensor:
        if not isinstance(selection, Window):
            return selection.of(self.file.get_tensor(name))
        before = (slice(None),) * selection.axis
        read: Tensor = self.file.get_slice(name)[(*before, slice(selection.start, selection.stop))]
        return read


def _named(state: dict[str, dict[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor by its name in a file."""
    for kind, tensors in state.items():
        yield from ((f"{kind}.{name}", tensor) for name, tensor in tensors.items())


def _are_alike(theirs: Topology | None, own: Topology | None) -> bool:
    if theirs is None or own is None:
        return theirs is own
    (said, tensors), (own_said, own_tensors) = _said_of(theirs), _said_of(own)
    return said == own_said and all(torch.equal(tensors[name], own_tensors[name].cpu()) for name in tensors)


def _gather(pieces: list[_Piece], name: str, own: Tensor, window_of: Any, shard: Shard) -> None:
    """Put the slices of a vector together, and take this rank's of it."""
    every = own.new_zeros(window_of(0, shard.whole.units).shape, device="cpu")
    for piece in pieces:
        window_of(*piece.bounds).put(every, piece.file.get_tensor(name))
    own.copy_(window_of(*shard.bounds[this_rank()[0]]).of(every).reshape(-1))


_DTYPES = {
    torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8",
}  # fmt: skip
