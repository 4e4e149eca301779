"""Tuned settings in use: a step looks its configuration up once a size, and costs nothing after."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import torch

from tritonstdp.arguments import ArgumentTypeError, rate
from tritonstdp.autotune import cache
from tritonstdp.autotune.space import key_of, size_bucket
from tritonstdp.autotune.sweep import RATES, find, keep, space_of, tuning_case
from tritonstdp.kernels.compilation import undisturbed
from tritonstdp.kernels.protocol import PlacedStep, placed
from tritonstdp.machine import device_name
from tritonstdp.registry import AnyCase, KernelEntry, Space, formula_named, formula_names
from tritonstdp.rules import BOUNDS
from tritonstdp.topology import DTYPES, TOPOLOGIES, Topology, example_topology

__all__ = ["configured_step", "look_up", "why_not_here"]

logger = logging.getLogger("tritonstdp")

TYPICAL_RATE = 0.02
"""The rate for which a GPU's settings are looked up unless ``TRITONSTDP_RATE`` says another."""


def configured_step(entry: KernelEntry, space: Space, case: AnyCase, autotune: bool = False) -> Callable[..., None]:
    """Build a kernel so that each size of group runs in the configuration that was tuned for it, or in the default.

    Parameters
    ----------
    entry : KernelEntry
        The kernel.
    space : Space
        Its configurations.
    case : Case or PropagationCase
        The case.
    autotune : bool
        Whether a size that has not been tuned is tuned at its first step; see :func:`tritonstdp.choice.choose`.

    Returns
    -------
    Step
        The step. Where nothing was tuned and nothing is to be, it is the kernel's own.
    """
    autotune = _may_tune(entry, space, case, autotune)
    tuned = look_up(entry, space, case) if space.values else {}
    if not autotune and all(config == space.default for config in tuned.values()):
        return entry.build(case, space.default)
    return _step_by_size(entry, space, case, tuned, autotune)


def look_up(entry: KernelEntry, space: Space, case: AnyCase) -> dict[int, Any]:
    """The cached configurations of a case on this machine, by size bucket; none where it can't be known again."""
    declared = declared_rate() if entry.backend == "triton" else TYPICAL_RATE
    kept = cache.load(cache.path_of(device_name(case.device)))
    wanted = key_of(space, case, entry.backend, 0, None) if kept else None
    matching = [found for found in kept.values() if found.key._replace(synapses=0, rate=None) == wanted]
    # the nearest rate comes last and stays
    matching.sort(key=lambda found: -abs((found.key.rate or declared) - declared))
    return {found.key.synapses: config for found in matching if (config := _restored(space, found)) is not None}


def why_not_here(key: cache.Key) -> str:
    """What keeps a setting from being used on this machine now; empty where it is used."""
    if key.rule not in formula_names() or not {key.positive_bound, key.negative_bound} <= set(BOUNDS):
        return "no: the rule or a bound is not registered"
    if key.topology not in TOPOLOGIES or key.dtype not in DTYPES:
        return "no: the topology or the dtype is unknown"
    device = "cpu" if key.backend == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        return "no: another device"
    formula = formula_named(key.rule, key.positive_bound, key.negative_bound, key.clamp)
    try:
        entry, case = tuning_case(formula, example_topology(key.topology), DTYPES[key.dtype], device)
    except ValueError as error:
        return f"no: {error}"
    here = key_of(space_of(entry), case, key.backend, key.synapses, key.rate) or key
    different = [name for name in key._fields if getattr(key, name) != getattr(here, name)]
    return f"no: another {', '.join(different)}" if different else ""


def declared_rate() -> float:
    """How much of a group spikes in a step, as a fraction, as ``TRITONSTDP_RATE`` says or as is typical.

    Raises
    ------
    ValueError
        If it is no fraction.

    Examples
    --------
    >>> declared_rate()
    0.02
    """
    declared = os.environ.get("TRITONSTDP_RATE", str(TYPICAL_RATE))
    try:
        return rate(declared)
    except ArgumentTypeError as error:
        raise ValueError(f"TRITONSTDP_RATE: {error}") from None


def _restored(space: Space, found: cache.Entry) -> Any:
    default = space.default
    allowed = {name: (*space.values.get(name, ()), getattr(default, name)) for name in default._fields}
    if set(found.config) == set(allowed) and all(_is_among(found.config[name], allowed[name]) for name in allowed):
        return type(default)(**found.config)
    logger.warning("a tuned setting is outside the kernel's space and is not used: %s", found.config)
    return None


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in allowed)  # 1, 1.0 and True are equal


def _may_tune(entry: KernelEntry, space: Space, case: AnyCase, asked: bool) -> bool:
    asked = asked or os.environ.get("TRITONSTDP_AUTOTUNE") == "1"
    interpreted = entry.backend == "triton" and case.device == "cpu"
    return asked and bool(space.values) and not interpreted


def _step_by_size(
    entry: KernelEntry, space: Space, case: AnyCase, tuned: dict[int, Any], autotune: bool
) -> Callable[..., None]:
    built: dict[Any, Callable[..., None]] = {}
    steps: dict[Any, Callable[..., None]] = {}

    def build(config: Any) -> Callable[..., None]:
        if config not in built:
            built[config] = _build_or_default(entry, case, config, space.default)
        return built[config]

    def first_step(topology: Topology) -> Callable[..., None]:
        bucket = size_bucket(topology)
        if autotune and bucket not in tuned:
            if _capturing(case.device):  # nothing may be timed now; the first step outside will be
                return build(space.default)
            tuned[bucket] = _tuned_now(case, topology, space)
        steps[topology.weights_shape, topology.post_shape] = step = build(tuned.get(bucket, space.default))
        return step

    def place(topology, *arguments):  # type: ignore[no-untyped-def]
        step = steps.get((topology.weights_shape, topology.post_shape)) or first_step(topology)
        return placed(step, topology, *arguments)

    build(next(iter(tuned.values()), space.default))  # what can't be compiled has to say so before the first step
    return PlacedStep(place)


def _build_or_default(entry: KernelEntry, case: AnyCase, config: Any, default: Any) -> Callable[..., None]:
    try:
        return undisturbed(lambda: entry.build(case, config))
    except Exception as error:  # whatever a compiler raises: a setting is no reason for a step to fail
        if config == default:
            raise
        logger.warning("a tuned setting can't be built, so the default is used: %s: %s", config, error)
        return undisturbed(lambda: entry.build(case, default))


def _tuned_now(case: AnyCase, topology: Topology, space: Space) -> Any:
    logger.info("tuning %s on %s for groups like %s", case.formula.name, case.topology, topology)
    rates = RATES if case.device == "cpu" else (declared_rate(),)
    try:
        outcome = find(case.formula, topology, dtype=case.dtype, device=case.device, rates=rates, patience=0.0)
    except Exception as error:  # whatever a compiler or a device raises: tuning is no reason for a step to fail
        logger.warning("tuning failed, so the default is used: %s", error)
        return space.default
    keep(outcome)
    return outcome.best


def _capturing(device: str) -> bool:
    return device != "cpu" and getattr(torch, device).is_current_stream_capturing()
