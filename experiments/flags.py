"""Command-line flags generated from a configuration dataclass: `--field=value`."""

import dataclasses
from typing import TypeVar

from absl import flags

from ppuda_jax import config as config_lib

T = TypeVar("T")


def define(
    cls: type,
    *,
    exclude: tuple[str, ...] = (),
    flag_values: flags.FlagValues = flags.FLAGS,
) -> tuple[str, ...]:
    """Defines one absl flag per field of `cls` in `flag_values`; returns their names.

    A flag that is not given stays `None`, so that `apply` changes only what the user asked for.
    The help text is the field's `metadata["help"]`. Boolean fields are `--field` and `--nofield`.
    """
    hints = config_lib.field_types(cls)
    names = []
    for field in dataclasses.fields(cls):
        if field.name in exclude or field.name not in hints:
            continue
        text = field.metadata.get("help", "")
        default = "" if field.default is dataclasses.MISSING else f" (default: {field.default})"
        define_flag = flags.DEFINE_bool if hints[field.name] is bool else flags.DEFINE_string
        define_flag(field.name, None, f"{text}{default}", flag_values=flag_values)
        names.append(field.name)
    return tuple(names)


def apply(config: T, names: tuple[str, ...], flag_values: flags.FlagValues = flags.FLAGS) -> T:
    """Returns `config` with every given flag applied, parsed by its field's type.

    Raises:
        ValueError: a value that does not parse, or an invalid combination.
    """
    values = {name: flag_values[name].value for name in names}
    given = {name: value for name, value in values.items() if value is not None}
    return config_lib.override(config, given)
