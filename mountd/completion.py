"""What a shell completes: SOURCE, options, folders and mount points; and the scripts that have a shell ask.

Click asks, in a process of its own for each Tab: `begin` before it does. Commands name these functions in their
arguments (`shell_complete=completion.mount_points`). Whatever is slow to import is imported by who needs it.

A shell's script runs `_EGOFS_COMPLETE=SHELL_complete egofs` with the words so far in its environment (click's
documentation, "Shell Completion"). For bash it is ours: bash splits words at `=` and `:` too (COMP_WORDBREAKS in
bash(1)), and what is completed is then what stands behind the last of them.
"""

import os
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from vfs.options import Option

    Items = list[CompletionItem[str]]

VARIABLE = "_EGOFS_COMPLETE"
# What bash would take for something else than a part of a word; it has file names quoted by itself.
_SPECIAL, _BEHIND = re.compile(r"([\s\\'\"`$&;|<>(){}*?!#~\[\]])"), r"\\\1"
SHELLS = ("bash", "zsh", "fish")

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' type value
    COMPREPLY=()
    while IFS=',' read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value != *[=/+] ]] || compopt -o nospace
                ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


def begin() -> None:
    """Makes click answer for bash as the script here asks."""
    from click.shell_completion import BashComplete, add_completion_class, split_arg_string

    class Bash(BashComplete):
        source_template = _BASH

        @staticmethod
        def _check_version() -> None:
            """Bash is asked by nobody: who loads the script has it."""

        def get_completion_args(self) -> tuple[list[str], str]:
            """The words before the one at the cursor, and that word, as the command would have them."""
            line = os.environ.get("COMP_LINE", "")
            words = split_arg_string(line)[1:]
            return (words, "") if not words or line[-1:].isspace() else (words[:-1], words[-1])

        def format_completion(self, item: "CompletionItem[str]") -> str:
            """The part of a value that bash does not have yet as a word of its own."""
            word = self.get_completion_args()[1]
            before = word[: max(word.rfind(each) + 1 for each in "=:")]
            return f"{item.type},{_SPECIAL.sub(_BEHIND, str(item.value).removeprefix(before))}"

    add_completion_class(Bash)


def script(main: click.Command, shell: str) -> str:
    """What the shell is to read once, to complete `egofs`."""
    from click.shell_completion import get_completion_class

    begin()
    asked = get_completion_class(shell)
    assert asked is not None, "click has these shells"
    return asked(main, {}, "egofs", VARIABLE).source()


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> "Items":
    """Datasets and schemes, or files where a path was begun."""
    from vfs import datasets
    from vfs import sources as stores

    names = [name.replace("_", "-") for name in datasets.names() if name != "plain"]
    names += [f"{name}://" for name in stores.names() if name not in ("local", "http")] + ["https://"]
    return _beginning(incomplete, names) or _files("file", incomplete)


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> "Items":
    """Folders, as the shell finds them."""
    return _files("dir", incomplete)


def mount_points(ctx: click.Context, param: click.Parameter, incomplete: str) -> "Items":
    """Where egofs is mounted."""
    from mountd import mounts

    return _beginning(incomplete, [str(mount.mountpoint) for mount in mounts.egofs_mounts()])


def options(ctx: click.Context, param: click.Parameter, incomplete: str) -> "Items":
    """What may stand behind `-o`: names, and the values of the last one where these are few."""
    from mountd import config

    before, comma, last = incomplete.rpartition(",")
    name, equals, value = last.partition("=")
    known = {name: next(iter(told.values())) for name, told in config.all_options().items()}
    if not equals:
        names = [each if told.annotation is bool else f"{each}=" for each, told in known.items()]
        return _beginning(incomplete, [before + comma + each for each in names])
    found = values(known[name], ctx, param, value) if name in known else []
    return [_item(f"{before}{comma}{name}={each.value}") if each.type == "plain" else each for each in found]


def values(told: "Option", ctx: click.Context, param: click.Parameter, incomplete: str) -> "Items":
    """The values of an option."""
    if told.is_path:
        return _files("file", incomplete)
    return _beginning(incomplete, ["true", "false"] if told.annotation is bool else list(told.choices))


def _beginning(incomplete: str, texts: list[str]) -> "Items":
    return [_item(text) for text in texts if text.startswith(incomplete)]


def _files(kind: str, incomplete: str) -> "Items":
    return [_item(incomplete, type=kind)]


def _item(text: str, **more: Any) -> "CompletionItem[str]":
    from click.shell_completion import CompletionItem

    return CompletionItem(re.sub(r"[\r\n]", "?", text), **more)
