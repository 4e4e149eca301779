"""``tritonstdp list``: what is registered, as tables."""

from __future__ import annotations

import argparse

import torch
from rich.console import Console
from rich.table import Table

from tritonstdp.kernels.protocol import Case
from tritonstdp.registry import BACKENDS, entries
from tritonstdp.rules import BOUNDS, RULES, Formula
from tritonstdp.topology import TOPOLOGIES, example_topology

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: it has none."""


def run(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    console = Console()
    table = Table(title="kernels: (rule, topology, bound) -> backend")
    for heading in ("rule", "topology", "parameters", "bounds", *(backend.name for backend in BACKENDS)):
        table.add_column(heading)
    for rule in RULES.values():
        for name in TOPOLOGIES:
            case = Case(Formula.of(rule), name, example_topology(name).kernel_key, "contiguous", torch.float32, "cpu")
            served = [
                "yes" if any(entry.serves(case, backend.name) for entry in entries()) else "" for backend in BACKENDS
            ]
            parameters = ", ".join((*rule.parameters, *rule.eligibility_parameters))
            table.add_row(rule.name, name, parameters, ", ".join(sorted(BOUNDS)) + " or a function", *served)
    console.print(table)
    specific = [entry for entry in entries() if entry.specificity]
    for entry in specific:
        console.print(f"also: {entry.backend} on {entry.topology} for rule={entry.rule or 'any'}, bound={entry.bound}")
    return 0
