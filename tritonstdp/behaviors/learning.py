"""Learning behaviors under CoNeX's names, for CoNeX networks of either convention and for bare PymoNNtorch.

A class says its rule, its topology and the values of its rule's parameters; :class:`BaseLearning` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar

import torch
from pymonntorch import Behavior
from torch import Tensor

from tritonstdp.behaviors import synapse as groups
from tritonstdp.functional import step_, weight_change
from tritonstdp.rules import (
    BOUNDS,
    Formula,
    Rule,
    hard_bound,
    istdp,
    no_bound,
    resolve_bound,
    resolve_rule,
    rstdp,
    soft_bound,
    stdp,
    target_trace,
)
from tritonstdp.topology import Topology

__all__ = [
    "BOUNDS",
    "BaseLearning",
    "Conv2dRSTDP",
    "Conv2dSTDP",
    "Conv2diSTDP",
    "Learning",
    "Local2dRSTDP",
    "Local2dSTDP",
    "Local2diSTDP",
    "One2OneRSTDP",
    "One2OneSTDP",
    "One2OneiSTDP",
    "SimpleRSTDP",
    "SimpleSTDP",
    "SimpleiSTDP",
    "SparseRSTDP",
    "SparseSTDP",
    "SparseiSTDP",
    "hard_bound",
    "no_bound",
    "soft_bound",
]


_OF_EVERY_BEHAVIOR = ("tag", "device", "behavior_enabled")
"""What PymoNNtorch reads of any behavior's arguments."""


@lru_cache
def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """What reads so many attributes, as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda behavior: tuple([getattr(behavior, name) for name in names])


class BaseLearning(Behavior):
    """What every learning behavior shares: one step of its rule on its topology.

    A subclass names its ``rule`` and gives :meth:`topology`, and sets the rule's parameters as attributes; or, as in
    CoNeX, it overrides :meth:`compute_dw`, and then that is what is applied.

    Attributes
    ----------
    rule : Rule
        The rule.

    Examples
    --------
    >>> class Halving(BaseLearning):
    ...     def compute_dw(self, synapse):
    ...         return -0.5 * synapse.weights
    >>> Halving().tags
    ['Halving', 'weight_learning']
    """

    rule: ClassVar[Rule]

    clamp: bool = False
    backend: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_tag("weight_learning")

    def initialize(self, synapse: Any) -> None:
        """Read the arguments that every learning behavior takes."""
        self.w_min = self.parameter("w_min", 0.0)
        self.w_max = self.parameter("w_max", 1.0)
        self.p_bound = resolve_bound(self.parameter("positive_bound", "no_bound"))
        self.n_bound = resolve_bound(self.parameter("negative_bound", "no_bound"))
        self.clamp = self.parameter("clamp", False)
        self.backend = self.parameter("backend", None)
        self.def_dtype = getattr(synapse.network, "def_dtype", torch.float32)
        if hasattr(self, "rule"):
            for name in self._formula().bound_parameters:
                setattr(self, name, self._required(name))
        if self._is_modulated():
            weights = groups.weights_of(synapse)
            shape = weights.shape if weights.layout is torch.strided else (weights._nnz(),)
            # a slice of a group draws what is its own of all
            tensor = groups.attribute_of(synapse, "tensor_of_slice", synapse.tensor)
            mode = self.parameter("init_c_mode", None)  # with another default, PymoNNtorch makes a number of the mode
            synapse.c = tensor(mode=0 if mode is None else mode, dim=shape)

    def _is_modulated(self) -> bool:
        return getattr(self, "rule", stdp).modulated

    def topology(self, synapse: Any, weights: Tensor) -> Topology:
        """How the synapses of a group lie."""
        raise NotImplementedError

    def coefficients(self, synapse: Any, formula: Formula) -> tuple[Any, ...]:
        """The values of a formula's parameters, in order, as the attributes of their names are at this step."""
        own = _reader(formula.own_parameters)(self)
        return (*own, groups.dopamine_of(synapse)) if formula.rule.eligibility is not None else own

    def get_spike_and_trace(self, synapse: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The signals of a pair of neurons: pre spikes, post spikes, pre trace, post trace."""
        return groups.signals(synapse)

    def sides(self, synapse: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The signals that a step reads of the pre and of the post neurons, in the rule's order."""
        pre_spike, post_spike, pre_trace, post_trace = self.get_spike_and_trace(synapse)
        return (pre_spike, pre_trace), (post_spike, post_trace)

    def compute_dw(self, synapse: Any) -> Tensor:
        """The change that :meth:`forward` would make (a modulated rule: add to ``synapse.c``); nothing is written.

        Parameters
        ----------
        synapse : SynapseGroup
            The group.

        Returns
        -------
        Tensor
            The change, of the shape of the weights (sparse: of their values).
        """
        formula, weights = self._formula(), groups.weights_of(synapse)
        if groups.has_no_synapse(weights):
            return torch.zeros_like(weights)
        return weight_change(
            formula, self.topology(synapse, weights), weights, *self.sides(synapse),
            self.coefficients(synapse, formula), self.w_min, self.w_max,
        )  # fmt: skip

    def forward(self, synapse: Any) -> None:
        """Update the weights, and the eligibility trace of a modulated rule, by one step, in place.

        Parameters
        ----------
        synapse : SynapseGroup
            The group.

        Raises
        ------
        ValueError, TypeError
            If something is missing or does not fit, before anything is written.
        """
        if getattr(self.compute_dw, "__func__", None) is not BaseLearning.compute_dw:
            self._apply(synapse, self.compute_dw(synapse))
            return
        formula, weights = self._formula(), groups.weights_of(synapse)
        if groups.has_no_synapse(weights):
            return
        pre, post = self.sides(synapse)
        step_(
            formula, self.topology(synapse, weights), weights, pre, post,
            self.coefficients(synapse, formula), self.w_min, self.w_max,
            synapse.c if formula.rule.eligibility is not None else None, self.backend,
        )  # fmt: skip

    def _formula(self) -> Formula:
        return Formula.of(self.rule, self.p_bound, self.n_bound, self.clamp)

    def _apply(self, synapse: Any, dw: Tensor) -> None:
        """Apply a change that a user's :meth:`compute_dw` has computed."""
        weights = groups.weights_of(synapse)
        values = weights if weights.layout is torch.strided else weights.values()
        c = synapse.c if self._is_modulated() else None
        name = type(self).__name__
        if weights.requires_grad:
            raise ValueError(f"the weights of {synapse.tag} require grad: {name} writes in place; detach them")
        try:
            dw = dw if isinstance(dw, Tensor) else torch.as_tensor(dw, dtype=values.dtype, device=values.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"{name}.compute_dw gives {dw!r}: it must give the weights' change as a tensor") from None
        if dw.layout is not torch.strided or dw.is_complex():
            raise TypeError(f"{name}.compute_dw gives {dw.layout} of {dw.dtype}: it must give strided real numbers")
        with torch.no_grad():
            new_c = None
            if c is not None:
                formula = self._formula()
                given = dict(zip(formula.parameters, self.coefficients(synapse, formula), strict=True))
                given |= {"c": c, "dw": dw, "w": values, "w_min": self.w_min, "w_max": self.w_max}
                eligibility = self.rule.signatures["eligibility"]
                reads, parameters = ([given[name] for name in names] for names in eligibility[1:])
                new_c = eligibility.call(reads, parameters)
                dw = new_c * given["dopamine"]
            new = values + dw
            for what, tensor, old in (("weights", new, values), ("c", new_c, c)):
                if tensor is not None and old is not None and tensor.shape != old.shape:
                    raise ValueError(
                        f"{name}.compute_dw gives a change of shape {tuple(dw.shape)}, which makes {what} "
                        f"{tuple(tensor.shape)}: it must be {tuple(old.shape)}"
                    )
            if self.clamp:
                new = torch.where(dw != 0, new.clamp(self.w_min, self.w_max), new)
            values.copy_(new)
            if c is not None and new_c is not None:
                c.copy_(new_c)

    def _required(self, name: str) -> Any:
        value = self.parameter(name, None)
        if value is None:
            raise ValueError(f"{type(self).__name__} needs {name}: pass {name}=...")
        return value


class Learning(BaseLearning):
    """Any rule on any connections: the topology is read off the synapse group, and so are the rule's signals.

    A signal that the rule calls ``pre_trace`` is ``synapse.pre_trace``, as ``PreTrace`` sets it
    (``PreTrace(tau_s=100.0, signal="pre_slow")`` sets another); or, where the group has none of that name, ``trace`` of
    the neurons behind it, as ``synapse.src.trace``. Spikes and traces behind CoNeX's axons are found as well. Whether a
    trace counts the spike of this step is said by its key: before learning it does, after it does not.

    Parameters
    ----------
    rule : str or Rule
        The rule, or its name.
    w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`.
    init_c_mode : int or str
        How ``synapse.c``, the eligibility trace of a modulated rule, starts, as PymoNNtorch's ``tensor`` has it.
    **parameters
        The rule's parameters and those of its bounds, each kept as an attribute and read at every step; numbers,
        tensors that broadcast to the weights, or one value a neuron (:func:`tritonstdp.per_pre`,
        :func:`tritonstdp.per_post`). The dopamine of a modulated rule is ``synapse.network.dopamine_concentration``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is missing or not known, or, at a step, the synapse group lacks weights, signals or geometry.

    Examples
    --------
    >>> behavior = Learning("stdp", a_plus=0.01, a_minus=0.012, positive_bound="soft_bound")
    >>> behavior.tags
    ['Learning', 'weight_learning']
    """

    topology = groups.any_topology
    rule: Rule  # type: ignore[misc]

    def __init__(
        self,
        rule: str | Rule,
        *args: Any,
        w_min: Any = 0.0,
        w_max: Any = 1.0,
        positive_bound: Any = None,
        negative_bound: Any = None,
        clamp: bool = False,
        backend: str | None = None,
        init_c_mode: Any = 0,
        **parameters: Any,
    ) -> None:
        resolved = resolve_rule(rule)
        of_eligibility = {"init_c_mode": init_c_mode} if resolved.modulated else {}
        super().__init__(
            *args,
            rule=rule,
            w_min=w_min,
            w_max=w_max,
            positive_bound=positive_bound,
            negative_bound=negative_bound,
            clamp=clamp,
            backend=backend,
            **of_eligibility,
            **parameters,
        )
        self.rule = resolved
        self.p_bound, self.n_bound, self.clamp = resolve_bound(positive_bound), resolve_bound(negative_bound), clamp
        wanted = [name for name in self._formula().parameters if name != "dopamine"]
        taken = [name for name in wanted if hasattr(self, name) or name == "weight_divisor"]
        if taken:
            raise TypeError(f"rule {resolved.name!r} has a parameter {', '.join(taken)}: a behavior has that already")
        given = set(parameters) - set(_OF_EVERY_BEHAVIOR)
        missing, unknown = (sorted(set(a) - set(b)) for a, b in ((wanted, given), (given, wanted)))
        if missing or unknown:
            wrong = f"needs {', '.join(missing)}" if missing else f"takes no {', '.join(unknown)}"
            raise TypeError(f"Learning by {self.rule.name} {wrong}: its parameters are {', '.join(wanted)}")

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.parameter("rule", None)
        for name in (*self.rule.parameters, *self.rule.eligibility_parameters):
            setattr(self, name, self._required(name))
        if groups.weights_of(synapse).dim() == 4:
            self.weight_divisor = groups.positions(synapse)

    def sides(self, synapse: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return groups.named_signals(synapse, self.rule.pre, self.rule.post)


class SimpleSTDP(BaseLearning):
    """Pair-based STDP on all-to-all connections: ``dw = x s_post a_plus B_pos(w) - s_pre y a_minus B_neg(w)``.

    Parameters
    ----------
    a_plus, a_minus : float or Tensor
        The sizes of potentiation and of depression. Every parameter is read at every step, from the attribute of its
        name, and may be a tensor that broadcasts to the weights (the reference computes then).
    w_min, w_max : float or Tensor
        The limits that the bounds and ``clamp`` use; 0 and 1 by default.
    positive_bound, negative_bound : str, callable or None
        The bounds of potentiation and depression: a name in ``BOUNDS`` or a function ``(w, w_min, w_max)``; the
        attributes are ``p_bound`` and ``n_bound``.
    clamp : bool
        Clip what a step touches to ``[w_min, w_max]``; off by default, as bounds alone may overshoot in CoNeX.
    backend : str, optional
        "triton", "cpu" or "reference", and no other.

    Raises
    ------
    ValueError
        At ``initialize``, if ``a_plus`` or ``a_minus`` is None or a bound's name is not known; at a step, if the
        synapse group lacks weights, spikes or traces, or they do not fit.

    Examples
    --------
    >>> behavior = SimpleSTDP(a_plus=0.01, a_minus=0.012, positive_bound="soft_bound", clamp=True)
    >>> behavior.tags
    ['SimpleSTDP', 'weight_learning']
    """

    rule = stdp
    topology = groups.dense

    def __init__(
        self,
        a_plus: Any,
        a_minus: Any,
        *args: Any,
        w_min: Any = 0.0,
        w_max: Any = 1.0,
        positive_bound: Any = None,
        negative_bound: Any = None,
        clamp: bool = False,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            a_plus=a_plus,
            a_minus=a_minus,
            w_min=w_min,
            w_max=w_max,
            positive_bound=positive_bound,
            negative_bound=negative_bound,
            clamp=clamp,
            backend=backend,
            **kwargs,
        )

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.a_plus = self._required("a_plus")
        self.a_minus = self._required("a_minus")


class SparseSTDP(SimpleSTDP):
    """Pair-based STDP on a sparse tensor (CSC, CSR or coalesced COO); absent synapses stay absent.

    Strided weights, as CoNeX's ``WeightInitializer`` makes for ``density=1``, count as all to all. torch can't clip
    sparse weights or record them as they are: use ``clamp=True``, and record the values by
    ``Recorder(variables=["synapse.weights.values()"], auto_annotate=False)``.

    Parameters
    ----------
    a_plus, a_minus, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleSTDP`; also for a COO tensor that is not coalesced, or indices outside the shape.

    Examples
    --------
    >>> SparseSTDP(a_plus=0.01, a_minus=0.012).tag
    'SparseSTDP'
    """

    topology = groups.sparse


class One2OneSTDP(SimpleSTDP):
    """Pair-based STDP on one-to-one connections; weights ``(n,)``.

    Parameters
    ----------
    a_plus, a_minus, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleSTDP`.

    Examples
    --------
    >>> One2OneSTDP(a_plus=0.01, a_minus=0.012).tag
    'One2OneSTDP'
    """

    topology = groups.one_to_one


class _Convolution(BaseLearning):
    """What learning a convolution adds: ``weight_divisor``, which divides the changes summed over positions."""

    topology = groups.conv2d

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.weight_divisor = groups.positions(synapse)


class Conv2dSTDP(_Convolution, SimpleSTDP):
    """Pair-based STDP on a convolution: changes summed over the output positions, divided by ``weight_divisor``.

    Weights ``(C_out, C_in, kh, kw)``; ``src_shape``, ``dst_shape``, ``stride`` and ``padding`` are read from the
    synapse, where CoNeX's ``SynapseInit`` and ``Conv2dDendriticInput`` set them.

    Parameters
    ----------
    a_plus, a_minus, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleSTDP`; also where the geometry is missing or does not give ``dst_shape``.

    Examples
    --------
    >>> Conv2dSTDP(a_plus=0.01, a_minus=0.012).tag
    'Conv2dSTDP'
    """


class Local2dSTDP(SimpleSTDP):
    """Pair-based STDP on local receptive fields; weights ``(C_out, H_out * W_out, C_in * kh * kw)``.

    ``src_shape``, ``dst_shape``, ``stride``, ``padding`` and ``kernel_shape`` are read from the synapse, where CoNeX's
    ``SynapseInit``, ``WeightInitializer`` and ``Local2dDendriticInput`` set them.

    Parameters
    ----------
    a_plus, a_minus, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`Conv2dSTDP`.

    Examples
    --------
    >>> Local2dSTDP(a_plus=0.01, a_minus=0.012).tag
    'Local2dSTDP'
    """

    topology = groups.local2d


class SimpleiSTDP(BaseLearning):
    """Symmetric inhibitory STDP (doi 10.1126/science.1211095): ``dw = lr (s_pre (alpha - y) sign + x s_post)``.

    Both traces need one time constant: that of ``PreTrace`` and ``PostTrace`` on the synapse, or else of CoNeX's
    ``SpikeTrace`` on the neurons.

    Parameters
    ----------
    rho : float, optional
        The firing rate that the post neurons are to keep, in Hz; gives ``alpha = 2 rho tau / 1000``, tau in ms.
    alpha : float or Tensor, optional
        The post trace at rest; where it is given, ``rho`` is not used.
    lr : float or Tensor
        The learning rate.
    is_inhibitory : bool
        Whether the weights are magnitudes of inhibition; gives ``change_sign``, -1 or +1.
    w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`; CoNeX has none of them here, so no bound is the default.

    Raises
    ------
    ValueError
        At ``initialize``, if the time constants differ, or neither ``alpha`` nor ``rho`` is given, or ``rho`` is and
        no trace says its time constant; at a step, as :class:`SimpleSTDP`.

    Examples
    --------
    >>> SimpleiSTDP(lr=1e-3, rho=5.0).tag
    'SimpleiSTDP'
    """

    rule = istdp
    topology = groups.dense

    def __init__(
        self,
        *args: Any,
        rho: float | None = None,
        alpha: Any = None,
        lr: Any = 1e-5,
        is_inhibitory: bool = True,
        w_min: Any = 0.0,
        w_max: Any = 1.0,
        positive_bound: Any = None,
        negative_bound: Any = None,
        clamp: bool = False,
        backend: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            *args,
            rho=rho,
            alpha=alpha,
            lr=lr,
            is_inhibitory=is_inhibitory,
            w_min=w_min,
            w_max=w_max,
            positive_bound=positive_bound,
            negative_bound=negative_bound,
            clamp=clamp,
            backend=backend,
            **kwargs,
        )

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.lr = self.parameter("lr", 1e-5)
        self.rho = self.parameter("rho", None)
        self.change_sign = 1 - self.parameter("is_inhibitory", True) * 2
        self.alpha = self.parameter("alpha", None)
        pre_tau, post_tau = groups.trace_time_constants(synapse)
        if pre_tau is not None and post_tau is not None and pre_tau != post_tau:
            raise ValueError(
                f"{type(self).__name__} needs one time constant on both sides, but the pre trace has tau_s={pre_tau} "
                f"and the post trace tau_s={post_tau}: give both traces the same"
            )
        if self.alpha is None:
            self.alpha = self._target_trace(pre_tau, post_tau)

    def _target_trace(self, pre_tau: Any, post_tau: Any) -> float:
        name = type(self).__name__
        if self.rho is None:
            raise ValueError(f"{name} needs alpha, or rho (Hz) to derive it from: pass alpha=... or rho=...")
        if pre_tau is None or post_tau is None:
            raise ValueError(
                f"{name} derives alpha from rho and the traces' tau_s, but finds no trace of the "
                f"{'pre' if pre_tau is None else 'post'} neurons: add PreTrace and PostTrace, or pass alpha=..."
            )
        if not self.rho >= 0:
            raise ValueError(f"{name} has rho={self.rho}: pass a firing rate of 0 Hz or more")
        return target_trace(self.rho, pre_tau)

    @property
    def sign(self) -> Any:
        """What the rule calls ``change_sign``."""
        return self.change_sign


class SparseiSTDP(SimpleiSTDP):
    """Symmetric inhibitory STDP on a sparse tensor; see :class:`SparseSTDP` for what sparse weights take.

    Parameters
    ----------
    rho, alpha, lr, is_inhibitory, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleiSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleiSTDP` and :class:`SparseSTDP`.

    Examples
    --------
    >>> SparseiSTDP(lr=1e-3, rho=5.0).tag
    'SparseiSTDP'
    """

    topology = groups.sparse


class One2OneiSTDP(SimpleiSTDP):
    """Symmetric inhibitory STDP on one-to-one connections; weights ``(n,)``.

    Parameters
    ----------
    rho, alpha, lr, is_inhibitory, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleiSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleiSTDP`.

    Examples
    --------
    >>> One2OneiSTDP(lr=1e-3, alpha=0.2).tag
    'One2OneiSTDP'
    """

    topology = groups.one_to_one


class Conv2diSTDP(_Convolution, SimpleiSTDP):
    """Symmetric inhibitory STDP on a convolution, which CoNeX lacks; see :class:`Conv2dSTDP` for the geometry.

    CoNeX's ``prioritize_behaviors`` does not know the class: give it a key yourself.

    Parameters
    ----------
    rho, alpha, lr, is_inhibitory, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleiSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleiSTDP` and :class:`Conv2dSTDP`.

    Examples
    --------
    >>> Conv2diSTDP(lr=1e-3, rho=5.0).tag
    'Conv2diSTDP'
    """


class Local2diSTDP(SimpleiSTDP):
    """Symmetric inhibitory STDP on local receptive fields, which CoNeX lacks; see :class:`Local2dSTDP`.

    CoNeX's ``prioritize_behaviors`` does not know the class: give it a key yourself.

    Parameters
    ----------
    rho, alpha, lr, is_inhibitory, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleiSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleiSTDP` and :class:`Local2dSTDP`.

    Examples
    --------
    >>> Local2diSTDP(lr=1e-3, rho=5.0).tag
    'Local2diSTDP'
    """

    topology = groups.local2d


class SimpleRSTDP(SimpleSTDP):
    """Reward-modulated STDP on all-to-all connections: ``c += -c / tau_c + dw_stdp``, ``w += c * dopamine``.

    The eligibility trace is ``synapse.c``; the dopamine is ``synapse.network.dopamine_concentration``, a number, a 0-d
    tensor or one value a post neuron, read at every step.

    Parameters
    ----------
    a_plus, a_minus : float or Tensor
        As for :class:`SimpleSTDP`.
    tau_c : float or Tensor
        The time constant of the eligibility trace, in steps.
    init_c_mode : int or str
        How ``synapse.c`` starts, as PymoNNtorch's ``tensor`` has it; 0 by default.
    w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleSTDP`; at ``initialize`` also if ``tau_c`` is None or the weights are missing, and at a step
        if the network has no dopamine.

    Examples
    --------
    >>> SimpleRSTDP(a_plus=0.01, a_minus=0.012, tau_c=20.0).tag
    'SimpleRSTDP'
    """

    rule = rstdp

    def __init__(self, a_plus: Any, a_minus: Any, tau_c: Any, *args: Any, init_c_mode: Any = 0, **kwargs: Any) -> None:
        super().__init__(a_plus, a_minus, *args, tau_c=tau_c, init_c_mode=init_c_mode, **kwargs)

    def initialize(self, synapse: Any) -> None:
        super().initialize(synapse)
        self.tau_c = self._required("tau_c")


class SparseRSTDP(SparseSTDP, SimpleRSTDP):
    """Reward-modulated STDP on a sparse tensor; ``synapse.c`` has one value a stored synapse. See :class:`SparseSTDP`.

    Parameters
    ----------
    a_plus, a_minus, tau_c, init_c_mode, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleRSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleRSTDP` and :class:`SparseSTDP`.

    Examples
    --------
    >>> SparseRSTDP(a_plus=0.01, a_minus=0.012, tau_c=20.0).tag
    'SparseRSTDP'
    """


class One2OneRSTDP(One2OneSTDP, SimpleRSTDP):
    """Reward-modulated STDP on one-to-one connections; weights ``(n,)``.

    Parameters
    ----------
    a_plus, a_minus, tau_c, init_c_mode, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleRSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleRSTDP`.

    Examples
    --------
    >>> One2OneRSTDP(a_plus=0.01, a_minus=0.012, tau_c=20.0).tag
    'One2OneRSTDP'
    """


class Conv2dRSTDP(Conv2dSTDP, SimpleRSTDP):
    """Reward-modulated STDP on a convolution; see :class:`Conv2dSTDP` for the geometry.

    Parameters
    ----------
    a_plus, a_minus, tau_c, init_c_mode, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleRSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleRSTDP` and :class:`Conv2dSTDP`.

    Examples
    --------
    >>> Conv2dRSTDP(a_plus=0.01, a_minus=0.012, tau_c=20.0).tag
    'Conv2dRSTDP'
    """


class Local2dRSTDP(Local2dSTDP, SimpleRSTDP):
    """Reward-modulated STDP on local receptive fields; see :class:`Local2dSTDP` for the geometry.

    Parameters
    ----------
    a_plus, a_minus, tau_c, init_c_mode, w_min, w_max, positive_bound, negative_bound, clamp, backend
        As for :class:`SimpleRSTDP`.

    Raises
    ------
    ValueError, TypeError
        As :class:`SimpleRSTDP` and :class:`Local2dSTDP`.

    Examples
    --------
    >>> Local2dRSTDP(a_plus=0.01, a_minus=0.012, tau_c=20.0).tag
    'Local2dRSTDP'
    """
