"""Spike catchers and spike traces on a synapse group, as CoNeX's main branch has them, each in one pass.

Catchers take the spikes from the axon where the neurons have one, delayed as it delays them, and from
``neurons.spikes`` in a bare PymoNNtorch network. Add catchers, then traces, then learning.

What several synapse groups would find alike is found once, and they share its tensor: the spikes of the same neurons,
unless their axon delays them, and traces of the same time constant that follow them; as far as nothing else runs
between the groups' behaviors. Setting a trace's attribute, or binding another tensor to the group, parts it from the
others; writing into a shared trace reaches all of them.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from pymonntorch import Behavior
from torch import Tensor

from tritonstdp.behaviors.synapse import arriving_spikes, attribute_of, keep, may_be_delayed
from tritonstdp.functional import trace_
from tritonstdp.kernels.spikes import carry_lists

__all__ = ["PostSpikeCatcher", "PostTrace", "PreSpikeCatcher", "PreTrace"]


class _Caught:
    """The spikes of some neurons at one place of a step, in one tensor for all groups that ask there."""

    def __init__(self, synapse: Any, side: str) -> None:
        self.network, self.neurons, self.side = synapse.network, getattr(synapse, side), side
        self.spikes: Tensor | None = None
        self.round = 0
        self._iteration = -1
        self._served: list[Behavior] = []

    def by(self, catcher: Behavior, synapse: Any) -> Tensor:
        """The spikes, caught anew in a new step, or where the same one asks again."""
        iteration, spikes = self.network.iteration, self.spikes
        if spikes is None or iteration != self._iteration or catcher in self._served:
            spikes = self.spikes = self._copied(arriving_spikes(self.neurons, synapse, self.side))
            self._iteration, self._served = iteration, []
            self.round += 1
        self._served.append(catcher)
        return spikes

    def _copied(self, arriving: Tensor) -> Tensor:
        spikes = self.spikes
        if arriving.requires_grad:
            arriving = arriving.detach()
        if spikes is None or not _can_hold(spikes, arriving):
            spikes = arriving.clone()
            carry_lists(spikes)
        else:
            spikes.copy_(arriving)
        return spikes


def _can_hold(kept: Tensor, arriving: Tensor) -> bool:
    if kept.is_inference() and not torch.is_inference_mode_enabled():
        return False
    # the index of a device takes a tenth of what the device itself does; a group's neurons are a vector
    alike = kept.dtype is arriving.dtype and kept.numel() == arriving.numel()
    return alike and kept.get_device() == arriving.get_device()


class _SharedTrace:
    """A trace of the spikes that are caught at one place, for all groups that keep one alike at another."""

    def __init__(self, values: Tensor, network: Any, caught: _Caught | None = None) -> None:
        self.values, self.network, self.caught = values, network, caught
        self.keepers: list[tuple[_Trace, Any]] = []
        self._advanced = 0, 0

    def is_advanced(self, keeper: Behavior) -> bool:
        """Whether another keeper has advanced it since the spikes were caught; if not, this one does."""
        if self.caught is None:
            return False
        by, caught_in = self._advanced
        if caught_in == self.caught.round and by != id(keeper):
            return True
        self._advanced = id(keeper), self.caught.round
        return False


_CAUGHT: WeakKeyDictionary[Any, dict[Any, _Caught]] = WeakKeyDictionary()
_TRACES: WeakKeyDictionary[Any, dict[Any, _SharedTrace]] = WeakKeyDictionary()
"""By neurons."""


def _order(synapse: Any) -> list[Behavior]:
    """The behaviors of a step, as the network runs them."""
    order = getattr(getattr(synapse, "network", None), "sorted_behavior_execution_list", ())
    return [behavior for _, _, behavior in order]


def _place(behavior: Behavior, order: list[Behavior]) -> int | None:
    """Where in a step a catcher or trace comes: behind how many behaviors, as far as others stand between."""
    place = 0
    for k, other in enumerate(order):
        if other is behavior:
            return place
        if not isinstance(other, (_Catcher, _Trace)):
            place = k + 1
    return None


class _Catcher(Behavior):
    """The spikes of one side of a synapse group."""

    initialize_last = True
    side = ""
    neurons = ""

    def initialize(self, synapse: Any) -> None:
        self.caught = self.shared(synapse) or _Caught(synapse, self.neurons)
        self.forward(synapse)

    def shared(self, synapse: Any) -> _Caught | None:
        """What catches for all groups at this place; None where this one is alone."""
        neurons, place = getattr(synapse, self.neurons), _place(self, _order(synapse))
        if place is None or may_be_delayed(neurons):
            return None
        return _CAUGHT.setdefault(neurons, {}).setdefault(place, _Caught(synapse, self.neurons))

    def forward(self, synapse: Any) -> None:
        keep(synapse, f"{self.side}_spike", self.caught.by(self, synapse))


class PreSpikeCatcher(_Catcher):
    """Keep the spikes of the pre neurons of this step as ``synapse.pre_spike``, in the same tensor at every step.

    Raises
    ------
    ValueError
        At ``initialize``, if the neurons have neither an axon nor ``spikes``.

    Examples
    --------
    >>> PreSpikeCatcher().tag
    'PreSpikeCatcher'
    """

    side, neurons = "pre", "src"


class PostSpikeCatcher(_Catcher):
    """Keep the spikes of the post neurons of this step as ``synapse.post_spike``, in the same tensor at every step.

    Raises
    ------
    ValueError
        At ``initialize``, if the neurons have neither an axon nor ``spikes``.

    Examples
    --------
    >>> PostSpikeCatcher().tag
    'PostSpikeCatcher'
    """

    side, neurons = "post", "dst"


_SETTINGS = ("tau_s", "spike_scale", "nearest", "backend")
"""What traces that are shared have in common."""


class _Trace(Behavior):
    """One trace of one side of a synapse group."""

    side = ""
    neurons = ""
    catcher: type[_Catcher]
    _shared: _SharedTrace

    def __init__(
        self,
        tau_s: Any,
        *args: Any,
        spike_scale: Any = 1.0,
        nearest: bool = False,
        signal: str | None = None,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        signal = f"{self.side}_trace" if signal is None else signal
        if not isinstance(signal, str) or not signal.startswith(f"{self.side}_") or signal == f"{self.side}_spike":
            raise ValueError(f"signal is {signal!r}: name a trace of these neurons, as {self.side}_slow")
        super().__init__(
            *args, tau_s=tau_s, spike_scale=spike_scale, nearest=nearest, signal=signal, backend=backend, **kwargs
        )

    def initialize(self, synapse: Any) -> None:
        self._shared = _SharedTrace(getattr(synapse, self.neurons).vector(0.0), synapse.network)
        self._shared.keepers.append((self, synapse))
        self.tau_s = self.parameter("tau_s", None)
        if self.tau_s is None:
            raise ValueError(f"{type(self).__name__} needs tau_s, the time constant of the trace: pass tau_s=...")
        self.spike_scale = self.parameter("spike_scale", 1.0)
        self.nearest = self.parameter("nearest", False)
        self.signal = self.parameter("signal", f"{self.side}_trace")
        self.backend = self.parameter("backend", None)
        self._shared = self._found(synapse)
        setattr(synapse, self.signal, self._shared.values)

    def _found(self, synapse: Any) -> _SharedTrace:
        neurons, order = getattr(synapse, self.neurons), _order(synapse)
        catchers = [each for each in synapse.behavior.values() if isinstance(each, self.catcher)]
        caught = catchers[0].shared(synapse) if len(catchers) == 1 else None
        settings = tuple([getattr(self, name) for name in _SETTINGS])
        if caught is None or any(isinstance(value, Tensor) for value in settings):
            return self._shared
        is_behind = order.index(catchers[0]) < order.index(self)
        traces, key = _TRACES.setdefault(neurons, {}), (id(caught), _place(self, order), is_behind, settings)
        if key not in traces or any(keeper is self for keeper, _ in traces[key].keepers):  # which begins anew
            traces[key] = _SharedTrace(self._shared.values, synapse.network, caught)
        traces[key].keepers.append((self, synapse))
        return traces[key]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (*_SETTINGS, "behavior_enabled") and name in self.__dict__ and getattr(self, name) is not value:
            self._part()
        super().__setattr__(name, value)

    def _part(self) -> None:
        """Go on alone from what the trace is now."""
        left = self._shared
        [(_, synapse)] = mine = [pair for pair in left.keepers if pair[0] is self]
        left.keepers = [pair for pair in left.keepers if pair[0] is not self]
        self._shared = _SharedTrace(left.values.clone(), left.network)
        self._shared.keepers += mine
        if getattr(synapse, self.signal) is left.values:
            setattr(synapse, self.signal, self._shared.values)

    def forward(self, synapse: Any) -> None:
        spikes, caught = getattr(synapse, f"{self.side}_spike"), self._shared.caught
        if caught is not None and (
            spikes is not caught.spikes or getattr(synapse, self.signal) is not self._shared.values
        ):
            self._part()
        if self._shared.is_advanced(self):
            return
        trace_(
            getattr(synapse, self.signal),
            spikes,
            tau=self.tau_s,
            dt=attribute_of(self._shared.network, "dt", 1.0),
            scale=self.spike_scale,
            nearest=self.nearest,
            backend=self.backend,
        )


class PreTrace(_Trace):
    """Keep the trace of the pre neurons' spikes as ``synapse.pre_trace``; to be placed after ``PreSpikeCatcher``.

    Parameters
    ----------
    tau_s : float
        The time constant, in the unit of ``network.dt`` (CoNeX: milliseconds). A network without ``dt``, as
        PymoNNtorch's own, has steps of 1.
    spike_scale : float
        What one spike adds.
    nearest : bool
        Whether a spike sets the trace instead of adding to it, so that spikes pair with the nearest earlier one alone.
    signal : str
        The name of the trace on the group, for rules that read several: ``pre_trace``, or another that starts alike.
    backend : str, optional
        "triton", "cpu" or "reference", and no other.

    Raises
    ------
    ValueError
        If ``signal`` is no name of a pre trace; at ``initialize``, if ``tau_s`` is None.

    Examples
    --------
    >>> PreTrace(tau_s=10.0).tag
    'PreTrace'
    """

    side, neurons, catcher = "pre", "src", PreSpikeCatcher


class PostTrace(_Trace):
    """Keep the trace of the post neurons' spikes as ``synapse.post_trace``; to be placed after ``PostSpikeCatcher``.

    Parameters
    ----------
    tau_s, spike_scale, nearest, signal, backend
        As for :class:`PreTrace`.

    Raises
    ------
    ValueError
        As :class:`PreTrace`.

    Examples
    --------
    >>> PostTrace(tau_s=10.0).tag
    'PostTrace'
    """

    side, neurons, catcher = "post", "dst", PostSpikeCatcher
