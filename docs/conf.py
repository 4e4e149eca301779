"""How the pages are built: ``sphinx-build -W --keep-going docs out/pages``."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

import tritonstdp
from tritonstdp.cli import COMMANDS, main

logger = logging.getLogger(__name__)
os.environ |= {"COLUMNS": "90", "NO_COLOR": "1"}  # of the commands' help

project = "tritonstdp"
version = release = tritonstdp.__version__
author = project_copyright = "the tritonstdp developers"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser"]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"tritonstdp {version}"
html_theme_options = {
    "source_repository": "https://github.com/tritonstdp/tritonstdp/",
    "source_branch": "main",
    "source_directory": "docs/",
}

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(torch|collections)\..*")]  # whose inventories are on the net, and a build is not
myst_heading_anchors = 3
autodoc_typehints = "none"  # docstrings say types, shapes and units
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"

INSIDE = re.compile(
    r"tritonstdp\.(__main__|_\w+|arguments|behaviors\.synapse|binding|checkpoint_files|cli|commands|demo"
    r"|distributed\.groups|interpretation|kernels|modules|operators|places|recut|source|state|terminal)\b"
)
"""Modules that serve the package's own; what every other one has in its ``__all__`` is public."""


def public_modules() -> Iterator[str]:
    """The package, then its modules, a package before what is in it, and the protocol that backends keep."""
    yield "tritonstdp"
    walked = pkgutil.walk_packages(tritonstdp.__path__[:1], "tritonstdp.")
    yield from sorted((m.name for m in walked if not INSIDE.match(m.name)), key=lambda name: name.count("."))
    yield "tritonstdp.kernels.protocol"


def directive_for(member: Any) -> str:
    """What documents a member."""
    if isinstance(member, type):
        return "autoexception" if issubclass(member, BaseException) else "autoclass"
    return "autofunction" if isinstance(inspect.unwrap(member), FunctionType) else "autodata"


def homes() -> dict[str, dict[str, str]]:
    """What documents each public name, by the first module that has it."""
    seen: set[tuple[str, int]] = set()
    found: dict[str, dict[str, str]] = {}
    for module in map(importlib.import_module, public_modules()):
        public = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        own = {
            name: member
            for name, member in public.items()
            if (name, id(member)) not in seen and not isinstance(member, ModuleType)
        }
        if own:
            found[module.__name__] = {name: directive_for(member) for name, member in own.items()}
        seen.update((name, id(member)) for name, member in own.items())
    return found


HOMES = homes()
HOME_OF = {(name, id(getattr(sys.modules[module], name))): module for module, names in HOMES.items() for name in names}


def told_by(module: str) -> str:
    """The module on whose page all names of a module are."""
    names = getattr(sys.modules[module], "__all__", ())
    pages = {HOME_OF.get((name, id(getattr(sys.modules[module], name)))) for name in names}
    return str(pages.pop()) if len(pages) == 1 else module


TOLD_BY = {module: told_by(module) for module in public_modules()}
autosummary_context = {
    "homes": HOMES,
    "told": {page: [module for module, on in TOLD_BY.items() if on == page != module] for page in HOMES},
}


def home_of(path: str) -> str | None:
    """Where the documentation of what a dotted path leads to stands, whichever module it is taken from."""
    for depth in range(path.count("."), 0, -1):
        *parents, name = path.split(".")[: depth + 1]
        member = getattr(sys.modules.get(".".join(parents)), name, None)
        home = HOME_OF.get((name, id(member)))
        if home is not None:
            return ".".join([home, *path.split(".")[depth:]])
    return None


def write_commands(app: Sphinx) -> None:
    """A page of what each command's own parser says."""
    page = ["# Command line\n", "What `tritonstdp COMMAND --help` prints.\n"]
    for command in COMMANDS:
        said = StringIO()
        with redirect_stdout(said), suppress(SystemExit):
            main([command, "--help"])
        page += [f"## tritonstdp {command}\n", f"```text\n{said.getvalue().strip()}\n```\n"]
    target = Path(app.srcdir) / "reference" / "generated" / "commands.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(page))


def explain_data(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Say of a value what stands below it where it is defined, and not what its type is."""
    if what != "data":
        return
    own = name.rpartition(".")[2]
    for module in sorted(module for module in sys.modules if module.startswith("tritonstdp.")):
        if getattr(sys.modules[module], own, None) is not obj:
            continue
        said = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", own))
        if said:
            lines[:] = said
            return
    logger.warning("%s has no docstring: say below it what it is", name)


def find_home(app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Node) -> nodes.Node | None:
    """Resolve a reference to a public name by another module than its home."""
    target = node["reftarget"]
    for path in (target, f"{node.get('py:module')}.{target}"):
        home = home_of(path)
        if home is not None:
            domain = env.domains.python_domain
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, contnode)
    return None


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Complain of public names that are on no page."""
    for module, names in HOMES.items():
        missing = [name for name in names if f"{module}.{name}" not in env.domains.python_domain.objects]
        if missing:
            logger.warning("%s is on no page (%s): list it in a page of docs/reference", module, ", ".join(missing))


class LinkNames(SphinxTransform):
    """Code in a text that is a public name, as ``ts.stdp_`` or a behavior's, leads to its documentation."""

    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            path = re.sub(r"^ts\.", "tritonstdp.", literal.astext().partition("(")[0])
            path = f"tritonstdp.behaviors.{path}" if path in tritonstdp.behaviors.__all__ else path
            # short for the package, a name is one that there is, or the build complains
            home = path if literal.astext().startswith("ts.") or path in HOMES else home_of(path)
            if home is None or isinstance(literal.parent, (pending_xref, nodes.reference)):
                continue
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=home, refdoc=self.env.docname)
            literal.replace_self(link)
            link += literal


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_commands, priority=100)
    app.connect("autodoc-process-docstring", explain_data, priority=100)
    app.connect("missing-reference", find_home)
    app.connect("env-check-consistency", check_names)
    app.add_transform(LinkNames)
