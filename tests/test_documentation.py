"""What the documentation shows, run: every docstring's example, and the README's Python."""

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tritonstdp.kernels

ROOT = Path(__file__).parents[1]

# the package's own folder and that of its kernels; a checkout has more beside them
FOLDERS = {"tritonstdp.": tritonstdp.__path__[:1], "tritonstdp.kernels.": tritonstdp.kernels.__path__}
MODULES = sorted({module.name for prefix, path in FOLDERS.items() for module in pkgutil.walk_packages(path, prefix)})

DOCTESTS = """
import doctest, importlib, sys
failed = tried = 0
for name in sys.argv[1:]:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    failed, tried = failed + result.failed, tried + result.attempted
print(tried)
sys.exit(failed != 0)
"""


def run(script, *arguments):
    # the examples are those of a plain process: no interpreter stands in for a GPU
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT / "tests"
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def test_every_example_in_a_docstring_runs_and_gives_what_it_says():
    assert int(run(DOCTESTS, "tritonstdp", *MODULES).split()[-1]) > 130


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
def test_the_readme_s_python_runs(block):
    run(block)


def test_the_readme_names_commands_that_exist():
    from tritonstdp.cli import COMMANDS

    named = set(re.findall(r"(?:`|&& )tritonstdp ([a-z]+)", (ROOT / "README.md").read_text()))
    assert named <= set(COMMANDS)
    assert {"demo", "list", "explain"} <= named


def test_the_readme_s_network_tells_the_inputs_apart():
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    in_volleys, at_random = map(float, re.findall(r"\d\.\d+", run(block)))
    assert in_volleys > at_random + 0.1


def test_the_readme_s_links_are_found_from_anywhere():
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert all(link.startswith("https://") for link in links)
    own = [link.partition("/tritonstdp/tritonstdp/")[2] for link in links if "/tritonstdp/tritonstdp/" in link]
    assert len(own) > 3
    for place in own:
        assert (ROOT / place.partition("main/")[2]).exists(), place
