"""`egofs status`."""

import time
from typing import Any

import click

from mountd import mounts, shown

_EPILOG = """\b
  egofs status
"""


@click.command("status", epilog=_EPILOG)
def command() -> None:
    """Lists the mounts: what they are, what was read of them and what was fetched."""
    found = mounts.egofs_mounts()
    if not found:
        click.echo("nothing is mounted")
    for mount in found:
        health = mounts.state(mount.mountpoint)
        status = mounts.read_status(mount.mountpoint) if health == "live" else None
        click.echo(f"{mount.mountpoint}  {mount.source}  {health if status is None else _summary(status)}")
        if status and (refusal := status.get("credentials")):
            click.echo(f"  refused {shown.duration(time.time() - refusal['refused_at'])} ago: {refusal['message']}")


def _summary(status: dict[str, Any]) -> str:
    asked, fetched = status["asked"], status["fetched"]
    text = (
        f"pid {status['pid']}, up {shown.duration(time.time() - status['mounted_at'])}, "
        f"read {shown.size(asked['bytes_read'])} in {asked['reads']} reads, "
        f"fetched {shown.size(fetched['bytes_fetched'])} in {fetched['requests']} requests"
    )
    if "cache" in status:
        text += f", cache {shown.size(status['cache']['used_bytes'])} of {shown.size(status['cache']['limit_bytes'])}"
    if asked["failures"]:
        text += f", {asked['failures']} failures (see .egofs/errors.log)"
    return text
