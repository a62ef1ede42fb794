"""The command line: `egofs COMMAND`, each in a module of mountd.commands that is imported when it is asked for.

A failure is one line on standard error and mount(8)'s exit status. What only a mount needs is imported by it: the other
commands take 100 ms less for that.
"""

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from mountd import commands, completion, process, shown
from vfs.errors import EgofsError

_EPILOG = """\b
Examples:
  egofs mount demo ~/demo                 no account, no network, no server
  ls ~/demo/recordings/*/frames/e4        pictures, decoded when they are read
  egofs mount /data/videos ~/v            any folder
  egofs mount s3://bucket/prefix ~/data -o anonymous
  egofs mount ego4d ~/ego4d -o aws_profile=ego4d,datasets=video_540ss
  egofs mount lab.toml /mnt/lab           a file that says what, and how
  egofs options ego4d                     what can be said behind -o
  egofs status
  egofs umount ~/demo

egofs COMMAND --help tells the rest of each, with examples.
"""

# Commands by what somebody is about, in the order in which they come to it. One that stands nowhere here comes last.
_GROUPS = (
    ("Mount and look", ("mount", "ls", "status", "umount")),
    ("Keep warm", ("warm", "cache", "invalidate")),
    ("Training data", ("stats", "lmdb")),
    ("Look after", ("doctor", "verify")),
    ("Set up", ("options", "auth", "completion", "install", "uninstall")),
)


def _names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


class _Main(click.Group):
    """Finds commands by their modules, and turns failures into one line and a status of mount(8)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the modules."""
        return _names()

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of a module."""
        if name not in _names():
            return None
        command: click.Command = importlib.import_module(f"{commands.__name__}.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called so. Raises UsageError with the nearest for what none is called."""
        names = self.list_commands(ctx)
        if args[0] not in names and not args[0].startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], names, 2)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "egofs --help lists all there are"
            raise click.UsageError(f"no command is called {args[0]!r:.80}: {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in groups, each with its whole first sentence."""
        texts = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                texts[name] = command.get_short_help_str(limit=1000)
        others = texts.keys() - {name for _, names in _GROUPS for name in names}
        for title, names in (*_GROUPS, ("More", sorted(others))):
            if rows := [(name, texts[name]) for name in names if name in texts]:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Runs the command and process."""
        process.begin()
        if completion.VARIABLE in os.environ:
            completion.begin()
        status = 0
        try:
            words = list(sys.argv[1:] if args is None else args)
            if self._is_mount(words):
                from mountd import helper

                helper.mount(words, shown.say, fake_flag=False)
            else:
                # A command's own status, which it sets with Exit; what commands return is None.
                status = super().main(words, **{"prog_name": "egofs", **extra, "standalone_mode": False}) or 0
        except click.exceptions.NoArgsIsHelpError as failure:
            click.echo(failure.format_message())
        except click.ClickException as failure:
            shown.say(" ".join(failure.format_message().split()))
            status = process.USAGE
        except EgofsError as failure:
            shown.say(str(failure))
            status = process.exit_status(failure)
        except (KeyboardInterrupt, click.Abort):
            shown.say("interrupted")
            status = process.INTERRUPTED
        process.leave(status)

    def _is_mount(self, words: Sequence[str]) -> bool:
        """Whether this is `egofs SOURCE DIR -o …`: how mount.fuse3(8) calls the program of a type fuse.egofs."""
        has_options = any(word.startswith("-o") for word in words[2:])
        return has_options and not words[0].startswith("-") and words[0] not in _names()


@click.group(cls=_Main, epilog=_EPILOG)
@click.version_option(package_name="egofs", prog_name="egofs")
def main() -> None:
    """Mounts egocentric-video datasets as plain, read-only directories; frames are decoded when they are opened."""
