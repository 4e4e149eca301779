"""What the documentation shows, run: every docstring's example, and the README's Python."""

import importlib
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


def test_commands_and_options_that_are_named_exist():
    from tritonstdp.arguments import Parser
    from tritonstdp.cli import COMMANDS

    options = {}
    for command in COMMANDS:
        parser = Parser(command)
        importlib.import_module(f"tritonstdp.commands.{command}").add_arguments(parser)
        options[command] = {*parser._option_string_actions, "--module"}
    texts = [path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md"))]
    code = "\n".join(re.findall(r"```.*?```|`[^`]+`", "\n".join(texts), re.DOTALL))
    named = re.findall(r"(?:^|`|&& |\$ |=1 )tritonstdp ([a-z]+)([^`\n]*)", code, re.MULTILINE)
    assert {command for command, _ in named} == set(COMMANDS)
    for command, arguments in named:
        assert set(re.findall(r"--[a-z-]+", arguments)) <= options[command], (command, arguments)


def test_the_readme_s_links_are_found_from_anywhere():
    links = re.findall(r"\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert all(link.startswith("https://") for link in links)


def test_links_to_the_project_s_own_files_lead_to_some():
    texts = [path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))]
    places = re.findall(r"/tritonstdp/tritonstdp/(?:blob/)?main/([^)#]*)", "\n".join(texts))
    assert len(places) > 10
    for place in places:
        assert (ROOT / place).exists(), place
