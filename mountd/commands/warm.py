"""`egofs warm`."""

from pathlib import Path

import click


@click.command("warm")
@click.argument("place", required=False, type=click.Path(path_type=Path))
@click.option(
    "--order", "list_file", metavar="FILE", required=True, help="Fetch what FILE (- is stdin) lists, in its order."
)
@click.option("--follow", is_flag=True, help="Stay a little ahead of the job that reads in this order.")
@click.option("--ahead", metavar="SIZE", help="How much to hold ahead of the reader, such as 256M.")
def command(place: Path | None, list_file: str, follow: bool, ahead: str | None) -> None:
    """Fetches what a job will read, in the order in which it will read it."""
    from mountd import ordercall

    ordercall.run(list_file, place, follow=follow, ahead=ahead)
