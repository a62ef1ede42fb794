"""The command line: `egofs COMMAND`, each in a module of mountd.commands that is imported when it is asked for.

A failure is one line on standard error and mount(8)'s exit status. What only a mount needs is imported by it: the other
commands take 100 ms less for that.
"""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import Any

import click

from mountd import commands, process, shown
from vfs.errors import EgofsError

_EPILOG = """\b
  egofs mount demo ~/demo                           no account, no network
  egofs mount /data/videos ~/v                      any folder
  egofs mount s3://bucket/prefix ~/data -o anonymous
  egofs mount assembly101 ~/a101 -o source=s3://bucket/a101,views=egocentric
  egofs status
  egofs stats ~/a101 -O stats.pkl                   which frames each video has
  egofs lmdb merge e4                               one LMDB of both families' features
  egofs umount ~/demo
"""


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

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Runs the command and process."""
        process.begin()
        status = 0
        try:
            words = list(sys.argv[1:] if args is None else args)
            if self._is_mount(words):
                from mountd import helper

                helper.mount(words, shown.say, fake_flag=False)
            else:
                # A command's own status, which it sets with Exit; what commands return is None.
                status = super().main(words, standalone_mode=False, **extra) or 0
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
