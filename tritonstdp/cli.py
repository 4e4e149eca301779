"""The command line: ``tritonstdp COMMAND``. Each command lives in a module of its own, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import NamedTuple

__all__ = ["main"]


class Command(NamedTuple):
    """A subcommand: its module offers ``add_arguments(parser)`` and ``run(arguments) -> exit status``."""

    module: str
    help: str


COMMANDS = {
    "demo": Command("tritonstdp.demo", "train a spiking network on real digits by STDP, or by reward"),
    "list": Command("tritonstdp.tables", "show every rule, topology and backend, and the bounds"),
    "bench": Command("tritonstdp.bench", "time steps beside torch, and compare with an earlier run"),
    "inspect": Command("tritonstdp.inspection", "show what the GPU kernels cost, found without a GPU"),
    "tune": Command("tritonstdp.autotune.command", "find the fastest configurations for this machine and keep them"),
    "verify": Command("tritonstdp.verification", "check every kernel on this machine, and write a report"),
    "explain": Command("tritonstdp.explanation", "say which backend serves a case, and why not the others"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : list of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit status.

    Examples
    --------
    >>> main(["explain", "--rule", "stdp", "--topology", "dense"])
    stdp on dense, torch.float32 weights on cpu: cpu
      not triton: the weights are on cpu: Triton runs on cuda and xpu (and on cpu under TRITON_INTERPRET=1)
    0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="tritonstdp", description="Event-driven synaptic plasticity for torch.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help)
        if arguments[:1] == [name]:
            importlib.import_module(command.module).add_arguments(subparser)
    parsed = parser.parse_args(arguments)
    return importlib.import_module(COMMANDS[parsed.command].module).run(parsed)
