"""The process in which Brian2 runs: ``python brian2_program.py FOLDER`` with what brian2_standalone has put there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import brian2 as b
import numpy as np

from tritonstdp.measurement import POOL, PROOF_STEPS

STEPS = 4 * POOL
RUNS = 3


def main(folder: Path) -> None:
    """Run the proof's steps, keep the weights, then take the time of each of some longer runs."""
    options = json.loads((folder / "options.json").read_text())
    inputs = np.load(folder / "inputs.npz")
    b.prefs.core.default_float_dtype = np.dtype(options["dtype"]).type
    b.set_device("cpp_standalone", directory=str(folder / "program"), build_on_run=False)
    b.defaultclock.dt = 1 * b.ms
    steps = PROOF_STEPS + STEPS
    namespace = options["namespace"]
    pre = _neurons("x", inputs["x"], inputs["s"], steps)
    post = _neurons("y", inputs["y"], inputs["q"], steps)
    synapses = b.Synapses(
        pre, post, "w : 1\nproof : 1", on_pre=options["on_pre"], on_post=options["on_post"], namespace=namespace,
        name="learning",
    )  # fmt: skip
    synapses.connect(i=inputs["pre"], j=inputs["post"])
    synapses.w = inputs["w"]
    network = b.Network(pre, post, synapses)
    network.run(PROOF_STEPS * b.ms)
    synapses.proof = "w"
    network.run(STEPS * b.ms, profile=True)
    b.device.build(directory=str(folder / "program"), compile=True, run=False, with_output=False)
    times = []
    for _ in range(RUNS):
        b.device.run(with_output=False)
        pathways = [
            spent for name, spent in network.profiling_info if name.startswith(("learning_pre", "learning_post"))
        ]
        if len(pathways) != 2:
            raise RuntimeError(f"the times of two pathways were expected: {network.profiling_info}")
        times.append(float(sum(pathways) / b.second) / STEPS)
    np.save(folder / "w.npy", np.asarray(synapses.proof[:]))
    (folder / "times.json").write_text(json.dumps(times))


def _neurons(trace: str, values: np.ndarray, patterns: np.ndarray, steps: int) -> b.NeuronGroup:
    """Neurons with a constant trace that spike by the patterns in turn."""
    table = b.TimedArray(patterns[np.arange(steps) % len(patterns)].astype(np.float32), dt=1 * b.ms)
    group = b.NeuronGroup(len(values), f"{trace} : 1\ns : 1", threshold="s > 0.5", reset="", namespace={"table": table})
    setattr(group, trace, values)
    group.run_regularly("s = table(t, i)", when="before_thresholds")
    return group


main(Path(sys.argv[1]))
