"""``tritonstdp explain``: which backend serves a case, and why each other one does not."""

from __future__ import annotations

import argparse

import torch

from tritonstdp.functional import explain
from tritonstdp.registry import formula_names
from tritonstdp.rules import BOUNDS
from tritonstdp.terminal import UserError
from tritonstdp.topology import DTYPES, TOPOLOGIES

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--rule", choices=sorted(formula_names()), default="stdp", help="default: stdp")
    topology = next(iter(TOPOLOGIES))
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default=topology, help="default: %(default)s")
    parser.add_argument("--bound", choices=sorted(BOUNDS), default="no_bound", help="both bounds (default: no_bound)")
    for sign, change in (("positive", "potentiation"), ("negative", "depression")):
        parser.add_argument(
            f"--{sign}-bound", choices=sorted(BOUNDS), help=f"the bound of {change} alone (default: --bound's)"
        )
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    parser.add_argument(
        "--device", type=_device, default="cpu",
        help="where the weights would be, as cpu or cuda; it need not be there (default: cpu)",
    )  # fmt: skip
    parser.add_argument("--clamp", action="store_true", help="with weights clipped to their limits (default: without)")


def _device(text: str) -> str:
    """A device that torch knows by name, whether or not this machine has one."""
    try:
        kind = torch.device(text).type
    except RuntimeError:
        kind = ""
    if kind in ("", "meta"):
        raise argparse.ArgumentTypeError(f"{text!r} is no device: give one such as cpu, cuda, cuda:1 or xpu")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation."""
    try:
        choice = explain(
            arguments.rule,
            arguments.topology,
            dtype=getattr(torch, arguments.dtype),
            device=arguments.device,
            positive_bound=arguments.positive_bound or arguments.bound,
            negative_bound=arguments.negative_bound or arguments.bound,
            clamp=arguments.clamp,
        )
    except ValueError as error:  # as of TRITONSTDP_RATE
        raise UserError(str(error)) from None
    print(choice)
    return 0
