"""All commands by name: `ppuda-jax COMMAND --flag=value`, as `python -m experiments.COMMAND`."""

import ast
import difflib
import importlib
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence

from . import flags

_FOR_DEVELOPERS = ("bench_", "check_")
_FOLDER = pathlib.Path(__file__).parent
_USAGE = 2


def commands() -> Mapping[str, str]:
    """The commands by name, each with the first line of its description; nothing is imported."""
    found = {}
    for path in sorted(_FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if path.stem.startswith(("_", *_FOR_DEVELOPERS)) or "main" not in defined:
            continue
        first = (ast.get_docstring(tree) or "").partition("\n")[0]
        found[path.stem] = re.split(r":? `python -m", first)[0]
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names.

    Raises:
      SystemExit: 2 without a command that exists; else what the command raises.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    known = commands()
    if name in ("--help", "-h"):
        width = max(map(len, known))
        lines = [f"  {command.ljust(width)}  {text}" for command, text in known.items()]
        text = "\n".join([__doc__.strip(), "", *lines, "", "COMMAND --help lists its flags."])
        flags.show(flags.fitted(text, flags.columns()))
        return
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"there is no command {name!r}{hint} (commands: {', '.join(known)})", file=sys.stderr)
        raise SystemExit(_USAGE)
    importlib.import_module(f".{name}", __package__).main(rest)


if __name__ == "__main__":
    main()
