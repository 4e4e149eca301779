"""The learning windows of four rules, as the engine computes them: python stdp_window.py [PICTURE]"""

import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from tritonstdp.plot import learning_window, window


def main(picture: Path) -> None:
    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.subplots(2, 2).flatten()

    taus = {"tau_pre": 16.8, "tau_post": 33.7}
    pair = {"a_plus": 0.01, "a_minus": 0.006}
    learning_window("stdp", axes=axes[0], **taus, **pair)
    learning_window(
        "triplet", axes=axes[1], **taus, tau_slow={"pre_slow": 101.0, "post_slow": 125.0},
        a2_plus=5e-3, a3_plus=6.2e-3, a2_minus=7e-3, a3_minus=2.3e-4,
    )  # fmt: skip
    learning_window("istdp", axes=axes[2], tau_pre=20.0, tau_post=20.0, lr=0.01, alpha=0.2, sign=-1.0)
    learning_window("rstdp", axes=axes[3], **taus, **pair, tau_c=200.0)
    figure.savefig(picture)

    intervals, changes = window("stdp", reach=10.0, **taus, **pair)
    at = (intervals == 10.0).nonzero().item()
    print(f"post 10 ms after pre: {changes[at]:+.5f}, 10 ms before: {changes[0]:+.5f}")


if __name__ == "__main__":
    main(Path(*sys.argv[1:] or (tempfile.gettempdir(), "stdp_window.png")))
