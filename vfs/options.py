"""Options: how one is declared, read from text or from a TOML value, checked and described.

    @option_group
    class Options:
        views: tuple[str, ...] = option(default=("all",), description="cameras to show: all, v1, …")

is a frozen class, made with keywords. A field's type says how its value is read, both as TOML has it and as the text
behind `-o`: bool, int, float, str, Path, a Literal of texts, a tuple of any of these (in text joined with `+`), and
each of them `| None`. A value that is none raises OptionError, one line with the option, the value and what to write.

Hides attrs. Called by whatever has options (sources, datasets, mountd.config) and by the command line, which describes
them; must not know which there are. Reads nothing but its arguments; any thread may enter.
"""

import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform, get_args, get_origin

import attrs

from vfs.errors import OptionError

_T = TypeVar("_T")
_DECLARED = "egofs"


@dataclass(frozen=True, slots=True)
class Option:
    """What can be said of an option without a value."""

    annotation: Any
    """The type of its values."""
    description: str


@dataclass(frozen=True, slots=True)
class _Declared:
    """What `option` was told beside the default."""

    description: str
    form: str
    parse: Callable[[str], Any] | None
    check: Callable[[Any], bool] | None


def option(
    *,
    description: str,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    form: str = "",
    parse: Callable[[str], Any] | None = None,
    check: Callable[[Any], bool] | None = None,
) -> Any:
    """A field of an option group, with a default or with a factory of it.

    `parse` makes of a text what the type reads then, and raises ValueError for one that it does not know. `check` tells
    whether a value of the right type, or an item of a tuple, can be used. `form` is what to write, told with a refusal.
    """
    return attrs.field(
        default=default,
        factory=factory,
        converter=attrs.Converter(_value, takes_field=True),
        metadata={_DECLARED: _Declared(description, form, parse, check)},
    )


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def option_group(cls: type[_T]) -> type[_T]:
    """The class with its options as frozen fields."""
    return attrs.frozen(cls, kw_only=True)


def described(group: type) -> Mapping[str, Option]:
    """The options of a group by name, in the order they were written."""
    return {field.name: Option(field.type, field.metadata[_DECLARED].description) for field in attrs.fields(group)}


def as_dict(options: Any) -> dict[str, Any]:
    """The values of all options of a group by name."""
    return attrs.asdict(options)


def _value(given: Any, field: "attrs.Attribute[Any]") -> Any:
    """What an option is when this was given, or is its default."""
    wanted: Any = field.type
    declared: _Declared = field.metadata[_DECLARED]
    if isinstance(wanted, types.UnionType):
        if given is None:
            return None
        wanted = next(kind for kind in get_args(wanted) if kind is not types.NoneType)
    if given is True and wanted is not bool:  # what a bare name means
        raise OptionError(f"option {field.name!r} needs a value: {field.name}=… ({declared.description})")
    if get_origin(wanted) is not tuple:
        return _one(given, wanted, field.name, declared)
    items = given.split("+") if isinstance(given, str) else given
    if not isinstance(items, list | tuple):
        raise _refusal(field.name, given, "texts: joined with + behind -o, a list in TOML")
    return tuple(_one(item, get_args(wanted)[0], field.name, declared) for item in items)


def _one(given: Any, wanted: Any, name: str, declared: _Declared) -> Any:
    """A value, or an item of one."""
    read, form = _kind(wanted)
    try:
        value = read(declared.parse(given) if declared.parse and isinstance(given, str) else given)
    except (ValueError, OverflowError) as failure:
        raise _refusal(name, given, declared.form or form) from failure
    if declared.check and not declared.check(value):
        raise _refusal(name, given, declared.form or form)
    return value


def _refusal(name: str, given: object, form: str) -> OptionError:
    return OptionError(f"option {name}={given!r:.80}: write {form}")  # 80: a message is one line


def _whole(given: object) -> int:
    """5, "5" and "5.0", as float has it, but without its limits."""
    if isinstance(given, str) and given.isascii():
        whole, _, fraction = given.strip().partition(".")
        if not fraction.strip("0"):
            return int(whole)
    elif isinstance(given, int | float) and given == int(given):
        return int(given)
    raise ValueError("not a whole number")


def _number(given: object) -> float:
    # A text in digits of another script would be a number for Python.
    if isinstance(given, int | float) or (isinstance(given, str) and given.isascii()):
        return float(given)
    raise ValueError("not a number")


def _text(given: object) -> str:
    if isinstance(given, str):
        return given
    raise ValueError("not a text")


def _path(given: object) -> Path:
    """Absolute, since a daemon's working directory is another by the time that it opens the path."""
    return Path(given if isinstance(given, Path) else os.path.expanduser(_text(given))).absolute()


_KINDS: dict[Any, tuple[Callable[[Any], Any], str]] = {
    bool: (attrs.converters.to_bool, "true or false"),
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    str: (_text, 'a text (in TOML in "…")'),
    Path: (_path, 'a path (in TOML in "…")'),
}


def _kind(wanted: Any) -> tuple[Callable[[Any], Any], str]:
    """How a value of a type is read, and what to write for one."""
    choices = get_args(wanted)  # of a Literal: none of the others has any
    return (lambda given: choices[choices.index(given)], f"one of {', '.join(choices)}") if choices else _KINDS[wanted]
