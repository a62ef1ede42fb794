"""What to mount, where and how: from SOURCE, `-o`, flags and TOML to one checked `Config`.

Every option exists once, as a field of one of these groups: `MountOptions`, `CacheOptions` and `LogOptions` here,
`Options` of the source's module, `Options` of the dataset's module. It has the same name in the TOML file, behind `-o`
and as a flag (`_` written `-`), and its value is read by one reader wherever it stands. Behind `-o` and in flags the
items of a list are joined with `+` (`\\+` is a plus); behind `-o`, `\\,` is a comma within a value.

The command line goes before the file. Twice in the command line, or in two of its forms, is once if it says the same,
and refused if it does not. Relative paths are those of the working directory, in a file those of the file's folder.

Called by the command line and the mount helper before anything is mounted; from the main thread.
"""

import difflib
import functools
import json
import os
import re
import stat
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mountd import secrets
from vfs import datasets, sources
from vfs.errors import OptionError
from vfs.options import Given, Option, as_dict, described, option, option_group, read, shown_path, whole_path

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# What mount(8) and fstab pass on and what is meant for the kernel or for systemd: accepted, and nothing to do with us.
# `rw` too: one gets it without asking for it, and the mount is read-only all the same.
_IGNORED = {
    "ro", "rw", "auto", "noauto", "user", "users", "owner", "group", "defaults", "_netdev", "nofail", "atime",
    "noatime", "relatime", "norelatime", "strictatime", "lazytime", "diratime", "nodiratime", "async", "sync",
    "dev", "nodev", "suid", "nosuid", "exec", "noexec",
}  # fmt: skip
_IGNORED_FORM = re.compile(r"(x-|X-|comment=).*")

# A list of all recordings of the largest dataset takes half of this.
_MOST_TOML_BYTES = 1 << 20
# Of a key. tomllib's time grows with their square: a file of 400 KB that is one key takes minutes.
_MOST_DOTS = 20
_QUOTED = re.compile(r'"[^"]*"|\'[^\']*\'')


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


def _place(text: str) -> str:
    """A URL as it is, a folder by its whole path."""
    if not text.strip():
        raise ValueError("no place")
    return text if "://" in text else str(whole_path(text))


def _size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)(i?B)?", text, re.IGNORECASE)
    if not match:
        raise ValueError("no size")
    return int(match[1]) * _UNITS[match[2].upper()]


@option_group
class MountOptions:
    """How the mount behaves, whatever is mounted."""

    source: str | None = option(
        default=None,
        description="where the dataset's tree is, when not in its own store",
        form="a URL or a folder",
        parse=_place,
    )
    dataset: str | None = option(
        default=None,
        description="what the tree is, when SOURCE is a URL or folder",
        form=f"one of {', '.join(name.replace('_', '-') for name in datasets.names())}",
        check=lambda name: _is_dataset(name),
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
        is_text=True,
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
    metrics_port: int = option(
        default=0,
        description="port of this machine alone at which GET /metrics is answered, for Prometheus (0: none)",
        form="a port from 1 to 65535, or 0 for none",
        check=lambda port: 0 <= port <= 65535,
    )


@option_group
class CacheOptions:
    """What is kept on disk."""

    cache_dir: Path = option(factory=default_cache_dir, description="where chunks and listings are kept")
    cache_size: int = option(
        default="50G",
        description="most that the chunks may take",
        form="a size above 0 such as 50G",
        parse=_size_bytes,
        check=lambda size_bytes: size_bytes > 0,
    )
    cache: Literal["auto", "on", "off"] = option(
        default="auto", description="keep bytes on disk: auto keeps those of remote sources"
    )


@option_group
class LogOptions:
    """What is written down of what happens."""

    log: Literal["auto", "file", "journal", "stderr"] = option(
        default="auto",
        description="where the log goes; auto: a file in <cache_dir>/log, with -f standard error",
    )
    log_level: Literal["debug", "info", "warning", "error"] = option(
        default="info", description="the least that is logged"
    )
    log_format: Literal["text", "json"] = option(
        default="text", description="lines for people, or one JSON object a line"
    )


OF_ANY_MOUNT: tuple[type, ...] = (MountOptions, CacheOptions, LogOptions)


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
    log: LogOptions
    source_options: Mapping[str, Any]
    dataset_options: Any

    def source_module(self, url: str) -> tuple[types.ModuleType, Any]:
        """The store for a URL, with its options. Raises OptionError for an option that this store does not have."""
        module = sources.module_for(url)
        known = described(module.Options)
        if others := self.source_options.keys() - known.keys():
            told = ", ".join(known) or "none"
            raise OptionError(f"option {min(others)!r} is not one of source {_name_of(module)}: it has {told}")
        return module, module.Options(**self.source_options)

    def values(self) -> dict[str, Any]:
        """Every option that was given or has a default here, by name, as what JSON knows."""
        groups = (as_dict(self.mount), as_dict(self.cache), self.source_options, as_dict(self.dataset_options))
        flat = {name: value for group in groups for name, value in group.items()}
        values: dict[str, Any] = json.loads(json.dumps(flat, default=str))
        return values


def load(source: str, options: Iterable[tuple[str, str | bool]]) -> Config:
    """The configuration of `egofs mount SOURCE` with options as (name, text, or True for a bare name).

    Raises OptionError, one line that says which option and what would be right.
    """
    secrets.refuse_text("SOURCE", source)
    given: dict[str, list[Given]] = {}
    for name, value in options:
        given.setdefault(name, []).append(Given(value))
    is_file, called = source.endswith(".toml"), source
    if is_file:
        given = {key: [value] for key, value in _toml(Path(source)).items()} | given
    given = {key: times for key, times in given.items() if not _is_ignored(key)}
    for name, times in given.items():
        for each in times:
            secrets.refuse(name, each)
    if is_file:
        source = _source_in(Path(source), given)
    # The file and not what is in it: by that name mount(8) finds that a line of fstab is mounted already.
    return replace(_resolve(source, given), name=called)


def parse_o(text: str) -> list[tuple[str, str | bool]]:
    """The options of one `-o a,b=c`, in order; `\\,` is a comma within a value."""
    options: list[tuple[str, str | bool]] = []
    for item in re.split(r"(?<!\\),", text):
        item = item.replace("\\,", ",").lstrip()
        if not item:
            continue
        if _IGNORED_FORM.fullmatch(item):
            continue
        name, equals, value = item.partition("=")
        if not name.strip():
            raise OptionError("an option without a name: write NAME=VALUE, and \\\\, for a comma in a value")
        options.append((name, value if equals else True))
    return options


def of_egofs(options: Iterable[tuple[str, str | bool]]) -> list[tuple[str, str | bool]]:
    """The options without those that mount(8) passes on and that mean nothing here."""
    return [(name, value) for name, value in options if not _is_ignored(name)]


def _is_ignored(name: str) -> bool:
    return name in _IGNORED or bool(_IGNORED_FORM.fullmatch(name))


@functools.cache
def all_options() -> Mapping[str, Mapping[str, Option]]:
    """Every option there is, as name → whose it is → what can be said of it: datasets may have the same names."""
    found: dict[str, dict[str, Option]] = {}
    seen: set[type] = set()
    for owner, group in groups():
        if group in seen and group not in OF_ANY_MOUNT:  # the demo's are those of a dataset
            continue
        seen.add(group)
        for name, told in described(group).items():
            found.setdefault(name, {})[owner] = told
    return found


def groups() -> Iterator[tuple[str, type]]:
    """Every option group there is, with whose it is: "any mount", "source NAME", "dataset NAME"."""
    yield from (("any mount", group) for group in OF_ANY_MOUNT)
    yield from ((f"source {name}", sources.module_for(f"{name}://").Options) for name in sources.names())
    yield from ((f"dataset {name.replace('_', '-')}", datasets.module_for(name).Options) for name in datasets.names())


def takers(source: str) -> set[str]:
    """Whose options a SOURCE takes, as `groups` names them. Raises OptionError for what is none."""
    secrets.refuse_text("SOURCE", source)
    if _is_dataset(source):
        module = datasets.module_for(source)
        store = getattr(module, "STORE", None)
        return {"any mount", f"dataset {source.replace('_', '-')}"} | ({f"source {store}"} if store else set())
    if _is_place(source):
        return {"any mount", f"source {_name_of(sources.module_for(source))}"}
    near = difflib.get_close_matches(source, [*all_options(), *(n.replace("_", "-") for n in datasets.names())], 1)
    hint = f"did you mean {near[0]!r}?" if near else "`egofs options` lists all there are"
    raise OptionError(f"no option and no source is called {source!r:.80}: {hint}")


def _resolve(source: str, given: Mapping[str, Sequence[Given]]) -> Config:
    mount = MountOptions(**_those_of(MountOptions, given))
    url, name = _meant(source, mount)
    dataset = datasets.module_for(name)
    here = {key for group in (*OF_ANY_MOUNT, dataset.Options) for key in described(group)}
    of_source = {key: times for key, times in given.items() if key not in here}
    store = sources.module_for(url).Options if url is not None else None
    of_store = described(store).keys() if store else set()
    if of_source.keys() - of_store:
        _refuse_unknown(of_source, name, here | of_store, url)
    config = Config(
        name=source,
        url=url,
        dataset=dataset,
        mount=mount,
        cache=CacheOptions(**_those_of(CacheOptions, given)),
        log=LogOptions(**_those_of(LogOptions, given)),
        source_options={key: _only(store or _store_with(key), key, times) for key, times in of_source.items()},
        dataset_options=dataset.Options(**_those_of(dataset.Options, given)),
    )
    if url is None:
        return config
    _, settled = config.source_module(url)
    # Paths as they are in this working directory, those that are defaults too: the daemon's directory is another.
    kept = {key: value for key, value in as_dict(settled).items() if key in of_source or isinstance(value, Path)}
    return replace(config, source_options=kept)


def _meant(source: str, mount: MountOptions) -> tuple[str | None, str]:
    """The URL, None for the dataset's own, and the dataset's name that SOURCE stands for."""
    if _is_place(source):
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


def _source_in(file: Path, given: dict[str, list[Given]]) -> str:
    """What stands for SOURCE in a file of options, which is taken out of them."""
    name = next((key for key in ("dataset", "source") if key in given), None)
    if name is None:
        raise OptionError(f'{shown_path(file)}: say dataset = "NAME" or source = "URL or folder" (or both) in it')
    what: str = _only(MountOptions, name, given.pop(name))
    return what


def _those_of(group: type, given: Mapping[str, Sequence[Given]]) -> dict[str, Any]:
    return {key: _only(group, key, given[key]) for key in described(group) if key in given}


def _only(group: type, name: str, times: Sequence[Given]) -> Any:
    """What an option is that was given, perhaps several times. Raises OptionError for values that differ."""
    values = [read(group, name, given) for given in times]
    for given, value in zip(times, values, strict=True):
        if value != values[0]:
            first, other = (f"{'true' if each is True else repr(each):.80}" for each in (times[0].value, given.value))
            raise OptionError(f"option {name!r} is given twice, as {first} and as {other}: give it once")
    return values[0]


def _store_with(name: str) -> type:
    """The options of a store that has this one; where several have it, it is read alike."""
    return next(group for owner, group in groups() if owner.startswith("source") and name in described(group))


def _refuse_unknown(
    of_source: Mapping[str, Sequence[Given]], dataset: str, here: Collection[str], url: str | None
) -> None:
    """Raises OptionError for what can be no option of the source; `here` are those that this mount takes. Only now,
    to explain it, or because the dataset chooses its store, all modules are imported."""
    everything = all_options()
    for name, times in sorted(of_source.items()):
        whose = everything.get(name, {})
        of_some_source = any(owner.startswith("source") for owner in whose)
        if name in here or (url is None and of_some_source):
            continue
        file = times[0].file
        place = f"{shown_path(file)}: " if file else ""
        if whose:
            other = f"source {_name_of(sources.module_for(url or ''))}" if of_some_source else dataset
            raise OptionError(f"{place}option {name!r} belongs to {' and '.join(whose)}, not to {other}")
        near = difflib.get_close_matches(name, here, 1) or difflib.get_close_matches(name, everything, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`egofs options` lists all there are"
        raise OptionError(f"{place}no option is called {name!r:.80}: {hint}")


def _is_place(source: str) -> bool:
    """Whether SOURCE is a URL or a folder; a dataset's name goes before a folder of that name."""
    return "://" in source or source.startswith((".", "/", "~")) or (os.path.isdir(source) and not _is_dataset(source))


def _name_of(store: types.ModuleType) -> str:
    return store.__name__.rpartition(".")[2]


def _is_dataset(source: str) -> bool:
    return source.replace("-", "_") in datasets.names()


def _absolute(url: str) -> str:
    """A folder's path made whole now: the daemon's working directory is /."""
    try:
        return _place(url)
    except ValueError as failure:
        raise OptionError(f"{url!r}: {failure}: give a whole path, or a URL") from failure


def _toml(file: Path) -> dict[str, Given]:
    """The options in a file, each as TOML has it. Raises OptionError."""
    import tomllib  # 5 ms, for those who have such a file

    named = shown_path(file)
    try:
        text = _bytes_of(file).decode("utf-8-sig")
        if any(_QUOTED.sub("", line).count(".") > _MOST_DOTS for line in text.splitlines()):
            raise RecursionError
        values = tomllib.loads(text)
    except OSError as failure:
        raise OptionError(f"{named}: {failure.strerror}") from failure
    except UnicodeDecodeError as failure:
        line = failure.object.count(b"\n", 0, failure.start) + 1
        raise OptionError(f"{named}: not TOML, which is in UTF-8: line {line} has a byte that is not") from failure
    except ValueError as failure:  # no TOML, a date that is none, or a number of thousands of digits
        raise OptionError(f"{named}: not TOML: {failure}") from failure
    except RecursionError as failure:
        raise OptionError(f"{named}: nested too deeply: options stand at the top of the file") from failure
    nested = [key for key, value in values.items() if isinstance(value, dict)]
    if nested:
        raise OptionError(
            f"{named}: table {nested[0]!r:.80}: options stand at the top of the file: leave lines in brackets out"
        )
    return {key: Given(value, file) for key, value in values.items()}


def _bytes_of(file: Path) -> bytes:
    """What a file has. Raises OSError, and OptionError for what is no file of options."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):  # a pipe would be waited for until somebody writes
        what = "a folder" if stat.S_ISDIR(mode) else "no ordinary file"
        raise OptionError(f"{shown_path(file)}: is {what}: give a file with options in TOML")
    with file.open("rb") as opened:
        content = opened.read(_MOST_TOML_BYTES + 1)
    if len(content) > _MOST_TOML_BYTES:
        raise OptionError(f"{shown_path(file)}: larger than {_MOST_TOML_BYTES >> 20} MiB: that is no file of options")
    return content
