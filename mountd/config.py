"""What to mount, where and how: from SOURCE, `-o`, flags and TOML to one checked `Config`.

Every option exists once, as a field of one of these groups: `MountOptions` and `CacheOptions` here, `Options` of the
source's module, `Options` of the dataset's module. It has the same name in the TOML file, behind `-o` and as a flag
(`_` written `-`). Behind `-o` the items of a list are joined with `+`, and `\\,` is a comma within a value.
"""

import difflib
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vfs import datasets, sources
from vfs.errors import OptionError
from vfs.options import Option, as_dict, described, option, option_group

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# What mount(8) and fstab pass on and what is meant for the kernel or for systemd: accepted, and nothing to do with us.
# `rw` too: one gets it without asking for it, and the mount is read-only all the same.
_IGNORED = {
    "ro", "rw", "auto", "noauto", "user", "users", "owner", "group", "defaults", "_netdev", "nofail", "atime",
    "noatime", "relatime", "norelatime", "strictatime", "lazytime", "diratime", "nodiratime", "async", "sync",
    "dev", "nodev", "suid", "nosuid", "exec", "noexec",
}  # fmt: skip
_IGNORED_FORM = re.compile(r"(x-|X-|comment=).*")


def default_cache_dir() -> Path:
    """XDG's cache folder; /var/cache/egofs for a daemon that has no home."""
    if base := os.environ.get("CACHE_DIRECTORY"):  # systemd's CacheDirectory=
        return Path(base.split(":")[0])
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "egofs"
    if home := os.environ.get("HOME"):
        return Path(home) / ".cache" / "egofs"
    return Path("/var/cache/egofs")


def _octal(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ValueError("no octal permission mask")
    return int(text, 8)


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text, re.IGNORECASE)
    if not match:
        raise ValueError("no size")
    return int(match[1]) * _UNITS[match[2].upper()]


@option_group
class MountOptions:
    """How the mount behaves, whatever is mounted."""

    source: str | None = option(
        default=None, description="where the dataset's tree is, when not in its own store: a URL or folder"
    )
    dataset: str | None = option(
        default=None, description="what the tree is, when SOURCE is a URL or folder: assembly101, plain, …"
    )
    frames: bool = option(default=True, description="show the virtual frames directories")
    archives: bool = option(
        default=True, description="show zip and tar archives (.zip, .tar, .tar.gz, .tgz) as folders beside themselves"
    )
    allow_other: bool = option(
        default=False, description="let other users in (as an ordinary user: needs user_allow_other)"
    )
    uid: int = option(factory=os.getuid, description="owner of all files")
    gid: int = option(factory=os.getgid, description="group of all files")
    umask: int = option(
        default=0,
        description="permission bits to take away, octal: 0077 leaves the owner alone",
        form="an octal permission mask such as 0077",
        parse=_octal,
    )
    nonempty: bool = option(default=False, description="mount over a folder that has files in it")
    listing_age: float | None = option(
        default=None,
        description="seconds a listing is believed (the dataset says how long)",
        form="a number of seconds, 0 or more",
        check=lambda seconds: seconds >= 0,
    )
    supervise: bool = option(
        default=True, description="mount again when the daemon dies, or stands still for a minute (not with -f)"
    )
    timeout: float = option(
        default=60.0,
        description="seconds to wait for the mount to answer",
        form="a number of seconds above 0",
        check=lambda seconds: seconds > 0,
    )


@option_group
class CacheOptions:
    """What is kept on disk."""

    cache_dir: Path = option(factory=default_cache_dir, description="where chunks and listings are kept")
    cache_size: int = option(
        default=50 << 30,
        description="most that the chunks may take, such as 50G",
        form="a size above 0 such as 50G",
        parse=_size_bytes,
        check=lambda size_bytes: size_bytes > 0,
    )
    cache: Literal["auto", "on", "off"] = option(
        default="auto", description="keep bytes on disk: auto keeps those of remote sources"
    )


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
    dataset_options: Any

    def source_module(self, url: str) -> tuple[types.ModuleType, Any]:
        """The store for a URL, with its options. Raises OptionError for an option that this store does not have."""
        module = sources.module_for(url)
        known = described(module.Options)
        if others := self.source_options.keys() - known.keys():
            store = module.__name__.rpartition(".")[2]
            raise OptionError(
                f"option {min(others)!r} is not one of source {store}: it has {', '.join(known) or 'none'}"
            )
        return module, module.Options(**self.source_options)


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


def all_options() -> dict[str, dict[str, Option]]:
    """Every option there is, as name → whose it is → what can be said of it: datasets may have the same names."""
    found: dict[str, dict[str, Option]] = {}
    groups: list[tuple[str, type]] = [("any mount", MountOptions), ("any mount", CacheOptions)]
    groups += [(f"source {n}", sources.module_for(f"{n}://").Options) for n in sources.names()]
    groups += [(f"dataset {n.replace('_', '-')}", datasets.module_for(n).Options) for n in datasets.names()]
    seen: set[type] = set()
    for owner, group in groups:
        if group in seen:  # the demo's are those of a dataset
            continue
        seen.add(group)
        for name, told in described(group).items():
            found.setdefault(name, {})[owner] = told
    return found


def _resolve(source: str, given: Mapping[str, Any]) -> Config:
    mount = MountOptions(**_those_of(MountOptions, given))
    url, name = _meant(source, mount)
    dataset = datasets.module_for(name)
    here = {**described(MountOptions), **described(CacheOptions), **described(dataset.Options)}
    of_source = {key: value for key, value in given.items() if key not in here}
    if unknown := of_source.keys() - (described(sources.module_for(url).Options).keys() if url is not None else ()):
        # Only now, to explain them, or because the dataset chooses its store: all modules are imported for it.
        everything = all_options()
        for key in sorted(unknown):
            if not any(owner.startswith("source") for owner in everything.get(key, ())):
                raise OptionError(_unknown(key, name, everything))
    config = Config(
        name=source,
        url=url,
        dataset=dataset,
        mount=mount,
        cache=CacheOptions(**_those_of(CacheOptions, given)),
        source_options=of_source,
        dataset_options=dataset.Options(**_those_of(dataset.Options, given)),
    )
    if url is None:
        return replace(config, source_options={key: _settled(key, value) for key, value in of_source.items()})
    _, settled = config.source_module(url)
    # Paths as they are in this working directory, those that are defaults too: the daemon's directory is another.
    kept = {key: value for key, value in as_dict(settled).items() if key in of_source or isinstance(value, Path)}
    return replace(config, source_options=kept)


def _meant(source: str, mount: MountOptions) -> tuple[str | None, str]:
    """The URL, None for the dataset's own, and the dataset's name that SOURCE stands for."""
    if "://" in source or source.startswith((".", "/", "~")) or (os.path.isdir(source) and not _is_dataset(source)):
        if mount.source:
            raise OptionError(f"two sources: {source} and source={mount.source}; give one")
        if source.endswith("://") and mount.dataset in (None, "plain"):
            alone = getattr(sources.module_for(source), "ALONE", "")
            if alone:
                raise OptionError(f"{source} {alone}")
        return _absolute(source), mount.dataset or "plain"
    if _is_dataset(source):
        if mount.dataset not in (None, source):
            raise OptionError(f"two datasets: {source} and dataset={mount.dataset}; give one")
        return None if mount.source is None else _absolute(mount.source), source
    known = ", ".join(n.replace("_", "-") for n in datasets.names())
    stores = ", ".join(f"{n}://" for n in sources.names() if n != "local")
    raise OptionError(
        f"no source is called {source!r}: give a dataset ({known}), a URL ({stores}), a folder or a .toml file"
    )


def _settled(name: str, value: Any) -> Any:
    """The value of a source's option, a path made whole now, where it is not known yet which source that is."""
    kinds = {told.annotation for owner, told in all_options()[name].items() if owner.startswith("source")}
    is_path = any(kind is Path or Path in get_args(kind) for kind in kinds)
    return _absolute(value) if is_path and isinstance(value, str) and value else value


def _those_of(group: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in described(group) if key in given}


def _unknown(key: str, dataset: str, everything: Mapping[str, Iterable[str]]) -> str:
    if key in everything:
        return f"option {key!r} belongs to {' and '.join(everything[key])}, not to {dataset}"
    near = difflib.get_close_matches(key, everything, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(everything))}"
    return f"no option is called {key!r}: {hint}"


def _is_dataset(source: str) -> bool:
    return source.replace("-", "_") in datasets.names()


def _absolute(url: str) -> str:
    """A folder's path made whole now: the daemon's working directory is /."""
    return url if "://" in url else str(Path(os.path.expanduser(url)).absolute())


def _toml(file: Path) -> dict[str, Any]:
    import tomllib  # 5 ms, for those who have such a file

    try:
        values = tomllib.loads(file.read_text())
    except OSError as failure:
        raise OptionError(f"{file}: {failure.strerror}") from failure
    except (ValueError, RecursionError) as failure:  # no TOML, no UTF-8, a date that is none, lists in lists
        raise OptionError(f"{file}: not TOML: {failure}") from failure
    nested = [key for key, value in values.items() if isinstance(value, dict)]
    if nested:
        raise OptionError(f"{file}: [{nested[0]}]: options stand at the top of the file, not in tables")
    return values
