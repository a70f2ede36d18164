"""`headrace export`: write records as training data."""

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import (
    CapturedBefore,
    CapturedFrom,
    Json,
    Kinds,
    SiteNames,
    SourceIds,
    microseconds,
    selection,
    sorted_values,
    time_option,
)
from headrace.cli.output import print_json, say
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.limits import MIB

if TYPE_CHECKING:
    from headrace.batch.export.manifest import ExportResult, Shard

_FAILED_SHOWN_MAX = 20


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


@needs("service")
def export(
    format_: Annotated[str, typer.Argument(metavar="FORMAT", help="webdataset, parquet or jsonl.")],
    target: Annotated[str, typer.Argument(help="A directory, or a store prefix such as s3://bucket/prefix.")],
    *,
    kind: Kinds = None,
    site: SiteNames = None,
    source: SourceIds = None,
    start: CapturedFrom = None,
    end: CapturedBefore = None,
    until: Annotated[
        datetime | None, time_option("--until", "Only records ingested before this time (default: now).")
    ] = (None),
    label: Annotated[list[str] | None, typer.Option(help="Only records with this label; may be repeated.")] = None,
    labelled: Annotated[
        str | None,
        typer.Option(help="Only records labelled by this version of `headrace label`; --label then refers to it."),
    ] = None,
    quality: Annotated[
        str | None, typer.Option(help="Only frames within these bounds: sharpness>=50,dark_share<=0.4.")
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the samples in the validation split.")
    ] = 0.1,
    shard_mib: Annotated[int, typer.Option(min=1, max=16_384, help="Maximum size of a shard in MiB.")] = 256,
    shard_samples: Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum samples in a shard.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Write records and their bytes as shards with a manifest; run it again to resume."""
    import asyncio

    from headrace.batch.export.request import ExportRequest, parse_bounds
    from headrace.batch.export.run import export as write
    from headrace.store.catalog.exports import ExportSelection

    request = ExportRequest(
        format=_parsed_format(format_),
        wanted=ExportSelection(until_us=0, **selection(kind, site, source, start, end), labelled=labelled),
        labels=sorted_values(label),
        quality=parse_bounds(quality) if quality else (),
        validation_share=validation,
        shard_bytes_max=shard_mib * MIB,
        shard_samples_max=shard_samples,
    )
    result = asyncio.run(write(client_settings(), request, target, until_us=microseconds(until), progress=_say_shard))
    _show(result, target, as_json=as_json)
    if result.failed:
        raise typer.Exit(Exit.FAILED)


def _say_shard(shard: "Shard") -> None:
    say(f"{shard.name}: {shard.samples} samples, {shard.size_bytes} bytes")


def _show(result: "ExportResult", target: str, *, as_json: bool) -> None:
    shard_count = sum(len(shards) for shards in result.splits.values())
    for record, code in sorted(result.failed.items())[:_FAILED_SHOWN_MAX]:
        say(f"not exported: {record}: {code}")
    if result.failed:
        counted = ", ".join(f"{code} {number}" for code, number in Counter(result.failed.values()).most_common())
        say(f"{len(result.failed)} records not exported, listed in the manifest: {counted}")
        if "blob_archived" in result.failed.values():
            say("run `headrace restore` for archived bodies, then export to another target")
    until = datetime.fromtimestamp(result.until_us / 1_000_000, UTC).isoformat()
    summary = f"{result.samples} samples in {shard_count} shards, ingested before {until}"
    if result.samples or result.failed:
        say(f"{summary}; {f'{result.written} shards written now' if result.written else 'all were already written'}")
    else:
        say(f"no record ingested before {until} matches; `headrace ls` lists all records")
    if as_json:
        splits: dict[str, Any] = {name: [asdict(shard) for shard in shards] for name, shards in result.splits.items()}
        print_json(
            {
                "target": target,
                "samples": result.samples,
                "shards": shard_count,
                "written": result.written,
                "until_us": result.until_us,
                "failed": result.failed,
                "splits": splits,
            }
        )


def _parsed_format(text: str) -> Any:
    from headrace.batch.export.request import ExportFormat

    if text not in set(ExportFormat):
        raise HeadraceError(
            "format_unknown",
            f"{text!r} is not an export format",
            hint=f"one of: {', '.join(ExportFormat)}",
            exit_code=Exit.USAGE,
        )
    return ExportFormat(text)
