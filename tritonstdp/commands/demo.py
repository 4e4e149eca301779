"""``tritonstdp demo``: a spiking network learns real digits by STDP, or two-choice tasks from reward alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tritonstdp.arguments import device, whole
from tritonstdp.demo import reward, unsupervised
from tritonstdp.demo.digits import N_DIGITS, Digits, load
from tritonstdp.demo.network import backend_for
from tritonstdp.registry import BACKENDS
from tritonstdp.terminal import UserError, require_memory

__all__ = ["add_arguments", "run"]

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
FEWEST_SAMPLES = 50
PLAIN = "reference"
BYTES_A_NEURON = 4 * (4 * 128 + N_DIGITS)
"""Its weights, some copies of them, and its answer to every digit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    fewest, *_, most = sorted(task.neurons for task in reward.TASKS)
    parser.add_argument("--reward", action="store_true", help="learn two-choice tasks by rstdp, from reward alone")
    parser.add_argument(
        "--backend",
        choices=[backend.name for backend in BACKENDS],
        help="what computes plasticity (default: the fastest)",
    )
    parser.add_argument("--device", type=device, default="cpu", help="where the network lives (default: cpu)")
    parser.add_argument(
        "--seed", type=whole(0), default=0, help="of weights, spikes and order, a whole number (default: 0)"
    )
    parser.add_argument(
        "--neurons",
        type=whole(1),
        help=f"how many neurons compete (default: {unsupervised.N_NEURONS}); with --reward, how many for an action "
        f"(default: {fewest} to {most}, by task)",
    )
    parser.add_argument(
        "--samples",
        type=whole(FEWEST_SAMPLES, N_DIGITS),
        default=N_DIGITS,
        help=f"how many digits to use in all, {FEWEST_SAMPLES} or more (default: all {N_DIGITS})",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out"), metavar="FOLDER", help="of the picture (default: ./out)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="run the plain torch formulas as well: print both times, compare weights"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a demo; print how it did and where its picture is."""
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"the demo needs {' and '.join(missing)}: pip install 'tritonstdp[demo]'")
    backend = _backend(arguments)
    neurons = arguments.neurons or unsupervised.N_NEURONS
    require_memory(f"a network of {neurons:,} neurons", neurons * BYTES_A_NEURON, arguments.device)
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {arguments.out} can't be a folder: {error.strerror}") from error
    demo = _rewarded if arguments.reward else _unsupervised
    threads = torch.get_num_threads()
    # tensors this small are done before a second thread has started
    torch.set_num_threads(1)
    try:
        demo(arguments, backend, load(arguments.samples), Console())
    finally:
        torch.set_num_threads(threads)
    return 0


def _backend(arguments: argparse.Namespace) -> str:
    rule = "rstdp" if arguments.reward else "stdp"
    try:
        return backend_for(rule, arguments.device, arguments.backend)
    except ValueError as error:
        raise UserError(str(error)) from error


def _unsupervised(arguments: argparse.Namespace, backend: str, digits: Digits, console: Console) -> None:
    from tritonstdp.demo.picture import draw_digits

    n_neurons = arguments.neurons or unsupervised.N_NEURONS
    train = partial(unsupervised.train, digits, n_neurons, seed=arguments.seed, device=arguments.device)
    result = train(backend=backend)
    console.print(
        f"test accuracy {result.accuracy:.1%}: {len(digits.test_labels)} held-out digits, {n_neurons} neurons, "
        f"seed {arguments.seed}, learning by {backend}"
    )
    path = arguments.out / "digits.png"
    draw_digits(result, digits, path)
    console.print(f"picture: {path}", soft_wrap=True)
    if arguments.compare:
        _compare({backend: [result], PLAIN: [train(backend=PLAIN)]}, console)


def _rewarded(arguments: argparse.Namespace, backend: str, digits: Digits, console: Console) -> None:
    from tritonstdp.demo.picture import draw_reward

    tasks = reward.TASKS
    if arguments.neurons:
        tasks = tuple(task._replace(neurons=arguments.neurons) for task in tasks)
    learn = partial(reward.learn, digits, seed=arguments.seed, device=arguments.device)
    results = [learn(task, backend=backend) for task in tasks]
    table = Table("task", "trials", "at first", "at last", "held-out", title="right choices")
    for result in results:
        curve = result.training_accuracy
        row = f"{curve[0]:.0%}", f"{curve[-1]:.0%}", f"{result.accuracy:.1%}"
        table.add_row(result.task.name, str(len(result.rewards)), *row)
    console.print(table)
    mean = sum(result.accuracy for result in results) / len(results)
    console.print(
        f"mean test accuracy {mean:.1%}, chance {reward.CHANCE:.0%}, seed {arguments.seed}, learning by {backend}"
    )
    path = arguments.out / "reward.png"
    draw_reward(results, path)
    console.print(f"picture: {path}", soft_wrap=True)
    if arguments.compare:
        _compare({backend: results, PLAIN: [learn(task, backend=PLAIN) for task in tasks]}, console)


def _compare(runs: dict[str, Sequence[unsupervised.Result | reward.Result]], console: Console) -> None:
    """Set runs of the same networks side by side: their times, and whether they end in the same weights."""
    table = Table("learning by", "whole run (s)", "learning (s)", "a step (us)", "compiling (s)")
    for backend, results in runs.items():
        networks = [result.network for result in results]
        learning = sum(network.learning_seconds for network in networks)
        steps = sum(network.learning_steps for network in networks)
        compiling = sum(network.compile_seconds for network in networks)
        whole = sum(result.seconds for result in results)
        table.add_row(backend, *(f"{number:.1f}" for number in (whole, learning, 1e6 * learning / steps, compiling)))
    console.print(table)
    same = all(
        torch.equal(first.network.synapses.weights, other.network.synapses.weights)
        for first, *others in zip(*runs.values(), strict=True)
        for other in others
    )
    console.print(f"the same weights, bit for bit: {'yes' if same else 'no'}")
