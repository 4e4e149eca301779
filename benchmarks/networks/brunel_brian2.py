"""The process in which Brian2 runs Brunel's network: ``python -m benchmarks.networks.brunel_brian2 FOLDER``.

The model is that of nasiryahm/SNNSimulatorComparison's script for Brian2, but for two things that make it faster: a
projection has one delay rather than one a synapse, and numbers are float32 where the options say so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import brian2 as b
import numpy as np


def main(folder: Path) -> None:
    """Generate, compile and run the program; keep its spikes, its plastic weights and the time that it took."""
    options = json.loads((folder / "options.json").read_text())
    pairs = np.load(folder / "pairs.npz")
    p = options["parameters"]
    b.prefs.core.default_float_dtype = np.dtype(options["dtype"]).type
    b.set_device("cpp_standalone", directory=str(folder / "program"), build_on_run=False)
    b.seed(options["seed"])
    b.defaultclock.dt = p["dt"] * b.ms
    namespace = {
        "tau_m": p["tau_m"] * b.ms, "tau": p["tau_trace"] * b.ms, "threshold": p["threshold"], "rate": p["rate"],
        "alpha": p["alpha"], "w_max": p["w_max"],
    }  # fmt: skip
    neurons = b.NeuronGroup(
        p["n_excitatory"] + p["n_inhibitory"], "dv/dt = -v / tau_m : 1", threshold="v > threshold", reset="v = 0",
        refractory=p["refractory"] * b.ms, method="euler", namespace=namespace,
    )  # fmt: skip
    groups = {"e": neurons[: p["n_excitatory"]], "i": neurons[p["n_excitatory"] :]}
    drive = b.PoissonInput(neurons, "v", p["n_external"], p["external_rate"] * b.Hz, weight=p["excitatory_weight"])
    network = b.Network(neurons, drive)
    for name in ("ee", "ei", "ie", "ii"):
        pre, post = (groups[side] for side in name)
        weight = p["excitatory_weight" if name[0] == "e" else "inhibitory_weight"]
        plastic = name == "ee"
        synapses = b.Synapses(
            pre, post, _PLASTIC if plastic else "w : 1", on_pre=_ON_PRE if plastic else "v_post += w",
            on_post=_ON_POST if plastic else None, delay=p["delay"] * b.ms, method="euler", namespace=namespace,
            name=name,
        )  # fmt: skip
        synapses.connect(i=pairs[f"{name}_pre"], j=pairs[f"{name}_post"])
        synapses.w = weight
        network.add(synapses)
        if plastic:
            learning = synapses
    monitor = b.SpikeMonitor(neurons)
    network.add(monitor)
    b.device.insert_code("before_network_run", "const clock_t began = clock();")
    processor = folder / "processor.txt"
    written = f'std::ofstream("{processor}") << double(clock() - began) / CLOCKS_PER_SEC;'
    b.device.insert_code("after_network_run", written)
    network.run(options["seconds"] * b.second, profile=True)
    b.device.build(directory=str(folder / "program"), compile=True, run=False, with_output=False)
    b.device.run(with_output=False)
    profile = {name: float(spent / b.second) for name, spent in network.profiling_info}
    times = {"wall": b.device._last_run_time, "processor": float(processor.read_text()), "profile": profile}
    np.savez(folder / "found.npz", neuron=monitor.i[:], step=np.rint(monitor.t[:] / b.defaultclock.dt), w=learning.w[:])
    (folder / "times.json").write_text(json.dumps(times))


_PLASTIC = """w : 1
dx/dt = -x / tau : 1 (event-driven)
dy/dt = -y / tau : 1 (event-driven)"""
_ON_PRE = """v_post += w
x += 1
w -= rate * alpha * w * y"""
_ON_POST = """y += 1
w += rate * (w_max - w) * x"""

if __name__ == "__main__":
    main(Path(sys.argv[1]))
