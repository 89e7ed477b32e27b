"""The command line of every script: flags from a configuration dataclass, one main, one report.

A script has a frozen dataclass whose fields are its flags, a function that takes it and returns a
text, a `table` or a `report`, and

    def main(argv: Sequence[str] | None = None) -> None:
        flags.start(Config, run, __doc__, argv)
"""

import contextlib
import dataclasses
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from absl import flags

from ppuda_jax import config as config_lib
from ppuda_jax.runtime.logs import quiet_libraries

from .results import Report, report, show, table, to_json

__all__ = [
    "Report",
    "apply",
    "columns",
    "define",
    "fitted",
    "report",
    "show",
    "start",
    "table",
    "to_json",
]

T = TypeVar("T")

USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, ImportError)
"""What a script reports in one line; anything else is a fault of ours and keeps its traceback."""

_IN_A_CHECKOUT = "python -m experiments."

_USAGE, _INTERRUPTED = 2, 130
_HELP_INDENT, _HELP_WIDTH = 6, 80


def define(
    cls: type, *, exclude: Sequence[str] = (), flag_values: flags.FlagValues
) -> tuple[str, ...]:
    """Defines one flag per field of `cls`; returns their names.

    A flag that is not given stays `None`, so that `apply` changes only what the user asked for.
    The help text is the field's `metadata["help"]`. Boolean fields are `--field` and `--nofield`.
    """
    hints = config_lib.field_types(cls)
    names = []
    for field in dataclasses.fields(cls):
        if field.name in exclude or field.name not in hints:
            continue
        text = field.metadata.get("help", "")
        choices = config_lib.choices(hints[field.name])
        if choices:
            text += f"; one of {', '.join(map(str, choices))}"
        if field.default is not dataclasses.MISSING and field.default is not None:
            text += f" (default: {_shown(field.default)})"
        switch = hints[field.name] in (bool, bool | None)
        define_flag = flags.DEFINE_bool if switch else flags.DEFINE_string
        define_flag(field.name, None, text, flag_values=flag_values)
        names.append(field.name)
    return tuple(names)


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def apply(config: T, names: Sequence[str], flag_values: flags.FlagValues) -> T:
    """Returns `config` with every given flag applied, parsed by its field's type.

    Raises:
      ValueError: a value that does not parse, or an invalid combination.
    """
    return config_lib.override(config, _given(names, flag_values))


def _given(names: Sequence[str], flag_values: flags.FlagValues) -> dict[str, str]:
    values = {name: flag_values[name].value for name in names}
    return {name: str(value) for name, value in values.items() if value is not None}


def start(
    cls: type[T],
    function: Callable[[T], Any],
    doc: str | None,
    argv: Sequence[str] | None = None,
    *,
    base: Callable[[Mapping[str, str]], T] | None = None,
    positional: Sequence[str] = (),
    errors: tuple[type[Exception], ...] = (),
    interrupted: str = "interrupted",
) -> None:
    """Runs a script: parses the command line and calls its function.

    Args:
      cls: the script's configuration; its fields are the flags.
      function: takes the configuration; the text, table or report that it returns is printed, with
        `--json` as JSON. What else it prints goes to stderr then.
      doc: what `--help` prints above the flags.
      argv: arguments instead of the process's.
      base: makes the configuration that flags are applied to from the flags that are given.
      positional: fields that are arguments without a name.
      errors: exceptions that are the user's, besides `USER_ERRORS`.
      interrupted: what is said after Ctrl-C.

    Raises:
      SystemExit: 0 after `--help`; 1 with one line for what is wrong; 2 for flags that do not exist
        or do not parse; a report's own status.
    """
    values = flags.FlagValues()
    names = define(cls, exclude=positional, flag_values=values)
    flags.DEFINE_bool(
        "json", False, "print results as JSON, and all else on stderr", flag_values=values
    )
    flags.DEFINE_bool("help", False, "show this text", short_name="h", flag_values=values)
    program = os.path.basename(sys.argv[0])
    try:
        rest = values([program, *(sys.argv[1:] if argv is None else argv)])[1:]
    except flags.Error as error:
        _fail(f"{error}; --help lists the flags")
    if values["help"].value:
        show(fitted(_help(doc, cls, values, positional), columns()))
        return
    if len(rest) > len(positional):
        _fail(f"unexpected arguments {rest[len(positional) :]}; use --flag=value")
    if len(rest) < len(positional):
        _fail(f"missing arguments {list(positional[len(rest) :])}")
    as_json = values["json"].value
    given = _given(names, values) | dict(zip(positional, rest, strict=True))
    try:
        config = config_lib.override(base(given), given) if base else _built(cls, given)
        with quiet_libraries(), _prints_on_stderr(as_json):
            found = function(config)
    except (*USER_ERRORS, *errors) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_INTERRUPTED)  # threads that compile cannot be stopped, nor should be waited for
    results = found if isinstance(found, Report) else report(*([] if found is None else [found]))
    if as_json:
        show(to_json(results.record()))
    elif found is not None:
        show(results)
    if results.status:
        raise SystemExit(results.status)


def _prints_on_stderr(wanted: bool) -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext()


def _built(cls: type[T], given: Mapping[str, str]) -> T:
    """The configuration from flags alone; fields without a default must be among them."""
    hints = config_lib.field_types(cls)
    parsed = {
        name: config_lib.parse_text(text, hints[name], f"{cls.__name__}.{name}")
        for name, text in given.items()
    }
    return config_lib.from_dict(cls, parsed)


def _fail(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(_USAGE)


def columns() -> int | None:
    """The width of the terminal that help is read on; None of a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted(text: str, width: int | None) -> str:
    """A help text whose lines are no wider than a terminal: paragraphs are filled anew.

    Lines of flags are broken one by one, commands are left as they are, to be copied.
    """
    if width is None:
        return text
    lines: list[str] = []
    for block in text.split("\n\n"):
        parts = block.split("\n")
        if block.startswith("    "):
            lines += [*parts, ""]
            continue
        if max(map(len, parts)) > width and not block.startswith(" "):
            items = "\n".join(parts).replace("\n- ", "\0- ").split("\0")
            parts = [" ".join(item.split()) for item in items]
        for part in parts:
            margin = " " * (len(part) - len(part.lstrip(" ")))
            hanging = "  " if part.startswith("- ") else margin + "    " * bool(margin)
            wrapped = textwrap.wrap(part, width, subsequent_indent=hanging, break_on_hyphens=False)
            lines += wrapped or [""]
        lines.append("")
    return "\n".join(lines).rstrip("\n")


def _help(doc: str | None, cls: type, values: flags.FlagValues, positional: Sequence[str]) -> str:
    texts = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(cls)}
    entries = [(name.upper(), texts[name]) for name in positional]
    named = [name for name in texts if name in values and name not in positional]
    named += ["json", "help"]
    entries += [(_spelled(values[name]), values[name].help) for name in named]
    lines = [doc.strip() if doc else "", ""]
    for name, text in entries:
        indent = " " * _HELP_INDENT
        width = min(_HELP_WIDTH, columns() or _HELP_WIDTH)
        wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
        lines += [f"  {name}", *wrapped]
    text = "\n".join(lines)
    return text if __package__ == "experiments" else text.replace(_IN_A_CHECKOUT, "ppuda-jax ")


def _spelled(flag: flags.Flag) -> str:
    return f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=VALUE"
