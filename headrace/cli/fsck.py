"""`headrace fsck`: store, catalog and topics compared, and mended where that can be done."""

from typing import Annotated, Any

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import Json
from headrace.cli.output import print_json, print_table, say
from headrace.runtime.errors import Exit, HeadraceError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(fsck)


@needs("service")
def fsck(
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, and say what cannot.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Read only so many objects, drawn at random. [default: all]")
    ] = None,
    topics: Annotated[bool, typer.Option("--topics", help="Also read what the ingested topics announce.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --repair: remove orphans also where they are many.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find what does not agree between store, catalog and topics; exit 1 if anything is, or stays, wrong."""
    import asyncio

    from headrace.batch.fsck import Finding, FsckOptions, FsckReport, open_and_check
    from headrace.store.blobs.blob_store import Blobs

    if force and not repair:
        raise HeadraceError(
            "option_invalid", "--force says nothing without --repair", hint="add --repair", exit_code=Exit.USAGE
        )
    settings = client_settings()
    options = FsckOptions(repair=repair, force=force, topics=topics, sample=sample)
    report: FsckReport = asyncio.run(open_and_check(settings, Blobs.from_settings(settings), options, say))

    def line(found: Finding) -> dict[str, Any]:
        digest = {"digest": found.digest} if found.digest else {}
        return {"name": found.name, "detail": found.detail, **digest}

    if as_json:
        findings: dict[str, list[dict[str, Any]]] = {}
        for found in report.findings:
            findings.setdefault(found.problem.value, []).append(line(found))
        print_json(
            {
                "clean": report.clean,
                "findings": findings,
                "young": report.young,
                "checked": report.checked,
                "expired": report.expired,
                "removed": report.removed,
                "healed": [{"problem": found.problem.value, **line(found), "how": how} for found, how in report.healed],
                "unhealed": [
                    {"problem": found.problem.value, **line(found), "why": why} for found, why in report.unhealed
                ],
            }
        )
    elif report.findings:
        became = dict([*report.healed, *report.unhealed])
        print_table(
            ("problem", "which", "found", *(["then"] if repair else [])),
            [
                (found.problem, found.name, found.detail, *([became.get(found, "")] if repair else []))
                for found in report.findings
            ],
        )
    for text in _sentences(report, repair=repair):
        say(text)
    if not report.clean:
        raise typer.Exit(Exit.FAILED)


def _sentences(report: Any, *, repair: bool) -> list[str]:
    checked = ", ".join(f"{number} {what}" for what, number in report.checked.items())
    lines = [f"checked: {checked or 'nothing is there'}"]
    if report.young:
        lines.append(f"{len(report.young)} objects without a row are younger than the grace period: left alone")
    if not report.findings:
        lines.append("everything agrees" + ("; nothing to repair" if repair else ""))
    elif repair:
        lines.append(f"{len(report.healed)} of {len(report.findings)} findings are healed")
    else:
        lines.append(f"{len(report.findings)} findings; `headrace fsck --repair` mends what can be mended")
    expired = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in report.expired.items() if number)
    if expired:
        lines.append(f"past their retention: {expired}" + ("; removed" if repair else ""))
    return lines
