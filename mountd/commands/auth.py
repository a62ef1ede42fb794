"""`egofs auth`."""

from pathlib import Path

import click

_EPILOG = """\b
  egofs auth gdrive                     in a browser on this machine
  egofs auth gdrive --no-browser        in one elsewhere
  egofs auth gdrive --check             whose they are, and whether they work
"""


@click.group("auth", epilog=_EPILOG)
def command() -> None:
    """Makes the credentials that a store wants, once."""


@command.command("gdrive")
@click.option("--client-secrets", type=click.Path(path_type=Path), help="Who asks: client_secrets.json of Google.")
@click.option("--credentials", type=click.Path(path_type=Path), help="What is written: credentials.json.")
@click.option("--no-browser", is_flag=True, help="Show the address, and take the one that a browser elsewhere ends at.")
@click.option("--check", is_flag=True, help="Write nothing; say whose the credentials are, and whether they work.")
@click.option("--endpoint-url", default="", hidden=True)
def _auth_gdrive(
    client_secrets: Path | None, credentials: Path | None, no_browser: bool, check: bool, endpoint_url: str
) -> None:
    """Asks Google, in a browser, whether egofs may read your Drive; writes credentials.json, for you alone to read.

    The files are those of the current folder, or of ~/.config/egofs/gdrive. A machine without a browser is given the
    credentials.json that was made on another, or uses --no-browser.
    """
    from mountd import auth

    files = auth.files(client_secrets, credentials)
    if check:
        click.echo(auth.checked(files, endpoint_url))
    elif no_browser:
        click.echo(auth.with_pasted_address(files, click.echo, lambda text: str(click.prompt(text, prompt_suffix=" "))))
    else:
        click.echo(auth.with_browser(files, click.echo))
