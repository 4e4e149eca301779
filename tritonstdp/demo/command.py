"""The options of ``tritonstdp demo``, and what it prints."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from tritonstdp.demo import reward, unsupervised
from tritonstdp.demo.digits import N_DIGITS, Digits, load
from tritonstdp.demo.network import DigitNetwork
from tritonstdp.registry import BACKENDS

__all__ = ["add_arguments", "run"]

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}
FEWEST_SAMPLES = 50


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
    demo = _rewarded if arguments.reward else _unsupervised
    threads = torch.get_num_threads()
    # tensors this small are done before a second thread has started
    torch.set_num_threads(1)
    try:
        demo(arguments, load(arguments.samples), Console())
    finally:
        torch.set_num_threads(threads)
    return 0


def _unsupervised(arguments: argparse.Namespace, digits: Digits, console: Console) -> None:
    from tritonstdp.demo.picture import draw_digits

    train = partial(
        unsupervised.train,
        digits,
        arguments.neurons or unsupervised.N_NEURONS,
        seed=arguments.seed,
        device=arguments.device,
    )
    result = train(backend=arguments.backend)
    console.print(
        f"test accuracy {result.accuracy:.1%}: {len(digits.test_labels)} held-out digits, "
        f"{len(result.profiles)} neurons, seed {arguments.seed}"
    )
    path = arguments.out / "digits.png"
    draw_digits(result, digits, path)
    console.print(f"picture: {path}", soft_wrap=True)
    if arguments.compare:
        _compare([result], [train(backend="reference")], arguments.backend, console)


def _rewarded(arguments: argparse.Namespace, digits: Digits, console: Console) -> None:
    from tritonstdp.demo.picture import draw_reward

    def learn_all(backend: str | None) -> list[reward.Result]:
        return [
            reward.learn(
                digits,
                task if arguments.neurons is None else task._replace(neurons=arguments.neurons),
                seed=arguments.seed,
                device=arguments.device,
                backend=backend,
            )
            for task in reward.TASKS
        ]

    results = learn_all(arguments.backend)
    console.print(_table_of_tasks(results))
    mean = sum(result.accuracy for result in results) / len(results)
    console.print(f"mean test accuracy {mean:.1%}, chance {reward.CHANCE:.0%}, seed {arguments.seed}")
    path = arguments.out / "reward.png"
    draw_reward(results, path)
    console.print(f"picture: {path}", soft_wrap=True)
    if arguments.compare:
        _compare(results, learn_all("reference"), arguments.backend, console)


def _table_of_tasks(results: list[reward.Result]) -> Table:
    table = Table("task", "trials", "first 100", "last 100", "held-out")
    for result in results:
        curve = result.training_accuracy
        row = f"{curve[0]:.0%}", f"{curve[-1]:.0%}", f"{result.accuracy:.1%}"
        table.add_row(result.task.name, str(len(result.rewards)), *row)
    table.title = "right choices"
    return table


def _compare(ours: list[Any], plain: list[Any], backend: str | None, console: Console) -> None:
    """Set two runs of the same networks side by side: their times, and whether they end in the same weights."""
    table = Table("plasticity", "whole run (s)", "learning (s)", "a step (us)", "compiling (s)")
    for name, results in ((backend or "fastest", ours), ("torch formulas", plain)):
        networks: list[DigitNetwork] = [result.network for result in results]
        learning = sum(network.learning_seconds for network in networks)
        steps = sum(network.learning_steps for network in networks)
        compiling = sum(network.compile_seconds for network in networks)
        whole = sum(result.seconds for result in results)
        table.add_row(name, *(f"{number:.1f}" for number in (whole, learning, 1e6 * learning / steps, compiling)))
    console.print(table)
    same = all(
        torch.equal(one.network.synapses.weights, other.network.synapses.weights)
        for one, other in zip(ours, plain, strict=True)
    )
    console.print(f"the same weights, bit for bit: {'yes' if same else 'no'}")
