"""(h): Diehl & Cook's network learns images and names others, by tritonstdp and by BindsNET.

Both programs start from the same weights and, in turns of some images, see the same images as the same spikes, drawn
from the same seeds. Each image's time counts drawing its spikes.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.networks import idx
from benchmarks.networks.benchmark import OURS, Benchmark, Result, Stopwatch
from benchmarks.networks.diehl_cook import STEPS, DiehlCook, encode, first_weights
from benchmarks.networks.readout import accuracy
from tritonstdp.arguments import whole

NAME = "h"
LEARNING, NAMING = "learning", "naming"
HOW_TO_INSTALL = (
    "pip install opencv-python-headless gymnasium ale-py pandas tensorboardX tqdm, and pip install --no-deps bindsnet, "
    "which asks for another torch than it needs"
)
TURN = 10
SEED = 0
WORK = {10: "propagation and inhibition", 20: "pixels", 30: "neurons", 50: "traces and plasticity"}
"""What behaviors do, by the tens of their keys."""


class Program(Protocol):
    """Diehl & Cook's network, in one of the programs; ``weights`` are ``(n_pixels, n_neurons)``."""

    weights: Tensor

    def present(self, spikes: Tensor, learn: bool) -> Tensor:
        """Show an image; see :meth:`benchmarks.networks.diehl_cook.DiehlCook.present`."""


@dataclass
class Contender:
    """A program with the responses that it gave, and the seconds that they took by the clock and of the processor."""

    name: str
    program: Program
    responses: dict[str, list[Tensor]] = field(default_factory=lambda: {LEARNING: [], NAMING: []})
    walls: dict[str, float] = field(default_factory=lambda: {LEARNING: 0.0, NAMING: 0.0})
    processor: dict[str, float] = field(default_factory=lambda: {LEARNING: 0.0, NAMING: 0.0})

    def see(self, phase: str, images: Tensor) -> None:
        """Present the images that come next in a phase."""
        responses = self.responses[phase]
        wall, processor = time.perf_counter(), time.process_time()
        for image in images:
            torch.manual_seed(SEED + len(responses))
            responses.append(self.program.present(encode(image), learn=phase == LEARNING))
        self.walls[phase] += time.perf_counter() - wall
        self.processor[phase] += time.process_time() - processor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take what the benchmark needs."""
    group = parser.add_argument_group(f"arguments for {NAME}")
    group.add_argument("--data", type=Path, metavar="FOLDER", help="with the four IDX files of MNIST, or of its kind")
    group.add_argument("--neurons", type=int, choices=(400, 1600), default=400, help="that learn (default: 400)")
    group.add_argument("--train", type=whole(2), default=1000, help="images to learn (default: 1000)")
    group.add_argument("--test", type=whole(1), default=1000, help="images to name (default: 1000)")


def benchmark(arguments: argparse.Namespace) -> Benchmark:
    """The benchmark on the images that are asked for.

    Raises
    ------
    ValueError
        If they can't be had, or BindsNET is not installed.
    """
    if arguments.data is None:
        raise ValueError(f"{NAME} needs --data FOLDER, with the four IDX files of MNIST or of a data set of its kind")
    images = idx.load(arguments.data)
    for option, labels in (("train", images.train_labels), ("test", images.test_labels)):
        if getattr(arguments, option) > len(labels):
            raise ValueError(f"--{option} is {getattr(arguments, option)}: {arguments.data} has {len(labels)}")
    if importlib.util.find_spec("bindsnet") is None:
        raise ValueError(f"{NAME} compares with BindsNET, which is not installed: {HOW_TO_INSTALL}")
    n_train, n_test = arguments.train, arguments.test
    chosen = idx.Images(*(part[:n_train] for part in images[:2]), *(part[:n_test] for part in images[2:]))
    description = f"Diehl & Cook 2015, {arguments.neurons} neurons, images of {arguments.data}"
    return Benchmark(NAME, description, lambda seconds: run(chosen, arguments.neurons))


def run(images: idx.Images, n_neurons: int) -> list[Result]:
    """Let both programs learn and name the images, in turns.

    Raises
    ------
    RuntimeError
        If they do not learn the same from the first image.
    """
    from benchmarks.networks.diehl_cook_bindsnet import BindsNETDiehlCook

    weights = first_weights(images.train_images.shape[1], n_neurons, torch.Generator().manual_seed(SEED))
    programs = {"BindsNET": BindsNETDiehlCook, OURS: DiehlCook}
    with torch.inference_mode(), Progress() as progress:
        check_agreement([Contender(name, program(weights.clone())) for name, program in programs.items()], images)
        contenders = [Contender(name, program(weights.clone())) for name, program in programs.items()]
        for phase, shown in ((LEARNING, images.train_images), (NAMING, images.test_images)):
            task = progress.add_task(phase, total=len(shown))
            for turn in shown.split(TURN):
                for contender in contenders:
                    contender.see(phase, turn)
                progress.advance(task, len(turn))
        theirs, ours = contenders
        shares = {phase: shares_of(ours.program, images, phase) for phase in (LEARNING, NAMING)}
    results = []
    for phase in (LEARNING, NAMING):
        alike = [torch.equal(a, b) for a, b in zip(theirs.responses[phase], ours.responses[phase], strict=True)]
        results.append(result(phase, theirs, images, {}, {}))
        results.append(result(phase, ours, images, {"responses as BindsNET's": sum(alike) / len(alike)}, shares[phase]))
    return results


def check_agreement(contenders: list[Contender], images: idx.Images) -> None:
    """Hold two programs' responses to the first image and the weights that it leaves against each other.

    Raises
    ------
    RuntimeError
        If they differ by more than rounding does.
    """
    for contender in contenders:
        contender.see(LEARNING, images.train_images[:1])
    (a, b), (v, w) = zip(*((c.responses[LEARNING][0], c.program.weights) for c in contenders), strict=True)
    if not torch.equal(a, b) or not torch.allclose(v, w, rtol=0, atol=1e-5):
        raise RuntimeError(
            f"{NAME}: the networks differ after one image: {int((a - b).abs().sum())} spikes, and weights by "
            f"{(v - w).abs().max():.2g}"
        )


def shares_of(network: DiehlCook, images: idx.Images, phase: str) -> dict[str, float]:
    """The part of a step that each kind of work takes, over a turn of images, which the network may learn once more."""
    stopwatch = Stopwatch(network, WORK)
    for image in images.train_images[:TURN]:
        network.begin(encode(image), learn=phase == LEARNING)
        stopwatch.advance(STEPS)
    return stopwatch.shares


def result(
    phase: str, contender: Contender, images: idx.Images, activity: dict[str, float], shares: dict[str, float]
) -> Result:
    """What a program has shown in a phase.

    Neurons are assigned to classes by their responses to the second half of the training images.
    """
    learnt, named = (torch.stack(contender.responses[p]) for p in (LEARNING, NAMING))
    n, seconds, half = len(contender.responses[phase]), contender.processor[phase], len(learnt) // 2
    if phase == LEARNING:
        found = {"spikes an image": learnt.sum().item() / n}
    else:
        found = accuracy(learnt[half:], images.train_labels[half:], named, images.test_labels)._asdict()
    return Result(
        NAME, f"{phase} {n} images", contender.name, n * STEPS / 1000, contender.walls[phase], n * STEPS,
        {"images/s": n / seconds} | found | activity, shares, seconds,
    )  # fmt: skip
