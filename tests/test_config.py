from pathlib import Path

import pytest

from mountd import config
from vfs.errors import OptionError


def load(source: str, text: str = "") -> config.Config:
    return config.load(source, config.parse_o(text))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("a=1,b", [("a", "1"), ("b", True)]),
        ("a=b=c,d=", [("a", "b=c"), ("d", "")]),
        (r"a=x\,y,b=2", [("a", "x,y"), ("b", "2")]),
        ("rw,,x-systemd.automount,comment=what,_netdev", [("rw", True), ("_netdev", True)]),
        ("", []),
    ],
)
def test_the_text_of_o_is_split_as_mount_writes_it(text: str, options: list) -> None:
    assert config.parse_o(text) == options


def test_what_mount_and_fstab_add_is_accepted_and_ignored() -> None:
    load("demo", "rw,noexec,nosuid,nodev,user,_netdev,nofail,noauto,relatime,x-systemd.mount-timeout=60,defaults")


def test_lists_are_joined_with_plus_and_everything_has_its_type() -> None:
    checked = load("demo", "views=e1+v3,cache_size=2G,umask=0027,frames=false,timeout=5,allow_other")
    assert checked.dataset_options.views == ["e1", "v3"]  # type: ignore[attr-defined]
    assert checked.cache.cache_size == 2 << 30
    assert (checked.mount.umask, checked.mount.frames, checked.mount.allow_other) == (0o27, False, True)
    assert checked.mount.timeout == 5


@pytest.mark.parametrize(("text", "size"), [("5", 5), ("7K", 7 << 10), ("1MiB", 1 << 20), ("3tb", 3 << 40)])
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert load("demo", f"cache_size={text}").cache.cache_size == size


def test_a_folder_becomes_an_absolute_path_before_the_daemon_changes_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    assert load("./x").url == str(tmp_path / "x")
    assert load("x").url == str(tmp_path / "x")
    assert load("assembly101", "source=x").url == str(tmp_path / "x")


def test_a_datasets_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load("demo").url is None
    assert load("./demo").url == str(tmp_path / "demo")


def test_the_dataset_of_a_url_can_be_said() -> None:
    checked = load("s3://bucket/a101", "dataset=assembly101,anonymous,views=v1")
    assert checked.dataset.__name__ == "vfs.datasets.assembly101"
    assert checked.source_options == {"anonymous": True}


@pytest.mark.parametrize(
    ("source", "text", "says"),
    [
        ("demo", "vews=e1", "did you mean 'views'"),
        ("/", "anonymous", "anonymous"),
        ("/", "views=e1", "belongs to dataset assembly101"),
        ("demo", "dataset=plain", "two datasets"),
        ("s3://b", "source=s3://c", "two sources"),
        ("s3://b", "views", "'views' belongs to"),
        ("demo", "views", "needs a value"),
        ("demo", "timeout=-1", "timeout"),
        ("demo", "frames=perhaps", "frames"),
        ("demo", "cache=maybe", "cache"),
        ("gopher://x", "", "no store"),
        ("demmo", "", "there|give a dataset"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(source: str, text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        load(source, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("views = 1", "dataset = "),
        ('dataset = "demo"\nviews = "e1"\nviews = "e2"', "not TOML"),
        ('dataset = "demo"\n[cache]\nsize = 1', "top of the file"),
        ('dataset = "demo"\ntimeout = "soon"', "timeout"),
        ('dataset = "demo"\nviews = [1]', "views"),
    ],
)
def test_a_wrong_toml_file_is_refused_in_one_line(tmp_path: Path, toml: str, says: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(toml)
    with pytest.raises(OptionError, match=says) as caught:
        load(str(file))
    assert "\n" not in str(caught.value)


def test_o_overrides_the_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('dataset = "demo"\nviews = ["e1"]\ncache_size = "3G"\n')
    checked = load(str(file), "views=v1")
    assert checked.dataset_options.views == ["v1"]  # type: ignore[attr-defined]
    assert checked.cache.cache_size == 3 << 30


def test_every_option_has_one_name_and_a_description() -> None:
    for name, (owner, field) in config.all_options().items():
        assert field.description, f"{name} of {owner}"
        assert name.isidentifier()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/egofs:/x", "HOME": "/home/a"}, "/var/cache/egofs"),
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/a"}, "/xdg/egofs"),
        ({"HOME": "/home/a"}, "/home/a/.cache/egofs"),
        ({}, "/var/cache/egofs"),
    ],
)
def test_the_cache_stands_where_the_system_expects_it(monkeypatch, environment: dict[str, str], folder: str) -> None:
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert config.default_cache_dir() == Path(folder)
