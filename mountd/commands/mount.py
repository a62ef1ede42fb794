"""`egofs mount`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from mountd import shown

_EPILOG = """\b
  egofs mount demo ~/demo                           no account, no network
  egofs mount /data/videos ~/v                      any folder
  egofs mount s3://bucket/prefix ~/data -o anonymous
  egofs mount assembly101 ~/a101 -o source=s3://bucket/a101,views=egocentric
  egofs mount lab.toml /mnt/lab                     a file that says what, and all options
"""
_HAS_FLAGS = "egofs.has_flags"


class _MountCommand(click.Command):
    """`egofs mount`, with a flag for each option there is; made when one is given, since it loads all datasets."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As ever; sees first whether there are flags."""
        ctx.meta[_HAS_FLAGS] = any(argument.startswith("--") for argument in args)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options written out above the command, and the flags where there are any, or nobody knows yet."""
        flags = _option_flags() if ctx.meta.get(_HAS_FLAGS, True) else ()
        return [*super().get_params(ctx), *flags]


def _option_flags() -> Iterator[click.Option]:
    from mountd import config

    for name, told in config.all_options().items():
        flag = "--" + name.replace("_", "-")
        owners: dict[str, list[str]] = {}
        for owner, field in told.items():
            owners.setdefault(field.description, []).append(owner)
        text = "; ".join(f"{description} [{', '.join(each)}]" for description, each in owners.items())
        # A flag's text is parsed where that of `-o` is: None means that it was not given.
        if all(field.annotation is bool for field in told.values()):
            yield click.Option([f"{flag}/--no-{flag[2:]}", name], default=None, help=text)
        else:
            yield click.Option([flag, name], default=None, metavar="VALUE", help=text)


@click.command("mount", cls=_MountCommand, epilog=_EPILOG)
@click.argument("what", metavar="SOURCE")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-o", "texts", multiple=True, metavar="NAME=VALUE,…", help="Mount options, as mount(8) takes them.")
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground and log to the terminal.")
@click.option("-v", "verbose", is_flag=True, help="Say what is done.")
def command(what: str, directory: Path, texts: tuple[str, ...], foreground: bool, verbose: bool, **flags: Any) -> None:
    """Mounts SOURCE (a dataset, a URL, a folder or a .toml file) on DIRECTORY; returns when the tree answers."""
    from mountd import config, daemon

    options = [option for text in texts for option in config.parse_o(text)]
    options += [(name, value) for name, value in flags.items() if value is not None]
    daemon.start(what, directory, options, shown.say, foreground=foreground)
    if verbose:
        click.echo(f"{what} is mounted on {directory}")
