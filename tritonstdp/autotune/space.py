"""What there is to choose from: the configurations of a kernel that differ in effect, and the buckets of a key."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from typing import Any

import torch

from tritonstdp.autotune.cache import Key
from tritonstdp.kernels.digest import digest_of
from tritonstdp.machine import device_name, driver, version_of
from tritonstdp.registry import AnyCase, Space
from tritonstdp.source import content_of
from tritonstdp.topology import Topology

__all__ = ["candidates", "key_of", "rate_bucket", "size_bucket"]

_ONLY_IN_PARALLEL = ("rows_per_task", "tasks")


def candidates(space: Space, synapses: int | None, threads: int) -> list[Any]:
    """The configurations that differ in effect, the default first.

    With one thread, or fewer synapses than ``parallel_work``, a CPU kernel runs serially whatever is set for threads.

    Parameters
    ----------
    space : Space
        The kernel's space.
    synapses : int or None
        The size that the kernel compares with ``parallel_work``; None where that is not the number of weights.
    threads : int
        The threads that torch uses.

    Returns
    -------
    list of NamedTuple
        The configurations; a field without effect has its default value.

    Examples
    --------
    >>> from tritonstdp.kernels.dense import cpu
    >>> space = Space(cpu.DEFAULT, {"rows_per_task": (8, 32, 128)}, cpu.__name__)
    >>> len(candidates(space, 10_000_000, threads=2))
    3
    """
    default = space.default
    if "parallel_work" not in space.values:
        return list(dict.fromkeys([default, *space.configs]))

    def runs_in_parallel(config: Any) -> bool:
        return threads > 1 and (synapses is None or synapses > config.parallel_work)

    by_effect: dict[Any, None] = {}
    for config in (default, *space.configs):
        parallel = runs_in_parallel(config)
        unused = () if parallel else _ONLY_IN_PARALLEL
        if parallel == runs_in_parallel(default) and (synapses is not None or threads == 1):
            unused = (*unused, "parallel_work")
        by_effect[config._replace(**{name: getattr(default, name) for name in unused if name in space.values})] = None
    return list(by_effect)


def size_bucket(topology: Topology) -> int:
    """The power of four next to the number of synapses: groups of one bucket share a setting.

    Examples
    --------
    >>> from tritonstdp import Dense
    >>> size_bucket(Dense(4096, 4096)) == size_bucket(Dense(4000, 4000)) == 4096**2
    True
    """
    return 4 ** (topology.synapses.bit_length() // 2)


def rate_bucket(rate: float) -> float:
    """The rate to the nearest of 0.01, 0.02, 0.05, 0.1 and so on.

    Examples
    --------
    >>> rate_bucket(0.018), rate_bucket(0.3)
    (0.02, 0.2)
    """
    rate = max(rate, 1e-5)
    decade = math.floor(math.log10(rate))
    buckets = [float(f"{digit}e{decade}") for digit in (1, 2, 5, 10)]
    return min(buckets, key=lambda bucket: abs(math.log(bucket / rate)))


def key_of(space: Space, case: AnyCase, backend: str, synapses: int, rate: float | None) -> Key | None:
    """The key of a case in its size and rate bucket on this machine; None where what it computes can't be told."""
    source = _source_hash(space, case)
    if source is None:
        return None
    described = case.formula.described
    return Key(
        rule=_label(described["rule"]),
        topology=case.topology,
        backend=backend,
        positive_bound=_label(described["positive_bound"]),
        negative_bound=_label(described["negative_bound"]),
        clamp=described["clamp"],
        dtype=str(case.dtype).removeprefix("torch."),
        synapses=synapses,
        rate=rate,
        device=device_name(case.device),
        driver=driver(case.device),
        torch=torch.__version__,
        triton=version_of("triton"),
        numba=version_of("numba"),
        source=source,
        space=_hash(json.dumps([space.default._asdict(), dict(space.values)], default=repr)),
    )


def _label(name: str) -> str:
    """A name as it can be kept: it is for people, and the source tells formulas apart."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)[:100]


def _source_hash(space: Space, case: AnyCase) -> str | None:
    contents = [content_of(function) for function in case.formula.functions]
    if None in contents:
        return None
    return _hash(*map(str, contents), _digest(space.module))


def _digest(module: str) -> str:
    """What a module is made from; it is found without being imported: not every machine has Triton."""
    spec = importlib.util.find_spec(module)
    try:
        return digest_of(str(spec.origin)) if spec else module
    except OSError:  # an installation without sources
        return module


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
