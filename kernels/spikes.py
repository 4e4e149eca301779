"""What spikes carry along: lists of who spiked, made once for all that read them on a GPU.

Only whoever writes spikes can tell that they are others: a tensor carries lists if its writer says so
(:func:`carry_lists`), and then says at each step that it has written it anew (:func:`written_anew`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Carried(dict[int, Any]):
    """Event lists by how they are cut; copies of the spikes carry none of them, but make their own.

    Attributes
    ----------
    missing : tuple of int
        Those that are not made of the spikes as they are.
    """

    missing: tuple[int, ...] = ()

    def __setitem__(self, key: int, made_of: Any) -> None:
        super().__setitem__(key, made_of)
        self.missing = (*self.missing, key)

    def __deepcopy__(self, memo: dict[int, Any]) -> Carried:
        return Carried()

    def __reduce__(self) -> tuple[Any, ...]:
        return Carried, ()


def carry_lists(spikes: Tensor) -> None:
    """Have spikes carry lists; whoever writes them must call :func:`written_anew` from then on."""
    spikes.event_lists = Carried()  # type: ignore[attr-defined]


def lists_of(spikes: Tensor) -> Carried | None:
    """The lists that spikes carry; None where they carry none."""
    return spikes.__dict__.get("event_lists")


def written_anew(spikes: Tensor) -> None:
    """Say that spikes that carry lists are others now."""
    carried = spikes.event_lists  # type: ignore[attr-defined]
    carried.missing = tuple(carried)
