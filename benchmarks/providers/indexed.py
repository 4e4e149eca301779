"""Plain torch that touches only what spiked: gather, change, ``index_add_``; what a careful user would write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import unfold

from benchmarks.providers import pair_traces
from tritonstdp.kernels.compose import Composed, compose_on_tensors
from tritonstdp.kernels.protocol import Case
from tritonstdp.measurement import DOPAMINE, PARAMETERS, W_MAX, W_MIN, Inputs, Runner, parameters_of
from tritonstdp.registry import meeting_of
from tritonstdp.rules import BOUNDS, RULES, Formula, no_bound


def prepare(inputs: Inputs) -> Runner:
    """The steps for the workload's topology, on their own copy of the weights."""
    workload, topology = inputs.workload, inputs.topology
    weights, c = inputs.copy()
    values = topology.values(weights)
    changes = _CHANGES[workload.topology](inputs, values)
    if c is None:
        return Runner(lambda k: _add(values, changes(k)), lambda: values)
    keep = 1 - 1 / PARAMETERS[workload.rule]["tau_c"]

    def step(k: int) -> None:
        pieces = changes(k)
        c.mul_(keep)
        _add(c, pieces)
        values.add_(c, alpha=DOPAMINE)

    return Runner(step, lambda: values, lambda: c)


def _add(target: Tensor, pieces: list[tuple[tuple[int, ...], int, Tensor, Tensor]]) -> None:
    for shape, axis, index, change in pieces:
        target.view(shape).index_add_(axis, index, change)


class _Formula:
    """The workload's formula, parameters filled in: all of it, and for synapses of which one side has spiked."""

    def __init__(self, inputs: Inputs) -> None:
        workload = inputs.workload
        rule, bound = RULES[workload.rule], BOUNDS[workload.bound]
        bound_first = meeting_of(workload.topology).bound_first
        self.numbers = tuple(parameters_of(workload.formula).values())
        self.both, self.post_only, self.pre_only = (
            compose_on_tensors(formula, Case.names_of(formula, formula.all_numbers), bound_first)
            for bounds in ((bound, bound), (bound, no_bound), (no_bound, bound))
            for formula in (Formula.of(rule, *bounds),)
        )

    def on_pre(self, s: Any, y: Any) -> Any:
        return self.both.pre_term((s, None), (None, y), self.numbers, None, W_MIN, W_MAX)

    def on_post(self, x: Any, q: Any) -> Any:
        return self.both.post_term((None, x), (q, None), self.numbers, None, W_MIN, W_MAX)

    def change(self, w: Tensor, potentiation: Tensor, depression: Tensor) -> Tensor:
        return self._change(self.both, w, potentiation, depression)

    def potentiated(self, w: Tensor, potentiation: Tensor) -> Tensor:
        return self._change(self.post_only, w, potentiation, 0.0)

    def depressed(self, w: Tensor, depression: Tensor) -> Tensor:
        return self._change(self.pre_only, w, 0.0, depression)

    def _change(self, functions: Composed, w: Tensor, potentiation: Any, depression: Any) -> Tensor:
        return functions.changed(w, potentiation, depression, True, True, (), (), self.numbers, W_MIN, W_MAX)


def _dense(inputs: Inputs, w: Tensor) -> Callable[[int], list]:
    formula = _Formula(inputs)
    pre_trace, post_trace = pair_traces(inputs)
    x, y = pre_trace[:, None], post_trace[None, :]

    def changes(k: int) -> list:
        (s, q), (_, q_float) = inputs.spikes[k], inputs.float_spikes[k]
        rows, columns = s.nonzero().squeeze(1), q.nonzero().squeeze(1)
        potentiation, depression = formula.on_post(x[rows], q_float[None, :]), formula.on_pre(1.0, y)
        in_rows = formula.change(w.index_select(0, rows), potentiation, depression)
        silent = x.masked_fill(s[:, None], 0.0)  # synapses of spiking rows have got both contributions above
        in_columns = formula.potentiated(w.index_select(1, columns), formula.on_post(silent, q_float[columns]))
        return [(w.shape, 0, rows, in_rows), (w.shape, 1, columns, in_columns)]

    return changes


def _one_to_one(inputs: Inputs, w: Tensor) -> Callable[[int], list]:
    formula = _Formula(inputs)
    x, y = pair_traces(inputs)

    def changes(k: int) -> list:
        (s, q), (s_float, q_float) = inputs.spikes[k], inputs.float_spikes[k]
        at = (s | q).nonzero().squeeze(1)
        potentiation, depression = formula.on_post(x[at], q_float[at]), formula.on_pre(s_float[at], y[at])
        return [(w.shape, 0, at, formula.change(w[at], potentiation, depression))]

    return changes


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The concatenation of ``arange(start, start + length)``."""
    shift = starts - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum())) + shift.repeat_interleave(lengths)


def _sparse(inputs: Inputs, w: Tensor) -> Callable[[int], list]:
    formula = _Formula(inputs)
    x, y = pair_traces(inputs)
    column_start, src = inputs.weights.ccol_indices(), inputs.weights.row_indices()
    dst = torch.arange(len(y)).repeat_interleave(column_start.diff())
    by_row = src.argsort(stable=True)
    dst_by_row = dst[by_row]
    row_start = torch.searchsorted(src[by_row], torch.arange(len(x) + 1))
    row_length, column_length = row_start.diff(), column_start.diff()

    def changes(k: int) -> list:
        (s, q), (s_float, _) = inputs.spikes[k], inputs.float_spikes[k]
        rows, columns = s.nonzero().squeeze(1), q.nonzero().squeeze(1)
        of_post = _ranges(column_start[columns], column_length[columns])
        pre, post = src[of_post], columns.repeat_interleave(column_length[columns])
        by_post = formula.change(w[of_post], formula.on_post(x[pre], 1.0), formula.on_pre(s_float[pre], y[post]))
        entries = _ranges(row_start[rows], row_length[rows])
        entries = entries[~q[dst_by_row[entries]]]
        of_pre = by_row[entries]
        by_pre = formula.depressed(w[of_pre], formula.on_pre(1.0, y[dst_by_row[entries]]))
        return [(w.shape, 0, of_post, by_post), (w.shape, 0, of_pre, by_pre)]

    return changes


def _patches(inputs: Inputs, values: Tensor) -> Tensor:
    """``(positions, C_in * kh * kw)``: what each position sees."""
    topology = inputs.topology
    image = values.view(1, *topology.src_shape)
    return unfold(image, topology.kernel_size, padding=topology.padding, stride=topology.stride)[0].T.contiguous()


def _local2d(inputs: Inputs, w: Tensor) -> Callable[[int], list]:
    formula = _Formula(inputs)
    channels, positions, taps = w.shape
    pre_trace, post_trace = pair_traces(inputs)
    y = post_trace.view(channels, positions)

    def changes(k: int) -> list:
        (_, q), (s_float, _) = inputs.spikes[k], inputs.float_spikes[k]
        s, x = _patches(inputs, s_float), _patches(inputs, pre_trace)
        neurons = q.nonzero().squeeze(1)
        at = neurons % positions
        flat = w.view(channels * positions, taps)
        depression = formula.on_pre(s[at], post_trace[neurons, None])
        by_post = formula.change(flat[neurons], formula.on_post(x[at], 1.0), depression)
        synapses = s.view(-1).nonzero().squeeze(1)
        at = synapses // taps
        silent = (~q.view(channels, positions)[:, at]).to(w.dtype)
        by_pre = silent * formula.depressed(w.view(channels, -1)[:, synapses], formula.on_pre(1.0, y[:, at]))
        rows, columns = (channels * positions, taps), (channels, positions * taps)
        return [(rows, 0, neurons, by_post), (columns, 1, synapses, by_pre)]

    return changes


def _conv2d(inputs: Inputs, w: Tensor) -> Callable[[int], list]:
    formula = _Formula(inputs)
    channels, positions = inputs.topology.dst_shape[0], inputs.topology.positions
    pre_trace, post_trace = pair_traces(inputs)
    y = post_trace.view(channels, positions)
    everything = torch.arange(channels)
    x = _patches(inputs, pre_trace)

    def changes(k: int) -> list:
        (_, q), (s_float, _) = inputs.spikes[k], inputs.float_spikes[k]
        s = _patches(inputs, s_float)
        flat = w.view(channels, -1)
        neurons = q.nonzero().squeeze(1)
        seen = formula.on_post(x[neurons % positions], 1.0)
        by_post = torch.zeros_like(flat).index_add_(0, neurons // positions, seen)
        at, tap = s.nonzero(as_tuple=True)
        by_pre = torch.zeros_like(flat).index_add_(1, tap, formula.on_pre(1.0, y[:, at]))
        return [(flat.shape, 0, everything, formula.change(flat, by_post, by_pre) / inputs.topology.weight_divisor)]

    return changes


_CHANGES = {"dense": _dense, "one_to_one": _one_to_one, "sparse": _sparse, "conv2d": _conv2d, "local2d": _local2d}
