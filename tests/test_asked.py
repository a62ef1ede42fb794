"""Which mount a word of the command line means, without mounting anything."""

from pathlib import Path

import pytest

from mountd import asked, mounts
from vfs.errors import OptionError


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders that stand for mounts: `one`, and `one/in` mounted within it; `link` leads into it."""
    for name in ("one/a/b", "one/in/c", "two"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one/a/x.mp4").touch()
    (tmp_path / "one/a/y.mp4").symlink_to("x.mp4")
    (tmp_path / "link").symlink_to("one")
    (tmp_path / "deep").symlink_to("link/a")
    there = [mounts.Mount(tmp_path / name, name, mounts.FSTYPE, "0:1") for name in ("one", "one/in")]
    monkeypatch.setattr(mounts, "egofs_mounts", lambda: there)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*words: str | Path) -> dict[str, list[str]]:
    return {mount.source: paths for mount, paths in asked.by_mount(map(str, words)).items()}


def test_paths_are_found_absolute_relative_and_through_links_from_outside(places: Path) -> None:
    for word in (places / "one/a", "one/a", "link/a", "deep", "./one//a", "two/../one/a", "one/a/b/.."):
        assert found(word) == {"one": ["a"]}, word
    for word in ("one", "link", "link/", "one/.", "one/a/.."):
        assert found(word) == {"one": [""]}, word
    assert found("one/a/", "deep/") == {"one": ["a/", "a/"]}
    assert found("one/nothing", "link/no/thing") == {"one": ["nothing", "no/thing"]}
    assert found("one/a/y.mp4") == {"one": ["a/y.mp4"]}, "links within a mount are its daemon's"


def test_the_innermost_mount_has_a_path(places: Path) -> None:
    assert found("one/in/c", "one/a", "one/in") == {"one/in": ["c", ""], "one": ["a"]}


def test_patterns_are_expanded_unless_something_is_called_so(places: Path) -> None:
    assert sorted(found("one/a/*.mp4")["one"]) == ["a/x.mp4", "a/y.mp4"]
    (places / "one/[a]").touch()
    assert found("one/[a]") == {"one": ["[a]"]}
    with pytest.raises(OptionError, match="matches nothing"):
        found("one/z*")


def test_lists_have_a_path_a_line_whatever_its_bytes(places: Path) -> None:
    (places / "list").write_bytes(b"one/a\r\n\n  one/b\n" + str(places / "one/c\xff").encode() + b"\n#one\n")
    with pytest.raises(OptionError, match="  one/b: not in a mount"):
        found("@list")
    (places / "list").write_bytes(b"one/a\none/\xff[*\n")
    assert found("@list") == {"one": ["a", "\udcff[*"]}


def test_a_list_of_a_mounts_own_paths_is_of_the_only_mount(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (places / "list").write_text("r/1/e1.mp4\n./r/2\n")
    with pytest.raises(OptionError, match=r"r/1/e1\.mp4: not in a mount"):
        found("@list")
    only = mounts.egofs_mounts()[:1]
    monkeypatch.setattr(mounts, "egofs_mounts", lambda: only)
    assert found("@list") == {"one": ["r/1/e1.mp4", "r/2"]}
    with pytest.raises(OptionError):
        found("r/1/e1.mp4")


@pytest.mark.parametrize("word", ["/", "two", "two/x", "@two", "@none", "one/a\0b", ""])
def test_what_is_in_no_mount_is_refused(places: Path, word: str) -> None:
    with pytest.raises(OptionError):
        found(word)
