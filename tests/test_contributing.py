"""The recipes of CONTRIBUTING.md, followed word for word in a process of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))

USES = {
    "my_bound.py": """
import torch, my_bound, tritonstdp as ts
w, spike, trace = torch.zeros(1), torch.tensor([True]), torch.ones(1)
ts.update_("stdp", w, pre_spike=~spike, pre_trace=trace, post_spike=spike, post_trace=trace, a_plus=1.0, a_minus=1.0,
           positive_bound="sqrt_bound", gain=0.5, w_max=4.0, backend="cpu")
assert w.item() == 1.0
""",
    "my_rule.py": """
import torch, my_rule, tritonstdp as ts
for topology, shape in ((ts.Dense(1, 1), (1, 1)), (ts.Local2d((1, 1, 1), (1, 1, 1), 1), (1, 1, 1))):
    w, spike, trace = torch.zeros(shape), torch.tensor([True]), torch.ones(1)
    ts.update_("my_rule", w, pre_spike=~spike, pre_trace=trace, post_spike=spike, post_trace=trace,
               post_rate=torch.full((1,), 0.5), a_plus=1.0, a_minus=1.0, topology=topology, backend="cpu")
    assert w.item() == 0.5
""",
    "ring/__init__.py": """
import torch, ring, tritonstdp as ts
w, pre, post = torch.zeros(3), torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)
ts.stdp_(w, pre, torch.ones(3), post, torch.tensor([1.0, 2.0, 3.0]), a_plus=1.0, a_minus=1.0, topology=ring.Ring(3))
assert w.tolist() == [0.0, -3.0, 0.0], w
current = ts.propagate_(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0]), pre, topology=ring.Ring(3))
assert current.tolist() == [0.0, 0.0, 2.0], current
choice = ts.explain("rstdp", "ring")
assert choice.backend == "reference" and choice.rejected["cpu"] == "cpu has no plasticity kernel for ring", choice
from tritonstdp.cli import main
assert main(["list"]) == 0
assert main(["verify", "--topology", "ring", "--quick", "--device", "cpu"]) == 0
assert main(["bench", "--topology", "ring", "--shape", "9"]) == 2, "no backend but the reference has it"
assert main(["tune", "--topology", "ring", "--shape", "9"]) == 1
""",
    "my_backend.py": """
import torch, my_backend, tritonstdp as ts
assert ts.explain("stdp", "sparse", dtype=torch.float16).backend == "half"
assert ts.explain("stdp", "sparse").backend == "cpu"
w, spike, trace = torch.zeros(1).half(), torch.tensor([True]), torch.ones(1).half()
ts.stdp_(w, ~spike, trace, spike, trace, a_plus=0.5, a_minus=1.0, backend="half")
assert w.item() == 0.5
""",
    "my_provider.py": "import my_provider; assert {row.status for row in my_provider.rows} == {'ok'}, my_provider.rows",
}


def follow(folder: Path, *command: str) -> str:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join((".", environment.get("PYTHONPATH", "")))
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_recipe_is_followed():
    assert {name for name in FILES if name != "ring/reference.py"} == set(USES)


@pytest.mark.parametrize("name", USES)
def test_a_recipe_does_what_it_says(name, tmp_path):
    follow(tmp_path, "-c", USES[name])


@pytest.mark.parametrize("command", re.findall(r"`tritonstdp (\w+ --module [^`]*)`", TEXT))
def test_a_recipe_s_command_runs(command, tmp_path):
    follow(
        tmp_path, "-c", "import sys; from tritonstdp.cli import main; sys.exit(main(sys.argv[1:]))", *command.split()
    )


def test_the_published_pages_are_built_as_it_says():
    command = re.search(r"<!-- pages -->\n```sh\n(.*?)\n```", TEXT, re.DOTALL).group(1)
    assert command in (Path(__file__).parents[1] / ".github" / "workflows" / "pages.yml").read_text()


def test_its_set_up_is_the_readme_s():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    commands = re.search(r"<!-- tests -->\n(```sh\n.*?```)", readme, re.DOTALL).group(1)
    assert commands in TEXT
