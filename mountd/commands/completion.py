"""`egofs completion`."""

import click

from mountd import completion

_EPILOG = """\b
  eval "$(egofs completion bash)"       in ~/.bashrc
  eval "$(egofs completion zsh)"        in ~/.zshrc, after compinit
  egofs completion fish > ~/.config/fish/completions/egofs.fish
"""


@click.command("completion", epilog=_EPILOG)
@click.argument("shell", type=click.Choice(completion.SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Prints what makes a shell complete egofs: commands, options, datasets and mount points."""
    click.echo(completion.script(ctx.find_root().command, shell))
