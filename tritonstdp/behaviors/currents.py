"""What gathers the currents of a neuron's synapses under CoNeX's names: in place, one pass each.

Dendritic inputs set the current of a synapse group; :class:`SimpleDendriteStructure` adds up those of a neuron's
groups, each when it arrives, and :class:`SimpleDendriteComputation` makes one current a neuron of them. Both give
CoNeX's bits.
"""

from __future__ import annotations

from typing import Any

import torch
from pymonntorch import Behavior
from torch import Tensor

from tritonstdp.behaviors.synapse import attribute_of, is_closed, keep, version_of

__all__ = ["SimpleDendriteComputation", "SimpleDendriteStructure"]

_KINDS = ("Proximal", "Distal", "Apical")


class SimpleDendriteStructure(Behavior):
    """Add up the currents of a neuron's synapses by kind, as ``I_proximal``, ``I_distal`` and ``I_apical``.

    A group's kind is one of its tags; its current is ``synapse.I``, which arrives after ``synapse.dst_delay`` steps.

    Parameters
    ----------
    Proximal_max_delay, Distal_max_delay, Apical_max_delay : int
        The number of steps that are kept of each kind, the longest delay being one less; 0 for none of that kind. Of
        apical ones, one more than of distal ones by default.
    proximal_min_delay, distal_min_delay, apical_min_delay : int
        The shortest delay of each kind; of apical ones, one more than of distal ones by default.

    Attributes
    ----------
    proximal_min_delay, distal_min_delay, apical_min_delay : int
        As given, or as :meth:`update_min_delay` finds them.

    Raises
    ------
    ValueError
        At ``initialize``, if a shortest delay is not kept; at a step, if a group's delay is not.

    Examples
    --------
    >>> SimpleDendriteStructure(Proximal_max_delay=3).tag
    'SimpleDendriteStructure'
    """

    def __init__(
        self,
        *args: Any,
        Proximal_max_delay: int = 1,
        Distal_max_delay: int = 1,
        Apical_max_delay: int | None = None,
        proximal_min_delay: int = 0,
        distal_min_delay: int = 0,
        apical_min_delay: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            Proximal_max_delay=Proximal_max_delay,
            Distal_max_delay=Distal_max_delay,
            Apical_max_delay=Apical_max_delay,
            proximal_min_delay=proximal_min_delay,
            distal_min_delay=distal_min_delay,
            apical_min_delay=apical_min_delay,
            **kwargs,
        )

    def initialize(self, neurons: Any) -> None:
        self._arriving: dict[str, _Arriving] = {}
        longest, shortest = 1, 0
        for kind in _KINDS:
            # apical currents come a step later than distal ones, unless it is said otherwise
            later = kind == "Apical"
            longest = self.parameter(f"{kind}_max_delay", longest + 1 if later else 1)
            shortest = self.parameter(f"{kind.lower()}_min_delay", shortest + 1 if later else 0)
            if shortest >= longest and (longest > 0 or kind == "Proximal"):
                raise ValueError(
                    f"{kind.lower()}_min_delay is {shortest} and {kind}_max_delay {longest}: the delay must be smaller "
                    "than the number of steps that are kept"
                )
            setattr(self, f"{kind.lower()}_max_delay", longest)
            setattr(self, f"{kind.lower()}_min_delay", shortest)
            setattr(neurons, f"{kind.lower()}_input", neurons.vector_buffer(longest) if longest else [0])

    def update_min_delay(self, neurons: Any) -> None:
        """Read the shortest delay of each kind off the synapses."""
        for kind in _KINDS:
            if groups := neurons.afferent_synapses.get(kind, []):
                setattr(self, f"{kind.lower()}_min_delay", torch.cat([group.dst_delay for group in groups]).min())

    def forward(self, neurons: Any) -> None:
        for kind, name, current in _NAMES:
            kept, groups = getattr(neurons, name), neurons.afferent_synapses.get(kind, ())
            if isinstance(kept, Tensor):
                arriving = self._arriving.get(kind)
                if arriving is None or not arriving.is_of(kept):
                    arriving = self._arriving[kind] = _Arriving(kept.clone() if is_closed(kept) else kept)
                    keep(neurons, name, arriving.kept)
                arriving.move_on()
                for group in groups:
                    arriving.add(group, kind)
                keep(neurons, current, arriving.now)
            elif groups:
                raise ValueError(
                    f"{groups[0].tag} is {kind}, and {kind}_max_delay is 0: give SimpleDendriteStructure the number of "
                    "steps to keep"
                )
            else:
                setattr(neurons, current, 0)


_NAMES = tuple((kind, f"{kind.lower()}_input", f"I_{kind.lower()}") for kind in _KINDS)


class _Arriving:
    """The currents of one kind that are still to arrive, and those that do now."""

    def __init__(self, kept: Tensor) -> None:
        self.kept, self.now = kept, kept[0]
        self._silent = 0
        self._left_at: int | None = None
        self._undelayed: dict[Any, tuple[Tensor, int | None, bool]] = {}

    def is_of(self, kept: Tensor) -> bool:
        """Whether it is about this tensor, and may write it."""
        return self.kept is kept and not is_closed(kept)

    def move_on(self) -> None:
        """Bring all a step nearer; once nobody has written for as many steps as are kept, there is nothing to bring."""
        kept, version = self.kept, version_of(self.kept)
        self._silent = self._silent + 1 if version == self._left_at and version is not None else 0
        if self._silent >= len(kept):
            return
        if len(kept) == 1:
            kept.zero_()
        else:
            kept[:-1] = kept[1:].clone()
            kept[-1].zero_()
        self._left_at = version_of(kept)

    def add(self, group: Any, kind: str) -> None:
        """Add a group's current."""
        delay, current = attribute_of(group, "dst_delay"), attribute_of(group, "I")
        known, version, undelayed = self._undelayed.get(group, (None, -1, False))
        if known is None or known is not delay or version != version_of(known):
            undelayed = _check_delay(group, delay, len(self.kept), kind)
            self._undelayed[group] = delay, version_of(delay), undelayed
        if undelayed:
            self.now.add_(current)
        else:
            self.kept.scatter_add_(0, delay.unsqueeze(0), current.unsqueeze(0))


def _check_delay(group: Any, delay: Any, kept: int, kind: str) -> bool:
    """Refuse a delay that is not kept; return whether there is none at all."""
    if not isinstance(delay, Tensor):
        raise ValueError(f"{group.tag} has no dst_delay: add CoNeX's SynapseInit to it")
    longest = int(delay.max()) if delay.numel() else 0
    if longest >= kept:
        raise ValueError(
            f"{group.tag} has a dst_delay of {longest} steps, and {kept} are kept: give SimpleDendriteStructure "
            f"{kind}_max_delay={longest + 1}"
        )
    return longest == 0


class SimpleDendriteComputation(Behavior):
    """Make one current a neuron, ``neurons.I``, of those that :class:`SimpleDendriteStructure` gathers.

    Parameters
    ----------
    I_tau : float, optional
        The time constant by which a current decays, in steps; without it, a current lasts for one step.
    apical_provocativeness, distal_provocativeness : float, optional
        How far apical (distal) currents can raise a neuron, as a share of the way from ``v_rest`` to the threshold;
        without it, they do not reach it.

    Examples
    --------
    >>> SimpleDendriteComputation(I_tau=5.0).tag
    'SimpleDendriteComputation'
    """

    def __init__(
        self,
        *args: Any,
        I_tau: Any = None,
        apical_provocativeness: Any = None,
        distal_provocativeness: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            I_tau=I_tau,
            apical_provocativeness=apical_provocativeness,
            distal_provocativeness=distal_provocativeness,
            **kwargs,
        )

    def initialize(self, neurons: Any) -> None:
        self.apical_provocativeness = self.parameter("apical_provocativeness", None)
        self.distal_provocativeness = self.parameter("distal_provocativeness", None)
        self.I_tau = self.parameter("I_tau", None)
        neurons.I = neurons.vector()

    def forward(self, neurons: Any) -> None:
        current = neurons.I
        if is_closed(current):
            current = neurons.I = current.clone()
        if self.I_tau is None:
            current.zero_()
        else:
            current -= current / self.I_tau
        arriving = neurons.I_proximal
        if self.apical_provocativeness is not None or self.distal_provocativeness is not None:
            priming = _raised(neurons, neurons.I_apical, self.apical_provocativeness) + _raised(
                neurons, neurons.I_distal, self.distal_provocativeness
            )
            arriving = arriving + getattr(neurons, "tau", 1) * priming / getattr(neurons, "R", 1)
        current += arriving


def _raised(neurons: Any, current: Any, provocativeness: Any) -> Any:
    """What a current does that raises a neuron up to a limit, and no further."""
    if provocativeness is None:
        return 0
    limit = neurons.v_rest + provocativeness * (neurons.threshold - neurons.v_rest)
    return torch.tanh(current) * torch.clip(limit - neurons.v, min=0)
