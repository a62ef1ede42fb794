"""Each option means the same in a TOML file, behind `-o` and as a flag, whatever is written there.

Of every option there is, texts and values of its type are given in all ways: either all make one Config, or all refuse
with one line, which differs in the place that it names. No option is named here, so that a new one is tried too.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mountd import config, daemon
from mountd.commands import mount
from vfs.errors import OptionError
from vfs.options import Option, as_dict, described

HOMES = {"gdrive": "gdrive://x", "hf": "hf://datasets/a/b", "http": "https://host/x", "s3": "s3://b", "local": "/"}
# What is right for some option or other, and what is nearly right.
TEXTS = [
    *(
        "5",
        "0",
        "-1",
        "1.5",
        "50G",
        "0027",
        "true",
        "no",
        "maybe",
        "",
        " ",
        "a,b",
        "a+b",
        r"a\,b",
        "a=b",
        "-x",
        "--",
        "a b",
    ),
    *(
        "all",
        "plain",
        "ego",
        "v1",
        "v1+e4",
        "v2_1",
        "v2.1",
        "400+k600",
        "cmu",
        "train+val",
        "auto",
        "json",
        "file",
        "path",
        "manifest",
    ),
    *(
        "s3://b/c/",
        "/x",
        "./x",
        "~/x",
        "../x",
        "0A1b2C3d4E5f6A7b8",
        "00000000-0000-0000-0000-00000000000a",
        "é\n\x7f",
        "٥",
    ),
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def homes() -> Iterator[tuple[str, str, str, Option]]:
    """Every option that a mount can have: what names the home, a home, the option's name, and what is told of it."""
    for owner, group in config.groups():
        kind, _, name = owner.partition(" ")
        for option, told in described(group).items():
            if kind == "source" and name == "youtube":
                yield f"{name}-{option}", "kinetics", option, told  # nothing else can be mounted from there
            else:
                yield (
                    f"{name}-{option}",
                    HOMES[name] if kind == "source" else name if kind == "dataset" else "demo",
                    option,
                    told,
                )


OPTIONS = list(homes())
each_option = pytest.mark.parametrize(
    ("home", "name", "told"), [row[1:] for row in OPTIONS], ids=[row[0] for row in OPTIONS]
)


def toml(value: Any) -> str:
    """A value as a TOML file has it."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    escaped = re.sub(r'[\x00-\x1f\x7f"\\]', lambda found: f"\\u{ord(found[0]):04x}", value)
    return f'"{escaped}"'


class Ways:
    """One option of one home, given in each way there is."""

    def __init__(self, folder: Path, home: str, name: str) -> None:
        self.file = folder / "x.toml"
        self.home, self.name = home, name
        self.more = (
            {"source": "youtube://"} if home == "kinetics" and name in ("height", "interval", "cookies_file") else {}
        )
        if name == "dataset":
            self.home = "s3://b"

    def by_file(self, value: Any) -> Any:
        """The file that says what to mount has the option too. It stands in the working directory."""
        home = {"source" if "/" in self.home else "dataset": self.home}
        self.file.write_text(
            "".join(f"{key} = {toml(each)}\n" for key, each in {**home, **self.more, self.name: value}.items())
        )
        return self.outcome(str(self.file), [])

    def by_o(self, text: str) -> Any:
        escaped = text.replace(",", r"\,")
        return self.outcome(self.home, [*self.more.items(), *config.parse_o(f"{self.name}={escaped}")])

    def by_flag(self, text: str) -> Any:
        options, others = mount._options_in([f"--{self.name.replace('_', '-')}={text}", self.home])
        assert others == [self.home]
        return self.outcome(self.home, [*self.more.items(), *options])

    def by_flag_and_word(self, text: str) -> Any:
        options, others = mount._options_in([self.home, f"--{self.name.replace('_', '-')}", text])
        assert others == [self.home]
        return self.outcome(self.home, [*self.more.items(), *options])

    def outcome(self, source: str, options: list[tuple[str, str | bool]]) -> Any:
        """What is compared: a Config, or the line that refuses one."""
        try:
            made = config.load(source, options)
            # A file is called by its own name, whatever it says.
            made = replace(made, name=self.home if source.endswith(".toml") else made.name)
        except OptionError as failure:
            said = str(failure).removeprefix(f"{self.file}: ")
            assert said.isprintable()
            assert len(said) < 700
            return said
        if self.name != "dataset":
            return made
        # Which of the two that say what is mounted stands for SOURCE is the one difference that there has to be.
        return replace(made, name="", mount=as_dict(made.mount) | {"source": None, "dataset": None})  # type: ignore[arg-type]


@each_option
def test_a_text_means_the_same_in_all_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, name: str, told: Option
) -> None:
    monkeypatch.chdir(tmp_path)
    ways = Ways(tmp_path, home, name)
    taken = []

    def agree(text: str) -> None:
        if text.endswith("\\"):
            return  # behind -o it would take the comma to itself
        expected = ways.by_file(text)
        assert ways.by_o(text) == expected
        assert ways.by_flag(text) == expected
        if told.annotation is not bool:
            assert ways.by_flag_and_word(text) == expected
        taken.append(not isinstance(expected, str))

    for text in (*TEXTS, *told.choices):
        agree(text)
    settings(max_examples=12, deadline=None, database=None)(given(TEXT)(agree))()
    assert any(taken), "no text is right for it: TEXTS needs one"


def native(told: Option) -> st.SearchStrategy[tuple[Any, str]] | None:
    """Values that TOML has a type for, and each as a text."""
    annotation = str(told.annotation)
    if told.annotation is bool:
        return st.booleans().map(lambda value: (value, str(value).lower()))
    if told.annotation is int:
        return st.integers().map(lambda value: (value, str(value)))
    if "float" in annotation:
        return st.one_of(st.floats(), st.integers(-5, 5)).map(lambda value: (value, repr(value)))
    if annotation.startswith("tuple"):
        words = st.one_of(TEXT, st.sampled_from(TEXTS)).filter(lambda word: not word.endswith("\\"))
        lists = st.lists(words, min_size=1, max_size=4)
        return lists.map(lambda items: (items, "+".join(item.replace("+", r"\+") for item in items)))
    return None


@each_option
def test_a_value_of_its_own_type_means_the_same_as_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, name: str, told: Option
) -> None:
    values = native(told)
    if values is None or name == "umask":  # in TOML 27 is not 0027: only a text is taken
        return
    monkeypatch.chdir(tmp_path)
    ways = Ways(tmp_path, home, name)

    def agree(pair: tuple[Any, str]) -> None:
        value, text = pair
        by_file, by_o, by_flag = ways.by_file(value), ways.by_o(text), ways.by_flag(text)
        assert by_o == by_flag
        if isinstance(by_file, str) and isinstance(value, int | float):
            assert re.sub("=.*?: ", "=: ", by_file) == re.sub("=.*?: ", "=: ", by_o)  # 5 and '5'
        else:
            assert by_file == by_o

    settings(max_examples=20, deadline=None, database=None)(given(values)(agree))()


@each_option
def test_the_command_line_takes_what_the_reader_of_flags_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str, name: str, told: Option
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(daemon, "start", lambda *arguments, **how: started.append(arguments[:3]))
    flag = f"--{name.replace('_', '-')}"
    attempts: list[tuple[list[str], str | bool]] = [([f"{flag}=a,b"], "a,b"), (["-o", f"{name}=a"], "a")]
    if told.annotation is bool:
        attempts += [([flag], True), ([f"--no-{flag[2:]}"], "false")]
    else:
        attempts += [([flag, "-x"], "-x"), ([flag, "--", "-f"], "--")]
    for words, value in attempts:
        done = CliRunner().invoke(mount.command, [*words, home, str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert started.pop() == (home, tmp_path, [(name, value)])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--veiws=e1"], "No such option"),
        (["--views"], "requires an argument"),
        (["--no-views"], "No such option"),
        (["--frames=perhaps"], "option frames='perhaps': write true or false"),
        (["--views=e1", "-o", "views=v1"], "option 'views' is given twice"),
        (["--frames", "--no-frames"], "option 'frames' is given twice, as true and as 'false'"),
        (["--views", "e1", "--views", "v1"], "option 'views' is given twice"),
        (["--token", "s3cr3t"], "option 'token' would be a secret"),
        (["--aws-secret-access-key=s3cr3t"], "option 'aws_secret_access_key' would be a secret"),
    ],
)
def test_a_wrong_flag_is_refused(tmp_path: Path, words: list[str], says: str) -> None:
    done = CliRunner().invoke(mount.command, ["demo", str(tmp_path), *words])
    assert done.exit_code
    said = f"{done.output} {done.exception}"
    assert says in said
    assert "s3cr3t" not in said


def test_all_options_are_tried() -> None:
    assert {name for _, _, name, _ in OPTIONS} == config.all_options().keys()
    assert os.path.isdir(HOMES["local"])
