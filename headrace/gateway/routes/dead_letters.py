"""`/api/v1/deadletters`: list, show and redrive messages that could not be ingested, within the operator's scope."""

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from headrace.batch.redrive import RedrivePublisher, RedriveRun
from headrace.gateway.auth.guard import Operator, audit_refusal
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import BlobsDep, DeadLettersDep, SettingsDep
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.dead_letters import (
    DeadLetterPage,
    DeadLetterWhole,
    RedriveAnswer,
    attempt_fields,
    by_state,
    header_fields,
    letter_fields,
)
from headrace.gateway.queries.known_parameters import OPERATOR_PARAMETERS
from headrace.gateway.queries.parameters import PAGE_ITEMS, Limit, SinceFilter, SiteFilter, SourceFilter, UntilFilter
from headrace.schemas.reject import RejectCode
from headrace.store.catalog.dead_letters import DeadLetters, DeadLetterState, LetterFilters, LetterView
from headrace.store.errors import DeadLetterMissingError

router = APIRouter(prefix="/api/v1/deadletters", tags=["dead letters"], dependencies=[OPERATOR_PARAMETERS])

LetterId = Annotated[str, Path(max_length=64, description="The id of a dead letter, or the first digits of it.")]
_MESSAGES_PER_S = 1000.0
_NO_STORE = {"Cache-Control": "no-store"}


@router.get("", response_model=DeadLetterPage, responses=problem_responses())
async def list_dead_letters(
    request: Request,
    letters: DeadLettersDep,
    principal: Operator,
    code: Annotated[RejectCode | None, Query(description="Why they were refused.")] = None,
    state: Annotated[DeadLetterState | None, Query(description="What became of them.")] = None,
    topic: Annotated[str | None, Query(max_length=249, description="Where they were published.")] = None,
    site: SiteFilter = None,
    source_id: SourceFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: Limit = PAGE_ITEMS,
) -> Response:
    """List dead letters, newest first, with the number of all that match; times are those of the rejection.

    An API key without access to everything names a site that it may read, and a source unless it may read all of it.
    """
    if not _may_read(principal, site, source_id):
        audit_refusal(request, ProblemCode.FORBIDDEN, principal)
        raise Problem(403, ProblemCode.FORBIDDEN, "name a site, or a source, that the API key or token may read")
    filters = LetterFilters(
        code=code, state=state, topic=topic, site=site, source=source_id, since_us=since, until_us=until
    )
    page, counts = await letters.page(filters, limit), await letters.counts(filters)
    shown = {"dead_letters": [letter_fields(letter) for letter in page], "counts": by_state(counts)}
    return JSONResponse(shown, headers=_NO_STORE)


@router.get("/{letter_id}", response_model=DeadLetterWhole, responses=problem_responses(404, 409))
async def show_dead_letter(letters: DeadLettersDep, principal: Operator, letter_id: LetterId) -> Response:
    """Return a dead letter with the headers of its message and its redrives."""
    view = await _letter(letters, principal, letter_id)
    row = (await letters.letters([view.dead_letter_id]))[view.dead_letter_id]
    history = [attempt_fields(attempt) for attempt in await letters.history(view.dead_letter_id)]
    return JSONResponse(letter_fields(view) | {"headers": header_fields(row), "history": history}, headers=_NO_STORE)


@router.get(
    "/{letter_id}/value",
    response_class=Response,
    responses={
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
        **problem_responses(404, 409),
    },
)
async def read_dead_letter(letters: DeadLettersDep, principal: Operator, letter_id: LetterId) -> Response:
    """Return the value of the message as it was, which may be anything."""
    view = await _letter(letters, principal, letter_id)
    row = (await letters.letters([view.dead_letter_id]))[view.dead_letter_id]
    disposition = f'attachment; filename="{view.dead_letter_id}.bin"'
    return Response(
        row.value or b"",
        media_type="application/octet-stream",
        headers={"Content-Disposition": disposition, **_NO_STORE},
    )


@router.post("/{letter_id}/redrive", response_model=RedriveAnswer, responses=problem_responses(404, 409))
async def redrive_dead_letter(
    letters: DeadLettersDep,
    blobs: BlobsDep,
    settings: SettingsDep,
    principal: Operator,
    letter_id: LetterId,
    dry_run: Annotated[bool, Query(description="Only report whether it would be accepted.")] = False,  # noqa: FBT002
) -> Response:
    """Publish the message to its topic again if the current validation accepts it; may be repeated.

    What becomes of it is in its `history`. `headrace dlq redrive` does the same for many.
    """
    view = await _letter(letters, principal, letter_id)
    job = RedriveRun(letters, blobs, now_us=time.time_ns() // 1000, attempts_max=settings.redrive_attempts_max)
    publisher = None if dry_run else RedrivePublisher(settings, _MESSAGES_PER_S)
    result = await job.run(LetterFilters(id=view.dead_letter_id), publisher)
    return JSONResponse(
        {
            "dry_run": dry_run,
            "accepted": result.accepted,
            "published": result.published,
            "refused": dict(result.refused),
            "exhausted": result.exhausted,
        },
        headers=_NO_STORE,
    )


async def _letter(letters: DeadLetters, principal: Principal, wanted: str) -> LetterView:
    """Return a dead letter that the principal may read; one of an unknown source is for those who may read all.

    Raises:
        DeadLetterMissingError: there is none. DeadLetterAmbiguousError.
    """
    view = await letters.letter(wanted)
    is_own = view.site is not None and view.source_id is not None and principal.can_access(view.site, view.source_id)
    if not (principal.can_access_all or is_own):
        raise DeadLetterMissingError(wanted)
    return view


def _may_read(principal: Principal, site: str | None, source_id: str | None) -> bool:
    if principal.can_access_all:
        return True
    if site is None:
        return False
    return f"{site}/*" in principal.sources or (source_id is not None and principal.can_access(site, source_id))
