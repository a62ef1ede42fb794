"""What to mount, where and how: from SOURCE, `-o`, flags and TOML to one checked `Config`.

Every option exists once, as a field of one of these models: `MountOptions` and `CacheOptions` here, `Options` of the
source's module, `Options` of the dataset's module. It has the same name in the TOML file, behind `-o` and as a flag
(`_` written `-`). Behind `-o` the items of a list are joined with `+`, and `\\,` is a comma within a value.
"""

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vfs import datasets, sources
from vfs.errors import OptionError

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# What mount(8) and fstab pass on and what is meant for the kernel or for systemd: accepted, and nothing to do with us.
# `rw` too: one gets it without asking for it, and the mount is read-only all the same.
_IGNORED = {
    "ro", "rw", "auto", "noauto", "user", "users", "owner", "group", "defaults", "_netdev", "nofail", "atime",
    "noatime", "relatime", "norelatime", "strictatime", "lazytime", "diratime", "nodiratime", "async", "sync",
    "dev", "nodev", "suid", "nosuid", "exec", "noexec",
}  # fmt: skip
_IGNORED_FORM = re.compile(r"(x-|X-|comment=).*")


class MountOptions(BaseModel):
    """How the mount behaves, whatever is mounted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = Field(
        None, description="where the dataset's tree is, when not in its own store: a URL or folder"
    )
    dataset: str | None = Field(
        None, description="what the tree is, when SOURCE is a URL or folder: assembly101, plain, …"
    )
    frames: bool = Field(True, description="show the virtual frames directories")
    allow_other: bool = Field(False, description="let other users in (as an ordinary user: needs user_allow_other)")
    uid: int = Field(default_factory=os.getuid, description="owner of all files")
    gid: int = Field(default_factory=os.getgid, description="group of all files")
    umask: int = Field(0, description="permission bits to take away, octal: 0077 leaves the owner alone")
    nonempty: bool = Field(False, description="mount over a folder that has files in it")
    listing_age: float | None = Field(
        None, ge=0, description="seconds a listing is believed (the dataset says how long)"
    )
    timeout: float = Field(60, gt=0, description="seconds to wait for the mount to answer")

    @field_validator("umask", mode="before")
    @classmethod
    def _octal(cls, value: object) -> object:
        if isinstance(value, str):
            if not re.fullmatch(r"0?[0-7]{1,3}", value):
                raise ValueError(f"{value!r} is no octal permission mask such as 0077")
            return int(value, 8)
        return value


class CacheOptions(BaseModel):
    """What is kept on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_dir: Path = Field(
        default_factory=lambda: default_cache_dir(), description="where chunks and listings are kept"
    )
    cache_size: int = Field(50 << 30, gt=0, description="most that the chunks may take, such as 50G")
    cache: Literal["auto", "on", "off"] = Field(
        "auto", description="keep bytes on disk: auto keeps those of remote sources"
    )

    @field_validator("cache_size", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", value, re.IGNORECASE)
            if not match:
                raise ValueError(f"{value!r} is no size such as 50G")
            return int(match[1]) * _UNITS[match[2].upper()]
        return value

    @field_validator("cache_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # The daemon's working directory is / by the time it opens the folder.
        return value.expanduser().absolute()


@dataclass(frozen=True)
class Config:
    """A checked configuration of one mount."""

    name: str
    """SOURCE as the person wrote it: what `mount` and `egofs status` show."""
    url: str | None
    """The source's URL; None: the dataset's default."""
    dataset: types.ModuleType
    mount: MountOptions
    cache: CacheOptions
    source_options: Mapping[str, Any]
    dataset_options: BaseModel

    def source_module(self, url: str) -> tuple[types.ModuleType, BaseModel]:
        """The store for a URL, with its options. Raises OptionError for an option that this store does not have."""
        module = sources.module_for(url)
        return module, _checked(module.Options, self.source_options, f"source {url.partition('://')[0]}")


def default_cache_dir() -> Path:
    """XDG's cache folder; /var/cache/egofs for a daemon that has no home."""
    if base := os.environ.get("CACHE_DIRECTORY"):  # systemd's CacheDirectory=
        return Path(base.split(":")[0])
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "egofs"
    if home := os.environ.get("HOME"):
        return Path(home) / ".cache" / "egofs"
    return Path("/var/cache/egofs")


def load(source: str, options: Iterable[tuple[str, str | bool]]) -> Config:
    """The configuration of `egofs mount SOURCE` with options as (name, text, or True for a bare name).

    Raises OptionError, one line that says which option and what would be right.
    """
    given: dict[str, Any] = {}
    if source.endswith(".toml"):
        file, given = source, _toml(Path(source))
        source = given.pop("dataset", None) or given.pop("source", None)
        if not isinstance(source, str):
            raise OptionError(f'{file}: say dataset = "NAME" or source = "URL or folder" (or both) in it')
    for name, value in options:
        if name in _IGNORED or _IGNORED_FORM.fullmatch(name):
            continue
        given[name] = value
    return _resolve(source, given)


def parse_o(text: str) -> list[tuple[str, str | bool]]:
    """The options of one `-o a,b=c`, in order; `\\,` is a comma within a value."""
    options: list[tuple[str, str | bool]] = []
    for item in re.split(r"(?<!\\),", text):
        item = item.replace("\\,", ",").strip()
        if not item:
            continue
        name, equals, value = item.partition("=")
        if _IGNORED_FORM.fullmatch(item):
            continue
        options.append((name, value if equals else True))
    return options


def all_options() -> dict[str, tuple[str, Any]]:
    """Every option there is, as name → (whose it is, its pydantic field)."""
    found: dict[str, tuple[str, Any]] = {}
    models: list[tuple[str, type[BaseModel]]] = [("any mount", MountOptions), ("any mount", CacheOptions)]
    models += [(f"source {n}", sources.module_for(f"{n}://").Options) for n in sources.names()]
    models += [(f"dataset {n.replace('_', '-')}", datasets.module_for(n).Options) for n in datasets.names()]
    for owner, model in models:
        for name, field in model.model_fields.items():
            found.setdefault(name, (owner, field))
    return found


def is_list(annotation: Any) -> bool:
    """Whether an option takes several values."""
    return typing.get_origin(annotation) is list


def _resolve(source: str, given: dict[str, Any]) -> Config:
    url: str | None
    name = given.get("dataset")
    if "://" in source or source.startswith((".", "/", "~")) or (Path(source).is_dir() and not _is_dataset(source)):
        if given.get("source"):
            raise OptionError(f"two sources: {source} and source={given['source']}; give one")
        url, name = source, name or "plain"
    elif _is_dataset(source):
        if name not in (None, source):
            raise OptionError(f"two datasets: {source} and dataset={name}; give one")
        url, name = given.get("source"), source
    else:
        known = ", ".join(n.replace("_", "-") for n in datasets.names())
        stores = ", ".join(f"{n}://" for n in sources.names() if n != "local")
        raise OptionError(
            f"no source is called {source!r}: give a dataset ({known}), a URL ({stores}), a folder or a .toml file"
        )
    if url is not None:
        url = _absolute(url)
    dataset = datasets.module_for(str(name))
    groups: list[tuple[str, type[BaseModel]]] = [("mount", MountOptions), ("cache", CacheOptions)]
    groups.append(("dataset", dataset.Options))
    parts: dict[str, dict[str, Any]] = {"mount": {}, "cache": {}, "dataset": {}, "source": {}}
    everything = all_options()
    for key, value in given.items():
        group = next((g for g, model in groups if key in model.model_fields), None)
        if group is None:
            owner = everything.get(key, ("", None))[0]
            if not owner.startswith("source"):
                raise OptionError(_unknown(key, str(name), everything))
            group = "source"
        parts[group][key] = value
    config = Config(
        name=source,
        url=url,
        dataset=dataset,
        mount=_checked(MountOptions, parts["mount"], "mount"),
        cache=_checked(CacheOptions, parts["cache"], "mount"),
        source_options=parts["source"],
        dataset_options=_checked(dataset.Options, parts["dataset"], f"dataset {name}"),
    )
    if url is not None:
        config.source_module(url)
    return config


def _unknown(key: str, dataset: str, everything: Mapping[str, tuple[str, Any]]) -> str:
    if key in everything:
        return f"option {key!r} belongs to {everything[key][0]}, not to {dataset}"
    near = difflib.get_close_matches(key, everything, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(everything))}"
    return f"no option is called {key!r}: {hint}"


def _is_dataset(source: str) -> bool:
    return source.replace("-", "_") in datasets.names()


def _absolute(url: str) -> str:
    """A folder's path made whole now: the daemon's working directory is /."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def _checked(model: type[BaseModel], values: Mapping[str, Any], owner: str) -> Any:
    """The options as the model has them. Raises OptionError for the first value that it refuses."""
    shaped = {}
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            raise OptionError(f"option {key!r} is not one of {owner}")
        if value is True and field.annotation is not bool:
            raise OptionError(f"option {key!r} needs a value: {key}=… ({field.description})")
        shaped[key] = value.split("+") if is_list(field.annotation) and isinstance(value, str) else value
    try:
        return model(**shaped)
    except ValidationError as failure:
        first = failure.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise OptionError(f"option {name}: {message}") from failure


def _toml(file: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(file.read_text())
    except OSError as failure:
        raise OptionError(f"{file}: {failure.strerror}") from failure
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise OptionError(f"{file}: not TOML: {failure}") from failure
    nested = [key for key, value in values.items() if isinstance(value, dict)]
    if nested:
        raise OptionError(f"{file}: [{nested[0]}]: options stand at the top of the file, not in tables")
    return values
