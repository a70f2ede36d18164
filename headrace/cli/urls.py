"""`headrace ingest-urls`: fetch a list of URLs into the store and the catalog."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import print_json, say, stderr_console
from headrace.runtime.errors import Exit, HeadraceError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ingest-urls")(ingest_urls)


@needs("service")
def ingest_urls(
    file: Annotated[Path, typer.Argument(help="URLs, one per line, or JSON lines with url; '-' reads standard input.")],
    *,
    source: Annotated[str, typer.Option(help="Source id: the data set of the URLs.")] = "urls",
    license_: Annotated[str | None, typer.Option("--license", help="License of the files.")] = None,
    site: Annotated[str, typer.Option(help="Site of the records.")] = "web",
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="URLs fetched concurrently. [default: HEADRACE_URL_WORKERS]")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="State file; URLs that it lists as stored are not fetched again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch URLs of images and videos and store them; print a line of JSON for each, exit 1 if any failed.

    If the store or the catalog is unreachable, the command exits with 3; with --state, run it again to resume.
    """
    from headrace.batch.fetch.client import IngestClient
    from headrace.batch.fetch.errors import CatalogFailedError, StoreFailedError
    from headrace.batch.fetch.items import read_items
    from headrace.batch.fetch.outcome import FetchTally

    tally = FetchTally()
    try:
        opened = nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise HeadraceError(
            "file_unreadable",
            f"the list cannot be read: {error.strerror}",
            where=str(file),
            hint="pass a file with one URL per line",
            exit_code=Exit.USAGE,
        ) from None
    with opened as stream, IngestClient(settings=client_settings(), site=site) as client:
        for outcome in client.ingest_urls(
            read_items(stream),
            license=license_,
            source=source,
            workers=workers,
            state=state,
            progress=stderr_console().is_terminal,
        ):
            tally.add(outcome)
            print_json(outcome.as_dict())
            if isinstance(outcome.error, StoreFailedError | CatalogFailedError):
                raise outcome.error
    failed = tally.as_dict()["failed_by_code"]
    for code, number in failed.items():
        say(f"failed: {number} {code}")
    counts = ", ".join(f"{number} {status.value}" for status, number in tally.by_status.items() if number)
    say(f"{tally.by_status.total()} URLs: {counts or 'none'}")
    if as_json:
        print_json(tally.as_dict())
    if failed:
        raise typer.Exit(Exit.FAILED)
