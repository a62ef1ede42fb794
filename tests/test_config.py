import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import pytest

from mountd import config
from tests.mounting import egofs
from vfs.errors import OptionError
from vfs.options import as_dict


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
    assert checked.dataset_options.views == ("e1", "v3")
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


@pytest.mark.parametrize("url", ["https://", "gdrive://", "hf://"])
def test_a_bare_scheme_is_refused_by_its_store(url: str) -> None:
    checked = load(url)
    module, options = checked.source_module(url)
    with pytest.raises(OptionError, match=f"^'{url}' "):
        module.open_source(url, options)


def test_the_dataset_of_a_url_can_be_said() -> None:
    checked = load("s3://bucket/a101", "dataset=assembly101,anonymous,views=v1")
    assert checked.dataset.__name__ == "vfs.datasets.assembly101"
    assert checked.source_options == {"anonymous": True}


@pytest.mark.parametrize(
    ("source", "text", "says"),
    [
        ("demo", "vews=e1", "did you mean 'views'"),
        ("/", "anonymous", "'anonymous' belongs to source s3, not to source local"),
        ("/", "views=e1", "belongs to dataset assembly101"),
        ("demo", "dataset=plain", "two datasets"),
        ("s3://b", "source=s3://c", "two sources"),
        ("s3://b", "views", "'views' belongs to"),
        ("demo", "views", "needs a value"),
        ("demo", "timeout=-1", "timeout"),
        ("demo", "frames=perhaps", "frames"),
        ("demo", "cache=maybe", "cache"),
        ("gopher://x", "", "no store"),
        ("s3://", "", "names no bucket: write s3://BUCKET"),
        ("youtube://", "", "lists nothing by itself: say -o dataset=kinetics"),
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
        ('dataset = ["demo"]', "option dataset=.'demo'.: write one of assembly101"),
        ('dataset = "demo"\nviews = "e1"\nviews = "e2"', "not TOML"),
        ('dataset = "demo"\n[cache]\nsize = 1', "table 'cache': options stand at the top of the file"),
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
    assert checked.dataset_options.views == ("v1",)
    assert checked.cache.cache_size == 3 << 30


@pytest.mark.parametrize(
    ("source", "text", "says"),
    [
        ("demo", "views=e1,views=v1", "option 'views' is given twice, as 'e1' and as 'v1': give it once"),
        ("demo", "frames,frames=no", "option 'frames' is given twice, as true and as 'no': give it once"),
        (
            "demo",
            "cache_size=1G,cache_size=1G,cache_size=2G",
            "option 'cache_size' is given twice, as '1G' and as '2G'",
        ),
        ("s3://b", "region=x,region=y", "option 'region' is given twice"),
        ("assembly101", "token_file=/x,token_file=/y", "option 'token_file' is given twice"),
        ("kinetics", "source=/x,source=/y", "option 'source' is given twice"),
    ],
)
def test_an_option_that_is_given_twice_and_differs_is_refused(source: str, text: str, says: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(says)}") as caught:
        load(source, text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("demo", "views=e1,views=e1"),
        ("demo", "frames,frames=true,frames=1"),
        ("demo", "cache_size=2G,cache_size=2048M"),
        ("s3://b", "region=x,region=x"),
        ("demo", "rw,ro,rw,user,_netdev,_netdev,x-a=1,x-a=2,comment=a,comment=b,nofail,atime,noatime"),
    ],
)
def test_an_option_that_is_given_twice_and_says_the_same_is_taken(source: str, text: str) -> None:
    load(source, text)


def test_options_that_are_not_ours_are_ignored_in_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('dataset = "demo"\nro = true\n_netdev = true\nx-systemd = 1\n')
    assert config.load(str(file), []) == replace(config.load("demo", []), name=str(file))


def test_paths_in_a_file_are_relative_to_its_folder_and_those_of_the_command_line_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here / "data", there / "data"):
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = there / "x.toml"
    file.write_text(
        'dataset = "kinetics"\nsource = "data"\ncsv = ["data/a.csv", "~/here/data/a.csv", "val/b.csv"]\n'
        'cache_dir = "c"\n'
    )
    (here / "link").symlink_to(there)
    assert config.load("link/x.toml", []).url == str(here / "link/data")
    by_file = config.load(str(file), [])
    assert by_file.url == str(there / "data")
    assert by_file.dataset_options.csv == (str(there / "data/a.csv"), str(here / "data/a.csv"), "val/b.csv")
    assert by_file.cache.cache_dir == there / "c"
    mixed = config.load(str(file), [("csv", "data/a.csv+val/b.csv"), ("cache_dir", "~/c"), ("source", "./data")])
    assert mixed.url == str(here / "data")
    assert mixed.dataset_options.csv == (str(here / "data/a.csv"), "val/b.csv")
    assert mixed.cache.cache_dir == tmp_path / "c"
    file.write_text('source = "https://host/x"\nmanifest = "./files.txt"\ntoken_file = "token"\n')
    assert config.load(str(file), []).source_options == {
        "manifest": str(there / "files.txt"),
        "token_file": there / "token",
    }
    file.write_text('dataset = "assembly101"\ntoken_file = "token"\n')
    assert config.load(str(file), []).source_options == {"token_file": there / "token"}
    file.write_text('source = "data"\n')
    assert config.load(str(file), []).url == str(there / "data")


def test_no_path_of_any_option_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", "home")
    for source in ("assembly101", "ego4d", "kinetics", "s3://b", "gdrive://x", "https://host/x", "hf://datasets/a/b"):
        checked = config.load(source, [])
        groups = (checked.mount, checked.cache, checked.log, checked.dataset_options)
        values = [value for group in groups for value in as_dict(group).values()] + [*checked.source_options.values()]
        assert [path for path in values if isinstance(path, Path) and not path.is_absolute()] == []


def test_a_relative_path_in_a_working_directory_that_is_gone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OptionError, match=r"^option cache_dir='c': write a path"):
        load("s3://b", "cache_dir=c")
    with pytest.raises(OptionError, match=r"^'./x': relative to nothing: give a whole path, or a URL$"):
        load("./x")
    assert load("s3://b", "cache_dir=/c").cache.cache_dir == Path("/c")


SECRET = "s3cr3t"
HF, AKIA = "hf_" + "aB3" * 11, "AKIA" + "ABCD" * 4


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, "aws_profile=NAME") for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")),
        *(
            (name, "aws_profile=NAME")
            for name in ("secret_key", "access_key", "AWS_SECRET_ACCESS_KEY", "secret-access-key")
        ),
        *((name, "token_file=FILE") for name in ("token", "hf_token", "api_key", "apikey", "secret", "access_token")),
        *((name, "netrc=FILE") for name in ("password", "passwd", "http_password")),
        *((name, "credentials=FILE") for name in ("client_secret", "refresh_token")),
        ("cookie", "cookies_file=FILE"),
    ],
)
def test_an_option_that_is_called_like_a_secret_is_refused_with_where_it_belongs(
    tmp_path: Path, name: str, says: str
) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'source = "s3://b"\n{name} = "{SECRET}"\n')
    said = []
    for source, options in (("s3://b", [(name, SECRET)]), (str(file), [])):
        with pytest.raises(OptionError, match=says) as caught:
            config.load(source, options)
        said.append(str(caught.value))
    assert said[1] == f"{file}: {said[0]}"
    assert SECRET not in "".join(said)
    assert "\n" not in said[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", f"https://user:{SECRET}@host/x"),
        ("source", f"https://user:p@{SECRET}@host/x"),
        ("source", f"s3://{SECRET}@bucket"),
        ("source", f"s3://key:abc/{SECRET}@bucket/prefix"),
        ("source", f"https://host/x?X-Amz-Credential=a&X-Amz-Signature={SECRET}"),
        ("source", f"https://host/x?a=b&sig={SECRET}"),
        ("manifest", f"https://host/list?token={SECRET}"),
        ("endpoint_url", f"http://{SECRET}@127.0.0.1:9000"),
        ("csv", f"https://host/a.csv+https://host/b.csv?access_token={SECRET}"),
        ("token_file", HF),
        ("aws_profile", AKIA),
        ("nonsense", HF),
        (HF, "x"),
    ],
)
def test_a_value_that_is_a_secret_or_a_url_with_one_is_refused_without_repeating_it(
    tmp_path: Path, name: str, value: str
) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f'dataset = "kinetics"\n{name} = {json.dumps(value)}\n')
    attempts = [("kinetics", [(name, value)]), (str(file), [])]
    if name == "source":
        file.write_text(f"source = {json.dumps(value)}\n")
        attempts.append((value, []))
    for source, options in attempts:
        with pytest.raises(OptionError, match=r"everybody can see|was given as an option") as caught:
            config.load(source, options)
        assert not {SECRET, HF, AKIA} & set(re.findall(r"\w+", str(caught.value)))


def test_no_option_that_there_is_is_taken_for_a_secret() -> None:
    from mountd import secrets
    from vfs.options import Given

    for name, told in config.all_options().items():
        for each in told.values():
            secrets.refuse(name, Given(str(each.default)))
    for url in (
        "s3://bucket/a@b",
        "hf://datasets/org/name@refs/pr/1",
        "http://h:80/a@b",
        "https://host/a?b=c",
        "/data/hf_models/x?sig=1",
    ):
        secrets.refuse_text("SOURCE", url)


BAD_FILES = [
    (b"\xff\xfe", "not TOML, which is in UTF-8: line 1 has a byte that is not"),
    (b'dataset = "demo"\n# \xe9t\xe9\n', "not TOML, which is in UTF-8: line 2 has a byte that is not"),
    (b'dataset = "demo"\0', r"not TOML: .*\(at line 1, column 17\)"),
    (b'dataset = "demo"\nviews = ["e1"', "not TOML: .*line 2|not TOML: .*end of document"),
    (b'dataset = "demo"\nviews = "e1"\nviews = "v1"\n', r"not TOML: .*\(at line 3, column \d+\)"),
    (b"dataset = " + b"[" * 100_000, "nested too deeply"),
    (b"a = " + b"{a = " * 100_000, "nested too deeply"),
    (b"a." * 200_000 + b"a = 1", "nested too deeply"),
    (b'"a" . ' * 100_000 + b"a = 1", "nested too deeply"),
    (b"uid = " + b"9" * 5000, "not TOML: Exceeds the limit"),
    (b'dataset = "demo"\nuid = [5]', r"option uid=\[5\]: write a whole number$"),
    (b'dataset = "demo"\nuid = true', "option uid=true: write a whole number$"),
    (b'dataset = "demo"\nframes = "perhaps"', "option frames='perhaps': write true or false$"),
    (
        b'dataset = "demo"\numask = 27',
        r'option umask=27: write an octal permission mask such as 0077 \(in TOML in "…"\)$',
    ),
    (b'dataset = "demo"\nveiws = ["e1"]', "no option is called 'veiws': did you mean 'views'"),
    (b'dataset = "demo"\nversion = "v2"', "option 'version' belongs to dataset ego4d, not to demo"),
    (
        b'source = "s3://b"\ntoken_file = "x"',
        "option 'token_file' belongs to source hf and source http, not to source s3",
    ),
    (b'dataset = "demo"\n[cache]\n', "table 'cache'"),
    (b'dataset = "demo"\n"a\\u001bb" = 1\n', r"no option is called 'a\\x1bb'"),
    (b'dataset = "demo"\n"" = 1\n', "no option is called ''"),
    (b"", "say dataset = "),
]


@pytest.mark.parametrize(("content", "says"), BAD_FILES, ids=[says[:30] for _, says in BAD_FILES])
def test_a_file_that_cannot_be_used_is_refused_in_one_line_with_its_name(
    tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(OptionError, match=rf"^{re.escape(str(file))}: (?:{says})") as caught:
        load(str(file))
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 300 + len(str(file))


def test_what_is_no_file_of_options_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "link.toml").symlink_to("link.toml")
    with (tmp_path / "large.toml").open("wb") as large:
        large.truncate(100 << 20)
    for name, says in {
        "folder": "is a folder: give a file with options in TOML",
        "pipe": "is no ordinary file",
        "large": "larger than 1 MiB",
        "link": "Too many levels of symbolic links",
        "gone\nname": "No such file or directory",
    }.items():
        with pytest.raises(OptionError, match=says) as caught:
            load(str(tmp_path / f"{name}.toml"))
        assert str(caught.value).isprintable()


def test_a_file_may_begin_with_a_byte_order_mark_and_end_its_lines_as_windows_does(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b'\xef\xbb\xbfdataset = "demo"\r\nviews = ["e1"]\r\n')
    assert load(str(file)).dataset_options.views == ("e1",)


def test_a_list_of_many_names_with_dots_is_read(tmp_path: Path) -> None:
    names = [f"a.b-{number}.c" for number in range(5000)]
    file = tmp_path / "x.toml"
    file.write_text(f'dataset = "demo"\nvideos = {json.dumps(names)}\n')
    assert load(str(file)).dataset_options.videos == tuple(names)


@pytest.mark.parametrize("text", ["=x", "views=e1,=x", "="])
def test_an_option_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"^an option without a name: write NAME=VALUE"):
        load("demo", text)


def test_a_name_with_control_characters_is_shown_escaped() -> None:
    with pytest.raises(OptionError, match=r"^no option is called 'a\\x1b\[31m\\n': `egofs options`") as caught:
        load("demo", "a\x1b[31m\n=1")
    assert str(caught.value).isprintable()


def test_an_option_that_resembles_none_is_answered_with_the_command_that_lists_them() -> None:
    with pytest.raises(OptionError, match=r"^no option is called 'qqqqqq': `egofs options` lists all there are$"):
        load("/", "qqqqqq=1")


def test_the_nearest_option_is_one_that_this_mount_takes() -> None:
    with pytest.raises(OptionError, match="did you mean 'version'"):
        load("ego4d", "versions=v2")
    with pytest.raises(OptionError, match="did you mean 'region'"):
        load("s3://bucket", "versions=v2,regin=x")


def test_the_options_of_a_store_that_the_dataset_chooses_are_taken() -> None:
    assert load("assembly101", "anonymous").source_options == {"anonymous": True}


def test_every_option_has_one_name_and_a_description() -> None:
    for name, told in config.all_options().items():
        assert all(field.description for field in told.values()), name
        assert name.isidentifier()
        assert len({field.annotation for field in told.values()}) == 1, f"{name} is of one type, whose ever it is"


def test_an_option_that_several_datasets_have_is_told_for_each() -> None:
    assert config.all_options()["views"].keys() == {"dataset assembly101", "dataset egoexo4d"}
    with pytest.raises(OptionError, match="belongs to dataset assembly101 and dataset egoexo4d, not to ego4d"):
        load("ego4d", "views=ego")


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


INF = float("inf")

# What each kind of option makes of what a person may write, in TOML (a value) or behind -o (a text).
TAKEN: list[tuple[str, object, object]] = [
    *(("frames", value, True) for value in (True, 1, 1.0, "1", "true", "TRUE", "tRue", "t", "y", "yes", "on")),
    *(("frames", value, False) for value in (False, 0, 0.0, "0", "false", "False", "f", "n", "no", "off")),
    *(("uid", value, 5) for value in (5, 5.0, "5", "+5", " 5 ", "5.0", "05")),
    *(("uid", value, other) for value, other in ((0, 0), ("1_000", 1000), ("-5", -5), (10**30, 10**30))),
    *(("umask", value, 0o27) for value in ("27", "027", "0027")),
    *(("umask", value, 0) for value in ("0", "000")),
    *(("listing_age", value, 0.0) for value in (0, 0.0, "0", "0.0", "-0")),
    *(("listing_age", value, 5.5) for value in (5.5, "5.5", " 5.5 ", "+5.5", "55e-1")),
    *(("listing_age", value, INF) for value in (INF, "inf", "Infinity")),
    *(("timeout", value, 60.0) for value in (60, 60.0, "60", "0060", "6_0")),
    *(("cache_size", value, 5) for value in (5, 5.0, "5", "05", "5B")),
    *(("cache_size", value, 50 << 30) for value in (50 << 30, "50G", "50g", "50GB", "50GiB", "51200M")),
    *(("cache", value, value) for value in ("auto", "on", "off")),
    *(("log", value, value) for value in ("auto", "file", "journal", "stderr")),
    *(("log_level", value, value) for value in ("debug", "info", "warning", "error")),
    *(("log_format", value, value) for value in ("text", "json")),
    *(("addressing_style", value, value) for value in ("auto", "path", "virtual")),
    *(("listing", value, value) for value in ("auto", "index", "webdav", "manifest")),
    *(("source", value, value) for value in ("s3://b", "/5", "/a\nb", "/x ")),
    *(("cache_dir", value, Path(value)) for value in ("/x", "/x y", "/5")),
    *(("views", value, ("v1", "e1")) for value in ("v1+e1", ["v1", "e1"])),
    *(("views", value, ("all",)) for value in ("all", ["all"])),
    *(("region", value, value) for value in ("eu-west-2", "")),
    *(("videos", value, seen) for value, seen in (("", ("",)), ([], ()), ("a+", ("a", "")), ("5", ("5",)))),
    *(("version", value, "v2_1") for value in ("v2_1", "v2.1")),
    *(("video_uid_file", value, Path(value)) for value in ("/x", "/5")),
]
DAY, MOMENT = date(2020, 1, 1), datetime(2020, 1, 1)
# Options of another dataset than the demo, which the others are tried with.
HOMES = {"listing": "https://host/folder", "version": "ego4d", "video_uid_file": "ego4d"}
REFUSED: list[tuple[str, object]] = [
    *(("frames", value) for value in (2, -1, 1.5, INF, "", "maybe", " true", "2", "1.0", "ja", [], [True], DAY)),
    *(("uid", value) for value in (True, 1.5, INF, -INF, float("nan"), "", "5.5", "0x10", "1e3", "inf", "me", "5 6")),
    *(("uid", value) for value in ("٥", "9" * 5000, [], [5], ["5"], DAY, MOMENT)),
    *(
        ("umask", value)
        for value in (True, 0, 27, 0o27, 1.5, INF, "", "8", "+5", " 5 ", "-5", "0o77", "01234", "1777", "٥", [], DAY)
    ),
    *(
        ("listing_age", value)
        for value in (True, -1, -0.5, float("nan"), "-1", "nan", "", "soon", "0x10", "٥", [], [1])
    ),
    *(
        ("timeout", value)
        for value in (True, 0, 0.0, -1, -INF, "0", "-1", "nan", "", "1m", "1,5", [], [60], DAY, MOMENT)
    ),
    *(
        ("cache_size", value)
        for value in (True, 0, -1, 1.5, INF, "0", "0G", "", "G", "5X", "-1K", "7 K", "1.5G", " 5 ")
    ),
    *(("cache_size", value) for value in ([], [5], ["5G"], DAY)),
    *(("cache", value) for value in (True, False, 1, 1.5, "", "maybe", "AUTO", "true", " on", [], ["on"], DAY)),
    *(("log", value) for value in (True, "syslog", 1)),
    *(("log_level", value) for value in (True, "INFO", 20, "warn")),
    *(("log_format", value) for value in (True, "xml", ["json"])),
    *(("addressing_style", value) for value in (True, "Path", "paths", ["path"])),
    *(("listing", value) for value in (True, "Index", 5, ["index"])),
    *(("region", value) for value in (True, False, 5, [], ["eu-west-2"], MOMENT)),
    *(("source", value) for value in (True, 5, 1.5, "", " ", "a\0b", [], ["s3://b"], DAY)),
    *(("cache_dir", value) for value in (True, False, 0, 1.5, [], ["/x"], DAY, MOMENT)),
    *(("views", value) for value in (True, False, 1, 1.5, "", "e5", "v1+", "v1+e5", " v1", "v1,e1", "ALL")),
    *(("views", value) for value in ([1], ["v1", 1], ["e5"], [["v1"]], [True], [{"v1": 1}], DAY)),
    *(("videos", value) for value in (True, 5, [5], ["a", 5], [["a"]], DAY)),
    *(("version", value) for value in (True, 2, "2", "v3", "", ["v2"], DAY)),
    *(("video_uid_file", value) for value in (True, 5, ["/x"], DAY)),
]


# What is to be written instead.
FORMS = {
    "frames": "true or false",
    "uid": "a whole number",
    "umask": 'an octal permission mask such as 0077 (in TOML in "…")',
    "listing_age": "a number of seconds, 0 or more",
    "timeout": "a number of seconds above 0",
    "cache_size": "a size above 0 such as 50G",
    "cache": "one of auto, on, off",
    "log": "one of auto, file, journal, stderr",
    "log_level": "one of debug, info, warning, error",
    "log_format": "one of text, json",
    "addressing_style": "one of auto, path, virtual",
    "listing": "one of auto, index, webdav, manifest",
    "region": 'a text (in TOML in "…")',
    "source": "a URL or a folder",
    "cache_dir": 'a path (in TOML in "…")',
    "views": "one of all, fixed, egocentric, v1, v2, v3, v4, v5, v6, v7, v8, e1, e2, e3, e4, or several of them",
    "videos": 'a text (in TOML in "…")',
    "version": "one of v1, v2, v2_1",
    "video_uid_file": 'a path (in TOML in "…")',
}


def toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml(item)}' for key, item in value.items())}}}"
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, float) else json.dumps(value)


def from_toml(name: str, value: object, folder: Path) -> object:
    """What an option is that a TOML file has."""
    file = folder / "x.toml"
    home = HOMES.get(name, "demo")
    file.write_text(f'{"source" if "/" in home else "dataset"} = "{home}"\n{name} = {toml(value)}\n')
    return option_of(config.load(str(file), []), name)


def option_of(checked: config.Config, name: str) -> object:
    store = checked.source_module(checked.url or "s3://bucket")[1]
    groups = (checked.mount, checked.cache, checked.log, checked.dataset_options, store)
    return next(getattr(group, name) for group in groups if hasattr(group, name))


@pytest.mark.parametrize(("name", "value", "read"), TAKEN, ids=str)
def test_a_right_value_is_taken(tmp_path: Path, name: str, value: object, read: object) -> None:
    found = from_toml(name, value, tmp_path)
    assert (found, type(found)) == (read, type(found) if isinstance(read, Path) else type(read))
    if isinstance(value, str):
        assert option_of(config.load(HOMES.get(name, "demo"), [(name, value)]), name) == read


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=lambda value: str(value)[:20])
def test_a_wrong_value_is_refused_with_what_to_write(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(OptionError) as caught:
        from_toml(name, value, tmp_path)
    place, said = str(caught.value).split(": ", 1)
    assert place == str(tmp_path / "x.toml")
    assert "\n" not in said
    assert len(said) < 250
    shown, form = re.fullmatch(rf"option {name}=(.*): write (.*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
    assert form in (FORMS[name], "texts: joined with + behind -o, a list in TOML")
    if isinstance(value, bool | date):
        assert shown == toml(value)
    else:
        assert shown.lower() in repr(value).lower() or shown == repr(value.partition("+")[2])
    if isinstance(value, str) and "\0" not in value:
        with pytest.raises(OptionError, match=f"^{re.escape(said)}$"):
            option_of(config.load(HOMES.get(name, "demo"), [(name, value)]), name)


def test_every_kind_of_option_is_in_these_tables() -> None:
    kinds = {name: str(field.annotation) for name, told in config.all_options().items() for field in told.values()}
    assert {kinds[name] for name, *_ in TAKEN} == {kinds[name] for name, *_ in REFUSED} == set(kinds.values())


def test_a_group_of_options_is_frozen_and_has_no_others() -> None:
    checked = load("demo")
    for group in (checked.mount, checked.cache, checked.dataset_options):
        with pytest.raises(AttributeError):
            group.umask = 1  # type: ignore[union-attr, misc]
        with pytest.raises(TypeError, match="nonsense"):
            type(group)(nonsense=1)


def test_the_values_of_a_group_are_told_by_name_and_make_one_text_whichever_way_they_were_given() -> None:
    said = [load("demo", text).dataset_options for text in ("views=v1+e1,videos=all", "videos=all,views=v1+e1")]
    assert as_dict(said[0]) == {"views": ("v1", "e1"), "videos": ("all",), "videos_file": None}
    texts = {json.dumps(as_dict(options), sort_keys=True) for options in said}
    assert texts == {'{"videos": ["all"], "videos_file": null, "views": ["v1", "e1"]}'}


def test_a_path_of_a_source_that_the_dataset_chooses_is_that_of_this_working_directory(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked = load("assembly101", "token_file=my.token,endpoint_url=http://127.0.0.1:1")
    assert checked.url is None
    assert checked.source_options == {"token_file": tmp_path / "my.token", "endpoint_url": "http://127.0.0.1:1"}


# -- through the command line: one line, status 1, nothing mounted, nothing made

REAL = [
    (["{f}/type.toml"], "{f}/type.toml: option uid=[5]: write a whole number"),
    (["{f}/twice.toml"], "{f}/twice.toml: not TOML: Cannot overwrite a value (at line 3, column 13)"),
    (["{f}/folder.toml"], "{f}/folder.toml: is a folder: give a file with options in TOML"),
    (["{f}/large.toml"], "{f}/large.toml: larger than 1 MiB: that is no file of options"),
    (["{f}/deep.toml"], "{f}/deep.toml: nested too deeply: options stand at the top of the file"),
    (["{f}/nul.toml"], "{f}/nul.toml: not TOML: Expected newline or end of document after a statement (at line 1"),
    (["{f}/latin.toml"], "{f}/latin.toml: not TOML, which is in UTF-8: line 2 has a byte that is not"),
    (
        ["{f}/secret.toml"],
        "{f}/secret.toml: option 'aws_secret_access_key' would be a secret that everybody can see: keys of",
    ),
    (["demo", "-o", "views=e1,views=v1"], "option 'views' is given twice, as 'e1' and as 'v1': give it once"),
    (["demo", "-o", "views=e1", "-o", "views=v1"], "option 'views' is given twice, as 'e1' and as 'v1': give it once"),
    (["demo", "-o", "views=e1", "--views", "v1"], "option 'views' is given twice, as 'e1' and as 'v1': give it once"),
    (["demo", "-o", "version=v2"], "option 'version' belongs to dataset ego4d, not to demo"),
    (["s3://b", "-o", "netrc=x"], "option 'netrc' belongs to source http, not to source s3"),
    (
        ["demo", "-o", "token=s3cr3t"],
        "option 'token' would be a secret that everybody can see: a token stands in a file",
    ),
    (["s3://b", "--aws-secret-access-key", "s3cr3t"], "option 'aws_secret_access_key' would be a secret"),
    (["https://user:s3cr3t@127.0.0.1/"], "SOURCE has a secret in its URL, which everybody can see"),
    (["demo", "--endpoint-url=http://s3cr3t@h"], "option 'endpoint_url' has a secret in its URL"),
    (["demo", "-o", "=x"], "an option without a name"),
    (["demo", "-o", "a\x1b[31m\n=1"], "no option is called 'a\\x1b[31m\\n': `egofs options` lists all there are"),
    (["demo", "-o", b"\xff=1"], "no option is called '\\udcff'"),
    (["demo", "--frames=perhaps"], "option frames='perhaps': write true or false"),
]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name, content in {
        "type": b'dataset = "demo"\nuid = [5]\n',
        "twice": b'dataset = "demo"\nviews = "e1"\nviews = "v1"\n',
        "deep": b"a = " + b"[" * 100_000,
        "nul": b'dataset = "demo"\0',
        "latin": b'dataset = "demo"\n# \xe9\n',
        "secret": b'source = "s3://b"\naws_secret_access_key = "s3cr3t"\n',
    }.items():
        (folder / f"{name}.toml").write_bytes(content)
    (folder / "folder.toml").mkdir()
    with (folder / "large.toml").open("wb") as large:
        large.truncate(100 << 20)
    return folder


@pytest.mark.parametrize(("words", "says"), REAL, ids=[says[:40] for _, says in REAL])
def test_what_cannot_be_used_is_one_line_and_status_1_and_nothing_is_mounted(
    tmp_path: Path, bad_files: Path, words: list[str | bytes], says: str
) -> None:
    (tmp_path / "m").mkdir()
    source, *rest = [os.fsdecode(word).replace("{f}", str(bad_files)) for word in words]
    done = egofs("mount", source, tmp_path / "m", *rest, "-o", f"cache_dir={tmp_path / 'c'}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"egofs: {says.replace('{f}', str(bad_files))}")
    assert done.stderr.removesuffix("\n").isprintable()
    assert "s3cr3t" not in done.stderr
    assert not (tmp_path / "c").exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('dataset = "demo"\n')
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read every file")
    done = egofs("mount", file, tmp_path)
    assert (done.returncode, done.stderr) == (1, f"egofs: {file}: Permission denied\n")


def test_the_helper_of_mount_refuses_in_the_same_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from mountd.helper import main; main()", "demo", str(tmp_path), "-f"]
    for text, says in {
        "rw,ro,views=e1,views=v1": "option 'views' is given twice",
        "rw,token=s3cr3t": "'token' would",
    }.items():
        done = subprocess.run([*command, "-o", text], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert says in done.stderr
        assert "s3cr3t" not in done.stderr
    done = subprocess.run([*command, "-o", "rw,ro,noexec,nosuid,_netdev,user,user"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
