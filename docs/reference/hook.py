"""Fills the pages of the reference: every public name, every command.

A name without a docstring stops the build.
"""

import contextlib
import inspect
import io
import pathlib
import sys
from typing import Any

from mkdocs.exceptions import PluginError

_ROOT = pathlib.Path(__file__).parents[2]
_NAMES, _COMMANDS = "<!-- public names -->", "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the marks of a page."""
    if _NAMES in markdown:
        markdown = markdown.replace(_NAMES, _public_names())
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, _commands())
    return markdown


def _public_names() -> str:
    import ppuda_jax as pj

    bare = [name for name in pj.__all__ if not inspect.getdoc(getattr(pj, name))]
    if bare:
        raise PluginError(f"public names without a docstring: {', '.join(bare)}")
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
