"""Options: how one is declared, read from text or from a TOML value, checked and described.

    @option_group
    class Options:
        views: tuple[str, ...] = option(default=("all",), description="cameras to show: all, v1, …")

is a frozen class, made with keywords. A field's type says how its value is read, both as TOML has it and as the text
behind `-o`: bool, int, float, str, Path, a Literal of texts, a tuple of any of these (in text joined with `+`), and
each of them `| None`. A value that is none raises OptionError, one line with the option, the value and what to write.

A value may come as Given, which says what its relative paths are relative to and which file it stands in. In the text
of a list `\\+` is a plus within an item.

Hides attrs. Called by whatever has options (sources, datasets, mountd.config) and by the command line, which describes
them; must not know which there are. Reads nothing but its arguments; any thread may enter.
"""

import functools
import os
import re
import types
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform, get_args, get_origin

import attrs

from vfs.errors import OptionError

_T = TypeVar("_T")
_DECLARED = "egofs"
_LIST = "texts: joined with + behind -o, a list in TOML"

# What relative paths are relative to while a value is read; None: the working directory.
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@dataclass(frozen=True, slots=True)
class Given:
    """A value as a person gave it: behind `-o` or as a flag a text (True: a bare name), in a file with a type."""

    value: Any
    file: Path | None = None
    """The file that it stands in, whose folder its relative paths are relative to; None: the command line."""


@dataclass(frozen=True, slots=True)
class Option:
    """What can be said of an option without a value."""

    annotation: Any
    """The type of its values."""
    description: str
    form: str
    """What to write for one."""
    _default: Any

    @property
    def default(self) -> Any:
        """What it is when it is not given, as it is written: None, "" or () where that is nothing in particular."""
        return self._default.factory() if isinstance(self._default, attrs.Factory) else self._default  # type: ignore[arg-type]

    @property
    def choices(self) -> tuple[str, ...]:
        """All values there are, where these are few."""
        wanted, _ = _wanted(self.annotation)
        return get_args(wanted) if get_origin(wanted) is Literal else ()

    @property
    def is_path(self) -> bool:
        """Whether its values are files or folders of this machine."""
        return _wanted(self.annotation)[0] is Path


@dataclass(frozen=True, slots=True)
class _Declared:
    """What `option` was told beside the default."""

    description: str
    form: str
    parse: Callable[[str], Any] | None
    check: Callable[[Any], bool] | None
    is_text: bool


def option(
    *,
    description: str,
    default: Any = attrs.NOTHING,
    factory: Callable[[], Any] | None = None,
    form: str = "",
    parse: Callable[[str], Any] | None = None,
    check: Callable[[Any], bool] | None = None,
    is_text: bool = False,
) -> Any:
    """A field of an option group, with a default or with a factory of it.

    `parse` makes of a text what the type reads then, and raises ValueError for one that it does not know; it finds the
    files that it names by `whole_path`. `check` tells whether a value of the right type, or an item of a tuple, can be
    used. `form` is what to write, told with a refusal. `is_text`: TOML has it in quotes too, because the same digits
    without them would mean another number.
    """
    return attrs.field(
        default=default,
        factory=factory,
        converter=attrs.Converter(_value, takes_field=True),
        metadata={_DECLARED: _Declared(description, form, parse, check, is_text)},
    )


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option,))
def option_group(cls: type[_T]) -> type[_T]:
    """The class with its options as frozen fields."""
    return attrs.frozen(cls, kw_only=True)


@functools.cache
def described(group: type) -> Mapping[str, Option]:
    """The options of a group by name, in the order they were written."""
    return {field.name: _described(field) for field in attrs.fields(group)}


def as_dict(options: Any) -> dict[str, Any]:
    """The values of all options of a group by name."""
    return attrs.asdict(options)


def read(group: type, name: str, given: Given) -> Any:
    """What an option of a group is when this was given. Raises OptionError."""
    return _value(given, attrs.fields_dict(group)[name])


def whole_path(text: str) -> Path:
    """The path with `~` and without any place that it is relative to: a daemon's working directory is another by the
    time that it opens it. Raises ValueError for one that nobody can find."""
    try:
        return Path(_folder.get() or "", os.path.expanduser(text)).absolute()
    except OSError as failure:  # the working directory was removed
        raise ValueError("relative to nothing") from failure


def _described(field: "attrs.Attribute[Any]") -> Option:
    declared: _Declared = field.metadata[_DECLARED]
    wanted, is_list = _wanted(field.type)
    form = declared.form or _kind(wanted)[1] + (", or several joined with +" if is_list else "")
    return Option(field.type, declared.description, form, field.default)


def _wanted(annotation: Any) -> tuple[Any, bool]:
    """The type of an option's value, or of each item of it, and whether there are items."""
    kinds = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    wanted = next(kind for kind in kinds if kind is not types.NoneType)
    return (get_args(wanted)[0], True) if get_origin(wanted) is tuple else (wanted, False)


def _value(given: Any, field: "attrs.Attribute[Any]") -> Any:
    """What an option is when this was given, or is its default."""
    if not isinstance(given, Given):
        return _read(given, field, typed=False)
    if given.file is None:
        return _read(given.value, field, typed=False)
    before = _folder.set(given.file.absolute().parent)
    try:
        return _read(given.value, field, typed=True)
    except OptionError as failure:
        raise OptionError(f"{shown_path(given.file)}: {failure}") from failure
    finally:
        _folder.reset(before)


def _read(given: Any, field: "attrs.Attribute[Any]", *, typed: bool) -> Any:
    """A value in itself; `typed`: as TOML has it."""
    declared: _Declared = field.metadata[_DECLARED]
    annotation: Any = field.type
    wanted, is_list = _wanted(annotation)
    if given is None and isinstance(annotation, types.UnionType):
        return None
    if given is True and wanted is not bool and not typed:  # what a bare name means
        raise OptionError(f"option {field.name!r} needs a value: {field.name}=… ({declared.description})")
    if typed and declared.is_text and not isinstance(given, str):
        raise _refusal(field.name, given, declared.form + _IN_QUOTES)
    if not is_list:
        return _one(given, wanted, field.name, declared)
    items = _items(given) if isinstance(given, str) else given
    if not isinstance(items, list | tuple):
        raise _refusal(field.name, given, _LIST)
    return tuple(_one(item, wanted, field.name, declared) for item in items)


def _items(text: str) -> list[str]:
    """The items of a list in a text."""
    return [item.replace("\\+", "+") for item in re.split(r"(?<!\\)\+", text)]


def _one(given: Any, wanted: Any, name: str, declared: _Declared) -> Any:
    """A value, or an item of one."""
    reader, form, in_toml = _kind(wanted)
    form = declared.form + (_IN_QUOTES if declared.is_text else "") if declared.form else form + in_toml
    try:
        value = reader(declared.parse(given) if declared.parse and isinstance(given, str) else given)
    except (ValueError, OverflowError, OSError) as failure:  # OSError: a path that no system can look for
        raise _refusal(name, given, form) from failure
    if declared.check and not declared.check(value):
        raise _refusal(name, given, form)
    return value


def _refusal(name: str, given: object, form: str) -> OptionError:
    return OptionError(f"option {name}={_shown(given):.80}: write {form}")  # 80: a message is one line


def _shown(given: object) -> str:
    """A value as TOML has it, but for texts, which are escaped as Python does it."""
    if isinstance(given, bool):
        return str(given).lower()
    return given.isoformat() if isinstance(given, date | time) else repr(given)


def shown_path(file: Path) -> str:
    """A path as it is, where it can be read as one line."""
    return str(file) if str(file).isprintable() else repr(str(file))


def _whole(given: object) -> int:
    """5, "5" and "5.0", as float has it, but without its limits."""
    if isinstance(given, str) and given.isascii():
        whole, _, fraction = given.strip().partition(".")
        if not fraction.strip("0"):
            return int(whole)
    elif isinstance(given, int | float) and not isinstance(given, bool) and given == int(given):
        return int(given)
    raise ValueError("not a whole number")


def _number(given: object) -> float:
    # A text in digits of another script would be a number for Python, and so would true.
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError("not a number")
    if isinstance(given, str) and not given.isascii():
        raise ValueError("digits of another script")
    return float(given)


def _text(given: object) -> str:
    if isinstance(given, str) and "\0" not in given:  # which ends a text for the kernel, and can come from TOML alone
        return given
    raise ValueError("not a text")


def _path(given: object) -> Path:
    return given.absolute() if isinstance(given, Path) else whole_path(_text(given))


_IN_QUOTES = ' (in TOML in "…")'
_KINDS: dict[Any, tuple[Callable[[Any], Any], str, str]] = {
    bool: (attrs.converters.to_bool, "true or false", ""),
    int: (_whole, "a whole number", ""),
    float: (_number, "a number", ""),
    str: (_text, "a text", _IN_QUOTES),
    Path: (_path, "a path", _IN_QUOTES),
}


def _kind(wanted: Any) -> tuple[Callable[[Any], Any], str, str]:
    """How a value of a type is read, what to write for one, and what more to say of that in TOML."""
    choices = get_args(wanted)  # of a Literal: none of the others has any
    if choices:
        return lambda given: choices[choices.index(given)], f"one of {', '.join(choices)}", ""
    return _KINDS[wanted]
