"""``tritonstdp explain``: which backend serves a case, and why each other one does not."""

from __future__ import annotations

import argparse

import torch

from tritonstdp.functional import explain
from tritonstdp.rules import BOUNDS, RULES
from tritonstdp.topology import TOPOLOGIES

__all__ = ["add_arguments", "run"]

DTYPES = ("float32", "float64", "float16", "bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--rule", choices=sorted(RULES), default="stdp")
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="dense")
    parser.add_argument("--bound", choices=sorted(BOUNDS), default="no_bound", help="both bounds")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clamp", action="store_true")


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation."""
    choice = explain(
        arguments.rule,
        arguments.topology,
        dtype=getattr(torch, arguments.dtype),
        device=arguments.device,
        positive_bound=arguments.bound,
        negative_bound=arguments.bound,
        clamp=arguments.clamp,
    )
    print(choice)
    return 0
