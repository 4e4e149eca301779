"""The same formula through JAX: XLA fuses it into one loop over all synapses, on donated weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from benchmarks.providers import pair_traces
from tritonstdp.kernels.compose import compose_on_tensors
from tritonstdp.kernels.protocol import Case
from tritonstdp.measurement import W_MAX, W_MIN, Inputs, Runner, parameters_of
from tritonstdp.registry import meeting_of

jax.config.update("jax_enable_x64", True)


def to_jax(tensor: Tensor) -> jax.Array:
    """A copy of a tensor."""
    return jnp.array(tensor.numpy(), copy=True)


def to_torch(array: jax.Array) -> Tensor:
    """The array's values."""
    return torch.from_numpy(jax.device_get(array).copy())


def prepare(inputs: Inputs) -> Runner:
    """The compiled step, which owns its weights and writes over them."""
    state: list[Any] = [to_jax(inputs.values), None if inputs.c is None else to_jax(inputs.c)]
    x, y = map(to_jax, pair_traces(inputs))
    spikes = [(to_jax(s), to_jax(q)) for s, q in inputs.float_spikes]
    compiled = _step(inputs)

    def step(k: int) -> None:
        state[:] = compiled(*state, *spikes[k], x, y)
        state[0].block_until_ready()

    return Runner(
        step, lambda: to_torch(state[0]), None if inputs.c is None else lambda: to_torch(state[1])
    )  # fmt: skip


def _step(inputs: Inputs) -> Callable[..., Any]:
    workload, topology = inputs.workload, inputs.topology
    formula, meeting = workload.formula, meeting_of(workload.topology)
    names = Case.names_of(formula, formula.all_numbers)
    functions = compose_on_tensors(formula, names, meeting.bound_first)
    numbers = tuple(parameters_of(formula).values())
    terms = _TERMS[workload.topology](inputs)
    divisor = topology.weight_divisor if workload.topology == "conv2d" else None

    def on_post(x, q):  # type: ignore[no-untyped-def]
        return functions.post_term((None, x), (q, None), numbers, None, W_MIN, W_MAX)

    def on_pre(s, y):  # type: ignore[no-untyped-def]
        return functions.pre_term((s, None), (None, y), numbers, None, W_MIN, W_MAX)

    def step(w, c, s, q, x, y):  # type: ignore[no-untyped-def]
        potentiation, depression = terms(on_post, on_pre, s, q, x, y)
        dw = functions.changed(w, potentiation, depression, True, True, (), (), numbers, W_MIN, W_MAX)
        dw = dw if divisor is None else dw / divisor
        return functions.moved(w, dw, c, (), (), numbers, W_MIN, W_MAX)

    return jax.jit(step, donate_argnums=(0,) if inputs.c is None else (0, 1))


def _dense(inputs: Inputs) -> Callable[..., Any]:
    return lambda on_post, on_pre, s, q, x, y: (
        on_post(x[:, None], q[None, :]),
        on_pre(s[:, None], y[None, :]),
    )


def _one_to_one(inputs: Inputs) -> Callable[..., Any]:
    return lambda on_post, on_pre, s, q, x, y: (on_post(x, q), on_pre(s, y))


def _sparse(inputs: Inputs) -> Callable[..., Any]:
    weights = inputs.weights
    columns = torch.arange(weights.shape[1], dtype=torch.int32)
    pre = to_jax(weights.row_indices().int())
    post = to_jax(columns.repeat_interleave(weights.ccol_indices().diff()))
    return lambda on_post, on_pre, s, q, x, y: (on_post(x[pre], q[post]), on_pre(s[pre], y[post]))


def _patches(topology: Any) -> Callable[[jax.Array], jax.Array]:
    """``(positions, C_in * kh * kw)``: what each position sees."""
    padding = [(p, p) for p in topology.padding]

    def patches(values: jax.Array) -> jax.Array:
        image = values.reshape(1, *topology.src_shape)
        seen = jax.lax.conv_general_dilated_patches(image, topology.kernel_size, topology.stride, padding)
        return seen[0].reshape(seen.shape[1], -1).T

    return patches


def _local2d(inputs: Inputs) -> Callable[..., Any]:
    patches, channels = _patches(inputs.topology), inputs.topology.dst_shape[0]
    return lambda on_post, on_pre, s, q, x, y: (
        on_post(patches(x), q.reshape(channels, -1, 1)),
        on_pre(patches(s), y.reshape(channels, -1, 1)),
    )


def _conv2d(inputs: Inputs) -> Callable[..., Any]:
    patches, channels = _patches(inputs.topology), inputs.topology.dst_shape[0]
    shape = inputs.weights.shape

    def terms(on_post, on_pre, s, q, x, y):  # type: ignore[no-untyped-def]
        potentiation = q.reshape(channels, -1) @ on_post(patches(x), 1.0)
        depression = on_pre(1.0, y.reshape(channels, -1)) @ patches(s)
        return potentiation.reshape(shape), depression.reshape(shape)

    return terms


_TERMS = {"dense": _dense, "one_to_one": _one_to_one, "sparse": _sparse, "conv2d": _conv2d, "local2d": _local2d}
