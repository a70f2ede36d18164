"""`headrace label`: run labelling functions on records and keep their labels for exports."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.environment import client_settings, needs
from headrace.cli.options import CapturedBefore, CapturedFrom, Json, Kinds, SiteNames, SourceIds, selection
from headrace.cli.output import print_json, print_table, say
from headrace.runtime.errors import Exit

if TYPE_CHECKING:
    from headrace.batch.labels.run import LabelResult

_PROGRESS_EVERY_RECORDS = 10_000
_LABELS_SHOWN_MAX = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(label)


@needs("service")
def label(
    *,
    module: Annotated[
        Path,
        typer.Option(
            "--with", metavar="MODULE.PY", help="Module with the labelling functions; they run with your permissions."
        ),
    ],
    version: Annotated[
        str | None, typer.Option(help="Name of this set of labels. [default: a digest of the module source]")
    ] = None,
    kind: Kinds = None,
    site: SiteNames = None,
    source: SourceIds = None,
    start: CapturedFrom = None,
    end: CapturedBefore = None,
    as_json: Json = False,
) -> None:
    """Label records by majority vote; run it again to label the records that the version has not seen."""
    from headrace.batch.labels.functions import load_module
    from headrace.batch.labels.run import LabelRequest
    from headrace.batch.labels.run import label as run
    from headrace.store.catalog.exports import ExportSelection

    selected = ExportSelection(until_us=0, **selection(kind, site, source, start, end))
    with redirect_stdout(sys.stderr):  # standard output is for data, so functions print to standard error
        request = LabelRequest(load_module(module), selected, version)
        result = run(client_settings(), request, progress=_Progress(), explain=say)
    _show(result, as_json=as_json)
    if result.tally.errors:
        raise typer.Exit(Exit.FAILED)


class _Progress:
    """Prints the number of labelled records from time to time."""

    def __init__(self) -> None:
        self._next = _PROGRESS_EVERY_RECORDS

    def __call__(self, records: int) -> None:
        if records >= self._next:
            say(f"{records} records labelled")
            self._next = records + _PROGRESS_EVERY_RECORDS


def _show(result: "LabelResult", *, as_json: bool) -> None:
    tally = result.tally
    functions = [_function(result, name) for name in tally.functions]
    if as_json:
        print_json(
            {
                "version": result.version,
                "records": tally.records,
                "added": result.added,
                "unlabelled": tally.unlabelled,
                "ties": tally.ties,
                "errors": tally.errors,
                "labels": dict(tally.labels.most_common()),
                "functions": functions,
            }
        )
    else:
        print_table(
            ("function", "coverage", "overlap", "conflict", "labels", "errors"),
            [
                (
                    function["name"],
                    f"{function['coverage']:.1%}",
                    f"{function['overlap']:.1%}",
                    f"{function['conflict']:.1%}",
                    _counted(function["labels"]),
                    _counted(function["errors"]),
                )
                for function in functions
            ],
        )
    for record, name, error in tally.failures:
        say(f"no vote: {name} on {record}: {error}")
    labels = _counted(dict(tally.labels.most_common())) or "no label"
    say(
        f"version {result.version}: {tally.records} records, {result.added} of them now; {labels}; "
        f"{tally.unlabelled} without a vote, {tally.ties} ties, {tally.errors} errors"
    )


def _function(result: "LabelResult", name: str) -> dict[str, Any]:
    tally, votes = result.tally, result.tally.functions[name]
    return {
        "name": name,
        "coverage": tally.share(votes.voted),
        "overlap": tally.share(votes.overlapped),
        "conflict": tally.share(votes.conflicted),
        "labels": dict(votes.labels.most_common()),
        "errors": dict(votes.errors.most_common()),
    }


def _counted(numbers: dict[str, int]) -> str:
    shown = [f"{name or 'others'} {number}" for name, number in [*numbers.items()][:_LABELS_SHOWN_MAX]]
    more = len(numbers) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown)
