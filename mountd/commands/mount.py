"""`egofs mount`."""

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click

from mountd import completion, shown

_EPILOG = """\b
  egofs mount demo ~/demo                 no account, no network
  egofs mount /data/videos ~/v            any folder
  egofs mount s3://bucket/prefix ~/data -o anonymous
  egofs mount assembly101 ~/a101 -o source=s3://lab/a101,views=egocentric+v3
  egofs mount lab.toml /mnt/lab           a file that says what, and how
  egofs options assembly101               what can be said behind -o, shorter
"""
_HAS_FLAGS = "egofs.has_flags"
_GIVEN = "egofs.given"


class _MountCommand(click.Command):
    """`egofs mount`, with a flag for each option there is; made when one is given, since it loads all datasets.

    What a flag says is taken as if it stood behind `-o`, and read where that is. Click has the flags to explain and to
    complete them, and to say what was meant by one that is none.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As ever, without the flags that are options."""
        has_flags = ctx.resilient_parsing or any(argument.startswith("--") for argument in args)
        ctx.meta[_HAS_FLAGS] = has_flags
        ctx.meta[_GIVEN] = []
        if has_flags and not ctx.resilient_parsing:
            ctx.meta[_GIVEN], args = _options_in(args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options written out above the command, and the flags where there are any, or nobody knows yet."""
        flags = _option_flags() if ctx.meta.get(_HAS_FLAGS, True) else ()
        return [*super().get_params(ctx), *flags]


def _options_in(args: list[str]) -> tuple[list[tuple[str, str | bool]], list[str]]:
    """The flags among arguments that are options, as `-o` would have them, and the other arguments."""
    from mountd import config, secrets
    from vfs.options import Given

    annotations = {name: next(iter(told.values())).annotation for name, told in config.all_options().items()}
    options: list[tuple[str, str | bool]] = []
    others: list[str] = []
    left = iter(args)
    for argument in left:
        flag, equals, value = argument.partition("=")
        name = flag[2:].replace("-", "_")
        if argument == "--":
            others += [argument, *left]
        elif re.fullmatch("-[a-zA-Z]*o", argument):  # what stands behind it may begin with anything
            others += [argument, *islice(left, 1)]
        elif not argument.startswith("--"):
            others.append(argument)
        elif name in annotations and (equals or annotations[name] is bool):
            options.append((name, value if equals else True))
        elif name.startswith("no_") and annotations.get(name[3:]) is bool and not equals:
            options.append((name[3:], "false"))
        elif name in annotations and (following := next(left, None)) is not None:
            options.append((name, following))
        else:
            secrets.refuse(name, Given(value))
            others.append(argument)
    return options, others


def _option_flags() -> Iterator[click.Option]:
    from mountd import config

    for name, told in config.all_options().items():
        flag = "--" + name.replace("_", "-")
        owners: dict[str, list[str]] = {}
        for owner, field in told.items():
            owners.setdefault(field.description, []).append(owner)
        text = "; ".join(f"{description} [{', '.join(each)}]" for description, each in owners.items())
        told_first = next(iter(told.values()))
        if all(field.annotation is bool for field in told.values()):
            yield click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=text)
        else:
            complete = partial(completion.values, told_first)
            yield click.Option([flag, name], default=None, metavar="VALUE", help=text, shell_complete=complete)


@click.command("mount", cls=_MountCommand, epilog=_EPILOG)
@click.argument("what", metavar="SOURCE", shell_complete=completion.sources)
@click.argument("directory", type=Path, shell_complete=completion.folders)
@click.option(
    "-o",
    "texts",
    multiple=True,
    metavar="NAME=VALUE,…",
    help="Mount options, as mount(8) takes them.",
    shell_complete=completion.options,
)
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground and log to the terminal.")
@click.option("-v", "verbose", is_flag=True, help="Say what is done.")
def command(what: str, directory: Path, texts: tuple[str, ...], foreground: bool, verbose: bool, **_: Any) -> None:
    """Mounts SOURCE (a dataset, a URL, a folder or a .toml file) on DIRECTORY; returns when the tree answers."""
    from mountd import config, daemon

    options = [option for text in texts for option in config.parse_o(text)]
    options += click.get_current_context().meta[_GIVEN]
    daemon.start(what, directory, options, shown.say, foreground=foreground)
    if verbose:
        click.echo(f"{what} is mounted on {directory}")
