"""The options of ``tritonstdp demo``, and what it prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from tritonstdp.demo import reward, unsupervised
from tritonstdp.demo.digits import N_DIGITS, Digits, load
from tritonstdp.functional import explain
from tritonstdp.registry import BACKENDS

__all__ = ["add_arguments", "run"]

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
FEWEST_SAMPLES = 50
PLAIN = "reference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--reward", action="store_true", help="learn two-choice tasks by rstdp, from reward alone")
    parser.add_argument(
        "--backend",
        choices=[backend.name for backend in BACKENDS],
        help="what computes plasticity (default: the fastest)",
    )
    parser.add_argument("--device", type=_device, default="cpu", help="where the network lives (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, spikes and order (default: 0)")
    parser.add_argument(
        "--neurons",
        type=_positive,
        help=f"competing neurons (default: {unsupervised.N_NEURONS}); with --reward, neurons for each action",
    )
    parser.add_argument(
        "--samples", type=_samples, default=N_DIGITS, help=f"digits to use in all (default: all {N_DIGITS})"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the picture (default: ./out)")
    parser.add_argument(
        "--compare", action="store_true", help="run the plain torch formulas as well: print both times, compare weights"
    )


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(f"{text} can't be used: {str(error).splitlines()[0]}") from None
    return text


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _samples(text: str) -> int:
    number = int(text)
    if not FEWEST_SAMPLES <= number <= N_DIGITS:
        raise argparse.ArgumentTypeError(f"there are {N_DIGITS} digits: use from {FEWEST_SAMPLES} to all of them")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run a demo; print how it did and where its picture is."""
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        print(f"the demo needs {' and '.join(missing)}: pip install 'tritonstdp[demo]'", file=sys.stderr)
        return 1
    backend = (
        arguments.backend
        or explain("rstdp" if arguments.reward else "stdp", "dense", device=arguments.device, clamp=True).backend
    )
    demo = _rewarded if arguments.reward else _unsupervised
    threads = torch.get_num_threads()
    # tensors this small are done before a second thread has started
    torch.set_num_threads(1)
    try:
        demo(arguments, backend, load(arguments.samples), Console())
    finally:
        torch.set_num_threads(threads)
    return 0


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
