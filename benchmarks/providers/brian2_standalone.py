"""Brian2's C++ standalone: a program of its own, generated and compiled for the workload, that keeps time itself.

The pre pathway gives a synapse both contributions, and the post pathway those of silent pre neurons, so that the result
is the workload's where both neurons have spiked. What is counted is the two pathways' code, without the queues that
hand them their spikes, which a simulation pays for with or without plasticity.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.providers import pair_traces
from tritonstdp.measurement import PARAMETERS, W_MAX, W_MIN, Inputs, NotAvailableError, Runner

MOST_SYNAPSES = 2_000_000

_BOUNDS = {
    "soft_bound": "((w - w_min) * (w_max - w))",
    "hard_bound": "(int(w > w_min) * int(w < w_max))",
    "no_bound": "1",
}
_CODE = {
    "stdp": (
        "w += (x_pre * s_post * a_plus - y_post * a_minus) * BOUND",
        "w += (1 - s_pre) * x_pre * a_plus * BOUND",
    ),
    "istdp": (
        "w += lr * ((alpha - y_post) * direction + x_pre * s_post) * BOUND",
        "w += lr * (1 - s_pre) * x_pre * BOUND",
    ),
}


def prepare(inputs: Inputs) -> Runner:
    """Generate, compile and run the program; it is proved by the weights that it has written."""
    if importlib.util.find_spec("brian2") is None:
        raise NotAvailableError("brian2 is not installed")
    workload = inputs.workload
    if workload.rule not in _CODE or workload.topology not in ("dense", "one_to_one", "sparse"):
        raise NotAvailableError("compared with Brian2 for rules without eligibility, on pairs of neurons")
    if inputs.values.numel() > MOST_SYNAPSES:
        raise NotAvailableError("Brian2's program would take minutes to set up so many synapses")
    pre, post = _ends(inputs)
    order = np.lexsort((post, pre))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        np.savez(
            path / "inputs.npz", pre=pre[order], post=post[order], w=inputs.values.reshape(-1).numpy()[order],
            x=pair_traces(inputs)[0].numpy(), y=pair_traces(inputs)[1].numpy(),
            s=np.stack([s.numpy() for s, _ in inputs.spikes]), q=np.stack([q.numpy() for _, q in inputs.spikes]),
        )  # fmt: skip
        on_pre, on_post = (code.replace("BOUND", _BOUNDS[workload.bound]) for code in _CODE[workload.rule])
        # "sign" is a function of Brian2's
        parameters = {{"sign": "direction"}.get(k, k): v for k, v in PARAMETERS[workload.rule].items()}
        limits = {"w_min": W_MIN, "w_max": W_MAX}
        options = {"on_pre": on_pre, "on_post": on_post, "namespace": parameters | limits}
        options["dtype"] = workload.dtype
        (path / "options.json").write_text(json.dumps(options))
        program = Path(__file__).with_name("brian2_program.py")
        done = subprocess.run([sys.executable, program, folder], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise NotAvailableError(f"Brian2 fails: {said[-1]}")
        found = np.load(path / "w.npy")
        times = json.loads((path / "times.json").read_text())
    weights = torch.empty(len(found), dtype=inputs.values.dtype)
    weights[torch.from_numpy(order)] = torch.from_numpy(found).to(weights.dtype)
    return Runner(lambda k: None, lambda: weights, times=lambda: times)


def _ends(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The pre and the post neuron of each synapse, in the order of the inputs' values."""
    n_pre, n_post = inputs.topology.pre_shape[0], inputs.topology.post_shape[0]
    if inputs.workload.topology == "one_to_one":
        return np.arange(n_pre), np.arange(n_pre)
    if inputs.workload.topology == "dense":
        return np.repeat(np.arange(n_pre), n_post), np.tile(np.arange(n_post), n_pre)
    pre, post = inputs.topology.ends()
    return pre.numpy(), post.numpy()
