"""`headrace fsck`: compare store, catalog and topics, and repair them."""

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
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired, and report the rest.")] = False,
    sample: Annotated[
        int | None, typer.Option(min=0, help="Read this many objects, chosen at random. [default: all]")
    ] = None,
    topics: Annotated[
        bool, typer.Option("--topics", help="Also read the announcements on the ingested topics.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --repair: remove orphans even if there are many.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find inconsistencies between store, catalog and topics; exit 1 if any remains."""
    import asyncio

    from headrace.batch.fsck.check import FsckOptions, open_and_check
    from headrace.batch.fsck.findings import Finding, FsckReport
    from headrace.store.blobs.blob_store import Blobs

    if force and not repair:
        raise HeadraceError("option_invalid", "--force requires --repair", hint="add --repair", exit_code=Exit.USAGE)
    settings = client_settings()
    options = FsckOptions(repair=repair, force=force, topics=topics, sample=sample)
    report: FsckReport = asyncio.run(open_and_check(settings, Blobs.from_settings(settings), options, say))

    def line(finding: Finding) -> dict[str, Any]:
        digest = {"digest": finding.digest} if finding.digest else {}
        return {"name": finding.name, "detail": finding.detail, **digest}

    if as_json:
        findings: dict[str, list[dict[str, Any]]] = {}
        for finding in report.findings:
            findings.setdefault(finding.problem.value, []).append(line(finding))
        print_json(
            {
                "clean": report.clean,
                "findings": findings,
                "young": report.young,
                "checked": report.checked,
                "expired": report.expired,
                "removed": report.removed,
                "healed": [
                    {"problem": finding.problem.value, **line(finding), "how": how} for finding, how in report.healed
                ],
                "unhealed": [
                    {"problem": finding.problem.value, **line(finding), "why": why} for finding, why in report.unhealed
                ],
            }
        )
    elif report.findings:
        outcomes = dict([*report.healed, *report.unhealed])
        print_table(
            ("problem", "which", "found", *(["then"] if repair else [])),
            [
                (finding.problem, finding.name, finding.detail, *([outcomes.get(finding, "")] if repair else []))
                for finding in report.findings
            ],
        )
    for text in _summary(report, repair=repair):
        say(text)
    if not report.clean:
        raise typer.Exit(Exit.FAILED)


def _summary(report: Any, *, repair: bool) -> list[str]:
    checked = ", ".join(f"{number} {what}" for what, number in report.checked.items())
    lines = [f"checked: {checked or 'nothing'}"]
    if report.young:
        lines.append(f"{len(report.young)} objects without a row are younger than the grace period and ignored")
    if not report.findings:
        lines.append("no inconsistencies" + ("; nothing to repair" if repair else ""))
    elif repair:
        lines.append(f"{len(report.healed)} of {len(report.findings)} findings are repaired")
    else:
        lines.append(f"{len(report.findings)} findings; `headrace fsck --repair` repairs what it can")
    expired = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in report.expired.items() if number)
    if expired:
        lines.append(f"past retention: {expired}" + ("; removed" if repair else ""))
    return lines
