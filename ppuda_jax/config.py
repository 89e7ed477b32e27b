"""Configurations: frozen dataclasses that go to and from dictionaries, JSON and command-line text.

A configuration is a frozen dataclass whose fields are annotated with `bool`, `int`, `float`, `str`,
`Literal[...]`, `tuple[T, ...]`, fixed tuples `tuple[T, T]`, another configuration, or any of these
`| None`. Keys are strict in both directions: an unknown key fails with the closest known name, a
value of another type fails with the type that was expected. `check_types` holds a configuration
that is built in Python to the same rules: every configuration class calls it in `__post_init__`.
"""

import dataclasses
import difflib
import functools
import json
import numbers
import os
import pathlib
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

T = TypeVar("T")

_TEXT_NONE = ("none", "null", "")
_TEXT_BOOL = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def described(default: Any, text: str) -> Any:
    """A field of a configuration class with its default and the help text of its flag."""
    return dataclasses.field(default=default, metadata={"help": text})


def field_types(cls: type) -> Mapping[str, Any]:
    """Returns the resolved annotation of every init field of a configuration class, in order."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"a configuration class must be a dataclass, received {cls!r}")
    return _resolved(typing.cast(Hashable, cls))


@functools.cache  # resolving annotations takes longer than making a configuration
def _resolved(cls: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls)
    by_name = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    return types.MappingProxyType(by_name)


def check_types(config: Any) -> None:
    """Holds a configuration to its annotations, first thing in its `__post_init__`.

    Annotations alone stop nobody in Python, and a `Literal` that nobody checks ends in whatever
    the last `else` does. What says the same thing in another type is taken as annotated: an
    integer as a float, a list as a tuple, a NumPy scalar as a Python one, a path as text.

    Raises:
        ValueError: a value that is not of its field's type.
    """
    cls = type(config)
    for name, hint in field_types(cls).items():
        value = _coerce(getattr(config, name), hint, f"{cls.__name__}.{name}")
        object.__setattr__(config, name, value)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the configuration as plain JSON types: tuples become lists, nested ones dicts."""
    return {name: _to_plain(getattr(config, name)) for name in field_types(type(config))}


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, tuple | list):
        return [_to_plain(v) for v in value]
    return value


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Builds `cls` from a dictionary; absent keys take the field's default.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or a missing required key.
    """
    hints = field_types(cls)
    _refuse_unknown(cls, values, hints)
    kwargs = {k: _coerce(v, hints[k], f"{cls.__name__}.{k}") for k, v in values.items()}
    try:
        return cls(**kwargs)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be built: {error}") from error


def override(config: T, values: Mapping[str, Any]) -> T:
    """Returns the configuration with some fields replaced; text is parsed by the field's type.

    Raises:
        ValueError: an unknown field, or text that does not parse as the field's type.
    """
    cls = type(config)
    hints = field_types(cls)
    _refuse_unknown(cls, values, hints)
    parsed = {}
    for key, value in values.items():
        where = f"{cls.__name__}.{key}"
        is_text = isinstance(value, str)
        parsed[key] = (parse_text if is_text else _coerce)(value, hints[key], where)
    return dataclasses.replace(config, **parsed)  # type: ignore[type-var]  # a dataclass, checked


def to_json(config: Any) -> str:
    """Returns the configuration as indented JSON text ending in a newline."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """Builds `cls` from JSON text, with the rules of `from_dict`."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{cls.__name__}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"{cls.__name__}: expected a JSON object, received {type(values).__name__}"
        )
    return from_dict(cls, values)


def save_json(path: str | os.PathLike[str], config: Any) -> None:
    """Writes the configuration to a file; the file is complete or absent, never half written."""
    write_atomic(path, to_json(config))


def write_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Writes text beside `path` and moves it there, so that a reader never sees half of it."""
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk is not to be filled further
        raise


def differences(
    there: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str] | None = None
) -> list[str]:
    """Which entries of two records differ, as text for an error.

    Args:
        there: the stored one.
        now: the one that is asked for.
        names: entries that count; all of both by default.
    """
    counted = sorted({*there, *now}) if names is None else names
    return [
        f"{name}: there {there.get(name)!r}, now {now.get(name)!r}"
        for name in counted
        if there.get(name) != now.get(name)
    ]


def parse_text(text: str, hint: Any, where: str) -> Any:
    """Reads one value of type `hint` from command-line text; tuples are comma separated.

    Raises:
        ValueError: the text is not a value of that type.
    """
    options, optional = _optional(hint)
    if optional and text.strip().lower() in _TEXT_NONE:
        return None
    origin = typing.get_origin(options)
    if origin is tuple:
        inner = typing.get_args(options)[0]
        parts = [p.strip() for p in text.split(",") if p.strip()]
        return _coerce([parse_text(p, inner, where) for p in parts], options, where)
    if options is bool:
        if text.strip().lower() not in _TEXT_BOOL:
            raise ValueError(f"{where}: expected true or false, received {text!r}")
        return _TEXT_BOOL[text.strip().lower()]
    if options in (int, float):
        try:
            return options(text.replace("_", ""))
        except ValueError:
            raise ValueError(f"{where}: expected {options.__name__}, received {text!r}") from None
    if origin is Literal:
        by_text = {str(choice): choice for choice in typing.get_args(options)}
        return _coerce(by_text.get(text, text), options, where)
    return _coerce(text, options, where)


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that a field of type `hint` may take, () where they are not listed."""
    options, _ = _optional(hint)
    return typing.get_args(options) if typing.get_origin(options) is Literal else ()


def _refuse_unknown(cls: type, keys: Iterable[str], known: Mapping[str, Any]) -> None:
    unknown = [k for k in keys if k not in known]
    if unknown:
        close = difflib.get_close_matches(str(unknown[0]), list(known), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"{cls.__name__}: unknown keys {unknown}{hint} (known: {', '.join(known)})"
        )


def _optional(hint: Any) -> tuple[Any, bool]:
    """Splits `X | None` into (X, True); any other hint into (hint, False)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(rest) == 1 and len(typing.get_args(hint)) == 2:
            return rest[0], True
        raise ValueError(f"a configuration field may be `X | None` only, received {hint}")
    return hint, False


def _coerce(value: Any, hint: Any, where: str) -> Any:
    """Checks one plain value against its annotation; lists become tuples, ints become floats."""
    return _coercion(hint)(value, where)


@functools.cache  # architectures are made by the thousand: an annotation is taken apart once
def _coercion(hint: Any) -> Callable[[Any, str], Any]:
    """The function (value, where) -> value that holds values to an annotation."""
    options, optional = _optional(hint)
    check = _required(options)
    if not optional:
        return check
    return lambda value, where: None if value is None else check(value, where)


def _required(hint: Any) -> Callable[[Any, str], Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return functools.partial(_coerce_choice, args)
    if origin is tuple:
        repeated = len(args) == 2 and args[1] is Ellipsis
        parts = [_coercion(arg) for arg in args[: 1 if repeated else None]]
        return functools.partial(_coerce_tuple, parts, repeated)
    if not isinstance(hint, type):
        raise ValueError(f"annotation {hint!r} is not supported in a configuration")
    return functools.partial(_coerce_scalar, hint)


def _coerce_choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if not any(value == c and type(value) is type(c) for c in choices):
        raise ValueError(
            f"{where}: expected one of {', '.join(map(str, choices))}, received {value!r}"
        )
    return value


def _coerce_tuple(
    parts: Sequence[Callable[[Any, str], Any]], repeated: bool, value: Any, where: str
) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a sequence, received {value!r}")
    if repeated:
        return tuple(parts[0](v, where) for v in value)
    if len(value) != len(parts):
        raise ValueError(f"{where}: expected {len(parts)} values, received {len(value)}: {value!r}")
    return tuple(part(v, where) for v, part in zip(value, parts, strict=True))


def _coerce_scalar(hint: type, value: Any, where: str) -> Any:
    if type(value) is hint:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value)
    # bool is an int to Python, but a number of steps that is True is a mistake.
    is_bool = isinstance(value, bool | np.bool_)
    if hint is bool and is_bool:
        return bool(value)
    if hint is int and isinstance(value, numbers.Integral) and not is_bool:
        return int(value)
    if hint is float and isinstance(value, numbers.Real) and not is_bool:
        return float(value)
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, hint) or hint in (int, float, bool):
        raise ValueError(f"{where}: expected {hint.__name__}, received {value!r}")
    return value
