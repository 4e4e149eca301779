"""``tritonstdp tune``: sweep kernels over their configurations, and look after what was found."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tritonstdp import arguments as given
from tritonstdp.autotune import cache, cost
from tritonstdp.autotune.busy import BusyError
from tritonstdp.autotune.plan import Job, fitting, planned
from tritonstdp.autotune.plot import Panel, draw, estimated_panel, panel_of
from tritonstdp.autotune.sweep import RATES, Outcome, all_candidates, backend_of, tune, tuning_case
from tritonstdp.autotune.use import why_not_here
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.registry import forget_choices, formula_named, formula_names
from tritonstdp.rules import BOUNDS
from tritonstdp.storage import make_private
from tritonstdp.terminal import UserError
from tritonstdp.topology import DTYPES, TOPOLOGIES

__all__ = ["add_arguments", "run"]

_BEST_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    what = parser.add_argument_group("what to tune (everything that fits, in float32, unless said otherwise)")
    what.add_argument("--rule", nargs="+", choices=sorted(formula_names()), help="rules, or propagation of spikes")
    what.add_argument("--topology", nargs="+", choices=sorted(TOPOLOGIES))
    what.add_argument("--bound", nargs="+", choices=sorted(BOUNDS), help="both bounds; propagation has none")
    what.add_argument(
        "--shape", nargs="+", metavar="SHAPE", type=given.shape,
        help="; ".join(f"{name} {kind.sizes}" for name, kind in TOPOLOGIES.items() if kind.sizes),
    )  # fmt: skip
    what.add_argument("--dtype", nargs="+", choices=DTYPES)
    what.add_argument("--rate", nargs="+", type=given.rate, metavar="FRACTION", default=list(RATES),
                      help="how many of the neurons spike in a step, as 0.02")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--device", type=given.device, default="cuda" if torch.cuda.is_available() else "cpu")
    how.add_argument("--seconds", type=given.seconds, default=4.0, help="about how long to time each case")
    how.add_argument("--plot", type=given.output_file, metavar="PNG", help="draw times by configuration and rate")
    how.add_argument("--offline", action="store_true", help="rank Triton configurations by a model, without a GPU")
    how.add_argument("--target", choices=sorted(cost.GPUS), help="the GPU that --offline is about")
    kept = parser.add_argument_group("instead of tuning: look after the settings that are kept (filters apply)")
    choice = kept.add_mutually_exclusive_group()
    choice.add_argument("--show", action="store_true", help="list them, and why any is not in use here")
    choice.add_argument("--export", type=given.output_file, metavar="FILE", help="write them to a file")
    choice.add_argument(
        "--import", type=given.existing_file, metavar="FILE", dest="import_", help="add those of an exported file"
    )
    choice.add_argument("--clear", action="store_true", help="remove them")


def run(arguments: argparse.Namespace) -> int:
    """Tune, rank, or look after the cache."""
    try:
        return _run(arguments, Console(markup=False, emoji=False))
    except (BusyError, OSError) as error:
        print(f"tritonstdp tune: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.show or arguments.export or arguments.import_ or arguments.clear:
        return _look_after(arguments, console)
    if arguments.offline != bool(arguments.target):
        raise UserError("--offline and --target go together, as --offline --target sm_90")
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib: pip install 'tritonstdp[plot]'")
    jobs = list(_jobs(arguments))
    if not jobs:
        raise UserError("no shape fits a topology: see --help for their forms")
    return _rank(jobs, arguments, console) if arguments.offline else _sweep(jobs, arguments, console)


def _jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    # a GPU kernel does not know how much spikes: each rate has a setting of its own
    together = arguments.offline or backend_of(arguments.device) == "cpu"
    rate_groups = [tuple(arguments.rate)] if together else [(rate,) for rate in arguments.rate]
    dtypes = [DTYPES[name] for name in arguments.dtype or ["float32"]]
    device = "cpu" if arguments.offline else arguments.device
    itemsize = max(dtype.itemsize for dtype in dtypes)
    for name, sizes in fitting(arguments.topology or sorted(TOPOLOGIES), arguments.shape, itemsize, device):
        topology = TOPOLOGIES[name].of_sizes(sizes)
        formulas = dict.fromkeys(  # of which propagation is one, whatever the bound
            formula_named(rule, bound, bound)
            for rule, bound in product(arguments.rule or sorted(formula_names()), arguments.bound or sorted(BOUNDS))
        )
        for formula, dtype, rates in product(formulas, dtypes, rate_groups):
            yield Job(formula, topology, "x".join(map(str, sizes)), dtype, arguments.device, rates)


def _sweep(jobs: list[Job], arguments: argparse.Namespace, console: Console) -> int:
    make_private(cache.directory())
    plan, skipped = planned(jobs)
    for reason in skipped:
        console.print(f"skipped: {reason}", highlight=False)
    outcomes: list[Outcome] = []
    failed: list[str] = []
    try:
        with _progress(console) as progress:
            _tune_all(plan, arguments.seconds, progress, outcomes, failed)
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(outcomes)} of {len(plan)} cases are tuned and kept")
        raise
    finally:
        if outcomes:
            _report(outcomes, console)
    for reason in failed:
        print(f"tritonstdp tune: failed: {reason}", file=sys.stderr)
    if outcomes and arguments.plot:
        _draw(
            arguments.plot, [panel_of(each) for each in outcomes], f"time of a step, {outcomes[0].key.device}", console
        )
    return 0 if outcomes and not failed and all(outcome.kept for outcome in outcomes) else 1


def _progress(console: Console) -> Progress:
    columns = ("{task.fields[configs]}", "{task.fields[best]}")
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=12), MofNCompleteColumn(),
        *(TextColumn(column, markup=False) for column in columns), TimeRemainingColumn(), console=console,
    )  # fmt: skip


def _tune_all(
    plan: list[tuple[Job, int]], seconds: float, progress: Progress, outcomes: list[Outcome], failed: list[str]
) -> None:
    task = progress.add_task("", total=sum(n for _, n in plan), configs="", best="")
    begin, before = time.monotonic(), 0.0

    for job, n_configs in plan:
        progress.update(task, description=job.name)

        def observe(done: float, best: float, n_configs: int = n_configs, before: float = before) -> None:
            completed = before + done * n_configs
            pace = completed / max(time.monotonic() - begin, 1e-3)
            progress.update(task, completed=round(completed), configs=f"{pace:.1f} configs/s", best=f"best x{best:.2f}")

        try:
            found = tune(
                job.formula, job.topology, dtype=job.dtype, device=job.device,
                rates=job.rates, seconds=seconds, observe=observe,
            )  # fmt: skip
        except BusyError:
            raise
        except (MemoryError, RuntimeError, ValueError) as error:  # the others may go well
            failed.append(f"{job.name}: {error}")
        else:
            outcomes.append(found)
        before += n_configs


def _report(outcomes: Sequence[Outcome], console: Console) -> None:
    table = Table(title=f"us a step on {outcomes[0].key.device}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("case", "rate", "default", "best", "speed-up", "spread", "best configuration"):
        words = heading in ("case", "best configuration")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for outcome in outcomes:
        key, rates = outcome.key, outcome.rates
        table.add_row(
            f"{_case_of(key)} " + "x".join(map(str, outcome.topology.weights_shape)),
            "\n".join(f"{rate:g}" for rate in rates),
            "\n".join(f"{1e6 * outcome.default_times[rate].median:.1f}" for rate in rates),
            "\n".join(f"{1e6 * outcome.best_times[rate].median:.1f}" for rate in rates),
            "\n".join(f"x{outcome.speedups[rate].median:.2f}" for rate in rates),
            "\n".join(f"{100 * outcome.speedups[rate].spread:.0f} %" for rate in rates),
            _difference(outcome.best, outcome.default),
        )
    console.print(table)
    if all(outcome.kept for outcome in outcomes):
        console.print(f"kept in {cache.path_of(outcomes[0].key.device)}", soft_wrap=True, highlight=False)
    for outcome in outcomes:
        for config, reason in outcome.rejected.items():
            console.print(f"rejected: {outcome.key.rule} on {outcome.key.topology}, {config}: {reason}", soft_wrap=True)


def _case_of(key: cache.Key) -> str:
    return f"{key.rule} {key.topology} {key.positive_bound} {key.dtype}"


def _difference(config: Any, default: Any) -> str:
    changed = [f"{name}={value}" for name, value in config._asdict().items() if value != getattr(default, name)]
    return "\n".join(changed) or "the default"


def _draw(path: Path, panels: Sequence[Panel], title: str, console: Console) -> None:
    draw(panels, path, title)
    console.print(f"drawn: {path}", soft_wrap=True, highlight=False)


def _rank(jobs: list[Job], arguments: argparse.Namespace, console: Console) -> int:
    """Print what the model says of each case; nothing is kept, since nothing was measured."""
    panels = []
    for job in jobs:
        try:
            entry, _ = tuning_case(job.formula, job.topology, job.dtype, "cuda")
            configs = all_candidates(entry, job.topology)
            estimates, left_out = cost.rank(configs, job.formula, job.topology, job.dtype, arguments.target, job.rates)
        except (ValueError, RuntimeError, CannotCompileError) as error:
            console.print(f"skipped: {job.name}: {error}", soft_wrap=True, highlight=False)
            continue
        _print_estimates(job, estimates, configs[0], arguments.target, console)
        for reason, count in Counter(left_out.values()).items():
            console.print(f"left out: {count} configurations: {reason}", soft_wrap=True, highlight=False)
        panels.append(estimated_panel(job.name, job.rates, estimates, configs[0]))
    if panels and arguments.plot:
        _draw(arguments.plot, panels, f"ESTIMATED time of a step, {cost.GPUS[arguments.target].name}", console)
    return 0 if panels else 1


def _print_estimates(job: Job, estimates: Sequence[cost.Estimate], default: Any, target: str, console: Console) -> None:
    title = f"ESTIMATE for {cost.GPUS[target].name} ({target}), not measured: {job.name}"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    rates = [f"us at {rate:g}" for rate in job.rates]
    for heading in ("configuration", *rates, "over default", "programs", "registers", "spills", "occupancy"):
        table.add_column(heading, justify="left" if heading == "configuration" else "right")
    reference = next(each for each in estimates if each.config == default)
    for each in dict.fromkeys([*estimates[:_BEST_SHOWN], reference]):
        table.add_row(
            " ".join(f"{name}={value}" for name, value in each.config._asdict().items())
            + (" (the default)" if each is reference else ""),
            *(f"{1e6 * seconds:.1f}" for seconds in each.seconds),
            f"x{reference.mean / each.mean:.2f}",
            f"{each.programs:,}", str(each.registers), str(each.spills), f"{100 * each.occupancy:.0f} %",
        )  # fmt: skip
    console.print(table)


def _look_after(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.import_:
        return _import(arguments.import_, console)

    def selected(entry: cache.Entry) -> bool:
        key = entry.key
        filters = (
            (key.rule, arguments.rule), (key.topology, arguments.topology),
            (key.positive_bound, arguments.bound), (key.dtype, arguments.dtype),
        )  # fmt: skip
        return all(wanted is None or value in wanted for value, wanted in filters)

    entries = [entry for entry in cache.load_all() if selected(entry)]
    if arguments.export:
        cache.export(arguments.export, entries)
        console.print(f"{len(entries)} settings written to {arguments.export}", soft_wrap=True, highlight=False)
    elif arguments.clear:
        console.print(f"{cache.clear(selected)} settings removed from {cache.directory()}", soft_wrap=True)
        forget_choices()
    else:
        _show(entries, console)
    return 0


def _import(path: Path, console: Console) -> int:
    try:
        added = cache.import_(path)
    except ValueError as error:
        raise UserError(str(error)) from None
    forget_choices()
    console.print(f"{len(added)} settings added to {cache.directory()}", soft_wrap=True, highlight=False)
    return 0


def _show(entries: Sequence[cache.Entry], console: Console) -> None:
    table = Table(title=f"settings in {cache.directory()}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("case", "rate", "configuration", "speed-up", "spread", "in use here"):
        table.add_column(heading, no_wrap=heading in ("rate", "configuration"))
    for entry in entries:
        key, measured = entry.key, entry.measured
        table.add_row(
            f"{_case_of(key)}, about {key.synapses:,} synapses",
            "any" if key.rate is None else f"{key.rate:g}",
            "\n".join(f"{name}={value}" for name, value in entry.config.items()),
            f"x{measured.get('speedup', 1):.2f}",
            f"{100 * measured.get('spread', 0):.0f} %",
            why_not_here(key) or "yes",
        )
    console.print(table)
