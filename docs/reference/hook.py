"""Fills the pages of the reference: every public name, every command.

A module that no page shows, and a name without a docstring, stop the build.
"""

import contextlib
import inspect
import io
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import griffe
from mkdocs.exceptions import PluginError

_ROOT = pathlib.Path(__file__).parents[2]
_NAMES, _COMMANDS = "<!-- public names -->", "<!-- commands -->"
_SHOWN = re.compile(r"^::: ([\w.]+)$", re.M)


def on_pre_build(**_: Any) -> None:
    """Checks that the pages show every module and that every name in them is documented."""
    package = griffe.load("ppuda_jax", search_paths=[_ROOT], try_relative_path=False)
    pages = pathlib.Path(__file__).parent.glob("*.md")
    shown = {name for page in pages for name in _SHOWN.findall(page.read_text())}
    missing = sorted({module.path for module in _modules(package)} - shown)
    if missing:
        raise PluginError(f"modules that no page of docs/reference shows: {', '.join(missing)}")
    bare = [name for module in _modules(package) for name in _undocumented(module)]
    if bare:
        raise PluginError(f"public names without a docstring: {', '.join(bare)}")


def _modules(package: griffe.Module) -> Iterator[griffe.Module]:
    """The modules of a package that hold anything but other modules and their names."""
    for module in package.modules.values():
        if any(_own(member) for member in module.members.values()):
            yield module
        yield from _modules(module)


def _own(member: griffe.Object) -> bool:
    """Whether a member is public, and neither imported nor a module."""
    return not (member.name.startswith("_") or member.is_alias or member.is_module)


def _undocumented(parent: griffe.Object) -> Iterator[str]:
    """Public names of a module, and the methods of its classes, that say nothing."""
    for member in filter(_own, parent.members.values()):
        if member.is_attribute and (parent.is_class or _is_type_variable(member)):
            continue  # fields are described by their class
        if not member.has_docstring:
            yield member.path
        if member.is_class:
            yield from _undocumented(member)


def _is_type_variable(attribute: griffe.Attribute) -> bool:
    return str(attribute.value).startswith("TypeVar(")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marks of a page."""
    if _NAMES in markdown:
        markdown = markdown.replace(_NAMES, _public_names())
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, _commands())
    return markdown


def _public_names() -> str:
    import ppuda_jax as pj

    names = sorted(pj.__all__, key=lambda name: inspect.isclass(getattr(pj, name)))
    places = [f"{getattr(pj, name).__module__}.{name}" for name in names]
    short = "    options: {show_root_full_path: false}"  # they are all imported as pj.NAME
    return "\n\n".join(f"::: {place}\n{short}" for place in places)


def _commands() -> str:
    import importlib

    sys.path.append(str(_ROOT))
    from experiments.__main__ import commands

    parts = []
    for name in commands():
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            importlib.import_module(f"experiments.{name}").main(["--help"])
        parts.append(f"## {name}\n\n```text\n{text.getvalue().strip()}\n```")
    return "\n\n".join(parts)
