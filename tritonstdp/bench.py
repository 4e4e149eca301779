"""Who is timed on this machine, tritonstdp and torch.compile, and how rows stand beside those of an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table

from tritonstdp import __version__
from tritonstdp.autotune.sweep import backend_of
from tritonstdp.functional import step_
from tritonstdp.kernels.protocol import Case
from tritonstdp.kernels.reference import build as build_reference
from tritonstdp.measurement import (
    OURS,
    W_MAX,
    W_MIN,
    Inputs,
    Provider,
    Row,
    Runner,
    parameters_of,
)
from tritonstdp.registry import meeting_of

__all__ = ["compare", "leads_of", "own_providers", "tables_of", "torch_providers", "versions"]

SLOWER = 1.25


def _tritonstdp(backend: str) -> Provider:
    """A step as a behavior takes it: what does not change from step to step is prepared."""

    def prepare(inputs: Inputs) -> Runner:
        weights, c = inputs.copy()
        formula, topology = inputs.workload.formula, inputs.topology
        parameters = tuple(parameters_of(formula).values())
        sides = [inputs.sides(*spikes) for spikes in inputs.spikes]

        def step(k: int) -> None:
            pre, post = sides[k]
            step_(formula, topology, weights, pre, post, parameters, W_MIN, W_MAX, c, backend)

        return Runner(step, lambda: topology.values(weights), None if c is None else lambda: c)

    return prepare


_compiled_steps: dict[tuple[Any, ...], Callable[..., None]] = {}


def _compiled_step(inputs: Inputs, kind: str) -> Callable[..., None]:
    """The reference's step for a workload at any rate, its parameters compiled in."""
    workload = inputs.workload
    key = (workload.rule, workload.topology, workload.bound, workload.shape, workload.dtype, workload.device, kind)
    if key not in _compiled_steps:
        _compiled_steps[key] = _compile_step(inputs)
    return _compiled_steps[key]


def _compile_step(inputs: Inputs) -> Callable[..., None]:
    workload = inputs.workload
    formula, topology = workload.formula, inputs.topology
    meeting = meeting_of(workload.topology)._replace(careless=True)
    ends = topology.ends() or topology
    if ends is not topology:
        # at every stored synapse from its two neurons' indices, which compiles into one loop
        meeting = meeting._replace(at_pre=lambda ends, v: v[ends[0]], at_post=lambda ends, v: v[ends[1]])
    reference = build_reference(meeting, Case.plain(formula, topology, torch.float32, workload.device))
    parameters = tuple(parameters_of(formula).values())

    def step(w, c, pre, post):  # type: ignore[no-untyped-def]
        reference(ends, w, c, pre, post, parameters, W_MIN, W_MAX)

    # torch.compile keeps what it has compiled, up to a limit, by code object: each step has one of its own
    step.__code__ = step.__code__.replace()
    return torch.compile(step, dynamic=False, fullgraph=True)


def compiled(kind: str) -> Provider:
    """torch.compile of the reference's step, with "bool" spikes, or "float" ones, which it vectorises better."""

    def prepare(inputs: Inputs) -> Runner:
        values, c = inputs.values.clone(), None if inputs.c is None else inputs.c.clone()
        run = _compiled_step(inputs, kind)
        spikes = inputs.float_spikes if kind == "float" else inputs.spikes
        sides = [inputs.sides(*spikes) for spikes in spikes]

        def step(k: int) -> None:
            run(values, c, *sides[k])

        return Runner(step, lambda: values, None if c is None else lambda: c)

    return prepare


def own_providers(device: str) -> dict[str, Provider]:
    """The project's kernel for a device and its reference.

    Examples
    --------
    >>> list(own_providers("cpu"))
    ['tritonstdp', 'tritonstdp reference']
    """
    return {OURS: _tritonstdp(backend_of(device)), f"{OURS} reference": _tritonstdp("reference")}


def torch_providers() -> dict[str, Provider]:
    """torch.compile of the same formula, with either kind of spikes.

    Examples
    --------
    >>> list(torch_providers())
    ['torch.compile, bool spikes', 'torch.compile, float spikes']
    """
    return {f"torch.compile, {kind} spikes": compiled(kind) for kind in ("bool", "float")}


def versions() -> dict[str, str]:
    """The versions of the providers here, for the rows."""
    own = {name: __version__ for name in own_providers("cpu")}
    return own | {name: torch.__version__ for name in torch_providers()}


def tables_of(rows: Iterable[Row]) -> list[Table]:
    """Rows as a table for each workload; no time where a provider is wrong or missing.

    Examples
    --------
    >>> tables_of([])
    []
    """
    tables: dict[str, Table] = {}
    rows = list(rows)
    on_gpu = any(row.host_us is not None for row in rows)
    for row in rows:
        if row.workload not in tables:
            tables[row.workload] = Table(title=row.workload, title_justify="left", box=SIMPLE)
            for heading in ("provider", "median", "quartiles", "/ tritonstdp", "/ floor", *["host"] * on_gpu):
                justify: Any = "left" if heading == "provider" else "right"
                tables[row.workload].add_column(heading, justify=justify)
        tables[row.workload].add_row(*_cells(row))
    return list(tables.values())


def _cells(row: Row) -> list[str]:
    if row.status != "ok":
        return [row.provider, row.status, row.note]
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    floor = "" if row.floor_ratio is None else f"{row.floor_ratio:.1f}"
    return [row.provider, _time(row.median_us), f"{_time(row.q1_us)} .. {_time(row.q3_us)}", ratio, floor, *_host(row)]


def _host(row: Row) -> list[str]:
    return [] if row.host_us is None else [_time(row.host_us)]


def _time(microseconds: float | None) -> str:
    if microseconds is None:
        return ""
    return f"{microseconds:.3g} us" if microseconds < 1000 else f"{microseconds / 1000:.4g} ms"


def compare(new: Iterable[Row], old: Iterable[Row], slower: float = SLOWER) -> tuple[Table, list[str]]:
    """Set rows beside those of an earlier run.

    A workload counts as worse where the ratio of torch's fastest to tritonstdp has fallen by more than a factor, since
    a ratio within one run hardly feels how busy the machine is; without another provider, the time itself counts.

    Parameters
    ----------
    new, old : iterable of Row
        The rows.
    slower : float
        The factor.

    Returns
    -------
    Table, list of str
        The comparison, and the workloads that have become worse.

    Examples
    --------
    >>> table, worse = compare([], [])
    >>> worse
    []
    """
    table = Table(title="tritonstdp now and before")
    for heading in ("workload", "before", "now", "lead before", "lead now", ""):
        table.add_column(heading, justify="left" if heading == "workload" else "right")
    before, now = leads_of(old), leads_of(new)
    worse = []
    for name in [name for name in now if name in before]:
        (old_time, old_lead), (new_time, new_lead) = before[name], now[name]
        change = new_time / old_time if old_lead is None or new_lead is None else old_lead / new_lead
        if change > slower:
            worse.append(name)
        leads = ["" if lead is None else f"{lead:.2f}" for lead in (old_lead, new_lead)]
        verdict = f"{change:.2f}x slower" if change > slower else ""
        table.add_row(name, _time(old_time), _time(new_time), *leads, verdict)
    return table, worse


def leads_of(rows: Iterable[Row]) -> dict[str, tuple[float, float | None]]:
    """For each workload, tritonstdp's median and by how much the fastest other provider is slower."""
    rows = [row for row in rows if row.status == "ok"]
    ours = {row.workload: row.median_us for row in rows if row.provider == OURS and row.median_us is not None}
    leads: dict[str, tuple[float, float | None]] = {}
    for name, median in ours.items():
        others = [r.ratio for r in rows if r.workload == name and is_other(r) and r.ratio is not None]
        leads[name] = median, min(others, default=None)
    return leads


def is_other(row: Row) -> bool:
    """Whether a row is another project's time, to be compared with."""
    return row.status == "ok" and row.provider != "copy" and not row.provider.startswith(OURS)
