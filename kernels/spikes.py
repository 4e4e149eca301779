"""What spikes carry along: lists of who spiked, made once for all that read them on a GPU.

Only whoever writes spikes can tell that they are others: a tensor carries lists if its writer says so
(:func:`carry_lists`), and then says at each step that it has written it anew (:func:`written_anew`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Carried(dict[Any, Any]):
    """Event lists by how they are cut; copies of the spikes carry none of them, but make their own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Carried:
        return Carried()

    def __reduce__(self) -> tuple[Any, ...]:
        return Carried, ()


def carry_lists(spikes: Tensor) -> None:
    """Have spikes carry lists; whoever writes them must call :func:`written_anew` from then on."""
    spikes.event_lists = Carried()  # type: ignore[attr-defined]


def lists_of(spikes: Tensor) -> Carried | None:
    """The lists that spikes carry; None where they carry none."""
    return getattr(spikes, "event_lists", None)


def written_anew(spikes: Tensor) -> None:
    """Say that spikes that carry lists are others now."""
    for carried in spikes.event_lists.values():  # type: ignore[attr-defined]
        carried.made = False
