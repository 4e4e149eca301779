"""``tritonstdp list``: what is registered, on one screen."""

from __future__ import annotations

import argparse

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from tritonstdp.kernels.protocol import Case
from tritonstdp.registry import BACKENDS, entries
from tritonstdp.rules import BOUNDS, RULES, Formula, Rule
from tritonstdp.topology import TOPOLOGIES, example_topology

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: it has none."""


def run(arguments: argparse.Namespace) -> int:
    """Print a row a rule, and what it goes with."""
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("rule", "parameters", *(f"on {backend.name}" for backend in BACKENDS)):
        table.add_column(heading)
    for rule in RULES.values():
        parameters = ", ".join(Formula.of(rule).parameters)
        table.add_row(rule.name, parameters, *(_served(rule, backend.name) for backend in BACKENDS))
    console = Console(highlight=False)
    console.print(table)
    console.print(f"topologies (all): {', '.join(TOPOLOGIES)}")
    console.print(f"bounds: {', '.join(sorted(BOUNDS))}, or a function of (w, w_min, w_max)")
    console.print(f"backends: {', '.join(backend.name for backend in BACKENDS)}; the first that can takes a case, and")
    console.print("          `tritonstdp explain` says which that is, and why")
    for entry in entries():
        if entry.specificity:
            console.print(
                f"also: {entry.backend} on {entry.topology} for rule={entry.rule or 'any'}, bound={entry.bound}"
            )
    return 0


def _served(rule: Rule, backend: str) -> str:
    """The topologies on which a backend has a rule."""

    def serves(topology: str) -> bool:
        case = Case.plain(Formula.of(rule), example_topology(topology), torch.float32, "cpu")
        return any(entry.serves(case, backend) for entry in entries())

    served = [topology for topology in TOPOLOGIES if serves(topology)]
    return "all" if len(served) == len(TOPOLOGIES) else ", ".join(served)
