"""The command line: ``tritonstdp COMMAND``. Each of :mod:`tritonstdp.commands` is imported when it is called."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
import warnings
from types import ModuleType
from typing import Any

from tritonstdp import __version__
from tritonstdp.arguments import Parser, existing_file
from tritonstdp.modules import run_module
from tritonstdp.terminal import UserError

__all__ = ["main"]


COMMANDS = {
    "demo": "train a spiking network on real digits by STDP, or by reward",
    "list": "show every rule, topology and backend, and the bounds",
    "bench": "time steps beside torch, and compare with an earlier run",
    "inspect": "show what the GPU kernels cost, found without a GPU",
    "tune": "find the fastest configurations for this machine and keep them",
    "verify": "check every kernel on this machine, and write a report",
    "explain": "say which backend serves a case, and why not the others",
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
        The exit status: 0 where all went well, 1 where what was checked does not hold, 2 where what was asked for can't
        be had, which one line on stderr says, and 130 after an interrupt.

    Examples
    --------
    >>> main(["explain", "--rule", "stdp", "--topology", "dense"])
    stdp on dense, torch.float32 weights on cpu: cpu
      not triton: the weights are on cpu: Triton runs on cuda and xpu (and on cpu under TRITON_INTERPRET=1)
    0
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    prog = _prog(arguments)
    try:
        with warnings.catch_warnings():
            # torch announces that they are new, which is no news to whoever runs a command
            warnings.filterwarnings("ignore", message="Sparse CS", category=UserWarning)
            return _run(_parsed(arguments))
    except UserError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _unread()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"{prog}: {error.strerror}: make room where the output goes", file=sys.stderr)
        return 2
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # so rich ends a process whose output nobody reads
            return _unread()
        raise


def _load(arguments: list[str]) -> None:
    """Run the files of ``--module``, whose rules and bounds are then options like any other."""
    parser = Parser(prog=_prog(arguments), add_help=False, allow_abbrev=False)
    parser.add_argument("--module", **_MODULE)
    for path in parser.parse_known_args(arguments)[0].module:
        run_module(path)


_MODULE: dict[str, Any] = {
    "action": "append", "default": [], "type": existing_file, "metavar": "FILE",
    "help": "Python that registers rules or bounds of yours, which count as the built-in ones do; may be given again",
}  # fmt: skip


def _prog(arguments: list[str]) -> str:
    return " ".join(["tritonstdp", *(name for name in arguments[:1] if name in COMMANDS)])


def _parsed(arguments: list[str]) -> argparse.Namespace:
    _load(arguments)
    parser = Parser(prog="tritonstdp", description="Event-driven synaptic plasticity for torch.")
    parser.add_argument("--version", action="version", version=f"tritonstdp {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        if arguments[:1] == [name]:
            _module_of(name).add_arguments(subparser)
        subparser.add_argument("--module", **_MODULE)
    return parser.parse_args(arguments)


def _module_of(command: str) -> ModuleType:
    return importlib.import_module(f"tritonstdp.commands.{command}")


def _run(parsed: argparse.Namespace) -> int:
    status = _module_of(parsed.command).run(parsed)
    if sys.stdout is not None:
        sys.stdout.flush()  # or what is left of it fails when Python ends, out of our reach
    return status


def _unread() -> int:
    """End quietly where nobody reads the output any more, as programs do that the system ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141  # 128 and the number of SIGPIPE, which not every system has
