"""The reference: formulas called as they are on torch tensors, on any device and in any dtype.

It decides what is right. A topology adds how its pre and post neurons meet at the weights (:class:`Meeting`).

The term of a silent neuron does not exist: ``on_pre`` counts only where the pre neuron has just spiked, ``on_post``
only where the post neuron has, and each is exactly 0 elsewhere, whatever the trace and the bound. A synapse of which
neither has spiked changes by exactly 0: a plain rule leaves its weight as it is (also -0.0, an infinity or NaN), a
modulated one lets its eligibility decay. Hence an infinite or NaN trace, or bound, reaches only the synapses at which
it is read. Everything else is what the formula gives in torch: NaN stays NaN under a clamp, and 0 times an infinite
bound is NaN. Where all is finite, this is the formula itself, but for the sign of a weight that is zero.

The weights of a convolution are shared by all positions: contributions of silent neurons count as 0 in its sums, and
each weight is changed (and clamped) by its sums.

The samples of a batch share all weights: what each changes, from where the step began, is added up in their order, and
the weight moves once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tritonstdp.kernels.compose import Composed, compose_on_tensors
from tritonstdp.kernels.propagation import PropagationStep
from tritonstdp.kernels.protocol import CannotCompileError, Case, Step
from tritonstdp.rules import is_own

HALF = (torch.float16, torch.bfloat16)

At = Callable[[Any, Tensor], Tensor]
Sum = Callable[[Tensor, Tensor], Tensor]


def sum_of_products(of_one: Tensor, spikes: Tensor) -> Tensor:
    """What spikes contribute, summed over the last axis; linear in the spike, and so a product of matrices."""
    return torch.einsum("...p,...p->...", of_one, spikes)


def sum_of_spiking(of_one: Tensor, spikes: Tensor) -> Tensor:
    """The same of spiking neurons alone: a product takes in silent ones, as 0 times their trace."""
    total = sum_of_products(of_one, spikes)
    finite = total.isfinite()
    if finite.all():
        return total
    return torch.where(finite, total, torch.where(spikes != 0, of_one * spikes, 0).sum(-1))


class Meeting(NamedTuple):
    """How a topology's pre and post neurons meet at its weights.

    Attributes
    ----------
    at_pre, at_post : callable
        ``at_pre(topology, values)``: the value of its pre (post) neuron at each synapse; broadcasts to the weights.
        Where weights are shared, a last axis runs over the positions that share one.
    bound_first : bool
        See :func:`tritonstdp.kernels.compose.compose`.
    divisor : callable, optional
        ``divisor(topology)``: what a change summed over positions is divided by; None where weights are not shared.
    onto_post : callable, optional
        ``onto_post(topology, values)``: the sum at each post neuron of a value at each synapse, and at each position
        where weights are shared. Spike propagation needs it.
    careless : bool
        Whether silent neurons are told apart by nothing but the formula: right where all is finite.
    """

    at_pre: At
    at_post: At
    bound_first: bool = False
    divisor: Callable[[Any], float] | None = None
    onto_post: At | None = None
    careless: bool = False

    @property
    def shares_weights(self) -> bool:
        """Whether a weight serves several pairs of neurons."""
        return self.divisor is not None

    def sides(self, topology: Any, pre: Sequence[Tensor], post: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        """The signals of both sides, at each synapse."""
        return tuple(self.at_pre(topology, v) for v in pre), tuple(self.at_post(topology, v) for v in post)

    def touched(self, topology: Any, pre_spike: Tensor, post_spike: Tensor) -> Tensor:
        """Whether a step may change a synapse; broadcasts to the weights."""
        if self.shares_weights:
            return torch.ones((), dtype=torch.bool, device=pre_spike.device)
        return (self.at_pre(topology, pre_spike) != 0) | (self.at_post(topology, post_spike) != 0)


def on_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    """A user's function on copies of its tensors, since it may write into them."""
    if is_own(function):
        return function

    def guarded(*arguments: Any, **parameters: Any) -> Any:
        copies = {name: _copy(value) for name, value in parameters.items()}
        return function(*map(_copy, arguments), **copies)

    return guarded


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def formula_of(meeting: Meeting, case: Case) -> Composed:
    """A case's formula on tensors, as it meets the weights of a topology."""
    return compose_on_tensors(
        case.formula, case.names, meeting.bound_first, on_copies, one_spike=meeting.shares_weights
    )


def change_of(
    meeting: Meeting,
    formula: Composed,
    topology: Any,
    weights: Tensor,
    here: Sequence[Tensor],
    there: Sequence[Tensor],
    numbers: Sequence[Any],
    w_min: Any,
    w_max: Any,
) -> tuple[Tensor, Tensor | None]:
    """The change where a neuron has spiked, and where that is; None: everywhere. Signals are those at each synapse."""
    if meeting.divisor is not None:
        sum_up = sum_of_products if meeting.careless else sum_of_spiking
        over_positions = [n[..., None] if isinstance(n, Tensor) and n.dim() else n for n in (*numbers, w_min, w_max)]
        state = over_positions[:-2], weights[..., None], *over_positions[-2:]
        potentiation = _summed(sum_up, formula.post_term(here, there, *state), there[0])
        depression = _summed(sum_up, formula.pre_term(here, there, *state), here[0])
        dw = formula.changed(weights, potentiation, depression, True, True, (), (), numbers, w_min, w_max)
        return dw / meeting.divisor(topology), None
    if meeting.careless:
        potentiation = formula.post_term(here, there, numbers, weights, w_min, w_max)
        depression = formula.pre_term(here, there, numbers, weights, w_min, w_max)
        return formula.changed(weights, potentiation, depression, True, True, here, there, numbers, w_min, w_max), None
    pre_spiked, post_spiked = here[0] != 0, there[0] != 0
    dw = formula.delta(weights, here, there, pre_spiked, post_spiked, numbers, w_min, w_max)
    return dw, pre_spiked | post_spiked


def _summed(sum_up: Sum, of_one: Any, spikes: Tensor) -> Tensor:
    of_one = torch.as_tensor(of_one, dtype=spikes.dtype, device=spikes.device)
    return sum_up(of_one if of_one.dim() else of_one.expand(spikes.shape[-1:]), spikes)


def weight_change(
    meeting: Meeting,
    case: Case,
    topology: Any,
    weights: Tensor,
    pre: Sequence[Tensor],
    post: Sequence[Tensor],
    numbers: Sequence[Any],
    w_min: Any,
    w_max: Any,
) -> Tensor:
    """The change that a step would make (for a modulated rule: what it adds to the eligibility); nothing is written."""
    state = weights, pre, post, numbers, w_min, w_max
    dw, touched, _, _ = _change_of_samples(meeting, formula_of(meeting, case), case, topology, *state)
    return dw if touched is None else torch.where(touched, dw, 0)


def _change_of_samples(
    meeting: Meeting,
    formula: Composed,
    case: Case,
    topology: Any,
    weights: Tensor,
    pre: Sequence[Tensor],
    post: Sequence[Tensor],
    numbers: Sequence[Any],
    w_min: Any,
    w_max: Any,
) -> tuple[Tensor, Tensor | None, Sequence[Tensor], Sequence[Tensor]]:
    """As :func:`change_of`, of all samples of a batch where there is one; and the signals at each synapse.

    Of a batch, those are its last sample's: what a weight moves by, beside its change, is the same in all.
    """

    def of_sample(*signals: Sequence[Tensor]) -> tuple[Any, ...]:
        here, there = meeting.sides(topology, *signals)
        return *change_of(meeting, formula, topology, weights, here, there, numbers, w_min, w_max), here, there

    if not case.reduction:
        return of_sample(pre, post)
    total, any_touched = torch.zeros_like(weights), None
    for sample in case.samples_of(pre, post):
        dw, touched, here, there = of_sample(*sample)
        total = total + (dw if touched is None else torch.where(touched, dw, 0))
        if touched is not None:
            any_touched = touched if any_touched is None else any_touched | touched
    share = len(pre[0]) if case.reduction == "mean" else 1
    return total / share, any_touched, here, there


def build(meeting: Meeting, case: Case) -> Step:
    """Build the reference step of a topology from how its neurons meet."""
    formula = formula_of(meeting, case)
    modulated = case.modulated

    @torch.no_grad()
    def step(topology, weights, c, pre, post, numbers, w_min, w_max):  # type: ignore[no-untyped-def]
        # half precision is computed in float32 and rounded once, where it is stored
        half = weights.dtype in HALF
        compute = torch.float32 if half else weights.dtype
        w, eligibility = (t.float() if half and t is not None else t for t in (weights, c))
        pre, post = (tuple(v.to(compute) for v in side) for side in (pre, post))
        state = w, pre, post, numbers, w_min, w_max
        dw, touched, here, there = _change_of_samples(meeting, formula, case, topology, *state)
        if modulated and touched is not None:
            dw = torch.where(touched, dw, 0)
        new_weights, new_c = formula.moved(w, dw, eligibility, here, there, numbers, w_min, w_max)
        if not modulated and touched is not None:
            new_weights = torch.where(touched, new_weights, w)
        weights.copy_(new_weights)
        if c is not None:
            c.copy_(new_c)

    return step


def build_propagation(meeting: Meeting, topology: str) -> PropagationStep:
    """Build the reference of spike propagation; raises ``CannotCompileError`` where a topology does not say enough."""
    onto_post = meeting.onto_post
    if onto_post is None:
        raise CannotCompileError(
            f"{topology} does not say how synapses sum up at post neurons: MEETING in its reference.py needs onto_post"
        )

    @torch.no_grad()
    def step(topology, weights, current, pre_spike):  # type: ignore[no-untyped-def]
        # half precision is computed in float32 and rounded once, where it is stored
        compute = torch.float32 if weights.dtype in HALF else weights.dtype
        w = weights.to(compute)
        spikes = meeting.at_pre(topology, pre_spike.to(compute))
        added = spikes * (w[..., None] if meeting.shares_weights else w)
        spiked = (spikes != 0).expand_as(added)
        reached = onto_post(topology, spiked.to(compute)) != 0
        total = current.to(compute) + onto_post(topology, torch.where(spiked, added, 0))
        current.copy_(torch.where(reached, total, current))

    return step
