"""Who computes a step: the project's kernels, and what people use instead."""

from __future__ import annotations

import importlib

from torch import Tensor

from tritonstdp.bench import own_providers, torch_providers, versions
from tritonstdp.machine import version_of
from tritonstdp.measurement import Inputs, NotAvailableError, Provider, Runner


def pair_traces(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The pre and the post trace of a rule that reads one of either.

    Raises
    ------
    NotAvailableError
        If the rule reads others, or the weight.
    """
    signatures = inputs.workload.formula.rule.signatures
    reads = {name for part in ("on_pre", "on_post") for name in signatures[part].reads}
    if not reads <= {"pre_spike", "post_spike", "pre_trace", "post_trace"} or len(inputs.traces) != 2:
        raise NotAvailableError(f"no step for a rule that reads {', '.join(sorted(reads))}")
    return inputs.traces["pre_trace"], inputs.traces["post_trace"]


def _from(module: str) -> Provider:
    """A provider whose module is imported when it is first asked for, since its library may not be installed."""

    def prepare(inputs: Inputs) -> Runner:
        try:
            chosen = importlib.import_module(f"benchmarks.providers.{module}")
        except ModuleNotFoundError as error:
            raise NotAvailableError(f"{error.name} is not installed") from error
        except Exception as error:  # a library that is there and broken is no reason to measure nothing
            raise NotAvailableError(f"can't be imported: {error}") from error
        return chosen.prepare(inputs)

    return prepare


INSTALLED_WITH_TESTS: dict[str, Provider] = {
    **own_providers("cpu"),
    "CoNeX": _from("conex_classes"),
    **torch_providers(),
    "indexed torch": _from("indexed"),
}
"""What the test extra installs: the gate compares with these."""

PROVIDERS: dict[str, Provider] = {
    **INSTALLED_WITH_TESTS,
    "JAX": _from("jax_xla"),
    "BindsNET": _from("bindsnet_rules"),
    "SpikingJelly": _from("spikingjelly_steps"),
    "brainevent": _from("brainevent_steps"),
    "Brian2 C++": _from("brian2_standalone"),
}

_PACKAGES = {
    "CoNeX": "cnrl-conex",
    "indexed torch": "torch",
    "JAX": "jax",
    "BindsNET": "bindsnet",
    "SpikingJelly": "spikingjelly",
    "brainevent": "brainevent",
    "Brian2 C++": "brian2",
}

VERSIONS: dict[str, str] = versions() | {name: version_of(p) for name, p in _PACKAGES.items()}
