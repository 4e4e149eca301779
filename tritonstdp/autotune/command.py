"""``tritonstdp tune``: sweep kernels over their configurations, and look after what was found."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tritonstdp.autotune import cache, cost
from tritonstdp.autotune.plot import Panel, draw, panel_of
from tritonstdp.autotune.space import key_of
from tritonstdp.autotune.sweep import RATES, Outcome, all_candidates, backend_of, tune, tuning_case
from tritonstdp.kernels.protocol import CannotCompileError
from tritonstdp.problems import random_sparse
from tritonstdp.registry import forget_choices
from tritonstdp.rules import BOUNDS, RULES, Formula
from tritonstdp.topology import TOPOLOGIES, Conv2d, Dense, Local2d, OneToOne, Topology, example_topology

__all__ = ["add_arguments", "run"]

DTYPES = ("float32", "float64", "float16", "bfloat16")
SHAPES: dict[str, tuple[str, ...]] = {
    "dense": ("256", "512", "1024", "2048", "4096", "8192"),
    "one_to_one": ("4096", "65536", "1048576"),
    "sparse": ("1000x1000x65536", "4000x4000x262144", "10000x10000x1048576"),
    "conv2d": ("1x28x28x16x5", "16x28x28x32x5"),
    "local2d": ("1x28x28x16x5", "16x28x28x32x5"),
}
"""What is swept of a topology unless shapes are given."""

_BEST_SHOWN = 5


class Job(NamedTuple):
    """One case to tune, or to rank."""

    formula: Formula
    topology: Topology
    shape: str
    dtype: torch.dtype
    device: str
    rates: tuple[float, ...]

    @property
    def name(self) -> str:
        """The case in words."""
        dtype = "" if self.dtype == torch.float32 else f" {self.dtype}".replace("torch.", "")
        return f"{self.formula.rule.name} {self.topology.name} {self.shape} {self.formula.positive.__name__}{dtype}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    what = parser.add_argument_group("what to tune (everything that fits, unless said otherwise)")
    what.add_argument("--rule", nargs="+", choices=sorted(RULES), default=sorted(RULES))
    what.add_argument("--topology", nargs="+", choices=sorted(TOPOLOGIES), default=sorted(TOPOLOGIES))
    what.add_argument("--bound", nargs="+", choices=sorted(BOUNDS), default=sorted(BOUNDS), help="both bounds")
    what.add_argument(
        "--shape", nargs="+", metavar="SHAPE", type=_shape,
        help="N or N_PRExN_POST (dense), N (one_to_one), N_PRExN_POSTxSYNAPSES (sparse), "
        "C_INxHEIGHTxWIDTHxC_OUTxKERNEL (conv2d, local2d)",
    )  # fmt: skip
    what.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32"])
    what.add_argument("--rate", nargs="+", type=_percent, metavar="PERCENT", default=list(RATES),
                      help="neurons that spike in a step, in percent")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    how.add_argument("--seconds", type=float, default=4.0, help="about how long to time each case")
    how.add_argument("--plot", type=Path, metavar="PNG", help="draw how times depend on configuration and rate")
    how.add_argument("--offline", action="store_true", help="rank Triton configurations by a model, without a GPU")
    how.add_argument("--target", choices=sorted(cost.GPUS), help="the GPU that --offline is about")
    kept = parser.add_argument_group("instead of tuning: look after the settings that are kept (filters apply)")
    choice = kept.add_mutually_exclusive_group()
    choice.add_argument("--show", action="store_true", help="list them, and why any is not in use here")
    choice.add_argument("--export", type=Path, metavar="FILE", help="write them to a file")
    choice.add_argument("--import", type=Path, metavar="FILE", dest="import_", help="add those of an exported file")
    choice.add_argument("--clear", action="store_true", help="remove them")


def run(arguments: argparse.Namespace) -> int:
    """Tune, rank, or look after the cache."""
    console = Console()
    if arguments.show or arguments.export or arguments.import_ or arguments.clear:
        return _look_after(arguments, console)
    if arguments.offline != bool(arguments.target):
        print("tritonstdp tune: --offline and --target go together, as --offline --target sm_90", file=sys.stderr)
        return 2
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        print("tritonstdp tune: --plot needs matplotlib: pip install 'tritonstdp[plot]'", file=sys.stderr)
        return 2
    jobs = list(_jobs(arguments))
    if not jobs:
        print("tritonstdp tune: no shape fits a topology; see --help for their forms", file=sys.stderr)
        return 2
    return _rank(jobs, arguments, console) if arguments.offline else _sweep(jobs, arguments, console)


def _shape(text: str) -> str:
    if not all(part.isdigit() and int(part) for part in text.split("x")):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape: give whole numbers with x between, as 4000x4000")
    return text


def _percent(text: str) -> float:
    try:
        rate = float(text.removesuffix("%")) / 100
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: give a percentage above 0 and up to 100")
    return rate


@lru_cache(maxsize=64)
def make_topology(name: str, shape: str) -> Topology | None:
    """The topology that a shape stands for, or None where it does not fit.

    Examples
    --------
    >>> make_topology("dense", "64"), make_topology("one_to_one", "3x4")
    (Dense(n_pre=64, n_post=64), None)
    """
    sizes = [int(part) for part in shape.split("x")]
    if name == "dense" and len(sizes) <= 2:
        return Dense(sizes[0], sizes[-1])
    if name == "one_to_one" and len(sizes) == 1:
        return OneToOne(*sizes)
    if name == "sparse" and len(sizes) == 3:
        n_pre, n_post, synapses = sizes
        return random_sparse(n_pre, n_post, min(1.0, synapses / (n_pre * n_post)))
    if name in ("conv2d", "local2d") and len(sizes) == 5:
        c_in, height, width, c_out, k = sizes
        kind = Conv2d if name == "conv2d" else Local2d
        return kind((c_in, height, width), (c_out, height - k + 1, width - k + 1), (k, k))
    return None


def _jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    # a GPU kernel does not know how much spikes: each rate has a setting of its own
    together = arguments.offline or backend_of(arguments.device) == "cpu"
    rate_groups = [tuple(arguments.rate)] if together else [(rate,) for rate in arguments.rate]
    for name in arguments.topology:
        for shape in arguments.shape or SHAPES[name]:
            topology = make_topology(name, shape)
            if topology is None:
                continue
            for rule in arguments.rule:
                for bound in arguments.bound:
                    formula = Formula.of(RULES[rule], BOUNDS[bound], BOUNDS[bound])
                    for dtype in arguments.dtype:
                        for rates in rate_groups:
                            yield Job(formula, topology, shape, getattr(torch, dtype), arguments.device, rates)


def _sweep(jobs: list[Job], arguments: argparse.Namespace, console: Console) -> int:
    plan, skipped = _planned(jobs)
    for reason in skipped:
        console.print(f"skipped: {reason}", highlight=False)
    outcomes: list[Outcome] = []
    try:
        with _progress(console) as progress:
            _tune_all(plan, arguments.seconds, progress, outcomes)
    except KeyboardInterrupt:
        console.print(f"interrupted: {len(outcomes)} of {len(plan)} cases are tuned and kept")
    if not outcomes:
        return 1
    _report(outcomes, console)
    if arguments.plot:
        _draw(
            arguments.plot, [panel_of(each) for each in outcomes], f"time of a step, {outcomes[0].key.device}", console
        )
    return 0


def _planned(jobs: list[Job]) -> tuple[list[tuple[Job, int]], list[str]]:
    """The jobs that can be tuned with their numbers of configurations, and why the others can't."""
    plan: list[tuple[Job, int]] = []
    skipped: dict[str, None] = {}
    for job in jobs:
        try:
            entry, _ = tuning_case(job.formula, job.topology, job.dtype, job.device)
        except ValueError as error:
            skipped[str(error)] = None
            continue
        plan.append((job, len(all_candidates(entry, job.topology))))
    return plan, list(skipped)


def _progress(console: Console) -> Progress:
    columns = ("{task.fields[configs]}", "{task.fields[best]}")
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=12), MofNCompleteColumn(),
        *(TextColumn(column) for column in columns), TimeRemainingColumn(), console=console,
    )  # fmt: skip


def _tune_all(plan: list[tuple[Job, int]], seconds: float, progress: Progress, outcomes: list[Outcome]) -> None:
    task = progress.add_task("", total=sum(n for _, n in plan), configs="", best="")
    begin, before = time.monotonic(), 0.0

    for job, n_configs in plan:
        progress.update(task, description=job.name)

        def observe(done: float, best: float, n_configs: int = n_configs, before: float = before) -> None:
            completed = before + done * n_configs
            pace = completed / (time.monotonic() - begin)
            progress.update(task, completed=round(completed), configs=f"{pace:.1f} configs/s", best=f"best x{best:.2f}")

        outcomes.append(
            tune(
                job.formula, job.topology, dtype=job.dtype, device=job.device,
                rates=job.rates, seconds=seconds, observe=observe,
            )
        )  # fmt: skip
        before += n_configs


def _report(outcomes: Sequence[Outcome], console: Console) -> None:
    table = Table(title=f"us a step on {outcomes[0].key.device}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("case", "rate %", "default", "best", "speed-up", "spread", "best configuration"):
        words = heading in ("case", "best configuration")
        table.add_column(heading, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for outcome in outcomes:
        key, rates = outcome.key, outcome.rates
        table.add_row(
            f"{_case_of(key)} " + "x".join(map(str, outcome.topology.weights_shape)),
            "\n".join(f"{100 * rate:g}" for rate in rates),
            "\n".join(f"{1e6 * outcome.default_times[rate].median:.1f}" for rate in rates),
            "\n".join(f"{1e6 * outcome.best_times[rate].median:.1f}" for rate in rates),
            "\n".join(f"x{outcome.speedups[rate].median:.2f}" for rate in rates),
            "\n".join(f"{100 * outcome.speedups[rate].spread:.0f} %" for rate in rates),
            _difference(outcome.best, outcome.default),
        )
    console.print(table)
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
        panels.append(_estimated_panel(job, estimates, configs[0]))
    if panels and arguments.plot:
        _draw(arguments.plot, panels, f"ESTIMATED time of a step, {cost.GPUS[arguments.target].name}", console)
    return 0 if panels else 1


def _print_estimates(job: Job, estimates: Sequence[cost.Estimate], default: Any, target: str, console: Console) -> None:
    title = f"ESTIMATE for {cost.GPUS[target].name} ({target}), not measured: {job.name}"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    rates = [f"us at {100 * rate:g} %" for rate in job.rates]
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


def _estimated_panel(job: Job, estimates: Sequence[cost.Estimate], default: Any) -> Panel:
    reference = next(each for each in estimates if each.config == default)
    rows = {
        each.config: [mine / other for mine, other in zip(each.seconds, reference.seconds, strict=True)]
        for each in estimates
    }
    return Panel(job.name, job.rates, rows, default, estimates[0].config)


def _look_after(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.import_:
        return _import(arguments.import_, console)

    def selected(entry: cache.Entry) -> bool:
        key = entry.key
        return (
            key.rule in arguments.rule and key.topology in arguments.topology
            and key.positive_bound in arguments.bound and key.dtype in arguments.dtype
        )  # fmt: skip

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
    except (OSError, ValueError) as error:
        print(f"tritonstdp tune: {error}", file=sys.stderr)
        return 1
    forget_choices()
    console.print(f"{len(added)} settings added to {cache.directory()}", soft_wrap=True, highlight=False)
    return 0


def _show(entries: Sequence[cache.Entry], console: Console) -> None:
    table = Table(title=f"settings in {cache.directory()}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("case", "rate %", "configuration", "speed-up", "spread", "in use here"):
        table.add_column(heading, no_wrap=heading in ("rate %", "configuration"))
    for entry in entries:
        key, measured = entry.key, entry.measured
        table.add_row(
            f"{_case_of(key)}, about {key.synapses:,} synapses",
            "any" if key.rate is None else f"{key.rate:g}",
            "\n".join(f"{name}={value}" for name, value in entry.config.items()),
            f"x{measured.get('speedup', 1):.2f}",
            f"{100 * measured.get('spread', 0):.0f} %",
            _why_not_here(key) or "yes",
        )
    console.print(table)


def _why_not_here(key: cache.Key) -> str:
    """What differs on this machine now; empty where the setting is used."""
    if key.rule not in RULES or not {key.positive_bound, key.negative_bound} <= set(BOUNDS):
        return "no: the rule or a bound is not registered"
    device = "cpu" if key.backend == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        return "no: another device"
    formula = Formula.of(RULES[key.rule], BOUNDS[key.positive_bound], BOUNDS[key.negative_bound], key.clamp)
    try:
        entry, case = tuning_case(formula, example_topology(key.topology), getattr(torch, key.dtype), device)
    except ValueError as error:
        return f"no: {error}"
    space = entry.space() if entry.space else None
    here = key_of(space, case, key.backend, key.synapses, key.rate) if space else key
    different = [name for name in key._fields if getattr(key, name) != getattr(here, name)]
    return f"no: another {', '.join(different)}" if different else ""
