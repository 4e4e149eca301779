"""Spike catchers and spike traces on a synapse group, as CoNeX's main branch has them, each in one pass.

Catchers take the spikes from the axon where the neurons have one, delayed as it delays them, and from
``neurons.spikes`` in a bare PymoNNtorch network. Add catchers, then traces, then learning.

What several synapse groups would find alike is found once, and they share its tensor: spikes of the same neurons that
nothing has written between their catchers, unless an axon delays them; and traces of such spikes of one name and one
time constant, as far as nothing else runs between the groups' behaviors. A recurrent group shares what both of its
sides would find. Setting a trace's attribute, disabling a behavior, or binding another tensor to a group, parts it from
the others; writing into a shared tensor reaches all of them, so that a group's own mask is ``synapse.pre_spike =
synapse.pre_spike & mask``. Subclasses share nothing.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from pymonntorch import Behavior
from torch import Tensor

from tritonstdp.behaviors.synapse import arriving_spikes, attribute_of, is_closed, keep, may_be_delayed, version_of
from tritonstdp.functional import trace_
from tritonstdp.kernels.spikes import carry_lists

__all__ = ["PostSpikeCatcher", "PostTrace", "PreSpikeCatcher", "PreTrace"]


class _Catch:
    """What a catcher has caught, in one tensor from step to step."""

    def __init__(self, synapse: Any, side: str) -> None:
        self.synapse, self.network, self.neurons = synapse, synapse.network, getattr(synapse, side)
        self.spikes: Tensor | None = None
        self._kind: tuple[Any, ...] = ()
        self._source: Tensor | None = None
        self._when: tuple[int, int] = -1, -1
        self._version = -1
        self._served: list[Behavior] = []

    def serves(self, catcher: Behavior, source: Tensor) -> bool:
        """Whether it is what another catcher would catch now, which did not ask before."""
        if self._source is not source or catcher in self._served or self.spikes is None:
            return False
        now = source._version, self.network._iteration
        return self._when == now and self.spikes._version == self._version

    def take(self, arriving: Tensor, source: Tensor | None) -> None:
        """Catch spikes as they are."""
        if arriving.requires_grad:
            arriving = arriving.detach()
        # a group whose catcher has been removed keeps what it had
        behaviors = len(self.network.sorted_behavior_execution_list)
        kind = arriving.shape, arriving.dtype, arriving.get_device(), behaviors
        if kind != self._kind or self.spikes is None or self.spikes.requires_grad or is_closed(self.spikes):
            self.spikes, self._kind = arriving.clone(), kind
            carry_lists(self.spikes)
        else:
            self.spikes.copy_(arriving)
        self._source, self._served = source, []
        if source is not None:
            self._when, self._version = (source._version, self.network._iteration), self.spikes._version

    def serve(self, catcher: Behavior) -> Tensor:
        """The spikes, for one catcher."""
        assert self.spikes is not None
        self._served.append(catcher)
        return self.spikes


class _SharedTrace:
    """A trace, for all that keep one alike."""

    def __init__(self, values: Tensor, network: Any) -> None:
        self.values, self.network = values, network
        self.behaviors = len(network.sorted_behavior_execution_list)
        self.keepers: list[tuple[_Trace, Any]] = []
        self.has_begun = False
        self._advanced: tuple[Any, ...] = ()

    def is_advanced(self, keeper: _Trace, spikes: Tensor) -> bool:
        """Whether another keeper has advanced it by these spikes; if not, this one does."""
        self.has_begun = True
        if len(self.keepers) == 1:
            return False
        now = id(spikes), version_of(spikes), self.network._iteration
        if self._advanced and self._advanced[0] == now and self._advanced[1] is not keeper:
            return True
        for other, synapse in list(self.keepers):
            if synapse.__dict__.get(f"{other.side}_spike") is not spikes:
                other.part()
        self._advanced = now, keeper
        return False


_PLACES: WeakKeyDictionary[Any, dict[int, tuple[int, int]]] = WeakKeyDictionary()


def _place(behavior: Behavior, network: Any) -> tuple[int, int] | None:
    """Behind how many behaviors a catcher or trace comes in a step: of others, and of all."""
    found = _PLACES.get(network, {})
    if id(behavior) not in found:
        found, place = {}, 0
        for k, (_, _, other) in enumerate(network.sorted_behavior_execution_list):
            found[id(other)] = place, k
            if type(other) not in (PreSpikeCatcher, PostSpikeCatcher, PreTrace, PostTrace):
                place = k + 1
        _PLACES[network] = found
    return found.get(id(behavior))


class _Catcher(Behavior):
    """The spikes of one side of a synapse group.

    Attributes
    ----------
    shares : bool
        Whether it does what every other one does, which is not known of a user's subclass.
    """

    initialize_last = True
    neurons = ""
    signal = ""
    shares = False

    def initialize(self, synapse: Any) -> None:
        self._own = _Catch(synapse, self.neurons)
        self.forward(synapse)

    def forward(self, synapse: Any) -> None:
        catch = self._own
        arriving, source = arriving_spikes(catch.neurons, synapse, self.neurons)
        if source is None or source.is_inference() or not self.shares:
            catch.take(arriving, None)
        else:
            of_neurons = catch.neurons.__dict__
            latest = of_neurons.get("_latest_catch", catch)
            if latest is not catch and latest.serves(self, source):
                catch = latest
            else:
                catch.take(arriving, source)
                of_neurons["_latest_catch"] = catch
        keep(synapse, self.signal, catch.serve(self))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.shares = _Catcher in cls.__bases__

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "behavior_enabled" and "_own" in self.__dict__ and not value:
            synapse = self._own.synapse
            keep(synapse, self.signal, getattr(synapse, self.signal).clone())
        super().__setattr__(name, value)


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

    neurons, signal = "src", "pre_spike"


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

    neurons, signal = "dst", "post_spike"


_SETTINGS = ("tau_s", "spike_scale", "nearest", "backend")
"""What traces that are shared have in common."""
_PLAIN = (int, float, bool, str, type(None))


class _Trace(Behavior):
    """One trace of one side of a synapse group."""

    side = ""
    neurons = ""
    catcher: type[_Catcher]

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
        self.tau_s = self.parameter("tau_s", None)
        if self.tau_s is None:
            raise ValueError(f"{type(self).__name__} needs tau_s, the time constant of the trace: pass tau_s=...")
        self.spike_scale = self.parameter("spike_scale", 1.0)
        self.nearest = self.parameter("nearest", False)
        self.signal = self.parameter("signal", f"{self.side}_trace")
        self.backend = self.parameter("backend", None)
        self._join(synapse)
        setattr(synapse, self.signal, self._shared.values)

    def _join(self, synapse: Any) -> None:
        """Keep a trace with those that keep one alike and have not begun, or else one alone."""
        neurons, key = getattr(synapse, self.neurons), self._alike(synapse)
        traces = neurons.__dict__.setdefault("_shared_traces", {})
        shared = traces.get(key)
        if shared is None or shared.has_begun or any(keeper is self for keeper, _ in shared.keepers):
            shared = _SharedTrace(neurons.vector(0.0), synapse.network)
            if key is not None:
                traces[key] = shared
        shared.keepers.append((self, synapse))
        self._shared = shared

    def _alike(self, synapse: Any) -> tuple[Any, ...] | None:
        """What traces that are shared have in common; None where this one is alone."""
        settings = tuple([getattr(self, name) for name in _SETTINGS])
        catchers = [each for each in synapse.behavior.values() if isinstance(each, self.catcher)]
        if len(catchers) != 1 or not catchers[0].shares or type(self) not in (PreTrace, PostTrace):
            return None
        if may_be_delayed(getattr(synapse, self.neurons)) or not all(type(value) in _PLAIN for value in settings):
            return None
        of_catcher, own = _place(catchers[0], synapse.network), _place(self, synapse.network)
        enabled = self.behavior_enabled and catchers[0].behavior_enabled
        if of_catcher is None or own is None or not enabled:
            return None
        return of_catcher[0], own[0], of_catcher[1] < own[1], self.signal.removeprefix(self.side), settings

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (*_SETTINGS, "behavior_enabled") and "_shared" in self.__dict__:
            before = getattr(self, name)
            if before is not value and not (type(value) in _PLAIN and before == value):
                self.part()
        super().__setattr__(name, value)

    def part(self) -> None:
        """Go on alone from what the trace is now."""
        left = self._shared
        [(_, synapse)] = mine = [pair for pair in left.keepers if pair[0] is self]
        if len(left.keepers) == 1:
            return
        left.keepers = [pair for pair in left.keepers if pair[0] is not self]
        self._shared = _SharedTrace(left.values.clone(), left.network)
        self._shared.keepers += mine
        if getattr(synapse, self.signal) is left.values:
            setattr(synapse, self.signal, self._shared.values)

    def after_load(self, synapse: Any) -> None:
        """Keep alone what a checkpoint has bound here, which others may advance as well."""
        values = getattr(synapse, self.signal)
        if values is not self._shared.values:
            self.part()
            setattr(synapse, self.signal, values.clone())

    def forward(self, synapse: Any) -> None:
        shared, spikes = self._shared, getattr(synapse, f"{self.side}_spike", None)
        if spikes is None:
            raise ValueError(f"{synapse.tag} has no {self.side}_spike: add {self.catcher.__name__} to it")
        if len(shared.keepers) > 1:
            changed = shared.behaviors != len(shared.network.sorted_behavior_execution_list)
            if changed or getattr(synapse, self.signal) is not shared.values:
                self.part()
        if self._shared.is_advanced(self, spikes):
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
