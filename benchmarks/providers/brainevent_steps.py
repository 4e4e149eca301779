"""brainevent's event-driven updates, for pre and then for post spikes, in one jitted function on donated weights."""

from __future__ import annotations

import brainevent
import jax
import torch

from benchmarks.providers import pair_traces
from benchmarks.providers.jax_xla import to_jax, to_torch
from tritonstdp.measurement import PARAMETERS, Inputs, NotAvailableError, Runner


def prepare(inputs: Inputs) -> Runner:
    """The updates for dense or sparse weights; they add a trace, and know no bounds but clipping."""
    workload = inputs.workload
    if workload.rule != "stdp" or workload.bound != "no_bound" or workload.topology not in ("dense", "sparse"):
        raise NotAvailableError("brainevent adds traces to dense and sparse weights: STDP without bounds")
    pre_trace, post_trace = pair_traces(inputs)
    x = to_jax(pre_trace * PARAMETERS["stdp"]["a_plus"])
    y = to_jax(post_trace * -PARAMETERS["stdp"]["a_minus"])
    spikes = [(to_jax(s), to_jax(q)) for s, q in inputs.spikes]
    order = torch.arange(inputs.values.numel())
    if workload.topology == "sparse":
        order = inputs.weights.row_indices().argsort(stable=True)  # brainevent's weights lie in rows, ours in columns
        update = _sparse_update(inputs, order)
        state = [to_jax(inputs.values[order])]
    else:
        update = jax.jit(_dense_update, donate_argnums=0)
        state = [to_jax(inputs.values)]

    def step(k: int) -> None:
        state[0] = update(state[0], *spikes[k], x, y)
        state[0].block_until_ready()

    def weights() -> torch.Tensor:
        found = to_torch(state[0]).reshape(-1)
        return torch.empty_like(found).index_copy_(0, order, found)

    return Runner(step, weights)


def _dense_update(w, s, q, x, y):  # type: ignore[no-untyped-def]
    w = brainevent.update_dense_on_binary_pre(w, s, y)
    return brainevent.update_dense_on_binary_post(w, x, q)


def _sparse_update(inputs: Inputs, order: torch.Tensor):  # type: ignore[no-untyped-def]
    weights = inputs.weights
    n_pre, n_post = weights.shape
    column_start, src = weights.ccol_indices(), weights.row_indices()
    dst = torch.arange(n_post).repeat_interleave(column_start.diff())
    row_start = torch.searchsorted(src[order], torch.arange(n_pre + 1))
    by_row = [to_jax(t.int()) for t in (dst[order], row_start)]
    stored_in_rows = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
    by_column = [to_jax(t.int()) for t in (src, column_start, stored_in_rows)]

    def update(w, s, q, x, y):  # type: ignore[no-untyped-def]
        w = brainevent.update_csr_on_binary_pre(w, *by_row, s, y, shape=(n_pre, n_post))
        return brainevent.update_csr_on_binary_post(w, *by_column, x, q, shape=(n_pre, n_post))

    return jax.jit(update, donate_argnums=0)
