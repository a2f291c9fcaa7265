"""The command line that the public conformance suite calls: `init`, `refresh`, `download`; 0 says yes, 1 says no."""

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from tuf.api.exceptions import DownloadError, RepositoryError

from conformance import client
from conformance.client import Client
from protocol.errors import FleetliftError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--metadata-dir", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--metadata-url", help="Where the repository's metadata is served, over HTTP.")
@click.option("--target-name", help="The path of the target to download.")
@click.option("--target-base-url", help="Where the repository's targets are served, over HTTP.")
@click.option("--target-dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--now", type=float, help="The time of day in seconds since 1970, where it is not this machine's.")
@click.pass_context
def main(context: click.Context, /, **options: object) -> None:
    """Fleetlift's TUF client, with every byte through a real MQTT broker on this machine."""
    context.obj = options


@main.command()
@click.argument("trusted_root", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def init(options: dict[str, Any], trusted_root: Path) -> None:
    """Trust this root.json from now on."""
    client.init(options["metadata_dir"], trusted_root.read_bytes())


@main.command()
@click.pass_obj
def refresh(options: dict[str, Any]) -> None:
    """Bring the metadata up to date."""
    _client(options).refresh()


@main.command()
@click.pass_obj
def download(options: dict[str, Any]) -> None:
    """Bring the metadata up to date, and fetch a target."""
    name, url = _needed(options, "target_name"), _needed(options, "target_base_url")
    click.echo(_client(options).download(name, url, Path(_needed(options, "target_dir"))))


def _client(options: dict[str, Any]) -> Client:
    now_s = options["now"]
    now = datetime.now(UTC) if now_s is None else datetime.fromtimestamp(now_s, UTC)
    return Client(options["metadata_dir"], _needed(options, "metadata_url"), now)


def _needed(options: dict[str, Any], name: str) -> str:
    value = options[name]
    if not value:
        raise click.UsageError(f"--{name.replace('_', '-')} is needed for this command")
    return str(value)


def run() -> None:
    """Run a command; what fails is said in one sentence."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        main()
    except (FleetliftError, RepositoryError, DownloadError, OSError, ValueError, TypeError, KeyError) as error:
        click.echo(f"{type(error).__name__}: {error.__cause__ or error}"[:500], err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
