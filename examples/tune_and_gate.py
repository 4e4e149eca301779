"""Tune for this machine, and fail where a step has become slow, as in one's own CI: python tune_and_gate.py [PICTURE]

In a shell: `tritonstdp tune --rule stdp --topology dense --shape 2048x2048 --plot tuned.png`, and
`tritonstdp bench --shape 2048x2048 --out old.json`, later `--compare old.json`, which exits with 1 on a slow-down.
"""

import sys
import tempfile
from pathlib import Path

import torch

from tritonstdp import Dense, soft_bound
from tritonstdp.autotune.busy import BusyError
from tritonstdp.autotune.plot import draw, panel_of
from tritonstdp.autotune.sweep import tune
from tritonstdp.bench import own_providers
from tritonstdp.measurement import Workload, measure
from tritonstdp.rules import Formula, stdp

FLOOR = 20.0
"""How many times as fast as the torch formula a step must be: set it to a half of what is printed on your machine.

A ratio within one run is the same on a slow day."""


def tuned(picture: Path) -> str:
    """Tune dense STDP and draw what was found, unless other programs keep the machine busy."""
    formula = Formula.of(stdp, soft_bound, soft_bound)
    try:
        outcome = tune(formula, Dense(2048, 2048), rates=(0.005, 0.05), seconds=1.0, patience=20.0)
    except BusyError as busy:
        return f"not tuned: {busy}"
    draw([panel_of(outcome)], picture, "dense STDP on this machine")
    return f"tuned: {outcome.speedup:.2f}x the default by {outcome.best}"


def lead() -> float:
    """How many times as fast as the torch formula a step is, once both have given the same weights."""
    workload = Workload("stdp", "dense", "soft_bound", (2048, 2048), rate=0.02)
    rows = {row.provider: row for row in measure(workload, own_providers("cpu"), seconds=0.5)}
    wrong = [f"{row.provider}: {row.note}" for row in rows.values() if row.status != "ok"]
    if wrong:
        sys.exit("; ".join(wrong))
    ratio = rows["tritonstdp reference"].min_us / rows["tritonstdp"].min_us
    print(f"{ratio:.1f}x as fast as the torch formula, floor {FLOOR:g}x")
    return ratio


def main(picture: Path) -> int:
    torch.set_num_threads(1)
    print(tuned(picture))
    passes = any(lead() >= FLOOR for _ in range(3))  # noise fails once, a slower kernel each time
    print("ok" if passes else "too slow")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "tune_and_gate.png"))))
