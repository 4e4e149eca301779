"""What spikes carry along: lists of who spiked, made once for all that read them on a GPU.

A tensor carries lists only if whoever writes it asks for it, and writes it by torch's functions, which its version
counts: what a kernel of somebody's own writes would go unnoticed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Carried(dict[int, Any]):
    """Event lists by how they are cut; copies of the spikes carry none of them, but make their own.

    Attributes
    ----------
    version : int
        The spikes' version for which lists were made.
    known, missing : tuple of int
        All of them, and those that are not made of the spikes as they are.
    """

    version = -1
    known: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()

    def __setitem__(self, key: int, made_of: Any) -> None:
        super().__setitem__(key, made_of)
        self.known, self.missing = (*self.known, key), (*self.missing, key)

    def __deepcopy__(self, memo: dict[int, Any]) -> Carried:
        return Carried()

    def __reduce__(self) -> tuple[Any, ...]:
        return Carried, ()


def carry_lists(spikes: Tensor) -> None:
    """Have spikes carry lists, unless they were made for inference: such have no version."""
    if not spikes.is_inference():
        spikes.event_lists = Carried()  # type: ignore[attr-defined]


def lists_of(spikes: Tensor) -> Carried | None:
    """The lists that spikes carry; None where they carry none."""
    carried: Carried | None = spikes.__dict__.get("event_lists")
    if carried is not None and carried.version != spikes._version:
        carried.version, carried.missing = spikes._version, carried.known
    return carried
