"""How the house hangs together: imports run one way, commands stand on top, no tool knows a topology by its name."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tritonstdp.kernels
from tritonstdp.topology import TOPOLOGIES

FOLDERS = {"tritonstdp.": tritonstdp.__path__[:1], "tritonstdp.kernels.": tritonstdp.kernels.__path__}
MODULES = {"tritonstdp", *(m.name for prefix, path in FOLDERS.items() for m in pkgutil.walk_packages(path, prefix))}
SOURCES = {name: Path(importlib.util.find_spec(name).origin).read_text() for name in MODULES}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}

BELOW_KERNELS = {f"tritonstdp.{name}" for name in ("rules", "source", "storage", "vocabulary")}
"""What kernels may import beside each other."""

KNOW_TOPOLOGIES = ("kernels", "topology", "behaviors", "demo", "functional")
"""Where topologies are made, and where weights and a network's own words tell them apart; all others are tools."""

SHARED_OPTIONS = {"tritonstdp.cli", "tritonstdp.arguments"}
"""What of the options is not a command's own."""

TOOLS = sorted(name for name in MODULES - {"tritonstdp"} if name.split(".")[1] not in KNOW_TOPOLOGIES)


def imports(name: str) -> Iterator[tuple[str, str]]:
    """The modules of the package that a module imports, within functions too, and what it takes from each."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, "") if inner in MODULES else (node.module, alias.name)


def test_imports_go_in_no_circle():
    graph = {name: {module for module, _ in imports(name)} for name in MODULES}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("tritonstdp.kernels")))
def test_kernels_import_nothing_that_is_above_them(name):
    above = {module for module, _ in imports(name) if not module.startswith("tritonstdp.kernels")}
    assert above <= BELOW_KERNELS


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_asks_a_topology_and_does_not_test_its_name(name):
    classes = {kind.__name__ for kind in TOPOLOGIES.values()}
    assert not classes & {taken for _, taken in imports(name)}
    texts = {node.value for node in ast.walk(TREES[name]) if isinstance(node, ast.Constant)}
    assert not {text for text in texts if isinstance(text, str)} & set(TOPOLOGIES)


def test_only_commands_have_options():
    parsing = {name for name, text in SOURCES.items() if re.search(r"^\s*(import|from) argparse\b", text, re.MULTILINE)}
    assert {name for name in parsing if not name.startswith("tritonstdp.commands.")} <= SHARED_OPTIONS


def test_no_module_but_the_command_line_imports_a_command():
    users = {name for name in MODULES if any(module.startswith("tritonstdp.commands") for module, _ in imports(name))}
    assert not users
