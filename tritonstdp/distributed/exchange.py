"""Once a step, each rank sends what its neurons fired, and gets what all have.

A message begins with a header, by which all ranks find out together whether they are in the same step of the same
network. What follows is a bit a neuron; or, where slices are so large that bytes count for more than one more
round, the numbers of those that fired, if that is shorter for all. Spikes that count with a value are sent as values.
"""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache, partial
from threading import Thread
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tritonstdp.distributed.slices import this_rank

__all__ = ["Exchange", "ExchangeError"]

FACTS = ("network", "rule", "seed")
"""What ranks have to agree on beside the step."""

HEADER = np.dtype([("step", "<i8"), ("count", "<i4"), *((fact, "<u4") for fact in FACTS), ("end", "S36")])
"""``end`` says why a rank ends; it is empty as long as it goes on."""

AT_ONCE = 2**16
"""Bytes that are sent with the header: a second round takes longer than they do."""

FINISHED = b"it has finished"

MEETS = -1
"""The count of a rank that exchanges no spikes, but waits for the others between steps."""

MARGIN = 5.0
"""Seconds by which ranks may differ in when they find out that one is missing."""


class ExchangeError(RuntimeError):
    """Ranks that can't go on together; the message names which, and why."""


class Owner(Protocol):
    """What an exchange asks of whose neurons' spikes it carries; a :class:`Shard` is one."""

    facts: dict[str, str]

    @property
    def n_post(self) -> int:
        """How many neurons are this rank's."""

    @property
    def device(self) -> torch.device:
        """Where their spikes are."""

    def neurons_of(self, rank: int) -> Tensor:
        """The numbers of a rank's neurons."""


class _Round(NamedTuple):
    """Messages that are under way."""

    gathered: Tensor
    transfers: list[Any]
    message: Tensor


class Exchange:
    """The spikes of neurons that are dealt out among ranks: a call a step, in which all take part.

    A call is :meth:`send` and :meth:`receive`. Between these two, a rank can learn from the spikes of the step before,
    while those of this one are under way.

    Use it in a ``with`` block: a rank that raises within tells the others, which then raise as well, as they do if one
    leaves it earlier. What a rank does not tell, as it was killed or hangs, the others find out after ``timeout``.

    Parameters
    ----------
    shard : Shard
        Whose post neurons they are.
    *others : Shard
        Other groups that learn by the same steps: the ranks have to agree on them as well.
    dtype : torch.dtype
        That of the spikes, on all ranks: ``torch.bool``, or a floating one of spikes that count with their value.
    timeout : float
        Seconds after which a rank that others wait for is given up; longer than any step takes, kernels being compiled
        in the first one.

    Attributes
    ----------
    step : int
        How many steps were exchanged.
    sent : int
        The bytes that this rank sent in the last one: at most ``n / 8 + 64`` of bool spikes, where ``n`` is the size of
        the largest slice, rounded up to 8. It gets as many from each other rank.

    Raises
    ------
    ExchangeError
        Here and at every call, on all ranks, if one was killed, hangs, has raised or finished, or differs in the
        number of steps, the groups (topologies, dtypes), the rule and how its arguments are given, or torch's seed;
        ``timeout`` and 6 seconds after the call at the latest.
    ValueError, TypeError
        If ``spikes`` do not fit.

    Examples
    --------
    >>> from tritonstdp.distributed import shard
    >>> with Exchange(shard(torch.rand(3, 3))) as exchange:
    ...     exchange(torch.tensor([True, False, True]))
    tensor([ True, False,  True])
    """

    def __init__(self, shard: Owner, *others: Owner, dtype: torch.dtype = torch.bool, timeout: float = 300.0) -> None:
        if dtype is not torch.bool and not dtype.is_floating_point:
            raise TypeError(f"dtype is {dtype}: spikes are torch.bool or of a floating dtype")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout is {timeout}: give seconds, a finite number above 0")
        self.shards, self.dtype, self.timeout = (shard, *others), dtype, timeout
        self.step = self.sent = 0
        self._rank, self._size = this_rank()
        self._n_own, self._device = shard.n_post, shard.device
        neurons = [shard.neurons_of(rank) for rank in range(self._size)]
        # so many of each rank, the last ones for nobody, so that all messages are of one length
        self._stride = -(-max(map(len, neurons)) // 8) * 8
        self._bytes = self._stride // 8 if dtype is torch.bool else self._stride * dtype.itemsize
        self._at_once = self._bytes if self._bytes <= AT_ONCE or dtype is not torch.bool else 0
        self._has_ended = False
        self._on_the_way: tuple[Tensor, _Round | None] | None = None
        self._dropped_next: _Round | None = None
        if self._size > 1:
            self._no_spikes = torch.zeros(self._at_once, dtype=torch.uint8, device=self._device)
            self._place_of = _places(neurons, self._stride).to(self._device)
            self._group = dist.new_group(timeout=timedelta(seconds=timeout))
            # alone, as messages have one length only if the ranks agree
            self._compare(self._gathered(self._header(0).to(self._device)))

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._has_ended or self._size == 1:
            return
        if error is None:
            self._let_arrive()
            self._compare(self._gathered(self._message(0, None, FINISHED)))
            self._has_ended = True
        else:
            self.give_up(error)

    def __call__(self, spikes: Tensor) -> Tensor:
        """Send the spikes of this rank's neurons, and get those of all.

        Parameters
        ----------
        spikes : Tensor
            ``(shard.n_post,)``, those of this step.

        Returns
        -------
        Tensor
            ``(n,)``, a tensor of its own, in the order of the group's post neurons.
        """
        self.send(spikes)
        return self.receive()

    def send(self, spikes: Tensor) -> None:
        """Send the spikes of this rank's neurons, and go on with what needs no others' while they are under way.

        Parameters
        ----------
        spikes : Tensor
            ``(shard.n_post,)``, those of this step.

        Raises
        ------
        ValueError
            If the spikes that were sent before are not received yet.

        Examples
        --------
        >>> from tritonstdp.distributed import shard
        >>> with Exchange(shard(torch.rand(3, 3))) as exchange:
        ...     exchange.send(torch.tensor([True, False, True]))
        ...     exchange.receive()
        tensor([ True, False,  True])
        """
        self._check(spikes)
        if self._on_the_way:
            raise ValueError("the spikes that were sent before are on their way: call receive() before the next send")
        if self._size == 1:
            self._on_the_way = spikes.clone(), None
        elif self._at_once:
            self._on_the_way = spikes, self._begun(self._message(0, spikes))
        else:
            self._on_the_way = spikes.clone(), self._begun(self._message(int(spikes.count_nonzero()), None))

    def receive(self) -> Tensor:
        """Wait for the spikes of all ranks of the step in which the last ones were sent.

        Returns
        -------
        Tensor
            ``(n,)``, a tensor of its own, in the order of the group's post neurons.

        Raises
        ------
        ValueError
            If none were sent.
        """
        if not self._on_the_way:
            raise ValueError("no spikes are on their way: call send(spikes) before receive()")
        (spikes, under_way), self._on_the_way = self._on_the_way, None
        if under_way is None:
            self.step += 1
            return spikes
        gathered = self._arrived(under_way)
        counts = self._compare(gathered)
        self.sent = gathered.shape[1]
        if self._at_once:
            padded = _unpacked(gathered[:, HEADER.itemsize :], self.dtype)
        else:
            padded = self._second_round(spikes, counts)
        self.step += 1
        return padded.index_select(0, self._place_of)

    def give_up(self, error: BaseException) -> None:
        """Tell the others, instead of this rank's next spikes, what it has raised."""
        if self._size == 1:  # a process by itself can go on after what it has caught
            return
        if not self._has_ended:
            with suppress(ExchangeError):  # what this rank has raised is what has to be known here
                self._let_arrive()
                self._compare(self._gathered(self._message(0, None, f"{type(error).__name__}: {error}".encode())))
        self._has_ended = True

    def meet(self) -> None:
        """Wait until all ranks are here: what each has done before, all know to be done."""
        if self._on_the_way:
            raise ValueError("spikes are on their way: call receive() before the ranks meet, save or load")
        if self._size > 1:
            self._compare(self._gathered(self._message(MEETS, None)))

    def _let_arrive(self) -> None:
        if self._on_the_way:
            self.receive()

    def _check(self, spikes: Tensor) -> None:
        if self._has_ended:
            raise ExchangeError("the exchange has ended: make another one, on all ranks")
        if not isinstance(spikes, Tensor) or spikes.dtype is not self.dtype:
            what = spikes.dtype if isinstance(spikes, Tensor) else type(spikes).__name__
            raise TypeError(
                f"spikes are {what}, and {self.dtype} is exchanged: pass dtype={what} to Exchange, on all ranks"
            )
        if tuple(spikes.shape) != (self._n_own,):
            raise ValueError(f"spikes have shape {tuple(spikes.shape)}: this rank has {(self._n_own,)} post neurons")
        if spikes.device != self._device:
            raise ValueError(f"spikes are on {spikes.device}, the weights on {self._device}: move one of them")

    def _message(self, count: int, spikes: Tensor | None, end: bytes = b"") -> Tensor:
        """A header, and room for spikes where they are sent with it."""
        payload = self._no_spikes if spikes is None else _packed(spikes, self._stride)
        return torch.cat((self._header(count, end).to(self._device), payload))

    def _header(self, count: int, end: bytes = b"") -> Tensor:
        facts = (_digest(str(self.dtype), *(shard.facts[fact] for shard in self.shards)) for fact in FACTS)
        header = np.array([(self.step, count, *facts, end)], HEADER).view(np.uint8)
        self._said = header.tobytes()
        return torch.from_numpy(header)

    def _gathered(self, message: Tensor) -> Tensor:
        """The messages of all ranks, a row each."""
        return self._arrived(self._begun(message))

    def _begun(self, message: Tensor) -> _Round:
        gathered = message.new_empty(self._size, len(message))
        try:
            return _Round(gathered, [*self._transfers(message, gathered)], message)
        except RuntimeError as error:
            self._call_the_roll(time.monotonic(), error)

    def _transfers(self, message: Tensor, gathered: Tensor) -> Iterator[Any]:
        if self._device.type != "cpu":
            yield dist.all_gather(list(gathered), message, group=self._group, async_op=True)
            return
        # gloo hands what all take part in to a thread of its own, which takes twice as long as a message to each
        gathered[self._rank] = message
        others = [rank for rank in range(self._size) if rank != self._rank]
        for rank in others:
            yield dist.isend(message, rank, group=self._group)
        for rank in others:
            yield dist.irecv(gathered[rank], rank, group=self._group)

    def _arrived(self, under_way: _Round) -> Tensor:
        began = time.monotonic()
        try:
            for transfer in reversed(under_way.transfers):
                transfer.wait()
        except RuntimeError as error:
            self._call_the_roll(began, error)
        # a round later, as gloo's thread may still hold locks of a transfer that it has just told to be done: on a core
        # that both share, whoever drops the transfer then waits for that thread's turn, of 4 ms
        self._dropped_next = under_way
        return under_way.gathered

    def _compare(self, gathered: Tensor) -> Any:
        """How many neurons fired on each rank, once it is sure that all are in the same step of the same network."""
        said = gathered[:, : HEADER.itemsize].cpu().numpy().tobytes()
        headers = np.frombuffer(said, HEADER)
        if said != self._said * self._size and (difference := self._difference(headers)):
            self._has_ended = True
            raise ExchangeError(difference)
        return headers["count"]

    def _difference(self, headers: Any) -> str:
        for rank in np.flatnonzero((headers["end"] != b"") & (headers["end"] != FINISHED)):
            reason = headers["end"][rank].decode(errors="replace")
            return f"rank {rank} has failed in step {headers['step'][rank]}: {reason}"
        for fact in ("step", *FACTS):
            if (headers[fact] != headers[fact][0]).any():
                return _said_of(fact, headers[fact])
        meets = headers["count"] == MEETS
        if meets.any() and not meets.all():
            return f"{_listed(np.flatnonzero(meets))} saves, loads or meets in step {self.step}, and the others go on"
        finished = headers["end"] == FINISHED
        if finished.any() and not finished.all():
            return f"{_listed(np.flatnonzero(finished))} finished after {self.step} steps, and the others go on"
        return ""

    def _second_round(self, spikes: Tensor, counts: Any) -> Tensor:
        most = int(counts.max())
        self._has_ended = True  # as the others, who expect spikes, would read what is raised meanwhile as such
        padded = self._spikes_of_all(spikes, counts, most)
        self._has_ended = False
        return padded

    def _spikes_of_all(self, spikes: Tensor, counts: Any, most: int) -> Tensor:
        if 4 * most >= self._bytes:
            bits = self._gathered(_packed(spikes, self._stride))
            self.sent += bits.shape[1]
            return _unpacked(bits, self.dtype)
        if not most:
            return spikes.new_zeros(self._size * self._stride)
        numbers = torch.full((most,), -1, dtype=torch.int32, device=self._device)
        numbers[: counts[self._rank]] = spikes.nonzero().flatten()
        lists = self._gathered(numbers.view(torch.uint8)).view(torch.int32)
        self.sent += 4 * most
        padded = spikes.new_zeros(self._size, self._stride + 1)  # the last of each rank is for what stands for none
        padded.scatter_(1, lists.long().remainder(self._stride + 1), True)
        return padded[:, :-1].reshape(-1)

    def _call_the_roll(self, began: float, error: Exception) -> NoReturn:
        """Say which ranks are missing: all others write that they are there to where all have met at first."""
        self._has_ended = True
        until = began + self.timeout + MARGIN
        names = [f"tritonstdp/{self._group.group_name}/{rank}" for rank in range(self._size)]
        missing: list[int] | None = _answered(partial(_missing, names, self._rank, until), until + 1)
        if missing is None:
            raise ExchangeError(
                f"rank 0, where the ranks have met, is gone or hangs in step {self.step}: see what it said"
            ) from error
        if missing:
            raise ExchangeError(
                f"{_listed(missing)} did not answer in step {self.step}: killed, or busy for more than the timeout of "
                f"{self.timeout:g} s"
            ) from error
        raise ExchangeError(
            f"the exchange of step {self.step} has failed, and all ranks answer; they may have given this one up"
        ) from error


_SHIFTED = 0x0102040810204080
"""Times eight bytes of 0 or 1, read as one number, it has them as the bits of its highest byte."""
_EVERYWHERE, _ITS_BIT = 0x0101010101010101, 0x8040201008040201 - 2**64
"""Times one byte, the first has it in all eight, of each of which the other leaves one bit."""


def _packed(spikes: Tensor, stride: int) -> Tensor:
    """So many spikes as bytes: of bool ones, eight a byte."""
    padded = torch.nn.functional.pad(spikes, (0, stride - len(spikes))) if len(spikes) < stride else spikes
    if spikes.dtype is not torch.bool:
        return padded.contiguous().view(torch.uint8)
    if spikes.device.type == "cpu":  # where numpy takes a tenth of the time
        return torch.from_numpy(np.packbits(padded.numpy(), bitorder="little"))
    return _packed_on_device(padded.contiguous())


def _unpacked(payloads: Tensor, dtype: torch.dtype) -> Tensor:
    """The spikes in so many rows of bytes, one after the other."""
    if dtype is not torch.bool:
        return payloads.contiguous().view(-1).view(dtype)
    if payloads.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(payloads.numpy(), axis=1, bitorder="little").view(np.bool_)).view(-1)
    return _unpacked_on_device(payloads)


def _packed_on_device(spikes: Tensor) -> Tensor:
    return ((spikes.view(torch.int64) * _SHIFTED) >> 56).to(torch.uint8)


def _unpacked_on_device(payloads: Tensor) -> Tensor:
    eight = payloads.to(torch.int64) * _EVERYWHERE & _ITS_BIT
    return eight.view(-1).view(torch.uint8) != 0


def _places(neurons: Sequence[Tensor], stride: int) -> Tensor:
    """Where each neuron's spike is among those of all ranks, of which each has so many places."""
    places = torch.empty(sum(map(len, neurons)), dtype=torch.int64)
    for rank, numbers in enumerate(neurons):
        places[numbers] = torch.arange(len(numbers)) + rank * stride
    return places


@lru_cache
def _digest(*facts: str) -> int:
    return zlib.crc32("\n".join(facts).encode())


def _said_of(fact: str, values: Any) -> str:
    """Which ranks have one value, and which another."""
    ranks: dict[int, list[int]] = defaultdict(list)
    for rank, value in enumerate(values.tolist()):
        ranks[value].append(rank)
    sides = "; ".join(_listed(each) for each in ranks.values())
    what = f"the step: they are in steps {', '.join(map(str, ranks))}" if fact == "step" else f"the {fact}"
    return f"the ranks disagree on {what} ({sides}): {REMEDIES[fact]}"


REMEDIES = {
    "step": "call the exchange as often on all of them",
    "network": "give all of them groups and spikes of the same topologies and dtypes",
    "rule": "call update_ on all of them with the same rule and bounds, and the same kinds of arguments",
    "seed": "call torch.manual_seed with one seed on all of them, before shard(), and draw as much on all",
}


def _listed(ranks: Any) -> str:
    names = [str(int(rank)) for rank in ranks]
    return f"rank {names[0]}" if len(names) == 1 else f"ranks {', '.join(names[:-1])} and {names[-1]}"


def _missing(names: Sequence[str], own: int, until: float) -> list[int]:
    """The ranks that do not write their names into the store before a moment."""
    from torch.distributed.distributed_c10d import _get_default_store  # which has no public name

    store = _get_default_store()
    store.set(names[own], "here")
    return [rank for rank, name in enumerate(names) if not _comes(store, name, until)]


def _comes(store: Any, name: str, until: float) -> bool:
    while not store.check([name]):  # a wait ends in other errors in each kind of store
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _answered(ask: Callable[[], Any], until: float) -> Any:
    """What a question to the store is answered before a moment; None where the store is gone, or hangs."""
    answers: list[Any] = []

    def listen() -> None:
        with suppress(RuntimeError):
            answers.append(ask())

    # by itself, as no timeout ends what waits for a store whose process hangs
    thread = Thread(target=listen, daemon=True)
    thread.start()
    thread.join(max(until - time.monotonic(), 0.0))
    return answers[0] if answers else None
